"""SPACE (Lin et al. 2020): objects in the cells of a grid before a background of a few components.

Shapes: B images, N objects, K components of the background, D size of an object's appearance.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.cells import check_image_size, with_rest
from clevrtex.models.frames import paste_frames
from clevrtex.models.space_background import Background, BackgroundModule
from clevrtex.models.space_foreground import EPSILON, Foreground, ForegroundModule
from clevrtex.models.space_sizes import PUBLISHED_SCHEDULES, PUBLISHED_SIZES, Schedules, Sizes
from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.types import Decomposition

LEAST_SHARE = 1e-5
LEAST_ALPHA = 1e-6
BOUNDARY_STD = 0.7
FRAME_SIDE, FRAME_WIDTH = 21, 2
PUBLISHED_GRID, SMALLEST_CELL = 8, 8
SMALLEST, LARGEST = 32, 256
"""Sides of images that the decoders can make."""


@dataclass
class Inference:
    """What one pass found. `log_likelihood` and `boundary_loss` are in nats per image."""

    foreground: Foreground
    background: Background
    foreground_log_likelihood: Float[Tensor, "B 3 H W"]
    picture: Float[Tensor, "B 3 H W"]
    log_likelihood: Float[Tensor, "B"]
    boundary_loss: Float[Tensor, "B"]


def normal_log_prob(
    values: Float[Tensor, "*shape"], mean: Float[Tensor, "*shape"] | float, std: float
) -> Float[Tensor, "*shape"]:
    return -((values - mean) / std).square() / 2 - math.log(std) - math.log(2 * math.pi) / 2


class SPACE(nn.Module):
    """SPACE for square images of `image_size` (h, w).

    `foreground_std` and `background_std` are standard deviations of a pixel. The image has `grid` x `grid` cells of 8,
    16 or 32 pixels: by default 8 x 8, and fewer of 8 pixels in small images. A background of one component has a
    stronger decoder. Raises ValueError for another grid and for no component.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        foreground_std: float = 0.15,
        background_std: float = 0.15,
        grid: int | None = None,
        num_components: int = 5,
        sizes: Sizes = PUBLISHED_SIZES,
        schedules: Schedules | Mapping[str, Any] = PUBLISHED_SCHEDULES,
    ):
        super().__init__()
        check_image_size(image_size, SMALLEST, LARGEST, "SPACE")
        if num_components < 1:
            raise ValueError(f"--bg_components {num_components}: SPACE's background has at least one component")
        if not isinstance(schedules, Schedules):
            schedules = Schedules.of(schedules)
        self.image_size = image_size
        self.foreground_std = foreground_std
        self.schedules = schedules
        grid = grid or min(PUBLISHED_GRID, image_size[0] // SMALLEST_CELL)
        self.foreground = ForegroundModule(image_size[0], grid, sizes, schedules)
        self.background = BackgroundModule(image_size[0], num_components, background_std, sizes)
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Negative ELBO and boundary loss, mean over images; `batch["image"]` (B, 3, H, W) in [0, 1].

        Terms in nats per image: `rec_loss`, the log-likelihood, which is to be large; `boundary_loss`; `kl`, the sum of
        `kl_fg`, which `kl_what`, `kl_where`, `kl_depth` and `kl_pres` make up, and of `kl_bg`; `elbo`.
        """
        image = batch["image"]
        found = self(image, self.noise.at(step, image.device) if self.noise else None, step)
        kl = {name: value.mean() for name, value in found.foreground.kl.items()}
        of_foreground, of_background = torch.stack(list(kl.values())).sum(), found.background.kl.mean()
        log_likelihood, boundary = found.log_likelihood.mean(), found.boundary_loss.mean()
        elbo = log_likelihood - of_foreground - of_background
        return {
            "loss": boundary - elbo,
            "elbo": elbo,
            "rec_loss": log_likelihood,
            "boundary_loss": boundary,
            "kl": of_foreground + of_background,
            "kl_fg": of_foreground,
            "kl_bg": of_background,
            "kl_what": kl["what"],
            "kl_where": kl["scale"] + kl["shift"],
            "kl_depth": kl["depth"],
            "kl_pres": kl["presence"],
        }

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """What every object covers with its colours, nearer ones or not, and as slot 0 what they leave over.

        Masks that sum to more than one somewhere are scaled down there. Extras, of objects only: `presence` (B, N),
        `boxes` (B, N, 4) in pixels, `depth` (B, N), `what` (B, N, D); of the background: `background` (B, 3, H, W),
        `background_masks` (B, K, H, W) and `background_components` (B, K, 3, H, W); `counts` (B,), `canvas_with_bbox`
        (B, 3, H, W), and `nll` per image (nats).
        """
        found = self(batch["image"], noise)
        foreground, background = found.foreground, found.background
        colours = foreground.premultiplied / foreground.masks[:, :, None].clamp(min=LEAST_ALPHA)
        return Decomposition(
            recon=found.picture.clamp(0, 1),
            masks=with_rest(foreground.masks),
            rgb=torch.cat((background.picture[:, None], colours), dim=1),
            extras=foreground.objects.extras(self.image_size)
            | {
                "background": background.picture,
                "background_masks": background.masks,
                "background_components": background.components,
                "canvas_with_bbox": self.foreground_with_frames(foreground),
                "nll": -found.log_likelihood,
            },
        )

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None, step: int = 0) -> Inference:
        """Decompose `image` in [0, 1] as at a step of training, on which only likelihoods and divergences depend.

        The draws are those of `ForegroundModule` and `BackgroundModule`.
        """
        noise = noise or standard_normal(image.device)
        foreground = self.foreground(image, noise, step)
        background = self.background(image, noise)
        share = foreground.alpha
        picture = share * foreground.picture + (1 - share) * background.picture
        boundary_loss = image.new_zeros(len(image))
        if step < self.schedules.boundary_end:
            overlap = foreground.boundary * share
            boundary_loss = -normal_log_prob(overlap, 0.0, BOUNDARY_STD).flatten(1).sum(dim=1)
        if 0 < step < self.schedules.fixed_alpha_end:
            share = torch.full_like(share, self.schedules.fixed_alpha)
        of_foreground = normal_log_prob(image, foreground.picture, self.foreground_std)
        log_likelihood = torch.logaddexp(
            of_foreground + (share + LEAST_SHARE).log(), background.log_likelihood + (1 - share + LEAST_SHARE).log()
        )
        total = log_likelihood.flatten(1).sum(dim=1)
        return Inference(foreground, background, of_foreground, picture, total, boundary_loss)

    def foreground_with_frames(self, foreground: Foreground) -> Float[Tensor, "B 3 H W"]:
        """The objects on black, each with a green frame that is as bright as it is present."""
        objects = foreground.objects
        colours = objects.presence[..., None] * objects.presence.new_tensor((0.0, 1.0, 0.0))
        frames = paste_frames(objects.where, colours, self.image_size, FRAME_SIDE, FRAME_WIDTH, EPSILON)
        return (frames.clamp(max=1) + foreground.picture).clamp(0, 1)
