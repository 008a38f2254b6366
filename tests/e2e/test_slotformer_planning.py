"""PHYRE's classifier and planner as a user types them: trainings, parts, interruptions, scores, misuse."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.data.loader import to_device
from core.data.phyre_trials import SOLVED
from core.metrics.phyre import auccess, solved_within
from core.runs import load_model
from core.training.checkpoint import load
from slotformer.phyre_planning import test_phyre_planning as script
from slotformer.phyre_planning.planner import open_candidates
from tests.conftest import ROOT, Runner
from tests.dynamics_runs import small_params as dynamics_params
from tests.planning_runs import (
    CANDIDATES,
    SCRIPT,
    SLOTFORMER,
    labels_of,
    plan_words,
    read_report,
    savi_params,
    small_params,
    train_words,
    untrained_planner,
    write_rollouts,
)
from tests.slotformer_runs import assert_same_weights, losses, newest, rows

NOT_PHYRE = "world: pymunk stand-in, not PHYRE. THIS IS NOT PHYRE"
ACCURACIES = {f"val/acc_0.{tenth}0" for tenth in (1, 3, 5, 7, 9)}


def succeed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


# Training


def test_the_classifier_learns_from_rollouts(run: Runner, tmp_path: Path) -> None:
    succeed(run(*train_words("one", tmp_path, settings=("lr=3e-3", "dropout=0.1"), epochs=20), cwd=tmp_path))
    folder = tmp_path / "checkpoint" / "one"
    labels = {split: labels_of(split) for split in ("train", "val")}
    steps = 20 * (len(labels["train"]) // 2)
    assert len(losses(folder)) == steps
    assert {"train/vqa_loss", "train/loss"} <= rows(folder)[0].keys()
    validated = [row for row in rows(folder) if "val/acc_0.50" in row]
    assert len(validated) == 20
    assert ACCURACIES | {"val/vqa_loss"} <= validated[-1].keys()
    assert {round(row["val/acc_0.50"] * len(labels["val"]), 6) % 1 for row in validated} == {0.0}
    assert validated[-1]["val/acc_0.50"] > 0.9
    assert sum(losses(folder)[-5:]) < 0.5 * sum(losses(folder)[:5])
    best = load(folder / "models" / "best.pth")
    assert best["validation"]["best_by"] == "acc_0.50"
    assert best["validation"]["best"] == max(row["val/acc_0.50"] for row in validated)
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["val/video0"]
    model, _ = load_model(folder)
    state = load(newest(folder))["model"]
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_killed_and_continued_the_run_is_the_same(run: Runner, tmp_path: Path) -> None:
    def train(name: str) -> None:
        settings = ("save_interval=0.3", "dropout=0.1", "n_samples=0")
        succeed(run(*train_words(name, tmp_path, settings=settings, epochs=3), cwd=tmp_path))

    train("whole"), train("parts")
    whole, parts = (tmp_path / "checkpoint" / name for name in ("whole", "parts"))
    assert EventAccumulator(str(whole)).Reload().Tags()["images"] == [], "n_samples=0 simulates nothing"
    found = sorted((parts / "models").glob("model_*.pth"), key=lambda path: int(path.stem.partition("_")[2]))
    for path in (*found[2:], *(parts / "models").glob("epoch/*"), *(parts / "models").glob("best.pth")):
        path.unlink()  # as if the process had ended here
    train("parts")
    assert losses(parts) == losses(whole)
    assert_same_weights(parts, whole)


@pytest.mark.slow
def test_two_processes_equal_one(run: Runner, tmp_path: Path) -> None:
    one = train_words("one", tmp_path, settings=("train_batch_size=4",), epochs=3)
    two = train_words("two", tmp_path, "--ddp", settings=("train_batch_size=2", "gpus=2"), epochs=3)
    resident = train_words("resident", tmp_path, "--resident", settings=("train_batch_size=4",), epochs=3)
    for words in (one, two, resident):
        succeed(run(*words, cwd=tmp_path))
    alone, together, kept = (tmp_path / "checkpoint" / name for name in ("one", "two", "resident"))
    assert losses(together)[:3] == pytest.approx(losses(alone)[:3], rel=2e-4)
    assert losses(together) == pytest.approx(losses(alone), rel=5e-3), "Adam's first steps enlarge rounding"
    assert losses(kept) == losses(alone)
    scores = [[row for row in rows(folder) if "val/vqa_loss" in row] for folder in (alone, together)]
    assert [row["val/vqa_loss"] for row in scores[1]] == pytest.approx(
        [row["val/vqa_loss"] for row in scores[0]], rel=5e-3
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("dataset=phyre_slots", "dataset 'phyre_slots' is not phyre_rollout_slots"),
        ("slot_root=none/{}_slots", "none/train_slots: no such folder, nor one of that name in models/"),
        ("readout_dict.num_slots=4", "3 slots of size 16, expected 4 of size 16"),
        (
            "readout_dict.sel_slots=[0,7]",
            "5 frames, but sel_slots are [0, 7]. Make longer roll-outs: python slotformer",
        ),
        ("readout_dict.t_pe=cos", "t_pe 'cos' is not one of sin, learnable"),
        ("num_tasks=3", "are missing). Start slotformer/video_prediction/rollout_phyre_slots.py again"),
    ],
)
def test_misuse_of_the_training_is_answered(
    made_once, tmp_path: Path, monkeypatch, capsys, change: str, message: str
) -> None:
    from slotformer.scripts import train

    rollouts = made_once("planning-rollouts", lambda folder: write_rollouts(folder))
    (tmp_path / "rollouts.txt").write_text(f"slot_root={rollouts}/{{}}_slots")
    monkeypatch.chdir(tmp_path)
    assert train.main([str(word) for word in train_words("misused", tmp_path, settings=(change,))[1:]]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "checkpoint" / "misused").exists()


# Planning


def expected_logits(as_original: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Of all candidates, one by one; -inf for invalid ones. And their statuses."""
    candidates = open_candidates(dynamics_params(SLOTFORMER, *CANDIDATES))
    frames, planner = candidates.first_frames(savi_params()), untrained_planner(as_original)
    logits = np.full(candidates.statuses.size, -np.inf)
    for number in candidates.valid(range(logits.size)):
        image = to_device(frames.read(np.array([number])), torch.device("cpu"))["image"]
        with torch.no_grad():
            logits[number] = float(planner.answer(image))
    return logits.reshape(candidates.statuses.shape), candidates.statuses


