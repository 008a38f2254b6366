"""Slot Attention finds the objects of generated CLEVR scenes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from core.data.spec import DataSpec
from core.metrics.segmentation import foreground_ari_of_blocks
from tests.conftest import Runner

DATA = "clevr-crop-(32,32)"
SCENES = ("--scenes", 8000, "--width", 96, "--height", 72, "--most", 6, "--seed", 5)
FLAGS = ("--slots", 7, "--width", 32, "--decoder_grid", 2, "--batch_size", 16, "--max_steps", 9000)
RATE = ("--learning_rate", 1e-3, "--lr", "decay(500,4000,0.5)", "--workers", "no", "--resident", "--quiet")
MARGIN = 0.15


@pytest.mark.slow
def test_slot_attention_beats_blocks(run: Runner, tmp_path: Path) -> None:
    """At 32x32 and half the published width; half an hour on two cores."""
    root, out = tmp_path / "data", tmp_path / "out"
    done = run("tools/make_data.py", "clevr", "--root", root, *SCENES, "--workers", os.cpu_count(), timeout=1800)
    assert done.returncode == 0, done.stderr
    words = ("clevrtex/experiments/slota.py", "run", "--data", DATA, "--data_root", root, "--dir", out)
    done = run(*words, *FLAGS, *RATE, timeout=3600, OMP_NUM_THREADS=2)
    assert done.returncode == 0, done.stderr
    (folder,) = out.glob("clect/slota/test*")
    done = run("clevrtex/evaluate.py", folder, "--data", DATA, timeout=600)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("evaluation-*.json")
    score = json.loads(found.read_text())["statistics"]["ARI_FG"]["mean"]
    source = DataSpec.parse(DATA).open("test", root, masks=True)
    baseline = float(foreground_ari_of_blocks(source.read(np.arange(len(source)))["mask"].long()))
    print(f"FG-ARI {score:.3f}, blocks {baseline:.3f}")
    assert score > baseline + MARGIN
