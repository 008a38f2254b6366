"""Question answering as a user types it: training, continuing, processes, accuracies, the submission, misuse."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.slots import write_h5
from core.runs import load_model
from core.training.checkpoint import load, save
from slotformer import original
from slotformer.clevrer_vqa import build_model
from slotformer.clevrer_vqa.data import open_questions
from slotformer.clevrer_vqa.evaluation import accuracies
from tests.conftest import MadeOnce, Runner
from tests.slotformer_runs import assert_same_weights, losses, newest, rows
from tests.vqa_runs import OBSERVED, ROLLOUT, SCENES, answer_words, inputs, small_params, train_words, write_data

PER_SCENE = {"descriptive": 5, "explanatory": 1, "predictive": 1, "counterfactual": 1}
OPTIONS = {"explanatory": 3, "predictive": 2, "counterfactual": 2}
TERMS = {"cls_answer_loss", "mc_answer_loss"}


@pytest.fixture(scope="module")
def data(made_once: MadeOnce) -> Path:
    return made_once("vqa", write_data)


def succeed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_model(folder: Path, as_original: bool = False) -> Path:
    """Untrained weights, ours or as the original stores them."""
    torch.manual_seed(0)
    model = build_model(small_params(ROLLOUT))
    for value in model.parameters():  # else it answers all alike
        value.data += 0.2 * torch.randn_like(value)
    state = {"state_dict": original.export_state(model)} if as_original else {"model": model.state_dict()}
    path = folder / "models" / "model.pth"
    path.parent.mkdir()
    save(path, state)
    return path


@pytest.mark.parametrize("slots", ["slots", "rollout"])
def test_one_epoch_of_both_configurations(run: Runner, data: Path, tmp_path: Path, slots: str) -> None:
    succeed(run(*train_words(data, "one", slots=slots, settings=("num_workers=1",)), cwd=tmp_path))
    folder = tmp_path / "checkpoint" / "one"
    state, steps = load(newest(folder)), SCENES["train"][1] * 8 // 12
    assert state["step"] + 1 == steps
    logged = [row for row in rows(folder) if "train/loss" in row]
    assert len(logged) == steps
    assert {f"train/{name}" for name in TERMS} <= logged[-1].keys()
    for row in logged:
        assert row["train/loss"] == pytest.approx(sum(row[f"train/{name}"] for name in TERMS), rel=1e-5)
    (validated,) = (row for row in rows(folder) if "val/acc" in row)
    names = [*PER_SCENE, "multiple-choice"]
    assert {f"val/{name}_acc" for name in names} <= validated.keys()
    assert {f"val/{name}_option_acc" for name in names if name != "descriptive"} <= validated.keys()
    assert state["validation"]["best_by"] == "acc"
    assert state["validation"]["best"] == validated["val/acc"]
    assert (folder / "models" / "best.pth").is_file()
    model, record = load_model(folder)
    assert record.arguments["task"] == "slotformer.clevrer_vqa"
    assert all(value.equal(state["model"][name]) for name, value in model.state_dict().items())


def test_killed_and_continued_the_run_is_the_same(run: Runner, data: Path, tmp_path: Path) -> None:
    settings = ("save_interval=0.3", "dropout=0.1", "shuffle_obj=True")

    def train(name: str) -> None:
        succeed(run(*train_words(data, name, settings=settings, epochs=2), cwd=tmp_path))

    train("whole"), train("parts")
    whole, parts = (tmp_path / "checkpoint" / name for name in ("whole", "parts"))
    found = sorted((parts / "models").glob("model_*.pth"), key=lambda path: int(path.stem.partition("_")[2]))
    for path in (*found[2:], *(parts / "models").glob("epoch/*"), *(parts / "models").glob("best.pth")):
        path.unlink()  # as if the process had ended here
    train("parts")
    assert losses(parts) == losses(whole)
    assert len(set(losses(whole))) == len(losses(whole)) == 2 * SCENES["train"][1] * 8 // 12
    assert_same_weights(parts, whole)


@pytest.mark.slow
def test_two_processes_equal_one(run: Runner, data: Path, tmp_path: Path) -> None:
    succeed(run(*train_words(data, "one"), cwd=tmp_path))
    shared = ("train_batch_size=6", "gpus=2")
    succeed(run(*train_words(data, "two", "--ddp", settings=shared), cwd=tmp_path))
    alone, together = (tmp_path / "checkpoint" / name for name in ("one", "two"))
    for name in ("loss", *TERMS):
        ours, theirs = ([row[f"train/{name}"] for row in rows(of) if "train/loss" in row] for of in (together, alone))
        assert ours[:4] == pytest.approx(theirs[:4], rel=2e-4)
        assert ours == pytest.approx(theirs, rel=5e-3), "Adam's first steps enlarge rounding"


def expected_scores(data: Path, weight: Path, split: str) -> dict[str, float]:
    """Of every question by itself."""
    params = small_params(ROLLOUT, *inputs(data))
    source, model = open_questions(params, split), build_model(params).eval()
    model.load_state_dict(original.read_weights(weight, model))
    found: dict[str, list[float]] = {}
    for index in range(len(source)):
        batch = source.read(np.array([index]))
        with torch.no_grad():
            values = accuracies(*model.answer(batch), batch)
        for name, part in values.items():
            found.setdefault(name, []).extend(part.tolist())
    return {name: sum(values) / len(values) for name, values in found.items()}


@pytest.mark.parametrize("as_original", [False, True])
def test_accuracies_where_answers_are_known(run: Runner, data: Path, tmp_path: Path, as_original: bool) -> None:
    weight = write_model(tmp_path, as_original)
    printed = succeed(run(*answer_words(data, weight, "--split", "val"), cwd=tmp_path))
    report = json.loads((weight.parent / f"model-vqa-{ROLLOUT}-val.json").read_text())
    scenes, expected = SCENES["val"][1], expected_scores(data, weight, "val")
    found = report["scores"]
    assert {name: found[name]["questions"] for name in PER_SCENE} == {n: scenes * c for n, c in PER_SCENE.items()}
    assert {name: found[name]["options"] for name in OPTIONS} == {n: scenes * c for n, c in OPTIONS.items()}
    assert found["all"]["acc"] == pytest.approx(expected["acc"])
    for name in (*PER_SCENE, "multiple-choice"):
        assert found[name]["acc"] == pytest.approx(expected[f"{name}_acc"])
        if name != "descriptive":
            assert found[name]["option_acc"] == pytest.approx(expected[f"{name}_option_acc"])
            line = next(line for line in printed.splitlines() if line.startswith(name))
            figures = [f"{found[name]['acc']:.4f}", f"{found[name]['option_acc']:.4f}"]
            assert line.split()[2::2] == figures
    assert 0 < expected["acc"] < 1
    assert (report["split"], report["question_only"]) == ("val", False)
    assert not (weight.parent / "CLEVRER.json").exists()


def test_the_submission_is_the_same_in_any_batches_and_processes(run: Runner, data: Path, tmp_path: Path) -> None:
    weight = write_model(tmp_path)
    path = weight.parent / "CLEVRER.json"
    printed = succeed(run(*answer_words(data, weight), cwd=tmp_path))
    assert f"24 answers about 3 of 5,000 scenes in {path}" in printed
    found = json.loads(path.read_text())
    assert [entry["scene_index"] for entry in found] == list(range(15000, 20000))
    asked = json.loads((data / "questions" / "test.json").read_text())
    for entry, scene in zip(found, asked):
        answers = {question["question_id"]: question for question in entry["questions"]}
        assert answers.keys() == {question["question_id"] for question in scene["questions"]}
        for question in scene["questions"]:
            answer = answers[question["question_id"]]
            if "choices" in question:
                assert [choice["choice_id"] for choice in answer["choices"]] == list(range(len(question["choices"])))
                assert {choice["answer"] for choice in answer["choices"]} <= {"correct", "wrong"}
            else:
                assert isinstance(answer["answer"], str)
    assert all(entry["questions"] == [] for entry in found[3:])
    assert {path.name for path in weight.parent.iterdir()} == {"model.pth", "CLEVRER.json"}
    for flags, settings in ((("--bs", 1), ()), (("--ddp", "--bs", 5), ("gpus=2",))):
        path.unlink()
        succeed(run(*answer_words(data, weight, *flags, settings=settings), cwd=tmp_path))
        assert json.loads(path.read_text()) == found


def test_generated_questions(run: Runner, videos: Path, tmp_path: Path) -> None:
    """From `make_data.py clevrer`, all of whose words the published vocabulary has."""
    folder, slots = videos / "CLEVRER", []
    for split in ("train", "val", "test"):
        scenes = json.loads((folder / "questions" / f"{split}.json").read_text())
        rng = np.random.default_rng(0)
        slots += [(split, scene["video_filename"], rng.random((160, 2, 8), np.float32)) for scene in scenes]
    write_h5(tmp_path / "rollout.h5", slots, {})
    (tmp_path / "questions").symlink_to(folder / "questions")
    succeed(run(*train_words(tmp_path, "made"), cwd=tmp_path))
    weight = newest(tmp_path / "checkpoint" / "made")
    succeed(run(*answer_words(tmp_path, weight), cwd=tmp_path))
    entries = json.loads((weight.parent / "CLEVRER.json").read_text())
    asked = json.loads((folder / "questions" / "test.json").read_text())
    assert sum(len(entry["questions"]) for entry in entries) == sum(len(scene["questions"]) for scene in asked) > 5


@pytest.mark.slow
def test_it_learns_and_beats_the_model_that_sees_no_slots(run: Runner, data: Path, tmp_path: Path) -> None:
    settings = ("lr=3e-3", "eval_interval=60", "save_interval=60", "print_iter=16", "warmup_steps_pct=0.1")
    found = {}
    for name, more in (("sees", ()), ("blind", ("question_only=True",))):
        words = train_words(data, name, settings=(*settings, *more), epochs=60)
        succeed(run(*words, cwd=tmp_path))
        weight = newest(tmp_path / "checkpoint" / name)
        succeed(run(*answer_words(data, weight, "--split", "val", settings=more), cwd=tmp_path))
        found[name] = json.loads(next(weight.parent.glob("*-vqa-*-val.json")).read_text())
    assert found["blind"]["question_only"]
    sees, blind = (found[name]["scores"] for name in ("sees", "blind"))
    assert sees["descriptive"]["acc"] > blind["descriptive"]["acc"] + 0.25
    for kind in ("explanatory", "predictive"):  # what a counterfactual question asks, the slots do not tell
        assert sees[kind]["option_acc"] > blind[kind]["option_acc"] + 0.1


@pytest.mark.parametrize(
    ("flags", "settings", "message"),
    [
        (("--split", "val"), ("max_n_objects=2",), "val holds 2 slots of size 8 in every frame, expected"),
        ((), ("model=SlotFormer",), "a configuration of SlotFormer, expected one of CLEVRERAloe"),
        ((), ("transformer_dict.num_layers=3",), "transformer_encoder.layers.2"),
    ],
)
def test_misuse_is_answered(
    run: Runner, data: Path, tmp_path: Path, flags: tuple, settings: tuple, message: str
) -> None:
    done = run(*answer_words(data, write_model(tmp_path), *flags, settings=settings), cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_training_that_cannot_begin(run: Runner, data: Path, tmp_path: Path) -> None:
    for flags, settings, message in (
        (("--resident",), (), "leave --resident out"),
        ((), ("grad_accum_steps=2",), "grad_accum_steps is 2, expected 1"),
        ((), (f"data_root={tmp_path}",), "questions/train.json: no such file"),
    ):
        done = run(*train_words(data, "none", *flags, settings=settings), cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "checkpoint" / "none").exists()
    assert OBSERVED in str(train_words(data, "none", slots="slots"))
