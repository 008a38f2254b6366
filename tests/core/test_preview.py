"""Overlays, contact sheets and the previews of rendered sets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.viz.overlays import contact_sheet, overlay
from tests.conftest import Runner


def test_overlay_tints_objects_and_leaves_the_background():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    labels = np.zeros((6, 8), int)
    labels[:3, :4], labels[3:, 4:] = 1, 2
    found = overlay(picture, labels)
    assert (found[labels == 0] == picture[labels == 0]).all()
    assert (found[labels > 0] != picture[labels > 0]).any(axis=1).mean() > 0.9
    tint = [found[labels == k].astype(float).mean(axis=0) - 0.45 * picture[labels == k].mean(axis=0) for k in (1, 2)]
    assert np.abs(tint[0] - tint[1]).max() > 50  # a colour of its own
    assert (overlay(picture, np.zeros((6, 8), int)) == picture).all()


def test_contact_sheet_lays_pictures_in_rows():
    pictures = [np.full((4, 5, 3), 10 * k, np.uint8) for k in range(5)]
    sheet = contact_sheet(pictures, columns=3, gap=1)
    assert sheet.shape == (2 * 5 - 1, 3 * 6 - 1, 3)
    assert (sheet[5:9, 6:11] == 40).all()
    assert (sheet[4] == 255).all()
    assert (sheet[5:, 12:] == 255).all()
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([], 3)


@pytest.mark.parametrize(
    ("name", "folder", "options", "size"),
    [
        ("clevr", "clevr_with_masks", ("--most", 3), (2 * 48 + 2, 2 * 64 + 2)),
        ("clevrtex_pbg", "clevrtex_pbg", (), (2 * 48 + 2, 2 * 64 + 2)),
        ("obj3d", "OBJ3D", ("--frames", 3), (2 * 48 + 2, 8 * 66 - 2)),
        ("movi-d", "MOVi-D", ("--frames", 3, "--most", 10), (4 * 48 + 6, 8 * 66 - 2)),
        ("movi-solid", "MOVi-Solid", ("--frames", 3), (4 * 48 + 6, 8 * 66 - 2)),
        ("clevr3d", "clevr3d", ("--most", 3), (2 * 48 + 2, 6 * 66 - 2)),
    ],
)
def test_every_set_shows_itself(run: Runner, tmp_path: Path, name: str, folder: str, options, size):
    words = ("--root", tmp_path, "--scenes", 2, "--samples", 1, "--width", 64, "--height", 48, *options)
    done = run("tools/make_data.py", name, *words)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / folder / "preview.png") as sheet:
        assert sheet.size == size[::-1]
        assert np.asarray(sheet).std() > 10
    gif = tmp_path / folder / "preview.gif"
    assert gif.exists() == ("--frames" in options)
    if gif.exists():
        with Image.open(gif) as animation:
            assert animation.size == (64, 48)
            assert 1 <= animation.n_frames <= 3
    again = run("tools/make_data.py", name, *words)
    assert "0 of them made by this call" in again.stdout


def test_the_stand_in_for_phyre_shows_itself(run: Runner, tmp_path: Path):
    done = run("tools/make_data.py", "phyre", "--root", tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "phyre" / "preview.png") as picture:
        assert picture.size == (8 * 128 + 7 * 2, 8 * 128 + 7 * 2)
        shown = {colour for _, colour in picture.convert("RGB").getcolors(1 << 16)}
    assert (243, 79, 70) in shown, "the red ball that solves a task"
    with Image.open(tmp_path / "phyre" / "preview.gif") as film:
        assert film.n_frames > 10
