"""Checks that the tests of GNM and SPACE share."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from core.nn.noise import Noise, ShardedNoise

State = Mapping[str, Tensor]


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def noise_of(rows: slice, count: int) -> Noise:
    """Draws of some of `count` images, the same for each of them in whatever batch it is."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        return torch.randn(count, *shape[1:], generator=generator)[rows]

    return draw


def parameters_out_of_reach(model: nn.Module) -> list[str]:
    """Names of those that have no gradient, or one that is not finite."""
    return [name for name, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]


def assert_close_in_bfloat16(model: nn.Module, atol: float) -> None:
    """Terms of the loss are float32 and close to those without autocast, all gradients finite."""
    model.noise = ShardedNoise(seed=1)
    full = model.loss({"image": images()}, 0)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss({"image": images()}, 0)
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, full[name], rtol=0.1, atol=atol)
    half["loss"].backward()
    assert all(value.grad.dtype == torch.float32 and value.grad.isfinite().all() for value in model.parameters())


def assert_names_go_there_and_back(
    name: str,
    state: State,
    to_original: Callable[[State], State],
    from_original: Callable[[State], State],
    constants: State,
) -> None:
    """`constants` are buffers of the original that ours lacks."""
    theirs = to_original(state)
    back = from_original({f"model.{key}": value for key, value in (theirs | constants).items()})
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    with pytest.raises(ValueError, match=rf"'img_encodr\.z' is no parameter of {name}"):
        from_original({"img_encodr.z": torch.zeros(1)})


def assert_wants_squares(model: Callable[[tuple[int, int]], nn.Module], name: str) -> None:
    for size in ((16, 16), (96, 96), (64, 128)):
        with pytest.raises(ValueError, match=rf"--data: {name} takes square images .* found {size[0]}x{size[1]}"):
            model(size)
