"""SPACE's foreground (Lin et al. 2020, section 2.1): one object in every cell of a grid.

Shapes: B images, N objects, which are the cells row by row, D size of an object's appearance, C channels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.cells import Objects, centres, presence_logits
from clevrtex.models.celu_layers import Layer, convolution, stack
from clevrtex.models.frames import paste_frames
from clevrtex.models.glimpses import paste, read_glimpses
from clevrtex.models.latents import bernoulli_kl, gaussian, relaxed_bernoulli, standard_normal_prior
from clevrtex.models.recomputing import Recomputing
from clevrtex.models.space_sizes import Schedules, Sizes, enlarging_layers
from core.nn.noise import Noise
from emorl.models.gaussian import DiagonalGaussian, kl_divergence

GLIMPSE_SIDE = 32
LEAST_SCALE_STD = 1e-15
EPSILON = 1e-9
SHARPNESS = 100.0
BOUNDARY_WIDTH = 6
BOUNDARY_WEIGHT = 1000.0


@dataclass
class Foreground:
    """What the foreground found; `kl` of `presence`, `what`, `depth`, `scale` and `shift` is in nats per image."""

    objects: Objects
    presence_logit: Float[Tensor, "B N"]
    picture: Float[Tensor, "B 3 H W"]
    alpha: Float[Tensor, "B 1 H W"]
    """The objects' share in every pixel."""
    boundary: Float[Tensor, "B 1 H W"]
    """Large where the edges of windows are."""
    masks: Float[Tensor, "B N H W"]
    """What every object covers, whatever lies before it,"""
    premultiplied: Float[Tensor, "B N 3 H W"]
    """and its colours times that."""
    patches: Float[Tensor, "B N 4 h w"]
    """The objects as they were decoded: colours and opacity times presence."""
    kl: dict[str, Float[Tensor, "B"]]


