"""How far generated videos or pictures are from real ones: Frechet distance between the features of a network.

The network gives the number its name: with I3D (core/metrics/i3d.py) it is the FVD of Unterthiner et al. 2018, with
Inception (core/metrics/inception.py), of pictures, the FID of Heusel et al. 2017, with random features it is called the
random-feature video distance. Numbers of different networks cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Num
from torch import Tensor, nn


@runtime_checkable
class FeatureNetwork(Protocol):
    """Turns videos or pictures, uint8 or floating in [0, 1], into one vector each; `metric` names their distance."""

    metric: str

    def __call__(self, samples: Num[Tensor, "B *T 3 H W"]) -> Float[Tensor, "B D"]: ...


class FeatureMoments:
    """Mean and covariance of vectors that arrive in batches; float64 and mergeable over processes.

    Deviations are taken from running means (Chan et al. 1979), so that a large common offset costs no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Float64[Tensor, D] = torch.zeros(0, dtype=torch.float64)
        self.scatter: Float64[Tensor, "D D"] = torch.zeros(0, 0, dtype=torch.float64)
        """Sum over all vectors of the outer product of their deviation from the mean with itself."""

    def update(self, features: Float[Tensor, "B D"]) -> None:
        """Add a batch. Raises ValueError if a value is not finite."""
        features = features.detach().double()
        if not features.isfinite().all():
            count = int((~features.isfinite().all(dim=1)).sum())
            raise ValueError(f"features of {count} of {len(features)} samples are NaN or infinite")
        if len(features) == 0:
            return
        mean = features.mean(dim=0)
        deviations = features - mean
        self.merge({"count": len(features), "mean": mean, "scatter": deviations.T @ deviations})

    def state(self) -> dict[str, Any]:
        """All that was collected, to be sent to another process or kept in a file, and merged there."""
        return {"count": self.count, "mean": self.mean.cpu(), "scatter": self.scatter.cpu()}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another one collected."""
        if state["count"] == 0:
            return
        mean, scatter = state["mean"], state["scatter"]
        if self.count == 0:
            self.count, self.mean, self.scatter = state["count"], mean, scatter
            return
        total = self.count + state["count"]
        shift = mean.to(self.mean.device) - self.mean
        between = torch.outer(shift, shift) * (self.count * state["count"] / total)
        self.scatter = self.scatter + scatter.to(self.mean.device) + between
        self.mean = self.mean + shift * (state["count"] / total)
        self.count = total

    def covariance(self) -> Float64[Tensor, "D D"]:
        """Unbiased. Raises ValueError with fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, found {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(
    mean_a: Float64[Tensor, D],
    covariance_a: Float64[Tensor, "D D"],
    mean_b: Float64[Tensor, D],
    covariance_b: Float64[Tensor, "D D"],
) -> float:
    """Squared Frechet distance of two normal distributions (Dowson and Landau 1982, equation 4).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)). The trace of the root is the sum of the singular values of
    A^(1/2) B^(1/2), which stays real and exact for singular covariances (fewer samples than features).
    """
    cross = torch.linalg.svdvals(_root(covariance_a) @ _root(covariance_b)).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
    return max(float(distance), 0.0)  # rounding may take equal distributions below zero


def _root(covariance: Float64[Tensor, "D D"]) -> Float64[Tensor, "D D"]:
    """The symmetric root of a symmetric, positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class FrechetDistance:
    """Collects features of real and of generated videos or pictures; mergeable over processes.

    Both sides must be prepared alike: the same number of frames (16 as a rule), frame rate and resolution. Numbers
    fall as the number of samples grows, so it is part of the result.
    """

    def __init__(self, network: FeatureNetwork):
        self.network = network
        self.moments = {"real": FeatureMoments(), "generated": FeatureMoments()}

    @torch.no_grad()
    def update(self, side: str, samples: Num[Tensor, "B *T 3 H W"]) -> None:
        """Add videos or pictures to `side`, real or generated."""
        self.moments[side].update(self.network(samples))

    def state(self) -> dict[str, Any]:
        """All that was collected, to be merged in another process."""
        sides = {side: moments.state() for side, moments in self.moments.items()}
        return {"metric": self.network.metric, **sides}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another one collected. Raises ValueError if it used another network."""
        if state["metric"] != self.network.metric:
            raise ValueError(f"features for {self.network.metric} and for {state['metric']} cannot be merged")
        for side, moments in self.moments.items():
            moments.merge(state[side])

    def results(self) -> dict[str, float | int]:
        """The distance under its network's name, and how many samples it stands on.

        Raises ValueError with fewer than two samples on either side.
        """
        real, generated = self.moments["real"], self.moments["generated"]
        distance = frechet_distance(real.mean, real.covariance(), generated.mean, generated.covariance())
        return {self.network.metric: distance, "num_real": real.count, "num_generated": generated.count}


class RandomVideoFeatures(nn.Module):
    """Means over space and time of three random 3D convolutions, the same ones in every process and run.

    For tests, and to compare runs where the weights of I3D are not at hand. The distance has a name of its own: it
    tells videos of different content, motion or noise apart, but is on no scale that a paper reports.
    """

    metric: ClassVar[str] = "random-feature video distance"
    WIDTHS: ClassVar[tuple[int, ...]] = (3, 16, 32, 64)
    SIDE: ClassVar[int] = 64

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for number, (fan_in, fan_out) in enumerate(zip(self.WIDTHS, self.WIDTHS[1:])):
            weight = torch.randn(fan_out, fan_in, 3, 3, 3, generator=generator) * (2 / (27 * fan_in)) ** 0.5
            self.register_buffer(f"weight{number}", weight, persistent=False)

    def forward(self, video: Num[Tensor, "B T 3 H W"]) -> Float32[Tensor, "B 112"]:
        """Features of videos, uint8 or floating in [0, 1]; frames are resized to 64 x 64."""
        frames = video.flatten(0, 1)
        frames = frames.float() if frames.is_floating_point() else frames.float() / 255
        frames = F.interpolate(frames, (self.SIDE, self.SIDE), mode="bilinear", align_corners=False)
        x = (2 * frames - 1).unflatten(0, video.shape[:2]).transpose(1, 2)
        features = []
        for number in range(len(self.WIDTHS) - 1):
            x = F.relu_(F.conv3d(x, getattr(self, f"weight{number}"), stride=2, padding=1))
            features.append(x.mean(dim=(2, 3, 4)))
        return torch.cat(features, dim=1)
