"""Checks that models of the published configurations store what the original's store, under the same names."""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slotdiffusion.models.vqvae import VQVAE
from slotformer import original
from slotformer.framework.params import load_params
from tests.conftest import ROOT
from tests.parity.golden import Case, Check


def build(name: str) -> nn.Module:
    """The model of `task/configuration`, without weights: only names and shapes."""
    task, _, config = name.partition("/")
    package = importlib.import_module(f"slotdiffusion.{task}")
    (path,) = (ROOT / "slotdiffusion" / task / "configs").rglob(f"{config}.py")
    params = load_params(path, package.Keys)
    with torch.device("meta"):
        return package.build_model(params)


def stored(model: nn.Module) -> dict[str, list[Any]]:
    """Shape and type of everything that a checkpoint of the original holds."""
    state = model.state_dict() if isinstance(model, VQVAE) else original.export_state(model)
    return {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()}


def check_layout(case: Case, tmp_path: Path) -> None:
    layouts = json.loads(case.arrays["out/layout_json_utf8"].tobytes())
    assert layouts.keys() == set(case.info["config"]["configs"])
    for name in layouts:
        layout, model = layouts[name], build(name)
        layout = layouts[layout["same_as"]] if "same_as" in layout else layout
        assert stored(model) == layout, name
        trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
        # The original's masks are parameters, too.
        masks = sum(torch.Size(shape).numel() for key, (shape, _) in layout.items() if key.endswith("self_attn_mask"))
        assert trained == case[f"out/{name}/trainable"], name
        assert sum(value.numel() for value in model.parameters()) + masks == case[f"out/{name}/params"], name
        assert len(layout) == case[f"out/{name}/keys"], name


CHECKS: dict[str, Check] = {"state-layout": check_layout}
