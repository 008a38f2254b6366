"""Properties that IODINE must have, whatever its weights."""

import copy

import pytest
import torch
from torch import Tensor

from clevrtex.models.iodine import IODINE
from clevrtex.models.iodine_refinement import explain
from clevrtex.original.iodine import from_original, to_original
from core.nn.noise import Noise, ShardedNoise

SLOTS, SIZE, ITERATIONS, SIDE = 3, 6, 3, 16


def lively(image_size: tuple[int, int] = (SIDE, SIDE), **options: object) -> IODINE:
    """A small model with weights at unit scale: the published start makes all outputs nearly constant."""
    settings = {"slot_size": SIZE, "lstm_size": 10, "channels": 8, "std": 0.3, "num_iterations": ITERATIONS, **options}
    model = IODINE(image_size, SLOTS, **settings)
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        fan_in = value[0].numel() if value.ndim > 1 else 16
        value.data.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    return model


def images(count: int = 2, image_size: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
    return torch.rand(count, 3, *image_size, generator=torch.Generator().manual_seed(1))


def draws(count: int = 2) -> Tensor:
    return torch.randn(count, ITERATIONS, SLOTS, SIZE, generator=torch.Generator().manual_seed(2))


def given(values: Tensor) -> Noise:
    return lambda name, shape: values[:, int(name.removeprefix("iteration_"))].reshape(shape)


def gradients(model: IODINE, count: int = 2) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = model(images(count), given(draws(count))).loss
    loss.backward()
    return loss.detach(), [value.grad.clone() for value in model.parameters()]


def test_decomposition_is_valid() -> None:
    model = lively().eval()
    found = model.decompose({"image": images()}, given(draws())).validate()
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(2, SIDE, SIDE))
    torch.testing.assert_close(found.recon, (found.masks[:, :, None] * found.rgb).sum(dim=1))
    assert found.slots.shape == found.extras["posterior_std"].shape == (2, SLOTS, SIZE)
    mean, std = found.slots, found.extras["posterior_std"]
    torch.testing.assert_close(found.extras["samples"], mean + std * draws()[:, -1])


def test_slots_are_exchangeable() -> None:
    """Draws in another order give the same slots in that order: no slot is special."""
    model, order = lively().eval(), [2, 0, 1]
    one = model.decompose({"image": images()}, given(draws()))
    other = model.decompose({"image": images()}, given(draws()[:, :, order]))
    torch.testing.assert_close(other.slots, one.slots[:, order], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.masks, one.masks[:, order], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.recon, one.recon, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
def test_images_do_not_see_each_other(training: bool) -> None:
    model, both, noise = lively().train(training), images(3), draws(3)
    together = model(both, given(noise), images_per_mean=1)
    for i in range(3):
        alone = model(both[i : i + 1], given(noise[i : i + 1]))
        torch.testing.assert_close(alone.nll, together.nll[i : i + 1], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(alone.rgb, together.rgb[i : i + 1], rtol=1e-3, atol=1e-4)


def test_the_original_shows_a_slot_another_image() -> None:
    """(b K + k) mod B: with two images and three slots that is right for every other slot only."""
    model, noise = lively(as_original=True).eval(), given(draws())
    seen = []
    model.refinement.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0][:, :3]))
    model(images(), noise)
    assert len(seen) == ITERATIONS - 1
    for i, image in enumerate(seen[0]):
        assert torch.equal(image, images()[i % 2])
    model.as_original = False
    model(images(), noise)
    assert torch.equal(seen[-1].unflatten(0, (2, SLOTS)), images()[:, None].expand(-1, SLOTS, -1, -1, -1))


def test_checkpointing_changes_no_number_and_keeps_less() -> None:
    def bytes_kept(model: IODINE) -> int:
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value: kept.setdefault(value.untyped_storage().data_ptr(), value), lambda value: value
        ):
            model(images(), given(draws()))
        return sum(value.untyped_storage().nbytes() for value in kept.values())

    plain = lively().train()
    thrifty = copy.deepcopy(plain)
    thrifty.checkpointing = True
    loss, of_plain = gradients(plain)
    same_loss, of_thrifty = gradients(thrifty)
    assert torch.equal(loss, same_loss)
    for one, other in zip(of_plain, of_thrifty):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=0)
    four_layers = sum((SIDE + border) ** 2 for border in (6, 4, 2, 0)) * 8 * 4
    assert bytes_kept(plain) - bytes_kept(thrifty) > 0.95 * ITERATIONS * 2 * SLOTS * four_layers


