"""SAVi finds the objects of generated videos like OBJ3D's."""

import os
from pathlib import Path

import numpy as np
import pytest

from core.data.obj3d import Obj3D
from core.metrics.segmentation import foreground_ari_of_blocks
from tests.conftest import Runner
from tests.slotformer_runs import CONFIGS, losses, rows

VIDEOS = ("--scenes", 3000, "--frames", 3, "--width", 64, "--height", 64, "--samples", 4)
OBJECTS = ("--fewest", 2, "--most", 3, "--seed", 3)
CLIPS = ("video_len=2", "n_sample_frames=2", "train_batch_size=8", "max_epochs=30", "lr=8e-4", "warmup_steps_pct=0.04")
VALIDATION = ("val_batch_size=75", "eval_interval=3", "n_samples=2", "save_interval=1.0", "gpus=1", "num_workers=0")
MODEL = (
    *("slot_size=64", "enc_dict.enc_channels=(3,16,16,16,16)", "enc_dict.enc_out_channels=64"),
    *("dec_dict.dec_channels=(64,32,32,32)", "pred_dict.pred_type=mlp", "pred_dict.pred_rnn=False"),
)
MARGIN = 0.10


@pytest.mark.slow
def test_savi_beats_blocks(run: Runner, tmp_path: Path) -> None:
    """Few channels, clips of two frames; half an hour on two cores."""
    done = run(
        "tools/make_data.py", "obj3d", "--root", tmp_path, *VIDEOS, *OBJECTS, "--workers", os.cpu_count(), timeout=1800
    )
    assert done.returncode == 0, done.stderr
    words = ("slotformer/scripts/train.py", "--params", CONFIGS / "savi_obj3d_params.py", "--resident", "--set")
    settings = (f"data_root={tmp_path / 'OBJ3D'}", *CLIPS, *VALIDATION, *MODEL)
    done = run(*words, *settings, cwd=tmp_path, timeout=5400, OMP_NUM_THREADS=2)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "checkpoint" / "savi_obj3d_params"
    validated = [row for row in rows(folder) if "val/fg_ari" in row]
    score = validated[-1]["val/fg_ari"]
    videos = Obj3D(tmp_path / "OBJ3D", "val", 2, video_len=2, masks=True)
    assert len(videos) == 300, "as many as four batches, which are what FG-ARI is measured on"
    baseline = float(foreground_ari_of_blocks(videos.read(np.arange(len(videos)))["mask"].flatten(0, 1).long()))
    print(f"FG-ARI {score:.3f}, blocks {baseline:.3f}")
    assert validated[-1]["val/fg_ari_of_blocks"] == pytest.approx(baseline, abs=0.03), "there of each batch by itself"
    assert score > baseline + MARGIN
    curve = losses(folder)
    fifth = len(curve) // 5
    assert sum(curve[-fifth:]) < 0.5 * sum(curve[:fifth])
