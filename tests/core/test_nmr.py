"""The reader of the NMR renderings on a small set in the published layout."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.cameras import FixedDraws, cast_rays, look_at_axes
from core.data.errors import DataError
from core.data.loader import Batch, TrainingLoader
from core.data.nmr import NMR

HEIGHT, WIDTH, NUM_VIEWS, NUM_POINTS = 5, 6, 24, 23 * 5 * 6
SCENES = {"train": ["02691156/a1", "03211117/b2", "03211117/c3"], "val": ["03211117/d4"], "test": ["02691156/e5"]}
_rng = np.random.default_rng(0)
NAMES = [name for names in SCENES.values() for name in names]
PICTURES = {name: _rng.integers(0, 256, (NUM_VIEWS, HEIGHT, WIDTH, 3), dtype=np.uint8) for name in NAMES}
POSITIONS = {name: _rng.normal(size=(NUM_VIEWS, 3)) * 2 for name in NAMES}
"""In our world, with z up."""
FOCAL = 1.75
TO_FILE = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""z up to the files' y up."""


def matrices_of(name: str) -> dict[str, np.ndarray]:
    """Cameras that look at the origin, in the y-up world of the files."""
    axes = look_at_axes(torch.from_numpy(POSITIONS[name]), torch.zeros(NUM_VIEWS, 3)).numpy()
    found = {}
    for view in range(NUM_VIEWS):
        world = np.eye(4)
        world[:3, :3] = axes[view] @ TO_FILE.T
        world[:3, 3] = -axes[view] @ POSITIONS[name][view]
        camera = np.diag([FOCAL, FOCAL, 1, 1])
        for key, matrix in (("world_mat", world), ("camera_mat", camera)):
            found[f"{key}_{view}"] = matrix
            found[f"{key}_inv_{view}"] = np.linalg.inv(matrix)
    return found


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nmr")
    # Unquoted, 03211117 is an octal number to YAML.
    (root / "metadata.yaml").write_text("first:\n  id: '02691156'\n  name: plane\n03211117:\n  id: 03211117\n")
    for name in NAMES:
        (root / name / "image").mkdir(parents=True)
        for view in range(NUM_VIEWS):
            Image.fromarray(PICTURES[name][view]).save(root / name / "image" / f"{view:04d}.png")
        np.savez(root / name / "cameras.npz", **matrices_of(name))
    for split, names in SCENES.items():
        for folder in ("02691156", "03211117"):
            lines = [name.split("/")[1] for name in names if name.startswith(folder)]
            (root / folder / f"softras_{split}.lst").write_text("\n".join([*lines, ""]))
    return root


@pytest.fixture
def root(tmp_path, pristine) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "nmr"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def scene_of(source: NMR, index: int) -> Batch:
    return {key: value[0] for key, value in source.read(np.array([index])).items()}


@pytest.mark.parametrize("split", list(SCENES))
def test_scenes_come_in_the_order_of_the_classes(root, split):
    source = NMR(root, split)
    assert [f"{path.parent.name}/{path.name}" for path in source.scenes] == SCENES[split]
    assert (len(source), source.image_size) == (24 * len(SCENES[split]), (HEIGHT, WIDTH))


@pytest.mark.parametrize("index", [0, 2, 16, 71])
def test_a_sample_shows_one_scene_from_one_view(root, index):
    name, view = SCENES["train"][index % 3], index // 3
    others = [other for other in range(NUM_VIEWS) if other != view]
    source = NMR(root, "train", full_scale=True)
    sample = cast_rays(source.draw(scene_of(source, index), np.random.default_rng(0)))
    assert sample["sceneid"] == index
    pictures = torch.from_numpy(PICTURES[name]).float() / 255
    assert torch.equal(sample["input_images"], pictures[view : view + 1].permute(0, 3, 1, 2))
    assert torch.equal(sample["target_pixels"], pictures[others].reshape(-1, 3))
    positions = torch.from_numpy(POSITIONS[name]).float()
    torch.testing.assert_close(sample["input_camera_pos"], positions[view : view + 1], rtol=0, atol=1e-6)
    expected = positions[others].repeat_interleave(HEIGHT * WIDTH, dim=0)
    torch.testing.assert_close(sample["target_camera_pos"], expected, rtol=0, atol=1e-6)
    assert not [key for key in sample if "mask" in key]


