"""Residual nets with group norm: sizes, dilation, and the group norm's own backward pass."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slotdiffusion.models.group_norm import GroupNorm
from slotdiffusion.models.resnet import BasicBlock, ResNet


def pictures(height: int = 16, width: int = 16, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("resolution", "use_layer4", "dilated", "grid", "channels"),
    [
        ((16, 16), False, (False, False, False), (4, 4), 256),
        ((16, 16), True, (False, False, False), (2, 2), 512),
        ((16, 16), True, (False, False, True), (4, 4), 512),
        ((16, 24), True, (False, True, True), (8, 12), 512),
        ((12, 16), False, (True, True, False), (12, 16), 256),
        ((18, 22), False, (False, False, False), (5, 6), 256),
        ((17, 9), True, (False, False, False), (3, 2), 512),
    ],
)
def test_sizes_are_those_that_it_says(resolution, use_layer4, dilated, grid, channels) -> None:
    net = ResNet("resnet18", resolution, use_layer4, dilated)
    with torch.no_grad():
        features = net(pictures(*resolution))
    assert (net.grid, net.channels) == (grid, channels)
    assert features.shape == (2, channels, *grid)
    assert hasattr(net, "layer4") == use_layer4


def test_published_sizes() -> None:
    with torch.device("meta"):
        net, deep = ResNet("resnet18", (128, 128)), ResNet("resnet34", (64, 96), use_layer4=True)
    assert (net.grid, deep.grid) == ((32, 32), (8, 12))
    assert [len(getattr(deep, f"layer{number}")) for number in (1, 2, 3, 4)] == [3, 4, 6, 3]
    # 3x3 kernels of torchvision's 21 284 672 parameters, but for the first, which is 7x7 there.
    assert sum(value.numel() for value in deep.parameters()) == 21_284_672 - 64 * 3 * (49 - 9)


def test_dilation_sees_what_strides_see() -> None:
    """Without norms, which look at the size, every second or fourth feature is the same."""
    torch.manual_seed(0)
    strided = ResNet("resnet34", (16, 16), True, (False, False, False))
    dilated = ResNet("resnet34", (16, 16), True, (False, True, True))
    dilated.load_state_dict(strided.state_dict())
    for net in (strided, dilated):
        for module in list(net.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.GroupNorm):
                    setattr(module, name, nn.Identity())
    with torch.no_grad():
        few, many = strided(pictures()), dilated(pictures())
    assert (few.shape[-1], many.shape[-1]) == (2, 8)
    torch.testing.assert_close(many[:, :, ::4, ::4], few, rtol=1e-3, atol=1e-3 * float(few.std()))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_two_convolutions_and_a_shortcut(stride: int) -> None:
    torch.manual_seed(0)
    block = BasicBlock(32, 64, stride, 1, 1)
    for value in block.parameters():
        value.data += 0.1 * torch.randn_like(value)
    features = torch.randn(2, 32, 8, 8)
    found = F.conv2d(features, block.conv1.weight, stride=stride, padding=1)
    found = F.group_norm(found, 32, block.bn1.weight, block.bn1.bias, 1e-5).relu()
    found = F.conv2d(found, block.conv2.weight, padding=1)
    found = F.group_norm(found, 32, block.bn2.weight, block.bn2.bias, 1e-5)
    convolution, norm = block.downsample
    kept = F.group_norm(F.conv2d(features, convolution.weight, stride=stride), 32, norm.weight, norm.bias, 1e-5)
    torch.testing.assert_close(block(features), (found + kept).relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "groups", "size"), [(64, 32, (8, 8)), (8, 1, (3, 5)), (4, 4, (1, 7))])
def test_group_norm_has_the_gradient_of_the_plain_one(channels, groups, size, memory_format) -> None:
    torch.manual_seed(0)
    ours, plain = GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
    for value in ours.parameters():
        value.data += torch.randn_like(value)
    plain.load_state_dict(ours.state_dict())
    features = (3 + 2 * torch.randn(3, channels, *size)).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(3, channels, *size)
    found, expected = (
        torch.autograd.grad((norm(features) * weight).sum(), [features, *norm.parameters()]) for norm in (ours, plain)
    )
    torch.testing.assert_close(ours(features), plain(features))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_every_weight_is_trained_and_half_precision_is_close() -> None:
    torch.manual_seed(0)
    net, found = ResNet("resnet18", (16, 16), use_layer4=True), []
    weight = torch.randn(2, 512, 2, 2)
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = (net(pictures()).float() * weight).sum()
        loss.backward()
        assert all(value.grad is not None and value.grad.any() for value in net.parameters())
        found.append(torch.cat([value.grad.flatten() for value in net.parameters()]))
    assert F.cosine_similarity(*found, dim=0) > 0.95


def test_arguments_that_cannot_be_say_so() -> None:
    with pytest.raises(ValueError, match="resnet='resnet50' is not one of resnet18, resnet34"):
        ResNet("resnet50", (16, 16))
    with pytest.raises(ValueError, match=r"replace_stride_with_dilation=\(True,\): expected three answers"):
        ResNet("resnet18", (16, 16), replace_stride_with_dilation=(True,))
