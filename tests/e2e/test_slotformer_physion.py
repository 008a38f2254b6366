"""The read-out of Physion as a user types it: training on slots, continuing, processes, ways of testing, misuse."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.data.physion import LABELS, SCENARIOS, labelled_videos
from core.data.slots import SlotFile, write_h5
from core.runs import load_model
from core.training.checkpoint import load, save
from slotformer import original
from slotformer.framework.params import BaseParams, load_params, parse_overrides
from slotformer.physion_vqa import Keys, build_model, test_physion_vqa
from slotformer.physion_vqa.data import open_slots
from slotformer.video_prediction import build_model as build_dynamics
from tests import dynamics_runs
from tests.conftest import ROOT, MadeOnce, Runner
from tests.slotformer_runs import assert_same_weights, losses, newest, rows

CONFIG = ROOT / "slotformer" / "physion_vqa" / "configs" / "readout_physion_params.py"
DYNAMICS = "slotformer_physion_params"
FRAMES = 12
SMALL = ("readout_dict.num_slots=3", "slot_size=16", f"video_len={FRAMES}", "resolution=(32,32)", "lr=0.2")
RUN = ("train_batch_size=4", "val_batch_size=3", "n_samples=2", "print_iter=1", "eval_interval=3", "gpus=1")
SPLITS = {"readout": ("train", "val"), "test": ("test",)}


def write_data(physion: Path, folder: Path) -> None:
    """The videos of `physion` with other labels, as many ones as zeros; and made-up slots in slots/."""
    for file in LABELS.values():
        (folder / file).parent.mkdir(parents=True)
        for entry in (physion / file).parent.iterdir():
            if entry.is_dir():
                (folder / file).with_name(entry.name).symlink_to(entry)
        head, *lines = (physion / file).read_text().splitlines()
        rows = [f"{line.partition(',')[0]},{number % 2 == 0}" for number, line in enumerate(lines)]
        (folder / file).write_text("\n".join([head, *rows]) + "\n")
    (folder / "splits").symlink_to(physion / "splits")
    write_slots(folder, folder / "slots")


def write_slots(data: Path, folder: Path) -> None:
    """Of all videos with labels; one slot of one frame tells the label."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for subset, splits in SPLITS.items():
        made = []
        for split in splits:
            videos, labels, _ = labelled_videos(data, subset, split)
            for video, label in zip(videos, labels):
                slots = rng.normal(scale=0.1, size=(FRAMES, 3, 16)).astype(np.float32)
                slots[rng.integers(FRAMES), 1, 0] += 4 * label
                made.append((split, video.name, slots))
        write_h5(folder / f"{subset}_slots.h5", made, {})


def params_of(*settings: str) -> BaseParams:
    return load_params(CONFIG, Keys, parse_overrides([*SMALL, *RUN, *settings]))


@pytest.fixture(scope="session")
def data(videos: Path, made_once: MadeOnce) -> Path:
    return made_once("physion-readout", lambda folder: write_data(videos / "Physion", folder))


@pytest.fixture(scope="session")
def slots(data: Path) -> list[str]:
    """The settings that name data and slots."""
    return [f"data_root={data}", f"slots_root={data / 'slots' / 'readout_slots.pkl'}"]


def train_words(slots: list[str], name: str, *flags: object, settings: tuple = (), epochs: int = 6) -> list:
    words = ("slotformer/scripts/train.py", "--task", "physion_vqa", "--params", CONFIG, "--name", name, *flags)
    return [*words, "--set", *SMALL, *RUN, *slots, f"max_epochs={epochs}", *settings]


def evaluate_words(slots: list[str], weight: Path, *flags: object, settings: tuple = ()) -> list:
    words = ("slotformer/physion_vqa/test_physion_vqa.py", "--params", CONFIG, "--weight", weight, *flags)
    return [*words, "--set", *SMALL, *RUN, *slots, *settings]


def succeed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def trained(run: Runner, slots: list[str], made_once: MadeOnce) -> Path:
    """The folder of a finished run of six epochs."""

    def train(folder: Path) -> None:
        succeed(run(*train_words(slots, "whole"), cwd=folder))

    return made_once("physion-readout-run", train) / "checkpoint" / "whole"


