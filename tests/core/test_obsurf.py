"""The readers of CLEVR3D and of ObSuRF's MultiShapeNet on small sets in the published layout."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.cameras import FixedDraws, cast_rays, look_at_cameras, pixel_rays
from core.data.errors import DataError
from core.data.loader import Batch, TrainingLoader
from core.data.obsurf import ObSuRF

HEIGHT, WIDTH, NUM_POINTS = 6, 8, 3 * 6 * 8
ROWS = 75_000
SCENES = {0: 3, 4: 7, 5: 6, 69_999: 1, 70_001: 2}
"""Number of objects of the scenes that have pictures; all others have too many objects."""
TRAIN = [0, 5, 69_999]
_rng = np.random.default_rng(0)
PICTURES = {scene: _rng.integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8) for scene in SCENES}
LABELS = {scene: _rng.integers(0, 5, (3, HEIGHT, WIDTH), dtype=np.uint8) for scene in SCENES}
POSITIONS = {scene: _rng.normal(size=(4, 3)) for scene in SCENES}


def write_metadata(root: Path, rows: int = ROWS, **changes: np.ndarray | None) -> None:
    shape = np.ones((rows, 10), np.int64)
    positions = np.zeros((rows, 4, 3))
    for scene, number in SCENES.items():
        if scene < rows:
            shape[scene, number:] = 0
            positions[scene] = POSITIONS[scene]
    arrays = {"shape": shape, "camera_pos": positions, "colour": shape} | changes
    np.savez(root / "metadata.npz", **{key: value for key, value in arrays.items() if value is not None})


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clevr3d")
    write_metadata(root)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for scene in SCENES:
        for view in range(3):
            Image.fromarray(PICTURES[scene][view]).save(root / "images" / f"img_{scene}_{view}.png")
            Image.fromarray(LABELS[scene][view]).save(root / "masks" / f"masks_{scene}_{view}.png")
    return root


@pytest.fixture
def root(tmp_path, pristine) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "clevr3d"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def scene_of(source: ObSuRF, index: int) -> Batch:
    return {key: value[0] for key, value in source.read(np.array([index])).items()}


def flat(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures.reshape(-1, *pictures.shape[3:]))


def test_scenes_with_too_many_objects_are_left_out(root):
    assert ObSuRF(root, "train").scenes.tolist() == TRAIN
    assert ObSuRF(root, "train", max_objects=5).scenes.tolist() == [0, 69_999]
    assert ObSuRF(root, "train", max_objects=7).scenes.tolist() == [0, 4, 5, 69_999]
    assert ObSuRF(root, "val").scenes.tolist() == [70_001]


@pytest.mark.parametrize("index", range(9))
def test_a_sample_shows_one_scene_from_one_view(root, index):
    number, view = TRAIN[index % 3], index // 3
    source = ObSuRF(root, "train", full_scale=True)
    assert len(source) == 9
    sample = cast_rays(source.draw(scene_of(source, index), np.random.default_rng(0)))
    assert sample["sceneid"] == index
    image = torch.from_numpy(PICTURES[number][view : view + 1]).permute(0, 3, 1, 2)
    assert torch.equal(sample["input_images"], image.float() / 255)
    assert torch.equal(sample["input_masks"], torch.from_numpy(LABELS[number][view : view + 1]))
    assert torch.equal(sample["target_pixels"], flat(PICTURES[number]).float() / 255)
    assert torch.equal(sample["target_masks"], flat(LABELS[number]))
    cameras = look_at_cameras(torch.from_numpy(POSITIONS[number][:3]), HEIGHT, WIDTH)
    rays = pixel_rays(cameras, HEIGHT, WIDTH)
    assert torch.equal(sample["input_rays"], rays[view : view + 1])
    torch.testing.assert_close(sample["target_rays"], rays.reshape(-1, 3), rtol=0, atol=1e-7)
    assert torch.equal(sample["input_camera_pos"][0], torch.from_numpy(POSITIONS[number][view]).float())
    assert torch.equal(sample["target_camera_pos"][-1], torch.from_numpy(POSITIONS[number][2]).float())


def test_the_generator_draws_the_target_pixels(root):
    source = ObSuRF(root, "train", num_points=20)
    scene = scene_of(source, 1)
    sample = source.draw(scene, np.random.default_rng(1))
    view, row, column = sample["target_points"].long().unbind(-1)
    assert len(set(zip(view.tolist(), row.tolist(), column.tolist()))) == 20
    assert torch.equal(sample["target_pixels"], torch.from_numpy(PICTURES[5])[view, row, column])
    assert torch.equal(sample["target_masks"], torch.from_numpy(LABELS[5])[view, row, column])
    for seed, equal in ((1, True), (2, False)):
        again = source.draw(scene, np.random.default_rng(seed))
        assert torch.equal(again["target_points"], sample["target_points"]) is equal


@pytest.mark.parametrize(("downsample", "kept"), [(0, slice(None)), (1, slice(1, None, 2)), (2, slice(2, None, 4))])
def test_downsampled_input_views(root, downsample, kept):
    source = ObSuRF(root, "train", full_scale=True, downsample=downsample)
    sample = cast_rays(source.sample(scene_of(source, 0)))
    image = torch.from_numpy(PICTURES[0][:1, kept, kept]).permute(0, 3, 1, 2)
    assert torch.equal(sample["input_images"], image.float() / 255)
    assert torch.equal(sample["input_masks"], torch.from_numpy(LABELS[0][:1, kept, kept]))
    rays = pixel_rays(look_at_cameras(torch.from_numpy(POSITIONS[0][:1]), HEIGHT, WIDTH), HEIGHT, WIDTH)
    torch.testing.assert_close(sample["input_rays"], rays[:, kept, kept], rtol=0, atol=1e-7)
    assert len(sample["target_pixels"]) == NUM_POINTS


def test_canonical_view(root):
    source = ObSuRF(root, "train", full_scale=True, canonical_view=True)
    sample, world = (cast_rays(one.sample(scene_of(one, 4))) for one in (source, ObSuRF(root, "train")))
    assert torch.equal(sample["input_camera_pos"], torch.zeros(1, 3))
    forward = torch.nn.functional.normalize(sample["input_rays"].mean(dim=(0, 1, 2)), dim=0)
    torch.testing.assert_close(forward, torch.tensor([0.0, 0, 1]), rtol=0, atol=1e-6)
    rotated = world["target_rays"] @ sample["transform"][:3, :3].T
    torch.testing.assert_close(sample["target_rays"], rotated, rtol=0, atol=1e-6)
    moved = world["target_camera_pos"] @ sample["transform"][:3, :3].T + sample["transform"][:3, 3]
    torch.testing.assert_close(sample["target_camera_pos"], moved, rtol=0, atol=1e-5)


def test_max_len_takes_the_first_samples_and_their_pictures_only(root):
    for path in (root / "images").glob("img_69999_*.png"):
        path.unlink()
    source = ObSuRF(root, "train", max_len=2)
    assert len(source) == 2
    assert source.read(np.arange(2))["input_view"].tolist() == [0, 0]
    assert len(ObSuRF(root, "val", max_len=50)) == 3
    with pytest.raises(DataError, match=r"img_69999_0\.png: no such file \(3 of 9 are missing for the train split\)"):
        ObSuRF(root, "train")


def test_alpha_and_palettes(root):
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    Image.fromarray(np.concatenate((PICTURES[0][0], alpha), axis=-1)).save(root / "images" / "img_0_0.png")
    palette = Image.fromarray(LABELS[0][0])
    palette.putpalette([value for entry in range(256) for value in (entry, 255 - entry, 7)])
    palette.save(root / "masks" / "masks_0_0.png")
    scene = scene_of(ObSuRF(root, "train"), 0)
    np.testing.assert_array_equal(scene["images"][0].permute(1, 2, 0), PICTURES[0][0])
    np.testing.assert_array_equal(scene["masks"][0], LABELS[0][0])


def loaded(source: ObSuRF, steps: int = 5, **settings) -> list[Batch]:
    loader = TrainingLoader(source, seed=3, device=torch.device("cpu"), augment=source.draw, **settings)
    batches = loader.batches(0)
    return [next(batches) for _ in range(steps)]


def test_samples_do_not_depend_on_workers_or_processes(root):
    source = ObSuRF(root, "train", num_points=10)
    alone = loaded(source, batch_size=4)
    assert alone[0]["input_images"].dtype == torch.uint8
    workers = loaded(source, batch_size=4, num_workers=2)
    halves = [loaded(source, batch_size=2, num_processes=2, process_index=index) for index in range(2)]
    for step, batch in enumerate(alone):
        for key, value in batch.items():
            assert torch.equal(workers[step][key], value)
            assert torch.equal(torch.cat([half[step][key] for half in halves]), value)
    points = {
        (int(number), tuple(drawn.flatten().tolist()))
        for batch in alone
        for number, drawn in zip(batch["sceneid"], batch["target_points"])
    }
    assert len(points) == 20  # the same scene has other points in another epoch


def test_evaluation_draws_the_same_points_for_ever(root):
    source = ObSuRF(root, "train", num_points=10)
    fixed = FixedDraws(source, source.draw, seed=0)
    batch = cast_rays(fixed.read(np.arange(9)))
    assert batch["target_rays"].shape == (9, 10, 3)
    assert batch["input_rays"].shape == (9, 1, HEIGHT, WIDTH, 3)
    for index in range(9):
        for key, value in cast_rays(fixed.read(np.array([index]))).items():
            assert torch.equal(value[0], batch[key][index])


def test_pictures_are_decoded_once_and_the_cache_follows_them(root, cache):
    ObSuRF(root, "train").read(np.arange(3))
    stamps = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    assert len(stamps) == 2
    (root / "images" / "Thumbs.db").touch()  # changes the folder's own time, but no picture
    ObSuRF(root, "train", num_points=7, downsample=1).read(np.arange(3))
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")} == stamps
    Image.fromarray(255 - PICTURES[5][1]).save(root / "images" / "img_5_1.png")
    scene = scene_of(ObSuRF(root, "train"), 1)
    np.testing.assert_array_equal(scene["images"][1].permute(1, 2, 0), 255 - PICTURES[5][1])
    np.testing.assert_array_equal(scene["images"][0].permute(1, 2, 0), PICTURES[5][0])


def test_unknown_names(root):
    with pytest.raises(ValueError, match="dataset 'clevr4d' is not one of clevr3d, obsurf_msn"):
        ObSuRF(root, "train", "clevr4d")
    with pytest.raises(ValueError, match="split 'validation' is not one of train, val, test"):
        ObSuRF(root, "validation")


def expect(message: str, root: Path, split: str = "train", dataset: str = "clevr3d") -> None:
    with pytest.raises(DataError, match=message):
        ObSuRF(root, split, dataset).read(np.arange(1))


def test_missing_metadata(root):
    (root / "metadata.npz").unlink()
    expect(r"metadata\.npz: no such file\. Set data\.path to the folder that holds it\. Unpack", root)


def test_too_few_rows(root):
    expect(
        r"metadata\.npz: shape has 75000 rows, expected at least 80000 for the train split of obsurf_msn\. Check "
        r"data\.dataset",
        root,
        dataset="obsurf_msn",
    )
    expect("has 75000 rows, expected at least 100000 for the test split of clevr3d", root, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera_pos": None}, "no array 'camera_pos', only shape, colour. Unpack"),
        ({"camera_pos": np.zeros((ROWS, 2, 3))}, r"camera_pos is \[75000, 2, 3\], expected \[N, 3, 3\]"),
        ({"shape": np.zeros(ROWS, np.int64)}, r"shape is \[75000\], expected \[N, M\]"),
        ({"shape": np.ones((ROWS, 8), np.int64)}, "no scene of rows 0 to 69999 has at most 6 objects, the least is 8"),
        ({"shape": np.full((1, 1), None)}, "shape cannot be read .*Object arrays cannot be loaded"),
    ],
)
def test_metadata_that_does_not_fit(root, changes, message):
    write_metadata(root, **changes)
    expect(rf"metadata\.npz: {message}", root)


def test_damaged_metadata(root):
    write_metadata(root, rows=ROWS)
    whole = (root / "metadata.npz").read_bytes()
    for damaged in (b"", whole[:1000], b"not an archive", whole[: len(whole) // 2], whole[:-30]):
        (root / "metadata.npz").write_bytes(damaged)
        expect(r"metadata\.npz: shape cannot be read \(.*\)\. Unpack", root)
    data = bytearray(whole)
    data[len(data) // 4] ^= 0xFF  # within `shape`
    (root / "metadata.npz").write_bytes(data)
    expect(r"metadata\.npz: shape cannot be read \(Bad CRC-32", root)


def test_missing_folders(root):
    shutil.rmtree(root / "masks")
    expect(r"masks: cannot be listed \(No such file or directory\)\. Unpack", root)


def test_a_label_that_may_not_be(root):
    Image.fromarray(np.full((HEIGHT, WIDTH), 11, np.uint8)).save(root / "masks" / "masks_5_2.png")
    expect(r"masks_5_2\.png: expected labels 0 to 10 of clevr3d, found 11\. Check data\.dataset", root)


def test_fewer_labels_in_multishapenet(root):
    write_metadata(root, rows=80_500)
    Image.fromarray(np.full((HEIGHT, WIDTH), 5, np.uint8)).save(root / "masks" / "masks_0_0.png")
    expect(r"masks_0_0\.png: expected labels 0 to 4 of obsurf_msn, found 5", root, dataset="obsurf_msn")


def test_a_mask_with_colours(root):
    Image.fromarray(PICTURES[0][0]).save(root / "masks" / "masks_0_1.png")
    expect(r"masks_0_1\.png: a mask has one byte per pixel, this picture is RGB", root)


def test_a_picture_of_another_size(root):
    Image.fromarray(PICTURES[0][0][:5]).save(root / "images" / "img_0_2.png")
    expect(r"img_0_2\.png: 8x5 pixels, expected 8x6 as in the first picture\. Unpack", root)


@pytest.mark.parametrize("name", ["images/img_0_0.png", "images/img_5_2.png", "masks/masks_69999_1.png"])
def test_damaged_pictures_are_named(root, cache, name):
    path = root / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (b"", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        expect(rf"{re.escape(name)}: cannot be read as a picture \(.*\)\. Unpack", root)
    path.write_bytes(whole)
    assert len(ObSuRF(root, "train").read(np.arange(9))["images"]) == 9
