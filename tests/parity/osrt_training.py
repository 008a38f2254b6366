"""OSRT's metrics, evaluation, colours and checkpoints against numbers recorded from the original code."""

import re
from pathlib import Path

import torch
from torch import Tensor

from core.training.checkpoint import load
from core.training.schedules import warmup_then_exponential
from core.viz.palette import checkerboard, palette, segmentation_picture
from osrt import original
from osrt.config import TrainingConfig
from osrt.evaluation import SceneScores
from osrt.models.decoder import Rendered
from osrt.scores import ari_of_counts, label_counts, psnr
from osrt.training import DECAY_RATE
from tests.parity.golden import Case, Check
from tests.parity.osrt_models import build
from tests.parity.steps import trainer_by_hand

NOT_A_NUMBER = -999
"""How the file says NaN."""


def close(ours: Tensor, theirs: Tensor, atol: float = 0, rtol: float = 0) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), atol=atol, rtol=rtol)


def check_ari(case: Case, tmp_path: Path) -> None:
    checked = 0
    for name in sorted({key.split("/")[1] for key in case.arrays}):
        given, recorded = case.tensors(f"in/{name}/"), case.tensors(f"out/{name}/")
        if "true_ids" in given:
            labels, weights = given["true_ids"], one_hot(given["pred_ids"])
        else:
            # A pixel of no group is ignored: label 0, as the background is by FG-ARI.
            labels = (given["true"].argmax(dim=1) + 1) * given["true"].any(dim=1)
            weights = given["pred"].transpose(1, 2)
        ours = ari_of_counts(label_counts(labels.byte(), weights))["fg_ari"]
        (theirs,) = recorded.values()
        close(ours, torch.where(theirs == NOT_A_NUMBER, 1.0, theirs), **tolerance(case))
        checked += 1
        if name == "all":
            # Where no pixel is ignored, both scores are the same.
            close(ari_of_counts(label_counts(labels.byte(), weights))["ari"], theirs, **tolerance(case))
    assert checked == len([key for key in case.arrays if key.startswith("out/")])


def one_hot(ids: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(ids.long()).float()


def tolerance(case: Case) -> dict[str, float]:
    return {name: case.info["tolerance"][name] for name in ("atol", "rtol") if name in case.info["tolerance"]}


def check_evaluate(case: Case, tmp_path: Path) -> None:
    close(psnr(case["in/mse"]), case["out/psnr"], **tolerance(case))
    recorded = {key.removeprefix("eval_"): value for key, value in case.tensors("out/").items() if "eval_" in key}
    batches = numbered(case, r"in/target_pixels_(\d+)")
    for chunk in (10**6, 7):
        found = [scores_of(case, batch, chunk) for batch in batches]
        assert found[0].keys() == recorded.keys()
        for name, theirs in recorded.items():
            close(torch.cat([scores[name] for scores in found]).mean(), theirs, **tolerance(case))


def scores_of(case: Case, batch: int, chunk: int) -> dict[str, Tensor]:
    """Of a batch whose rays are predicted as the file says, so many of them at a time."""
    scores = SceneScores()
    parts = (
        case[f"in/{name}_{batch}"].split(chunk, dim=1)
        for name in ("pred_pixels", "pred_weights", "target_pixels", "target_masks")
    )
    for pixels, weights, wanted, masks in zip(*parts):
        scores.add(Rendered(pixels, weights), wanted, masks.argmax(dim=-1).byte())
    return scores.values()


def numbered(case: Case, pattern: str) -> list[int]:
    return sorted(int(match[1]) for key in case.arrays if (match := re.fullmatch(pattern, key)))


def check_colours(case: Case, tmp_path: Path) -> None:
    for number in numbered(case, r"out/colors_(\d+)"):
        close(torch.from_numpy(palette(number)), case[f"out/colors_{number}"], **tolerance(case))
    for key in [key for key in case.arrays if key.startswith("out/background")]:
        options = {"cell": int(key.rpartition("grid")[2])} if "grid" in key else {}
        close(torch.from_numpy(checkerboard(*case[key].shape[:2], **options)), case[key], **tolerance(case))
    picture = segmentation_picture(case.arrays["in/clustering"])
    close(torch.from_numpy(picture), case["out/clustering_image"], **tolerance(case))


def check_checkpoint(case: Case, tmp_path: Path) -> None:
    """A model.pt of the original goes on as it does there, and comes back from ours as it was."""
    path = tmp_path / "model.pt"
    path.write_bytes(case.arrays["in/model_pt"].tobytes())
    state = load(path)
    assert set(state) == set(case.info["checkpoint_keys"].split(", "))
    assert original.is_original(state)
    model = build(case)
    settings = case.info["config"]["training"]
    optimizer = torch.optim.Adam(model.parameters(), lr=TrainingConfig.peak_lr)
    continued = original.training_state(state, model, optimizer, path)
    assert_exported(state, continued)
    rates, losses = case["out/lr_after_resume"], case["out/loss_after_resume"]
    schedule = warmup_then_exponential(settings["lr_warmup"], settings["decay_it"], DECAY_RATE)
    trainer = trainer_by_hand(model, optimizer, 10**6, tmp_path, schedule=schedule)
    trainer.resume(continued, path)
    assert trainer.first_step == state["it"] + 1
    batch = {name: value for name, value in case.tensors("in/").items() if name != "model_pt"}
    for index, (rate, loss) in enumerate(zip(rates, losses)):
        terms = trainer.step(trainer.first_step + index, batch)
        assert abs(optimizer.param_groups[0]["lr"] - rate) <= 1e-12 * rate
        close(terms["loss"], loss, rtol=case.info["tolerance"]["loss_rtol"])


def assert_exported(theirs: dict, ours: dict) -> None:
    exported = original.export_state(ours, best_if_none=theirs["loss_val_best"])
    for part in original.PARTS:
        assert list(exported[part]) == list(theirs[part])
        assert all(torch.equal(exported[part][name], value) for name, value in theirs[part].items())
    for number, moments in theirs["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(torch.as_tensor(exported["optimizer"]["state"][number][name]), torch.as_tensor(value))
    for name in ("it", "t", "loss_val_best", "run_id"):
        assert exported[name] == theirs[name]


CHECKS: dict[str, Check] = {
    "adjusted rand index": check_ari,
    "PSNR and the evaluation loop": check_evaluate,
    "segmentation palette": check_colours,
    "Checkpoint": check_checkpoint,
}
