"""The ClevrTex benchmark against numbers recorded from the original code."""

from pathlib import Path

import pytest

from tests.parity import (
    clevrtex_data,
    clevrtex_effmorl,
    clevrtex_framework,
    clevrtex_genesisv2,
    clevrtex_iodine,
    clevrtex_metrics,
    clevrtex_monet,
    clevrtex_pictures,
    clevrtex_slota,
)
from tests.parity.golden import Case, Check, cases, check_case

SYSTEM = "clevrtex"
PENDING: set[str] = set()
"""Cases of parts that are not built yet."""

CHECKS: dict[str, Check] = {
    **clevrtex_data.CHECKS,
    **clevrtex_effmorl.CHECKS,
    **clevrtex_framework.CHECKS,
    **clevrtex_genesisv2.CHECKS,
    **clevrtex_iodine.CHECKS,
    **clevrtex_metrics.CHECKS,
    **clevrtex_monet.CHECKS,
    **clevrtex_pictures.CHECKS,
    **clevrtex_slota.CHECKS,
}


@pytest.mark.parametrize("case", cases(SYSTEM))
def test_parity(case: Case, tmp_path: Path) -> None:
    check_case(case, CHECKS, tmp_path, PENDING)
