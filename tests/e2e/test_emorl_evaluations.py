"""Every kind of evaluation as a user types it, on generated files: what it prints, writes and computes."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from core.data.multi_object_h5 import MultiObjectH5
from core.data.safe_pickle import load_pickle
from core.metrics.disentanglement import dci
from core.metrics.segmentation import match_objects_to_slots
from core.runs import load_model
from emorl.evals.disentanglement import CLEVR_FACTORS, MatchedObjects, split
from tests.conftest import Runner
from tests.tiny_runs import ROOT, eval_words, train_words, write_lively

EVAL_SH, GIFS_SH = ROOT / "emorl/scripts/eval.sh", ROOT / "emorl/scripts/make_gifs.sh"


def results(out: Path, experiment: str) -> Path:
    (folder,) = (out / "results" / experiment).glob("*-seed=*")
    return folder


def names(folder: Path, pattern: str) -> set[str]:
    return {path.name for path in folder.glob(pattern)}


def succeed(done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["EMORL", "SlotAttention"])
def lively(run: Runner, tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory, request) -> tuple[Path, str]:
    """A run folder and the model that it holds, with random weights of unit scale."""
    out = tmp_path_factory.mktemp("lively")
    succeed(run(*train_words(tetrominoes, out, "training.iters=1", "Net.z_size=12", model=request.param)))
    write_lively(out, 1)
    return out, request.param


def words_for(kind: str, suffix: str, data: Path, lively: tuple[Path, str], *overrides: str) -> list[str]:
    out, model = lively
    small = ("Net.z_size=12", "test.range_images=6", *overrides)
    return eval_words(data, out, "lively.pth", *small, model=f"{model}{suffix}", kind=kind)


def test_disentanglement_step_by_step(run: Runner, tetrominoes: Path, lively: tuple[Path, str]) -> None:
    """Preprocessing, activeness and traversal share a folder; their numbers follow from the model itself."""
    out, name = lively
    stdout = succeed(run(*words_for("disentanglement", "_preprocessing", tetrominoes, lively)))
    folder = results(out, "tetrominoes_disentanglement")
    ranges = np.array([line.split(",") for line in (folder / "z_range.txt").read_text().splitlines()], float)
    assert ranges.shape == (12, 2)
    assert (ranges[:, 0] < ranges[:, 1]).all()
    assert f"results in {folder}" in stdout
    assert re.search(r"^0 +-?[\d.e-]+ +-?[\d.e-]+$", stdout, re.MULTILINE)
    if name == "SlotAttention":  # its slots are no samples, but start from one
        model, _ = load_model(out / "weights/lively.pth")
        image = MultiObjectH5(tetrominoes / "tetrominoes_test.h5", "test").read(np.arange(64))["image"].float() / 255
        slots = model.infer_codes(image).flatten(0, 1)
        assert torch.all(torch.from_numpy(ranges[:, 0]).float() >= slots.amin(dim=0) - 2)
        assert torch.all(torch.from_numpy(ranges[:, 1]).float() <= slots.amax(dim=0) + 2)

    written = (folder / "z_range.txt").read_bytes()
    stdout = succeed(run(*words_for("disentanglement", "_activeness", tetrominoes, lively)))
    active = np.load(folder / "activeness.npy")
    assert active.shape == (6, 12)
    assert active.dtype == np.float32
    assert active.min() >= 0
    assert active.max() > 0
    report = json.loads((folder / "activeness.json").read_text())
    order = report["dimensions_from_most_active"]
    assert order == np.argsort(-active.astype(np.float64).mean(axis=0), kind="stable").tolist()
    assert report["checkpoint"].endswith("lively.pth")
    assert [int(number) for number in re.findall(r"^(\d+) +[\d.e-]+$", stdout, re.MULTILINE)] == order

    succeed(run(*words_for("disentanglement", "_viz", tetrominoes, lively, "test.disentangle_slot=2")))
    grid = np.load(folder / "slots_2_disentanglement.npy")
    assert grid.shape == (3, 12 * 39, 8 * 37 + 2)
    assert grid.dtype == np.float32
    assert 0 <= grid.min() < grid.max() <= 1
    assert np.load(folder / "masks.npy").shape == (3, 39, 3 * 37 + 2)
    truth = np.load(folder / "ground_truth.npy")
    # Of the eight images that eval_words asks for the last one remains, as in the original.
    image = MultiObjectH5(tetrominoes / "tetrominoes_test.h5", "test").read(np.array([7]))["image"].numpy()
    assert truth == pytest.approx(image / 127.5 - 1, abs=1e-6)
    with Image.open(folder / "slots_2_disentanglement.png") as picture:
        assert picture.size == (8 * 37 + 2, 12 * 39)
    # A number that moves the picture more in activeness moves it more here: compare most and least active.
    rows = grid.reshape(3, 12, 39, -1)[:, :, 2:37]
    spread = np.stack([rows[..., 2 + 37 * t : 37 + 37 * t] for t in range(8)]).var(axis=0).mean(axis=(0, 2, 3))
    assert spread[order[0]] > spread[order[-1]]
    assert (folder / "z_range.txt").read_bytes() == written


def test_a_traversal_measures_the_ranges_if_nobody_did(
    run: Runner, tetrominoes: Path, lively: tuple[Path, str]
) -> None:
    words = words_for("disentanglement", "_viz", tetrominoes, lively, "test.experiment_name=fresh")
    assert "z_range.txt yet: measuring the range of the latents first" in succeed(run(*words))
    assert names(results(lively[0], "fresh"), "*") == {
        *("z_range.txt", "z_range.json", "traversals.json", "masks.npy", "ground_truth.npy"),
        *("slots_0_disentanglement.npy", "slots_0_disentanglement.png"),
    }


def test_gifs(run: Runner, tetrominoes: Path, lively: tuple[Path, str]) -> None:
    out, model = lively
    settings = {"ENV": "tetrominoes", "DATA_PATH": tetrominoes, "OUT_DIR": out, "CHECKPOINT": "lively.pth"}
    overrides = ("Net.z_size=12", "Net.K=3", "test.range_images=6")
    stdout = succeed(run(GIFS_SH, *overrides, **settings, JSON_file=model))
    folder = results(out, "tetrominoes_gifs")
    assert folder.name == "lively.pth-seed=1000"
    gifs = {f"slot_{slot}_row_{row}.gif" for slot in range(3) for row in range(10)}
    assert names(folder, "*.gif") == gifs
    assert names(folder, "*.npy") == {
        *("activeness.npy", "masks.npy", "ground_truth.npy"),
        *(f"slots_{slot}_disentanglement.npy" for slot in range(3)),
    }
    assert "30 gifs in " in stdout
    order = np.load(folder / "activeness.npy").mean(axis=0).argsort()[::-1]
    for row in (0, 9):
        grid = np.load(folder / "slots_1_disentanglement.npy")[:, order[row] * 39 : order[row] * 39 + 39]
        with Image.open(folder / f"slot_1_row_{row}.gif") as gif:
            assert gif.size == (37, 39)
            assert gif.info["loop"] == 0
            shown, milliseconds = [], 0
            for frame in range(gif.n_frames):
                gif.seek(frame)
                milliseconds += gif.info["duration"]
                shown.append(np.asarray(gif.convert("RGB"), int))
        assert milliseconds == 2000  # eight frames, four a second; equal ones are stored as one
        frames = [(255 * grid[:, :, f * 37 : f * 37 + 37]).astype(int).transpose(1, 2, 0) for f in range(8)]
        assert np.abs(shown[0] - frames[0]).mean() < 4  # 256 colours
        assert np.abs(shown[-1] - frames[-1]).mean() < 4


def test_rinfo(run: Runner, tetrominoes: Path, lively: tuple[Path, str]) -> None:
    out, model = lively
    succeed(run(*words_for("sample_viz", "", tetrominoes, lively, "test.num_images_to_process=3")))
    folder = results(out, "visualizations")
    files = {name for i in range(3) for name in (f"rinfo_{i}.pkl", f"panel_{i}.png")}
    assert names(folder, "*") == {"sample_viz.json", *files}
    source = MultiObjectH5(tetrominoes / "tetrominoes_test.h5", "test", masks=True)
    num_steps = 6 if model == "EMORL" else 3  # three layers and three refinements; three iterations
    for i in range(3):
        content = load_pickle(folder / f"rinfo_{i}.pkl")
        sample = source.read(np.array([i]))
        np.testing.assert_allclose(content["data"]["image"][0], sample["image"][0].permute(1, 2, 0) / 255, atol=1e-6)
        assert content["data"]["true_mask"].shape == (1, 4, 1, 35, 35)
        assert np.array_equal(content["data"]["true_mask"][0, :, 0].argmax(axis=0), sample["mask"][0])
        shapes = {name: (value.shape, value.dtype) for name, value in content["outputs"].items()}
        of_masks, of_pictures = (1, num_steps, 3, 35, 35, 1), (1, num_steps, 3, 35, 35, 3)
        assert shapes == {
            "recons": ((1, num_steps, 35, 35, 3), np.float32),
            "pred_mask": (of_masks, np.float32),
            "pred_mask_logits": (of_masks, np.float32),
            "components": (of_pictures, np.float32),
            "attention": (of_masks, np.float32),
            "slots": ((1, num_steps, 3, 12), np.float32),
        }
        masks = content["outputs"]["pred_mask"]
        np.testing.assert_allclose(masks.sum(axis=2), 1, atol=1e-5)
        on_white = content["outputs"]["components"] - (1 - masks)
        np.testing.assert_allclose(on_white.sum(axis=2), content["outputs"]["recons"], atol=1e-5)
        assert masks.std(axis=2).max() > 0.01  # slots differ
        scores = json.loads((folder / "sample_viz.json").read_text())
        error = ((content["outputs"]["recons"] - content["data"]["image"][:, None]) ** 2).mean(axis=(0, 2, 3, 4))
        assert scores["per_image_and_step"]["mse"][i] == pytest.approx(error, rel=1e-4)
        predicted, pixels = masks[0, -1, ..., 0].argmax(axis=0), sample["mask"][0].numpy() > 0
        ari = adjusted_rand_score(sample["mask"][0].numpy()[pixels], predicted[pixels])
        assert scores["per_image_and_step"]["fg_ari"][i][-1] == pytest.approx(ari, abs=1e-6)


def test_clevrtex_statistics(run: Runner, tetrominoes: Path, lively: tuple[Path, str]) -> None:
    """The evaluation works on any set with masks; of an .h5 file too."""
    stdout = succeed(run(*words_for("ARI_MSE_KL", "", tetrominoes, lively, "test.eval_type=clevrtex")))
    found = json.loads((results(lively[0], "Multi_Object_Datasets") / "clevrtex.json").read_text())
    assert found["num_images"] == 8
    succeed(run(*words_for("ARI_MSE_KL", "", tetrominoes, lively)))
    other = json.loads((results(lively[0], "Multi_Object_Datasets") / "ARI_MSE_KL.json").read_text())
    assert found["ARI_FG"]["mean"] == pytest.approx(other["fg_ari"]["mean"], abs=1e-5)
    assert found["ARI"]["mean"] == pytest.approx(other["ari"]["mean"], abs=1e-5)
    assert found["MSE"]["mean"] == pytest.approx(other["mse"]["mean"] * 3 * 35 * 35, rel=1e-4)
    for name in ("MSE", "acc", "mIoU", "mIoU_fg", "mIoU_gt", "DICE", "DICE_FG", "ARI", "ARI_FG"):
        assert re.search(rf"^{name} +-?[\d.e+-]+ +[\d.e+-]+$", stdout, re.MULTILINE), name


@pytest.fixture(scope="module")
def clevr_with_factors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLEVR6 test file, its columns unnamed as in the published one, of three objects too large to miss."""
    folder = tmp_path_factory.mktemp("clevr_factors")
    rng = np.random.default_rng(0)
    count = 24
    images, labels = np.zeros((count, 240, 320, 3), np.uint8), np.zeros((count, 240, 320), np.uint8)
    factors = np.zeros((count, 7, 9), np.float32)
    factors[:, :4, 8] = 1
    factors[:, 1:4, :4] = rng.normal(size=(count, 3, 4))
    for column, values in ((4, 2), (5, 2), (6, 3), (7, 8)):
        factors[:, 1:4, column] = rng.integers(values, size=(count, 3))
    for i in range(count):
        for entity, (top, left) in enumerate(((29, 64), (29, 160), (125, 64)), start=1):
            images[i, top : top + 90, left : left + 90] = rng.integers(0, 256, 3)
            labels[i, top : top + 90, left : left + 90] = entity
    masks = (labels[:, None] == np.arange(7)[:, None, None]) * np.uint8(255)
    with h5py.File(folder / "clevr6_with_masks_and_factors_test.h5", "w") as file:
        file["test/imgs"], file["test/masks"], file["test/factors"] = images, masks[..., None], factors
    return folder


