"""Scalars, pictures and videos of a training: TensorBoard, a JSON-lines file, and Weights & Biases when asked."""

import importlib.util
import io
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from core.viz.gifs import encode_gif

Scalars = Mapping[str, Tensor | float]


class Tracker:
    """Writes below `folder`: TensorBoard events and `scalars.jsonl`, one line per logged step.

    Scalars stay on their device until `flush`, which copies all of them at once. A run that resumes after step
    `resumed_after` cuts both records back to it, so that curves have no double points. `also` gets every flushed row.
    `wandb_settings` go to wandb.init; without an `id` one is drawn and kept in the folder, so that a run that resumes
    goes on with its curves there, too. Raises ValueError if they are given and wandb is not installed.
    """

    FLUSH_EVERY = 20

    def __init__(
        self,
        folder: Path,
        resumed_after: int | None = None,
        wandb_settings: Mapping[str, Any] | None = None,
        also: Callable[[int, dict[str, float]], None] | None = None,
    ):
        self.folder = folder
        self._also = also
        self._waiting: list[tuple[int, Scalars]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = folder / "scalars.jsonl"
        if resumed_after is not None and self.lines.exists():
            _cut_back(self.lines, resumed_after)
        self._file = self.lines.open("a")
        self._writer = SummaryWriter(folder, purge_step=None if resumed_after is None else resumed_after + 1)
        self._wandb = _start_wandb(wandb_settings, folder, resumed_after) if wandb_settings else None

    def scalars(self, step: int, values: Scalars) -> None:
        self._waiting.append((step, dict(values)))
        if len(self._waiting) >= self.FLUSH_EVERY:
            self.flush()

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """A uint8 picture [H, W, 3]."""
        self._writer.add_image(name, image, step, dataformats="HWC")
        if self._wandb:
            import wandb

            self._log_to_wandb(step, {name: wandb.Image(image)})

    def video(self, step: int, name: str, frames: UInt8[Tensor, "T 3 H W"], fps: float) -> None:
        """An animated gif, which TensorBoard plays among its images. Raises ValueError for more than 50 fps."""
        encoded = encode_gif(frames.permute(0, 2, 3, 1).contiguous().cpu().numpy(), fps)
        height, width = frames.shape[-2:]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
        if self._wandb:
            import wandb

            self._log_to_wandb(step, {name: wandb.Video(io.BytesIO(encoded), format="gif")})

    def _log_to_wandb(self, step: int, media: dict[str, Any]) -> None:
        """After the scalars that wait: Weights & Biases drops what comes with an older step than it has seen."""
        self.flush()
        self._wandb.log(media, step=step)

    def flush(self) -> dict[str, float]:
        """Write what waits; returns the newest row, with its `step`, or nothing."""
        rows = list(zip((step for step, _ in self._waiting), _to_floats([values for _, values in self._waiting])))
        self._waiting.clear()
        for step, row in rows:
            self._file.write(json.dumps({"step": step, **row}) + "\n")
            for name, value in row.items():
                self._writer.add_scalar(name, value, step)
            if self._wandb:
                self._wandb.log(row, step=step)
            if self._also:
                self._also(step, row)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._writer.flush()
        return {"step": rows[-1][0], **rows[-1][1]} if rows else {}

    def close(self) -> None:
        self.flush()
        self._file.close()
        self._writer.close()
        if self._wandb:
            self._wandb.finish()


def _to_floats(rows: list[Scalars]) -> list[dict[str, float]]:
    """All tensors of all rows in one copy to the host."""
    tensors = [value for row in rows for value in row.values() if isinstance(value, Tensor)]
    numbers = iter(torch.stack([tensor.detach().double() for tensor in tensors]).tolist() if tensors else [])
    return [
        {name: next(numbers) if isinstance(value, Tensor) else float(value) for name, value in row.items()}
        for row in rows
    ]


def _cut_back(lines: Path, last_step: int) -> None:
    """Drop the lines after `last_step`, and a half-written last one."""
    kept = []
    for line in lines.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            continue
    partial = lines.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(lines)


def require_wandb() -> None:
    """Raise ValueError if Weights & Biases is not installed; for a run that asks for it, before anything else."""
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("Weights & Biases was asked for but is not installed: pip install 'objectcentric[wandb]'")


def _start_wandb(settings: Mapping[str, Any], folder: Path, resumed_after: int | None) -> Any:
    require_wandb()
    import wandb

    if not settings.get("id"):
        kept, is_fresh = folder / "wandb_id", resumed_after is None or resumed_after < 0
        if is_fresh or not kept.exists():
            kept.write_text(secrets.token_hex(4))
        settings = {**settings, "id": kept.read_text()}
    return wandb.init(resume="allow", **settings)
