"""Data strings that open videos, views, photographs and folders as what they are."""

import json

import numpy as np
import pytest
from PIL import Image

from core.data.errors import DataError
from core.data.movi import Movi
from core.data.obj3d import Obj3D
from core.data.spec import DataSpec, MissingData
from core.data.spec.catalogue import SETS, SYNONYMS
from tests.own_data import discs, write_frame_folders, write_pictures
from tests.video_files import smooth_frames, write_frames


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("text", "sets", "crop"),
    [
        ("movi_e", ("movi", "e"), False),
        ("MOVi-E", ("movi", "e"), False),
        ("movi:E-c", ("movi", "e"), True),
        ("movi-solid-crop", ("movi", "solid"), True),
        ("OBJ3D", ("obj3d", None), False),
        ("CLEVRER-c", ("clevrer", None), True),
        ("physion", ("physion", None), False),
        ("physion_readout", ("physion", "readout"), False),
        ("clevr6-h5-crop", ("clevr6_h5", None), True),
        ("clevrtex_full-crop", ("clevrtex", "full"), True),
        ("obsurf-msn", ("obsurf_msn", None), False),
        ("multi_dsprites_binarized", ("multi_dsprites", "binarized"), False),
        ("folder:/my-data/set-1-(64,64)-crop", ("folder", "/my-data/set-1"), True),
        ("folder:C:/a,b-c/d-flip/-crop", ("folder", "C:/a,b-c/d-flip/"), True),
        ("FOLDER:Mine", ("folder", "Mine"), False),
    ],
)
def test_names_and_paths(text, sets, crop):
    spec = DataSpec.parse(text)
    assert (spec.sets, spec.crop) == ((sets,), crop)


def test_folders_may_be_joined():
    spec = DataSpec.parse("concat(folder:/a,b/c-c, clevr ,folder:/d)-(64,64)")
    assert spec.sets == (("folder", "/a,b/c-c"), ("clevr", None), ("folder", "/d"))
    assert spec.size == (64, 64)
    with pytest.raises(ValueError, match="a parenthesis is open"):
        DataSpec.parse("concat(clevr,clevr6")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("movie", "no data set 'movie'; did you mean 'movi_e'?"),
        ("celebaa-(64,64)", "no data set 'celebaa'; did you mean 'celeba'?"),
        ("clevrerr", "did you mean 'clevrer'?"),
        ("movi", "movi needs a variant, one of movi:a"),
        ("movi_e:solid", "'movi_e:solid' has a variant already, 'e'"),
        ("folder:", "folder needs a path, such as folder:/my/pictures"),
        ("celeba-bbg", "celeba has no masks"),
    ],
)
def test_what_cannot_be_meant_is_said(text, said):
    with pytest.raises(ValueError, match="--data") as error:
        DataSpec.parse(text)
    assert said in str(error.value)


def test_every_name_has_a_kind_and_a_remedy(tmp_path):
    for name in (*SETS, *SYNONYMS):
        if name == "folder":
            continue
        needs_variant = name in SETS and SETS[name].variants and not SETS[name].default_variant
        spec = DataSpec.parse(f"{name}:{SETS[name].variants[0]}" if needs_variant else name)
        assert spec.kind in ("images", "videos", "views")
        if name != "phyre":  # which is simulated
            with pytest.raises(MissingData, match=r"no data set .*: looked for "):
                spec.open_whole("train", tmp_path / "nowhere")
    assert {name for name, data_set in SETS.items() if data_set.kind == "views"} == {
        *("clevr3d", "obsurf_msn", "msn", "nmr")
    }
    assert DataSpec.parse("concat(clevr,movi:e)").kind == "images"


def test_whole_videos(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for video in range(count):
            folder = tmp_path / "OBJ3D" / split / str(video)
            write_frames(folder, smooth_frames(7, 16, 16, seed=video), "test_{}.png", first=1)
            for time in range(7):
                Image.fromarray(discs(0, (16, 16), time)[1]).save(folder / f"mask_{time + 1}.png")
    spec = DataSpec.parse("obj3d-(16,16)")
    assert spec.kind == "videos"
    source = spec.open_whole("train", tmp_path)
    batch = source.read(np.arange(3))
    assert (batch["video"].shape, batch["mask"].shape) == ((3, 7, 3, 16, 16), (3, 7, 16, 16))
    np.testing.assert_array_equal(batch["video"][2].permute(0, 2, 3, 1), smooth_frames(7, 16, 16, seed=2))
    first = spec.open_whole("val", tmp_path, frames=4).read(np.arange(2))
    np.testing.assert_array_equal(first["video"], spec.open_whole("val", tmp_path).read(np.arange(2))["video"][:, :4])
    assert len(spec.open("train", tmp_path)) == 21
    (tmp_path / "OBJ3D/val/1/test_4.png").unlink()
    with pytest.raises(DataError, match=r"val/1/test_4\.png: no such file"):
        DataSpec.parse("obj3d-(8,8)").open_whole("val", tmp_path).read(np.array([1]))
    for mask in tmp_path.glob("OBJ3D/*/*/mask_*.png"):
        mask.unlink()
    assert list(spec.open_whole("train", tmp_path).read(np.array([0]))) == ["video"]
    with pytest.raises(ValueError, match="the flag flip is for pictures and does not go with whole videos"):
        DataSpec.parse("obj3d-flip").open_whole("train", tmp_path)
    with pytest.raises(ValueError, match=r"concat\(\.\.\.\) joins pictures, not videos"):
        DataSpec.parse("concat(obj3d,clevrer)").open_whole("train", tmp_path)


def test_generated_videos_are_what_their_readers_give(videos, movi):
    for text, reader, frames in (
        ("obj3d-(32,32)", Obj3D(videos / "OBJ3D", "val", None, video_len=10, size=(32, 32), masks=True), 10),
        ("movi_d-(32,32)", Movi(movi, "D", "val", None, video_len=6, size=(32, 32), masks=True), 6),
        ("movi-solid-(32,32)", Movi(movi, "Solid", "test", None, video_len=6, size=(32, 32), masks=True), 6),
    ):
        spec, split = DataSpec.parse(text), "test" if "solid" in text else "val"
        whole, everything = spec.open_whole(split, reader.path.parent.parent), np.arange(len(reader))
        assert len(whole) == len(reader)
        for key, value in reader.read(everything).items():
            np.testing.assert_array_equal(whole.read(everything)[key], value)
            assert value.shape[1] == frames
    assert "mask" not in DataSpec.parse("movi-solid").open_whole("val", movi).read(np.array([0]))
    for text, frames in (("clevrer", 16), ("physion-(32,32)", 12)):
        batch = DataSpec.parse(text).open_whole("val", videos).read(np.array([0]))
        assert batch["video"].shape[1] == frames
        assert ("mask" in batch) == (text == "clevrer"), "CLEVRER's are its proposals"
    assert len(DataSpec.parse("physion").open_whole("test", videos, frames=2)) > 0


def test_generated_views(views):
    for text, key in (("clevr3d", "cameras"), ("obsurf_msn", "cameras"), ("msn", "cameras")):
        spec = DataSpec.parse(text)
        batch = spec.open_whole("train", views).read(np.arange(2))
        assert {"images", "masks", key} <= batch.keys()
        stills = spec.open("train", views, masks=True).read(np.arange(2))
        assert stills["image"].shape[1] == 3
        assert stills["mask"].shape[1:] == stills["image"].shape[2:]
    with pytest.raises(ValueError, match=r"the flag \(h,w\) is for pictures and does not go with whole views"):
        DataSpec.parse("clevr3d-(32,32)").open_whole("train", views)


def test_clevr_of_efficient_morl_is_cut_as_there(clevr6):
    source = DataSpec.parse("clevr6_h5-crop").open_whole("test", clevr6)
    whole = DataSpec.parse("clevr6_h5").open("test", clevr6, masks=True)
    batch, uncut = source.read(np.arange(2)), whole.read(np.arange(2))
    np.testing.assert_array_equal(batch["image"], uncut["image"][:, :, 29:221, 64:256])
    np.testing.assert_array_equal(batch["mask"], uncut["mask"][:, 29:221, 64:256])


def test_faces_and_photographs(tmp_path):
    faces = tmp_path / "CelebA/celeba/img_align_celeba"
    faces.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (178, 218), (80 * number, 0, 0)).save(faces / f"{number}.jpg", quality=100)
    (faces.parent / "list_eval_partition.txt").write_text("0.jpg 0\n1.jpg 1\n2.jpg 0\n")
    spec = DataSpec.parse("celeba-(64,64)")
    assert not spec.has_masks
    batch = spec.open_whole("train", tmp_path).read(np.arange(2))
    assert batch["image"].shape == (2, 3, 64, 64)
    assert abs(int(batch["image"][1, 0, 0, 0]) - 160) < 3
    assert DataSpec.parse("celeba").shape == (3, 218, 178)

    photos = tmp_path / "COCO/images/val2017"
    photos.mkdir(parents=True)
    Image.new("RGB", (60, 40), (9, 99, 9)).save(photos / "1.jpg")
    outlined = {"image_id": 1, "category_id": 7, "segmentation": [[20, 0, 40, 0, 40, 20, 20, 20]], "iscrowd": 0}
    table = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 40, "width": 60}],
        "annotations": [outlined],
        "categories": [{"id": 7}],
    }
    (tmp_path / "COCO/annotations").mkdir()
    (tmp_path / "COCO/annotations/instances_val2017.json").write_text(json.dumps(table))
    batch = DataSpec.parse("coco-(40,40)").open_whole("val", tmp_path).read(np.arange(1))
    assert {"image", "mask", "overlap", "semantic"} == batch.keys()
    assert int(batch["mask"][0].sum()) == 400
    flipped = DataSpec.parse("coco-(40,40)-flip").open_whole("val", tmp_path).read(np.arange(1))
    np.testing.assert_array_equal(flipped["mask"], batch["mask"].flip(2))
    with pytest.raises(ValueError, match="squares are cut out of the photographs of coco, not 40x60"):
        DataSpec.parse("coco-(40,60)").open("val", tmp_path)


def test_a_folder_is_opened_as_what_it_holds(tmp_path):
    pictures = DataSpec.parse(f"folder:{write_pictures(tmp_path / 'a-b', 10, (16, 16))}-(8,8)")
    videos = DataSpec.parse(f"folder:{write_frame_folders(tmp_path / 'c', 10, 3, (16, 16), tmp_path / 'c/masks')}")
    assert (pictures.kind, pictures.has_masks, videos.kind, videos.has_masks) == ("images", False, "videos", True)
    assert pictures.open_whole("test").read(np.arange(1))["image"].shape == (1, 3, 8, 8)
    assert videos.open_whole("all", frames=2).read(np.arange(10))["mask"].shape == (10, 2, 16, 16)
    with pytest.raises(ValueError, match=r"pictures differ in size\. Add a size"):
        _ = videos.shape
    with pytest.raises(ValueError, match="split 'all' is not one of train, val, test"):
        DataSpec.parse("clevr").open("all")
    joined = DataSpec.parse(f"concat(folder:{tmp_path}/a-b,folder:{tmp_path}/c)-(8,8)")
    assert joined.kind == "images"
    assert len(joined.open("train")) == 8 + 8 * 3


@pytest.mark.slow
def test_phyre_is_simulated():
    pytest.importorskip("pymunk")
    spec = DataSpec.parse("phyre-(32,32)")
    source = spec.open_whole("val", frames=3)
    assert source.read(np.array([0]))["video"].shape == (1, 3, 3, 32, 32)
