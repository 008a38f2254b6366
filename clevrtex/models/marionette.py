"""MarioNette (Smirnov et al. 2021): pictures as layers of patches that are chosen from a learned dictionary of sprites.

Shapes: B images of side S, L layers of G x G cells of p pixels, N = B L G G patches of side P = 2p in that order, C
sprites, D code size. Differs from the original code, with equal numbers: a soft choice of sprites is one matrix
product, what shows of every patch is computed for evaluation only, and the pass with hard choices, whose PSNR is
logged, takes all but the choices from the soft one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clevrtex.models.partial_convolution import NUM_GROUPS, Encoder
from clevrtex.models.sprite_dictionary import SpriteDictionary, choose, mix
from clevrtex.models.sprite_layers import (
    composite,
    from_back_to_front,
    interleave,
    patch_places,
    per_raster,
    slide,
    translate,
    visible,
)
from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.types import Decomposition

EPSILON = 1e-5


def code_mlp(code_size: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(code_size, code_size),
        nn.GroupNorm(NUM_GROUPS, code_size),
        nn.LeakyReLU(),
        nn.Linear(code_size, outputs),
    )


def indecision(probabilities: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean density of Beta(2, 2), which is small where probabilities are near 0 or 1."""
    clamped = probabilities.clamp(EPSILON, 1 - EPSILON)
    return (6 * clamped * (1 - clamped)).mean()


