"""The objects of GNM: one in every cell of a grid, with presence, window, depth and appearance.

Shapes: B images, C channels, h x w cells, which are N objects row by row, D size of the appearance `what`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.cells import Objects, centres, presence_logits
from clevrtex.models.celu_layers import convolution, stack, subpixel
from clevrtex.models.genesisv2 import clamp_forward
from clevrtex.models.glimpses import paste
from clevrtex.models.gnm_architecture import Architecture
from clevrtex.models.latents import gaussian, relaxed_bernoulli
from core.nn.noise import Noise
from emorl.models.gaussian import DiagonalGaussian

EPSILON = 1e-15


@dataclass
class ObjectDistribution:
    """Of the objects given a map of features. `where` is of scale, log ratio of the sides and shift, unsquashed."""

    presence_logit: Float[Tensor, "B N"]
    where: DiagonalGaussian
    depth: DiagonalGaussian
    what: DiagonalGaussian

    def sample(self, noise: Noise, temperature: float) -> Objects:
        """The draws `presence` (B, N), `where` (B, N, 4), `depth` (B, N, 1) and `what` (B, N, D)."""
        presence = relaxed_bernoulli(
            self.presence_logit, noise("presence", tuple(self.presence_logit.shape)), temperature
        )
        where, depth, what = (
            distribution.sample(noise(name, tuple(distribution.mean.shape)))
            for name, distribution in (("where", self.where), ("depth", self.depth), ("what", self.what))
        )
        return Objects(presence, windows(where), depth, what)

    def mode(self) -> Objects:
        """Objects more likely there than not, everything else at its mean."""
        presence = (self.presence_logit > 0).float()
        return Objects(presence, windows(self.where.mean), self.depth.mean, self.what.mean)


def windows(where: Float[Tensor, "B N 4"]) -> Float[Tensor, "B N 4"]:
    """From scale, log ratio and shift in their cell, unsquashed. An object may be a cell's width from its cell."""
    scale, ratio, shift = where[..., :1].sigmoid(), where[..., 1:2].exp().sqrt(), where[..., 2:]
    return torch.cat((scale / ratio, scale * ratio, centres(shift)), dim=-1)


class ObjectNetwork(nn.Module):
    """Distributions of the objects: the posterior from the image's features, the prior from the canvas."""

    def __init__(self, channels: int, what_size: int, architecture: Architecture):
        super().__init__()
        self.trunk = stack(convolution, channels, architecture.local)
        channels = architecture.local[-1].channels
        self.presence = nn.Conv2d(channels, 1, 1)
        self.where = nn.Conv2d(channels, 8, 1)
        self.depth = nn.Conv2d(channels, 2, 1)
        self.what = nn.Conv2d(channels, 2 * what_size, 1)
        nn.init.uniform_(self.where.weight, -0.01, 0.01)
        nn.init.zeros_(self.where.bias)
        nn.init.constant_(self.where.bias[:1], -1.0)

    def forward(self, features: Float[Tensor, "B C h w"]) -> ObjectDistribution:
        features = self.trunk(features)
        presence, where, depth, what = (
            head(features).float().flatten(2).transpose(1, 2)
            for head in (self.presence, self.where, self.depth, self.what)
        )
        return ObjectDistribution(presence_logits(presence), gaussian(where), gaussian(depth), gaussian(what))


@dataclass
class Rendering:
    """A picture of objects before a background."""

    picture: Float[Tensor, "B 3 H W"]
    foreground: Float[Tensor, "B 3 H W"]
    alpha: Float[Tensor, "B 1 H W"]
    background: Float[Tensor, "B 3 H W"]
    masks: Float[Tensor, "B N H W"]
    """What every object covers, whatever lies before it."""
    colours: Float[Tensor, "B N 3 h w"]
    """The objects' patches."""


class ObjectRenderer(nn.Module):
    """Decodes the objects to patches and pastes these; where they overlap, the nearest counts most."""

    def __init__(self, what_size: int, architecture: Architecture):
        super().__init__()
        self.decoder = stack(subpixel, what_size, architecture.what_decoder, plain_end=True)

    def forward(
        self, objects: Objects, background: Float[Tensor, "B 3 H W"], fixed_alpha: float | None = None
    ) -> Rendering:
        """`fixed_alpha` stands for how much of every pixel belongs to objects."""
        decoded = self.decoder(objects.what.flatten(0, 1)[:, :, None, None]).float().sigmoid()
        colours, alpha = decoded.unflatten(0, objects.presence.shape).split((3, 1), dim=2)
        alpha = alpha * objects.presence[:, :, None, None, None]
        patches = torch.cat((alpha * colours, alpha), dim=2)
        pasted = paste(patches, objects.where, (background.shape[2], background.shape[3]), EPSILON)
        premultiplied, masks = pasted.split((3, 1), dim=2)
        importance = masks * (-objects.depth[..., None, None]).sigmoid()
        weights = importance / (importance.sum(dim=1, keepdim=True) + EPSILON)
        foreground = (premultiplied * weights).sum(dim=1)
        covered = clamp_forward(masks.sum(dim=1), EPSILON, 1 - EPSILON)
        if fixed_alpha is not None:
            covered = torch.full_like(covered, fixed_alpha)
        picture = foreground + (1 - covered) * background
        return Rendering(picture, foreground, covered, background, masks[:, :, 0], colours)
