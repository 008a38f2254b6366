"""Shapes are checked in every test; small data sets are generated once per session, in the true formats."""

import os

# One thread per process: several run side by side, and spinning threads on shared cores cost more than they give.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONWARNINGS"] = "ignore"

from jaxtyping import install_import_hook

import tests.typecheck

install_import_hook(["clevrtex", "core", "emorl", "slotformer"], f"{tests.typecheck.__name__}.check")

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from core.synth import multi_dsprites
from core.synth.h5_writer import sample_rng

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
Runner = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session", autouse=True)
def _cache_of_decoded_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["OBJECTCENTRIC_CACHE"] = str(tmp_path_factory.mktemp("decoded"))


@pytest.fixture(scope="session")
def run() -> Runner:
    """Run a command of the repository as a user does, from its root: `run("emorl/train.py", "with", ...)`."""

    def run_command(*words: object, timeout: float = 300, **environment: object) -> subprocess.CompletedProcess:
        command = [str(word) for word in words]
        if command[0].endswith(".py"):
            command.insert(0, sys.executable)
        variables = os.environ | {"PYTHON": sys.executable} | {key: str(value) for key, value in environment.items()}
        return subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run_command


@pytest.fixture(scope="session")
def tetrominoes(tmp_path_factory: pytest.TempPathFactory, run: Runner) -> Path:
    """Folder with 256 training and 64 test pictures, made by the command of the README."""
    folder = tmp_path_factory.mktemp("tetrominoes")
    done = run("tools/make_data.py", "tetrominoes", "--root", folder, "--train", 256, "--test", 64, "--seed", 1)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory, run: Runner) -> Path:
    """Folder with 20 rendered scenes of ClevrTex and of CLEVR, small and noisy, as the ClevrTex benchmark reads them.

    Two scenes are for testing (CLEVR: three), as many for validation.
    """
    folder = tmp_path_factory.mktemp("scenes")
    for name in ("clevrtex", "clevr"):
        size = ("--width", 80, "--height", 60, "--samples", 1)
        done = run("tools/make_data.py", name, "--root", folder, "--scenes", 20, *size)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def sprites(tmp_path_factory: pytest.TempPathFactory, run: Runner) -> Path:
    """Folder with 64 training and 16 test pictures of Multi-dSprites (colored on grayscale)."""
    folder = tmp_path_factory.mktemp("multi_dsprites")
    done = run("tools/make_data.py", "multi_dsprites", "--root", folder, "--train", 64, "--test", 16, "--seed", 1)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def clevr6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with CLEVR6-format files of 320x240 pictures; the cut square holds sprites, enlarged three times."""
    folder = tmp_path_factory.mktemp("clevr6")
    files = {"clevr6_with_masks_train.h5": ("train", 16), "clevr6_with_masks_and_factors_test.h5": ("test", 8)}
    for name, (split, count) in files.items():
        images, masks = np.zeros((count, 240, 320, 3), np.uint8), np.zeros((count, 7, 240, 320, 1), np.uint8)
        masks[:, 0] = 255
        factors = np.zeros((count, 7, 9), np.float32)
        for i in range(count):
            image, visible, known = multi_dsprites.sample(sample_rng(0, split, i), "colored_on_grayscale")
            images[i, 29:221, 64:256] = image.repeat(3, axis=0).repeat(3, axis=1)
            masks[i, :6, 29:221, 64:256, 0] = visible.repeat(3, axis=1).repeat(3, axis=2)
            factors[i, :6, 8] = known[:, multi_dsprites.FACTOR_NAMES.index("visibility")]
        with h5py.File(folder / name, "w") as file:
            file[f"{split}/imgs"], file[f"{split}/masks"], file[f"{split}/factors"] = images, masks, factors
    return folder
