"""The training commands of SlotFormer's base models on generated videos: train, continue, several processes, seeds."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.runs import load_model
from core.training.checkpoint import load
from slotformer import original
from tests.conftest import ROOT, Runner
from tests.launchers import ACCELERATE, TORCHRUN
from tests.slotformer_runs import assert_same_weights, losses, newest, rows, train_words, weights

FOLDERS = {"savi_obj3d_params": "OBJ3D", "stosavi_clevrer_params": "CLEVRER", "dvae_physion_params": "Physion"}
TERMS = {
    "savi_obj3d_params": {"post_recon_loss", "kld_loss"},
    "stosavi_clevrer_params": {"post_recon_loss", "kld_loss"},
    "savi_phyre_params-fold0": {"post_recon_loss", "kld_loss"},
    "dvae_physion_params": {"recon_loss", "gumbel_tau"},
    "steve_physion_params": {"token_recon_loss", "dec_lr"},
}
PHYRE = ("num_actions=8", "num_tasks=2", "data_ratio=0.5", "pos_ratio=0.5")


def folder_of(config: str, videos: Path) -> Path:
    return videos / FOLDERS.get(config, "Physion")


@pytest.fixture(scope="module")
def trained(run: Runner, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of trainings of one epoch, by configuration, made when they are first asked for."""
    cwd = tmp_path_factory.mktemp("trained")

    class Trained(dict):
        def __missing__(self, config: str) -> Path:
            settings = PHYRE if "phyre" in config else ()
            if config == "steve_physion_params":
                settings = (f"dvae_dict.dvae_ckp_path={newest(self['dvae_physion_params'])}",)
            done = run(*train_words(config, folder_of(config, videos), config, settings=settings), cwd=cwd)
            assert done.returncode == 0, done.stderr
            assert f"finished; the weights are in checkpoint/{config}/models" in done.stdout
            self[config] = cwd / "checkpoint" / config
            return self[config]

    return Trained()


@pytest.mark.parametrize("config", sorted(TERMS))
def test_one_epoch_of_every_configuration(trained, config: str) -> None:
    folder = trained[config]
    state = load(newest(folder))
    steps = state["step"] + 1
    assert newest(folder).name == f"model_{steps}.pth"
    assert (folder / "models" / "epoch" / "model_1.pth").samefile(newest(folder))
    assert (folder / "models" / "best.pth").samefile(newest(folder))
    assert len(list((folder / "models").glob("model_*.pth"))) <= 5
    logged = [row for row in rows(folder) if "train/loss" in row]
    assert len(logged) == steps
    always = {"loss", "epoch", "it", "lr", "data_time", "forward_time"}
    assert {f"train/{name}" for name in TERMS[config] | always} <= logged[-1].keys()
    assert [row["train/it"] for row in logged] == list(range(1, steps + 1))
    assert logged[-1]["train/epoch"] == 1
    validated = [row for row in rows(folder) if "val/loss" in row]
    assert [row["step"] for row in validated] == [steps - 1]
    if "dvae" not in config:
        assert {"val/slots_used", "val/mask_entropy"} <= validated[0].keys()
        assert ("val/mask_repetition" in validated[0]) == ("obj3d" not in config), "where a batch has two clips"
    if "obj3d" in config or "clevrer" in config:
        assert {"val/fg_ari", "val/fg_ari_of_blocks"} <= validated[0].keys()
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("val/video")] == [0, steps - 1], "before the training and after it"
    assert events.Images("val/video")[0].encoded_image_string[:6] == b"GIF89a"
    model, record = load_model(folder)
    assert (record.paper, record.seed) == ("slotformer", 0)
    assert all(value.equal(state["model"][name]) for name, value in model.state_dict().items())


def test_steve_begins_with_the_trained_dvae_and_leaves_it(trained) -> None:
    ours = weights(trained["steve_physion_params"])
    for name, value in weights(trained["dvae_physion_params"]).items():
        assert torch.equal(ours[f"dvae.{name}"], value)


def test_the_loss_falls(run: Runner, videos: Path, tmp_path: Path) -> None:
    words = train_words(
        "savi_obj3d_params", videos / "OBJ3D", "falls", settings=("lr=3e-3", "eval_interval=2"), epochs=3
    )
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    curve = losses(tmp_path / "checkpoint" / "falls")
    third = len(curve) // 3
    assert sum(curve[-third:]) < 0.85 * sum(curve[:third])
    steps = [row["step"] for row in rows(tmp_path / "checkpoint" / "falls") if "val/loss" in row]
    assert steps == [2 * third - 1, 3 * third - 1], "after the second epoch, and after the last"


