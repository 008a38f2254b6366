"""The UNet that is told of slots, and its layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slotdiffusion.models.product_layers import Conv2d, Linear
from slotdiffusion.models.unet import UNet, time_embedding
from slotdiffusion.models.unet_blocks import GroupNorm, ResBlock, SpatialTransformer, Upsample
from tests.tiny_diffusion import UNET, tiny_unet


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, 3, 8, 8), torch.tensor([3.0, 512.25, 999.0])[:batch], torch.randn(batch, 5, 12)


def test_begins_at_zero() -> None:
    """A fresh UNet predicts nothing, and its residual branches add nothing."""
    model = UNet(**UNET)
    latents, times, context = inputs()
    assert not model(latents, times, model.project(context)).any()
    features = torch.randn(2, 64, 4, 4)
    assert torch.equal(ResBlock(64, 64, 128, 0.0)(features, torch.randn(2, 128)), features)
    transformer = SpatialTransformer(64, 16, 1, 12)
    assert torch.equal(transformer(features, transformer.project(context)), features)


def test_keys_of_slots_serve_many_steps() -> None:
    model = tiny_unet()
    latents, times, context = inputs()
    slots = model.project(context)
    first = model(latents, times, slots)
    assert torch.equal(model(latents, times, model.project(context)), first)
    assert torch.equal(model(latents, times, slots), first)
    assert not torch.allclose(model(latents, times + 300, slots), first, atol=1e-3)


def test_one_time_for_all_pictures() -> None:
    model = tiny_unet()
    latents, _, context = inputs()
    slots = model.project(context)
    found = model(latents, torch.tensor([250.5]), slots)
    torch.testing.assert_close(found, model(latents, torch.tensor([250.5, 250.5]), slots))


def test_order_of_slots_does_not_matter() -> None:
    model = tiny_unet()
    latents, times, context = inputs()
    found = model(latents, times, model.project(context))
    shuffled = model(latents, times, model.project(context[:, [3, 0, 4, 1, 2]]))
    torch.testing.assert_close(shuffled, found, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(latents, times, model.project(context.flip(0))), found, atol=1e-3)


def test_pictures_do_not_see_each_other() -> None:
    model = tiny_unet()
    latents, times, context = inputs()
    whole = model(latents, times, model.project(context))
    alone = model(latents[1:], times[1:], model.project(context[1:]))
    torch.testing.assert_close(whole[1:], alone, rtol=1e-4, atol=1e-5)


def test_without_slots() -> None:
    model = tiny_unet(context_dim=None)
    latents, times, _ = inputs()
    assert model(latents, times).shape == latents.shape


def test_checkpointing_changes_no_gradient() -> None:
    latents, times, context = inputs()
    gradients = []
    for use_checkpoint in (False, True):
        model = tiny_unet(use_checkpoint=use_checkpoint)
        slots = context.clone().requires_grad_()
        model(latents, times, model.project(slots)).square().sum().backward()
        gradients.append([slots.grad, *(value.grad for value in model.parameters())])
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=1e-6)


def test_time_embedding() -> None:
    times = torch.tensor([0.0, 2.5])
    found = time_embedding(times, 7)
    frequencies = 10000.0 ** (-torch.arange(3) / 3)
    expected = torch.cat(((2.5 * frequencies).cos(), (2.5 * frequencies).sin(), torch.zeros(1)))
    torch.testing.assert_close(found[0], torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(found[1], expected)
    torch.testing.assert_close(time_embedding(torch.tensor([7]), 8), time_embedding(torch.tensor([7.0]), 8))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "size", "is_product"),
    [(128, 3, 1, 4, True), (128, 3, 2, 8, True), (96, 3, 2, 5, True), (32, 1, 1, 8, True), (32, 3, 1, 8, False)],
)
def test_convolution_as_a_product(channels: int, kernel: int, stride: int, size: int, is_product: bool) -> None:
    layer = Conv2d(channels, 48, kernel, stride, padding=kernel // 2).to(memory_format=torch.channels_last)
    features = torch.randn(2, channels, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = layer(features)
    assert ("Convolution" not in repr(found.grad_fn)) == is_product
    expected = F.conv2d(features, layer.weight, layer.bias, stride, kernel // 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    leaves, gradient = (features, layer.weight, layer.bias), torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(value, leaves, gradient) for value in (found, expected))
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert ours[1].stride() == layer.weight.stride()


def test_linear_layer_as_a_product() -> None:
    layer = Linear(24, 16)
    inputs = torch.randn(3, 5, 24, requires_grad=True)
    expected = F.linear(inputs, layer.weight, layer.bias)
    found, leaves = layer(inputs), (inputs, layer.weight, layer.bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradient = torch.randn_like(found).transpose(0, 1).contiguous().transpose(0, 1)
    ours, theirs = (torch.autograd.grad(value, leaves, gradient) for value in (found, expected))
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
    assert layer.double()(inputs.double()).dtype == torch.float64


@pytest.mark.parametrize("size", [2, 8])
def test_large_maps_are_not_enlarged(size: int) -> None:
    layer = Upsample(32)
    features = torch.randn(1, 32, size, size)
    enlarged = F.interpolate(features, scale_factor=2, mode="nearest")
    expected = F.conv2d(enlarged, layer.conv.weight, layer.conv.bias, padding=1)
    torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-5)


def test_group_norm_is_full_precision_under_autocast() -> None:
    norm = GroupNorm(64)
    features = (300 + torch.randn(2, 64, 8, 8)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(features)
    assert found.dtype == torch.bfloat16
    expected = F.group_norm(features.float(), 32, norm.weight, norm.bias, 1e-5)
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_half_precision_is_near() -> None:
    model = tiny_unet()
    latents, times, context = inputs()
    exact = model(latents, times, model.project(context))
    with torch.autocast("cpu", torch.bfloat16):
        found = model(latents, times, model.project(context))
    assert (found.float() - exact).norm() < 0.05 * exact.norm()


def test_convolutions_keep_channels_last() -> None:
    model = copy.deepcopy(tiny_unet())
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    model.load_state_dict({key: value.contiguous() for key, value in tiny_unet(1).state_dict().items()})
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_mult": (2, 4)}, "must begin with 1"),
        ({"model_channels": 24}, "24 channels; each needs a multiple of 32"),
        ({"num_head_channels": 48}, "num_head_channels=48 does not divide the 64 channels"),
    ],
)
def test_widths_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**{**UNET, **options})