class CellEncoder(nn.Module):
    """Features of the cells of a `grid`, and from them presence, depth, scale and shift of an object in each."""

    def __init__(self, image_side: int, grid: int, channels: int):
        super().__init__()
        late = {8: (1, 1), 16: (1, 2), 32: (2, 2)}.get(image_side // grid)
        if late is None or image_side % grid:
            grids = ", ".join(str(image_side // side) for side in (32, 16, 8))
            raise ValueError(
                f"--grid {grid}: cells have 8, 16 or 32 pixels; in pictures of {image_side} give one of {grids}"
            )
        layers = [Layer(16, 4, 2, 4), Layer(32, 4, 2, 8), Layer(64, 4, 2, 8)]
        layers += [Layer(128, 3, late[0], 16), Layer(256, 3, late[1], 32), Layer(channels, 1, 1, 16)]
        self.trunk = stack(convolution, 3, layers)
        self.lateral = stack(convolution, channels, [Layer(channels, 3, 1, 16)] * 2)
        self.joint = stack(convolution, 2 * channels, [Layer(128, 3, 1, 16)])
        self.scale = nn.Conv2d(128, 4, 1)
        self.shift = nn.Conv2d(128, 4, 1)
        self.presence = nn.Conv2d(128, 1, 1)
        self.depth = nn.Conv2d(128, 2, 1)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B N _"], ...]:
        """What the heads give for presence, depth, scale and shift."""
        features = self.trunk(image)
        features = self.joint(torch.cat((features, self.lateral(features)), dim=1))
        heads = (self.presence, self.depth, self.scale, self.shift)
        return tuple(head(features).float().flatten(2).transpose(1, 2) for head in heads)


class WhatEncoder(nn.Module):
    """The posterior of an object's appearance from its glimpse."""

    def __init__(self, what_size: int):
        super().__init__()
        layers = [Layer(16, 3, 1, 4), Layer(32, 4, 2, 8), Layer(32, 3, 1, 4), Layer(64, 4, 2, 8)]
        self.layers = Recomputing(*stack(convolution, 3, [*layers, Layer(128, 4, 2, 8), Layer(256, 4, 0, 16)]))
        self.project = nn.Linear(256, 2 * what_size)

    def forward(self, glimpses: Float[Tensor, "S 3 h w"]) -> DiagonalGaussian:
        return gaussian(self.project(self.layers(glimpses).flatten(1)))


class GlimpseDecoder(nn.Module):
    """An object's appearance, enlarged to a patch of colours and opacity in [0, 1]."""

    def __init__(self, what_size: int):
        super().__init__()
        layers = [Layer(128, 1, 2, 16), Layer(128, 1, 2, 16), Layer(64, 1, 2, 8), Layer(32, 1, 2, 8)]
        self.layers = Recomputing(*enlarging_layers(what_size, [*layers, Layer(16, 1, 2, 4)]))
        self.colour = nn.Conv2d(16, 3, 3, padding=1)
        self.alpha = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, what: Float[Tensor, "S D"]) -> Float[Tensor, "S 4 h w"]:
        maps = self.layers(what[:, :, None, None])
        return torch.cat((self.colour(maps), self.alpha(maps)), dim=1).float().sigmoid()


class ForegroundModule(nn.Module):
    """Infers the objects, decodes each from its glimpse, and blends them by depth."""

    def __init__(self, image_side: int, grid: int, sizes: Sizes, schedules: Schedules):
        super().__init__()
        self.schedules = schedules
        self.cell_encoder = CellEncoder(image_side, grid, sizes.foreground_features)
        self.what_encoder = WhatEncoder(sizes.what)
        self.decoder = GlimpseDecoder(sizes.what)

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise, step: int) -> Foreground:
        """The draws `presence` (B, N), `depth` (B, N, 1), `scale` and `shift` (B, N, 2), `what` (B, N, D)."""
        presence, depth, scale, shift = self.cell_encoder(image)
        logit = presence_logits(presence)
        posteriors = {"depth": gaussian(depth), "scale": gaussian(scale, LEAST_SCALE_STD), "shift": gaussian(shift)}
        draw = noise("presence", tuple(logit.shape))
        presence = relaxed_bernoulli(logit, draw, self.schedules.temperature(step))
        depth, scale, shift = (
            posterior.sample(noise(name, tuple(posterior.mean.shape))) for name, posterior in posteriors.items()
        )
        where = torch.cat((scale.sigmoid(), centres(shift)), dim=-1)
        glimpses = read_glimpses(image, where, (GLIMPSE_SIDE, GLIMPSE_SIDE))
        what = self.what_encoder(glimpses.flatten(0, 1))
        what = DiagonalGaussian(*(value.unflatten(0, presence.shape) for value in (what.mean, what.std)))
        objects = Objects(presence, where, depth, what.sample(noise("what", tuple(what.mean.shape))))
        kl = self._kl(logit, {"what": what, **posteriors}, step)
        return self._render(objects, logit, kl, (image.shape[2], image.shape[3]))

    def _kl(
        self, logit: Float[Tensor, "B N"], posteriors: dict[str, DiagonalGaussian], step: int
    ) -> dict[str, Float[Tensor, "B"]]:
        standard = standard_normal_prior(logit)
        mean, std = self.schedules.scale_prior(step), self.schedules.scale_prior_std
        of_scale = DiagonalGaussian(torch.full_like(standard.mean, mean), torch.full_like(standard.std, std))
        kl = {"presence": bernoulli_kl(logit.sigmoid(), self.schedules.presence_prior(step))}
        for name, posterior in posteriors.items():
            kl[name] = kl_divergence(posterior, of_scale if name == "scale" else standard)
        return {name: value.sum(dim=1) for name, value in kl.items()}

    def _render(
        self, objects: Objects, logit: Float[Tensor, "B N"], kl: dict[str, Tensor], size: tuple[int, int]
    ) -> Foreground:
        decoded = self.decoder(objects.what.flatten(0, 1)).unflatten(0, logit.shape)
        alpha = decoded[:, :, 3:] * objects.presence[..., None, None, None]
        pasted = paste(torch.cat((alpha * decoded[:, :, :3], alpha), dim=2), objects.where, size, EPSILON)
        premultiplied, masks = pasted.split((3, 1), dim=2)
        importance = SHARPNESS * masks * (-objects.depth[..., None, None]).sigmoid()
        blended = (importance.softmax(dim=1) * pasted).sum(dim=1)
        brightness = objects.presence[..., None] * (BOUNDARY_WEIGHT / GLIMPSE_SIDE**2)
        boundary = paste_frames(objects.where, brightness, size, GLIMPSE_SIDE, BOUNDARY_WIDTH, EPSILON)
        return Foreground(
            objects=objects,
            presence_logit=logit,
            picture=blended[:, :3],
            alpha=blended[:, 3:],
            boundary=boundary,
            masks=masks[:, :, 0],
            premultiplied=premultiplied,
            patches=torch.cat((decoded[:, :, :3], alpha), dim=2),
            kl=kl,
        )
