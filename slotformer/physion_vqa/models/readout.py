"""The read-out that SlotFormer (Wu et al. 2023) asks whether two marked objects touch, as Physion does.

Shapes: B videos, T frames, N slots, D slot size, F features. Differs from the original code, with equal numbers:

- No pair of slots is formed. linear1 of a pair is the sum of what it makes of either half, Wa s_i + Wb s_j. The largest
  of these sums over i < j is the largest over j of (the largest Wa s_i of all i < j) + Wb s_j; rounding keeps the order
  of sums, so this is exact. Means and sums over pairs are weighted sums of slots.
- A video's logit is the largest of its frames. Gradients pass through that frame alone, so it alone is computed with a
  graph.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.data.loader import Batch
from slotformer.framework.answers import answer_losses

AGGREGATES = ("max", "mean", "sum")


class PhysionReadout(nn.Module):
    """A linear layer on every pair of slots, aggregated over pairs, and a linear layer on that; the largest of a video.

    `agg_func` is "max", "mean" or "sum". Raises ValueError for another one and for fewer than two slots.
    """

    def __init__(
        self,
        num_slots: int,
        slot_size: int,
        agg_func: str = "max",
        feats_dim: int = 192,
        vqa_loss_w: float = 1.0,
    ):
        super().__init__()
        if agg_func not in AGGREGATES:
            raise ValueError(f"agg_func {agg_func!r} is not one of {', '.join(AGGREGATES)}")
        if num_slots < 2:
            raise ValueError(f"num_slots={num_slots}: a pair takes two")
        self.num_slots = num_slots
        self.agg_func = agg_func
        self.vqa_loss_w = vqa_loss_w
        self.linear1 = nn.Linear(2 * slot_size, feats_dim)
        self.linear2 = nn.Linear(feats_dim, 1)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`vqa_loss`, the cross-entropy of `label` (B,) given `slots` (B, T, N, D), and its share of `loss`."""
        vqa_loss = answer_losses(self.answer(batch["slots"]), batch["label"]).mean()
        return {"vqa_loss": vqa_loss, "loss": self.vqa_loss_w * vqa_loss}

    def answer(self, slots: Float[Tensor, "B T N D"]) -> Float[Tensor, "B"]:
        """The logit of touching at any time. Float32 also under autocast."""
        with torch.no_grad():
            decisive = self.frame_logits(slots).argmax(dim=1)
        rows = torch.arange(len(slots), device=slots.device)
        return self.frame_logits(slots[rows, decisive].unsqueeze(1)).squeeze(1)

    def frame_logits(self, slots: Float[Tensor, "B T N D"]) -> Float[Tensor, "B T"]:
        """The logit of touching, from each frame by itself."""
        pairs = self._best_pairs(slots) if self.agg_func == "max" else self._all_pairs(slots)
        return self.linear2(pairs).squeeze(-1).float()

    def _best_pairs(self, slots: Float[Tensor, "B T N D"]) -> Float[Tensor, "B T F"]:
        """The largest of every feature over pairs."""
        halves = torch.cat(self.linear1.weight.chunk(2, dim=1))
        first, second = F.linear(slots, halves).chunk(2, dim=-1)
        firsts, seconds = first.unbind(dim=2), second.unbind(dim=2)
        before, best = firsts[0], firsts[0] + seconds[1]
        for own, other in zip(firsts[1:], seconds[2:]):
            before = torch.maximum(before, own)
            best = torch.maximum(best, before + other)
        return best + self.linear1.bias

    def _all_pairs(self, slots: Float[Tensor, "B T N D"]) -> Float[Tensor, "B T F"]:
        """The sum of every feature over pairs, or the mean. Slot i comes first in N - 1 - i pairs, last in i."""
        count = self.num_slots
        places = torch.arange(count, dtype=slots.dtype, device=slots.device)
        uses = torch.stack([count - 1 - places, places])
        num_pairs = count * (count - 1) / 2
        if self.agg_func == "mean":
            uses, num_pairs = uses / num_pairs, 1.0
        summed = torch.einsum("kn,btnd->btkd", uses, slots).flatten(2)
        return F.linear(summed, self.linear1.weight, num_pairs * self.linear1.bias)
