"""The documents' commands for SlotDiffusion on Physion: slots that move, videos of them, and what touches."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.data.loader import to_device
from core.data.slots import SlotFile
from core.metrics.reconstruction import reconstruction_scores
from core.runs import load_model
from core.training.checkpoint import load, save
from slotdiffusion.vp_vqa import build_model, test_physion_vqa, test_vp
from slotdiffusion.vp_vqa.data import open_test_videos
from slotdiffusion.vp_vqa.prediction import predict
from slotformer.video_prediction.rollouts import interleaved_rollout
from tests.conftest import ROOT, MadeOnce, Runner
from tests.slotdiffusion_dynamics_runs import (
    DYNAMICS,
    FRAMES,
    READOUT,
    RUN,
    SMALL,
    script_words,
    small_params,
    train_words,
    write_decoder,
    write_slots,
)
from tests.slotdiffusion_runs import small_settings
from tests.slotformer_runs import assert_same_weights, losses, newest, rows
from tests.tiny_diffusion import trained as without_zeros

SUBSETS = {"readout": ("train", "val"), "test": ("test",)}
OBSERVED = ("--num_observed", 9)
NO_BARS = {"TQDM_DISABLE": "1"}


def succeed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def slots(videos: Path, made_once: MadeOnce) -> Path:
    """The folder of made-up slots."""
    return made_once("ldm-slots", lambda folder: write_slots(videos / "Physion", folder / "slots")) / "slots"


@pytest.fixture(scope="module")
def given(videos: Path, slots: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The settings that name data, slots and the frozen decoder."""
    decoder = write_decoder(tmp_path_factory.mktemp("decoder"))
    return f"data_root={videos / 'Physion'}", f"slots_root={slots}/physion_training_slots.pkl", decoder


@pytest.fixture(scope="module")
def trained(run: Runner, given: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs."""
    cwd = tmp_path_factory.mktemp("dynamics")
    succeed(run(*train_words(DYNAMICS, "whole", settings=given, epochs=2), cwd=cwd))
    return cwd / "checkpoint" / "whole"


def copied(weight: Path, folder: Path) -> Path:
    """A weight in a folder of its own, beside which results lie."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(weight, folder / "model.pth"))


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{number}.png")) for number in range(len(list(folder.iterdir())))])


# How slots move


def test_the_decoder_stays_and_slots_are_learnt(trained: Path, given: tuple[str, ...]) -> None:
    state = load(newest(trained))
    decoder = load(Path(given[2].partition("=")[2]))["model"]
    assert all(value.equal(state["model"][name]) for name, value in decoder.items())
    curve = losses(trained)
    assert sum(curve[-3:]) < sum(curve[:3])
    validated = [row for row in rows(trained) if "val/loss" in row]
    assert len(validated) == 2
    assert validated[1]["val/slot_recon_loss"] == validated[1]["val/loss"] < validated[0]["val/loss"]
    events = EventAccumulator(str(trained), size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["images"]) >= {"val/video", "val/rollout_video", "val/compare_video"}
    model, record = load_model(trained)
    assert (record.paper, type(model).__name__) == ("slotdiffusion", "LDMSlotFormer")


@pytest.mark.slow
@pytest.mark.parametrize("losses_used", [(), ("denoise_loss",), ("img_recon_loss",)])
def test_killed_and_continued_the_run_is_the_same(
    run: Runner, given: tuple[str, ...], tmp_path: Path, losses_used: tuple[str, ...]
) -> None:
    used = tuple(f"loss_dict.use_{name}=True" for name in losses_used)
    settings = (*given, *used, "save_interval=0.5", "n_sample_frames=4", "rollout_dict.num_layers=1", "dropout=0.1")

    def train(name: str) -> None:
        succeed(run(*train_words(DYNAMICS, name, settings=settings, epochs=2), cwd=tmp_path))

    train("whole")
    shutil.copytree(tmp_path / "checkpoint" / "whole", tmp_path / "checkpoint" / "parts")
    parts = tmp_path / "checkpoint" / "parts"
    found = sorted((parts / "models").glob("model_*.pth"), key=lambda path: int(path.stem.partition("_")[2]))
    for path in (*found[1:], *(parts / "models").glob("epoch/*"), *(parts / "models").glob("best.pth")):
        path.unlink()  # as if the process had ended here
    train("parts")
    assert losses(parts) == losses(tmp_path / "checkpoint" / "whole")
    assert_same_weights(parts, tmp_path / "checkpoint" / "whole")


# Videos of them


@pytest.fixture
def sensitive(given: tuple[str, ...], tmp_path: Path) -> Path:
    """Weights whose pictures depend on the slots, without training."""
    torch.manual_seed(0)
    model = without_zeros(build_model(small_params(DYNAMICS)))
    save(tmp_path / "model.pth", {"model": model.state_dict()})
    return tmp_path / "model.pth"


def test_predictions_are_scored_written_and_continued(
    run: Runner, given: tuple[str, ...], sensitive: Path, tmp_path: Path
) -> None:
    words = script_words("test_vp", DYNAMICS, sensitive, settings=given)
    printed = succeed(run(*words, cwd=tmp_path, **NO_BARS))
    params = small_params(DYNAMICS, *given)
    model, source = build_model(params).eval(), open_test_videos(params)
    model.load_state_dict(load(sensitive)["model"])
    batch = to_device(source.read(np.arange(len(source))), torch.device("cpu"))
    with torch.inference_mode():
        expected = predict(model, batch, range(len(source)), 0)
    scores = reconstruction_scores(expected.pictures, expected.truth)
    copies = reconstruction_scores(expected.last.expand_as(expected.truth), expected.truth)
    results = tmp_path / f"model-vp-{DYNAMICS}.json"
    report = json.loads(results.read_text())
    assert (report["num_videos"], report["rollout_len"], report["input_frames"]) == (8, 1, 3)
    for method, of in (("LDMSlotFormer", scores), ("copy", copies)):
        for name, values in of.items():
            assert report["scores"][method][name] == pytest.approx(float(values.mean()), rel=1e-3)
            assert report["per_step"][method][name] == pytest.approx(values.mean(dim=0).tolist(), rel=1e-3)
    assert f"test/mse: {report['scores']['LDMSlotFormer']['mse']:.4f}\n" in printed
    assert [line.split() for line in printed.splitlines() if line.endswith("copy")] == [["LDMSlotFormer", "copy"]]
    folder = tmp_path / "eval"
    shown = torch.from_numpy(frames_of(folder / "pred_vids" / "5")).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(shown, expected.pictures[5].clamp(-1, 1), rtol=0, atol=2e-2)
    real = batch["video"][5, 3:].permute(0, 2, 3, 1)
    np.testing.assert_array_equal(frames_of(folder / "gt_vids" / "5"), (255 * real).round().byte().numpy())
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("[0-47]/*.png")}
    shutil.rmtree(folder / "pred_vids" / "5")
    (folder / "pred_metrics" / "6.json").unlink()
    again = succeed(run(*words[:5], "--bs", 1, *words[5:], cwd=tmp_path, **NO_BARS))
    assert "8 frames in" in again, "of two videos"
    assert json.loads(results.read_text())["scores"]["LDMSlotFormer"] == pytest.approx(
        report["scores"]["LDMSlotFormer"], rel=1e-3
    )
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (folder / "pred_vids" / "5" / "0.png").exists()


