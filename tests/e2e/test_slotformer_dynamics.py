"""The training command of SlotFormer itself: slots from files, frozen decoders, continuing, several processes."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.runs import load_model
from core.training.checkpoint import load
from tests import slotformer_runs
from tests.conftest import Runner
from tests.dynamics_runs import BASES, train_words
from tests.slotformer_runs import assert_same_weights, losses, newest, rows, weights

FOLDERS = {"slotformer_obj3d_params": "OBJ3D", "slotformer_clevrer_params": "CLEVRER"}
SLOT_TERMS = {"slot_recon_loss"}
STEPS = {"slot_recon_loss_1", "slot_recon_loss_2"}
TERMS = {
    "slotformer_obj3d_params": (SLOT_TERMS | {"img_recon_loss"}, STEPS | {"img_recon_loss"}),
    "slotformer_clevrer_params": (SLOT_TERMS | {"img_recon_loss"}, STEPS | {"img_recon_loss", "fg_ari"}),
    "slotformer_phyre_params-fold0": (SLOT_TERMS | {"loss_decay_factor"}, STEPS | {"img_recon_loss"}),
    "slotformer_physion_params": (SLOT_TERMS, SLOT_TERMS),
}
"""What is logged in training and in validation."""


def folder_of(config: str, videos: Path) -> Path:
    return videos / FOLDERS.get(config, "Physion")


@pytest.mark.parametrize("config", sorted(TERMS))
def test_one_epoch_of_every_configuration(run: Runner, videos: Path, tmp_path: Path, config: str) -> None:
    words = train_words(config, folder_of(config, videos), "one", tmp_path)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "checkpoint" / "one"
    state = load(newest(folder))
    steps = state["step"] + 1
    logged = [row for row in rows(folder) if "train/loss" in row]
    assert len(logged) == steps
    in_training, in_validation = TERMS[config]
    assert {f"train/{name}" for name in in_training} <= logged[-1].keys()
    assert ("train/img_recon_loss" in logged[-1]) == ("img_recon_loss" in in_training)
    validated = [row for row in rows(folder) if "val/loss" in row]
    assert [row["step"] for row in validated] == [steps - 1]
    assert {f"val/{name}" for name in in_validation} <= validated[0].keys()
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    shown = {"val/video", "val/rollout_video", "val/compare_video"} if "physion" not in config else set()
    assert set(events.Tags()["images"]) == shown
    for name in shown:
        assert [event.step for event in events.Images(name)] == [0, steps - 1], "before the training and after it"
    model, record = load_model(folder)
    assert record.paper == "slotformer"
    assert all(value.equal(state["model"][name]) for name, value in model.state_dict().items())
    base = load(tmp_path / config / "base.pth")["model"]
    theirs = "trans_decoder." if "physion" in config else "decoder."
    frozen = {name: value for name, value in state["model"].items() if name.startswith("decoder.")}
    assert len(frozen) > 5
    assert all(torch.equal(value, base[name.replace("decoder.", theirs, 1)]) for name, value in frozen.items())


def test_killed_and_continued_the_run_is_the_same(run: Runner, videos: Path, tmp_path: Path) -> None:
    config = "slotformer_obj3d_params"
    settings = ("save_interval=0.1", "dropout=0.1", "num_workers=0", "use_loss_decay=True", "loss_decay_pct=0.8")

    def train(name: str) -> None:
        words = train_words(config, videos / "OBJ3D", name, tmp_path, settings=settings, epochs=2)
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    train("whole"), train("parts")
    whole, parts = (tmp_path / "checkpoint" / name for name in ("whole", "parts"))
    found = sorted((parts / "models").glob("model_*.pth"), key=lambda path: int(path.stem.partition("_")[2]))
    for path in (*found[2:], *(parts / "models").glob("epoch/*"), *(parts / "models").glob("best.pth")):
        path.unlink()  # as if the process had ended here
    train("parts")
    assert losses(parts) == losses(whole)
    assert_same_weights(parts, whole)
    factors = [row["train/loss_decay_factor"] for row in rows(whole) if "train/loss" in row]
    assert factors[0] == 0.01
    assert factors == sorted(factors)
    assert factors[-1] == 1.0


def test_two_processes_equal_one(run: Runner, videos: Path, tmp_path: Path) -> None:
    config, data = "slotformer_clevrer_params", videos / "CLEVRER"
    one = run(*train_words(config, data, "one", tmp_path, settings=("train_batch_size=4",)), cwd=tmp_path)
    shared = ("train_batch_size=2", "gpus=2")
    two = run(*train_words(config, data, "two", tmp_path, "--ddp", settings=shared), cwd=tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    alone, together = (tmp_path / "checkpoint" / name for name in ("one", "two"))
    assert losses(together)[:4] == pytest.approx(losses(alone)[:4], rel=2e-4)
    assert losses(together) == pytest.approx(losses(alone), rel=5e-3), "Adam's first steps enlarge rounding"


def test_from_videos_to_dynamics(run: Runner, videos: Path, tmp_path: Path) -> None:
    config, data = "slotformer_obj3d_params", videos / "OBJ3D"
    base, slots = BASES[config], tmp_path / "obj3d_slots.h5"
    done = run(*slotformer_runs.train_words(base, data, base, settings=("video_len=9",)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    weight = newest(tmp_path / "checkpoint" / base)
    small = (*slotformer_runs.SMALL[base], "dropout=0.0", f"data_root={data}", "video_len=9")
    words = ("--params", slotformer_runs.CONFIGS / base, "--weight", weight, "--save_path", slots, "--set", *small)
    done = run("slotformer/base_slots/extract_slots.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = (f"slots_root={slots.with_suffix('.pkl')}", f"dec_dict.dec_ckp_path={weight}", "lr=3e-3")
    done = run(*train_words(config, data, "dynamics", tmp_path, settings=settings, epochs=3), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "checkpoint" / "dynamics"
    curve = losses(folder)
    third = len(curve) // 3
    assert sum(curve[-third:]) < 0.8 * sum(curve[:third])
    trained = weights(folder)
    assert torch.equal(trained["decoder.4.weight"], load(weight)["model"]["decoder.4.weight"])


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ("slotformer_obj3d_params", "dataset=obj3d", "dataset 'obj3d' is not one of obj3d_slots"),
        ("slotformer_obj3d_params", "slots_root=none.h5", "none.h5: no such file"),
        ("slotformer_obj3d_params", "dec_dict.dec_ckp_path=none.pth", "dec_dict.dec_ckp_path: none.pth: no such file"),
        ("slotformer_obj3d_params", "num_slots=4", "3 slots of size 16, expected at least 9 frames of 4 slots"),
        ("slotformer_obj3d_params", "n_sample_frames=4", "clips of 4 frames, but history_len=3 and rollout_len=2"),
        ("slotformer_obj3d_params", "rollout_dict.num_layer=2", "rollout_dict: SlotFormer has no 'num_layer'"),
        ("slotformer_clevrer_params", "load_img=False", "use_img_recon_loss needs images, but load_img is False"),
    ],
)
def test_misuse_is_answered(run: Runner, videos: Path, tmp_path: Path, config: str, change: str, message: str) -> None:
    settings = (change, "loss_dict.rollout_len=2") if "n_sample" in change else (change,)
    done = run(*train_words(config, folder_of(config, videos), "misused", tmp_path, settings=settings), cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
