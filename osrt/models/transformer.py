"""The transformers of SRT's encoder and decoders: layer norm before each branch, none after the last."""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from osrt.models.attention import attend
from osrt.models.linear import AttentionLinear, FeedForwardLinear
from osrt.models.recomputation import again


def split_heads(features: Float[Tensor, "B L he"], num_heads: int) -> Float[Tensor, "B h L e"]:
    return features.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def output_layer(dim: int, num_heads: int, dim_head: int) -> nn.Sequential:
    """From the heads to the tokens; of one head as wide as a token there is none."""
    return (
        nn.Sequential()
        if num_heads == 1 and dim_head == dim
        else nn.Sequential(AttentionLinear(num_heads * dim_head, dim))
    )


class SelfAttention(nn.Module):
    """Tokens look at each other, in `num_heads` heads of `dim_head` features."""

    def __init__(self, dim: int, num_heads: int, dim_head: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = AttentionLinear(dim, 3 * num_heads * dim_head, bias=False)
        self.to_out = output_layer(dim, num_heads, dim_head)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.to_out(attend(*(split_heads(part, self.num_heads) for part in self.to_qkv(tokens).chunk(3, -1))))


class CrossAttention(nn.Module):
    """Tokens look at a set of latents of width `kv_dim`, which are not normalised.

    Where there are few latents, as slots are, no token's query is ever made, with equal numbers: the keys of a scene
    are taken to the space of the tokens, where a token meets those of all heads in one small product, and the values
    through the output layer. What is left to do per token is a twentieth of the usual.
    """

    def __init__(self, dim: int, num_heads: int, dim_head: int, kv_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = AttentionLinear(dim, num_heads * dim_head, bias=False)
        self.to_kv = AttentionLinear(kv_dim, 2 * num_heads * dim_head, bias=False)
        self.to_out = output_layer(dim, num_heads, dim_head)

    def prepare(self, latents: Float[Tensor, "B S Z"]) -> tuple[Tensor, Tensor]:
        """Keys and values by heads (B, h, S, e); of few latents as tokens meet them, (B, h S, D)."""
        keys, values = (split_heads(part, self.num_heads) for part in self.to_kv(latents).chunk(2, dim=-1))
        _, num_heads, num_latents, size = keys.shape
        if not len(self.to_out) or num_heads * num_latents > num_heads * size:
            return keys, values
        ways_in = self.to_q.weight.unflatten(0, (num_heads, size)) * size**-0.5
        ways_out = self.to_out[0].weight.unflatten(1, (num_heads, size)).permute(1, 2, 0)
        return torch.matmul(keys, ways_in).flatten(1, 2), torch.matmul(values, ways_out).flatten(1, 2)

    def forward(self, tokens: Float[Tensor, "B L D"], keys: Tensor, values: Tensor) -> Float[Tensor, "B L D"]:
        """What the tokens find; `keys` and `values` are of `prepare`."""
        if keys.ndim == 4:
            return self.to_out(attend(split_heads(self.to_q(tokens), self.num_heads), keys, values))
        logits = torch.bmm(tokens.to(keys.dtype), keys.transpose(1, 2))
        weights = logits.float().unflatten(2, (self.num_heads, -1)).softmax(dim=-1).flatten(2)
        return torch.bmm(weights.to(values.dtype), values) + self.to_out[0].bias


class FeedForward(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        # At place 2 the original has a dropout of zero.
        parts = {"0": FeedForwardLinear(dim, hidden_dim), "1": nn.GELU(), "3": FeedForwardLinear(hidden_dim, dim)}
        self.net = nn.Sequential(OrderedDict(parts))

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.net(tokens)


class NormalisedBranch(nn.Module):
    """`fn` of the normalised tokens."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, tokens: Float[Tensor, "B L D"], *looked: Tensor) -> Float[Tensor, "B L D"]:
        return self.fn(self.norm(tokens), *looked)


class Block(nn.ModuleList):
    """Attention and feed-forward net, each on a residual branch."""

    def forward(self, tokens: Float[Tensor, "B L D"], *looked: Tensor) -> Float[Tensor, "B L D"]:
        attention, feed_forward = self
        tokens = tokens + attention(tokens, *looked)
        return tokens + feed_forward(tokens)


class Transformer(nn.Module):
    """`depth` blocks of attention and feed-forward net (Vaswani et al. 2017), without dropout.

    Tokens look at each other, or if `kv_dim` is given at latents of that width.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, dim_head: int, mlp_dim: int, kv_dim: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(depth):
            if kv_dim is None:
                attention = SelfAttention(dim, num_heads, dim_head)
            else:
                attention = CrossAttention(dim, num_heads, dim_head, kv_dim)
            branches = attention, FeedForward(dim, mlp_dim)
            self.layers.append(Block(NormalisedBranch(dim, branch) for branch in branches))

    def prepare(self, latents: Float[Tensor, "B S Z"]) -> tuple[Tensor, ...]:
        """What `forward` reads of the latents that tokens look at: two tensors for each block."""
        return tuple(part for attention, _ in self.layers for part in attention.fn.prepare(latents))

    def forward(
        self, tokens: Float[Tensor, "B L D"], looked: tuple[Tensor, ...] = (), checkpointing: bool = False
    ) -> Float[Tensor, "B L D"]:
        """The tokens after the last block.

        looked: of `prepare`; empty if tokens look at each other.
        checkpointing: each block is computed again in the backward pass, which changes no number and saves memory.
        """
        if tokens.dtype in (torch.bfloat16, torch.float16):
            tokens = tokens.float()  # else sums round away what scenes differ in, which is little at the beginning
        each = len(looked) // len(self.layers)
        for i, block in enumerate(self.layers):
            tokens = again(block, tokens, *looked[i * each : (i + 1) * each], when=checkpointing)
        return tokens