def test_another_solver_finds_other_pictures(
    given: tuple[str, ...], sensitive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def predict_by(solver: str, steps: int, *flags: object) -> tuple[int, str]:
        words = ("--solver", solver, "--solver_steps", steps, *flags)
        code = test_vp.main(
            [str(word) for word in script_words("test_vp", DYNAMICS, sensitive, *words, settings=given)[1:]]
        )
        return code, capsys.readouterr().err

    code, said = predict_by("ddim", 1000)
    assert (code, (tmp_path / "eval").exists()) == (1, False), "nothing is claimed"
    assert "steps=1000: DDIM takes 1 to 999 steps" in said
    assert predict_by("dpm_multistep", 2)[0] == 0
    params = small_params(DYNAMICS, *given)
    model, source = build_model(params).eval(), open_test_videos(params)
    model.load_state_dict(load(sensitive)["model"])
    with torch.inference_mode():
        batch = to_device(source.read(np.array([5])), torch.device("cpu"))
        few, usual = (
            predict(model, batch, [5], 0, **solver) for solver in ({"sampler": "dpm_multistep", "steps": 2}, {})
        )
    shown = torch.from_numpy(frames_of(tmp_path / "eval" / "pred_vids" / "5")).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(shown, few.pictures[0].clamp(-1, 1), rtol=0, atol=2e-2)
    assert not torch.allclose(few.pictures, usual.pictures, atol=0.1)
    report = json.loads((tmp_path / f"model-vp-{DYNAMICS}.json").read_text())
    assert (report["sampler"], report["steps"]) == ("dpm_multistep", 2)
    assert "steps: 2 -> 3" in predict_by("dpm_multistep", 3)[1]
    assert predict_by("dpm", 1, "--save_video")[0] == 0
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "vis").iterdir()}
    assert {path.name for path in made} == {f"{video}_{kind}.mp4" for video in range(8) for kind in ("pred", "gt")}
    (tmp_path / "vis" / "3_pred.mp4").unlink()
    assert predict_by("dpm", 1, "--save_video")[0] == 0
    again = {path for path, time in made.items() if path.stat().st_mtime_ns != time}
    assert {path.name for path in again} == {"3_pred.mp4", "3_gt.mp4"}
    assert (
        "vis: holds results of other weights or settings:\n  steps: 1 -> 2" in predict_by("dpm", 2, "--save_video")[1]
    )


