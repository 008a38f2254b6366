"""Rendered data sets by the command of the README, tiny, read back by the readers of the real ones."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.cameras import project
from core.data.clevr import Clevr
from core.data.clevrtex import ClevrTex
from core.data.errors import DataError
from core.data.framing import Framing
from core.data.movi import Movi
from core.data.msn import MSN
from core.data.multi_object_h5 import MultiObjectH5
from core.data.obj3d import Obj3D
from core.data.obsurf import ObSuRF
from core.synth.catalogue import SETS
from core.synth.clevrtex import VARIANTS
from tests.conftest import Runner

SMALL = ("--samples", 2, "--width", 64, "--height", 48)


def make(run: Runner, root: Path, name: str, *words: object) -> subprocess.CompletedProcess:
    return run("tools/make_data.py", name, "--root", root, *words)


def succeed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_clevr_npz(run: Runner, tmp_path: Path):
    words = ("--scenes", 7, "--samples", 1, "--most", 5, "--seed", 3)
    stdout = succeed(make(run, tmp_path, "clevr", *words))
    assert "7 scenes, 7 of them made by this call" in stdout
    root = tmp_path / "clevr_with_masks"
    described = json.loads((root / "dataset.json").read_text())
    assert described["generated"] is True
    assert (described["name"], described["count"], described["seed"]) == ("clevr", 7, 3)
    assert described["options"]["most"] == 5
    assert len(json.loads((root / "manifest_ind.json").read_text())) == 7
    sizes = [len(Clevr(root, split)) for split in ("test", "val", "train")]
    assert sizes == [1, 1, 5]
    source = Clevr(root, "train", Framing(crop=0.8, size=(64, 64)))
    batch = source.read(np.array([4, 0]))
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["mask"].shape == (2, 64, 64)
    assert batch["image"].dtype == batch["mask"].dtype == torch.uint8
    assert batch["visible"].shape == (2, 6)
    with np.load(root / "0/6.npz") as scene:  # index 6 is the last of the training split
        assert scene["image"].shape == (240, 320, 3)
        assert set(np.unique(scene["mask"])) == {0, 255}
        present = scene["visibility"] != 0
        assert batch["visible"][0].tolist() == present.tolist()
        assert 3 <= present.sum() - 1 <= 5
        assert (scene["mask"].any(axis=(1, 2, 3)) == present).all()
        assert (scene["mask"].astype(int).sum(axis=0) == 255).all()
        assert set(scene["shape"][present][1:]) <= {1, 2, 3}
        assert set(scene["color"][present][1:]) <= set(range(1, 9))
    assert set(batch["mask"][0].unique().tolist()) <= set(np.flatnonzero(present).tolist())


def test_clevr_files_of_efficient_morl(run: Runner, tmp_path: Path):
    succeed(make(run, tmp_path, "clevr6", "--train", 1, "--test", 2, "--seed", 1))
    source = MultiObjectH5(
        tmp_path / "clevr6_with_masks_and_factors_test.h5", "test", "clevr-small", masks=True, factors=True
    )
    assert source.factor_names[-1] == "visibility"
    batch = source.read(np.arange(2))
    assert batch["image"].shape == (2, 3, 96, 96)
    assert batch["mask"].shape == (2, 192, 192)
    assert batch["factors"].shape == (2, 7, 9)
    for mask, factors in zip(batch["mask"], batch["factors"]):
        present = factors[:, -1].nonzero().flatten()
        assert set(mask.unique().tolist()) <= set(present.tolist())
        assert 3 <= len(present) - 1 <= 6
    assert len(MultiObjectH5(tmp_path / "clevr6_with_masks_train.h5", "train", "clevr-small")) == 1


def test_both_files_of_clevr10_have_the_published_group_and_differ(run: Runner, tmp_path: Path):
    succeed(make(run, tmp_path, "clevr10", "--train", 1, "--test", 1))
    names = ("clevr10_with_masks_and_factors_train.h5", "clevr10_with_masks_test.h5")
    first, second = (
        MultiObjectH5(tmp_path / name, "test", "clevr-large", masks=True).read(np.arange(1)) for name in names
    )
    assert first["image"].shape == (1, 3, 128, 128)
    assert not torch.equal(first["image"], second["image"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_clevrtex(run: Runner, tmp_path: Path, variant: str):
    name = "clevrtex" if variant == "full" else f"clevrtex_{variant}"
    succeed(make(run, tmp_path, name, "--scenes", 2, *SMALL, "--seed", 2))
    folder = tmp_path / f"clevrtex_{variant}/0"
    stem = folder / f"CLEVRTEX_{variant}_000001"
    described = json.loads(stem.with_suffix(".json").read_text())
    labels = np.asarray(Image.open(f"{stem}_flat.png"))
    objects = described["objects"]
    assert set(np.unique(labels)) - {0} == set(range(1, len(objects) + 1))
    for number, thing in enumerate(objects, start=1):
        column, row, _ = thing["pixel_coords"]
        rows, columns = np.nonzero(labels == number)
        reach = 0.75 * max(np.ptp(rows), np.ptp(columns)) + 8  # what is seen of it is near its centre, if occluded
        assert np.hypot(rows - row, columns - column).min() < reach
        assert {"material", "shape", "size", "rotation", "color"} <= thing.keys()
    materials = {thing["material"] for thing in objects}
    if variant == "camo":
        assert materials == {described["ground_material"]}
    if variant == "vbg":
        assert materials <= {"rubber", "metal"}
    if variant in ("pbg", "grassbg"):
        assert described["ground_material"] == {"pbg": "plain", "grassbg": "grass"}[variant]
    if variant == "outd":
        assert {thing["shape"] for thing in objects}.isdisjoint({"cube", "sphere", "cylinder", "torus"})
    if variant == "outd":  # the whole set whatever the split
        source = ClevrTex(tmp_path, variant, "test", masks=True)
        batch = source.read(np.arange(2))
        assert batch["image"].shape == (2, 3, 128, 128)


def test_clevrtex_is_read_in_splits(run: Runner, tmp_path: Path):
    succeed(make(run, tmp_path, "clevrtex", "--scenes", 10, "--samples", 1, "--width", 40, "--height", 30))
    assert [len(ClevrTex(tmp_path, "full", split)) for split in ("train", "val", "test")] == [8, 1, 1]
    batch = ClevrTex(tmp_path, "full", "train", Framing(crop=0.8, size=(32, 32)), masks=True).read(np.arange(8))
    assert batch["image"].shape == (8, 3, 32, 32)
    assert batch["image"].float().std() > 10
    assert int(batch["mask"].max()) <= 10


@pytest.mark.parametrize(("name", "most", "labels"), [("clevr3d", 4, 11), ("obsurf_msn", 3, 5)])
def test_views_are_read_and_their_cameras_hit_the_objects(run: Runner, tmp_path: Path, name, most, labels):
    succeed(make(run, tmp_path, name, "--scenes", 20, "--samples", 1, "--width", 64, "--height", 48, "--most", most))
    sizes = [len(ObSuRF(tmp_path / name, split, name)) for split in ("train", "val", "test")]
    assert sizes == [48, 6, 6]  # three samples per scene
    source = ObSuRF(tmp_path / name, "train", name)
    batch = source.read(np.arange(6))
    assert batch["images"].shape == (6, 3, 3, 48, 64)
    assert int(batch["masks"].max()) < labels
    hits = total = 0
    for scene in range(6):
        described = json.loads((tmp_path / f"{name}/scenes/{scene:06d}.json").read_text())
        assert len(described["shape"]) <= most
        for view in range(3):
            assert batch["cameras"][scene, view, :, 3].tolist() == pytest.approx(described["camera_pos"][view])
            seen = project(batch["cameras"][scene, view], torch.tensor(described["positions"]))
            for entity, (x, y, _) in enumerate(seen.tolist(), start=1):
                if 0 <= x < 64 and 0 <= y < 48:
                    total += 1
                    hits += int(batch["masks"][scene, view, int(y), int(x)]) == entity
    # The others are hidden behind another object, or rings, whose centre is empty.
    assert hits / total > 0.75


def test_msn_is_read_and_its_cameras_hit_the_objects(run: Runner, tmp_path: Path):
    words = ("--samples", 1, "--width", 32, "--height", 32, "--fewest", 4, "--most", 6, "--per-shard", 2)
    stdout = succeed(make(run, tmp_path, "msn", "--scenes", 19, *words))
    assert "20 scenes (19 asked for; files are written whole), 20 of them made by this call" in stdout
    assert json.loads((tmp_path / "msn/dataset.json").read_text())["count"] == 20
    sizes = [len(MSN(tmp_path / "msn", split)) for split in ("train", "val", "test")]
    assert sizes == [16, 2, 2]
    batch = MSN(tmp_path / "msn", "test").read(np.arange(2))
    assert batch["images"].shape == (2, 10, 3, 32, 32)
    assert batch["masks"].shape == (2, 10, 32, 32)
    assert batch["sceneid"].tolist() == [18, 19]
    assert 3 <= int(batch["masks"].max()) <= 6
    # The ground at the world's origin is before every camera, and all of them see about the same place.
    seen = torch.stack([project(camera, torch.zeros(1, 3))[0] for camera in batch["cameras"].flatten(0, 1)])
    assert (seen[:, 2] > 7).all()
    assert (seen[:, :2] - 16).abs().max() < 6


def test_obj3d_is_read(run: Runner, tmp_path: Path):
    words = ("--frames", 8, "--samples", 1, "--width", 64, "--height", 64, "--seed", 5)
    succeed(make(run, tmp_path, "obj3d", "--scenes", 10, *words))
    sizes = [len(Obj3D(tmp_path / "OBJ3D", split, 4, video_len=7)) for split in ("train", "val", "test")]
    assert sizes == [8 * 4, 1, 1]
    batch = Obj3D(tmp_path / "OBJ3D", "train", 4, video_len=7).read(np.array([0, 31]))
    assert batch["video"].shape == (2, 4, 3, 64, 64)
    moving = (batch["video"][:, 1:].int() - batch["video"][:, :-1].int()).abs() > 40
    assert moving.any(), "something slides in"
    masks = Obj3D(tmp_path / "OBJ3D", "train", 4, video_len=7, masks=True).read(np.array([0, 31]))["mask"]
    assert masks.shape == (2, 4, 64, 64)
    assert 2 <= int(masks.max()) <= len(json.loads((tmp_path / "OBJ3D/train/000000/scene.json").read_text())["objects"])
    described = json.loads((tmp_path / "OBJ3D/train/000000/scene.json").read_text())
    positions = np.array(described["positions"])
    assert positions.shape[0] == 8
    assert np.isfinite(positions).all()
    assert (positions[..., 2] > 0.1).all()
    for contact in described["contacts"]:
        assert contact["first"] < contact["second"] < positions.shape[1]


@pytest.mark.parametrize(("name", "level", "most"), [("movi-d", "D", 20), ("movi-e", "E", 12), ("movi-tex", "Tex", 10)])
def test_movi_is_read_and_masks_follow_the_objects(run: Runner, tmp_path: Path, name: str, level: str, most: int):
    words = ("--frames", 4, "--samples", 1, "--width", 48, "--height", 48, "--most", most)
    succeed(make(run, tmp_path, name, "--scenes", 10, *words))
    source = Movi(tmp_path, level, "test", 4, video_len=4, size=(48, 48), masks=True)
    assert len(source) == 1
    batch = source.read(np.arange(1))
    assert batch["video"].shape == (1, 4, 3, 48, 48)
    assert batch["mask"].shape == (1, 4, 48, 48)
    assert 3 <= int(batch["mask"].max()) <= most
    folder = next((tmp_path / f"MOVi-{level}/test").iterdir())
    described = json.loads((folder / "scene.json").read_text())
    assert 10 <= len(described["objects"]) <= most
    moves = np.ptp([camera["position"] for camera in described["cameras"]], axis=0).max()
    assert (moves > 0.1) == (name == "movi-e")


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("obj3d", 3),
        pytest.param("movi-e", 10, marks=pytest.mark.slow),
        pytest.param("movi-tex", 10, marks=pytest.mark.slow),
        ("clevr3d", 4),
    ],
)
def test_files_do_not_depend_on_workers_and_a_larger_count_continues(run: Runner, tmp_path: Path, name: str, most: int):
    words = ["--samples", 1, "--width", 32, "--height", 24, "--most", most]
    words += ["--frames", 2] if "frames" in SETS[name].options else []
    for folder, counts in (("grown", (1, 2)), ("at-once", (2,))):
        for count in counts:
            succeed(make(run, tmp_path / folder, name, *words, "--scenes", count, "--workers", 2))
    grown, at_once = contents(tmp_path / "grown"), contents(tmp_path / "at-once")
    assert grown == at_once
    assert len(at_once) > 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("clevr", "--train", 3, "--test", 1), "the size of clevr is given by --scenes"),
        (("tetrominoes", "--scenes", 3), "the size of tetrominoes is given by --train and --test"),
        (("clevr", "--scenes", 3, "--frames", 3), "--frames does not apply to clevr, which has --width"),
        (("clevr", "--scenes", 3, "--fewest", 9, "--most", 4), "--fewest 9 is more than --most 4"),
        (("clevrtexx", "--scenes", 3), "no data set 'clevrtexx'; did you mean 'clevrtex'?"),
        (("movi-tex", "--scenes", 1, "--most", 12), "there is room for 10 objects"),
        (("clevr", "--scenes", 0), "expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_made_is_said(run: Runner, tmp_path: Path, words, said: str):
    done = make(run, tmp_path, *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_clevr_names_the_file_and_the_remedy(run: Runner, tmp_path: Path):
    succeed(make(run, tmp_path, "clevr", "--scenes", 7, "--samples", 1, "--most", 3))
    root = tmp_path / "clevr_with_masks"
    whole = (root / "0/5.npz").read_bytes()
    (root / "0/5.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"5\.npz: cannot be read as a CLEVR scene .*make_data\.py clevr"):
        Clevr(root, "train").read(np.array([0]))
    (root / "0/5.npz").unlink()
    with pytest.raises(DataError, match=r"5\.npz: the manifest names it, but it is not there"):
        Clevr(root, "train").read(np.array([0]))
    (root / "manifest_ind.json").write_text("[]")
    with pytest.raises(DataError, match=r"manifest_ind\.json: not a table"):
        Clevr(root, "train")
    with pytest.raises(DataError, match=r"no manifest_ind\.json and no \.npz file"):
        Clevr(tmp_path / "elsewhere")
