"""Trainings on one's own pictures and videos, as a user starts them."""

import pytest

from tests.clevrtex_runs import SMALL, folder_of
from tests.clevrtex_runs import losses as losses_of_clevrtex
from tests.clevrtex_runs import rows as rows_of_clevrtex
from tests.own_data import write_frame_folders, write_pictures
from tests.slotdiffusion_runs import picture_train_words
from tests.slotdiffusion_runs import train_words as slotdiffusion_words
from tests.slotformer_runs import losses, rows, train_words


@pytest.mark.parametrize("write", [write_pictures, lambda folder, *rest: write_frame_folders(folder, 10, 4, *rest[1:])])
def test_clevrtex_on_pictures_and_on_frames(run, tmp_path, write):
    data = write(tmp_path / "my-data", 30, (40, 48), tmp_path / "my-data/masks")
    done = run(
        *("clevrtex/experiments/slota.py", "run", "--data", f"folder:{data}-crop-(32,32)", "--dir", tmp_path / "runs"),
        *("--workers", "no", "--quiet", *SMALL["slota"], "--batch_size", 4, "--max_steps", 12),
        *("--log_every", 1, "--tag", "mine"),
    )
    assert done.returncode == 0, done.stderr
    folder = folder_of("slota", tmp_path / "runs", "mine")
    found = losses_of_clevrtex(folder)
    assert len(found) == 12
    assert sum(found[-4:]) < sum(found[:4])
    assert any("ari" in key.lower() for row in rows_of_clevrtex(folder) for key in row)


def test_savi_on_folders_of_frames(run, tmp_path):
    clips = write_frame_folders(tmp_path / "clips", 12, 8, (40, 48), tmp_path / "clips/masks")
    words = train_words("savi_obj3d_params", clips, "mine", settings=("dataset=folder",), epochs=2)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "checkpoint/mine"
    found = losses(folder)
    assert len(found) == 2 * (10 * (6 - 1) // 2)
    assert sum(found[-5:]) < sum(found[:5])
    assert any("ari" in key.lower() for row in rows(folder) for key in row)


@pytest.mark.slow
def test_slotdiffusion_on_videos_and_on_pictures(run, tmp_path):
    clips = write_frame_folders(tmp_path / "clips", 12, 6, (40, 48))
    pictures = write_pictures(tmp_path / "pictures", 20, (40, 48))
    for words in (
        slotdiffusion_words("savi", clips, "clips", settings=("dataset=folder",)),
        picture_train_words("dvae", pictures, "pictures", settings=("dataset=folder",)),
    ):
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for name in ("clips", "pictures"):
        assert len(losses(tmp_path / "checkpoint" / name)) >= 4
