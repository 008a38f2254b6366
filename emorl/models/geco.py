"""GECO: a constraint on the reconstruction with a learned weight, in place of a fixed beta."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BETA_FLOOR = 0.55


class GECO(nn.Module):
    """Lagrangian of "nll stays below target" (Rezende and Viola 2018, section 3), in the form of Emami et al. 2021.

    `target` is the wanted nll C in nats per image. State: `ema`, the moving average of C - nll, and `beta`, whose
    softplus weighs the nll. Both belong to the model's state, because a trained model's refinement depends on them.
    """

    def __init__(self, target: float, alpha: float, step_size: float, acceleration: float, warm_start: int):
        super().__init__()
        self.target = target
        self.alpha = alpha
        self.step_size = step_size
        self.acceleration = acceleration
        self.warm_start = warm_start
        self.register_buffer("ema", torch.tensor(0.0))
        self.register_buffer("beta", torch.tensor(BETA_FLOOR))

    @property
    def weight(self) -> Float[Tensor, ""]:
        return F.softplus(self.beta)

    def constraint(self, nll: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """softplus(beta) (C - nll) with the moving average as its value and the current batch as its gradient."""
        current = self.target - nll
        return self.weight * (current + (self.ema - current).detach())

    @torch.no_grad()
    def update(self, nll: Float[Tensor, ""], step: int) -> None:
        """After the optimiser's step: start the average at `warm_start`, from then on move it and beta."""
        current = self.target - nll
        if step == self.warm_start:
            self.ema.copy_(current)
        elif step > self.warm_start:
            self.ema.mul_(self.alpha).add_((1 - self.alpha) * current)
            rate = torch.where(self.ema > 0, self.step_size * self.acceleration, self.step_size)
            self.beta.sub_(rate * self.ema).clamp_(min=BETA_FLOOR)
