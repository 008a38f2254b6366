"""Check of what changes by the step in GNM, SPACE and SPAIR."""

from pathlib import Path

import numpy as np
import torch

from clevrtex.framework.schedules import parse
from clevrtex.models import gnm
from clevrtex.models.space_sizes import Schedules
from tests.parity.golden import Case, Check

SPACE = Schedules()
VALUES = {
    "gnm.tau_pres": gnm.TEMPERATURE,
    "gnm.aux_p_pres_prob": gnm.PRESENCE_PRIOR,
    "space.prior_z_pres_prob": SPACE.presence_prior,
    "space.prior_scale_mean": SPACE.scale_prior,
    "space.tau": SPACE.temperature,
}
UNUSED = {"gnm.beta_aux_global"}
"""The original has this weight, but no term for it."""


def value(name: str, step: int, total: int) -> float:
    """Of the quantity that the original calls `name`; SPAIR's are schedule strings."""
    if name.startswith("gnm.beta_"):
        term = name.replace("gnm.beta_", "kl_")
        return gnm.KL_WEIGHTS[term](step) if term in gnm.KL_WEIGHTS else 1.0
    if name.startswith("spair."):
        return parse(name.removeprefix("spair.").removeprefix("init.")).value(step, total)
    return VALUES[name](step)


def check_schedules(case: Case, tmp_path: Path) -> None:
    (total,) = case.info["config"].values()
    limit = float(case.info["tolerance"].split()[0])
    steps = case["in/steps"].tolist()
    for name, theirs in case.tensors("out/").items():
        if name in UNUSED:
            continue
        at = [0] if name.startswith("spair.init.") else steps
        ours = torch.tensor([value(name, step, total) for step in at], dtype=torch.float64)
        np.testing.assert_allclose(ours, theirs.double().reshape(-1), rtol=limit, atol=1e-12, err_msg=name)


CHECKS: dict[str, Check] = {"schedules": check_schedules}
