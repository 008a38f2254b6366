"""GENESIS' GECO: a weight of the KL that grows while the reconstruction is better than wanted."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GenesisGECO(nn.Module):
    """Lagrangian of "the error stays below `goal`" (Rezende and Viola 2018), in the form of Engelcke et al. 2020, 2021.

    `goal` is in nats per image. Where it is reached, beta moves `speedup` times as fast. State: `beta`, and `ema`, the
    moving average of the error, which is empty until `started`.
    """

    def __init__(
        self,
        goal: float,
        step_size: float,
        alpha: float = 0.99,
        beta: float = 1.0,
        beta_min: float = 1e-10,
        beta_max: float = 1e10,
        speedup: float = 10.0,
    ):
        super().__init__()
        self.goal = goal
        self.step_size = step_size
        self.alpha = alpha
        self.beta_min = beta_min
        self.beta_max = beta_max
        self.speedup = speedup
        self.register_buffer("beta", torch.tensor(beta))
        self.register_buffer("ema", torch.tensor(0.0))
        self.register_buffer("started", torch.tensor(False))

    def loss(self, error: Float[Tensor, ""], kl: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The error, and the KL with its present weight."""
        return error + self.beta.clone() * kl

    @torch.no_grad()
    def update(self, error: Float[Tensor, ""]) -> None:
        """After a training step: move the average (the first error starts it), then beta."""
        self.ema.copy_(torch.where(self.started, self.alpha * self.ema + (1 - self.alpha) * error, error))
        self.started.fill_(True)
        slack = self.goal - self.ema
        rate = torch.where(slack > 0, self.speedup * self.step_size, self.step_size)
        self.beta.mul_((rate * slack).exp()).clamp_(self.beta_min, self.beta_max)