def start(words: list, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / words[0]), *(str(word) for word in words[1:])]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until a checkpoint of that step or a later one is there."""
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        if any(int(path.stem.removeprefix("model_")) >= step for path in (folder / "models").glob("model_*.pth")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step}: {process.communicate()[0] if process.poll() is not None else 'too slow'}")


def test_killed_or_stopped_the_same_command_continues_bit_for_bit(run: Runner, videos: Path, tmp_path: Path) -> None:
    settings = ("save_interval=0.1", "dropout=0.1", "num_workers=0")
    whole = train_words("savi_obj3d_params", videos / "OBJ3D", "whole", settings=settings, epochs=2)
    done = run(*whole, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parts = train_words("savi_obj3d_params", videos / "OBJ3D", "parts", settings=settings, epochs=2)
    folder = tmp_path / "checkpoint" / "parts"
    process = start(parts, tmp_path)
    wait_for_step(process, folder, 2)
    process.kill()
    process.communicate()
    process = start(parts, tmp_path)
    wait_for_step(process, folder, int(newest(folder).stem.removeprefix("model_")) + 3)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    done = run(*parts, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "continuing checkpoint/parts/models/model_" in done.stdout
    assert losses(folder) == losses(tmp_path / "checkpoint" / "whole")
    assert_same_weights(folder, tmp_path / "checkpoint" / "whole")
    again = run(*parts, cwd=tmp_path)
    assert again.returncode == 0
    assert "has all 2 epochs" in again.stdout


@pytest.mark.parametrize(
    "config", ["stosavi_clevrer_params", pytest.param("dvae_physion_params", marks=pytest.mark.slow)]
)
def test_two_processes_equal_one(run: Runner, videos: Path, tmp_path: Path, config: str) -> None:
    data = folder_of(config, videos)
    one = run(*train_words(config, data, "one", settings=("train_batch_size=4",)), cwd=tmp_path)
    two = run(*train_words(config, data, "two", "--ddp", settings=("train_batch_size=2", "gpus=2")), cwd=tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert two.stdout.count("2 x cpu") == 1, "the main process alone speaks"
    alone, together = (tmp_path / "checkpoint" / name for name in ("one", "two"))
    assert losses(together)[:4] == pytest.approx(losses(alone)[:4], rel=2e-4)
    assert losses(together) == pytest.approx(losses(alone), rel=5e-3), "Adam's first steps enlarge rounding"
    scores, others = ([row for row in rows(folder) if "val/loss" in row][-1] for folder in (alone, together))
    for name in scores:
        if not name.startswith("val/mask") and "ari" not in name:  # which small differences may move far
            assert scores[name] == pytest.approx(others[name], rel=5e-3), name


def test_launchers_start_processes_too(run: Runner, videos: Path, tmp_path: Path) -> None:
    for name, launcher in (("torch", TORCHRUN), ("accelerate", ACCELERATE)):
        words = train_words("savi_obj3d_params", videos / "OBJ3D", name, "--ddp", "--local-rank=0")
        done = run(*launcher, ROOT / words[0], *words[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("2 x cpu") == 1


def test_original_checkpoints_continue_and_begin_runs(run: Runner, videos: Path, tmp_path: Path, trained) -> None:
    model, _ = load_model(trained["savi_obj3d_params"])
    state = original.export_state(model)
    torch.save({"state_dict": state, "it": 7, "epoch": 0}, tmp_path / "weights_only.pth")
    torch.save(state, tmp_path / "bare.pth")
    data = videos / "OBJ3D"
    done = run(*train_words("savi_obj3d_params", data, "began", "--init", "bare.pth"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "checkpoint" / "began")[0] < losses(trained["savi_obj3d_params"])[0]
    done = run(*train_words("savi_obj3d_params", data, "other", "--weight", "weights_only.pth"), cwd=tmp_path)
    assert done.returncode == 1
    assert "holds weights without opt_state_dict" in done.stderr
    done = run(*train_words("savi_obj3d_params", data, "began", "--weight", "bare.pth"), cwd=tmp_path)
    assert done.returncode == 0
    assert "--weight bare.pth is not used: the run goes on from" in done.stdout


def test_seeds_are_compared(run: Runner, videos: Path, tmp_path: Path) -> None:
    words = train_words("savi_obj3d_params", videos / "OBJ3D", "many", "--seeds", 2)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "checkpoint" / "many-seeds.json").read_text())
    scores = {seed: row["loss"] for seed, row in found["runs"].items()}
    assert scores.keys() == {"0", "1"}
    assert scores["0"] != scores["1"]
    assert found["summary"]["loss"]["mean"] == pytest.approx(sum(scores.values()) / 2)
    assert f"best by loss: seed {found['best']}" in done.stdout
    assert scores[str(found["best"])] == min(scores.values())
    for seed in (0, 1):
        assert load(newest(tmp_path / "checkpoint" / f"many-seed{seed}"))["seed"] == seed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lr=2e-3",), "of a run with another configuration:\n  lr: 0.001 -> 0.002\nUndo the change"),
        (("train_batch_size=4",), "global batch: 2 -> 4"),
        (("slot_dict.num_slots=4",), "slot_dict.num_slots: 3 -> 4"),
    ],
)
def test_another_configuration_does_not_continue_a_run(run: Runner, videos: Path, trained, change, message) -> None:
    folder = trained["savi_obj3d_params"]
    words = train_words("savi_obj3d_params", videos / "OBJ3D", folder.name, settings=change)
    done = run(*words, cwd=folder.parents[1])
    assert done.returncode == 1
    assert message in done.stderr
    assert "--init" in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--parms", "x"), 2, "did you mean '--params'?"),
        (("--task", "base_slot"), 2, "base_slots"),
        (("--params", "savi_params"), 1, "--params savi_params: no such file"),
        (("--seeds", "2", "--seed", "1"), 2, "--seeds starts runs of its own seeds"),
        (("--weight", "missing.pth"), 1, "missing.pth: no such checkpoint"),
        (("--set", "max_epoch=1"), 1, "no key 'max_epoch'; did you mean 'max_epochs'?"),
        (("--set", "slot_dict.num_slot=1"), 1, "slot_dict: StoSAVi has no 'num_slot'; did you mean 'num_slots'?"),
        (("--set", "dataset=ob3d"), 1, "dataset 'ob3d' is not one of"),
        (("--set", "optimizer=Adem"), 1, "optimizer 'Adem' is not one of"),
        (("--set", "data_root=nowhere"), 1, "nowhere/train: no folders of videos in it"),
    ],
)
def test_misuse_is_answered(run: Runner, videos: Path, tmp_path: Path, flags, code, message) -> None:
    words = train_words("savi_obj3d_params", videos / "OBJ3D", "misused")
    done = run(*words, *flags, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("checkpoint/*"))
