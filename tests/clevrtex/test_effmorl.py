"""Properties of ClevrTex's EfficientMORL, whatever its weights."""

import math

import pytest
import torch
from torch import Tensor

from clevrtex.experiments.effmorl import EffMORL as Experiment
from clevrtex.framework.commandline import UsageError
from clevrtex.framework.options import fill
from clevrtex.models.effmorl import EffMORL
from clevrtex.original.effmorl import from_original, to_original
from core.nn.noise import Noise

SLOTS, SIZE, WARM_START = 3, 8, 10


def effmorl(image_size: tuple[int, int] = (12, 12), **options: object) -> EffMORL:
    """A small model with weights at unit scale: the published start makes all outputs nearly constant."""
    model = EffMORL(image_size, SLOTS, SIZE, hidden=8, geco_warm_start=WARM_START, **options)
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        fan_in = value[0].numel() if value.ndim > 1 else 16
        value.data.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    return model


def images(count: int = 2, image_size: tuple[int, int] = (12, 12)) -> Tensor:
    return torch.rand(count, 3, *image_size, generator=torch.Generator().manual_seed(1))


def fixed_noise(rows: slice = slice(None), count: int | None = None) -> Noise:
    """The same draws every time; of a batch of `count` only `rows`."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        seed = sum(ord(letter) * (i + 1) for i, letter in enumerate(name))
        return torch.randn((count or shape[0], *shape[1:]), generator=torch.Generator().manual_seed(seed))[rows]

    return draw


class SameNoise:
    """Gives every step the same draws."""

    count = 1

    def at(self, step: int, device: torch.device) -> Noise:
        return fixed_noise()


def gradients(model: EffMORL) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_published_settings() -> None:
    model = EffMORL()
    assert sum(value.numel() for value in model.state_dict().values()) == 666_502
    assert model.geco.target == -108_000
    assert (model.geco.alpha, model.geco.step_size, model.geco.acceleration) == (0.99, 1e-6, 1.0)
    assert model.geco.warm_start == 1000
    assert model.log_std == pytest.approx(math.log(0.1))
    assert [model.num_refinements(step) for step in (0, 99_999, 100_000, 200_000, 499_999)] == [3, 3, 1, 1, 1]
    assert not model.unused_parameters()


def test_curriculum_governs_training_and_its_validation() -> None:
    model = effmorl(refinement_curriculum=[[-1, 3], [20, 1]])
    batch = {"image": images()}
    for step, count in ((19, 3), (20, 1)):
        terms = model.train().loss(batch, step)
        assert sum(name.startswith("norm_delta") for name in terms) == count
        model.after_step(step, terms)
        assert model.eval().num_refinements(None) == count
    assert effmorl(refinement_curriculum=[[-1, 1]]).eval().num_refinements(None) == 3


@pytest.mark.parametrize("wrong", [[3], [(-1, 3, 1)], [(0, -1)], [("0", 1)]])
def test_what_is_no_curriculum(wrong: list) -> None:
    with pytest.raises(UsageError, match=r"--refinement_curriculum .*: expected pairs of a step and a number"):
        fill(Experiment, {"refinement_curriculum": wrong})


def test_target_follows_the_size_unless_given() -> None:
    smaller = EffMORL((96, 96))
    assert smaller.geco.target == -60_750
    assert smaller.geco.target > smaller.log_std * 3 * 96 * 96  # which is the nll of a perfect reconstruction
    assert EffMORL((96, 96), geco_target=-50_000.0).geco.target == -50_000


def test_geco_holds_until_the_warm_start_and_then_pulls() -> None:
    model = effmorl(geco_target=-900.0).train()
    for step in (0, WARM_START - 1):
        model.after_step(step, {"rec_loss": torch.tensor(100.0)})
    assert (model.geco.ema, model.geco.beta) == (0.0, pytest.approx(0.55))
    model.after_step(WARM_START, {"rec_loss": torch.tensor(100.0)})
    assert (model.geco.ema, model.geco.beta) == (-1000.0, pytest.approx(0.55))
    model.after_step(WARM_START + 1, {"rec_loss": torch.tensor(1100.0)})
    assert model.geco.ema == pytest.approx(-1010.0)
    assert model.geco.beta == pytest.approx(0.55 + 1e-6 * 1010, abs=1e-7)


def test_without_geco_the_weight_stays() -> None:
    model = effmorl(use_geco=False).train()
    for step in range(WARM_START, WARM_START + 3):
        model.after_step(step, {"rec_loss": torch.tensor(100.0)})
    assert (model.geco.ema, model.geco.beta) == (0.0, pytest.approx(0.55))


def test_geco_before_or_after_backward_is_the_same() -> None:
    """The original updates between forward and backward; the trainer calls `after_step` after the optimiser."""
    found = []
    for early in (True, False):
        model = effmorl(geco_target=-900.0, geco_step_size=1e-2).train()
        model.geco.ema.fill_(-50.0)
        model.noise, step = SameNoise(), WARM_START + 1
        terms = model.loss({"image": images()}, step)
        if early:
            model.after_step(step, terms)
        terms["loss"].backward()
        if not early:
            model.after_step(step, terms)
        found.append({"loss": terms["loss"].detach(), **model.state_dict(), **gradients(model)})
    assert found[0]["geco.beta"] > 0.56
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_loss_is_the_elbo_before_the_warm_start() -> None:
    """With one layer and no refinement there is one term, of weight 3."""
    model = effmorl(num_layers=1, refinement_curriculum=[[-1, 0]], kl_weight=0.5).train()
    terms = model.loss({"image": images()}, 0)
    torch.testing.assert_close(terms["loss"], 3 * (terms["rec_loss"] + 0.5 * terms["kl"]))
    terms = model.loss({"image": images()}, WARM_START)
    torch.testing.assert_close(terms["loss"], 3 * 0.5 * terms["kl"])  # GECO's average is still zero


@pytest.mark.parametrize("image_size", [(12, 12), (10, 14)])
def test_decomposition_is_valid(image_size: tuple[int, int]) -> None:
    model = effmorl(image_size).eval()
    found = model.decompose({"image": images(2, image_size)}, fixed_noise()).detach().validate()
    assert found.masks.shape == (2, SLOTS, *image_size)
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(2, *image_size))
    torch.testing.assert_close(found.recon, (found.masks[:, :, None] * found.rgb).sum(dim=1))
    assert model.train().loss({"image": images(2, image_size)}, 0)["loss"].isfinite()


def test_rows_and_columns_are_told_apart() -> None:
    """A transposed picture under transposed kernels, with the position weights exchanged, gives transposed masks."""
    model, turned = effmorl((10, 14)).eval(), effmorl((14, 10)).eval()
    rows_and_columns = [3, 2, 1, 0]  # (1 - row, row, column, 1 - column) read backwards
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("position.weight"):
            state[name] = value[:, rows_and_columns]
        elif value.ndim == 4:
            state[name] = value.transpose(2, 3)
    turned.load_state_dict(state)
    one = model.decompose({"image": images(2, (10, 14))}, fixed_noise())
    other = turned.decompose({"image": images(2, (10, 14)).transpose(2, 3)}, fixed_noise())
    torch.testing.assert_close(other.masks.transpose(2, 3), one.masks, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.recon.transpose(2, 3), one.recon, rtol=1e-3, atol=1e-4)


def test_images_do_not_see_each_other_in_evaluation() -> None:
    model = effmorl().eval()
    together = model.decompose({"image": images(3)}, fixed_noise())
    for i in range(3):
        row = slice(i, i + 1)
        alone = model.decompose({"image": images(3)[row]}, fixed_noise(row, count=3))
        torch.testing.assert_close(alone.recon, together.recon[row], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.masks, together.masks[row], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.slots, together.slots[row], rtol=1e-3, atol=1e-4)


def test_chunks_change_no_number() -> None:
    results = []
    for chunk in (1, 3):
        model = effmorl(images_per_chunk=chunk).train()
        found = model(images(3), 0, noise=fixed_noise())
        found.loss.backward()
        results.append((found.loss.detach(), gradients(model)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for name, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][name], rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_bf16_stays_near_float32() -> None:
    model = effmorl().train()
    exact = model(images(), 0, noise=fixed_noise())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images(), 0, noise=fixed_noise())
        found = model.eval().decompose({"image": images()}, fixed_noise())
    assert rough.loss.dtype == found.masks.dtype == found.recon.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.05, atol=0)
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(2, 12, 12))


def test_checkpoints_of_the_original_map_both_ways() -> None:
    ours = effmorl().state_dict()
    theirs = to_original(ours)
    assert "geco_C_ema" in theirs
    assert theirs["hvae_networks.gru.cell.weight_ih_1"].shape == (2 * SIZE, SIZE)
    lightning = {f"model.{key}": value for key, value in theirs.items()}
    lightning["model.hvae_networks.gru.cell.zeros"] = torch.zeros(SIZE)  # which torch 1.8 stored
    back = from_original(lightning)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], value) for name, value in ours.items())
    assert not any(key.startswith("geco") for key in to_original(dict(effmorl().named_parameters())))


def test_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'lamda_0' is no parameter of EfficientMORL"):
        from_original({"model.lamda_0": torch.zeros(1, 16)})
