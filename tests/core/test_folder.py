"""One's own pictures and videos in a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.benchmark.seen_files import find_files
from core.data.errors import DataError, MissingSplit
from core.data.folder import FolderPictures, FolderVideos, count_frames, read_upright
from core.data.folder_layout import folder_kind, samples_of
from core.data.framing import Framing
from core.data.instance_maps import read_instances
from core.data.spec import DataSpec
from tests.own_data import discs, write_frame_folders, write_pictures, write_video

SIZE = (24, 32)
WHOLE = Framing()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path) -> Path:
    return write_pictures(tmp_path / "mine", 23, SIZE, tmp_path / "mine/masks")


@pytest.fixture
def videos(tmp_path) -> Path:
    return write_frame_folders(tmp_path / "mine", 12, 5, SIZE, tmp_path / "mine/masks")


def names(samples: list[Path]) -> list[str]:
    return [sample.name for sample in samples]


def test_samples_are_split_by_their_order(pictures):
    found = {split: names(samples_of(pictures, split)[1]) for split in ("train", "val", "test", "all")}
    everything = [f"picture_{number}.png" for number in range(1, 24)]
    assert found["all"] == everything
    assert found["train"] == everything[:19]
    assert (found["val"], found["test"]) == (everything[19:21], everything[21:])
    for path in pictures.glob("picture_?.png"):
        path.unlink()
    for path in list(pictures.glob("picture_1?.png")) + list(pictures.glob("picture_23.png")):
        path.unlink()
    assert [len(samples_of(pictures, split)[1]) for split in ("train", "val", "test")] == [1, 1, 1]
    (pictures / "picture_20.png").unlink()
    with pytest.raises(DataError, match=r"mine: 2 samples cannot be split into train, val, test\. Add more"):
        samples_of(pictures, "val")


def test_folders_of_splits(tmp_path):
    root = tmp_path / "mine"
    for split, count in (("train", 4), ("val", 2)):
        write_pictures(root / split, count, SIZE, root / "masks" / split)
    spec = DataSpec.parse(f"folder:{root}")
    assert [len(spec.open(split)) for split in ("train", "val", "all")] == [4, 2, 6]
    np.testing.assert_array_equal(spec.open_whole("val").read(np.array([1]))["mask"][0], discs(1, SIZE)[1])
    with pytest.raises(MissingSplit, match=r"mine/test: no such folder, though there is train/"):
        spec.open("test")
    (root / "masks").rename(root / "train/masks")
    with pytest.raises(DataError, match=r"train/masks: masks of this split belong into .*mine/masks/train"):
        spec.open("train")


def test_one_folder_of_a_split_is_enough(tmp_path):
    root = tmp_path / "mine"
    write_pictures(root / "test", 4, SIZE)
    spec = DataSpec.parse(f"folder:{root}")
    assert spec.kind == "images"
    assert [len(spec.open(split)) for split in ("test", "all")] == [4, 4]
    with pytest.raises(MissingSplit, match=r"mine/train: no such folder, though there is test/\. Add it, or"):
        spec.open("train")
    write_pictures(root / "val", 2, SIZE)
    assert [len(spec.open(split)) for split in ("val", "test", "all")] == [2, 4, 6]


def test_pictures_and_masks(pictures):
    spec = DataSpec.parse(f"folder:{pictures}")
    assert (spec.kind, spec.has_masks, str(spec)) == ("images", True, "folder_mine")
    batch = spec.open("train", masks=True).read(np.array([9, 0]))
    for row, number in enumerate((9, 0)):
        picture, labels = discs(number, SIZE)
        np.testing.assert_array_equal(batch["image"][row].permute(1, 2, 0), picture)
        np.testing.assert_array_equal(batch["mask"][row], labels)
    framed = DataSpec.parse(f"folder:{pictures}-crop-flip-(12,12)-bbg-max1").open("test")
    assert framed.image_size == (12, 12)
    assert set(np.unique(framed.read(np.arange(2))["mask"])) == {0, 1}


def test_pictures_of_any_code_are_upright(tmp_path):
    grey = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
    (tmp_path / "mine").mkdir()
    Image.fromarray(grey).save(tmp_path / "mine/a.webp", lossless=True)
    Image.fromarray(np.dstack([grey] * 3 + [grey * 0])).save(tmp_path / "mine/b.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.rot90(np.dstack([grey] * 3)).copy()).save(tmp_path / "mine/c.JPEG", exif=turned, quality=100)
    batch = FolderPictures(tmp_path / "mine", "all", WHOLE).read(np.arange(3))["image"].numpy()
    assert batch.shape == (3, 3, 24, 32)
    np.testing.assert_array_equal(batch[0, 1], grey)
    np.testing.assert_array_equal(batch[1, 2], grey)
    np.testing.assert_allclose(batch[2, 0].astype(int), grey, atol=12)


def test_pictures_of_sixteen_bits_keep_their_greys(tmp_path):
    deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode in ("I", "I;16")
    np.testing.assert_array_equal(
        read_upright(tmp_path / "a.png"), (deep >> 8).astype(np.uint8)[..., None].repeat(3, 2)
    )
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "b.png", format="TIFF")
    np.testing.assert_array_equal(read_upright(tmp_path / "b.png")[..., 1], deep >> 8)
    for number, values in enumerate((deep.astype(np.float32), deep.astype(np.int32) - 1)):
        Image.fromarray(values).save(tmp_path / f"{number}.png", format="TIFF")
        with pytest.raises(DataError, match=rf"{number}\.png: holds numbers \(mode [FI]\), expected colours or grey"):
            read_upright(tmp_path / f"{number}.png")


def test_pictures_of_several_sizes_need_one(pictures):
    Image.new("RGB", (40, 30)).save(pictures / "picture_7.png")
    said = r"picture_7\.png: is 40x30, but picture_1\.png is 32x24\. Add a size, such as -\(128,128\)"
    with pytest.raises(DataError, match=said):
        DataSpec.parse(f"folder:{pictures}").open("train")
    source = DataSpec.parse(f"folder:{pictures}-(16,16)").open("train")
    assert source.read(np.array([6]))["image"].shape == (1, 3, 16, 16)
    with pytest.raises(DataError, match=r"masks/picture_7\.png: is 32x24, but its picture picture_7\.png is 40x30"):
        DataSpec.parse(f"folder:{pictures}-(16,16)").open("train", masks=True).read(np.array([0]))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".gif", ".webm"])
def test_video_files(tmp_path, suffix):
    frames = np.stack([discs(1, (32, 48), time)[0] for time in range(7)])
    for number in range(3):
        write_video(tmp_path / f"clip_{number}{suffix}", frames)
    assert folder_kind(tmp_path) == "videos"
    assert count_frames(tmp_path / f"clip_1{suffix}") == 7
    spec = DataSpec.parse(f"folder:{tmp_path}")
    source = spec.open_whole("all")
    video = source.read(np.array([2]))["video"]
    assert video.shape == (1, 7, 3, 32, 48)
    assert np.abs(video[0].permute(0, 2, 3, 1).numpy().astype(int) - frames).mean() < 12
    assert spec.open_whole("all", frames=4).read(np.arange(3))["video"].shape == (3, 4, 3, 32, 48)


def test_clips_of_frame_folders(videos):
    source = FolderVideos(videos, "train", 2, 2, framing=Framing(size=(12, 16), antialias=True), masks=True)
    assert len(source) == 10 * 3
    assert source.names[1] == "clip_2"
    batch = source.read(np.array([4]))
    assert (batch["video"].shape, batch["mask"].shape) == ((1, 2, 3, 12, 16), (1, 2, 12, 16))
    still = Image.fromarray(discs(1, SIZE, 3)[0]).resize((16, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(batch["video"][0, 1].permute(1, 2, 0), np.asarray(still))
    assert len(FolderVideos(videos, "val", 2, 1, framing=WHOLE)) == 2
    stills = DataSpec.parse(f"folder:{videos}-(16,16)").open("train", masks=True)
    assert len(stills) == 50
    assert stills.read(np.array([7]))["image"].shape == (1, 3, 16, 16)


def test_videos_count_up_to_the_shortest(videos):
    (videos / "clip_3/frame_5.png").unlink()
    assert DataSpec.parse(f"folder:{videos}").open_whole("train").read(np.array([0]))["video"].shape[1] == 4
    said = r"clip_3: has 4 frames, but clips need 6 of the first ones\. Lower n_sample_frames"
    with pytest.raises(DataError, match=said):
        FolderVideos(videos, "train", 6, framing=WHOLE)


def test_a_changed_frame_is_read_again(videos):
    before = DataSpec.parse(f"folder:{videos}").open_whole("train").read(np.array([2]))["video"]
    Image.fromarray(255 - discs(2, SIZE, 2)[0]).save(videos / "clip_3/frame_3.png")
    after = DataSpec.parse(f"folder:{videos}").open_whole("train").read(np.array([2]))["video"]
    np.testing.assert_array_equal(after[0, 2], 255 - before[0, 2])


def test_masks_of_a_video_file_lie_in_its_folder(tmp_path):
    frames, labels = zip(*(discs(0, (32, 32), time) for time in range(4)))
    for number in range(3):
        write_video(tmp_path / f"clip_{number}.mp4", np.stack(frames))
        folder = tmp_path / f"masks/clip_{number}"
        folder.mkdir(parents=True)
        for time, one in enumerate(labels):
            colours = np.array([(0, 0, 0), (9, 200, 3), (200, 1, 2)], np.uint8)[one]
            Image.fromarray(colours).save(folder / f"{time}.png")
    batch = DataSpec.parse(f"folder:{tmp_path}").open_whole("test").read(np.array([0]))
    np.testing.assert_array_equal(batch["mask"][0], np.stack(labels))
    (tmp_path / "masks/clip_1/2.png").unlink()
    with pytest.raises(DataError, match=r"masks/clip_1: holds 3 masks, expected 4, one for every frame of clip_1\.mp4"):
        DataSpec.parse(f"folder:{tmp_path}").open_whole("val")


def test_instances_by_palette_grey_value_and_colour(tmp_path):
    labels = discs(0, SIZE)[1]
    palette = Image.fromarray(labels)
    palette.putpalette([value for entry in range(256) for value in (255 - entry, entry, 9)])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(labels * np.uint8(100)).save(tmp_path / "grey.png")
    Image.fromarray(labels.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    Image.fromarray(np.array([(0, 0, 0), (0, 0, 255), (1, 0, 0)], np.uint8)[labels]).save(tmp_path / "colours.png")
    for name, factor in (("palette", 1), ("grey", 100), ("deep", 1), ("colours", 1)):
        np.testing.assert_array_equal(read_instances([tmp_path / f"{name}.png"])[0], labels * factor)
    covered = np.array([(0, 9, 0), (0, 0, 255), (1, 0, 0)], np.uint8)[labels]
    Image.fromarray(covered).save(tmp_path / "covered.png")
    assert np.unique(read_instances([tmp_path / "covered.png"])).tolist() == [1, 2, 3]
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with pytest.raises(DataError, match=r"noise\.png: holds \d+ colours, .* without smoothed edges"):
        read_instances([tmp_path / "noise.png"])
    with pytest.raises(DataError, match=r"colours\.png: is 32x24 and in colours, but grey\.png is 32x24 and grey"):
        read_instances([tmp_path / "grey.png", tmp_path / "colours.png"])


def test_frames_of_two_sizes_cannot_be_looked_at(videos):
    Image.new("RGB", (40, 30)).save(videos / "clip_2/frame_4.png")
    seen = find_files(videos)[1]
    with pytest.raises(DataError, match=r"clip_2/frame_4\.png: is 40x30, but the frames before it are 32x24\."):
        list(seen.frames())
    assert len(list(find_files(videos, 3)[1].frames())) == 3


def test_what_is_wrong_is_said(tmp_path, pictures):
    with pytest.raises(DataError, match=r"nowhere: no such folder .*Check the path; behind it stand flags"):
        _ = DataSpec.parse(f"folder:{tmp_path}/nowhere").kind
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    with pytest.raises(DataError, match=r"empty: holds notes\.txt\. Expected pictures \(\.png, \.jpg"):
        folder_kind(tmp_path / "empty")
    (pictures / "masks/picture_4.png").unlink()
    with pytest.raises(DataError, match=r"masks/picture_4\.png: no such file \(1 of 19 masks are missing\)"):
        DataSpec.parse(f"folder:{pictures}").open("train", masks=True)
    Image.new("RGB", (32, 24)).save(pictures / "picture_4.jpg")
    with pytest.raises(DataError, match=r"picture_4: two samples have this name"):
        folder_kind(pictures)
    (pictures / "picture_4.jpg").unlink()
    write_frame_folders(pictures, 1, 2, SIZE)
    with pytest.raises(DataError, match=r"mine: holds pictures, such as picture_1\.png, and videos, such as clip_1"):
        folder_kind(pictures)
    cats = write_frame_folders(tmp_path / "pets", 3, 2, SIZE) / "clip_2"
    (cats / "frame_1.png").rename(cats / "tom.png")
    with pytest.raises(DataError, match=r"clip_2/tom\.png: has no number at its end"):
        DataSpec.parse(f"folder:{tmp_path}/pets").open_whole("all")
