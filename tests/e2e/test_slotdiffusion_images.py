"""The documents' commands for SlotDiffusion on pictures, in their order, on small generated ClevrTex."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.data.loader import to_device
from core.metrics.reconstruction import reconstruction_scores
from core.metrics.segmentation import hard_labels, segmentation_scores
from core.runs import load_model
from core.training.checkpoint import load, save
from slotdiffusion import img_based
from slotdiffusion.framework.generation import pixels_of, to_pixels
from slotdiffusion.framework.mixing import mixed
from slotdiffusion.img_based.data import open_split
from tests.conftest import ROOT, Runner
from tests.slotdiffusion_runs import (
    TrainedOnce,
    copied,
    picture_config_of,
    picture_evaluation_words,
    picture_train_words,
    small_picture_params,
)
from tests.slotformer_runs import assert_same_weights, losses, newest, rows

NAME = "sa_ldm_clevrtex_params-res128"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(run: Runner, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of trainings of one epoch, by kind of model, made when they are first asked for."""
    return TrainedOnce(run, picture_train_words, scenes, tmp_path_factory.mktemp("trained"))


def pictures_of(folder: Path) -> np.ndarray:
    """All of a folder in order, which holds nothing else."""
    files = [folder / f"{number}.png" for number in range(len(list(folder.iterdir())))]
    return np.stack([np.asarray(Image.open(file)) for file in files])


