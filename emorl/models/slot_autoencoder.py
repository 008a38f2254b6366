"""What the Slot Attention models of this folder share: slots from an image, pictures from slots, squared error."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import Noise, ShardedNoise
from core.types import Decomposition


class SlotAutoencoder(nn.Module, ABC):
    """An autoencoder whose slots have no distribution; it says how to `_infer` them and how to `_draw` them."""

    def __init__(self):
        super().__init__()
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    @abstractmethod
    def _infer(
        self, image: Float[Tensor, "N 3 H W"], noise: Noise | None
    ) -> tuple[list[Float[Tensor, "N K Z"]], list[Float[Tensor, "N K H_a W_a"]]]:
        """Codes, which are the slots and what else belongs to them, and attention after every iteration."""

    @abstractmethod
    def _draw(self, codes: Float[Tensor, "N K Z"], attention: Float[Tensor, "N K H_a W_a"]) -> Decomposition:
        """The pictures of the codes. Extras: `log_masks` (N, K, H, W) and `attention`."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Squared error summed over pixels and channels, mean over images; `batch["image"]` (N, 3, H, W) in [0, 1]."""
        image = batch["image"]
        noise = self.noise.at(step, image.device) if self.noise else None
        found = self.decompose(batch, noise)
        return {"loss": (image - found.recon).square().sum() / len(image)}

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """Slots after the last iteration and their pictures."""
        return self._draw(*(found[-1] for found in self._infer(batch["image"], noise)))

    def unroll(self, batch: dict[str, Tensor], noise: Noise | None = None) -> list[Decomposition]:
        """The decomposition after every iteration, as `decompose` gives the last."""
        return [self._draw(*found) for found in zip(*self._infer(batch["image"], noise))]

    def infer_codes(
        self, image: Float[Tensor, "N 3 H W"], noise: Noise | None = None, *, sample: bool = False
    ) -> Float[Tensor, "N K Z"]:
        """What `decode_slots` reads. It has no distribution, so `sample` changes nothing."""
        return self._infer(image, noise)[0][-1].detach()
