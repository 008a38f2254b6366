"""The documents' commands for SlotDiffusion on videos, in their order, on small generated MOVi."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.loader import to_device
from core.data.slots import SlotFile
from core.metrics.reconstruction import reconstruction_scores
from core.nn.noise import standard_normal
from core.runs import load_model
from core.training.checkpoint import load, save
from slotdiffusion import video_based
from slotdiffusion.framework.generation import picture_of, pixels_of, to_pixels
from slotdiffusion.framework.mixing import mixed
from slotdiffusion.video_based import test_comp_gen, test_recon, test_seg
from slotdiffusion.video_based.data import open_data
from tests.conftest import ROOT, Runner
from tests.own_data import write_frame_folders
from tests.slotdiffusion_runs import TrainedOnce, config_of, copied, evaluation_words, small_params, train_words
from tests.slotformer_runs import assert_same_weights, losses, newest, rows

NAME = "savi_ldm_movid_params-res128"
NO_BARS = {"TQDM_DISABLE": "1"}


@pytest.fixture(scope="module")
def trained(run: Runner, movi: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of trainings of one epoch, by kind of model, made when they are first asked for."""
    return TrainedOnce(run, train_words, movi, tmp_path_factory.mktemp("trained"))


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{number}.png")) for number in range(len(list(folder.iterdir())))])


def test_slotdiffusion_is_trained_on_its_vqvae(trained: dict[str, Path]) -> None:
    folder = trained["savi_ldm"]
    state = load(newest(folder))
    for name, value in load(newest(trained["vqvae"]))["model"].items():
        assert value.equal(state["model"][f"dm_decoder.vae.vqvae.{name}"]), "the frozen part stays as it was"
    logged = [row for row in rows(folder) if "train/loss" in row]
    assert {"train/denoise_loss", "train/dec_lr", "train/lr"} <= logged[-1].keys()
    assert (logged[0]["train/lr"], logged[0]["train/dec_lr"]) == (0, 0), "the first step of the warm-up"
    scores = {name for row in rows(folder) for name in row if name.startswith("val/")}
    names = ("loss", "denoise_loss", "ari", "fari", "miou", "fmiou", "mbo", "dpm_sample_video_recon_loss")
    assert {f"val/{name}" for name in names} <= scores
    assert state["validation"]["best_by"] == "fari"
    model, record = load_model(folder)
    assert record.paper == "slotdiffusion"
    assert all(value.equal(state["model"][name]) for name, value in model.state_dict().items())


