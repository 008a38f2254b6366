"""How often a read-out is right about Physion's videos, and which threshold and weight are best.

Shapes: V videos, W weights, H thresholds.
"""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from core.data.physion import SCENARIOS
from slotformer.framework.extraction import Trained
from slotformer.physion_vqa.data import LabelledSlots
from slotformer.video_prediction.evaluation import batches


def touch_probabilities(trained: Sequence[Trained], source: LabelledSlots, batch_size: int) -> Float[Tensor, "W V"]:
    """What every weight thinks of every video, which is read once; the same in any number of processes."""
    accelerator, found = trained[0].accelerator, []
    own = np.array_split(np.arange(len(source)), accelerator.num_processes)[accelerator.process_index]
    with torch.inference_mode():
        for videos, batch in batches(trained[0], source, own, batch_size, f"videos of {source.split}"):
            logits = torch.stack([weight.model.answer(batch["slots"]) for weight in trained], dim=1)
            found += zip(videos.tolist(), logits.cpu().tolist())
    if accelerator.num_processes > 1:
        found = gather_object(found)
    return torch.tensor([logits for _, logits in sorted(found)]).sigmoid().T


def is_right(
    probabilities: Float[Tensor, "*W V"], labels: Int64[Tensor, "V"], threshold: float
) -> Bool[Tensor, "*W V"]:
    """Whether the answer to each video is the label: a touch if it is more probable than the threshold."""
    return (probabilities > threshold) == labels.bool()


def accuracies(
    probabilities: Float[Tensor, "W V"], labels: Int64[Tensor, "V"], thresholds: Sequence[float]
) -> Float64[Tensor, "H W"]:
    """The share of videos that are answered rightly."""
    return torch.stack([is_right(probabilities, labels, threshold).double().mean(dim=1) for threshold in thresholds])


def accuracies_by_scenario(right: Float64[Tensor, "V"], scenarios: Int64[Tensor, "V"]) -> dict[str, float]:
    """The share of right answers within each scenario that there are videos of, in alphabetical order."""
    places = scenarios.unique().tolist()
    return {SCENARIOS[place]: float(right[scenarios == place].mean()) for place in places}


def majority(labels: Int64[Tensor, "V"]) -> float:
    """The accuracy of always giving the answer that is right more often."""
    share = float(labels.double().mean())
    return max(share, 1 - share)


def choose(table: Float64[Tensor, "H W"]) -> tuple[int, int]:
    """Threshold and weight of the highest accuracy: of equal ones the first weight, then the first threshold."""
    best, weights = _first_highest(table)
    _, threshold = _first_highest(best)
    return int(threshold), int(weights[threshold])


def _first_highest(values: Float64[Tensor, "*H W"]) -> tuple[Float64[Tensor, "*H"], Int64[Tensor, "*H"]]:
    """The highest of the last axis, and its first place."""
    highest = values.amax(dim=-1)
    return highest, (values == highest.unsqueeze(-1)).int().argmax(dim=-1)