@pytest.mark.slow
def test_dci_on_clevr(run: Runner, clevr6: Path, clevr_with_factors: Path, tmp_path: Path) -> None:
    """What is written per image is enough to compute the scores again."""
    small = ("Net.K=4", "Net.z_size=6", "Net.image_decoder=small")
    words = ("training.iters=1", "training.batch_size=2", "training.num_workers=0", *small)
    script = ROOT / "emorl/scripts/train.sh"
    settings = {"ENV": "clevr6-96x96", "OUT_DIR": tmp_path, "NUM_GPUS": 1}
    succeed(run(script, *words, **settings, MODEL="SlotAttention", DATA_PATH=clevr6))
    (checkpoint,) = (tmp_path / "weights").glob("*-state-1.pth")
    write_lively(tmp_path, 1)
    settings |= {"DATA_PATH": clevr_with_factors, "CHECKPOINT": "lively.pth", "EVAL_TYPE": "disentanglement", "SEED": 4}
    stdout = succeed(run(EVAL_SH, *small, **settings, JSON_file="SlotAttention_dci"))
    folder = results(tmp_path, "clevr_disentanglement")
    assert checkpoint.exists()
    assert names(folder, "*") == {
        *("dci.txt", "dci.json"),
        *(f"{stem}_{i}.npy" for i in range(24) for stem in ("mus", "ys", "gt_masks", "pred_masks")),
    }
    codes, factors = [], []
    for i in range(24):
        mus, ys, truth, predicted = (
            torch.from_numpy(np.load(folder / f"{stem}_{i}.npy")) for stem in ("mus", "ys", "gt_masks", "pred_masks")
        )
        assert (mus.shape, ys.shape) == ((4, 6), (7, 9))
        assert truth.shape == (7, 1, 192, 192)
        assert predicted.shape == (4, 1, 192, 192)
        labels, slots = truth[:, 0].argmax(dim=0), predicted[:, 0].argmax(dim=0)
        objects, held_by = match_objects_to_slots(labels, slots, ys[:, 8])
        codes.append(mus[held_by])
        factors.append(ys[objects, :8])
    result = json.loads((folder / "dci.json").read_text())
    assert result["num_objects"] == {"matched": sum(map(len, codes)), "present": 72}
    kinds = ["continuous"] * 4 + ["discrete"] * 4
    assert result["factors"] == dict(zip(CLEVR_FACTORS[:8], kinds))
    objects = MatchedObjects(
        torch.cat(codes).double().numpy(), torch.cat(factors).double().numpy(), list(CLEVR_FACTORS[:8]), 72
    )
    again = dci(*split(objects), [kind == "discrete" for kind in kinds], seed=4)
    assert result["dci"]["disentanglement"] == pytest.approx(again.disentanglement, abs=1e-9)
    assert result["dci"]["informativeness_test"] == pytest.approx(again.informativeness_test, abs=1e-9)
    assert (folder / "dci.txt").read_text() == str(result["dci"])
    assert set(result["property_prediction"]) == set(CLEVR_FACTORS[:8])
    for title in ("disentanglement", "completeness", "MIG", "SAP", "FactorVAE"):
        assert re.search(rf"^{title} +-?[\d.]+$", stdout, re.MULTILINE), title
    assert re.search(r"^rotation +R2 ", stdout, re.MULTILINE)


