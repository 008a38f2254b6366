"""Encoders of whole pictures, and batch normalisation over several processes."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from clevrtex.models.batch_norm import BatchNorm2d, mean_over_processes
from clevrtex.models.resnet import Encoder

PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "vgg16": 14_723_136,
}
"""Of the published networks, less their classifiers."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_networks_have_their_parameters(name: str) -> None:
    with torch.device("meta"):
        encoder = Encoder(name, (64, 64), (2, 2))
    assert sum(value.numel() for value in encoder.parameters()) == PARAMETERS[name]
    assert encoder.num_features == 4 * (2048 if name in ("resnet50", "resnet101", "resnet152") else 512)


@pytest.mark.parametrize(
    ("name", "pool", "count"), [("resnet18", (2, 3), 3072), ("small", (2, 2), 40), ("small", None, 160)]
)
def test_features(name: str, pool: tuple[int, int] | None, count: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name, (32, 32), pool)
    found = encoder(torch.rand(3, 3, 32, 32))
    assert found.shape == (3, count)
    assert encoder.num_features == count
    found.square().sum().backward()
    assert all(value.grad.isfinite().all() for value in encoder.parameters())


def test_wrong_name_and_small_pictures() -> None:
    with pytest.raises(ValueError, match="--encoder 'resnet8': did you mean 'resnet"):
        Encoder("resnet8", (32, 32), (2, 2))
    with pytest.raises(ValueError, match="--encoder small: pictures of 8x8 are too small"):
        Encoder("small", (8, 8), (2, 2))


def halves_of_a_batch(rank: int, folder: Path, norm: BatchNorm2d, maps: torch.Tensor) -> None:
    """One process of two, with its half of `maps`; writes what came of it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    norm, own = copy.deepcopy(norm), maps.chunk(2)[rank].clone().requires_grad_()  # not in shared memory
    found = norm(own)
    found.pow(3).mean().backward()
    torch.save(
        {
            "out": found.detach(),
            "grad": own.grad / 2,  # the loss is the mean of both halves
            "weight": mean_over_processes(norm.weight.grad),
            "state": norm.state_dict(),
        },
        folder / f"{rank}.pt",
    )
    dist.destroy_process_group()


def test_two_processes_normalise_as_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, shared = nn.BatchNorm2d(3), BatchNorm2d(3)
    nn.init.normal_(plain.weight)
    shared.load_state_dict(plain.state_dict())
    maps = (2 * torch.randn(4, 3, 5, 6) + 1).requires_grad_()
    torch.multiprocessing.spawn(halves_of_a_batch, (tmp_path, shared, maps.detach()), nprocs=2)
    expected = plain(maps)
    expected.pow(3).mean().backward()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat([part["out"] for part in parts]), expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([part["grad"] for part in parts]), maps.grad, rtol=1e-4, atol=1e-6)
    for part in parts:
        torch.testing.assert_close(part["weight"], plain.weight.grad, rtol=1e-4, atol=1e-6)
        for name, value in plain.state_dict().items():
            if name.startswith(("running", "num")):
                torch.testing.assert_close(part["state"][name], value)
