"""The evaluations on a model whose answers are known: an oracle that looks the truth up."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from core.data.errors import DataError
from core.data.multi_object_h5 import MultiObjectH5
from core.data.safe_pickle import load_pickle
from core.nn.noise import seeded_noise
from core.types import Decomposition
from emorl.evals import ari_mse_kl, clevrtex, disentanglement, latents, sample_viz
from emorl.evals.task import Task
from emorl.models import build_model
from tests.emorl.oracle import Oracle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tetrominoes: Path) -> MultiObjectH5:
    return MultiObjectH5(tetrominoes / "tetrominoes_test.h5", "test", masks=True, factors=True)


def task_of(model: nn.Module, source: MultiObjectH5, folder: Path, **settings) -> Task:
    return Task(model=model, source=source, folder=folder, device=CPU, noise=seeded_noise(1, CPU), **settings)


def test_an_oracle_gets_ari_one_and_a_shuffled_one_about_zero(source: MultiObjectH5, tmp_path: Path):
    perfect = ari_mse_kl.evaluate(task_of(Oracle(source), source, tmp_path))
    assert perfect["fg_ari"] == {"mean": 1, "std": 0}
    assert perfect["ari"]["mean"] == perfect["miou"]["mean"] == perfect["mbo"]["mean"] == 1
    assert perfect["mse"]["mean"] < 1e-8
    assert (tmp_path / "ARI.txt").read_text() == "1.0,0.0\n"
    shuffled = ari_mse_kl.evaluate(task_of(Oracle(source, shuffle=True), source, tmp_path))
    assert abs(shuffled["fg_ari"]["mean"]) < 0.02
    assert abs(shuffled["ari"]["mean"]) < 0.02
    assert "kl" not in perfect
    assert not (tmp_path / "KL.txt").exists()


def test_clevrtex_statistics_of_an_oracle(source: MultiObjectH5, tmp_path: Path, capsys):
    clevrtex.evaluate(task_of(Oracle(source), source, tmp_path, num_images=10))
    found = json.loads((tmp_path / "clevrtex.json").read_text())
    for name in ("acc", "mIoU", "mIoU_fg", "mIoU_gt", "DICE", "DICE_FG", "ARI", "ARI_FG"):
        assert found[name] == {"mean": 1, "std": 0}, name
        assert len(found["per_image"][name]) == 10
    assert found["MSE"]["mean"] < 1e-6
    assert "mIoU_fg" in capsys.readouterr().out


def test_dci_of_an_oracle_whose_code_is_the_factors(source: MultiObjectH5, tmp_path: Path):
    model = Oracle(source)
    result = disentanglement.evaluate(task_of(model, source, tmp_path))
    assert result["num_objects"] == {"matched": 3 * len(source), "present": 3 * len(source)}
    assert list(result["factors"]) == ["x", "y", "shape", "colour_r", "colour_g", "colour_b"]
    assert result["factors"]["x"] == "continuous"
    assert result["factors"]["shape"] == result["factors"]["colour_r"] == "discrete"
    assert result["dci"]["disentanglement"] > 0.9
    assert result["dci"]["completeness"] > 0.9
    # 19 shapes and 96 training objects: the shape is not learned from so few, everything else is.
    scores = result["dci_per_factor"]
    assert min(scores[name] for name in ("x", "y", "colour_r", "colour_g", "colour_b")) > 0.97
    assert result["property_prediction"]["x"]["linear"] > 0.99
    assert result["factor_vae"] > 0.95
    assert result["mig"] > 0.4
    assert json.loads((tmp_path / "dci.json").read_text()) == result
    text = (tmp_path / "dci.txt").read_text()
    assert text == str(result["dci"])
    for i in (0, len(source) - 1):
        sample = source.read(np.array([i]))
        factors = np.load(tmp_path / f"ys_{i}.npy")
        assert np.array_equal(factors, sample["factors"][0])
        assert np.load(tmp_path / f"mus_{i}.npy").shape == (4, 7)
        masks, predicted = np.load(tmp_path / f"gt_masks_{i}.npy"), np.load(tmp_path / f"pred_masks_{i}.npy")
        assert masks.shape == predicted.shape == (4, 1, 35, 35)
        assert set(np.unique(masks)) == {0, 255}
        assert np.array_equal(masks[:, 0].argmax(axis=0), sample["mask"][0])
        assert np.array_equal(predicted[model.order, 0].argmax(axis=0), sample["mask"][0])
        assert predicted.sum(axis=0) == pytest.approx(1, abs=1e-5)


def test_dci_of_noise(source: MultiObjectH5, tmp_path: Path):
    result = disentanglement.evaluate(task_of(Oracle(source, noisy_codes=True), source, tmp_path))
    assert result["dci"]["disentanglement"] < 0.3
    assert result["mig"] < 0.1
    assert result["property_prediction"]["x"]["mlp"] < 0.1


def test_dci_as_the_original_scores_exact_matches(source: MultiObjectH5, tmp_path: Path):
    result = disentanglement.evaluate(task_of(Oracle(source), source, tmp_path, as_original=True, num_images=20))
    text = (tmp_path / "dci.txt").read_text()
    assert text.startswith("{'informativeness_train': ")
    assert "'completeness': " in text
    assert text != str(result["dci"])


def test_ranges_and_activeness_of_an_oracle(source: MultiObjectH5, tmp_path: Path):
    """Moving an object changes the picture, the number without meaning does not; the range is that of the codes."""
    task = task_of(Oracle(source), source, tmp_path, range_images=30, batch_size=7)
    latents.preprocess(task)
    lines = (tmp_path / "z_range.txt").read_text().splitlines()
    ranges = np.array([line.split(",") for line in lines], float)
    factors = source.read(np.arange(30))["factors"]
    assert ranges[0].tolist() == [0, float(factors[:, :, 0].max())]
    found = latents.measure_activeness(task)
    saved = np.load(tmp_path / "activeness.npy")
    assert saved.shape == (30, 7)
    assert saved.dtype == np.float32
    assert np.array_equal(saved, found.float().numpy())
    assert saved[:, 0].mean() > 1e-4
    assert np.abs(saved[:, 6]).max() < 1e-12
    latents.report_activeness(task)
    report = json.loads((tmp_path / "activeness.json").read_text())
    assert report["dimensions_from_most_active"][-1] == 6
    assert np.load(tmp_path / "activeness.npy").tolist() == saved.tolist()


def test_traversal_shows_the_changed_factor(source: MultiObjectH5, tmp_path: Path):
    model = Oracle(source)
    slot = int(model.order[1])  # that of object 1
    task = task_of(model, source, tmp_path, range_images=20, num_images=3, slot=slot)
    latents.traverse_slot(task)
    found = np.load(tmp_path / f"slots_{slot}_disentanglement.npy")
    assert found.shape == (3, 7 * 39, 8 * 37 + 2)
    image = source.read(np.array([2]))
    truth = np.load(tmp_path / "ground_truth.npy")
    assert truth == pytest.approx(image["image"].numpy() / 127.5 - 1, abs=1e-6)
    # Row 6 changes nothing: eight times the picture itself, two pixels apart on black.
    row = found[:, 6 * 39 : 7 * 39]
    assert (row[:, :2] == 0).all()
    for cell in np.split(row[:, 2:37, 2:], 8, axis=2):
        assert cell[:, :, :35] == pytest.approx(image["image"][0].numpy() / 255, abs=1e-4)
    # Row 3 is red, from 0 to 1: the object gets redder by even steps. Row 0 moves it to the right.
    pixels = (image["mask"][0] == 1).numpy()
    cells = [found[0, 3 * 39 + 2 : 3 * 39 + 37, 2 + t * 37 : 37 + t * 37] for t in range(8)]
    red = [cell[pixels].mean() for cell in cells]
    assert np.diff(red) == pytest.approx(np.diff(red)[0], rel=1e-3)
    assert red[0] < 1e-3
    assert cells[7][~pixels] == pytest.approx(cells[0][~pixels], abs=1e-6)
    alone = np.abs(found[:, 2:37, 2:37] - found[:, 2:37, 39 : 39 + 35]).max(axis=0) > 0.1
    assert alone.any()
    assert np.load(tmp_path / "masks.npy").shape == (3, 39, 4 * 37 + 2)


def test_ranges_of_the_original_are_kept_on_request():
    ranges = torch.tensor([[-3.0, 1.0], [0.5, 2.5]], dtype=torch.float64)
    assert latents.traversal_values(ranges)[0].tolist() == pytest.approx(np.linspace(-3, 1, 8))
    original = latents.traversal_values(ranges, as_original=True)
    assert original[0, [0, -1]].tolist() == pytest.approx([2 - 5**0.5, 2 + 1])
    assert original[1, [0, -1]].tolist() == pytest.approx([1 - 0.5**0.5, 1 + 1.5**0.5])


def test_ranges_of_something_else_are_measured_again(source: MultiObjectH5, tmp_path: Path, capsys):
    def ranges_of(checkpoint: str, num_images: int) -> str:
        capsys.readouterr()
        describe = {"model": "SlotAttention", "checkpoint": checkpoint}
        task = task_of(Oracle(source), source, tmp_path, range_images=num_images, describe=describe)
        assert latents.read_ranges(task, 7).shape == (7, 2)
        return capsys.readouterr().out

    path = tmp_path / "z_range.txt"
    assert "yet: measuring" in ranges_of("a.pth", 2)
    written = path.read_text()
    path.write_text("0,1\n" * 7)
    assert ranges_of("a.pth", 2) == ""
    assert path.read_text() == "0,1\n" * 7
    assert f"{path} is of something else (checkpoint: 'a.pth' -> 'b.pth'): measuring" in ranges_of("b.pth", 2)
    assert path.read_text() == written
    assert "(num_images: 2 -> 3)" in ranges_of("b.pth", 3)
    (tmp_path / "z_range.json").unlink()
    assert "(no readable z_range.json says of what)" in ranges_of("b.pth", 3)


@pytest.mark.parametrize("content", ["", "1,2\n", "1;2\n" * 7, "a,b\n" * 7, "1,2,3\n" * 7])
def test_a_damaged_range_file_is_named(source: MultiObjectH5, tmp_path: Path, content: str):
    (tmp_path / "z_range.txt").write_text(content)
    (tmp_path / "z_range.json").write_text('{"num_images": 2}')
    with pytest.raises(DataError, match=r"z_range\.txt: expected 7 lines `min,max`\. Remove it"):
        latents.traverse_slot(task_of(Oracle(source), source, tmp_path, range_images=2))


@pytest.mark.parametrize("name", ["EfficientMORL", "SlotAttention", "LocalSlotAttention"])
def test_every_model_runs_every_evaluation(source: MultiObjectH5, tmp_path: Path, name: str):
    torch.manual_seed(0)
    arguments = {"image_size": (35, 35), "num_slots": 3, "slot_size": 6}
    arguments |= {"LocalSlotAttention": {}, "SlotAttention": {"decoder": "small"}}.get(
        name, {"decoder": "small", "num_layers": 2, "refinement_iters": 1}
    )
    model = build_model(name, arguments).eval()
    task = task_of(model, source, tmp_path, range_images=3, num_images=2)
    latents.make_gifs(task)
    num_dimensions = 8 if name == "LocalSlotAttention" else 6  # position included
    assert len(list(tmp_path.glob("slot_*_row_*.gif"))) == 3 * num_dimensions
    sample_viz.export(task)
    num_steps = 4 if name == "LocalSlotAttention" else 3
    content = load_pickle(tmp_path / "rinfo_1.pkl")
    outputs = content["outputs"]
    assert outputs["recons"].shape == (1, num_steps, 35, 35, 3)
    assert outputs["pred_mask"].shape == outputs["attention"].shape == (1, num_steps, 3, 35, 35, 1)
    assert outputs["slots"].shape == (1, num_steps, 3, num_dimensions)
    assert content["data"]["true_mask"].shape == (1, 4, 1, 35, 35)
    np.testing.assert_allclose(outputs["pred_mask"].sum(axis=2), 1, atol=1e-5)
    np.testing.assert_allclose(np.log(outputs["pred_mask"]), outputs["pred_mask_logits"], atol=1e-4)
    on_white = outputs["components"] - (1 - outputs["pred_mask"])
    np.testing.assert_allclose(on_white.sum(axis=2), outputs["recons"], atol=1e-5)
    clevrtex.evaluate(task)
    assert json.loads((tmp_path / "clevrtex.json").read_text())["num_images"] == 2


@pytest.mark.parametrize("name", ["SlotAttention", "LocalSlotAttention"])
def test_codes_decode_to_the_decomposition(source: MultiObjectH5, name: str):
    torch.manual_seed(0)
    extra = {"decoder": "small"} if name == "SlotAttention" else {}
    model = build_model(name, {"image_size": (35, 35), "num_slots": 3, "slot_size": 6, **extra}).eval()
    image = source.read(np.arange(2))["image"].float() / 255
    noise = seeded_noise(3, CPU)
    with torch.no_grad():
        found: Decomposition = model.decompose({"image": image}, noise(range(2)))
        codes = model.infer_codes(image, noise(range(2)))
        rgb, logits = model.decode_slots(codes.flatten(0, 1))
    assert torch.equal(codes, found.slots)
    torch.testing.assert_close(rgb.unflatten(0, (2, 3)), found.rgb)
    torch.testing.assert_close(logits.unflatten(0, (2, 3)).softmax(dim=1), found.masks)


def test_codes_of_efficient_morl_are_its_posterior(source: MultiObjectH5):
    torch.manual_seed(0)
    model = build_model("EfficientMORL", {"image_size": (35, 35), "num_slots": 3, "slot_size": 6, "decoder": "small"})
    model.eval()
    image = source.read(np.arange(2))["image"].float() / 255
    noise = seeded_noise(3, CPU)
    found = model.decompose({"image": image}, noise(range(2)))
    assert torch.equal(model.infer_codes(image, noise(range(2))), found.slots)
    sampled = model.infer_codes(image, noise(range(2)), sample=True)
    scaled = (sampled - found.slots) / found.extras["posterior_std"]
    assert 0.5 < float(scaled.std()) < 1.5  # standard normal, 36 numbers
    steps = model.unroll({"image": image}, noise(range(2)))
    torch.testing.assert_close(steps[-1].recon, found.recon)
    assert len(steps) == 3 + 3


def test_too_few_objects_and_unnamed_factors_are_refused(source: MultiObjectH5, tmp_path: Path):
    with pytest.raises(DataError, match=r"slots hold 6 of the 6 objects in 2 images, and at least 20 are needed"):
        disentanglement.evaluate(task_of(Oracle(source), source, tmp_path, num_images=2))
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        for name, value in source.read(np.arange(4)).items():
            if name == "image":
                file["test/imgs"] = value.permute(0, 2, 3, 1).numpy()
            elif name == "mask":
                file["test/masks"] = (value[:, None] == torch.arange(4)[:, None, None])[..., None].byte().numpy() * 255
            else:
                file["test/factors"] = value.numpy()
    plain = MultiObjectH5(tmp_path / "plain.h5", "test", masks=True, factors=True)
    with pytest.raises(DataError, match=r"plain\.h5: 7 factors without names, or none of them 'visibility'"):
        disentanglement.evaluate(task_of(Oracle(plain), plain, tmp_path))
