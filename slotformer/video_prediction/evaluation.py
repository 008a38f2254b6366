"""How well predicted slots show what happens: SlotFormer's (Wu et al. 2023, section 4.2), and what is to be beaten.

Shapes: B clips, T = P + K frames, of which P are seen and K predicted, N slots, D slot size, M clips of the whole set.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm import tqdm

from core.data.loader import Batch, BatchSource, to_device
from core.metrics.detection import boxes_of_labels
from core.metrics.video_prediction import (
    OBJECT_SCORES,
    StepMeans,
    confident_labels,
    object_scores,
    picture_scores,
)
from slotformer.framework.extraction import Trained, read_ahead
from slotformer.video_prediction.models.slotformer import SlotFormer

FRAMES_AT_A_TIME = {"cpu": 8, "cuda": 256}
"""That are decoded in one pass: what the memory holds."""
MODEL, VELOCITY, COPY, TRUE_SLOTS = "SlotFormer", "velocity", "copy", "true slots"
MEANINGS = {
    MODEL: "its roll-out",
    VELOCITY: "baseline: slots go on changing as from the last but one observed frame to the last one; decoded",
    COPY: "baseline: the last observed frame repeated; its masks are those of its slots",
    TRUE_SLOTS: "the slots that the base model has found in the frames to be predicted; decoded",
}

PerceptualDistance = Callable[[Float[Tensor, "N 3 H W"], Float[Tensor, "N 3 H W"]], Float[Tensor, "N"]]


class Drawn(NamedTuple):
    """What slots look like: pictures in [-1, 1], not cut, and the slot that each pixel belongs to."""

    recon: Float[Tensor, "B K 3 H W"]
    labels: UInt8[Tensor, "B K H W"]


class TrueObjects(NamedTuple):
    """Of the frames of clips: instance indices, 0 = background, and boxes, of which some are there."""

    labels: UInt8[Tensor, "B T H W"]
    boxes: Float[Tensor, "B T E 4"]
    visible: Bool[Tensor, "B T E"]


def constant_velocity(past: Float[Tensor, "B P N D"], num_steps: int) -> Float[Tensor, "B K N D"]:
    """Slots that go on changing as they did from the last but one frame to the last; that stay, if there is but one."""
    last = past[:, -1:]
    velocity = last - past[:, -2:][:, :1]
    steps = torch.arange(1, num_steps + 1, device=past.device).view(1, -1, 1, 1)
    return last + steps * velocity


def draw(model: SlotFormer, slots: Float[Tensor, "B K N D"]) -> Drawn:
    """Decode slots, `FRAMES_AT_A_TIME`."""
    recons, labels = [], []
    for frames in slots.flatten(0, 1).split(FRAMES_AT_A_TIME[slots.device.type]):
        pictures = model.decode(frames[None])
        recons.append(pictures.recon[0])
        labels.append(confident_labels(pictures.masks[0]).to(torch.uint8))
    return Drawn(*(torch.cat(parts).unflatten(0, slots.shape[:2]) for parts in (recons, labels)))


def predict(model: SlotFormer, batch: Batch) -> dict[str, Drawn]:
    """Each method's pictures of the frames after the first `history_len` of `batch["slots"]`."""
    past, future = batch["slots"].tensor_split([model.history_len], dim=1)
    num_steps = future.shape[1]
    last = draw(model, past[:, -1:])
    last_frame = 2 * batch["video"][:, model.history_len - 1 : model.history_len] - 1
    return {
        MODEL: draw(model, model.rollout(past, num_steps)),
        VELOCITY: draw(model, constant_velocity(past, num_steps)),
        COPY: Drawn(last_frame.expand(-1, num_steps, -1, -1, -1), last.labels.expand(-1, num_steps, -1, -1)),
        TRUE_SLOTS: draw(model, future),
    }


def true_objects(batch: Batch) -> TrueObjects | None:
    """Of clips that come with masks; with boxes of the masks where the data set has no boxes itself."""
    if "mask" not in batch:
        return None
    labels = batch["mask"]
    if "bbox" in batch:
        return TrueObjects(labels, batch["bbox"], batch["visible"])
    boxes = boxes_of_labels(labels, int(labels.max()) + 1)[..., 1:, :]
    return TrueObjects(labels, boxes, boxes[..., 0] >= 0)


