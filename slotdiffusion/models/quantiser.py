"""Vector quantisation (van den Oord et al. 2017): every latent vector becomes the nearest of a codebook.

Shapes: N frames of h * w places, P places, D dimensions, V codes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.nn.slot_chunks import FLOATS_IN_CACHE

COMMITMENT = 1.0
CODEBOOK = 0.25
"""Weights of the two terms of the loss; published code has them so, where the paper has them the other way round."""
GPU_DISTANCES = 2**24
"""Distances that a GPU computes at a time; what it has to keep of them is two tensors of that size."""


@torch.no_grad()
def nearest_codes(latents: Float[Tensor, "P D"], codebook: Float[Tensor, "V D"]) -> Int64[Tensor, " P"]:
    """The index of the nearest code for every place; of equally near ones the lowest.

    Distances are sums of squares in the codebook's precision, whatever autocast and TF32 do to matrix products: codes
    are nearer to each other than what these round away.
    """
    # Distances and differences share the cache.
    floats = FLOATS_IN_CACHE // 2 if latents.device.type == "cpu" else GPU_DISTANCES
    together = max(1, floats // len(codebook))
    first, *others = codebook.t().contiguous().unbind()
    codes = []
    for few in latents.to(codebook.dtype).split(together):
        values = few.unbind(1)
        distances = (values[0][:, None] - first).square_()
        for value, column in zip(values[1:], others):
            differences = value[:, None] - column
            distances.addcmul_(differences, differences)
        codes.append(distances.argmin(dim=1))
    return torch.cat(codes)


@dataclass
class Quantised:
    """Latents on the codebook."""

    latents: Float[Tensor, "N D h w"]
    """The nearest codes, with the gradient of what came in."""
    codes: Int64[Tensor, "N h w"]
    loss: Float[Tensor, ""]
    """Means over all elements of the squared distance, once for each side to pull."""


class Quantiser(nn.Module):
    """A codebook of `n_embed` vectors of `embed_dim`, all close to zero at first."""

    def __init__(self, n_embed: int, embed_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / n_embed, 1 / n_embed)

    def forward(self, latents: Float[Tensor, "N D h w"]) -> Quantised:
        codes = self.nearest(latents)
        found, latents = self.lookup(codes), latents.to(self.embedding.weight.dtype)
        loss = COMMITMENT * F.mse_loss(found.detach(), latents) + CODEBOOK * F.mse_loss(found, latents.detach())
        return Quantised(latents + (found - latents).detach(), codes, loss)

    def nearest(self, latents: Float[Tensor, "N D h w"]) -> Int64[Tensor, "N h w"]:
        places = latents.permute(0, 2, 3, 1)
        return nearest_codes(places.flatten(0, 2), self.embedding.weight).view(places.shape[:3])

    def lookup(self, codes: Int64[Tensor, "N h w"]) -> Float[Tensor, "N D h w"]:
        return self.embedding(codes).permute(0, 3, 1, 2)
