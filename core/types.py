"""What every object-centric model says about an image or a video, whatever paper it comes from."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

TOLERANCE = 1e-3  # on sums of masks and on ranges: what half precision leaves of a softmax


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor in it, through dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_tensors(entry, change) for key, entry in value.items()}
    if isinstance(value, list):
        return [_map_tensors(entry, change) for entry in value]
    if isinstance(value, tuple):
        return tuple(_map_tensors(entry, change) for entry in value)
    return value


def _shape_text(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"


def _check_extra(name: str, batch_size: int, tensor: Tensor) -> Tensor:
    if tensor.ndim and tensor.shape[0] != batch_size:
        raise ValueError(
            f"Decomposition.extras[{name!r}]: expected the batch of {batch_size} as first axis, "
            f"found {_shape_text(tensor.shape)}"
        )
    return tensor


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Slots, masks and pictures of a batch of images, or of videos if the frame axis T is there.

    One evaluator, one plotter and one leaderboard read it, so a model of any paper that returns it is served by all.

    recon: the whole picture as the model reconstructs it, in [0, 1].
    masks: how much of each pixel belongs to each slot; sums to one over K. Hard masks are allowed.
    rgb:   each slot's own picture before masking, or None for models that decode no picture per slot.
    slots: each slot's vector, or None.
    extras: whatever else the model has to say (boxes, depths, attention). Its tensors have the batch as first axis;
        dicts, lists and tuples of such tensors, zero-dimensional tensors and other values may stand there too.

    Nothing is checked on construction, since that would synchronise the device; `validate` checks all of it.
    """

    recon: Float[Tensor, "B *T 3 H W"]
    masks: Float[Tensor, "B *T K H W"]
    rgb: Float[Tensor, "B *T K 3 H W"] | None = None
    slots: Float[Tensor, "B *T K D"] | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def is_video(self) -> bool:
        return self.recon.ndim == 5

    @property
    def num_slots(self) -> int:
        return self.masks.shape[-3]

    def __len__(self) -> int:
        return self.recon.shape[0]

    def __getitem__(self, index: int | slice | list[int] | Integer[Tensor, N] | Bool[Tensor, B]) -> Decomposition:
        """The images of the batch that `index` selects; an integer keeps the batch axis, as a batch of one."""
        if not (isinstance(index, slice | list) or getattr(index, "ndim", 0)):
            position = operator.index(index)
            if not -len(self) <= position < len(self):
                raise IndexError(f"Decomposition: image {position} of a batch of {len(self)}")
            index = slice(position % len(self), position % len(self) + 1)
        return self._apply(lambda tensor: tensor[index] if tensor.ndim else tensor)

    def to(self, device: torch.device | str) -> Decomposition:
        return self._apply(lambda tensor: tensor.to(device))

    def cpu(self) -> Decomposition:
        return self._apply(Tensor.cpu)

    def detach(self) -> Decomposition:
        return self._apply(Tensor.detach)

    def _apply(self, change: Callable[[Tensor], Tensor]) -> Decomposition:
        return Decomposition(**{name: _map_tensors(value, change) for name, value in vars(self).items()})

    def validate(self) -> Decomposition:
        """Check the contract above and return self. Synchronises the device.

        Raises ValueError, naming the field: shapes that do not agree, values that are not finite, masks that are
        negative or do not sum to one over K, a recon outside [0, 1] (both within 1e-3).
        """
        self._validate_shapes()
        for name in ("recon", "masks", "rgb", "slots"):
            tensor = getattr(self, name)
            if tensor is not None and not torch.isfinite(tensor).all():
                count = int((~torch.isfinite(tensor)).sum())
                raise ValueError(f"Decomposition.{name}: {count} of {tensor.numel()} values are NaN or infinite")
        low, high = (float(value) for value in torch.aminmax(self.recon))
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise ValueError(
                f"Decomposition.recon: expected values in [0, 1], found {low:.4g} to {high:.4g}; "
                "map the model's own range to [0, 1] and clamp"
            )
        if (lowest := float(self.masks.min())) < -TOLERANCE:
            raise ValueError(f"Decomposition.masks: expected no negative values, found {lowest:.4g}")
        sums = self.masks.sum(dim=-3, dtype=torch.float32)
        if (error := float((sums - 1).abs().max())) > TOLERANCE:
            raise ValueError(
                f"Decomposition.masks: expected sums of one over the {self.num_slots} slots (axis -3), found sums from "
                f"{float(sums.min()):.4g} to {float(sums.max()):.4g}, off by up to {error:.2g}; "
                "give softmax outputs, not logits"
            )
        return self

    def _validate_shapes(self) -> None:
        if self.recon.ndim not in (4, 5) or self.recon.shape[-3] != 3 or 0 in self.recon.shape:
            raise ValueError(
                f"Decomposition.recon: expected (B, 3, H, W) or (B, T, 3, H, W) without empty axes, "
                f"found {_shape_text(self.recon.shape)}"
            )
        leading, pixels = self.recon.shape[:-3], self.recon.shape[-2:]
        has_slots = self.masks.ndim == self.recon.ndim and self.num_slots > 0
        num_slots = self.num_slots if has_slots else "K"
        expected = {"masks": (*leading, num_slots, *pixels), "rgb": (*leading, num_slots, 3, *pixels)}
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"Decomposition.{name}: expected {_shape_text(shape)} beside a recon of "
                    f"{_shape_text(self.recon.shape)}, found {_shape_text(tensor.shape)}"
                )
        if self.slots is not None and tuple(self.slots.shape[:-1]) != (*leading, num_slots):
            raise ValueError(
                f"Decomposition.slots: expected {_shape_text((*leading, num_slots, 'D'))} beside masks of "
                f"{_shape_text(self.masks.shape)}, found {_shape_text(self.slots.shape)}"
            )
        for name, value in self.extras.items():
            _map_tensors(value, partial(_check_extra, name, len(self)))
