"""MONet (Burgess et al. 2019): recurrent attention cuts the image into slots, a VAE explains each of them.

Shapes: B images, K slots, D slot size. Differs from the original code, with equal numbers: encoder and decoder see all
slots at once; what the attention's first convolution makes of the image is computed once for all slots, and so is what
the decoder's makes of the positions.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.iodine_decoder import coordinate_grid
from clevrtex.models.unet import UNet
from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.nn.slot_chunks import split_slots
from core.types import Decomposition

KL_WEIGHT = 0.5
MASK_KL_WEIGHT = 0.5


def mixture_nll(
    image: Float[Tensor, "B 3 H W"],
    rgb: Float[Tensor, "B K 3 H W"],
    log_masks: Float[Tensor, "B K H W"],
    std: Float[Tensor, "K 1 1 1"] | Float[Tensor, ""],
) -> Float[Tensor, "B"]:
    """Nats per image of a mixture of Gaussians per pixel and channel, as if masks were drawn for each channel."""
    log_joint = log_masks[:, :, None] - std.log() - (image[:, None] - rgb).square() / (2 * std.square())
    return image[0].numel() * math.log(2 * math.pi) / 2 - torch.logsumexp(log_joint, dim=1).flatten(1).sum(dim=1)


@dataclass
class Inference:
    """What one pass found. The three terms are in nats per image, before any weight."""

    nll: Float[Tensor, "B"]
    kl: Float[Tensor, "B"]
    mask_kl: Float[Tensor, "B"]
    """Of the attention's masks from those that the decoder makes of the slots."""
    log_masks: Float[Tensor, "B K H W"]
    rgb: Float[Tensor, "B K 3 H W"]
    log_decoded_masks: Float[Tensor, "B K H W"]
    mean: Float[Tensor, "B K D"]
    std: Float[Tensor, "B K D"]


class Attention(nn.Module):
    """Masks by stick breaking: each pass of a U-Net takes its share of the scope, the last slot what is left."""

    def __init__(self, image_size: tuple[int, int], num_slots: int, num_blocks: int, width: int):
        super().__init__()
        self.num_slots = num_slots
        self.unet = UNet(4, [width * min(2**i, 8) for i in range(num_blocks)], image_size)
        self.to_logit = nn.Conv2d(width, 1, 1)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        """Log masks."""
        kernels = self.unet.kernels()
        of_image, of_scope = self.unet.down[0].convolutions[0].weight.split((3, 1), dim=1)
        shared = F.conv2d(image, of_image, padding=1)
        log_scope = image.new_zeros(len(image), 1, *image.shape[2:])
        log_masks = []
        for _ in range(self.num_slots - 1):
            features = shared + F.conv2d(log_scope, of_scope, padding=1)
            logits = self.to_logit(self.unet(features, kernels)).float()
            log_masks.append(log_scope + F.logsigmoid(logits))
            log_scope = log_scope + F.logsigmoid(-logits)
        return torch.cat([*log_masks, log_scope], dim=1)


