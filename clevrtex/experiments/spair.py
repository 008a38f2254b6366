#!/usr/bin/env python3
"""SPAIR on CLEVR, ClevrTex or any other set.

    python clevrtex/experiments/spair.py run --large --bg_dim 4 --std 'itr_lin(50000,0.5,0.15)' \\
        --prior 'itr_lin(50000,1e-4,.99)' --data 'clevrtex:full-crop-(128,128)'
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clevrtex.framework.commandline import UsageError
from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main
from clevrtex.framework.schedules import parse

if TYPE_CHECKING:
    from core.training.schedules import Schedule

ARCHITECTURES = {"original": "spair", "simple": "spair-s", "broadcast": "spair-b"}
"""And what their runs' folders are called. The last, in the original too, is the first under another name."""
PRESENCE_KLS = ("original", "match", "ind")
OF_NUMBERS = ("prior", "temp", "std", "beta_pres", "beta_what", "beta_where", "beta_depth")
"""Flags whose schedules are not of words."""


@dataclass(kw_only=True)
class SPAIR(Hyperparameters):
    """SPAIR (Crawford and Pineau 2019); values called schedules are strings such as itr_lin(50000,0.5,0.15)."""

    name = "spair"
    model = "spair:SPAIR"

    batch_size: int = option(128)
    grad_clip: float | None = option(1.0)
    lr: str | None = option("plateau")
    max_steps: int = option(250_000)
    plateau_threshold: float = option(
        1e-4,
        "share by which the validation's mse has to fall under --lr plateau. The original's was 1 by mistake: nothing "
        "ever counted, and the published models trained at 5e-5 from the fourth validation on",
        least=0,
    )
    what_dim: int = option(64, "size of an object's appearance", least=1)
    bg_dim: int = option(1, "size of the background's appearance; 0 for a black background", least=0)
    patch_shape: int = option(24, "side of a glimpse and of a decoded object in pixels", least=1)
    anchor: int = option(48, "largest side of an object in pixels", least=1)
    large: bool = option(
        True, "cells of 32 pixels; --nolarge: of 12. Every cell is a slot: the number of slots follows"
    )
    context: int = option(1, "how many rows and columns away cells see those before them", least=0)
    passf: int = option(100, "features that networks of a cell hand on to each other", least=1)
    arch: str = option("original", "original, or simple: one network for box, depth and presence; broadcast: original")
    prior: float | str = option("itr_lin(10000,1e-4,.99)", "schedule of the prior's parameter: how many objects")
    temp: float | str = option(1.0, "schedule of the presences' temperature")
    step: str = option("set(relaxedbernoulli-bern_kl)", "schedule of the presences' distribution, of names in set(...)")
    std: float | str = option(0.15, "schedule of the standard deviation of a pixel")
    beta_pres: float | str = option(2.7, "schedule of the weight of the presences' divergence")
    beta_what: float | str = option(2.7, "schedule of the weight of the appearances' divergence")
    beta_where: float | str = option(2.7, "schedule of the weight of the boxes' divergence")
    beta_depth: float | str = option(2.7, "schedule of the weight of the depths' divergence")
    pres_kl: str = option("original", "prior over the number of objects: original or match; ind: over each presence")
    factor_loss: bool = option(False, "blend objects by a softmax of their depths, and a likelihood of both parts")
    mask: bool | int | None = option(None, "count divergences of an object in proportion to its presence")
    rein: bool = option(False, "learn a baseline for presences without a gradient: --step 'set(bernoulli)'")
    decoder_bias: float = option(0.0, "for the original's commands; without effect there, too")

    def __post_init__(self) -> None:
        for flag, value, known in (("arch", self.arch, ARCHITECTURES), ("pres_kl", self.pres_kl, PRESENCE_KLS)):
            if value not in known:
                raise UsageError(f"--{flag} {value!r}: expected {', '.join(known)}")
        for flag in OF_NUMBERS:
            self._check_numbers(flag, str(getattr(self, flag)))
        self.name = ARCHITECTURES[self.arch]

    def _check_numbers(self, flag: str, text: str) -> None:
        """Raises UsageError for a schedule that is none or of words, and for a --std that begins with no deviation."""
        try:
            first = parse(text).value(0, self.max_steps)
        except ValueError as error:
            raise UsageError(f"--{flag}: {error}") from error
        if "set(" in text:
            raise UsageError(f"--{flag} {text!r}: expected a schedule of numbers; set(...) is for --step")
        if flag == "std" and (not isinstance(first, int | float) or first <= 0):
            raise UsageError(f"--std {text!r}: expected a number above 0 to begin with, found {first}")

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """In the names of the model."""
        return {
            "image_size": image_size,
            "patch_size": (self.patch_shape, self.patch_shape),
            "anchor": self.anchor,
            "what_size": self.what_dim,
            "background_size": self.bg_dim,
            "large": self.large,
            "reach": self.context,
            "passed": self.passf,
            "presence_kl": self.pres_kl,
            "factored": self.factor_loss,
            "reinforce": self.rein,
            "simple": self.arch == "simple",
            "std": parse(str(self.std)).value(0, self.max_steps),
        }

    def schedules(self) -> dict[str, str]:
        """By the original's names, which are those of the curves."""
        values = {
            "z_pres_prior_p": self.prior,
            "z_pres_temperature": self.temp,
            "pres_dist_name": self.step,
            "output_hparam": self.std,
            "beta_pres": self.beta_pres,
            "beta_what": self.beta_what,
            "beta_where": self.beta_where,
            "beta_depth": self.beta_depth,
        }
        values |= {"mask": int(self.mask)} if self.mask else {}
        return {name: str(value) for name, value in values.items()}

    def rate_schedule(self, steps_per_epoch: int) -> "Schedule":
        """A plateau lowers every group of parameters on its own, down to the same rate."""
        if self.lr != "plateau":
            return super().rate_schedule(steps_per_epoch)
        from clevrtex.framework.optim import Plateau
        from clevrtex.models.spair import BASELINE_RATE

        class OfGroups(Plateau):
            def __call__(self, step: int) -> list[float]:
                share, lowest = 0.1 ** self.state["reductions"], self.lowest / self.learning_rate
                return [min(1.0, max(share, lowest / rate)) for rate in (1.0, BASELINE_RATE)]

        return OfGroups(self.learning_rate, threshold=self.plateau_threshold)


if __name__ == "__main__":
    main(SPAIR)
