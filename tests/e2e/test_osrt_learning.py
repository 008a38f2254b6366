"""What OSRT learns from generated CLEVR3D in a quarter of an hour: scenes from other sides, and their objects."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.data.obsurf import ObSuRF
from tests.conftest import ROOT, MadeOnce, Runner
from tests.osrt_runs import rows

SCENES = ("--width", 64, "--height", 48, "--fewest", 2, "--most", 4, "--zoom", 1.5, "--seed", 9)
STEPS = 12_000
DATA = ("data.num_points=128", "training.batch_size=32", "training.num_workers=0")
TRAINING = (
    *(f"training.max_it={STEPS}", f"training.decay_it={STEPS}", "training.peak_lr=1e-3", "training.lr_warmup=200"),
    *("training.print_every=50", "training.validate_every=2000", f"training.visualize_every={STEPS}"),
    *("training.checkpoint_every=2000", "training.backup_every=0"),
)
ENCODER = (
    *("he_init=True", "num_octaves=1", "pos_start_octave=-3", "base_channels=16", "num_conv_blocks=3"),
    *("dim=96", "num_heads=4", "dim_head=24", "mlp_dim=192", "num_att_blocks=3", "slot_dim=96", "slot_hidden_dim=192"),
)
DECODER = ("num_octaves=8", "pos_start_octave=-5", "latent_dim=96", "num_heads=4", "hidden_dim=128")
MODEL = (
    *(f"model.encoder_kwargs.{setting}" for setting in ENCODER),
    *(f"model.decoder_kwargs.{setting}" for setting in DECODER),
)
MARGIN = 3.0  # dB


@pytest.fixture(scope="session")
def small_scenes(run: Runner, made_once: MadeOnce) -> Path:
    """3,000 generated scenes, three views of 64x48 pixels each; the folder `clevr3d`."""

    def make(folder: Path) -> None:
        words = ("clevr3d", "--root", folder, "--scenes", 3000, *SCENES, "--workers", os.cpu_count())
        done = run("tools/make_data.py", *words, timeout=3600)
        assert done.returncode == 0, done.stderr

    return made_once("osrt-learning", make) / "clevr3d"


def psnr_of_mean_picture(data: Path) -> float:
    """Of the mean of all training views, in dB, averaged over the scenes of the test split."""
    train, test = (ObSuRF(data, split, "clevr3d") for split in ("train", "test"))
    mean = train.read(train.scenes - train.scenes[0])["images"].numpy().mean(axis=(0, 1)) / 255
    views = test.read(test.scenes - test.scenes[0])["images"].numpy() / 255
    return float((-10 * np.log10(((views - mean) ** 2).mean(axis=(1, 2, 3, 4)))).mean())


@pytest.mark.slow
def test_osrt_learns_to_see_scenes_from_other_sides(run: Runner, small_scenes: Path, tmp_path: Path) -> None:
    config = tmp_path / "osrt" / "config.yaml"
    config.parent.mkdir()
    shutil.copy(ROOT / "osrt/runs/clevr3d/osrt/config.yaml", config)
    words = ("osrt/train.py", config, "--bf16", "--set", f"data.path={small_scenes}", *DATA, *TRAINING, *MODEL)
    done = run(*words, timeout=3600)
    assert done.returncode == 0, done.stderr
    losses = [row["train/loss"] for row in rows(config.parent) if "train/loss" in row]
    tenth = len(losses) // 10
    done = run(*words[:2], "--test", "--evalnow", "--full-scale", *words[2:], timeout=1800)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "psnr=" in line)
    scores = {name: float(value) for name, value in (part.split("=") for part in line.split("s: ")[1].split(", "))}
    mean = psnr_of_mean_picture(small_scenes)
    print(f"test {scores}, mean picture {mean:.2f} dB, loss {losses[0]:.4f} to {np.mean(losses[-tenth:]):.4f}")
    assert np.mean(losses[-tenth:]) < 0.5 * np.mean(losses[:tenth])
    assert scores["psnr"] > mean + MARGIN
    assert scores["fg_ari"] > 0.3