def score(
    drawn: Drawn,
    frames: Float[Tensor, "B K 3 H W"],
    objects: TrueObjects | None,
    num_slots: int,
    percept_dist: PerceptualDistance | None = None,
    *,
    as_original: bool = False,
) -> dict[str, Float[Tensor, "B K"]]:
    """All scores of pictures, by core/metrics/video_prediction.py; `frames` are in [-1, 1].

    Those of objects are left out where their truth is not known; `as_original`, they are 0 there.
    """
    scores = picture_scores(drawn.recon, frames, percept_dist)
    if objects is not None:
        boxes = boxes_of_labels(drawn.labels, num_slots)
        return scores | object_scores(drawn.labels, objects.labels, boxes, *objects[1:], as_original=as_original)
    if as_original:
        return scores | {name: torch.zeros_like(scores["mse"]) for name in OBJECT_SCORES}
    return scores


def score_batch(
    model: SlotFormer, batch: Batch, percept_dist: PerceptualDistance | None = None, *, as_original: bool = False
) -> dict[str, dict[str, Float[Tensor, "B K"]]]:
    """The scores of every method for `batch`, which holds `slots` and `video` in [0, 1], and masks if there are any."""
    seen, objects = model.history_len, true_objects(batch)
    frames, future = 2 * batch["video"][:, seen:] - 1, None
    if objects is not None:
        future = TrueObjects(*(value[:, seen:] for value in objects))
    found = predict(model, batch)
    num_slots = batch["slots"].shape[2]
    with torch.autocast(frames.device.type, enabled=False):
        return {
            name: score(drawn, frames, future, num_slots, percept_dist, as_original=as_original)
            for name, drawn in found.items()
        }


def score_all(
    trained: Trained,
    source: BatchSource,
    batch_size: int,
    percept_dist: PerceptualDistance | None = None,
    *,
    as_original: bool = False,
) -> dict[str, StepMeans]:
    """Mean scores of every method over all clips, at each step; the same in any number of processes."""
    own = np.array_split(np.arange(len(source)), trained.accelerator.num_processes)[trained.accelerator.process_index]
    found: list[tuple[int, dict[str, dict[str, np.ndarray]]]] = []
    with torch.inference_mode():
        for clips, batch in batches(trained, source, own, batch_size, "clips scored"):
            scores = score_batch(trained.model, batch, percept_dist, as_original=as_original)
            arrays = {
                method: {name: value.cpu().numpy() for name, value in of.items()} for method, of in scores.items()
            }
            found += [(int(clip), _row(arrays, place)) for place, clip in enumerate(clips)]
    if trained.accelerator.num_processes > 1:
        found = gather_object(found)
    rows = [row for _, row in sorted(found, key=lambda item: item[0])]
    result = {}
    for method, of in rows[0].items():
        result[method] = StepMeans(as_original=as_original)
        result[method].update({name: torch.from_numpy(np.stack([row[method][name] for row in rows])) for name in of})
    return result


def batches(
    trained: Trained, source: BatchSource, clips: Sequence[int], batch_size: int, what: str
) -> Iterator[tuple[np.ndarray, Batch]]:
    """(clips, batch) on the device, with a bar of progress; within it the model runs in its precision."""
    chunks = [np.asarray(clips[begin : begin + batch_size]) for begin in range(0, len(clips), batch_size)]
    bar = tqdm(total=len(clips), desc=what, disable=None if trained.is_main else True)
    with bar, trained.accelerator.autocast():
        for chunk, batch in zip(chunks, read_ahead(source, chunks, 0)):
            yield chunk, to_device(batch, trained.accelerator.device)
            bar.update(len(chunk))


def _row(scores: Mapping[str, Mapping[str, np.ndarray]], place: int) -> dict[str, dict[str, Any]]:
    return {method: {name: values[place] for name, values in of.items()} for method, of in scores.items()}


def over_steps(means: Float[Tensor, "K"], *, as_original: bool = False) -> float:
    """The mean over steps, of those that have one; `as_original`, NaN if one has none."""
    return float(means.mean() if as_original else means.nanmean())
