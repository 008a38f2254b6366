"""DTI-Sprites (Monnier et al. 2021): pictures are learnt sprites, transformed and layered on a learnt background.

Shapes: B images, L slots, K sprites of h x w pixels and then the empty one (number K), M backgrounds. Entries E = L + 1
of a picture are the background, then the slots. Differs from the original code, with equal numbers: all regressors of a
kind are one matrix product; gradients are made for the chosen sprites alone, since those of others are zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from clevrtex.models.batch_norm import mean_over_processes
from clevrtex.models.dti_clusters import NOISE, STEPS_BETWEEN, RunningMean, copy_entry, unused_sprites
from clevrtex.models.dti_pictures import backgrounds_picture, sprites_picture
from clevrtex.models.dti_selection import covering, select, visibility
from clevrtex.models.dti_transformations import COLOURS, Regressors, Transformations, gaussian_mask, soft_clamp
from clevrtex.models.resnet import Encoder
from core.data.loader import BatchSource
from core.nn.noise import Noise, ShardedNoise, derive_seed, standard_normal
from core.types import Decomposition

FIRST_COLOUR = 0.9
PICTURES_PER_BACKGROUND = 100
FLOATS_AT_ONCE = 2**20
"""Numbers of placed sprites that a search on the CPU goes through together, but at least those of one image."""


@dataclass
class Scene:
    """What the networks say about pictures, before any sprite is chosen."""

    sprites: Float[Tensor, "K1 C h w"]
    """Colours, mask, in training also a canvas that shows where a sprite comes to lie; the last sprite is empty."""
    sprite_betas: list[Float[Tensor, "L B K1 _"]]
    layer_betas: list[Float[Tensor, "L B _"]]
    backgrounds: Float[Tensor, "M B 3 H W"]
    covers: Float[Tensor, "B E E"]
    mask_noise: Float[Tensor, "K1 H W"] | None

    def part(self, rows: slice) -> "Scene":
        """Of some of the images."""
        return replace(
            self,
            sprite_betas=[beta[:, rows] for beta in self.sprite_betas],
            layer_betas=[beta[:, rows] for beta in self.layer_betas],
            backgrounds=self.backgrounds[:, rows],
            covers=self.covers[rows],
        )


@dataclass
class Inference:
    """How pictures are explained. Masks may leave [0, 1] a little, and what is visible need not sum to one."""

    recon: Float[Tensor, "B 3 H W"]
    error: Float[Tensor, "B"]
    """Mean squared error."""
    visible: Float[Tensor, "B E H W"]
    rgb: Float[Tensor, "B E 3 H W"]
    masks: Float[Tensor, "B E H W"]
    """Before slots cover each other."""
    covers: Float[Tensor, "B E E"]
    """At [j, i] to what degree entry j lies before entry i."""
    chosen: Int64[Tensor, "L B"]
    """Sprite in every slot, K for none."""
    ground: Int64[Tensor, "B"]
    """Number of the background."""


class DTISprites(nn.Module):
    """DTI-Sprites for images of `image_size` (h, w).

    Transformations are named as in `dti_transformations.KINDS`; milestones are the epochs in which the second, third,
    ... of them begin. Sprites stay as they are, and no slot stays empty, for `freeze_epochs`. `mask_std` is that of the
    first masks, in pixels. `mask_noise` is the most that training adds to masks. `greedy_rounds` and `empty_penalty`
    are those of `dti_selection.select`. `as_original` evaluates as the original does after it has read a
    checkpoint, which lacks the epoch there: no slot stays empty.

    The state dict holds the epoch and whether the backgrounds have been set. Raises ValueError for counts below one.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        num_slots: int = 10,
        num_sprites: int = 10,
        num_backgrounds: int = 1,
        sprite_size: tuple[int, int] = (40, 40),
        mask_std: float = 10.0,
        encoder: str = "resnet18",
        pool: tuple[int, int] | None = (2, 2),
        sprite_transformations: str = "identity_projective",
        sprite_milestones: Sequence[int] = (150,),
        layer_transformations: str = "color_position",
        background_transformations: str = "color",
        background_milestones: Sequence[int] = (),
        freeze_epochs: int = 40,
        mask_noise: float = 0.4,
        greedy_rounds: int = 3,
        empty_penalty: float = 1e-4,
        as_original: bool = False,
    ):
        super().__init__()
        counts = {"slots": num_slots, "sprites": num_sprites, "n_bg": num_backgrounds}
        for flag, count in counts.items():
            if count < 1:
                raise ValueError(f"--{flag} {count}: expected at least 1")
        self.num_slots = num_slots
        self.num_sprites = num_sprites
        self.freeze_epochs = freeze_epochs
        self.mask_noise = mask_noise
        self.greedy_rounds = greedy_rounds
        self.empty_penalty = empty_penalty
        self.as_original = as_original
        self.prototypes = nn.Parameter(torch.full((num_sprites, COLOURS, *sprite_size), FIRST_COLOUR))
        self.masks = nn.Parameter(gaussian_mask(*sprite_size, mask_std).repeat(num_sprites, 1, 1, 1))
        self.backgrounds = nn.Parameter(torch.full((num_backgrounds, COLOURS, *image_size), 0.5))
        self.encoder = Encoder(encoder, image_size, pool)
        size = self.encoder.num_features
        branches = (num_slots, num_sprites + 1)
        self.sprites = Transformations(
            sprite_transformations, branches, size, sprite_size, milestones=sprite_milestones
        )
        self.layers = Transformations(layer_transformations, (num_slots,), size, image_size)
        self.grounds = Transformations(
            background_transformations, (num_backgrounds,), size, image_size, "border", background_milestones
        )
        self.occlusion = Regressors((1,), size, num_slots * (num_slots - 1) // 2)
        self.frequencies = RunningMean(num_slots, num_sprites + 1)
        self.register_buffer("epochs_done", torch.tensor(0))
        self.register_buffer("backgrounds_are_set", torch.tensor(False))
        self.epoch = 0
        """As in the buffer, but known without asking the device."""
        self.register_load_state_dict_post_hook(lambda model, _: model.set_epoch(int(model.epochs_done)))
        self.steps_per_epoch: int | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def set_epoch(self, epoch: int) -> None:
        """Freezing and transformations follow the number of epochs that are done."""
        self.epoch = epoch
        self.epochs_done.fill_(epoch)

    @property
    def is_frozen(self) -> bool:
        """Whether sprites stay as they are and every slot has one."""
        return self.epoch < self.freeze_epochs or (self.as_original and not self.training)

    def param_groups(self) -> list[dict[str, Any]]:
        """What is drawn, and the networks, whose weights decay."""
        clusters = [self.prototypes, self.masks, self.backgrounds]
        drawn = set(map(id, clusters))
        networks = [value for value in self.parameters() if id(value) not in drawn]
        return [{"params": clusters, "lr": 1.0}, {"params": networks, "lr": 1.0, "other": {"weight_decay": 1e-6}}]

    def unused_parameters(self) -> list[str]:
        """Names of those that have no gradient in this epoch."""
        names = ["prototypes", "masks"] if self.is_frozen else []
        for part in ("sprites", "grounds"):
            chain = getattr(self, part)
            for number in range(chain.num_active(self.epoch), len(chain.kinds)):
                names += [
                    f"{part}.regressors.{number}.{name}" for name, _ in chain.regressors[number].named_parameters()
                ]
        return names

    @torch.no_grad()
    def prepare_training(self, source: BatchSource, steps_per_epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Make every background, if none is set yet, the mean of 100 random training pictures."""
        self.steps_per_epoch = steps_per_epoch
        self.optimizer = optimizer
        if self.backgrounds_are_set:
            return
        rng = np.random.default_rng(derive_seed(self._seed(), 0))
        count = len(self.backgrounds) * PICTURES_PER_BACKGROUND
        for background, rows in zip(self.backgrounds, np.resize(rng.permutation(len(source)), count).reshape(-1, 100)):
            background.copy_(source.read(rows)["image"].double().mean(dim=0) / 255)
        self.backgrounds_are_set.fill_(True)

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Mean squared error of `batch["image"]` (B, 3, H, W) in [0, 1]. A training run must call `after_step`."""
        image = batch["image"]
        # All images see the same noise, on whatever process they are.
        noise = replace(self.noise, index=0, count=1).at(step, image.device) if self.noise else None
        found = self(image, noise)
        if self.training:
            frequencies = F.one_hot(found.chosen, self.num_sprites + 1).float().mean(dim=1)
            self.frequencies.update(mean_over_processes(frequencies), len(image))
        return {"loss": found.error.mean()}

    def after_step(self, step: int, terms: dict[str, Tensor]) -> None:
        """Count epochs, and re-create sprites that were hardly used; one of the trainer's `controllers`."""
        if step % STEPS_BETWEEN == 0:
            if not self.is_frozen:
                self._recreate_sprites(step)
            self.frequencies.reset()
        if self.steps_per_epoch and (step + 1) % self.steps_per_epoch == 0:
            self.set_epoch(self.epoch + 1)

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """Background and slots, as far as they are visible.

        Extras: `sprites` (B, L), which one is in every slot, `num_sprites` for none; `backgrounds` (B,), which one;
        `covers` (B, L + 1, L + 1), at [j, i] to what degree entry j lies before entry i.
        """
        found = self(batch["image"], noise)
        masks = found.visible.clamp(min=0)
        masks[:, 0] += 1e-8  # where slots hide each other nothing else may be left
        extras = {"sprites": found.chosen.T, "backgrounds": found.ground, "covers": found.covers}
        return Decomposition(
            recon=found.recon.clamp(0, 1),
            masks=masks / masks.sum(dim=1, keepdim=True),
            rgb=found.rgb.clamp(0, 1),
            extras=extras,
        )

    def labels(self, batch: dict[str, Tensor], by: Literal["slot", "sprite"]) -> Int64[Tensor, "B H W"]:
        """The slot, or the sprite, that each pixel shows, from 1 on; 0 for the background.

        Masks count where they exceed 0.5, and cover each other entirely or not at all.
        """
        found = self(batch["image"])
        visible = visibility((found.masks > 0.5).float(), (found.covers > 0.5).float())
        slots = visible.argmax(dim=1)
        if by == "slot":
            return slots
        names = F.pad(found.chosen.T + 1, (1, 0))
        return names.gather(1, slots.flatten(1)).view_as(slots)

    def pictures(self) -> dict[str, UInt8[Tensor, "3 _ _"]]:
        """What is learnt apart from any picture."""
        return {
            "sprites": sprites_picture(self.prototypes, self.masks),
            "backgrounds": backgrounds_picture(self.backgrounds),
        }

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None) -> Inference:
        """Explain `image` in [0, 1]; the one draw, in training, is `mask_noise`; see `describe`."""
        return self.explain(image, self.describe(image, noise))

    def explain(self, image: Float[Tensor, "B 3 H W"], scene: Scene) -> Inference:
        """Choose a sprite for every slot, and layer them."""
        with torch.autocast(image.device.type, enabled=False):
            chosen, ground = self._select(image, scene)
            rgb, masks = self.place(scene, chosen[..., None])
            every = torch.arange(len(image), device=image.device)
            background = scene.backgrounds[ground, every]
            rgb = torch.cat((background[:, None], rgb[:, :, 0].transpose(0, 1)), dim=1)
            masks = torch.cat((torch.ones_like(background[:, :1]), masks[:, :, 0].transpose(0, 1)), dim=1)
            visible = visibility(masks, scene.covers)
            recon = (visible[:, :, None] * rgb).sum(dim=1)
            error = (recon - image).square().flatten(1).mean(dim=1)
        return Inference(recon, error, visible, rgb, masks, scene.covers, chosen, ground)

    def describe(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None) -> Scene:
        """Sprites, and how they might be transformed to explain `image`.

        In training the draw `mask_noise` (K, H, W) is made, whose normal distribution function is uniform: its noise is
        the same for all images and slots.
        """
        features = self.encoder(image)
        sprite_betas = self.sprites.predict(features, self.epoch)
        layer_betas = self.layers.predict(features, self.epoch)
        ground_betas = self.grounds.predict(features, self.epoch)
        logits = self.occlusion(features)[0]
        with torch.autocast(image.device.type, enabled=False):
            noisy = self.training and self.mask_noise > 0
            backgrounds = soft_clamp(self.backgrounds)[:, None].expand(-1, len(image), -1, -1, -1)
            backgrounds = self.grounds(
                backgrounds.flatten(0, 1)[:, None], [beta.flatten(0, 1) for beta in ground_betas]
            )
            return Scene(
                sprites=self._sprites(noisy),
                sprite_betas=[beta.transpose(1, 2) for beta in sprite_betas],
                layer_betas=layer_betas,
                backgrounds=backgrounds[:, 0].unflatten(0, (-1, len(image))),
                covers=covering(logits, self.num_slots),
                mask_noise=self._mask_noise(image, noise) if noisy else None,
            )

    def place(
        self, scene: Scene, which: Int64[Tensor, "L B N"]
    ) -> tuple[Float[Tensor, "L B N 3 H W"], Float[Tensor, "L B N H W"]]:
        """Colours and masks, before they cover each other, of the sprites `which` in every slot of every image."""
        shape = which.shape
        betas = [beta.take_along_dim(which[..., None], dim=2).flatten(0, 2) for beta in scene.sprite_betas]
        pictures = self.sprites(scene.sprites[which].flatten(0, 2)[:, None], betas)[:, 0]
        pictures = pictures.unflatten(0, (shape[0] * shape[1], shape[2]))
        pictures = self.layers(pictures, [beta.flatten(0, 1) for beta in scene.layer_betas])
        pictures = pictures.unflatten(0, shape[:2])
        masks = pictures[:, :, :, COLOURS]
        if scene.mask_noise is not None:
            masks = soft_clamp(masks + pictures[:, :, :, COLOURS + 1] * scene.mask_noise[which])
        return pictures[:, :, :, :COLOURS], masks

    @torch.no_grad()
    def _select(self, image: Float[Tensor, "B 3 H W"], scene: Scene) -> tuple[Int64[Tensor, "L B"], Int64[Tensor, "B"]]:
        """`dti_selection.select`, on the CPU of so few images at a time that they stay in the cache."""
        floats = 4 * self.num_slots * self.num_sprites * image[0, 0].numel()
        together = max(1, FLOATS_AT_ONCE // floats) if image.device.type == "cpu" else len(image)
        sprites = torch.arange(self.num_sprites, device=image.device)
        found = []
        for start in range(0, len(image), together):
            rows = slice(start, start + together)
            part = scene.part(rows)
            which = sprites.expand(self.num_slots, len(part.covers), -1)
            rgb, masks = self.place(part, which)
            rgb.mul_(masks.unsqueeze(3))
            penalty = None if self.is_frozen else self.empty_penalty
            found.append(select(image[rows], rgb, masks, part.backgrounds, part.covers, self.greedy_rounds, penalty))
        chosen, ground = zip(*found)
        return torch.cat(chosen, dim=1), torch.cat(ground)

    def _sprites(self, noisy: bool) -> Float[Tensor, "K1 C h w"]:
        masks = self.masks if noisy else soft_clamp(self.masks)
        parts = [soft_clamp(self.prototypes), masks] + ([torch.ones_like(masks)] if noisy else [])
        sprites = F.pad(torch.cat(parts, dim=1), (0, 0, 0, 0, 0, 0, 0, 1))
        return sprites.detach() if self.is_frozen else sprites

    def _mask_noise(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None) -> Float[Tensor, "K1 H W"]:
        noise = noise or standard_normal(image.device)
        uniform = torch.special.ndtr(noise("mask_noise", (self.num_sprites, *image.shape[2:]))).float()
        return F.pad(self.mask_noise * (2 * uniform - 1), (0, 0, 0, 0, 0, 1))

    def _recreate_sprites(self, step: int) -> None:
        """By a random slot's choices; the draws are a function of (seed, step)."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed(), step, 1))
        slot = int(torch.randint(self.num_slots, (), generator=generator))
        targets, source = unused_sprites(self.frequencies.mean()[slot, : self.num_sprites])
        if not targets:
            return
        self.copy_sprite(source, targets)
        for sprite in (*targets, source):
            draw = torch.randn(self.prototypes.shape[1:], generator=generator)
            self.prototypes.data[sprite] += NOISE * draw.to(self.prototypes)

    def copy_sprite(self, source: int, targets: Sequence[int]) -> None:
        """Make the sprites `targets` what `source` is, in all slots and for the optimiser too."""
        copies = [(self.prototypes, 0), (self.masks, 0), *((value, 1) for value in self.sprites.parameters())]
        for parameter, axis in copies:
            copy_entry(parameter, axis, source, targets, self.optimizer)

    def _seed(self) -> int:
        return self.noise.seed if self.noise else 0