@pytest.mark.parametrize("model", ["EMORL", "SlotAttention"])
@pytest.mark.slow
def test_published_configurations_of_clevr6(run: Runner, clevr6: Path, tmp_path: Path, model: str) -> None:
    """All evaluations of the larger set, at its published picture size, on a model of one step."""
    train = {"MODEL": model, "ENV": "clevr6-96x96", "OUT_DIR": tmp_path, "DATA_PATH": clevr6, "NUM_GPUS": 1, "SEED": 1}
    few = ("Net.z_size=12", "test.range_images=1", "test.num_images_to_process=1")
    words = ["training.iters=1", "training.batch_size=1", "training.num_workers=0", few[0]]
    words += ["Net.refinement_iters=1", "training.refinement_curriculum=[(-1,1)]"] if model == "EMORL" else []
    succeed(run(ROOT / "emorl/scripts/train.sh", *words, **train))
    settings = {"ENV": "clevr6-96x96", "OUT_DIR": tmp_path, "DATA_PATH": clevr6}
    settings["CHECKPOINT"] = f"emorl-clevr6-96x96-{'' if model == 'EMORL' else f'{model}-'}seed-1-state-1.pth"
    for name in ("preprocessing", "activeness", "viz"):
        kind = {"EVAL_TYPE": "disentanglement", "JSON_file": f"{model}_{name}", "DISENTANGLE_SLOT": 6}
        succeed(run(EVAL_SH, *few, **settings, **kind))
    folder = results(tmp_path, "clevr_disentanglement")
    assert len((folder / "z_range.txt").read_text().splitlines()) == 12
    assert np.load(folder / "activeness.npy").shape == (1, 12)
    assert np.load(folder / "slots_6_disentanglement.npy").shape == (3, 12 * 100, 8 * 98 + 2)
    succeed(run(EVAL_SH, *few, **settings, EVAL_TYPE="sample_viz", JSON_file=model))
    content = load_pickle(results(tmp_path, "visualizations") / "rinfo_0.pkl")
    assert content["outputs"]["recons"].shape == (1, 4 if model == "EMORL" else 3, 96, 96, 3)
    assert content["data"]["true_mask"].shape == (1, 7, 1, 192, 192)
    done = run(EVAL_SH, *few, **settings, EVAL_TYPE="disentanglement", JSON_file=f"{model}_dci")
    assert done.returncode == 1
    assert "at least 20 are needed to predict factors from" in done.stderr
    assert "Traceback" not in done.stderr
