"""Check of how SlotDiffusion's compositional generation exchanges slots."""

from pathlib import Path

import numpy as np

from slotdiffusion.framework.mixing import donors_of_original, mixed
from tests.parity.golden import Case, Check


def check_mixing(case: Case, tmp_path: Path) -> None:
    """The recorded videos are one batch."""
    slots = case["in/slots"].numpy()
    donors = donors_of_original(len(slots), slots.shape[2], len(slots))
    np.testing.assert_array_equal(mixed(slots, donors), case["out/mixed"].numpy())


CHECKS: dict[str, Check] = {"comp-gen": check_mixing}
