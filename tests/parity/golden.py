"""Cases recorded from the original code: `<case>.json` says what it is, `<case>.npz` holds the numbers."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(os.environ.get("GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))


@dataclass(frozen=True)
class Case:
    """One golden case. `tensors("in/noise/")` gives all arrays below a prefix, without it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def info(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as archive:
            return dict(archive)

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[key]))

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): self[key] for key in self.arrays if key.startswith(prefix)}


def cases(system: str) -> list[Any]:
    """One pytest parameter per case of `system`; without the folder a single one that is skipped and says why."""
    folder = ROOT / system
    found = sorted(folder.glob("*.json"))
    if found:
        return [pytest.param(Case(path), id=path.stem) for path in found]
    reason = f"no golden numbers in {folder}: set GOLDEN to the folder that holds `{system}/`"
    return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]
