"""A scene as a light field: an encoder makes latents of posed views, a decoder gives the colour of any ray."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import ShardedNoise, standard_normal
from core.nn.summed_parts import sum_over_parts
from core.types import Decomposition
from osrt.models.decoder import Decoder, Prepared, Rendered
from osrt.options import complaint
from osrt.scores import ari_of_counts, label_counts

ROWS_TOGETHER = {"cpu": 2**11, "cuda": 2**16}
"""Rays (of decoders that render every slot: rays times slots) whose activations are in memory at a time.

On CPUs they stay near the caches: the spatial broadcast decoder takes a tenth less time than with all rays at once.
"""

RENDER_OPTIONS = {"min_dist": float, "max_dist": float, "num_coarse_samples": int, "num_fine_samples": int}


class LightField(nn.Module):
    """SRT or OSRT (Sajjadi et al. 2022): an encoder, and a decoder that reads its latents.

    render_kwargs: how a volume is sampled, for the decoder that samples one; the others do without.
    checkpointing: the encoder's blocks are computed again in the backward pass. Rays always go through the decoder in
    parts, and in training each part's gradients are taken at once. Neither changes a number, but for rounding.
    """

    short_name = "OSRT"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: Decoder,
        render_kwargs: Mapping[str, Any] | None = None,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.render_kwargs = dict(render_kwargs or {})
        check_options(self.render_kwargs)
        self.checkpointing = checkpointing
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""
        self.score_every = 0
        """Set by a training run: in every so many steps the loss also says how well slots agree with `target_masks`."""

    def encode(
        self,
        images: Float[Tensor, "B V 3 H W"],
        camera_pos: Float[Tensor, "B V 3"],
        rays: Float[Tensor, "B V H W 3"],
    ) -> Float[Tensor, "B S D"]:
        """The latents of scenes (SRT) or their slots (OSRT) from V views, `images` in [0, 1], `rays` of length one."""
        return self.encoder(images, camera_pos, rays, checkpointing=self.checkpointing)

    def prepare(self, latents: Float[Tensor, "B S D"]) -> Prepared:
        """What `decode` and `render` read of the latents: for many calls on the same scenes, made once."""
        return self.decoder.prepare(latents)

    def decode(
        self,
        latents: Float[Tensor, "B S D"] | Prepared,
        camera_pos: Float[Tensor, "B P 3"],
        rays: Float[Tensor, "B P 3"],
        **render_kwargs: Any,
    ) -> Rendered:
        """Colours of P rays of each scene, from latents or what `prepare` made of them.

        `render_kwargs` take the place of the model's own. Raises TypeError for one that does not exist.
        """
        prepared = self.prepare(latents) if isinstance(latents, Tensor) else latents
        return self.decoder(prepared, camera_pos, rays, **self._options(render_kwargs))

    def render(
        self,
        latents: Float[Tensor, "B S D"] | Prepared,
        camera_pos: Float[Tensor, "B 3"],
        rays: Float[Tensor, "B H W 3"],
        chunk: int | None = None,
        **render_kwargs: Any,
    ) -> Rendered:
        """Pictures (B, H, W, ...) of one camera per scene, by `chunk` rays of each scene at a time."""
        prepared = self.prepare(latents) if isinstance(latents, Tensor) else latents
        chunk = chunk or self.rays_together(prepared, rays.device)
        parts = [
            self.decode(prepared, camera_pos[:, None].expand_as(some), some, **render_kwargs)
            for some in rays.flatten(1, 2).split(chunk, dim=1)
        ]
        found = Rendered.joined(parts, lambda values: torch.cat(values, dim=1))
        return found.map(lambda value: value.unflatten(1, rays.shape[1:3]))

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Mean squared error of the colours of `target_rays`, given the input views; see core.data.cameras.cast_rays.

        A volume's coarse picture adds its own, `coarse_mse`. `ari` and `fg_ari` are there when `score_every` says so.
        """
        latents = self.encode(batch["input_images"], batch["input_camera_pos"], batch["input_rays"])
        prepared, options = self.prepare(latents), self._options({})
        given = {name: batch[f"target_{name}"] for name in ("camera_pos", "rays", "pixels")}
        batch_size, num_rays = given["rays"].shape[:2]
        if num_draws := self.decoder.num_draws(**options):
            given["draws"] = self._draws(step, (batch_size, num_rays, num_draws), latents.device)
        if self.score_every > 0 and step % self.score_every == 0 and "target_masks" in batch:
            given["masks"] = batch["target_masks"]
        errors: list[Tensor] = []
        counts: list[Tensor] = []

        def error(*tensors: Tensor) -> Float[Tensor, ""]:
            some = {name: value.transpose(0, 1) for name, value in zip(given, tensors)}
            sides = {name: some[name] for name in ("draws",) if name in some}
            found = self.decoder(tensors[len(given) :], some["camera_pos"], some["rays"], **options, **sides)
            pictures = [value for value in (found.pixels, found.coarse_pixels) if value is not None]
            terms = torch.stack([(value - some["pixels"]).square().sum() for value in pictures])
            terms = terms / (3 * batch_size * num_rays)
            errors.append(terms.detach())
            if "masks" in some and found.segmentation is not None:
                counts.append(label_counts(some["masks"], found.segmentation.detach()))
            return terms.sum()

        by_ray = [value.transpose(0, 1) for value in given.values()]
        together = self.rays_together(prepared, latents.device)
        loss = sum_over_parts(error, by_ray, prepared, self.decoder.parameters(), together)
        names = ("mse", "coarse_mse")
        terms = {"loss": loss, **dict(zip(names, torch.stack(errors).sum(dim=0).unbind()))}
        scores = ari_of_counts(sum(counts[1:], counts[0])) if counts else {}
        return terms | {name: value.mean() for name, value in scores.items()}

    def decompose(self, batch: dict[str, Tensor]) -> Decomposition:
        """The input views as the model sees them; views stand where a video has frames.

        `view_rays` (B, V, H, W, 3) and `view_camera_pos` (B, V, 3), if given, are views to show in their place. Without
        slots the mask is one everywhere.
        """
        latents = self.encode(batch["input_images"], batch["input_camera_pos"], batch["input_rays"])
        shown = "view" if "view_rays" in batch else "input"
        rays, positions = batch[f"{shown}_rays"], batch[f"{shown}_camera_pos"]
        prepared = self.prepare(latents)
        views = [self.render(prepared, *view) for view in zip(positions.unbind(1), rays.unbind(1))]
        found = Rendered.joined(views, lambda values: torch.stack(values, dim=1))
        recon = found.pixels.movedim(-1, 2)
        if found.segmentation is None:
            return Decomposition(recon=recon, masks=torch.ones_like(recon[:, :, :1]))
        slots = latents[:, None].expand(-1, rays.shape[1], -1, -1)
        return Decomposition(recon=recon, masks=found.segmentation.movedim(-1, 2), slots=slots)

    def rays_together(self, prepared: Prepared, device: torch.device) -> int:
        """How many rays of each scene go through the decoder at a time."""
        rows = self.decoder.rows_per_ray(prepared, **self._options({})) * len(prepared[0])
        return max(1, ROWS_TOGETHER.get(device.type, ROWS_TOGETHER["cpu"]) // rows)

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the decoder takes of the model's options and those `given`."""
        check_options(given)
        options = self.render_kwargs | dict(given)
        return {name: value for name, value in options.items() if name in self.decoder.render_options}

    def _draws(self, step: int, shape: tuple[int, int, int], device: torch.device) -> Float[Tensor, "B P S"]:
        """Uniform numbers in [0, 1] for each sample of every ray: `samples` of the noise, taken through ndtr."""
        noise = self.noise.at(step, device) if self.noise else standard_normal(device)
        return torch.special.ndtr(noise("samples", shape))


def check_options(options: Mapping[str, Any]) -> None:
    """Raises TypeError for an option that no decoder has, ValueError for a value that it cannot have."""
    for name, value in options.items():
        if name not in RENDER_OPTIONS:
            near = difflib.get_close_matches(name, RENDER_OPTIONS, 1, cutoff=0)[0]
            raise TypeError(f"rendering has no option {name!r}; did you mean {near!r}?")
        if wrong := complaint(value, RENDER_OPTIONS[name], 1 if name == "num_coarse_samples" else 0):
            raise ValueError(f"{name} {wrong}")
