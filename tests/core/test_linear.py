"""Linear layers by way of convolutions."""

import pytest
import torch
import torch.nn.functional as F

from core.nn.linear import Linear, linear


@pytest.mark.parametrize("shape", [(64, 5), (2, 32, 5), (63, 5), (3, 5)])
def test_linear_layers_by_convolution_equal_the_product(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(shape, generator=generator, requires_grad=True)
    weight = torch.randn(6, 5, generator=generator, requires_grad=True)
    bias = torch.randn(6, generator=generator, requires_grad=True)
    ours, theirs = linear(inputs, weight, bias), F.linear(inputs, weight, bias)
    torch.testing.assert_close(ours, theirs)
    found, expected = (torch.autograd.grad(value.sin().sum(), (inputs, weight, bias)) for value in (ours, theirs))
    torch.testing.assert_close(found, expected)


def test_layer_is_that_of_pytorch_in_any_precision() -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(5, 6), torch.nn.Linear(5, 6)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(128, 5)
    torch.testing.assert_close(ours(inputs), theirs(inputs))
    torch.testing.assert_close(ours.double()(inputs.double()), theirs.double()(inputs.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.float()(inputs).dtype == torch.bfloat16