def arrays_of(folder: Path, end: str) -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}-{end}.npy") for name in ("pred_conf", "pred_logit", "gt_status")}


@pytest.mark.slow
def test_plans_in_two_parts_are_those_in_one(run: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "task_cls_weights" / "test"
    printed = [
        succeed(run(*plan_words(tmp_path, "--split", part, "--total_split", 2), cwd=tmp_path)) for part in (0, 1)
    ]
    assert all(NOT_PHYRE in text and "120 of 240 actions" in text for text in printed)
    logits, statuses = expected_logits()
    assert (statuses == SOLVED).sum() == 14
    half = arrays_of(folder, "0")
    assert all(values.dtype == np.float64 and (values[3:] == -100).all() for values in half.values())
    is_valid = statuses != 0
    np.testing.assert_allclose(half["pred_logit"][:3], logits[:3], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(half["gt_status"][:3], statuses[:3])
    given = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(half["pred_conf"][:3], np.where(is_valid, given, -1)[:3], rtol=0, atol=1e-6)

    printed = succeed(run(SCRIPT, "--collect", folder, "--total_split", 2, cwd=tmp_path))
    report = read_report(folder)
    assert NOT_PHYRE in printed
    assert report["source"] == "pymunk stand-in, not PHYRE"
    assert (report["is_phyre"], report["as_original"], report["fold"]) == (False, False, 0)
    stored = {name: np.load(folder / f"all_{name}.npy") for name in ("conf", "logit", "gt")}
    np.testing.assert_allclose(stored["logit"], logits, rtol=0, atol=1e-5)
    solved = solved_within(stored["logit"], statuses)
    assert report["AUCCESS"]["SlotFormer"] == pytest.approx(100 * auccess(solved))
    assert f"AUCCESS = {100 * auccess(solved):.2f}" == printed.splitlines()[-1]
    assert report["AUCCESS"]["oracle"] == pytest.approx(100 * 5 / 6), "one of six tasks cannot be solved"
    assert report["success_rate"]["SlotFormer"] == solved.mean(axis=0).tolist()
    assert (report["num_tasks"], report["num_actions"], report["num_solving"]) == (6, 40, 14)
    row = next(line for line in printed.splitlines() if line.startswith("random "))
    assert row.split()[-1] == f"{report['AUCCESS']['random']:.2f}"

    whole = tmp_path / "whole"
    again = [
        succeed(run(*plan_words(tmp_path, "--save_path", whole, *flags), cwd=tmp_path))
        for flags in (("--ddp", "--bs", 7), ())
    ]
    assert ["has it already" in text for text in again] == [False, True]
    assert {path.name for path in whole.iterdir()} == {
        *(f"{name}--1.npy" for name in ("pred_conf", "pred_logit", "gt_status")),
        "provenance.json",
    }
    np.testing.assert_allclose(arrays_of(whole, "-1")["pred_logit"], stored["logit"], rtol=0, atol=1e-5)
    (whole / "pred_logit--1.npy").unlink()  # as the original leaves it
    printed = succeed(run(SCRIPT, "--collect", whole, folder, cwd=tmp_path))
    assert printed.splitlines()[-1] == f"AUCCESS = {report['AUCCESS']['SlotFormer']:.2f}"
    mean = read_report(whole, "auccess_of_2_folds.json")
    assert mean["AUCCESS"] == pytest.approx(report["AUCCESS"])
    assert mean["std"] == pytest.approx(dict.fromkeys(mean["std"], 0), abs=1e-9)
    assert mean["fold"] == [0, 0]


def test_as_original_is_kept_apart(run: Runner, tmp_path: Path) -> None:
    settings = ("num_actions=8", "num_tasks=2")
    succeed(run(*plan_words(tmp_path, "--as-original", settings=settings), cwd=tmp_path))
    folder = tmp_path / "task_cls_weights" / "test_as_original"
    assert "planned as the original does" in succeed(run(SCRIPT, "--collect", folder, cwd=tmp_path))
    assert read_report(folder)["as_original"]
    candidates = open_candidates(dynamics_params(SLOTFORMER, *settings))
    numbers = candidates.valid(range(16))
    image = to_device(candidates.first_frames(savi_params()).read(numbers), torch.device("cpu"))["image"]
    found = np.load(folder / "all_logit.npy").flat[numbers]
    with torch.no_grad():
        plain, original = (untrained_planner(as_original).answer(image).numpy() for as_original in (False, True))
    np.testing.assert_allclose(found, original, rtol=0, atol=1e-5)
    assert np.abs(plain - original).max() > 1e-3
    done = run(*plan_words(tmp_path, "--save_path", folder, settings=settings), cwd=tmp_path)
    assert done.returncode == 1
    assert "as_original: True -> False" in done.stderr


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(run: Runner, tmp_path: Path) -> None:
    words = plan_words(tmp_path, "--bs", 1, settings=("num_actions=100",))
    command = [sys.executable, str(ROOT / words[0]), *(str(word) for word in words[1:])]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder, end = tmp_path / "task_cls_weights" / "test", time.monotonic() + 120
    while len(list(folder.glob("part--1/0*.npy"))) < 20:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "too slow"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    kept = len(list(folder.glob("part--1/0*.npy")))
    assert not list(folder.glob("pred_*"))
    printed = succeed(run(*words, cwd=tmp_path))
    valid = int((open_candidates(dynamics_params(SLOTFORMER, "num_actions=100", "num_tasks=6")).statuses != 0).sum())
    assert 20 <= kept < valid
    assert f"{valid - kept:,} frames in " in printed
    assert not (folder / "part--1").exists()
    other = tmp_path / "other"
    succeed(run(*plan_words(tmp_path, "--save_path", other, settings=("num_actions=100",)), cwd=tmp_path))
    killed, whole = (arrays_of(place, "-1") for place in (folder, other))
    np.testing.assert_array_equal(killed["gt_status"], whole["gt_status"])
    np.testing.assert_allclose(killed["pred_logit"], whole["pred_logit"], rtol=0, atol=1e-5)


def test_misuse_is_answered(made_once, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)

    def error_of(*flags: object, code: int = 1) -> str:
        words = [str(word) for word in flags]
        if code == 2:
            with pytest.raises(SystemExit, match="2"):
                script.main(words)
        else:
            assert script.main(words) == code
        return capsys.readouterr().err

    assert "--weight, --task_cls_params, --task_cls_weight, --savi_params" in error_of("--params", "x", code=2)
    assert "--split 10: expected -1, or 0 to 9" in error_of("--split", 10, code=2)
    assert "no flag '--task_cls_weigth'; did you mean '--task_cls_weight'?" in error_of(
        "--task-cls-weigth", "x", code=2
    )
    words = plan_words(tmp_path)[1:]
    other_fold = [*words, "--task_cls_set", "phyre_fold=1"]
    assert "phyre_fold is 0 in --params, but 1 in --task_cls_params" in error_of(*other_fold)
    swapped = [{"--savi_weight": "--task_cls_weight", "--task_cls_weight": "--savi_weight"}.get(w, w) for w in words]
    assert "the weights are not those of this PHYREReadout" in error_of(*swapped)
    small = [*words, "--set", "num_actions=8", "num_tasks=2"]
    folder = tmp_path / "task_cls_weights" / "test"
    assert script.main([str(word) for word in (*small, "--split", 0, "--total_split", 2)]) == 0
    capsys.readouterr()
    assert "8 of 16 actions are in none of the 1 parts, first task 1, action 0. Run" in error_of("--collect", folder)
    again = [*small, "--split", 0, "--total_split", 3]
    assert "perhaps of another --total_split, than actions 0 to 4" in error_of(*again)
    assert "test: holds results of other weights or settings:\n  num_actions: 8 -> 9\nUndo" in error_of(
        *small, "--set", "num_actions=9"
    )
    assert "no gt_status-<part>.npy there. --collect takes the folder of results" in error_of("--collect", tmp_path)
    shutil.copyfile(folder / "gt_status-0.npy", folder / "gt_status-1.npy")
    assert re.search(r"pred_conf-1\.npy: cannot be read \(.*No such file", error_of("--collect", folder))


def test_parameters_of_the_original_are_read() -> None:
    params = small_params()
    assert (params.phyre_protocal, params.slot_root) == ("within", "checkpoint/slotformer_phyre_params-fold0/{}_slots")
