"""Trained models of all papers behind one interface: whatever they see, they take pictures, videos or scenes apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.benchmark.resizing import resized
from core.benchmark.slot_counts import with_slots
from core.benchmark.views import posed_views
from core.data.loader import Batch
from core.nn.noise import ImageNoise, Noise, derive_seed
from core.runs import RunRecord, newest_state, rebuild
from core.training.checkpoint import CheckpointError
from core.types import Decomposition

Kind = Literal["images", "videos", "views"]
NOISE = 3
"""Of the seeds derived from a run's: the one of the papers' own validations and evaluations."""


@dataclass(frozen=True)
class Subject:
    """A trained model, in evaluation mode, and what its run record says of it.

    name: of the model, short.
    path: the run folder or weight as it was given; `weight`: the file that was read.
    steps: how many optimiser steps it was trained, None if unknown.
    sees, size: what the model takes, and its height and width.
    """

    name: str
    paper: str
    path: Path
    weight: Path
    record: RunRecord
    steps: int | None
    model: nn.Module
    sees: Kind
    size: tuple[int, int]
    num_slots: int | None

    @classmethod
    def open(cls, path: str | Path, device: torch.device | str = "cpu", num_slots: int | None = None) -> Subject:
        """The model of a checkpoint file or, of a run folder, of its newest checkpoint.

        num_slots: another number of slots than in training, where the model permits.

        Raises CheckpointError where there is no readable checkpoint, for one whose record does not say what the model
        sees, and for models that take nothing apart; ValueError for a number of slots that the model cannot have.
        """
        weight, state = newest_state(path)
        model, record = rebuild(state, weight)
        name = getattr(type(model), "short_name", type(model).__name__)
        if record.inputs is None:
            raise CheckpointError(
                f"{path}: its run record does not say what the model sees (`inputs`): it was written by an older "
                "version of this code. Train again, or import the weights with tools/import_weights.py"
            )
        if not record.inputs:
            raise CheckpointError(
                f"{path}: {name} ({record.paper}) takes no pictures apart: it is an autoencoder without slots, a "
                "read-out, or a model of slots on disk. Give the run of a model that finds slots in pictures"
            )
        if num_slots is not None:
            model = with_slots(state, record, num_slots, path)
        return cls(
            name=name,
            paper=record.paper,
            path=Path(path),
            weight=weight,
            record=record,
            steps=state["step"] + 1 if "step" in state else None,
            model=model.to(device).eval(),
            sees=record.inputs["kind"],
            size=tuple(record.inputs["size"]),
            num_slots=num_slots or _number_of_slots(record.arguments),
        )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def seed_of_noise(self) -> int:
        return derive_seed(self.record.seed, NOISE)

    def refusal(self, kind: Kind) -> str | None:
        """Why the model cannot see data of that kind, None if it can."""
        if self.sees == "views" and kind != "views":
            return f"{self.name} needs several views of a scene with their cameras, {kind} have none"
        return None

    @torch.no_grad()
    def decompose(self, batch: Batch, indices: Sequence[int], *, generate: bool = True) -> Decomposition:
        """What the model says of a batch, always with frames: (B, T, ...), T = 1 for pictures, at the model's `size`.

        batch: float `image` (B, 3, H, W) or `video` (B, T, 3, H, W) in [0, 1], resized here; or scenes of core.data's
            readers of views (`images` (B, V, 3, H, W) uint8, `cameras`, perhaps `input_view`), of which all V views are
            shown as frames. A model of pictures sees every frame by itself, a model of videos a picture as one frame.
        indices: numbers of the samples. Draws are keyed by them and the run's seed, so a sample's result depends on no
            other sample, and that of a frame on no later frame.
        generate: models that predict words of a picture (STEVE, SLATE) are told the slots alone; it takes as many
            passes as there are words. False tells them the true words before each word, too.

        Raises ValueError where the model cannot see such data.
        """
        options: dict[str, Any] = {}
        if hasattr(self.model, "target_tokens"):
            options["generate"] = generate
        found = self._apply(lambda seen, noise: self._decomposed(seen, noise, options), batch, indices)
        return found[0] if len(found) == 1 else _stacked(found)

    @torch.no_grad()
    def segment(self, batch: Batch, indices: Sequence[int]) -> Float[Tensor, "B T K H W"]:
        """The masks of `decompose` alone, without the pictures, which cost most where they are sampled."""
        if not hasattr(self.model, "segment"):
            return self.decompose(batch, indices).masks

        def masks(seen: Batch, noise: Noise) -> Float[Tensor, "B T K H W"]:
            found = self.model.segment(seen, noise).float()
            return found if found.ndim == 5 else found[:, None]

        return torch.cat(self._apply(masks, batch, indices), dim=1)

    def require_finite(self, found: Decomposition | Float[Tensor, "B T K H W"], names: Sequence[str]) -> None:
        """Raises CheckpointError, with those of the `names` of the samples, where masks or pictures are not finite."""
        parts = [found] if isinstance(found, Tensor) else [found.masks, found.recon]
        finite = torch.stack([part.isfinite().flatten(1).all(dim=1) for part in parts]).all(dim=0).tolist()
        if bad := [name for name, is_finite in zip(names, finite) if not is_finite]:
            raise CheckpointError(
                f"{self.weight}: NaN or infinity in what it makes of {', '.join(bad)}. The training has diverged: give "
                "an earlier checkpoint"
            )

    def decompose_clips(
        self, clips: Iterable[Float[Tensor, "1 T 3 H W"]], index: int, *, generate: bool = True
    ) -> Iterator[Decomposition]:
        """What `decompose` says of a video of any length, clip by clip; a clip begins where the one before it ended.

        index: the number of the sample. Models of videos take their slots along from clip to clip. Pictures that are
        sampled (SlotDiffusion) have other draws than those of the whole video. Raises ValueError as `decompose`.
        """
        if reason := self.refusal("videos"):
            raise ValueError(f"{self.path}: {reason}")
        state, noise, begin = None, self._noise([index]), 0
        options = {"generate": generate} if hasattr(self.model, "target_tokens") else {}
        for clip in clips:
            with torch.no_grad():
                video = self._as_seen(clip)
                if self.sees == "videos":
                    found, state = self.model.decompose_next({"video": video}, noise, state, **options)
                    found = self._as_shown(found)
                else:
                    numbers = range(begin, begin + video.shape[1])
                    keys = [key for frame in numbers for key in _keys_of_frame([index], frame)]
                    frames = self._decomposed({"image": video[0]}, self._noise(keys), options)
                    found = _stacked([frames[number] for number in range(len(frames))])
            yield found
            begin += video.shape[1]

    def _decomposed(self, seen: Batch, noise: Noise, options: dict[str, Any]) -> Decomposition:
        draws = {} if self.sees == "views" else {"noise": noise}
        found = self.model.decompose(seen, **draws, **options)
        return self._as_shown(found if found.is_video else _as_frame(found))

    def _as_seen(self, video: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T 3 h w"]:
        """At the model's size, on its device, and with the order of colours that it was trained with."""
        video = resized(video, self.size).to(self.device)
        return video.flip(2) if self._sees_blue_first else video

    def _as_shown(self, found: Decomposition) -> Decomposition:
        """With red, green and blue in this order."""
        if not self._sees_blue_first:
            return found
        rgb = None if found.rgb is None else found.rgb.flip(3)
        return replace(found, recon=found.recon.flip(2), rgb=rgb)

    @property
    def _sees_blue_first(self) -> bool:
        """Whether the model is one of the original SlotFormer's of CLEVRER, which have seen blue, green, red."""
        return self.record.inputs.get("channels") == "bgr"

    def _apply(self, look: Callable[[Batch, Noise], Any], batch: Batch, indices: Sequence[int]) -> list[Any]:
        """What `look` makes of the batch as the model wants it: once, or of every frame."""
        kind = "views" if "cameras" in batch else "videos" if "video" in batch else "images"
        if reason := self.refusal(kind):
            raise ValueError(f"{self.path}: {reason}")
        if self.sees == "views":
            options = {name: value for name, value in self.record.inputs.items() if name not in ("kind", "size")}
            seen = posed_views(batch, self.size, self.device, **options)
            return [look(seen, self._noise(indices))]
        if kind == "views":
            raise ValueError(f"{self.path}: {self.name} sees {self.sees}; open the scenes as pictures of their views")
        video = self._as_seen(batch["video"] if kind == "videos" else batch["image"][:, None])
        if self.sees == "videos":
            return [look({"video": video}, self._noise(indices))]
        frames = enumerate(video.unbind(1))
        return [look({"image": image}, self._noise(_keys_of_frame(indices, frame))) for frame, image in frames]

    def _noise(self, keys: Sequence[int]) -> Noise:
        return ImageNoise(self.seed_of_noise, keys).at(0, self.device)