# Training


def answers(weight: Path, subset: str, split: str, slots: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all videos of a split."""
    params = params_of(*slots)
    model, source = build_model(params), open_slots(params, subset, split)
    model.load_state_dict(original.read_weights(weight, model))
    batch = source.read(np.arange(len(source)))
    with torch.no_grad():
        return model.answer(batch["slots"]), batch["label"]


def test_a_run_leaves_weights_scores_and_videos(trained: Path, slots: list[str]) -> None:
    state = load(newest(trained))
    assert state["step"] + 1 == 6 * 2, "eight videos in batches of four"
    assert {path.stem for path in (trained / "models" / "epoch").iterdir()} == {
        f"model_{epoch}" for epoch in range(1, 7)
    }
    curve = losses(trained)
    assert sum(curve[-3:]) < 0.5 * sum(curve[:3])
    validated = [row for row in rows(trained) if "val/vqa_loss" in row]
    assert [row["step"] for row in validated] == [5, 11]
    logits, labels = answers(newest(trained), "readout", "val", slots)
    assert validated[-1]["val/acc_0.50"] == pytest.approx(float(((logits > 0) == labels.bool()).float().mean()))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    assert validated[-1]["val/vqa_loss"] == pytest.approx(float(loss), rel=1e-4)
    scenarios = {f"val/acc_0.50/{scenario}" for scenario in SCENARIOS}
    assert {*scenarios, *(f"val/acc_0.{digit}0" for digit in "13579")} <= validated[-1].keys()
    events = EventAccumulator(str(trained), size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["images"]) >= {"val/video0", "val/video1"}
    assert [event.step for event in events.Images("val/video0")] == [0, 5, 11], "before the training, too"
    model, record = load_model(trained)
    assert (record.paper, type(model).__name__) == ("slotformer", "PhysionReadout")
    best = load(trained / "models" / "best.pth")
    found = [row["val/acc_0.50"] for row in validated]
    assert best["step"] == validated[found.index(max(found))]["step"]


@pytest.mark.slow
def test_killed_and_continued_the_run_is_the_same(run: Runner, slots: list[str], trained: Path, tmp_path: Path) -> None:
    settings = ("save_interval=0.5", "num_workers=0")

    def train() -> None:
        succeed(run(*train_words(slots, "parts", settings=settings), cwd=tmp_path))

    train()
    parts = tmp_path / "checkpoint" / "parts"
    found = sorted((parts / "models").glob("model_*.pth"), key=lambda path: int(path.stem.partition("_")[2]))
    for path in (*found[1:], *(parts / "models").glob("epoch/*"), *(parts / "models").glob("best.pth")):
        path.unlink()  # as if the process had ended here
    train()
    assert losses(parts) == losses(trained)
    assert_same_weights(parts, trained)


@pytest.mark.slow
def test_resident_slots_give_the_same_run(run: Runner, slots: list[str], trained: Path, tmp_path: Path) -> None:
    succeed(run(*train_words(slots, "resident", "--resident"), cwd=tmp_path))
    assert losses(tmp_path / "checkpoint" / "resident") == losses(trained)
    assert_same_weights(tmp_path / "checkpoint" / "resident", trained)


@pytest.mark.slow
def test_two_processes_equal_one(run: Runner, slots: list[str], trained: Path, tmp_path: Path) -> None:
    words = train_words(slots, "two", "--ddp", settings=("train_batch_size=2", "gpus=2"))
    succeed(run(*words, cwd=tmp_path))
    together = tmp_path / "checkpoint" / "two"
    assert losses(together) == pytest.approx(losses(trained), rel=1e-4)
    ours, theirs = ([row["val/vqa_loss"] for row in rows(of) if "val/vqa_loss" in row] for of in (together, trained))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_slots_alone_are_enough(run: Runner, slots: list[str], data: Path, tmp_path: Path) -> None:
    lists = tmp_path / "Physion"
    (lists / LABELS["readout"]).parent.mkdir(parents=True)
    (lists / LABELS["readout"]).symlink_to(data / LABELS["readout"])
    (lists / "splits").symlink_to(data / "splits")
    done = run(*train_words(slots, "blind", settings=(f"data_root={lists}",), epochs=1), cwd=tmp_path)
    succeed(done)
    assert done.stderr.count("note: no videos in the log, slots and labels are enough to train") == 1
    events = EventAccumulator(str(tmp_path / "checkpoint" / "blind"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == []


# Testing


def expected_report(weights: list[Path], slots: list[str], chosen_on: tuple[str, str], threshs: list[float]) -> dict:
    """Threshold, weight and accuracy by a plain loop."""
    best: tuple[float, int, float] | None = None
    for threshold in threshs:
        first: tuple[float, int, float] | None = None
        for place, weight in enumerate(weights):
            logits, labels = answers(weight, *chosen_on, slots)
            right = float(((logits.sigmoid() > threshold) == labels.bool()).double().mean())
            if first is None or right > first[0]:
                first = (right, place, threshold)
        if best is None or first[0] > best[0]:
            best = first
    chosen_accuracy, place, threshold = best
    logits, labels = answers(weights[place], "test", "test", slots)
    right = ((logits.sigmoid() > threshold) == labels.bool()).double()
    return {
        "weight": str(weights[place]),
        "threshold": threshold,
        "accuracy": float(right.mean()),
        "chosen_on_accuracy": chosen_accuracy,
    }


THRESHS = {(): [0.4, 0.45, 0.5, 0.55, 0.6, 0.65], ("--threshs", 0.3, 0.5): [0.3, 0.5]}


@pytest.mark.parametrize("flags", THRESHS)
@pytest.mark.parametrize("as_original", [False, True])
def test_a_folder_of_weights(
    run: Runner, slots: list[str], trained: Path, tmp_path: Path, flags: tuple, as_original: bool
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in (trained / "models" / "epoch").iterdir():
        (folder / path.name).symlink_to(path)
    words = evaluate_words(slots, folder, *flags, *["--as-original"] * as_original)
    printed = succeed(run(*words, cwd=tmp_path)).splitlines()
    weights = sorted(folder.glob("*.pth"))
    chosen_on = ("test", "test") if as_original else ("readout", "val")
    expected = expected_report(weights, slots, chosen_on, THRESHS[flags])
    ending = "-as_original" if as_original else ""
    report = json.loads((folder / f"vqa-readout_physion_params{ending}.json").read_text())
    assert {key: report[key] for key in expected} == pytest.approx(expected)
    assert report["chosen_on"] == " ".join(chosen_on)
    assert report["as_original"] == as_original
    assert report["weights"] == [path.name for path in weights]
    assert (report["num_videos"], len(report["scenarios"])) == (8, 8)
    assert np.mean(list(report["scenarios"].values())) == pytest.approx(report["accuracy"]), "one video of each"
    low, high = report["interval"]
    assert low <= report["accuracy"] <= high
    threshs = THRESHS[flags]
    assert printed[: len(threshs)] == [f"Testing with threshold {threshold}" for threshold in threshs]
    best = f"Best threshold: {expected['threshold']}, best weight: {expected['weight']}"
    assert printed[len(threshs) : len(threshs) + 2] == [best, f"All accuracy: {expected['accuracy']:.3f}"]
    lines = printed[len(threshs) + 2 : len(threshs) + 10]
    assert lines == [f"{scenario}: {report['scenarios'][scenario]:.3f}" for scenario in SCENARIOS]
    assert (
        any(line.startswith("as the original: threshold and weight are chosen on the t") for line in printed)
        == as_original
    )
    assert (
        any(line.startswith("threshold and weight chosen on 8 videos of readout val") for line in printed)
        != as_original
    )


def test_one_weight_of_the_original(run: Runner, slots: list[str], trained: Path, tmp_path: Path) -> None:
    model, _ = load_model(trained)
    save(tmp_path / "model_12.pth", {"state_dict": original.export_state(model), "it": 12, "epoch": 6})
    printed = succeed(run(*evaluate_words(slots, tmp_path / "model_12.pth"), cwd=tmp_path))
    report = json.loads((tmp_path / "model_12-vqa-readout_physion_params.json").read_text())
    assert report["accuracy"] == 1.0, "one slot of one frame tells"
    assert report["majority"] == 0.5
    assert "All accuracy: 1.000\n" in printed
    assert report["weight"] == str(tmp_path / "model_12.pth")
    expected = expected_report([tmp_path / "model_12.pth"], slots, ("readout", "val"), THRESHS[()])
    assert {key: report[key] for key in expected} == pytest.approx(expected)


@pytest.mark.slow
def test_answers_of_two_processes_are_those_of_one(
    run: Runner, slots: list[str], trained: Path, tmp_path: Path
) -> None:
    save(tmp_path / "model_12.pth", load(newest(trained)))
    reports = []
    for flags in ((), ("--ddp",)):
        succeed(run(*evaluate_words(slots, tmp_path / "model_12.pth", *flags, settings=("gpus=2",)), cwd=tmp_path))
        reports.append(json.loads((tmp_path / "model_12-vqa-readout_physion_params.json").read_text()))
    assert reports[0] == reports[1]


# The documents' chain


@pytest.mark.slow
def test_rollouts_beside_the_weight_are_what_the_configuration_names(run: Runner, data: Path, tmp_path: Path) -> None:
    models = tmp_path / "checkpoint" / DYNAMICS / "models"
    models.mkdir(parents=True)
    small = dynamics_runs.small_params(DYNAMICS)
    torch.manual_seed(0)
    save(models / "model_5.pth", {"model": build_dynamics(small).state_dict()})
    given = (f"data_root={data}", f"slots_root={data / 'slots' / 'training_slots.pkl'}")
    for subset in SPLITS:
        words = ("slotformer/video_prediction/rollout_physion_slots.py", "--params", dynamics_runs.CONFIGS / DYNAMICS)
        flags = ("--weight", models / "model_5.pth", "--subset", subset, "--num_observed", 9)
        settings = (*dynamics_runs.SLOTS, *dynamics_runs.RUN, *dynamics_runs.SMALL[DYNAMICS], *given)
        succeed(run(*words, *flags, "--set", *settings, cwd=tmp_path))
        assert (models / f"{subset}_slots.h5").is_symlink()
    rolled_out = [f"data_root={data}"]
    succeed(run(*train_words(rolled_out, "readout", epochs=1), cwd=tmp_path))
    weights = tmp_path / "checkpoint" / "readout" / "models"
    succeed(run(*evaluate_words(rolled_out, weights), cwd=tmp_path))
    report = json.loads((weights / "vqa-readout_physion_params.json").read_text())
    folder = Path("checkpoint") / DYNAMICS / "models"
    assert report["slots"] == {name: str(folder / f"{name}_slots.h5") for name in SPLITS}
    assert report["remarks"] == []
    assert SlotFile(models / "test_slots.h5").provenance["num_observed"] == 9


# Misuse


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--threshs", "0.5", "1.5"), 2, "argument --threshs: expected a number from 0 to 1, found '1.5'"),
        (("--thresh", "0.5"), 2, "no flag '--thresh'; did you mean '--threshs'?"),
        (("--weight", "{run}"), 1, "no *.pth in this folder; there are some in {run}/models"),
        (("--weight", "{run}/models/model_3.pth"), 1, "model_3.pth: no such checkpoint. The newest other"),
        (("--set", "readout_dict.feats_dim=8"), 1, "linear1.bias: [16] in the file, [8] in the model"),
        (("--set", "slots_root=none/readout_slots.pkl"), 1, "none/readout_slots.pkl: no such file"),
    ],
)
def test_misuse_is_answered(
    slots: list[str], trained: Path, monkeypatch, capsys, tmp_path, flags, code, message
) -> None:
    words = [*evaluate_words(slots, newest(trained)), *(flag.format(run=trained) for flag in flags)]
    monkeypatch.chdir(tmp_path)
    try:
        found = test_physion_vqa.main([str(word) for word in words[1:]])
    except SystemExit as error:
        found = error.code
    assert found == code
    assert message.format(run=trained) in capsys.readouterr().err
    assert not list(trained.rglob("*vqa-*.json"))
