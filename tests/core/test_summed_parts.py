"""A loss taken part by part beside the same loss in one piece."""

import pytest
import torch
from torch import Tensor, nn

from core.nn.summed_parts import sum_over_parts


def given() -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    values, targets, shift = (torch.randn(*size, generator=generator) for size in ((7, 4), (7, 3), (3,)))
    return nn.Linear(4, 3), values.requires_grad_(), targets, shift.requires_grad_()


def error(layer: nn.Linear, values: Tensor, targets: Tensor, shift: Tensor) -> Tensor:
    return (layer(values).tanh() + shift - targets).square().sum()


@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_value_and_gradients_are_those_of_the_whole(size: int) -> None:
    found = []
    for in_parts in (True, False):
        layer, values, targets, shift = given()
        layer.bias.requires_grad_(False)
        if in_parts:
            total = sum_over_parts(
                lambda *tensors, layer=layer: error(layer, *tensors),
                (values, targets),
                (2 * shift,),
                layer.parameters(),
                size,
            )
        else:
            total = error(layer, values, targets, 2 * shift)
        (3 * total).backward()
        assert layer.bias.grad is None
        found.append([total.detach(), values.grad, shift.grad, layer.weight.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_gradients_it_is_only_summed() -> None:
    layer, values, targets, shift = given()
    seen = []

    def watched(*tensors: Tensor) -> Tensor:
        seen.append((len(tensors[0]), torch.is_grad_enabled()))
        return error(layer, *tensors)

    with torch.no_grad():
        total = sum_over_parts(watched, (values, targets), (shift,), layer.parameters(), 3)
    torch.testing.assert_close(total, error(layer, values, targets, shift).detach())
    assert seen == [(3, False), (3, False), (1, False)]


def test_one_part_at_a_time_keeps_its_graph() -> None:
    layer, values, targets, shift = given()
    alive: list[int] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value: Tensor) -> Tensor:
            alive.append(1)
            return value.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            assert sum(alive) == 1
            alive.clear()
            return gradient

    def watched(values: Tensor, targets: Tensor, shift: Tensor) -> Tensor:
        return error(layer, Watched.apply(values), targets, shift)

    sum_over_parts(watched, (values, targets), (shift,), layer.parameters(), 2).backward()
    assert not alive


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, 1000.0), (torch.bfloat16, 1.0)])
def test_float16_gets_the_scale_of_the_loss(dtype: torch.dtype, expected: float) -> None:
    layer, values, targets, shift = given()
    seen = []

    def watched(values: Tensor, targets: Tensor, shift: Tensor) -> Tensor:
        total = error(layer, values, targets, shift)
        total.register_hook(lambda gradient: seen.append(float(gradient)))
        return total

    with torch.autocast("cpu", dtype):
        total = sum_over_parts(watched, (values, targets), (shift,), layer.parameters(), 4)
    (1000 * total).backward()
    assert seen == [expected, expected]


def test_what_the_loss_does_not_read_gets_no_gradient() -> None:
    layer, values, targets, shift = given()
    apart = nn.Parameter(torch.ones(2))
    total = sum_over_parts(
        lambda *tensors: error(layer, *tensors), (values, targets), (shift,), [*layer.parameters(), apart], 3
    )
    (total + apart.sum()).backward()
    assert torch.equal(apart.grad, torch.ones(2))
    assert layer.weight.grad is not None
