"""The Slot Attention baseline of the EfficientMORL repository (Locatello et al. 2020)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import Noise, standard_normal
from core.nn.slot_attention import compete
from core.types import Decomposition
from emorl.models.decoders import DecoderName, Decoding, build_decoder, compose
from emorl.models.encoder import PixelEncoder
from emorl.models.gaussian import scale_to_std
from emorl.models.initialisation import init_small
from emorl.models.slot_autoencoder import SlotAutoencoder


class SlotAttention(SlotAutoencoder):
    """Slot Attention autoencoder with EfficientMORL's encoder and decoders; three iterations, squared-error loss.

    `small_init` starts the decoder with very small weights, as the original; without it PyTorch's defaults apply.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        num_slots: int,
        slot_size: int,
        decoder: DecoderName = "small",
        num_iterations: int = 3,
        small_init: bool = True,
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
        if small_init:
            init_small(self.decoder)

    def decode_slots(self, codes: Float[Tensor, "S D"]) -> Decoding:
        """RGB in [0, 1] and mask logits of S slots, each by itself."""
        return self.decoder(codes)

    def _infer(self, image: Float[Tensor, "N 3 H W"], noise: Noise | None) -> tuple[list[Tensor], list[Tensor]]:
        features = self.encoder(2 * image - 1).float()
        with torch.autocast(image.device.type, enabled=False):
            slots, attentions = self.attend(features, noise or standard_normal(image.device))
        return slots, [attention.unflatten(-1, image.shape[-2:]) for attention in attentions]

    def _draw(self, slots: Float[Tensor, "N K D"], attention: Float[Tensor, "N K H W"]) -> Decomposition:
        rgb, logits = self.decoder(slots.flatten(0, 1))
        rgb, logits = (value.unflatten(0, slots.shape[:2]) for value in (rgb, logits))
        masks = logits.softmax(dim=1)
        return Decomposition(
            recon=compose(masks, rgb),
            masks=masks,
            rgb=rgb,
            slots=slots,
            extras={"attention": attention, "log_masks": logits.log_softmax(dim=1)},
        )

    def attend(
        self, features: Float[Tensor, "N P C"], noise: Noise
    ) -> tuple[list[Float[Tensor, "N K D"]], list[Float[Tensor, "N K P"]]]:
        """Sampled initial slots, refined `num_iterations` times (Locatello et al. 2020, algorithm 1).

        Slots and attention after every iteration.
        """
        keys, values = self.to_key(features), self.to_value(features)
        shape = (len(features), self.num_slots, self.slot_size)
        mean, scale = self.initial.chunk(2)
        slots = mean + scale_to_std(scale) * noise("init", shape)
        of_iterations, attentions = [], []
        for _ in range(self.num_iterations):
            queries = self.to_query(self.norm_slots(slots)) * self.slot_size**-0.5
            updates, attention = compete(queries, keys, values)
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view(shape)
            slots = slots + self.mlp(slots)
            of_iterations.append(slots)
            attentions.append(attention.detach())
        return of_iterations, attentions
