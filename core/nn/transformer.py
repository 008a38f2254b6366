"""Transformer encoders (Vaswani et al. 2017) with the parameter names of PyTorch's."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.nn.transformer_branches import attention_branch, feed_forward_branch


class SelfAttention(nn.Module):
    """Every token looks at every token, in `num_heads` heads; `dropout` acts on what they find and on its weights."""

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

    def forward(
        self, tokens: Float[Tensor, "B L D"], last: int | None = None, is_padding: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """What all tokens find, or the `last` so many alone; none looks at padding."""
        projections = (self.in_proj_weight, self.in_proj_bias, self.out_proj.weight, self.out_proj.bias)
        dropout = self.dropout if self.training else 0.0
        return attention_branch(tokens, *projections, self.num_heads, last or tokens.shape[1], dropout, is_padding)


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a feed-forward net with ReLU, each on a residual branch.

    Layer norm acts on the branch's input if `norm_first`, else on the sum after it.
    """

    def __init__(self, d_model: int, num_heads: int, ffn_dim: int, norm_first: bool, dropout: float):
        super().__init__()
        self.norm_first = norm_first
        self.dropout = dropout
        self.self_attn = SelfAttention(d_model, num_heads, dropout)
        self.linear1 = nn.Linear(d_model, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)

    def forward(
        self, tokens: Float[Tensor, "B L D"], last: int | None = None, is_padding: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """All tokens after the layer, or the `last` so many alone, which see all of them but padding."""
        kept = tokens if last is None else tokens[:, -last:]
        if self.norm_first:
            kept = kept + self.self_attn(self.norm1(tokens), last, is_padding)
            return kept + self._feed_forward(self.norm2(kept))
        kept = self.norm1(kept + self.self_attn(tokens, last, is_padding))
        return self.norm2(kept + self._feed_forward(kept))

    def _feed_forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        layers = (self.linear1.weight, self.linear1.bias, self.linear2.weight, self.linear2.bias)
        return feed_forward_branch(tokens, *layers, self.dropout if self.training else 0.0)


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

    def forward(
        self, tokens: Float[Tensor, "B L D"], last: int | None = None, is_padding: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """All tokens after the last layer, or the `last` so many alone, for which it makes no others.

        No token looks at padding; what becomes of padding itself means nothing.
        """
        *before, final = self.layers
        for layer in before:
            tokens = layer(tokens, is_padding=is_padding)
        return final(tokens, last, is_padding)