class ComponentEncoder(nn.Module):
    """The posterior of one slot from the image and its log mask."""

    def __init__(self, image_size: tuple[int, int], slot_size: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in ((4, 32), (32, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        height, width = (-(-length // 16) for length in image_size)
        layers += [nn.Flatten(), nn.Linear(64 * height * width, 256), nn.ReLU(), nn.Linear(256, 2 * slot_size)]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, image: Float[Tensor, "B 3 H W"], log_masks: Float[Tensor, "B K H W"]
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K D"]]:
        """Mean and standard deviation of every slot."""
        images = image[:, None].expand(-1, log_masks.shape[1], -1, -1, -1)
        inputs = torch.cat((images, log_masks[:, :, None]), dim=2).flatten(0, 1)
        mean, log_std = self.layers(inputs).float().unflatten(0, log_masks.shape[:2]).chunk(2, dim=-1)
        return mean, log_std.exp()


class ComponentDecoder(nn.Module):
    """Spatial broadcast decoder (Watters et al. 2019): unpadded convolutions over the slot and two coordinates.

    Over the slot, which is the same everywhere, the first convolution is a product with the sum of its kernel.
    """

    def __init__(self, image_size: tuple[int, int], slot_size: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before in (slot_size + 2, 32, 32, 32):
            layers += [nn.Conv2d(before, 32, 3), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(32, 4, 1))
        self.register_buffer("grid", coordinate_grid(image_size[0] + 8, image_size[1] + 8), persistent=False)
        self.floats_per_slot = 32 * self.grid[0].numel()

    def forward(self, slots: Float[Tensor, "S D"]) -> tuple[Float[Tensor, "S 3 H W"], Float[Tensor, "S H W"]]:
        """RGB in [0, 1] and mask logits."""
        first, rest = self.layers[0], self.layers[1:]
        of_slot, of_grid = first.weight.split((slots.shape[1], 2), dim=1)
        vectors = (slots @ of_slot.sum(dim=(2, 3)).t())[:, :, None, None]
        shared = F.conv2d(self.grid[None], of_grid, first.bias).contiguous(memory_format=torch.channels_last)
        pieces = split_slots(vectors, self.floats_per_slot)
        pictures = torch.cat([rest(few + shared).float().contiguous() for few in pieces])
        return pictures[:, :3].sigmoid(), pictures[:, 3]


class MONet(nn.Module):
    """MONet for images of `image_size` (h, w); the first slot is told apart as background by its `background_std`.

    `num_blocks` and `width` are the depth and the least width of the attention's U-Net, each block of which halves the
    image: its bottom must keep more than one pixel.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        num_slots: int = 11,
        slot_size: int = 16,
        num_blocks: int = 6,
        width: int = 64,
        background_std: float = 0.09,
        foreground_std: float = 0.15,
    ):
        super().__init__()
        bottom = [length >> (num_blocks - 1) for length in image_size]
        if math.prod(bottom) < 2:
            raise ValueError(
                f"n_blocks={num_blocks}: {num_blocks - 1} times halved an image of {image_size[0]}x{image_size[1]} has "
                f"{bottom[0]}x{bottom[1]} pixels, and its normalisation needs two: take fewer blocks or larger images"
            )
        self.slot_size = slot_size
        self.attention = Attention(image_size, num_slots, num_blocks, width)
        self.encoder = ComponentEncoder(image_size, slot_size)
        self.decoder = ComponentDecoder(image_size, slot_size)
        std = torch.tensor([background_std] + [foreground_std] * (num_slots - 1))
        self.register_buffer("std", std[:, None, None, None], persistent=False)
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Negative ELBO with weighted KLs, mean over images; `batch["image"]` (B, 3, H, W) in [0, 1].

        Terms: `rec_loss` (nats per image), `kl` and `kl_mask` with their weights.
        """
        image = batch["image"]
        found = self(image, self.noise.at(step, image.device) if self.noise else None)
        nll, kl, mask_kl = found.nll.mean(), KL_WEIGHT * found.kl.mean(), MASK_KL_WEIGHT * found.mask_kl.mean()
        return {"loss": nll + kl + mask_kl, "rec_loss": nll, "kl": kl, "kl_mask": mask_kl}

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """The attention's masks, the pictures of sampled slots, and the means of the slots.

        Extras: `other_masks` (B, K, H, W), what the decoder makes of the masks; `kl` and `nll` per image (nats).
        """
        found = self(batch["image"], noise)
        masks = found.log_masks.exp()
        return Decomposition(
            recon=torch.einsum("bkhw,bkchw->bchw", masks, found.rgb),
            masks=masks,
            rgb=found.rgb,
            slots=found.mean,
            extras={"other_masks": found.log_decoded_masks.exp(), "kl": found.kl, "nll": found.nll},
        )

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None) -> Inference:
        """Decompose `image` in [0, 1]; the draws `slot_0`, `slot_1`, ... have the shape (B, D)."""
        noise = noise or standard_normal(image.device)
        log_masks = self.attention(image)
        mean, std = self.encoder(image, log_masks)
        shape = (len(image), self.slot_size)
        draws = torch.stack([noise(f"slot_{k}", shape) for k in range(log_masks.shape[1])], dim=1)
        rgb, logits = self.decoder((mean + std * draws).flatten(0, 1))
        rgb, log_decoded_masks = rgb.unflatten(0, mean.shape[:2]), logits.unflatten(0, mean.shape[:2]).log_softmax(1)
        nll = mixture_nll(image, rgb, log_masks, self.std)
        kl = ((mean.square() + std.square() - 1) / 2 - std.log()).flatten(1).sum(dim=1)
        mask_kl = (log_masks.exp() * (log_masks - log_decoded_masks)).flatten(1).sum(dim=1)
        return Inference(nll, kl, mask_kl, log_masks, rgb, log_decoded_masks, mean, std)
