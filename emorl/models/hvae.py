"""The first stage of EfficientMORL: a hierarchical VAE whose bottom-up layers are slot attention on mean and scale."""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import Noise
from core.nn.slot_attention import compete
from emorl.models.dual_gru import DualGRUCell
from emorl.models.gaussian import DiagonalGaussian, kl_divergence, scale_to_std

PriorName = Literal["bottom_up", "reversed", "reversed++"]


class BottomUpInference(nn.Module):
    """q(z^1, ..., z^L | x): L rounds of attention that share their weights (Emami et al. 2021, section 3.1).

    The recurrence carries (mean, scale); a sample of each posterior only makes the next query.
    """

    def __init__(self, feature_size: int, slot_size: int, num_layers: int, dual_gru: bool):
        super().__init__()
        self.num_layers = num_layers
        self.slot_size = slot_size
        self.initial = nn.Parameter(torch.cat((torch.zeros(slot_size), torch.ones(slot_size))))
        self.norm_slots = nn.LayerNorm(slot_size)
        self.to_query = nn.Linear(slot_size, slot_size, bias=False)
        self.to_key = nn.Linear(feature_size, slot_size, bias=False)
        self.to_value = nn.Linear(feature_size, slot_size, bias=False)
        if dual_gru:
            self.gru = DualGRUCell(slot_size, slot_size)
        else:
            self.project_update = nn.Linear(slot_size, 2 * slot_size)
            self.gru = nn.GRUCell(2 * slot_size, 2 * slot_size)
        self.mean_mlp = _residual_mlp(slot_size)
        self.scale_mlp = _residual_mlp(slot_size)

    def forward(
        self, features: Float[Tensor, "N P C"], num_slots: int, noise: Noise
    ) -> tuple[list[Float[Tensor, "N K D2"]], list[Float[Tensor, "N K D"]], list[Float[Tensor, "N K P"]]]:
        """lambda = (mean | scale), the draw that samples it, and the attention of every layer, bottom first."""
        keys, values = self.to_key(features), self.to_value(features)
        shape = (len(features), num_slots, self.slot_size)
        mean, scale = (half.expand(shape) for half in self.initial.chunk(2))
        slots = mean + scale_to_std(scale) * noise("init", shape)
        parameters, draws, attentions = [], [], []
        for layer in range(self.num_layers):
            queries = self.to_query(self.norm_slots(slots)) * self.slot_size**-0.5
            updates, attention = compete(queries, keys, values)
            mean, scale = self._recur(updates.flatten(0, 1), mean.flatten(0, 1), scale.flatten(0, 1))
            mean = (mean + self.mean_mlp(mean)).view(shape)
            scale = (scale + self.scale_mlp(scale)).view(shape)
            draws.append(noise(f"layer_{layer}", shape))
            slots = mean + scale_to_std(scale) * draws[-1]
            parameters.append(torch.cat((mean, scale), dim=-1))
            attentions.append(attention.detach())
        return parameters, draws, attentions

    def _recur(self, updates: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.gru, DualGRUCell):
            mean, scale = self.gru(updates.expand(2, -1, -1), torch.stack((mean, scale))).unbind()
            return mean, scale
        return self.gru(self.project_update(updates), torch.cat((mean, scale), dim=-1)).chunk(2, dim=-1)


def _residual_mlp(size: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))


class ConditionalPrior(nn.Module):
    """p(z^l | z^{l+1}) (or z^{l-1} for the bottom-up prior), shared by all layers and slots."""

    def __init__(self, slot_size: int, hidden_size: int = 128):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(slot_size, hidden_size), nn.ELU())
        self.mean = nn.Linear(hidden_size, slot_size)
        self.scale = nn.Linear(hidden_size, slot_size)

    def forward(self, condition: Float[Tensor, "N K D"]) -> DiagonalGaussian:
        hidden = self.hidden(condition)
        return DiagonalGaussian(self.mean(hidden).float(), scale_to_std(self.scale(hidden)))


def hierarchical_kl(
    posteriors: list[DiagonalGaussian], prior: ConditionalPrior, bottom_up: bool, noise: Noise
) -> tuple[list[Float[Tensor, "N K"]], list[DiagonalGaussian]]:
    """KL(q_l || p_l) per slot and the priors, bottom layer first (Emami et al. 2021, eq. 5 and 6).

    The chain starts at N(0, 1) at the top layer (reversed prior) or at the bottom one (bottom-up); every other prior is
    conditioned on a fresh sample of its neighbour's posterior. Draws are made in the order of the chain.
    """
    order = list(range(len(posteriors)))
    if not bottom_up:
        order.reverse()
    priors: dict[int, DiagonalGaussian] = {order[0]: DiagonalGaussian.standard_like(posteriors[order[0]])}
    for given, layer in pairwise(order):
        source = posteriors[given]
        priors[layer] = prior(source.sample(noise(f"prior_{layer}", tuple(source.mean.shape))))
    chain = [priors[layer] for layer in range(len(posteriors))]
    return [kl_divergence(q, p) for q, p in zip(posteriors, chain)], chain
