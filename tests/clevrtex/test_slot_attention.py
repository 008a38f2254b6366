"""Properties that ClevrTex's Slot Attention must have, whatever its weights."""

import pytest
import torch
from torch import Tensor

from clevrtex.models.slot_attention import SlotAttention
from clevrtex.original.slota import from_original, to_original
from core.nn.noise import Noise, ShardedNoise

SLOTS, SIZE = 3, 8


def lively(image_size: tuple[int, int] = (32, 32), initial_size: tuple[int, int] = (2, 2)) -> SlotAttention:
    """A small model with large weights, so that the slots differ."""
    torch.manual_seed(0)
    model = SlotAttention(image_size, SLOTS, 2, hidden=SIZE, mlp_hidden=16, decoder_initial_size=initial_size)
    for value in model.parameters():
        if value.ndim > 1:
            value.data *= 2
    return model


def images(count: int = 2, image_size: tuple[int, int] = (32, 32)) -> Tensor:
    return torch.rand(count, 3, *image_size, generator=torch.Generator().manual_seed(1))


def draws(count: int = 2) -> Tensor:
    return torch.randn(count, SLOTS, SIZE, generator=torch.Generator().manual_seed(2))


def given(values: Tensor) -> Noise:
    return lambda name, shape: values.view(shape)


def test_decomposition_is_valid_and_cut_to_the_range_of_pictures() -> None:
    model = lively().eval()
    with torch.no_grad():
        model.decoder.layers[-1].bias[:3] = torch.tensor([-2.0, 0.5, 3.0])
        raw = model(images(), given(draws()))
        found = model.decompose({"image": images()}, given(draws())).validate()
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(2, 32, 32))
    torch.testing.assert_close(raw.recon, (raw.masks[:, :, None] * raw.rgb).sum(dim=1))
    assert raw.recon.min() < 0
    assert raw.recon.max() > 1
    assert torch.equal(found.recon, raw.recon.clamp(0, 1))
    assert torch.equal(found.rgb, raw.rgb.clamp(0, 1))
    assert found.slots.shape == (2, SLOTS, SIZE)
    torch.testing.assert_close(found.extras["attention"].sum(dim=1), torch.ones(2, 32, 32))


def test_loss_is_the_squared_error_before_the_cut() -> None:
    model = lively()
    model.noise = ShardedNoise(seed=5)
    raw = model(images(), model.noise.at(3, torch.device("cpu")))
    expected = (raw.recon - images()).square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(model.loss({"image": images()}, 3)["loss"], expected)
    assert model.loss({"image": images()}, 4)["loss"] != expected


def test_slots_are_exchangeable() -> None:
    """Draws in another order give the same slots in that order: no slot is special."""
    model, order = lively().eval(), [2, 0, 1]
    one, other = model(images(), given(draws())), model(images(), given(draws()[:, order]))
    torch.testing.assert_close(other.slots, one.slots[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.masks, one.masks[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.recon, one.recon, rtol=1e-4, atol=1e-5)


def test_images_do_not_see_each_other() -> None:
    model, noise = lively(), draws(3)
    together = model(images(3), given(noise))
    for i in range(3):
        alone = model(images(3)[i : i + 1], given(noise[i : i + 1]))
        torch.testing.assert_close(alone.recon, together.recon[i : i + 1], rtol=1e-4, atol=1e-5)


def test_slots_decoded_one_by_one_change_no_number() -> None:
    model = lively()
    slots = draws().flatten(0, 1)
    whole = model.decoder(slots)
    model.decoder.floats_per_slot = 2**30
    assert whole.shape == (2 * SLOTS, 4, 32, 32)
    torch.testing.assert_close(model.decoder(slots), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("image_size", "initial_size"), [((24, 40), (2, 2)), ((32, 48), (2, 3))])
def test_other_sizes(image_size: tuple[int, int], initial_size: tuple[int, int]) -> None:
    model = lively(image_size, initial_size)
    found = model.decompose({"image": images(2, image_size)}).detach().validate()
    assert found.recon.shape == (2, 3, *image_size)


def test_gradient_reaches_every_parameter() -> None:
    model = lively().train()
    model.loss({"image": images()}, 0)["loss"].backward()
    assert all(value.grad.abs().sum() > 0 for value in model.parameters())


def test_bf16_stays_near_float32() -> None:
    model, noise = lively(), given(draws())
    exact = model(images(), noise)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images(), noise)
    assert rough.recon.dtype == rough.masks.dtype == rough.slots.dtype == torch.float32
    error, expected = ((images() - found.recon).square().sum() for found in (rough, exact))
    torch.testing.assert_close(error, expected, rtol=0.05, atol=0)


def test_published_size() -> None:
    assert sum(value.numel() for value in SlotAttention().parameters()) == 2_987_524


def test_original_names_and_back() -> None:
    ours = lively().state_dict()
    theirs = to_original(ours)
    assert theirs["layer_norm.weight"].shape == (SIZE, 32, 32)
    assert theirs["decoder_pos.aff.weight"].shape == (SIZE, 4, 1, 1)
    checkpoint = {f"model.{key}": value for key, value in theirs.items()} | {"model.encoder_pos.grid": torch.zeros(1)}
    again = from_original(checkpoint)
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    with pytest.raises(ValueError, match="'lamda_0' is no parameter of Slot Attention"):
        from_original({"lamda_0": torch.zeros(1)})