@pytest.mark.slow
def test_two_processes_share_the_videos(run: Runner, given: tuple[str, ...], sensitive: Path, tmp_path: Path) -> None:
    weights = [copied(sensitive, tmp_path / name) for name in ("one", "two")]
    words = [script_words("test_vp", DYNAMICS, weight, "--bs", 1, settings=given) for weight in weights]
    succeed(run(*words[0], cwd=tmp_path))
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
    succeed(run(sys.executable, "-m", *launcher, ROOT / words[1][0], *words[1][1:], cwd=tmp_path))
    ours, theirs = (json.loads((weight.parent / f"model-vp-{DYNAMICS}.json").read_text()) for weight in weights)
    assert ours == theirs
    for video in range(8):
        np.testing.assert_array_equal(
            *(frames_of(weight.parent / "eval" / "pred_vids" / str(video)) for weight in weights)
        )


@pytest.mark.slow
def test_videos_to_look_at_and_other_settings(
    run: Runner, given: tuple[str, ...], sensitive: Path, tmp_path: Path
) -> None:
    def words(*flags: object) -> list:
        return script_words("test_vp", DYNAMICS, sensitive, *flags, settings=given)

    assert "8 videos in" in succeed(run(*words("--save_video", "--out", tmp_path / "shown"), cwd=tmp_path))
    names = {path.name for path in (tmp_path / "shown" / "vis").iterdir()}
    assert names == {f"{video}_{kind}.mp4" for video in range(8) for kind in ("pred", "gt")}
    succeed(run(*words(), cwd=tmp_path))
    other = run(*words("--seed", 1), cwd=tmp_path)
    assert other.returncode == 1
    assert "pred_vids: holds results of other weights or settings:\n  seed: 0 -> 1" in other.stderr


# What touches