def psnr(squared_error: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], from the mean squared error."""
    return -10 * squared_error.log10()


@dataclass
class Inference:
    """What the encoders make of a batch, and the pictures that they chose from."""

    weights: Float[Tensor, "B L G G C"]
    presence: Float[Tensor, "B L G G"]
    shifts: Float[Tensor, "N 2"] | Float[Tensor, "N 2 T"]
    """In half patches, or weights of T whole-pixel shifts; x before y."""
    patches: Float[Tensor, "N 4 P P"]
    """Mixed from the sprites, neither shifted nor weighted by their presence."""
    sprites: Float[Tensor, "C 4 P P"]
    background: Float[Tensor, "B 3 S S"]

    def hardened(self) -> "Inference":
        """One sprite for every patch, which is there or not, at one place."""
        chosen, shifts = self.weights.argmax(dim=-1), self.shifts
        if shifts.ndim == 3:
            shifts = F.one_hot(shifts.argmax(dim=-1), shifts.shape[2]).to(shifts.dtype)
        return Inference(
            weights=F.one_hot(chosen, len(self.sprites)).to(self.weights.dtype),
            presence=self.presence.round(),
            shifts=shifts,
            patches=self.sprites[chosen.flatten()],
            sprites=self.sprites,
            background=self.background,
        )


class MarioNette(nn.Module):
    """MarioNette for square pictures, whose side is a power of two.

    layer_size: G, even; layers have G x G patches, two cells wide each. dim_z and dim_bg: sizes of the codes of patches
    and backgrounds, multiples of 8 and at least 16. num_backgrounds: 0 for the constant `background_colour`.
    beta_weight and presence_weights: of the loss terms `beta_loss` and `probs_loss`; the latter one for all layers or
    one for each. straight_through_presence: presence is rounded in training, too. spatial_transformer: patches move by
    fractions of a pixel; else a mixture of whole-pixel shifts is learnt. Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        layer_size: int = 8,
        num_layers: int = 2,
        num_classes: int = 150,
        dim_z: int = 128,
        dim_bg: int = 16,
        num_backgrounds: int = 1,
        background_colour: tuple[float, float, float] = (0.0, 0.0, 0.0),
        beta_weight: float = 0.002,
        presence_weights: tuple[float, ...] = (5e-3,),
        straight_through_presence: bool = False,
        spatial_transformer: bool = True,
    ):
        super().__init__()
        _check_sizes(image_size, layer_size, dim_z, dim_bg if num_backgrounds else None)
        for flag, count in (("num_layers", num_layers), ("num_classes", num_classes)):
            if count < 1:
                raise ValueError(f"--{flag} {count}: expected at least 1")
        if len(presence_weights) not in (1, num_layers):
            raise ValueError(f"--w_probs: expected 1 weight or {num_layers}, one per layer, found {presence_weights}")
        side, size = image_size[0], 2 * image_size[0] // layer_size
        self.num_layers, self.patch_size = num_layers, size
        self.beta_weight = beta_weight
        self.straight_through_presence, self.spatial_transformer = straight_through_presence, spatial_transformer
        self.encoder = Encoder(3, side, layer_size, dim_z, num_layers)
        self.to_presence = code_mlp(dim_z, 1)
        self.project = nn.Linear(dim_z, dim_z)
        self.dictionary = SpriteDictionary(num_classes, (4, size, size), dim_z)
        self.shift_encoder = Encoder(7, size, 1, dim_z)
        if spatial_transformer:
            self.to_shift = code_mlp(dim_z, 2)
        else:
            self.to_shift_x = code_mlp(dim_z, size // 2 + 1)
            self.to_shift_y = code_mlp(dim_z, size // 2 + 1)
        self.num_backgrounds = num_backgrounds
        if num_backgrounds:
            self.background = SpriteDictionary(num_backgrounds, (3, side, side), dim_bg)
            self.background_encoder = Encoder(3, side, 1, dim_bg)
            self.background_project = nn.Linear(dim_bg, dim_bg)
        else:
            self.register_buffer("background_colour", torch.tensor(background_colour))
        self.register_buffer("presence_weights", torch.tensor(presence_weights)[:, None, None], persistent=False)
        self.register_buffer("patch_places", patch_places(layer_size, size), persistent=False)
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Mean squared error and penalties of `batch["image"]` (B, 3, S, S) in [0, 1].

        Terms: `rec_loss`, `beta_loss` and `probs_loss` before their weights, `psnr` and `psnr_hard` in dB, the latter
        of hard choices.
        """
        image = batch["image"]
        found = self(image)
        order = self.draw_order(len(image), self.noise.at(step, image.device) if self.noise else None, image.device)
        with torch.no_grad():
            hard_error = F.mse_loss(self.reconstruct(found.hardened(), order), image)
        return {**self.loss_terms(found, self.reconstruct(found, order), image), "psnr_hard": psnr(hard_error)}

    def loss_terms(
        self, found: Inference, recon: Float[Tensor, "B 3 S S"], image: Float[Tensor, "B 3 S S"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Those of `loss`, but for `psnr_hard`."""
        rec_loss = F.mse_loss(recon, image)
        beta_loss = (indecision(found.weights) + indecision(found.presence)) / 2
        # An L1 norm: where straight-through rounding has made a presence zero, it has no gradient.
        penalty = (self.presence_weights * found.presence).abs().mean()
        return {
            "loss": rec_loss + self.beta_weight * beta_loss + penalty,
            "rec_loss": rec_loss,
            "beta_loss": beta_loss,
            "probs_loss": found.presence.mean(),
            "psnr": psnr(rec_loss),
        }

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """What shows of every patch: slot 0 is the background, that is, what the patches leave over.

        The others are those of the layers from back to front, within each by raster in the drawn order. A slot's
        picture is black outside its patch. Extras: `presence` (B, K - 1) of the patches, `counts` (B,), how many of
        them exceed 0.5 anywhere, and `background` (B, 3, S, S).
        """
        image = batch["image"]
        return self.decomposition(self(image), self.draw_order(len(image), noise, image.device))

    def decomposition(self, found: Inference, order: Int64[Tensor, "B 4"]) -> Decomposition:
        """That of `decompose`, for rasters that cover each other in this order."""
        rasters = from_back_to_front(self.lay_out(found), order)
        shown, uncovered = visible(rasters[:, :, 3])
        places = from_back_to_front(self.patch_places.expand(len(order), self.num_layers, -1, -1, -1, -1), order)
        masks = (shown[:, :, None] * places).flatten(1, 2)
        rgb = (rasters[:, :, None, :3] * places[:, :, :, None]).flatten(1, 2)
        return Decomposition(
            recon=composite(rasters, found.background),
            masks=torch.cat((uncovered[:, None], masks), dim=1),
            rgb=torch.cat((found.background[:, None], rgb), dim=1),
            extras={
                "presence": from_back_to_front(per_raster(found.presence), order).flatten(1),
                "counts": (masks.amax(dim=(2, 3)) > 0.5).sum(dim=1),
                "background": found.background,
            },
        )

    def draw_order(self, num_images: int, noise: Noise | None, device: torch.device) -> Int64[Tensor, "B 4"]:
        """For every image the order in which the four rasters of a layer cover each other, the nearest last.

        The ranks of a draw (B, 4), which is called `order`; the original has one order for a batch.
        """
        return (noise or standard_normal(device))("order", (num_images, 4)).argsort(dim=1, stable=True)

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> Inference:
        """Choose sprites, shifts and the background for `image` in [0, 1]."""
        codes = self.encoder(image)
        presence = self.to_presence(codes.flatten(0, 3)).float().sigmoid().view(codes.shape[:4])
        if self.straight_through_presence:
            presence = presence + (presence.round() - presence).detach()
        sprites, sprite_codes = self.dictionary()
        weights = choose(self.project(codes), sprite_codes)
        patches = mix(weights.flatten(0, 3), sprites)
        shifts = self._shifts(torch.cat((self._windows(image), patches), dim=1))
        return Inference(weights, presence, shifts, patches, sprites, self._background(image))

    def _windows(self, image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "N 3 P P"]:
        """What the image shows around every cell, again for every layer; zero outside."""
        size = self.patch_size
        windows = F.pad(image, (size // 4,) * 4).unfold(2, size, size // 2).unfold(3, size, size // 2)
        return windows.permute(0, 2, 3, 1, 4, 5)[:, None].expand(-1, self.num_layers, *(-1,) * 5).flatten(0, 3)

    def _shifts(self, inputs: Float[Tensor, "N 7 P P"]) -> Float[Tensor, "N 2"] | Float[Tensor, "N 2 T"]:
        codes = self.shift_encoder(inputs).flatten(1)
        if self.spatial_transformer:
            return self.to_shift(codes).float().tanh() / 2
        return torch.stack((self.to_shift_x(codes), self.to_shift_y(codes)), dim=1).float().softmax(dim=2)

    def _background(self, image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        if not self.num_backgrounds:
            return self.background_colour.clamp(0, 1)[:, None, None].expand_as(image)
        pictures, codes = self.background()
        return mix(choose(self.background_project(self.background_encoder(image).flatten(1)), codes), pictures)

    def lay_out(self, found: Inference) -> Float[Tensor, "B L 4 4 S S"]:
        """The rasters of every layer, in the order of PARITIES."""
        patches = found.patches * found.presence.view(-1, 1, 1, 1)
        with torch.autocast(patches.device.type, enabled=False):
            moved = (translate if self.spatial_transformer else slide)(patches, found.shifts)
        return interleave(moved.unflatten(0, found.presence.shape))

    def reconstruct(self, found: Inference, order: Int64[Tensor, "B 4"]) -> Float[Tensor, "B 3 S S"]:
        return composite(from_back_to_front(self.lay_out(found), order), found.background)


def _check_sizes(image_size: tuple[int, int], layer_size: int, dim_z: int, dim_bg: int | None) -> None:
    height, width = image_size
    even = layer_size > 0 and layer_size % 2 == 0
    pixels, rest = divmod(width, layer_size) if even else (0, 0)
    if height != width or rest or pixels < 2 or pixels & (pixels - 1):
        raise ValueError(
            f"layer_size={layer_size}: expected an even number and square pictures whose side is that number times 2, "
            f"4, 8, ..., found pictures of {height}x{width}. Take pictures of another size, such as 128x128"
        )
    if dim_bg is not None and width & (width - 1):
        raise ValueError(
            f"the encoder of backgrounds halves pictures of {height}x{width} down to one pixel, so their side must be "
            "a power of two. Take such pictures, or a constant colour with --background 0"
        )
    for flag, size in (("dim_z", dim_z), ("dim_bg", dim_bg)):
        if size is not None and (size < 16 or size % NUM_GROUPS):
            raise ValueError(
                f"--{flag} {size}: expected a multiple of {NUM_GROUPS} that is at least 16. Group norm has "
                f"{NUM_GROUPS} groups, and one value alone is normalised to a constant, which ignores the picture"
            )
