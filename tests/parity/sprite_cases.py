"""How the cases of the glimpse- and sprite-based models give their draws, outputs and gradients."""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from core.nn.noise import Noise
from tests.parity.golden import Case

FLOOR = 1e-6
"""Least tolerance, whatever the size of the numbers."""
ROUNDING = 1e-4
"""What a gradient of mere rounding may be, as a share of the largest."""


def constant_noise(case: Case, uniform: Collection[str] = ()) -> Noise:
    """Every normal draw is one number and every uniform draw another, as the json says; the latter by name.

    A model makes uniform draws from normal ones by the normal distribution function.
    """
    normal, flat = (
        float(re.search(rf"{kind}.*?constant (\d\.\d+)", case.info["noise"])[1])
        for kind in ("standard-normal draw", "uniform")
    )
    of_flat = torch.special.ndtri(torch.tensor(flat, dtype=torch.float64))
    return lambda name, shape: (
        of_flat.expand(shape) if name in uniform else torch.full(shape, normal, dtype=torch.float32)
    )


def output_tolerance(case: Case) -> float:
    """As a share of the largest number of an array: the first one that the json states."""
    return float(re.search(r"\d+(?:\.\d+)?e-\d+", case.info["tolerance"])[0])


def gradient_tolerance(case: Case) -> float:
    return float(re.search(r"([\d.]+e-\d+) for grad/", case.info["tolerance"])[1])


def check_outputs(case: Case, ours: Mapping[str, Tensor], prefix: str = "out/") -> None:
    """All recorded outputs. A name that ends in @k has every k-th row and column."""
    for key, theirs in case.tensors(prefix).items():
        name, _, every = key.partition("@")
        assert name in ours, f"{case.name}: no output {name!r}"
        found = ours[name].detach()
        if every:
            found = found[..., :: int(every), :: int(every)]
        close_to_largest(name, found, theirs, output_tolerance(case))


def close_to_largest(name: str, found: Tensor, theirs: Tensor, share: float) -> None:
    limit = max(share * float(theirs.abs().max()), FLOOR)
    torch.testing.assert_close(
        found.to(theirs.dtype), theirs, rtol=0, atol=limit, msg=lambda message: f"{name}: {message}"
    )


def check_gradient_norms(case: Case, gradients: Mapping[str, Tensor | None]) -> None:
    """Norms of all gradients, by the original's names; None where a parameter takes no part.

    Those that are zero but for rounding need only be small.
    """
    norms = case.tensors("grad/")
    assert norms
    of_rounding = case.info["grad_rounding_only"]["keys"]
    largest = float(torch.stack(list(norms.values())).max())
    for key, norm in norms.items():
        found = gradients[key]
        assert found is not None, f"{key}: no gradient"
        if key in of_rounding:
            assert found.norm() <= ROUNDING * largest, key
        else:
            close_to_largest(key, found.double().norm(), norm.double(), gradient_tolerance(case))
    for key in case.info["grad_is_none"]:
        assert gradients[key] is None or not gradients[key].any(), f"{key}: has a gradient"