def test_roll_outs_are_what_read_outs_see(
    run: Runner, videos: Path, given: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    weight = copied(newest(trained), tmp_path / "models")
    for subset, splits in SUBSETS.items():
        words = script_words("rollout_physion_slots", DYNAMICS, weight, "--subset", subset, *OBSERVED, settings=given)
        succeed(run(*words, cwd=tmp_path))
        made = tmp_path / "data" / "Physion" / "slots" / f"rollout-physion_{subset}_slots.h5"
        assert (weight.parent / f"{subset}_slots.h5").resolve() == made
        file, root = SlotFile(made), Path(given[1].partition("=")[2])
        seen = SlotFile(root.with_name(f"physion_{subset}_slots.h5"))
        model = load_model(trained)[0].eval()
        assert file.splits == sorted(splits)
        for split in splits:
            name = file.names(split)[2]
            assert file.names(split) == seen.names(split)
            observed = torch.from_numpy(seen.read(split, name, slice(9)))[None]
            model.load_state_dict(load(weight)["model"])
            with torch.inference_mode():
                expected = interleaved_rollout(model.rollout, observed, 3, 3, FRAMES)[0]
            torch.testing.assert_close(torch.from_numpy(file.read(split, name)), expected, rtol=1e-4, atol=1e-5)
    data = (given[0], f"slots_root={tmp_path / 'readout_slots.pkl'}")
    succeed(run(*train_words(READOUT, "readout", settings=data, epochs=2), cwd=tmp_path))
    weights = tmp_path / "checkpoint" / "readout" / "models" / "epoch"
    printed = succeed(run(*script_words("test_physion_vqa", READOUT, weights, settings=data), cwd=tmp_path))
    report = json.loads((weights / f"vqa-{READOUT}.json").read_text())
    links = {subset: str(tmp_path / "models" / f"{subset}_slots.h5") for subset in SUBSETS}
    assert report["slots"] == links, "found beside the weight, below the folder that is named"
    assert (report["chosen_on"], report["remarks"]) == ("readout val", [])
    assert f"All accuracy: {report['accuracy']:.3f}" in printed
    assert len(report["scenarios"]) == 8


@pytest.mark.slow
def test_as_the_original_and_other_test_slots(run: Runner, videos: Path, slots: Path, tmp_path: Path) -> None:
    data = (f"data_root={videos / 'Physion'}", f"slots_root={slots}/physion_readout_slots.pkl")
    succeed(run(*train_words(READOUT, "whole", settings=data, epochs=6), cwd=tmp_path))
    weights = tmp_path / "checkpoint" / "whole" / "models" / "epoch"
    elsewhere = Path(shutil.copyfile(slots / "physion_test_slots.h5", tmp_path / "mine.h5"))
    flags = ("--test_slots", elsewhere, "--threshs", 0.3, 0.5, "--as-original")
    printed = succeed(run(*script_words("test_physion_vqa", READOUT, weights, *flags, settings=data), cwd=tmp_path))
    report = json.loads((weights / f"vqa-{READOUT}-as_original.json").read_text())
    assert report["slots"] == {"test": str(elsewhere)}
    assert (report["chosen_on"], report["as_original"]) == ("test test", True)
    assert report["accuracy"] == report["best_on_test"] > report["majority"], "one slot of one frame tells"
    assert printed.startswith("Testing with threshold 0.3\nTesting with threshold 0.5\n")


# From videos to answers


@pytest.mark.slow
def test_the_whole_chain(run: Runner, videos: Path, tmp_path: Path) -> None:
    data, models = tmp_path / "data" / "Physion", tmp_path / "checkpoint"
    data.mkdir(parents=True)
    for entry in (videos / "Physion").iterdir():
        (data / entry.name).symlink_to(entry)
    small = {
        **{f"{kind}_physion_params-res128": small_settings(kind, data, "physion") for kind in ("vqvae", "savi_ldm")},
        **{config: [*RUN, *SMALL[config]] for config in (DYNAMICS, READOUT)},
    }
    last = ("max_epochs=1", f"video_len={FRAMES}", "san_check_val_step=0")
    settings = [f"{config}:{word}" for config, words in small.items() for word in (*words, *last)]
    words = ("slotdiffusion/scripts/run_chain.py", "physion", "--data_root", tmp_path / "data", "--set", *settings)
    flags = ("--script_flags", "rollout_physion_slots:num_observed=9")
    printed = succeed(run(*words, *flags, cwd=tmp_path, timeout=1200))
    assert printed.count("test/") == 3
    assert printed.splitlines()[-1].startswith("11. say whether they touch: ")
    predicted = json.loads((models / DYNAMICS / "models" / f"best-vp-{DYNAMICS}.json").read_text())
    assert predicted["slots_file"] == str(data / "slots" / "physion_test_slots.h5")
    assert not any("another weight" in remark for remark in predicted["remarks"])
    for subset in ("training", "readout", "test"):
        link = models / "savi_ldm_physion_params-res128" / "models" / f"{subset}_slots.h5"
        assert link.resolve() == data / "slots" / f"physion_{subset}_slots.h5"
    report = json.loads((models / READOUT / "models" / f"best-vqa-{READOUT}.json").read_text())
    assert report["num_videos"] == 8
    assert report["slots"] == {name: str(data / "slots" / f"rollout-physion_{name}_slots.h5") for name in SUBSETS}
    before = {path: path.stat().st_mtime_ns for path in models.rglob("model_*.pth")}
    again = succeed(run(*words, *flags, "--first", 3, cwd=tmp_path, timeout=600))
    assert again.count("was there already") == 5
    assert before == {path: path.stat().st_mtime_ns for path in models.rglob("model_*.pth")}


# Misuse


@pytest.mark.parametrize(
    ("script", "flags", "code", "message"),
    [
        (test_vp, ("--bs", "0"), 2, "argument --bs"),
        (test_vp, ("--save_vids",), 2, "no flag '--save_vids'; did you mean '--save_video'?"),
        (test_vp, ("--set", "video_len=9"), 1, "video_len=9 leaves no frame to predict after input_frames"),
        (test_vp, ("--set", "rollout_dict.d_model=32"), 1, "rollouter.enc_t_pe: [1, 3, 16] in the file, [1, 3, 32] in"),
        (test_physion_vqa, (), 1, "a configuration of LDMSlotFormer, expected one of PhysionReadout"),
    ],
)
def test_misuse_is_answered(
    given: tuple[str, ...], sensitive: Path, monkeypatch, capsys, tmp_path, script, flags, code, message
) -> None:
    words = [*script_words("test_vp", DYNAMICS, sensitive, settings=given), *flags]
    monkeypatch.chdir(tmp_path)
    try:
        found = script.main([str(word) for word in words[1:]])
    except SystemExit as error:
        found = error.code
    assert found == code
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth"}
