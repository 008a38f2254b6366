"""Checkpoints of the original ClevrTex EfficientMORL, which have the names of the EfficientMORL repository."""

from collections.abc import Mapping

from torch import Tensor

import emorl.original
from clevrtex.original.names import without_prefix


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`. Raises ValueError on a name that is not its."""
    return emorl.original.from_original(without_prefix(state))


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (without `model.`) from ours, or from a part of ours, such as the parameters."""
    result = emorl.original.to_original(state)
    if "geco.beta" not in state:
        del result["geco_C_ema"], result["geco_beta"]
    return result
