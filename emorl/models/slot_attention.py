"""The Slot Attention baseline of the EfficientMORL repository (Locatello et al. 2020)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.nn.slot_attention import compete
from core.types import Decomposition
from emorl.models.decoders import DecoderName, Decoding, build_decoder
from emorl.models.encoder import PixelEncoder
from emorl.models.gaussian import scale_to_std
from emorl.models.initialisation import init_small


class SlotAttention(nn.Module):
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
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""
        if small_init:
            init_small(self.decoder)

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Squared error summed over pixels and channels, mean over images; `batch["image"]` (N, 3, H, W) in [0, 1]."""
        image = batch["image"]
        noise = self.noise.at(step, image.device) if self.noise else None
        found = self.decompose(batch, noise)
        return {"loss": (image - found.recon).square().sum() / len(image)}

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """Slots after the last iteration and their pictures. Extras: `log_masks` and `attention`, both (N, K, H, W)."""
        slots, attention = self._infer(batch["image"], noise)
        return self._draw(slots[-1], attention[-1], batch["image"])

    def unroll(self, batch: dict[str, Tensor], noise: Noise | None = None) -> list[Decomposition]:
        """The decomposition after every iteration, as `decompose` gives the last."""
        return [self._draw(*found, batch["image"]) for found in zip(*self._infer(batch["image"], noise))]

    def infer_codes(
        self, image: Float[Tensor, "N 3 H W"], noise: Noise | None = None, *, sample: bool = False
    ) -> Float[Tensor, "N K D"]:
        """What `decode_slots` reads: the slots. They have no distribution, so `sample` changes nothing."""
        return self._infer(image, noise)[0][-1].detach()

    def decode_slots(self, codes: Float[Tensor, "S D"]) -> Decoding:
        """RGB in [0, 1] and mask logits of S slots, each by itself."""
        return self.decoder(codes)

    def _infer(self, image: Float[Tensor, "N 3 H W"], noise: Noise | None) -> tuple[list[Tensor], list[Tensor]]:
        features = self.encoder(2 * image - 1).float()
        with torch.autocast(image.device.type, enabled=False):
            return self.attend(features, noise or standard_normal(image.device))

    def _draw(
        self, slots: Float[Tensor, "N K D"], attention: Float[Tensor, "N K P"], image: Float[Tensor, "N 3 H W"]
    ) -> Decomposition:
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
