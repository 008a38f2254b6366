"""Slot Attention (Locatello et al. 2020) as the ClevrTex benchmark trains it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.nn.positions import position_grid
from core.nn.slot_attention import compete
from core.nn.slot_chunks import split_slots
from core.types import Decomposition


@dataclass
class Reconstruction:
    """What the decoder made of the slots; neither picture is squashed into [0, 1]."""

    recon: Float[Tensor, "B 3 H W"]
    rgb: Float[Tensor, "B K 3 H W"]
    masks: Float[Tensor, "B K H W"]
    slots: Float[Tensor, "B K D"]
    attention: Float[Tensor, "B K N"]
    """Of the last iteration over the N pixels, row by row; sums to one over K."""


class Encoder(nn.Module):
    """Four 5x5 convolutions and a learned projection of the position; then a two-layer MLP per pixel.

    Other than in Locatello et al. (2020) a ReLU follows the last convolution too, and the layer norm is over all pixels
    and channels of an image, with a weight and a bias for each of them.
    """

    def __init__(self, image_size: tuple[int, int], width: int):
        super().__init__()
        convolutions = []
        for channels in (3, width, width, width):
            convolutions += [nn.Conv2d(channels, width, 5, padding=2), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*convolutions)
        self.position = nn.Linear(4, width)
        self.norm = nn.LayerNorm((*image_size, width))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width))
        self.register_buffer("grid", position_grid(*image_size), persistent=False)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Features of all N = H * W pixels, row by row."""
        features = self.convolutions(image.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        return self.mlp(self.norm(features + self.position(self.grid))).flatten(1, 2)


class SlotUpdate(nn.Module):
    """Slots sampled from a learned Gaussian, refined `num_iterations` times (Locatello et al. 2020, algorithm 1)."""

    def __init__(self, num_slots: int, num_iterations: int, width: int, mlp_hidden: int):
        super().__init__()
        self.num_slots = num_slots
        self.num_iterations = num_iterations
        self.initial_mean = nn.Parameter(torch.randn(width))
        self.initial_log_std = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 1, width)).flatten())
        self.norm_inputs = nn.LayerNorm(width)
        self.norm_slots = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width)
        self.to_key = nn.Linear(width, width)
        self.to_value = nn.Linear(width, width)
        self.gru = nn.GRUCell(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, mlp_hidden), nn.ReLU(), nn.Linear(mlp_hidden, width)
        )

    def forward(
        self, features: Float[Tensor, "B N D"], noise: Noise
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K N"]]:
        """The slots, and the last attention, which sums to one over K."""
        inputs = self.norm_inputs(features)
        keys, values = self.to_key(inputs), self.to_value(inputs)
        shape = (len(features), self.num_slots, self.initial_mean.numel())
        slots = self.initial_mean + self.initial_log_std.exp() * noise("slots", shape)
        attention = features.new_zeros(*shape[:2], features.shape[1])
        for _ in range(self.num_iterations):
            queries = self.to_query(self.norm_slots(slots)) * shape[2] ** -0.5
            updates, attention = compete(queries, keys, values)
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view(shape)
            slots = slots + self.mlp(slots)
        return slots, attention


class Decoder(nn.Module):
    """Every slot on a small grid with positions, enlarged sixteenfold by four transposed convolutions."""

    def __init__(self, grid_size: tuple[int, int], width: int):
        super().__init__()
        doubling = {"stride": 2, "padding": 2, "output_padding": 1}
        layers = []
        for options in (doubling, doubling, doubling, doubling, {"padding": 2}):
            layers += [nn.ConvTranspose2d(width, width, 5, **options), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, 4, 3, padding=1))
        self.position = nn.Linear(4, width)
        self.register_buffer("grid", position_grid(*grid_size), persistent=False)
        self.floats_per_slot = width * 16**2 * grid_size[0] * grid_size[1]

    def forward(self, slots: Float[Tensor, "S D"]) -> Float[Tensor, "S 4 H W"]:
        """RGB without bounds, and the logit of the mask."""
        # [S, H, W, C] is channels-last memory of [S, C, H, W].
        grids = (slots[:, None, None] + self.position(self.grid)).permute(0, 3, 1, 2)
        return torch.cat([self.layers(few).float().contiguous() for few in split_slots(grids, self.floats_per_slot)])


class SlotAttention(nn.Module):
    """Slot Attention autoencoder for `image_size` (h, w); squared-error loss.

    The decoder makes pictures of 16 times `decoder_initial_size` (h, w), which are resized where images differ from it.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        num_slots: int = 11,
        num_iterations: int = 3,
        hidden: int = 64,
        mlp_hidden: int = 128,
        decoder_initial_size: tuple[int, int] = (8, 8),
    ):
        super().__init__()
        self.encoder = Encoder(image_size, hidden)
        self.slot_update = SlotUpdate(num_slots, num_iterations, hidden, mlp_hidden)
        self.decoder = Decoder(decoder_initial_size, hidden)
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Squared error summed over pixels and channels, mean over images; `batch["image"]` (B, 3, H, W) in [0, 1]."""
        image = batch["image"]
        noise = self.noise.at(step, image.device) if self.noise else None
        found = self(image, noise)
        return {"loss": (image - found.recon).square().sum() / len(image)}

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """Slots after the last iteration and their pictures, cut to [0, 1]. Extras: `attention` (B, K, H, W)."""
        image = batch["image"]
        found = self(image, noise)
        return Decomposition(
            recon=found.recon.clamp(0, 1),
            masks=found.masks,
            rgb=found.rgb.clamp(0, 1),
            slots=found.slots,
            extras={"attention": found.attention.unflatten(-1, image.shape[-2:])},
        )

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None) -> Reconstruction:
        """Decompose `image` in [0, 1]; the one draw, `slots`, has the shape of the slots."""
        features = self.encoder(image).float()
        with torch.autocast(image.device.type, enabled=False):
            slots, attention = self.slot_update(features, noise or standard_normal(image.device))
        pictures = self.decoder(slots.flatten(0, 1))
        if pictures.shape[-2:] != image.shape[-2:]:
            pictures = F.interpolate(pictures, image.shape[-2:], mode="bicubic", align_corners=False)
        pictures = pictures.unflatten(0, slots.shape[:2])
        rgb, masks = pictures[:, :, :3], pictures[:, :, 3].softmax(dim=1)
        return Reconstruction((masks[:, :, None] * rgb).sum(dim=1), rgb, masks, slots, attention)
