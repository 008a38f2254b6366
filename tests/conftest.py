"""Shapes are checked in every test; small data sets are generated once per session, in the true formats."""

import os

# One thread per process: several run side by side, and spinning threads on shared cores cost more than they give.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONWARNINGS"] = "ignore"

from jaxtyping import install_import_hook

import tests.typecheck

install_import_hook(
    ["clevrtex", "core", "emorl", "osrt", "slotdiffusion", "slotformer"], f"{tests.typecheck.__name__}.check"
)

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from core.files import replacing
from core.synth import multi_dsprites
from core.synth.h5_writer import sample_rng

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
Runner = Callable[..., subprocess.CompletedProcess]
MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once(name, make)`: a folder that `make` fills, once for all test processes of the session."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder, mark = shared / f"data-{name}", shared / f"data-{name}.made"
        with (shared / f"data-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not mark.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                mark.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session", autouse=True)
def _cache_of_decoded_data(made_once: MadeOnce) -> None:
    os.environ["OBJECTCENTRIC_CACHE"] = str(made_once("decoded", lambda folder: None))


@pytest.fixture(scope="session")
def run() -> Runner:
    """Run a command of the repository as a user does: `run("emorl/train.py", "with", ...)`, or in another folder."""

    def run_command(
        *words: object, timeout: float = 300, cwd: Path = ROOT, **environment: object
    ) -> subprocess.CompletedProcess:
        command = [str(word) for word in words]
        if command[0].endswith(".py"):
            script = command[0] if cwd == ROOT else str(ROOT / command[0])
            command[:1] = [sys.executable, script]
        variables = os.environ | {"PYTHON": sys.executable} | {key: str(value) for key, value in environment.items()}
        return subprocess.run(
            command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run_command


@pytest.fixture(scope="session")
def generated(run: Runner, made_once: MadeOnce) -> Callable[..., Path]:
    """`generated(folder, *sets)`: data made by the README's command, of which each set is a line of its words."""

    def folder_of(name: str, *sets: str) -> Path:
        def make(folder: Path) -> None:
            for words in sets:
                done = run("tools/make_data.py", *words.split(), "--root", folder)
                assert done.returncode == 0, done.stderr

        return made_once(name, make)

    return folder_of


@pytest.fixture(scope="session")
def tetrominoes(generated: Callable[..., Path]) -> Path:
    """Folder with 256 training and 64 test pictures."""
    return generated("tetrominoes", "tetrominoes --train 256 --test 64 --seed 1")


@pytest.fixture(scope="session")
def scenes(generated: Callable[..., Path]) -> Path:
    """Folder with 20 rendered scenes of ClevrTex and of CLEVR, small and noisy, as the ClevrTex benchmark reads them.

    Two scenes are for testing (CLEVR: three), as many for validation.
    """
    words = "--scenes 20 --width 80 --height 60 --samples 1"
    return generated("scenes", f"clevrtex {words}", f"clevr {words}")


@pytest.fixture(scope="session")
def sprites(generated: Callable[..., Path]) -> Path:
    """Folder with 64 training and 16 test pictures of Multi-dSprites (colored on grayscale)."""
    return generated("multi_dsprites", "multi_dsprites --train 64 --test 16 --seed 1")


@pytest.fixture(scope="session")
def videos(generated: Callable[..., Path]) -> Path:
    """Folder with OBJ3D (ten frames), CLEVRER (16) and Physion (12), small and noisy: 10 to 32 videos of each.

    Physion's validation splits are made of training videos: a split of its own takes twice as many.
    """
    folder = generated(
        "videos",
        "obj3d --scenes 10 --frames 10 --width 64 --height 64 --samples 1",
        "clevrer --scenes 10 --frames 16 --width 48 --height 32 --samples 1",
        "physion --scenes 32 --frames 12 --width 32 --height 32 --samples 1",
    )
    for subset in ("training", "readout"):
        lists = {split: folder / "Physion" / "splits" / f"{subset}_{split}.json" for split in ("train", "val")}
        with replacing(lists["val"]) as partial:
            shutil.copyfile(lists["train"], partial)
    return folder


@pytest.fixture(scope="session")
def movi(generated: Callable[..., Path]) -> Path:
    """Folder with MOVi-D and MOVi-Solid, small and noisy: six frames; of 30 videos three are for testing."""
    words = "--scenes 30 --frames 6 --width 32 --height 32 --samples 1"
    return generated("movi", f"movi-d {words}", f"movi-solid {words}")


@pytest.fixture(scope="session")
def views(generated: Callable[..., Path]) -> Path:
    """Folder with clevr3d, obsurf_msn (10 scenes each from three places) and msn (20 from ten), small and noisy.

    A tenth of the scenes is for validation, another for testing.
    """
    words = "--width 32 --height 24 --samples 1"
    crowd = "--width 24 --height 24 --samples 1 --per-shard 2 --fewest 3 --most 5"
    return generated(
        "views",
        f"clevr3d --scenes 10 {words}",
        f"obsurf_msn --scenes 10 {words}",
        f"msn --scenes 20 {crowd}",
    )


@pytest.fixture(scope="session")
def clevr6(made_once: MadeOnce) -> Path:
    """Folder with CLEVR6-format files of 320x240 pictures; the cut square holds sprites, enlarged three times."""
    return made_once("clevr6", write_clevr6)


def write_clevr6(folder: Path) -> None:
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
