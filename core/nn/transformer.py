"""Transformer encoders (Vaswani et al. 2017) with the parameter names of PyTorch's."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Every token looks at every token, in `num_heads` heads; `dropout` acts on the attention weights."""

    def __init__(self, d_model: int, num_heads: int, dropout: float):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} does not divide into {num_heads} heads of equal size")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * d_model, d_model)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        projected = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        queries, keys, values = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.out_proj(found.transpose(1, 2).flatten(2))


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a feed-forward net with ReLU, each on a residual branch.

    Layer norm acts on the branch's input if `norm_first`, else on the sum after it.
    """

    def __init__(self, d_model: int, num_heads: int, ffn_dim: int, norm_first: bool, dropout: float):
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = SelfAttention(d_model, num_heads, dropout)
        self.linear1 = nn.Linear(d_model, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        if self.norm_first:
            tokens = tokens + self.dropout(self.self_attn(self.norm1(tokens)))
            return tokens + self._feed_forward(self.norm2(tokens))
        tokens = self.norm1(tokens + self.dropout(self.self_attn(tokens)))
        return self.norm2(tokens + self._feed_forward(tokens))

    def _feed_forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.dropout(self.linear2(self.dropout(self.linear1(tokens).relu())))


class TransformerEncoder(nn.Module):
    """Layers that start from the same weights, as nn.TransformerEncoder's do, without a norm after the last."""

    def __init__(
        self,
        d_model: int,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        norm_first: bool = True,
        dropout: float = 0.1,
    ):
        super().__init__()
        layers = [TransformerEncoderLayer(d_model, num_heads, ffn_dim, norm_first, dropout) for _ in range(num_layers)]
        for layer in layers[1:]:
            layer.load_state_dict(layers[0].state_dict())
        self.layers = nn.ModuleList(layers)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens
