"""tools/check_data.py on good and on damaged data."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.own_data import write_frame_folders, write_pictures
from tools.check_data import main


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path) -> Path:
    return write_pictures(tmp_path / "mine", 10, (24, 32), tmp_path / "mine/masks")


def check(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    """Exit code, what was printed, what was complained of."""
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_pictures_are_described(pictures, capsys):
    code, out, _ = check(capsys, f"folder:{pictures}")
    assert code == 0
    assert [line.split(", ")[-1] for line in out.splitlines() if not line.startswith(" ")] == [
        "train:",
        "val:",
        "test:",
    ]
    assert "samples: 8\n" in out
    assert "size:    24x32 (height x width)" in out
    assert "objects: 2 to 2 a picture, 2.0 on average" in out
    assert check(capsys, f"folder:{pictures}-(16,16)", "--split", "all")[1].count("samples: 10") == 1


def test_videos_are_described(tmp_path, capsys):
    videos = write_frame_folders(tmp_path / "clips", 3, 4, (16, 16))
    code, out, _ = check(capsys, f"folder:{videos}", "--split", "all")
    assert code == 0
    assert "samples: 3, 4 frames each" in out
    assert "masks:   no" in out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda root: (root / "picture_3.png").write_bytes(b"no picture"),
            "picture_3.png: cannot be read as a picture",
        ),
        (lambda root: (root / "masks/picture_5.png").unlink(), "masks/picture_5.png: no such file"),
        (
            lambda root: Image.new("L", (9, 9)).save(root / "masks/picture_2.png"),
            "picture_2.png: is 9x9, but its picture picture_2.png is 32x24",
        ),
        (
            lambda root: Image.new("RGB", (9, 9)).save(root / "picture_4.png"),
            "picture_4.png: is 9x9, but picture_1.png",
        ),
        (
            lambda root: [Image.new("L", (32, 24)).save(file) for file in (root / "masks").iterdir()],
            "all 8 masks are empty",
        ),
        (lambda root: shutil.rmtree(root), "mine: no such folder"),
    ],
)
def test_the_first_bad_file_is_named(pictures, capsys, damage, said):
    damage(pictures)
    code, _, complaint = check(capsys, f"folder:{pictures}")
    assert code == 1
    assert "error: " in complaint
    assert said in complaint


def test_splits_that_are_not_there_are_no_fault(tmp_path, tetrominoes, capsys):
    write_pictures(tmp_path / "mine/train", 3, (16, 16))
    write_pictures(tmp_path / "mine/test", 2, (16, 16))
    code, out, _ = check(capsys, f"folder:{tmp_path / 'mine'}")
    assert code == 0
    assert "mine/val: no such folder, though there is train/" in out
    assert ("samples: 3\n" in out, "samples: 2\n" in out) == (True, True)
    (tmp_path / "tetrominoes_test.h5").write_bytes((tetrominoes / "tetrominoes_test.h5").read_bytes())
    code, out, _ = check(capsys, "tetrominoes", "--root", tmp_path)
    assert (code, out.count("no data set tetrominoes"), out.count("samples: ")) == (0, 2, 1)


def test_all_splits_are_read_though_one_is_bad(pictures, capsys):
    (pictures / "picture_9.png").write_bytes(b"no picture")
    code, out, complaint = check(capsys, f"folder:{pictures}-(16,16)")
    assert code == 1
    assert "picture_9.png: cannot be read as a picture" in complaint
    assert out.count("samples: 1\n") == 1


def test_a_truncated_picture_is_named(pictures, capsys):
    path = pictures / "picture_6.png"
    path.write_bytes(path.read_bytes()[:-30])
    code, _, complaint = check(capsys, f"folder:{pictures}-(16,16)")
    assert (code, "picture_6.png: cannot be read as a picture" in complaint) == (1, True)


def test_covered_pictures_are_noted(pictures, capsys):
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(pictures / "masks/picture_1.png")
    code, out, _ = check(capsys, f"folder:{pictures}", "--split", "train")
    assert code == 0
    assert "note:    1 masks have no background (no pixel is 0)" in out
    assert "objects: 1 to 2 a picture" in out


def test_other_sets(tmp_path, tetrominoes, capsys):
    code, out, _ = check(capsys, "tetrominoes", "--root", tetrominoes)
    assert code == 0
    assert "samples: 64\n" in out
    assert "objects: 3 to 3 a picture" in out
    (tmp_path / "tetrominoes_test.h5").write_bytes((tetrominoes / "tetrominoes_test.h5").read_bytes()[:900])
    code, _, complaint = check(capsys, "tetrominoes", "--root", tmp_path, "--split", "test")
    assert (code, "tetrominoes_test.h5: not a readable .h5 file" in complaint) == (1, True)
    with h5py.File(tmp_path / "tetrominoes_test.h5", "w") as file:
        file["test/imgs"] = np.zeros((2, 8, 8, 3), np.uint8)
        file["test/masks"] = np.zeros((3, 4, 8, 8, 1), np.uint8)
    code, _, complaint = check(capsys, "tetrominoes", "--root", tmp_path, "--split", "test")
    assert (code, "test/masks holds 3 samples, imgs 2" in complaint) == (1, True)


def test_words_that_are_not_known(pictures, capsys):
    assert check(capsys, "tetrominos")[2].endswith("did you mean 'tetrominoes'?\n")
    assert check(capsys, f"folder:{pictures}", "--split", "tset")[0] == 1
    with pytest.raises(SystemExit):
        main(["tetrominoes", "--rot", "x"])
    assert "no flag '--rot'; did you mean '--root'?" in capsys.readouterr().err