def test_segmentations_are_scored(run: Runner, movi: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    weight = copied(newest(trained["savi_ldm"]), tmp_path)
    words = evaluation_words("test_seg", "savi_ldm", weight, movi, "--seq_len", 2, -1)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [lines[0], lines[4]] == [f"{NAME}, L=2", f"{NAME}, L=6"]
    found = json.loads((tmp_path / f"model-seg-{NAME}.json").read_text())
    assert found["num_videos"] == 3
    whole = found["scores"]["6"]
    expected = [
        f"fARI: {100 * whole['fari']:.2f}",
        f"miou: {100 * whole['miou']:.2f}",
        f"mbo: {100 * whole['mbo']:.2f}",
    ]
    assert lines[5:8] == expected
    again = run(*evaluation_words("test_seg", "savi_ldm", weight, movi, "--bs", 1, "--as_original"), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    original = json.loads((tmp_path / f"model-seg-{NAME}.json").read_text())["scores"]["6"]
    assert original["ari"] == pytest.approx(whole["ari"], rel=1e-4, abs=1e-6), "in any batch"


def test_reconstructions_are_scored_written_and_continued(
    run: Runner, movi: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    weight = copied(newest(trained["savi_ldm"]), tmp_path)
    words = evaluation_words("test_recon", "savi_ldm", weight, movi)
    done = run(*words, cwd=tmp_path, **NO_BARS)
    assert done.returncode == 0, done.stderr
    folder, results = tmp_path / "eval", tmp_path / f"model-recon-{NAME}.json"
    assert sorted(path.name for path in (folder / "recon_vids").iterdir()) == ["0", "1", "2"]
    found = json.loads(results.read_text())
    assert [remark.partition(".")[0] for remark in found["remarks"]] == [
        "percept_dist is left out",
        "FVD is left out: it needs two videos of 9 frames",
    ]
    scores = []
    for video in range(3):
        pair = [torch.from_numpy(frames_of(folder / side / str(video))) for side in ("recon_vids", "gt_vids")]
        recon, truth = (frames.permute(0, 3, 1, 2) / 127.5 - 1 for frames in pair)
        scores.append({name: values.mean() for name, values in reconstruction_scores(recon, truth).items()})
    for name in ("mse", "psnr", "ssim"):
        mean = float(sum(row[name] for row in scores) / 3)
        assert found["scores"][name] == pytest.approx(mean, rel=2e-2, abs=2e-3), "but for rounding to bytes"
        assert f"test/{name}: {found['scores'][name]:.4f}" in done.stdout
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("[02]/*.png")}
    for path in (folder / "recon_vids" / "1").iterdir():
        path.unlink()
    (folder / "recon_vids" / "1").rmdir()
    before = found["scores"]
    again = run(*words, "train_batch_size=1", cwd=tmp_path, **NO_BARS)
    assert again.returncode == 0, again.stderr
    assert json.loads(results.read_text())["scores"] == pytest.approx(before, rel=1e-6), "in another batch"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((folder / "recon_vids" / "1").iterdir())) == 6
    other = run(*evaluation_words("test_recon", "savi_ldm", weight, movi, "--seed", 1), cwd=tmp_path)
    assert other.returncode == 1
    assert "recon_vids: holds results of other weights or settings:\n  seed: 0 -> 1" in other.stderr
    shown = run(*evaluation_words("test_recon", "savi_ldm", weight, movi, "--save_video"), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert sorted(path.name for path in (tmp_path / "vis").iterdir())[:2] == ["0_gt.mp4", "0_recon.mp4"]


@pytest.fixture
def sensitive(movi: Path, tmp_path: Path) -> Path:
    """Weights of a SAVi whose pictures depend on its slots, and its slots on the video, without training."""
    torch.manual_seed(0)
    model = video_based.build_model(small_params("savi", movi))
    with torch.no_grad():
        model.init_latents *= 0.1
        for value in (*model.decoder.parameters(), *model.encoder_out_layer.parameters()):
            value *= 2
    save(tmp_path / "model.pth", {"model": model.state_dict()})
    return tmp_path / "model.pth"


def test_slots_of_different_videos_are_mixed(run: Runner, movi: Path, sensitive: Path, tmp_path: Path) -> None:
    for out, flags in (("one", ("--bs", 1)), ("many", ("--bs", 3)), ("theirs", ("--as_original", "--bs", 1))):
        (tmp_path / out).mkdir()
        words = evaluation_words("test_comp_gen", "savi", sensitive, movi, *flags, "--out", tmp_path / out)
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    params = small_params("savi", movi)
    model = video_based.build_model(params).eval()
    model.load_state_dict(load(sensitive)["model"])
    batch = to_device(open_data(params, "test", None).read(np.arange(3)), torch.device("cpu"))
    with torch.no_grad():
        slots = model.extract(batch).numpy()
        for out, is_mixed in (("one", True), ("many", True), ("theirs", False)):
            name = "model-comp_gen-savi_movid_params-res128.json"
            donors = np.array(json.loads((tmp_path / out / name).read_text())["donors"])
            assert all(len(set(row)) == (3 if is_mixed else 1) for row in donors.tolist())
            chosen = torch.from_numpy(mixed(slots, donors))
            pictures = to_pixels(picture_of(model, chosen, standard_normal(torch.device("cpu")))).numpy()
            own = to_pixels(model.decode(torch.from_numpy(slots)).recon).numpy()
            assert (np.abs(pictures.astype(int) - own).max() > 2) == is_mixed
            for video in range(3):
                found = frames_of(tmp_path / out / "eval" / "comp_vids" / str(video))
                np.testing.assert_allclose(found.astype(int), pictures[video], atol=1)
                truth = frames_of(tmp_path / out / "eval" / "gt_vids" / str(video))
                np.testing.assert_array_equal(truth, pixels_of(batch)[video])
    refused = run(*evaluation_words("test_comp_gen", "savi", sensitive, movi, "--as_original"), cwd=tmp_path)
    assert refused.returncode == 2
    assert "--as_original needs --bs" in refused.stderr


def test_videos_to_look_at_are_continued(
    movi: Path, sensitive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def show(script: ModuleType, *flags: object) -> int:
        words = evaluation_words(script.__name__.rpartition(".")[2], "savi", sensitive, movi, "--save_video", *flags)
        return script.main([str(word) for word in words[1:]])

    assert show(test_recon) == show(test_comp_gen) == 0, "in one folder"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "vis").iterdir()}
    assert {path.name for path in made} == {f"{n}_{kind}.mp4" for n in range(3) for kind in ("recon", "gt", "comp")}
    (tmp_path / "vis" / "1_comp.mp4").unlink()
    assert show(test_recon) == show(test_comp_gen) == 0
    assert [path.name for path, time in made.items() if path.stat().st_mtime_ns != time] == ["1_comp.mp4"]
    capsys.readouterr()
    assert show(test_comp_gen, "--seed", 1) == 1
    assert "vis: holds results of other weights or settings:\n  seed: 0 -> 1" in capsys.readouterr().err


def test_segmentations_of_a_folder_are_scored(sensitive: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    clips = tmp_path / "clips"
    write_frame_folders(clips / "test", 3, 6, (40, 48), clips / "masks" / "test")
    words = evaluation_words("test_seg", "savi", sensitive, clips, "--seq_len", 2, -1)
    assert test_seg.main([str(word) for word in (*words[1:], "dataset=folder")]) == 0
    assert "savi_movid_params-res128, L=6" in capsys.readouterr().out
    found = json.loads((tmp_path / "model-seg-savi_movid_params-res128.json").read_text())
    assert (found["dataset"], found["data_root"], found["num_videos"]) == ("folder", str(clips), 3)


def test_slots_are_extracted(run: Runner, movi: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    weight = copied(newest(trained["savi_ldm"]), tmp_path)
    words = evaluation_words("extract_slots", "savi_ldm", weight, movi, "--save_path", tmp_path / "movi_slots.h5")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    slots = SlotFile(tmp_path / "slots.h5")
    assert {split: len(slots.names(split)) for split in slots.splits} == {"train": 24, "val": 3}
    assert slots.shape("val", "00000001") == (6, 3, 16)
    flags = ("--subset", "readout", "--save_path", tmp_path / "x.h5")
    refused = run(*evaluation_words("extract_slots", "savi_ldm", weight, movi, *flags), cwd=tmp_path)
    assert refused.returncode == 1
    assert "--subset readout: movi has none" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["savi", "steve", "dvae"])
def test_baselines(run: Runner, movi: Path, trained: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = trained[kind]
    curve = losses(folder)
    half = len(curve) // 2
    assert sum(curve[half:]) / (len(curve) - half) < sum(curve[:half]) / half
    if kind == "dvae":
        assert any("train/gumbel_tau" in row for row in rows(folder))
        return
    weight = copied(newest(folder), tmp_path)
    for script in ("test_seg", "test_recon", "test_comp_gen"):
        done = run(*evaluation_words(script, kind, weight, movi), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "eval" / "comp_vids").iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("level", ["e", "solid", "tex"])
def test_the_other_sets(run: Runner, generated: Callable[..., Path], tmp_path: Path, level: str) -> None:
    data = generated(f"movi-{level}", f"movi-{level} --scenes 30 --frames 6 --width 32 --height 32 --samples 1")
    folders = TrainedOnce(run, partial(train_words, level=level), data, tmp_path)
    assert any("val/fari" in row for row in rows(folders["savi_ldm"]))
    weight = copied(newest(folders["savi_ldm"]), tmp_path / "results")
    for script in ("test_seg", "test_recon", "test_comp_gen"):
        done = run(*evaluation_words(script, "savi_ldm", weight, data, level=level), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(list((weight.parent / "eval" / "comp_vids").iterdir())) == 3


@pytest.mark.slow
def test_a_training_continues_bit_for_bit(run: Runner, movi: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    settings = (
        f"dec_dict.vae_dict.vqvae_ckp_path={newest(trained['vqvae'])}",
        *("dec_dict.use_ema=True", "dropout=0.1", "eval_interval=2", "san_check_val_step=0"),
    )
    whole = train_words("savi_ldm", movi, "whole", settings=settings, epochs=2)
    assert run(*whole, cwd=tmp_path).returncode == 0
    folders = [tmp_path / "checkpoint" / name / "models" for name in ("whole", "parts")]
    middle = sorted(folders[0].glob("model_*.pth"), key=lambda path: int(path.stem.removeprefix("model_")))[-3]
    words = train_words("savi_ldm", movi, "parts", "--weight", middle, settings=settings, epochs=2)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"continuing {middle}" in done.stdout
    parts, curve = (losses(folder.parent) for folder in reversed(folders))
    assert len(parts) < len(curve)
    assert parts == curve[-len(parts) :]
    assert_same_weights(*(folder.parent for folder in folders))
    averages = [name for name in load(newest(folders[0].parent))["model"] if "model_ema" in name]
    assert averages


@pytest.mark.slow
def test_two_processes_equal_one(run: Runner, movi: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    base = f"dec_dict.vae_dict.vqvae_ckp_path={newest(trained['vqvae'])}"
    one = run(*train_words("savi_ldm", movi, "one", settings=(base, "lr=1e-4", "dec_lr=1e-4")), cwd=tmp_path)
    settings = (base, "lr=1e-4", "dec_lr=1e-4", "train_batch_size=2", "gpus=2")
    two = run(*train_words("savi_ldm", movi, "two", "--ddp", settings=settings), cwd=tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    alone, together = (tmp_path / "checkpoint" / name for name in ("one", "two"))
    assert losses(together) == pytest.approx(losses(alone), rel=5e-3)
    scores, others = ([row for row in rows(folder) if "val/loss" in row][-1] for folder in (alone, together))
    assert scores["val/loss"] == pytest.approx(others["val/loss"], rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["test_seg", "test_recon", "test_comp_gen"])
def test_processes_share_an_evaluation(
    run: Runner, movi: Path, trained: dict[str, Path], tmp_path: Path, script: str
) -> None:
    weight = {name: copied(newest(trained["savi_ldm"]), tmp_path / name) for name in ("one", "two")}
    one = run(*evaluation_words(script, "savi_ldm", weight["one"], movi, "--bs", 1), cwd=tmp_path)
    words = evaluation_words(script, "savi_ldm", weight["two"], movi, "--bs", 1)
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
    two = run(sys.executable, "-m", *launcher, ROOT / words[0], *words[1:], cwd=tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    kind = script.removeprefix("test_")
    found = [json.loads((path.parent / f"model-{kind}-{NAME}.json").read_text()) for path in weight.values()]
    assert found[0] == found[1]
    for video in range(3) if script != "test_seg" else ():
        folder = "recon_vids" if script == "test_recon" else "comp_vids"
        frames = [frames_of(path.parent / "eval" / folder / str(video)) for path in weight.values()]
        np.testing.assert_array_equal(*frames)


def test_misuse_is_answered(run: Runner, movi: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    weight = newest(trained["vqvae"])
    done = run(*evaluation_words("test_seg", "savi_ldm", weight, movi)[:-1], "vqae=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "no key 'vqae'" in done.stderr
    words = ["slotdiffusion/video_based/test_recon.py", "--params", config_of("vqvae"), "--weight", weight]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "a configuration of VQVAE, expected one of SAViDiffusion or SAVi or STEVE" in done.stderr
    done = run(*train_words("savi_ldm", movi, "lost"), cwd=tmp_path)
    assert done.returncode == 1
    assert "pretrained/vqvae_movid_params-res128.pth: no such file. Train the VQ-VAE first" in done.stderr
    assert not (tmp_path / "checkpoint" / "lost").exists()
