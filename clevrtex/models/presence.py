"""Whether a cell holds an object: distributions over [0, 1], their divergences, and a prior over how many objects.

The relaxed Bernoulli distribution is also called concrete (Maddison et al. 2017) or Gumbel-softmax (Jang et al. 2017).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import ContinuousBernoulli, kl_divergence

from clevrtex.models.latents import LEAST_UNIFORM, bernoulli_kl, relaxed_bernoulli

LEAST_PROBABILITY = 1e-6

PresenceName = Literal[
    "bernoulli", "relaxedbernoulli", "relaxedbernoulli-bern_kl", "relaxedbernoulli-hard", "continuousbernoulli"
]
ALIASES: dict[str, PresenceName] = {
    "concrete": "relaxedbernoulli",
    "gumbel-softmax": "relaxedbernoulli",
    "gumbelsoftmax-st": "relaxedbernoulli-hard",
}


def presence_name(text: str) -> PresenceName:
    """The distribution of that name or alias. Raises ValueError."""
    name = ALIASES.get(text, text)
    if name not in get_args(PresenceName):
        known = ", ".join((*get_args(PresenceName), *ALIASES))
        raise ValueError(f"--step {text!r}: no distribution of presences; known are {known}")
    return name


def uniform(draw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In (0, 1), from standard-normal draws."""
    return torch.special.ndtr(draw.double()).float()


def round_forward(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Rounded values with the gradient of the unrounded."""
    return values + (values.round() - values).detach()


@dataclass(frozen=True)
class Presence:
    """Presences of probability `prob`, kept within [1e-6, 1 - 1e-6].

    bernoulli                  0 or 1, without a gradient
    relaxedbernoulli           in between, the closer to 0 or 1 the lower the `temperature`
    relaxedbernoulli-bern_kl   the same; its divergence is that of Bernoulli distributions
    relaxedbernoulli-hard      the same as the first, rounded with a straight-through gradient
    continuousbernoulli        Loaiza-Ganem and Cunningham (2019)
    """

    prob: Float[Tensor, "*shape"]
    name: PresenceName
    temperature: Float[Tensor, "*#shape"] | float = 1.0

    def sample(self, draw: Float[Tensor, "*shape"], hard: bool = False) -> Float[Tensor, "*shape"]:
        """From a standard-normal `draw`, whose distribution function is uniform.

        `hard` rounds relaxed presences, straight-through.
        """
        if self.name == "bernoulli":
            return (uniform(draw) < self._clamped).float()
        if self.name == "continuousbernoulli":
            return ContinuousBernoulli(self._clamped).icdf(uniform(draw))
        relaxed = self._relaxed(draw)
        return round_forward(relaxed) if hard or self.name == "relaxedbernoulli-hard" else relaxed

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Log density of presences in [0, 1], for `bernoulli` log probability of the rounded ones."""
        p = self._clamped
        if self.name == "bernoulli":
            return torch.where(value > 0.5, p.log(), (1 - p).log())
        if self.name == "continuousbernoulli":
            return ContinuousBernoulli(p, validate_args=False).log_prob(value)
        value = value.clamp(LEAST_UNIFORM, 1 - LEAST_UNIFORM)
        # The logit of a relaxed presence is a logistic draw around that of p, divided by the temperature.
        difference = p.logit() - value.logit() * self.temperature
        logistic = difference - 2 * F.softplus(difference) + torch.as_tensor(self.temperature, device=p.device).log()
        return logistic - value.log() - (1 - value).log()

    def kl(self, prior: "Presence", draws: Float[Tensor, "S *shape"]) -> Float[Tensor, "*shape"]:
        """KL from this to `prior` in nats; for relaxed presences without a closed form a mean over S samples."""
        if self.name in ("bernoulli", "relaxedbernoulli-bern_kl"):
            return bernoulli_kl(self._clamped, prior._clamped)
        if self.name == "continuousbernoulli":
            p, q = (ContinuousBernoulli(presence._clamped) for presence in (self, prior))
            return kl_divergence(p, q)
        samples = [self._relaxed(draw) for draw in draws]
        return torch.stack([self.log_prob(sample) - prior.log_prob(sample) for sample in samples]).mean(dim=0)

    @property
    def _clamped(self) -> Float[Tensor, "*shape"]:
        return self.prob.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)

    def _relaxed(self, draw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        relaxed = relaxed_bernoulli(self._clamped.logit(), draw, self.temperature)
        return relaxed.clamp(torch.finfo(relaxed.dtype).tiny, 1 - LEAST_UNIFORM)


@torch.no_grad()
def count_prior(presences: Float[Tensor, "B N"], p: Float[Tensor, ""] | float) -> Float[Tensor, "B N"]:
    """Prior probability of an object in each of N cells, given the presences, rounded, of the cells before it.

    The number of objects has probabilities in proportion to p^c, c = 0 .. N (Crawford and Pineau 2019); given the
    number, all places are equally likely. So with k objects in i cells the next holds one with probability
    (c - k) / (N - i), averaged over what is then believed of the count c.
    """
    num_cells = presences.shape[1]
    counts = torch.arange(num_cells + 1, device=presences.device)
    weights = ((1 - p) * p**counts).expand(len(presences), -1)
    weights = weights / weights.sum(dim=1, keepdim=True)
    occupied = presences.round()[:, :, None]
    before = occupied.cumsum(dim=1) - occupied
    # Of shape [N, B, counts]: how likely the cell is to be occupied for each count. What is believed of the counts
    # depends on all cells before, and its limits keep it from a closed form; these few small products are sequential.
    left = torch.arange(num_cells, 0, -1, device=presences.device)[:, None]
    chances = ((counts - before).clamp(min=0) / left).transpose(0, 1)
    outcomes = torch.where(occupied.transpose(0, 1) > 0.5, chances, 1 - chances)
    priors = []
    for chance, outcome in zip(chances, outcomes):
        priors.append((weights * chance).sum(dim=1))
        weights = weights * outcome
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(1e-6, 1e6)
    return torch.stack(priors, dim=1).clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
