"""Untrained models of ClevrTex and SlotDiffusion look at pictures and at a video; tests/e2e has the others."""

import ast
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clevrtex.framework.catalogue import experiment_class
from clevrtex.framework.options import fill
from clevrtex.framework.training import plain_value
from core.data.slots import SlotFile
from core.runs import RunRecord
from core.training.checkpoint import save
from core.viz.videos import encode_mp4
from slotformer.framework.params import BaseParams
from tests.clevrtex_runs import SMALL
from tests.slotdiffusion_runs import small_params, small_picture_params
from tools.predict import main

SIZES = {"0": (40, 60), "1": (32, 32), "2": (70, 31)}
LARGE = {"space": (128, 128)}
"""What models for one size of pictures need."""
SHARED = {"slota", "iodine", "effmorl", "monet", "genesisv2"}
"""Models that can have another number of slots."""


def of_clevrtex(name: str) -> RunRecord:
    kind, words, flags = experiment_class(name), iter(SMALL[name]), {}
    known = {entry.name for entry in fields(kind)}
    for word in words:
        flag = str(word).removeprefix("--")
        if flag.removeprefix("no") in known and flag not in known:
            flags[flag.removeprefix("no")] = False
        else:
            value = next(words)
            flags[flag] = ast.literal_eval(value) if isinstance(value, str) and value[:1] == "[" else value
    size = LARGE.get(name, (32, 32))
    arguments = plain_value(fill(kind, flags).model_arguments(size))
    return record_of("clevrtex", "clevrtex.models:build_model", {"path": kind.model, "arguments": arguments}, size)


def of_slotdiffusion(task: str, params: BaseParams) -> RunRecord:
    arguments = {"task": f"slotdiffusion.{task}", "params": params.to_dict()}
    return record_of("slotdiffusion", "slotformer.framework.tasks:rebuild_model", arguments, params.resolution)


def record_of(paper: str, builder: str, arguments: dict, size: tuple[int, int]) -> RunRecord:
    kind = "videos" if arguments.get("task", "").endswith("video_based") else "images"
    inputs = {"kind": kind, "size": list(size)}
    return RunRecord(paper, builder, arguments, {}, 0, {"file": "weights.pth"}, inputs)


NOWHERE = Path("nowhere")
MODELS: dict[str, Callable[[], RunRecord]] = {
    **{name: lambda name=name: of_clevrtex(name) for name in SMALL},
    **{
        f"video {kind}": lambda kind=kind: of_slotdiffusion("video_based", small_params(kind, NOWHERE))
        for kind in ("savi", "steve", "savi_ldm")
    },
    **{
        f"picture {kind}": lambda kind=kind: of_slotdiffusion("img_based", small_picture_params(kind, NOWHERE))
        for kind in ("sa", "slate", "sa_ldm")
    },
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pictures/` and `video.mp4`, of noise."""
    folder, rng = tmp_path_factory.mktemp("seen"), np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for name, size in SIZES.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / "pictures" / f"{name}.png")
    (folder / "video.mp4").write_bytes(encode_mp4(rng.integers(0, 256, (3, 40, 52, 3), np.uint8), fps=10))
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    run, record = tmp_path / "run", MODELS[name]()
    torch.manual_seed(0)
    model = record.build()
    record.write(run / "run.json")
    save(run / "weights.pth", {"step": 3, "model": model.state_dict(), "run": record.to_dict()})

    def predict(source: str, *flags: str) -> int:
        return main(
            [str(run), "--input", str(seen / source), "--out", str(tmp_path / source / "-".join(flags)), *flags]
        )

    assert predict("pictures") == 0
    found = json.loads((tmp_path / "pictures" / "predictions.json").read_text())["files"]
    for picture, size in SIZES.items():
        with Image.open(tmp_path / "pictures" / "masks" / f"{picture}.png") as file:
            labels = np.array(file)
        assert labels.shape == size
        slots = found[str(seen / "pictures" / f"{picture}.png")]["slots"]
        assert [slot["slot"] for slot in slots] == np.unique(labels).tolist()
        assert sum(slot["area"] for slot in slots) == pytest.approx(1, abs=1e-4)
    assert predict("video.mp4", "--batch-size", "2") == 0
    out = tmp_path / "video.mp4" / "--batch-size-2"
    assert len(list((out / "masks" / "video").glob("*.png"))) == 3
    if (out / "slots.h5").exists():
        assert SlotFile(out / "slots.h5").shape("all", "video")[0] == 3
    capsys.readouterr()
    if name in SHARED:
        assert predict("pictures", "--num-slots", "5") == 0
        assert SlotFile(tmp_path / "pictures" / "--num-slots-5" / "slots.h5").shape("all", "0")[1] == 5
    else:
        assert predict("pictures", "--num-slots", "5") == 1
        said = capsys.readouterr().err
        assert "its slots are learned one by one" in said or "has no number of slots that could be changed" in said
