"""Videos and pictures of predictions beside the truth. Pictures are in [0, 1].

Shapes: B clips, T frames, E boxes.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from core.data.loader import Batch
from core.metrics.detection import boxes_of_labels
from core.viz.panels import image_grid
from slotformer.framework.frame_grids import PALETTE, evaluation_video, paint_labels
from slotformer.video_prediction.evaluation import draw, true_objects
from slotformer.video_prediction.models.slotformer import SlotFormer

STRIP_COLUMNS = 10
STRIP_CLIPS = 3


def draw_boxes(video: Float[Tensor, "B T 3 H W"], boxes: Float[Tensor, "B T E 4"]) -> Float[Tensor, "B T 3 H W"]:
    """Pictures with lines around their boxes (left, top, right, bottom pixel), each in the colour of its label."""
    pictures, palette = video.clone(), torch.tensor(PALETTE, device=video.device) / 255
    for clip, frame, label in (boxes[..., 2] >= 0).nonzero().tolist():
        left, top, right, bottom = boxes[clip, frame, label].long().tolist()
        picture, colour = pictures[clip, frame], palette[label % len(palette)]
        picture[:, [top, bottom], left : right + 1] = colour[:, None, None]
        picture[:, top : bottom + 1, [left, right]] = colour[:, None, None]
    return pictures


def prediction_videos(
    model: SlotFormer, batch: Batch
) -> tuple[dict[str, Float[Tensor, "T 3 H_out W_out"]], UInt8[np.ndarray, "H_strip W_strip 3"]]:
    """Videos by the ending of their names, and the strip of the first clips.

    Without an ending the frames, and where masks are known `_mask` and `_bbox`: truth above prediction, clips side by
    side. Observed frames are shown as their slots say.
    """
    past, future = batch["slots"].tensor_split([model.history_len], dim=1)
    drawn = draw(model, torch.cat([past, model.rollout(past, future.shape[1])], dim=1))
    truth, recon = batch["video"], (drawn.recon / 2 + 0.5).clamp(0, 1)
    rows = [truth, recon]
    pairs = {"": (truth, recon)}
    if (objects := true_objects(batch)) is not None:
        pairs["_mask"] = (paint_labels(objects.labels), paint_labels(drawn.labels))
        boxes = objects.boxes.masked_fill(~objects.visible[..., None], -1)
        found = boxes_of_labels(drawn.labels, past.shape[2])
        pairs["_bbox"] = (draw_boxes(truth, boxes), draw_boxes(recon, found))
        rows.append(pairs["_mask"][0])
    rows.append(paint_labels(drawn.labels))
    videos = {ending: evaluation_video(*pair, model.history_len) for ending, pair in pairs.items()}
    return videos, strip([row[:STRIP_CLIPS] for row in rows], strip_times(model.history_len, truth.shape[1]))


def strip_times(num_seen: int, num_frames: int) -> Int64[np.ndarray, "C"]:
    """The last frame that is seen, then frames evenly spread up to the last one."""
    count = min(STRIP_COLUMNS, num_frames - num_seen + 1)
    return np.linspace(num_seen - 1, num_frames - 1, count).round().astype(np.int64)


def strip(rows: list[Float[Tensor, "B T 3 H W"]], times: Int64[np.ndarray, "C"]) -> UInt8[np.ndarray, "H_out W_out 3"]:
    """For clip after clip the rows of pictures at these times."""
    cells = torch.stack(rows, dim=1)[:, :, times].flatten(0, 2).cpu()
    grid = image_grid(cells, len(times), pad_value=1.0)
    return (255 * grid).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
