"""Scores of predicted rays, against scikit-learn and by hand, and their dealing out to processes and chunks."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import osrt.models.light_field as light_field
from core.data.cameras import cast_rays
from core.data.loader import Batch
from core.training.launch import make_accelerator
from osrt.evaluation import Evaluator, SceneScores, ahead, score_scenes
from osrt.models.decoder import Rendered
from osrt.monitor import is_better
from osrt.scores import ari_of_counts, label_counts, psnr
from tests.osrt_samples import samples, small_model


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Samples:
    """A source of given samples."""

    def __init__(self, values: Batch):
        self.values = values

    def __len__(self) -> int:
        return len(self.values["target_pixels"])

    def read(self, indices: np.ndarray) -> Batch:
        return {key: value[indices] for key, value in self.values.items()}


def test_ari_is_that_of_scikit_learn() -> None:
    weights = random(5, 200, 6)
    labels = (random(5, 200, seed=1) * 5).byte()
    labels[1] = 255
    found = ari_of_counts(label_counts(labels, weights))
    assert found["ari"].dtype == torch.float64
    for scene in range(5):
        predicted, true = weights[scene].argmax(-1).numpy(), labels[scene].numpy()
        assert float(found["ari"][scene]) == pytest.approx(adjusted_rand_score(true, predicted), abs=1e-12)
        inside = true > 0
        wanted = adjusted_rand_score(true[inside], predicted[inside])
        assert float(found["fg_ari"][scene]) == pytest.approx(wanted, abs=1e-12)


def test_ari_without_foreground_and_on_ties() -> None:
    nothing = label_counts(torch.zeros(1, 9, dtype=torch.uint8), random(1, 9, 3))
    assert ari_of_counts(nothing)["fg_ari"].tolist() == [1.0]
    tied = label_counts(torch.tensor([[1, 1, 2]], dtype=torch.uint8), torch.full((1, 3, 4), 0.25))
    assert tied[0, 1].tolist() == [2, 0, 0, 0]
    assert tied.sum() == 3


def test_psnr_by_hand() -> None:
    assert psnr(torch.tensor([0.01, 1.0])).tolist() == pytest.approx([20.0, 0.0])


def test_scores_of_parts_are_those_of_the_whole() -> None:
    pixels, wanted, weights = random(2, 50, 3), random(2, 50, 3, seed=1), random(2, 50, 4, seed=2)
    labels = (random(2, 50, seed=3) * 4).byte()
    whole, parts = SceneScores(), SceneScores()
    whole.add(Rendered(pixels, weights, coarse_pixels=wanted), wanted, labels)
    for part in (slice(0, 7), slice(7, 50)):
        rendered = Rendered(pixels[:, part], weights[:, part], coarse_pixels=wanted[:, part])
        parts.add(rendered, wanted[:, part], labels[:, part])
    assert whole.values().keys() == {"psnr", "mse", "coarse_mse", "ari", "fg_ari"}
    for name, value in whole.values().items():
        assert torch.allclose(parts.values()[name], value, rtol=1e-12, equal_nan=True), name
    errors = (pixels - wanted).square().mean(dim=(1, 2))
    assert torch.allclose(whole.values()["mse"].float(), errors)
    assert whole.values()["psnr"].tolist() == pytest.approx([-10 * math.log10(error) for error in errors.tolist()])
    assert whole.values()["coarse_mse"].tolist() == [0, 0]


@pytest.mark.parametrize(("decoder", "has_masks"), [("slot_mixer", True), ("spatial_broadcast", False), ("srt", True)])
def test_evaluation_depends_on_neither_batches_nor_chunks(decoder: str, has_masks: bool) -> None:
    model = small_model(decoder)
    source = Samples(samples(5, masks=has_masks))
    runs = [Evaluator(model, source, size, chunk, make_accelerator()).score() for size, chunk in ((5, 1000), (2, 7))]
    names = {"psnr", "mse"} | ({"ari", "fg_ari"} if has_masks and decoder != "srt" else set())
    assert runs[0].keys() == names
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)
    assert model.training
    first = Evaluator(model, source, 2, 1000, make_accelerator()).score(num_batches=1)
    alone = Evaluator(
        model, Samples({key: value[:2] for key, value in source.values.items()}), 2, 9, make_accelerator()
    )
    assert first == pytest.approx(alone.score(), rel=1e-5)


def test_large_decoders_are_given_few_rays_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the configuration's number of rays: a ray of the decoder that renders every slot counts for each."""
    model, batch, counts = small_model("spatial_broadcast"), cast_rays(samples(3)), []
    whole = score_scenes(model, batch, chunk=1000)
    decode = model.decode
    monkeypatch.setattr(light_field, "ROWS_TOGETHER", {"cpu": 3 * 4 * 7})
    monkeypatch.setattr(model, "decode", lambda *given: counts.append(given[2].shape[1]) or decode(*given))
    with torch.no_grad():
        parts = score_scenes(model, batch, chunk=1000)
    assert counts == [7, 7, 7, 7, 2]
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value.detach(), rtol=1e-5, atol=1e-7)


def test_the_loss_says_scores_when_asked() -> None:
    model, batch = small_model(), cast_rays(samples(3))
    assert model.loss(batch, 0).keys() == {"loss", "mse"}
    model.score_every = 2
    assert model.loss(batch, 1).keys() == {"loss", "mse"}
    terms = model.loss(batch, 4)
    model.eval()
    with torch.no_grad():
        scores = score_scenes(model, batch, chunk=11)
    for name in ("mse", "ari", "fg_ari"):
        assert float(terms[name]) == pytest.approx(float(scores[name].mean()), rel=1e-5)
    assert model.loss({key: value for key, value in batch.items() if key != "target_masks"}, 4).keys() == {
        "loss",
        "mse",
    }


def test_reading_ahead_keeps_order_and_errors() -> None:
    assert list(ahead(lambda number: {"n": torch.tensor(number)}, range(4)))[3]["n"] == 3
    assert list(ahead(lambda number: {}, [])) == []

    def fails(number: int) -> Batch:
        raise OSError(f"sample {number}")

    with pytest.raises(OSError, match="sample 0"):
        list(ahead(fails, range(3)))


@pytest.mark.parametrize(
    ("value", "best", "mode", "expected"),
    [
        (2.0, None, "minimize", True),
        (2.0, 1.0, "maximize", True),
        (2.0, 1.0, "minimize", False),
        (1.0, 1.0, "maximize", False),
        (math.nan, 1.0, "maximize", False),
        (math.nan, None, "minimize", False),
    ],
)
def test_which_value_is_better(value: float, best: float | None, mode: str, expected: bool) -> None:
    assert is_better(value, best, mode) is expected
