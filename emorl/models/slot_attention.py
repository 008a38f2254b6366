"""The Slot Attention baseline of the EfficientMORL repository (Locatello et al. 2020)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.nn.slot_attention import compete
from core.types import Decomposition
from emorl.models.decoders import DecoderName, build_decoder
from emorl.models.encoder import PixelEncoder
from emorl.models.gaussian import scale_to_std
from emorl.models.initialisation import init_small


class SlotAttention(nn.Module):
    """Slot Attention autoencoder with EfficientMORL's encoder and decoders; three iterations, squared-error loss."""

    def __init__(
        self,
        image_size: tuple[int, int],
        num_slots: int,
        slot_size: int,
        decoder: DecoderName = "small",
        num_iterations: int = 3,
    ):
        super().__init__()
        self.num_slots = num_slots
        self.slot_size = slot_size
        self.num_iterations = num_iterations
        self.encoder = PixelEncoder(image_size)
        self.initial = nn.Parameter(torch.cat((torch.zeros(slot_size), torch.ones(slot_size))))
        self.norm_slots = nn.LayerNorm(slot_size)
        self.to_query = nn.Linear(slot_size, slot_size, bias=False)
        self.to_key = nn.Linear(64, slot_size, bias=False)
        self.to_value = nn.Linear(64, slot_size, bias=False)
        self.gru = nn.GRUCell(slot_size, slot_size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(slot_size), nn.Linear(slot_size, 128), nn.ReLU(), nn.Linear(128, slot_size)
        )
        self.decoder = build_decoder(decoder, slot_size, image_size)
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""
        init_small(self.decoder)

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Squared error summed over pixels and channels, mean over images; `batch["image"]` (N, 3, H, W) in [0, 1]."""
        image = batch["image"]
        noise = self.noise.at(step, image.device) if self.noise else None
        found = self.decompose(batch, noise)
        return {"loss": (image - found.recon).square().sum() / len(image)}

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """Slots after the last iteration and their pictures. Extras: `attention` of the last iteration (N, K, H, W)."""
        image = batch["image"]
        features = self.encoder(2 * image - 1).float()
        with torch.autocast(image.device.type, enabled=False):
            slots, attention = self.attend(features, noise or standard_normal(image.device))
        rgb, logits = self.decoder(slots.flatten(0, 1))
        rgb, logits = (value.unflatten(0, slots.shape[:2]) for value in (rgb, logits))
        masks = logits.softmax(dim=1)
        return Decomposition(
            recon=torch.einsum("nkhw,nkchw->nchw", masks, rgb),
            masks=masks,
            rgb=rgb,
            slots=slots,
            extras={"attention": attention.unflatten(-1, image.shape[-2:]), "log_masks": logits.log_softmax(dim=1)},
        )

    def attend(
        self, features: Float[Tensor, "N P C"], noise: Noise
    ) -> tuple[Float[Tensor, "N K D"], Float[Tensor, "N K P"]]:
        """Sampled initial slots, refined `num_iterations` times (Locatello et al. 2020, algorithm 1)."""
        keys, values = self.to_key(features), self.to_value(features)
        shape = (len(features), self.num_slots, self.slot_size)
        mean, scale = self.initial.chunk(2)
        slots = mean + scale_to_std(scale) * noise("init", shape)
        for _ in range(self.num_iterations):
            queries = self.to_query(self.norm_slots(slots)) * self.slot_size**-0.5
            updates, attention = compete(queries, keys, values)
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view(shape)
            slots = slots + self.mlp(slots)
        return slots, attention.detach()
