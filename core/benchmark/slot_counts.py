"""Models with another number of slots than they were trained with, where slots are alike until they see a picture."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, load_weights


def with_slots(state: Mapping[str, Any], record: RunRecord, num_slots: int, path: str | Path) -> nn.Module:
    """The trained model with `num_slots` slots.

    That is possible where no weight belongs to one slot: where slots begin at draws from one distribution (Slot
    Attention, IODINE, EfficientMORL, GENESIS-V2). ValueError where each has a learned beginning of its own (SAVi and
    its kin, OSRT), or where there are no slots to count (models of cells or sprites).
    """
    if num_slots < 2:
        raise ValueError(f"{path}: {num_slots} slots divide nothing: give at least 2")
    arguments, found = _with_slots(record.arguments, num_slots)
    if not found:
        raise ValueError(f"{path}: its model has no number of slots that could be changed")
    model = replace(record, arguments=arguments).build()
    try:
        load_weights(model, state["model"], path)
    except CheckpointError as error:
        raise ValueError(
            f"{path}: its slots are learned one by one, so that there cannot be {num_slots} of them. Only models whose "
            "slots begin at draws from one distribution can have another number"
        ) from error
    return model


def _with_slots(arguments: Any, num_slots: int) -> tuple[Any, bool]:
    """Nested arguments with every `num_slots` replaced, and whether there was one."""
    if not isinstance(arguments, Mapping):
        return arguments, False
    changed, found = {}, False
    for key, value in arguments.items():
        if key == "num_slots":
            changed[key], found = num_slots, True
        else:
            changed[key], inside = _with_slots(value, num_slots)
            found = found or inside
    return changed, found
