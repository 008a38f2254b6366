"""The slot attention of the video models beside the algorithm as it is written down."""

import pytest
import torch
from torch import Tensor

from core.nn.slot_attention import SlotAttention, compete


def build(num_iterations: int = 2) -> SlotAttention:
    torch.manual_seed(0)
    return SlotAttention(in_features=6, slot_size=8, mlp_hidden_size=12, num_iterations=num_iterations)


def given() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 20, 6, generator=generator), torch.randn(2, 3, 8, generator=generator)


def as_written(module: SlotAttention, inputs: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Locatello et al. (2020), algorithm 1, with keys and values."""
    normed = module.norm_inputs(inputs)
    keys, values = module.project_k(normed), module.project_v(normed)
    for _ in range(module.num_iterations):
        updates, attention = compete(module.project_q(slots) * 8**-0.5, keys, values, module.epsilon)
        slots = module.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        slots = slots + module.mlp(slots)
    return slots, attention


@pytest.mark.parametrize("num_iterations", [1, 3])
def test_slots_and_all_gradients_are_those_of_the_algorithm(num_iterations: int) -> None:
    found = []
    for run in (SlotAttention.forward, as_written):
        module, (inputs, slots) = build(num_iterations), given()
        refined, attention = run(module, inputs.requires_grad_(), slots.requires_grad_())
        (refined * torch.arange(8)).sum().backward()
        gradients = [inputs.grad, slots.grad, *(value.grad for value in module.parameters())]
        found.append([refined.detach(), attention.detach(), *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=5e-6)


def test_slots_compete_for_every_input_and_carry_no_gradient_through_the_attention() -> None:
    _, attention = build()(*given())
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2, 20))
    assert not attention.requires_grad


def test_frames_may_be_projected_together() -> None:
    module, (inputs, slots) = build(), given()
    together = module.project(torch.stack((inputs, 2 * inputs + 1), dim=1)).unbind(1)[1]
    torch.testing.assert_close(module.refine(together, slots)[0], module(2 * inputs + 1, slots)[0])


def test_half_precision_stays_outside() -> None:
    module, (inputs, slots) = build(), given()
    expected = module.refine(module.project(inputs), slots)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = module.refine(module.project(inputs), slots)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
