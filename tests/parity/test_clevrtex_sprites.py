"""The glimpse- and sprite-based models of the ClevrTex benchmark against numbers recorded from the original code."""

from pathlib import Path

import pytest

from tests.parity import (
    clevrtex_annealing,
    clevrtex_dti,
    clevrtex_glimpses,
    clevrtex_gnm,
    clevrtex_marionette,
    clevrtex_space,
    clevrtex_spair,
)
from tests.parity.golden import Case, Check, cases, check_case

SYSTEM = "clevrtex_sprites"
PENDING: set[str] = set()
"""Cases of parts that are not built yet."""

CHECKS: dict[str, Check] = {
    **clevrtex_annealing.CHECKS,
    **clevrtex_dti.CHECKS,
    **clevrtex_glimpses.CHECKS,
    **clevrtex_gnm.CHECKS,
    **clevrtex_marionette.CHECKS,
    **clevrtex_space.CHECKS,
    **clevrtex_spair.CHECKS,
}


@pytest.mark.parametrize("case", cases(SYSTEM))
def test_parity(case: Case, tmp_path: Path) -> None:
    check_case(case, CHECKS, tmp_path, PENDING)