def test_rays_reach_the_borders_of_the_picture(root):
    source = NMR(root, "train")
    sample = cast_rays(source.sample(scene_of(source, 4)))
    position = torch.from_numpy(POSITIONS[SCENES["train"][1]][1])
    axes = look_at_axes(position, torch.zeros(3))
    x, y = torch.linspace(-1, 1, WIDTH).double(), torch.linspace(-1, 1, HEIGHT).double()
    along = torch.stack((x.expand(HEIGHT, WIDTH) / FOCAL, y[:, None].expand(HEIGHT, WIDTH) / FOCAL), dim=-1)
    along = torch.cat((along, torch.ones(HEIGHT, WIDTH, 1)), dim=-1) @ axes
    expected = torch.nn.functional.normalize(along, dim=-1).float()
    torch.testing.assert_close(sample["input_rays"][0], expected, rtol=0, atol=1e-6)


def test_the_generator_draws_the_target_pixels(root):
    source = NMR(root, "train", num_points=20)
    scene = scene_of(source, 7)
    sample = source.draw(scene, np.random.default_rng(1))
    view, row, column = sample["target_points"].long().unbind(-1)
    others = torch.tensor([other for other in range(NUM_VIEWS) if other != 2])
    assert torch.equal(sample["target_pixels"], torch.from_numpy(PICTURES["03211117/b2"])[others[view], row, column])
    for seed, equal in ((1, True), (2, False)):
        again = source.draw(scene, np.random.default_rng(seed))
        assert torch.equal(again["target_points"], sample["target_points"]) is equal
    assert len(NMR(root, "train", num_points=9999).draw(scene, np.random.default_rng(1))["target_pixels"]) == 9999


def test_canonical_view(root):
    source, plain = NMR(root, "train", canonical_view=True), NMR(root, "train")
    sample, world = (cast_rays(one.sample(scene_of(one, 50))) for one in (source, plain))
    torch.testing.assert_close(sample["input_camera_pos"], torch.zeros(1, 3), rtol=0, atol=1e-6)
    rotated = world["target_rays"] @ sample["transform"][:3, :3].T
    torch.testing.assert_close(sample["target_rays"], rotated, rtol=0, atol=1e-6)
    forward = torch.nn.functional.normalize(sample["input_rays"].mean(dim=(0, 1, 2)), dim=0)
    torch.testing.assert_close(forward, torch.tensor([0.0, 0, 1]), rtol=0, atol=1e-6)


def test_max_len(root):
    assert len(NMR(root, "train", max_len=1000)) == 72
    source = NMR(root, "train", max_len=2)
    shutil.rmtree(root / SCENES["train"][2])  # its samples are not among the first two
    assert (len(source), len(source.read(np.arange(2))["images"])) == (2, 2)


def test_samples_do_not_depend_on_workers(root):
    source = NMR(root, "train", num_points=10)
    settings = {"batch_size": 4, "seed": 3, "device": torch.device("cpu"), "augment": source.draw}
    alone, workers = (TrainingLoader(source, num_workers=number, **settings).batches(0) for number in (0, 2))
    for _ in range(4):
        batch, other = next(alone), next(workers)
        assert all(torch.equal(other[key], value) for key, value in batch.items())
    fixed = FixedDraws(source, source.draw, seed=0)
    assert cast_rays(fixed.read(np.array([3, 70])))["target_rays"].shape == (2, 10, 3)