def _keys_of_frame(indices: Sequence[int], frame: int) -> list[int]:
    """Of the first frame the numbers of the samples, so that it is seen as a picture of that number is."""
    return [derive_seed(int(index), frame) if frame else int(index) for index in indices]


def _as_frame(found: Decomposition) -> Decomposition:
    """Of pictures as videos of one frame."""

    def framed(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.float()[:, None]

    extras = {name: value[:, None] for name, value in found.extras.items() if isinstance(value, Tensor) and value.ndim}
    return Decomposition(*map(framed, (found.recon, found.masks, found.rgb, found.slots)), extras)


def _stacked(frames: Sequence[Decomposition]) -> Decomposition:
    """Videos of frames that were seen one by one."""

    def joined(values: Sequence[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat(values, dim=1)

    parts = zip(*((found.recon, found.masks, found.rgb, found.slots) for found in frames))
    extras = {
        name: torch.cat([found.extras[name] for found in frames], dim=1)
        for name, value in frames[0].extras.items()
        if len({found.extras[name].shape for found in frames}) == 1
    }
    return Decomposition(*map(joined, parts), extras)


def _number_of_slots(arguments: Any) -> int | None:
    """The innermost `num_slots` among nested arguments of a model; None for models that count otherwise."""
    if not isinstance(arguments, dict):
        return None
    inside = (_number_of_slots(value) for value in arguments.values())
    own = arguments.get("num_slots")
    return next((found for found in inside if found is not None), own if isinstance(own, int) else None)
