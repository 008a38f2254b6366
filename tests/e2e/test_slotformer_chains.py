"""From a data set to the paper's number in one command, as small as can be."""

import json
from pathlib import Path

import pytest

from tests import dynamics_runs, planning_runs, slotformer_runs, vqa_runs
from tests.conftest import Runner

ALL = ("gpus=1", "max_epochs=1", "num_workers=0", "dropout=0.0", "n_samples=1", "print_iter=1")
BATCHES = ("train_batch_size=2", "val_batch_size=3")
QUESTIONS = ("video_len=16", "n_sample_frames=4")
READOUT = ("readout_dict.num_slots=3", "slot_size=16", "resolution=(32,32)")


def base(config: str, *more: str) -> tuple[str, ...]:
    return (*slotformer_runs.LENGTHS, *slotformer_runs.SMALL[config], *more)


def dynamics(config: str, *more: str) -> tuple[str, ...]:
    return (*dynamics_runs.SLOTS, *dynamics_runs.RUN, *dynamics_runs.SMALL[config], *more)


SETTINGS = {
    "obj3d": {
        "savi_obj3d_params": base("savi_obj3d_params", "video_len=9"),
        "slotformer_obj3d_params": dynamics("slotformer_obj3d_params"),
    },
    "clevrer": {
        "stosavi_clevrer_params": base("stosavi_clevrer_params", "video_len=16"),
        "slotformer_clevrer_params": dynamics("slotformer_clevrer_params", "filter_enter=False"),
        "aloe_clevrer_params-rollout": (*vqa_runs.MODEL, *BATCHES, "slot_size=16", "max_n_objects=2", *QUESTIONS),
    },
    "physion": {
        "dvae_physion_params": base("dvae_physion_params", "video_len=12"),
        "steve_physion_params": base("steve_physion_params", "video_len=12"),
        "slotformer_physion_params": dynamics("slotformer_physion_params"),
        "readout_physion_params": (*READOUT, *BATCHES, "video_len=12"),
    },
    "phyre": {
        "savi_phyre_params-fold0": (*base("savi_phyre_params-fold0"), *planning_runs.PHYRE),
        "slotformer_phyre_params-fold0": dynamics("slotformer_phyre_params-fold0"),
        "readout_phyre_params-fold0": planning_runs.SMALL,
    },
}
SCRIPT_FLAGS = {
    "obj3d": ["test_vp:n_sample_frames=6"],
    "clevrer": [
        "test_vp:n_sample_frames=6",
        "rollout_clevrer_slots:num_observed=12",
        "rollout_clevrer_slots:num_frames=18",
    ],
    "physion": ["rollout_physion_slots:num_observed=9"],
    "phyre": [],
}
RESULTS = {
    "obj3d": "slotformer_obj3d_params/models/best-vp-slotformer_obj3d_params.json",
    "clevrer": "aloe_clevrer_params-rollout/models/CLEVRER.json",
    "physion": "readout_physion_params/models/best-vqa-readout_physion_params.json",
    "phyre": "readout_phyre_params-fold0/models/test/auccess.json",
}


def check_result(name: str, found: object) -> None:
    if name == "obj3d":
        assert found["rollout_len"] == 3
        assert 5 < found["scores"]["SlotFormer"]["psnr"] < 40
    elif name == "clevrer":
        questions = [question for scene in found for question in scene["questions"]]
        assert questions
        assert all("answer" in question or question["choices"] for question in questions)
    elif name == "physion":
        assert 0 <= found["accuracy"] <= 1
        assert found["num_videos"] > 0
    else:
        assert found["AUCCESS"]["SlotFormer"] <= found["AUCCESS"]["oracle"] <= 100
        assert len(found["success_rate"]["SlotFormer"]) == 100


@pytest.mark.parametrize("name", ["obj3d", *(pytest.param(name, marks=pytest.mark.slow) for name in list(RESULTS)[1:])])
def test_all_steps(run: Runner, videos: Path, tmp_path: Path, name: str) -> None:
    settings = [*ALL, *(f"{config}:{word}" for config, words in SETTINGS[name].items() for word in words)]
    words = ["slotformer/scripts/run_chain.py", name, "--data_root", videos, "--set", *settings]
    flags = ["--script_flags", *SCRIPT_FLAGS[name]] if SCRIPT_FLAGS[name] else []
    done = run(*words, *flags, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = tmp_path / "checkpoint" / RESULTS[name]
    check_result(name, json.loads(result.read_text()))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoint").rglob("model_*.pth")}
    again = run(*words, *flags, cwd=tmp_path, timeout=900)
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoint").rglob("model_*.pth")}