def test_the_cache_follows_the_files(root, cache):
    before = NMR(root, "train").read(np.arange(3))
    stamps = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    assert len(stamps) == 2
    (root / "README").touch()  # changes the folder's own time, but no picture
    NMR(root, "train").read(np.arange(3))
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")} == stamps
    name = SCENES["train"][1]
    Image.fromarray(255 - PICTURES[name][5]).save(root / name / "image" / "0005.png")
    np.savez(root / name / "cameras.npz", **matrices_of(SCENES["train"][0]))
    after = NMR(root, "train").read(np.arange(3))
    assert torch.equal(after["images"][1, 5], 255 - before["images"][1, 5])
    assert torch.equal(after["cameras"][1], before["cameras"][0])
    assert torch.equal(after["images"][0], before["images"][0])


def expect(message: str, root: Path, split: str = "train") -> None:
    with pytest.raises(DataError, match=message):
        NMR(root, split).read(np.arange(3))


def test_unknown_splits(root):
    with pytest.raises(ValueError, match="split 'training' is not one of train, val, test"):
        NMR(root, "training")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"cannot be read \(while parsing"),
        ("- 02691156", "expected a mapping whose entries have an `id`"),
        ("", "expected a mapping whose entries have an `id`"),
        ("02691156: plane", "expected a mapping whose entries have an `id`"),
        ("02691156:\n  name: plane", "expected a mapping whose entries have an `id`"),
    ],
)
def test_metadata_that_does_not_fit(root, text, message):
    (root / "metadata.yaml").write_text(text)
    expect(rf"(?s)metadata\.yaml: {message}.*Fetch NMR_Dataset\.zip again", root)


def test_missing_files(root):
    name = SCENES["train"][1]
    (root / name / "image" / "0023.png").unlink()
    expect(rf"{name}/image/0023\.png: No such file or directory\. Fetch NMR_Dataset\.zip", root)
    (root / name / "cameras.npz").unlink()
    expect(rf"{name}/cameras\.npz: No such file or directory\. Fetch NMR_Dataset\.zip", root)
    (root / "03211117" / "softras_train.lst").unlink()
    expect(r"03211117/softras_train\.lst: cannot be read .*No such file", root)
    (root / "metadata.yaml").unlink()
    expect(r"metadata\.yaml: cannot be read .*No such file.* Set data\.path to the folder that holds it", root)


def test_empty_lists(root):
    (root / "03211117" / "softras_val.lst").write_text("\n")
    expect(r"the lists softras_val\.lst name no scene", root, "val")


def test_a_picture_of_another_size(root):
    name = SCENES["train"][2]
    Image.fromarray(PICTURES[name][0][:4]).save(root / name / "image" / "0007.png")
    expect(rf"{name}/image/0007\.png: 6x4 pixels, expected 6x5 as in the first picture", root)


def test_damaged_pictures(root):
    name = SCENES["train"][2]
    os.truncate(root / name / "image" / "0007.png", 60)
    expect(rf"{name}/image/0007\.png: cannot be read as a picture \(.*\)\. Fetch", root)
    os.truncate(root / SCENES["train"][0] / "image" / "0000.png", 60)
    expect(r"0000\.png: cannot be read as a picture \(.*\)\. Fetch", root)


def test_damaged_cameras(root):
    path = root / SCENES["train"][0] / "cameras.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    for damaged in (b"", whole[:500], whole[:-5], bytes(flipped)):
        path.write_bytes(damaged)
        expect(r"cameras\.npz: cannot be read \(.*\)\. Fetch", root)


def test_cameras_that_do_not_fit(root):
    path = root / SCENES["train"][0] / "cameras.npz"
    matrices = matrices_of(SCENES["train"][0])
    np.savez(path, **matrices | {"world_mat_inv_3": np.eye(3)})
    expect(r"cameras\.npz: world_mat_inv_3 is \[3, 3\], expected \[4, 4\]", root)
    del matrices["camera_mat_inv_23"]
    np.savez(path, **matrices)
    expect(r"cameras\.npz: no array 'camera_mat_inv_23', expected matrices of 24 views", root)
