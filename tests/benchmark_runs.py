"""Tiny trained runs of all five papers on one folder of generated data, each made once per session when asked for."""

import sys
from collections.abc import Callable
from pathlib import Path

from tests import clevrtex_runs, osrt_runs, slotdiffusion_runs, slotformer_runs, tiny_runs
from tests.conftest import MadeOnce, Runner
from tests.slotformer_runs import newest

QUICK_SETS = (
    "tetrominoes --train 64 --test 8 --seed 1",
    "obj3d --scenes 20 --frames 6 --width 64 --height 64 --samples 1",
    "clevr3d --scenes 10 --width 32 --height 24 --samples 1",
)
SETS = (
    *QUICK_SETS,
    "clevrtex --scenes 20 --width 80 --height 60 --samples 1",
    "movi-d --scenes 30 --frames 6 --width 32 --height 32 --samples 1",
)
"""Words of the README's commands that make the data; those of the first three take a few seconds."""
MARIONET = (
    *("--canvas_size", 32, "--layer_size", 4, "--num_classes", 6, "--dim_z", 32),
    *("--bs", 4, "--num_steps", 13, "--num_worker_threads", 0),
)
STANDS_ON = {"savi_ldm": "video_vqvae", "steve": "video_dvae", "sa_ldm": "picture_vqvae"}
"""The run that another one needs."""


class BenchmarkRuns:
    """`runs[name]` is the run folder of a model; `data` the folder that all of them were trained on."""

    def __init__(self, run: Runner, made_once: MadeOnce, data: Path):
        self.run, self.made_once, self.data = run, made_once, data

    def __getitem__(self, name: str) -> Path:
        base = self[STANDS_ON[name]] if name in STANDS_ON else None
        make, run_folder = MODELS[name]

        def train(folder: Path) -> None:
            done = self.run(*make(self.data, folder, base), cwd=self._directory(name, folder))
            assert done.returncode == 0, done.stderr

        return run_folder(self.made_once(f"run-{name}", train))

    def _directory(self, name: str, folder: Path) -> Path:
        """Where the command is started: some papers write below the working directory."""
        return folder if name in SLOTFORMER_TRAINER else tiny_runs.ROOT


def _emorl(model: str) -> Callable:
    return lambda data, folder, base: tiny_runs.train_words(data, folder, model=model)


def _clevrtex(model: str, *flags: object) -> Callable:
    return lambda data, folder, base: clevrtex_runs.train_words(
        model, data, folder, "--max_steps", 10, "--batch_size", 4, "--tag", "test", *flags
    )


def _marionet(data: Path, folder: Path, base: Path | None) -> list:
    words = ("--data", "clevrtex:full-crop", "--data_root", data, "--checkpoint-dir", folder, *MARIONET)
    return [sys.executable, "-m", "clevrtex.marionet.train", *words]


def _savi(data: Path, folder: Path, base: Path | None) -> list:
    return slotformer_runs.train_words("savi_obj3d_params", data / "OBJ3D", "run")


def _video(kind: str) -> Callable:
    return lambda data, folder, base: slotdiffusion_runs.train_words(
        kind, data, "run", settings=_weights_of(kind, base)
    )


def _picture(kind: str) -> Callable:
    return lambda data, folder, base: slotdiffusion_runs.picture_train_words(
        kind, data, "run", settings=_weights_of(kind, base)
    )


def _weights_of(kind: str, base: Path | None) -> tuple[str, ...]:
    return () if base is None else (f"{slotdiffusion_runs.NEEDS[kind][1]}={newest(base)}",)


def _osrt(data: Path, folder: Path, base: Path | None) -> list:
    return osrt_runs.train_words(folder, data)


def _itself(folder: Path) -> Path:
    return folder


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoint" / "run"


def _of_clevrtex(model: str) -> Callable[[Path], Path]:
    return lambda folder: clevrtex_runs.folder_of(model, folder)


MODELS: dict[str, tuple[Callable, Callable[[Path], Path]]] = {
    "emorl": (_emorl("EMORL"), _itself),
    "emorl_slot_attention": (_emorl("SlotAttention"), _itself),
    **{
        name: (_clevrtex(name), _of_clevrtex(name))
        for name in ("slota", "genesisv2", "iodine", "monet", "effmorl", "dtisprites", "spair", "gnm", "space")
    },
    "marionet": (_marionet, _itself),
    "savi": (_savi, _checkpoint),
    "video_dvae": (_video("dvae"), _checkpoint),
    "video_vqvae": (_video("vqvae"), _checkpoint),
    "steve": (_video("steve"), _checkpoint),
    "savi_ldm": (_video("savi_ldm"), _checkpoint),
    "picture_vqvae": (_picture("vqvae"), _checkpoint),
    "sa_ldm": (_picture("sa_ldm"), _checkpoint),
    "sa": (_picture("sa"), _checkpoint),
    "osrt": (_osrt, _itself),
}
"""Words of the training command, and where in its folder the run lies."""
SLOTFORMER_TRAINER = {"savi", "video_dvae", "video_vqvae", "steve", "savi_ldm", "picture_vqvae", "sa_ldm", "sa"}