def in_range(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def test_slotdiffusion_is_trained_on_its_vqvae(trained: dict[str, Path]) -> None:
    folder = trained["sa_ldm"]
    state = load(newest(folder))
    for name, value in load(newest(trained["vqvae"]))["model"].items():
        assert value.equal(state["model"][f"dm_decoder.vae.vqvae.{name}"]), "the frozen part stays as it was"
    logged = [row for row in rows(folder) if "train/loss" in row]
    assert len(logged) == 4
    assert {"train/denoise_loss", "train/dec_lr", "train/lr"} <= logged[-1].keys()
    assert (logged[0]["train/lr"], logged[0]["train/dec_lr"]) == (0, 0), "the first step of the warm-up"
    scores = {name for row in rows(folder) for name in row if name.startswith("val/")}
    names = ("loss", "denoise_loss", "ari", "fari", "miou", "fmiou", "mbo", "dpm_sample_img_recon_loss")
    assert {f"val/{name}" for name in names} <= scores
    assert state["validation"]["best_by"] == "fari"
    drawn = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload().Tags()["images"]
    assert sorted(drawn) == ["val/denoise_row", "val/diffusion_row", "val/imgs", "val/recon"]
    model, record = load_model(folder)
    assert record.paper == "slotdiffusion"
    assert all(value.equal(state["model"][name]) for name, value in model.state_dict().items())


def test_segmentations_are_scored(run: Runner, scenes: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    weight = copied(newest(trained["sa_ldm"]), tmp_path)
    done = run(*picture_evaluation_words("test_seg", "sa_ldm", weight, scenes), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / f"model-seg-{NAME}.json").read_text())
    params = small_picture_params("sa_ldm", scenes)
    model = img_based.build_model(params).eval()
    model.load_state_dict(load(weight)["model"])
    batch = to_device(open_split(params, "test", True).read(np.arange(2)), CPU)
    with torch.no_grad():
        expected = segmentation_scores(batch["mask"], hard_labels(model.segment(batch)))
    assert found["num_pictures"] == 2
    assert found["scores"] == pytest.approx({name: float(values.nanmean()) for name, values in expected.items()})
    titles = {"fARI": "fari", "miou": "miou", "mbo": "mbo"}
    lines = [f"{title}: {100 * found['scores'][score]:.2f}" for title, score in titles.items()]
    assert done.stdout.splitlines()[:4] == [NAME, *lines]


def test_reconstructions_are_scored_written_and_continued(
    run: Runner, scenes: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    weight = copied(newest(trained["sa_ldm"]), tmp_path)
    words = picture_evaluation_words("test_recon", "sa_ldm", weight, scenes)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder, results = tmp_path / "eval", tmp_path / f"model-recon-{NAME}.json"
    pair = [pictures_of(folder / side) for side in ("recon_imgs", "gt_imgs")]
    batch = to_device(open_split(small_picture_params("sa_ldm", scenes), "test", False).read(np.arange(2)), CPU)
    np.testing.assert_array_equal(pair[1], pixels_of(batch)[:, 0])
    found = json.loads(results.read_text())
    remarks = [remark.partition(".")[0] for remark in found["remarks"]]
    assert remarks == ["percept_dist is left out", "FID is left out"]
    scores = reconstruction_scores(*map(in_range, pair))
    for name in ("mse", "psnr", "ssim"):
        mean = float(scores[name].mean())
        assert found["scores"][name] == pytest.approx(mean, rel=2e-2, abs=2e-3), "but for rounding to bytes"
        assert f"test/{name}: {found['scores'][name]:.4f}" in done.stdout
    (folder / "recon_imgs" / "1.png").unlink()
    kept = (folder / "recon_imgs" / "0.png").stat().st_mtime_ns
    again = run(*words, "val_batch_size=1", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(results.read_text())["scores"] == pytest.approx(found["scores"], rel=1e-6), "in another batch"
    assert (folder / "recon_imgs" / "0.png").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(pictures_of(folder / "recon_imgs"), pair[0])
    other = words.index("--set")
    solver = ("--solver", "dpm_multistep", "--solver_steps", 5)
    refused = run(*words[:other], *solver, *words[other:], cwd=tmp_path)
    assert refused.returncode == 1, "the folder holds samples of another solver"
    assert "recon_imgs: holds results of other" in refused.stderr
    fewer = run(*words[:other], *solver, "--out", tmp_path / "fewer", *words[other:], cwd=tmp_path)
    assert fewer.returncode == 0, fewer.stderr
    described = json.loads((tmp_path / "fewer" / results.name).read_text())
    assert (described["sampler"], described["steps"]) == ("dpm_multistep", 5)


@pytest.fixture
def sensitive(scenes: Path, tmp_path: Path) -> Path:
    """Weights of a Slot Attention whose pictures depend on its slots, and its slots on the picture, untrained."""
    torch.manual_seed(0)
    model = img_based.build_model(small_picture_params("sa", scenes))
    with torch.no_grad():
        model.init_latents *= 0.1
        for value in model.decoder.parameters():
            value *= 3
        for value in (*model.slot_attention.parameters(), *model.encoder_out_layer.parameters()):
            value *= 2
    save(tmp_path / "model.pth", {"model": model.state_dict()})
    return tmp_path / "model.pth"


def test_slots_of_different_pictures_are_mixed(run: Runner, scenes: Path, sensitive: Path, tmp_path: Path) -> None:
    params = small_picture_params("sa", scenes)
    model = img_based.build_model(params).eval()
    model.load_state_dict(load(sensitive)["model"])
    batch = to_device(open_split(params, "test", False).read(np.arange(2)), CPU)
    with torch.no_grad():
        slots = model.extract(batch)[:, None].numpy()
        own = to_pixels(model.decode(torch.from_numpy(slots)).recon).numpy()
    for out, flags in (("ours", ()), ("theirs", ("--as_original", "--bs", 1))):
        words = picture_evaluation_words("test_comp_gen", "sa", sensitive, scenes, *flags, "--out", tmp_path / out)
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        name = "model-comp_gen-sa_clevrtex_params-res128.json"
        donors = np.array(json.loads((tmp_path / out / name).read_text())["donors"])
        with torch.no_grad():
            pixels = to_pixels(model.decode(torch.from_numpy(mixed(slots, donors))).recon).numpy()[:, 0]
        assert all(len(set(row)) == (2 if out == "ours" else 1) for row in donors.tolist())
        found = pictures_of(tmp_path / out / "eval" / "comp_imgs").astype(int)
        np.testing.assert_allclose(found, pixels, atol=1)
        assert (np.abs(found - own[:, 0]).max() > 2) == (out == "ours")
        truth = pictures_of(tmp_path / out / "eval" / "gt_imgs")
        np.testing.assert_array_equal(truth, pixels_of(batch)[:, 0])


def test_misuse_is_answered(run: Runner, scenes: Path, sensitive: Path, tmp_path: Path) -> None:
    words = ["slotdiffusion/img_based/test_recon.py", "--params", picture_config_of("vqvae"), "--weight", sensitive]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "a configuration of VQVAE, expected one of SADiffusion or SA or SLATE" in done.stderr
    words = picture_evaluation_words("test_comp_gen", "sa", sensitive, scenes, "--solver_steps", 5)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "SA does not sample its pictures; leave them out" in done.stderr
    done = run(*picture_train_words("sa_ldm", scenes, "lost"), cwd=tmp_path)
    assert done.returncode == 1
    assert "pretrained/vqvae_clevrtex_params-res128.pth: no such file. Train the VQ-VAE first" in done.stderr
    assert not (tmp_path / "checkpoint" / "lost").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sa", "slate", "dvae"])
def test_baselines(run: Runner, scenes: Path, trained: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = trained[kind]
    assert len(losses(folder)) == 4
    if kind == "dvae":
        assert any("train/gumbel_tau" in row for row in rows(folder))
        return
    assert any("val/sample_img_recon_loss" in row for row in rows(folder)) == (kind == "slate")
    weight = copied(newest(folder), tmp_path)
    for script in ("test_seg", "test_recon", "test_comp_gen"):
        done = run(*picture_evaluation_words(script, kind, weight, scenes), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "eval" / "comp_imgs").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["coco", "voc"])
def test_photographs_are_scored_by_objects_and_classes(
    run: Runner, generated: Callable[..., Path], tmp_path: Path, dataset: str
) -> None:
    root = generated(f"{dataset}-photographs", f"{dataset} --scenes 30 --width 64 --height 48 --samples 1")
    data = root / dataset.upper()
    folders = TrainedOnce(run, partial(picture_train_words, dataset=dataset), data, tmp_path)
    folder = folders["sa_ldm_dino"]
    assert {"val/fari", "val/sem/mbo", "val/sem/miou"} <= {name for row in rows(folder) for name in row}
    weight = copied(newest(folder), tmp_path / "results")
    done = run(*picture_evaluation_words("test_seg", "sa_ldm_dino", weight, data, dataset=dataset), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    titles = [f"{prefix}{title}" for prefix in ("inst/", "sem/") for title in ("fARI", "miou", "mbo")]
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[1:7]] == titles
    done = run(*picture_evaluation_words("test_recon", "sa_ldm_dino", weight, data, dataset=dataset), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_training_continues_bit_for_bit(run: Runner, scenes: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    settings = (
        f"dec_dict.vae_dict.vqvae_ckp_path={newest(trained['vqvae'])}",
        *("dec_dict.use_ema=True", "eval_interval=2", "san_check_val_step=0", "save_interval=0.5"),
    )
    whole = picture_train_words("sa_ldm", scenes, "whole", settings=settings, epochs=2)
    assert run(*whole, cwd=tmp_path).returncode == 0
    folders = [tmp_path / "checkpoint" / name / "models" for name in ("whole", "parts")]
    middle = sorted(folders[0].glob("model_*.pth"), key=lambda path: int(path.stem.removeprefix("model_")))[-2]
    words = picture_train_words("sa_ldm", scenes, "parts", "--weight", middle, settings=settings, epochs=2)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"continuing {middle}" in done.stdout
    parts, curve = (losses(folder.parent) for folder in reversed(folders))
    assert 0 < len(parts) < len(curve)
    assert parts == curve[-len(parts) :]
    assert_same_weights(*(folder.parent for folder in folders))
    assert any("model_ema" in name for name in load(newest(folders[0].parent))["model"])


@pytest.mark.slow
def test_two_processes_equal_one(run: Runner, scenes: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    settings = (
        f"dec_dict.vae_dict.vqvae_ckp_path={newest(trained['vqvae'])}",
        *("lr=1e-4", "dec_lr=1e-4", "val_batch_size=1"),
    )
    one = run(*picture_train_words("sa_ldm", scenes, "one", settings=settings), cwd=tmp_path)
    halves = (*settings, "train_batch_size=2", "gpus=2")
    two = run(*picture_train_words("sa_ldm", scenes, "two", "--ddp", settings=halves), cwd=tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    alone, together = (tmp_path / "checkpoint" / name for name in ("one", "two"))
    assert losses(together) == pytest.approx(losses(alone), rel=5e-3)
    scores, others = ([row for row in rows(folder) if "val/loss" in row][-1] for folder in (alone, together))
    assert scores["val/loss"] == pytest.approx(others["val/loss"], rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["test_seg", "test_recon", "test_comp_gen"])
def test_processes_share_an_evaluation(
    run: Runner, scenes: Path, trained: dict[str, Path], tmp_path: Path, script: str
) -> None:
    weight = {name: copied(newest(trained["sa_ldm"]), tmp_path / name) for name in ("one", "two")}
    one = run(*picture_evaluation_words(script, "sa_ldm", weight["one"], scenes, "--bs", 1), cwd=tmp_path)
    words = picture_evaluation_words(script, "sa_ldm", weight["two"], scenes, "--bs", 1)
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
    two = run(sys.executable, "-m", *launcher, ROOT / words[0], *words[1:], cwd=tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    kind = script.removeprefix("test_")
    found = [json.loads((path.parent / f"model-{kind}-{NAME}.json").read_text()) for path in weight.values()]
    assert found[0] == found[1]
    if script != "test_seg":
        folder = "recon_imgs" if script == "test_recon" else "comp_imgs"
        np.testing.assert_array_equal(*(pictures_of(path.parent / "eval" / folder) for path in weight.values()))