def test_slots_decoded_one_by_one_change_no_number() -> None:
    model = lively().train()
    loss, whole = gradients(model)
    model.decoder.floats_per_slot = 2**30
    same_loss, one_by_one = gradients(model)
    torch.testing.assert_close(same_loss, loss)
    for one, other in zip(whole, one_by_one):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


def test_decoder_equals_the_convolution_of_the_tiled_slot() -> None:
    decoder = lively((10, 14)).decoder
    slots = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(2))
    tiled = slots[:, :, None, None].expand(-1, -1, 18, 22)
    columns = torch.linspace(-1, 1, 22).expand(4, 1, 18, 22)
    rows = torch.linspace(-1, 1, 18)[:, None].expand(4, 1, 18, 22)
    expected = decoder.layers(torch.cat((tiled, columns, rows), dim=1))
    torch.testing.assert_close(decoder(slots), expected, rtol=1e-4, atol=1e-5)


def test_leave_one_out_is_the_mixture_of_the_others() -> None:
    pictures = 4 * torch.randn(2, 4, 4, 5, 6, generator=torch.Generator().manual_seed(3))
    image = images(2, (5, 6))
    found = explain(image, pictures, std=0.1).leave_one_out()
    for k in range(4):
        others = [j for j in range(4) if j != k]
        expected = explain(image, pictures[:, others], std=0.1).log_evidence
        torch.testing.assert_close(found[:, k], expected, rtol=1e-4, atol=1e-4)


def test_rectangular_pictures_work() -> None:
    model = lively((10, 14))
    image = images(2, (10, 14))
    assert model.train().loss({"image": image}, 0)["loss"].isfinite()
    assert model.eval().decompose({"image": image}).validate().recon.shape == (2, 3, 10, 14)


def test_gradient_reaches_every_parameter() -> None:
    for iterations in (1, 2):
        model = lively(num_iterations=iterations).train()
        model.loss({"image": images()}, 0)["loss"].backward()
        missing = [name for name, value in model.named_parameters() if value.grad is None]
        assert model.unused_parameters() == bool(missing), missing


def test_loss_weighs_later_iterations_more() -> None:
    """i / T: with weights that never change lambda, every iteration has the same expected loss."""
    model = lively(kl_weight=0.5)
    for value in model.refinement.update.parameters():
        value.data.zero_()
    same = draws()[:, :1].expand(-1, ITERATIONS, -1, -1)
    found = model(images(), given(same))
    one = (found.nll + 0.5 * found.kl).mean()
    torch.testing.assert_close(found.loss, (1 + 2 + 3) / ITERATIONS * one)


def test_evaluation_needs_no_graph_and_leaves_no_gradient() -> None:
    model = lively().eval()
    with_graph = model(images(), given(draws()))
    model.requires_grad_(False)
    with torch.no_grad():
        found = model(images(), given(draws()))
    assert not with_graph.loss.requires_grad
    assert not found.rgb.requires_grad
    assert all(value.grad is None for value in model.parameters())
    torch.testing.assert_close(found.rgb, with_graph.rgb)
    torch.testing.assert_close(model.train()(images(), given(draws())).loss, found.loss)


def test_loss_is_a_function_of_seed_and_step() -> None:
    model = lively().train()
    model.noise = ShardedNoise(seed=5)
    losses = [model.loss({"image": images()}, step)["loss"].item() for step in (3, 4, 3)]
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_stays_near_float32(checkpointing: bool) -> None:
    model = lively(checkpointing=checkpointing).train()
    exact = model(images(), given(draws()))
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images(), given(draws()))
    rough.loss.backward()
    assert rough.loss.dtype == rough.parameters.dtype == rough.rgb.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.03, atol=0)
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_published_size_and_start() -> None:
    model = IODINE()
    assert sum(value.numel() for value in model.parameters()) == 1_637_060
    assert torch.equal(model.initial, torch.cat((torch.zeros(128), torch.ones(128))))
    layer = model.decoder.layers[2]
    assert not layer.bias.any()
    torch.testing.assert_close(layer.weight.std().item(), 0.02 * (2 / (2 * 64 * 9)) ** 0.5, rtol=0.05, atol=0)


def test_original_names_and_back() -> None:
    ours = lively().state_dict()
    theirs = to_original(ours)
    assert theirs["lamda_0"].shape == (1, 2 * SIZE)
    assert theirs["refine_net.lstm.weight_ih_l0"].shape == (40, 10 + 4 * SIZE)
    checkpoint = {f"model.{key}": value for key, value in theirs.items()} | {"model.gmm_log_scale": torch.zeros(1)}
    again = from_original(checkpoint)
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    with pytest.raises(ValueError, match=r"'encoder_pos\.grid' is no parameter of IODINE"):
        from_original({"encoder_pos.grid": torch.zeros(1)})
