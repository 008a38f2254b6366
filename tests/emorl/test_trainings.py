"""Trainings in this process: who may write a run, what it goes on from, and what its checkpoints say of it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from core.files import occupy
from core.runs import load_model
from core.training.checkpoint import CheckpointError, load, save
from emorl import eval as evaluation
from emorl.settings import complete
from emorl.train import run
from tests.tiny_runs import ROOT, eval_words, scalars, state_of, train_words

CURRICULUM = "training.refinement_curriculum=[(-1,2),(3,1)]"


def train(data: Path, out: Path, *overrides: str, model: str = "SlotAttention") -> str:
    words = train_words(data, out, *overrides, model=model)
    return run(complete(ROOT / words[2], "training", words[3:]))


def evaluation_of(data: Path, out: Path, checkpoint: str, *overrides: str) -> dict[str, Any]:
    words = eval_words(data, out, checkpoint, *overrides)
    return complete(ROOT / words[2], "test", words[3:])


def curves(out: Path, name: str) -> dict[str, bytes]:
    """What stands in the folders of a run's curves."""
    return {str(path): path.read_bytes() for path in out.glob(f"tb/{name}_*/*")}


@pytest.fixture
def trained(tetrominoes: Path, tmp_path: Path) -> Path:
    """A run `tiny` of Slot Attention with the checkpoints 2, 4 and 5."""
    assert train(tetrominoes, tmp_path) == "finished"
    return tmp_path


def test_one_process_at_a_time_trains_a_run(tetrominoes: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    with occupy(tmp_path / "weights", ".tiny.lock"):
        with pytest.raises(CheckpointError, match=r"another process trains tiny there.* set training\.run_suffix"):
            train(tetrominoes, tmp_path)
        train(tetrominoes, tmp_path, "training.run_suffix=other", "training.iters=1")
    assert [path.name for path in tmp_path.glob("weights/*.pth")] == ["other-state-1.pth"]
    assert train(tetrominoes, tmp_path, "training.iters=1") == "finished"


def test_a_branch_leaves_the_curves_it_came_from_and_continues(
    tetrominoes: Path, trained: Path, capsys: pytest.CaptureFixture
) -> None:
    before = curves(trained, "tiny")
    branch = ["training.run_suffix=other", "training.load_from_checkpoint=True"]
    first = [*branch, "training.checkpoint=tiny-state-4.pth", "training.lr=1e-3"]
    train(tetrominoes, trained, *first, "training.iters=6")
    assert curves(trained, "tiny") == before
    (lines,) = trained.glob("tb/other_*/scalars.jsonl")
    assert [json.loads(line)["step"] for line in lines.read_text().splitlines()] == [5, 6]

    capsys.readouterr()
    train(tetrominoes, trained, *first, "training.iters=8")
    assert f"continuing {trained}/weights/other-state-6.pth after step 6" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in lines.read_text().splitlines()] == [5, 6, 7, 8]
    (trained / "weights/tiny-state-4.pth").unlink()
    train(tetrominoes, trained, *first, "training.iters=9")
    assert load(trained / "weights/other-state-9.pth")["branched_from"] == "tiny-state-4.pth"

    with pytest.raises(CheckpointError, match=r"beyond step 2, to other-state-9\.pth, and not from this file\. Set tr"):
        train(tetrominoes, trained, *branch, "training.checkpoint=tiny-state-2.pth")
    with pytest.raises(CheckpointError, match=r"training\.lr: 0\.001 -> 0\.1"):
        train(tetrominoes, trained, *first, "training.lr=0.1", "training.iters=10")


def test_a_run_branches_from_its_own_newest_checkpoint(tetrominoes: Path, trained: Path) -> None:
    """As the message about another configuration advises."""
    words = ["training.load_from_checkpoint=True", f"training.checkpoint={trained}/weights/tiny-state-5.pth"]
    for last in (6, 7):
        train(tetrominoes, trained, *words, "training.lr=1e-3", f"training.iters={last}")
    assert [row["step"] for row in scalars(trained)] == list(range(8))
    assert state_of(trained, 7)["branched_from"] == "tiny-state-5.pth"


def refinements(path: Path) -> int:
    record = json.loads(path.read_text()) if path.suffix == ".json" else load(path)["run"]
    return record["arguments"]["arguments"]["refinement_iters"]


def test_a_checkpoint_has_the_refinements_of_its_step_and_training_goes_on_by_the_curriculum(
    tetrominoes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for last in (2, 4):
        train(tetrominoes, tmp_path, CURRICULUM, "training.kl_beta_init=0.5", f"training.iters={last}", model="EMORL")
    counts = [sum("norm_delta" in name for name in row) for row in scalars(tmp_path)]
    assert counts == [2, 2, 2, 1, 1]
    weights = tmp_path / "weights"
    assert refinements(weights / "tiny-state-2.pth") == 2
    assert refinements(weights / "tiny-state-4.pth") == refinements(weights / "tiny.run.json") == 1
    assert load_model(tmp_path)[0].refinement_iters == 1

    config = evaluation_of(tetrominoes, tmp_path, "tiny-state-4.pth", "test.num_images_to_process=2")
    capsys.readouterr()
    folder = evaluation.run(config)
    said = capsys.readouterr().out
    assert "note: trained with refinement_iters=1, evaluated with 3" in said
    assert "note: evaluated with kl_weight=0.5, as it was trained" in said
    result = json.loads((folder / "ARI_MSE_KL.json").read_text())
    wanted = {"model": "EfficientMORL", "eval_type": "ARI_MSE_KL", "as_original": False, "refinement_iters": 3}
    assert {name: result[name] for name in wanted} == wanted
    assert evaluation.load_for_evaluation(config, weights / "tiny-state-4.pth").kl_weight == 0.5
    state = load(weights / "tiny-state-4.pth")
    del state["run"]
    save(weights / "bare.pth", state)
    assert evaluation.load_for_evaluation(config, weights / "bare.pth").kl_weight == 1


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_weights_and_biases_are_missed_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Weights & Biases was asked for but is not installed: pip install"):
        train(tmp_path / "nowhere", tmp_path / "out", "training.wandb_project=mine")
    assert not (tmp_path / "out").exists()
