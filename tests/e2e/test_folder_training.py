"""Trainings on one's own pictures and videos, as a user starts them."""

import json

import pytest

from core.data.slots import SlotFile
from tests import dynamics_runs
from tests.clevrtex_runs import SMALL, folder_of
from tests.clevrtex_runs import losses as losses_of_clevrtex
from tests.clevrtex_runs import rows as rows_of_clevrtex
from tests.own_data import write_frame_folders, write_pictures
from tests.slotdiffusion_runs import picture_train_words
from tests.slotdiffusion_runs import train_words as slotdiffusion_words
from tests.slotformer_runs import CONFIGS, losses, newest, rows, train_words
from tests.slotformer_runs import SMALL as SMALL_SAVI


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


@pytest.mark.slow
def test_slotformer_on_slots_of_folders_of_splits(run, tmp_path):
    clips = tmp_path / "clips"
    for split in ("train", "val", "test"):
        write_frame_folders(clips / split, 4, 8, (40, 48))
    done = run(*train_words("savi_obj3d_params", clips, "savi", settings=("dataset=folder",)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    savi, slots = newest(tmp_path / "checkpoint/savi"), tmp_path / "folder_slots.h5"
    common = ("gpus=1", "num_slots=3", "slot_size=16", f"data_root={clips}", "video_len=8")
    words = ("slotformer/base_slots/extract_slots.py", "--params", CONFIGS / "savi_obj3d_params.py", "--weight", savi)
    settings = (*SMALL_SAVI["savi_obj3d_params"], *common, "dataset=folder")
    done = run(*words, "--save_path", slots, "--set", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [f"clip_{number}" for number in range(1, 5)]
    assert [sorted(SlotFile(slots).names(split)) for split in ("train", "val", "test")] == 3 * [names]
    config = dynamics_runs.CONFIGS / "slotformer_obj3d_params.py"
    small = (*dynamics_runs.SLOTS, *dynamics_runs.RUN, *dynamics_runs.SMALL["slotformer_obj3d_params"])
    given = (*small, *common, "dataset=folder_slots", f"slots_root={slots}", f"dec_dict.dec_ckp_path={savi}")
    words = ("slotformer/scripts/train.py", "--task", "video_prediction", "--params", config, "--name", "dynamics")
    done = run(*words, "--set", *given, "max_epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    weight = newest(tmp_path / "checkpoint/dynamics")
    words = ("slotformer/video_prediction/test_vp.py", "--params", config, "--weight", weight, "--n_sample_frames", 5)
    done = run(*words, "--set", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(next(weight.parent.glob("*-vp-*.json")).read_text())
    assert report["rollout_len"] == 2
    assert report["scores"]["SlotFormer"]["psnr"] > 5
