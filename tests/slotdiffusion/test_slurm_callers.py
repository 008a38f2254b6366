"""The Slurm scripts of SlotDiffusion are those of SlotFormer, which has their tests."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("script", ["sbatch_run.sh", "dup_run_sbatch.sh"])
def test_the_words_reach_the_scripts_of_slotformer(script: str, tmp_path: Path) -> None:
    path = ROOT / "slotdiffusion" / "scripts" / script
    done = subprocess.run([path, "gpu", "a name"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{script} needs PARTITION JOB_NAME PY_FILE DDP" in done.stderr
    assert "found 2 of the first" in done.stderr
