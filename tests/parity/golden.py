"""Cases recorded from the original code: `<case>.json` says what it is, `<case>.npz` holds the numbers."""

import json
import os
from collections.abc import Callable, Collection, Mapping
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

    @property
    def descriptions(self) -> list[str]:
        """Its name and what its file says it is."""
        return [
            self.name,
            *(str(self.info[key]) for key in ("class", "cls", "klass", "functions", "kind") if key in self.info),
        ]

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


Check = Callable[[Case, Path], None]


def check_case(case: Case, checks: Mapping[str, Check], tmp_path: Path, pending: Collection[str] = ()) -> None:
    """Run the check whose key begins the case's name or a description of it; of several the longest key wins.

    A case named in `pending` belongs to a part that is not built yet. Any other without a check fails.
    """
    if case.name in pending:
        pytest.skip("its part of the system is not built yet (PENDING)")
    fitting = [key for key in checks if any(text.startswith(key) for text in case.descriptions)]
    assert fitting, f"{case.name}: no check for {case.descriptions}"
    checks[max(fitting, key=len)](case, tmp_path)
