"""The U-Net inside original checkpoints of MONet and GENESIS-V2.

Theirs convolves the maps from below and those beside them as one concatenation; ours has a kernel for each.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MAX_BLOCKS = 12


def unet_table(ours: str, down: str, up: str, convolution: str, norm: str, mlp: str) -> list[tuple[str, str]]:
    """Pairs (ours, theirs) for the U-Net that we call `ours`, each name with its dot at the end."""
    table = [(f"{ours}mlp.{n}.", f"{mlp}{n + 1}.") for n in (0, 2, 4)]
    for i in range(MAX_BLOCKS):
        table += [
            (f"{ours}down.{i}.convolutions.0.", f"{down}{i}.{convolution}"),
            (f"{ours}up.{i}.convolutions.", f"{up}{i}.{convolution}"),
            (f"{ours}down.{i}.norm.", f"{down}{i}.{norm}"),
            (f"{ours}up.{i}.norm.", f"{up}{i}.{norm}"),
        ]
    return table


def split_kernels(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`up.<i>.convolutions.weight` as `up.<i>.convolutions.0.weight` (from below) and `.1.weight` (beside)."""
    result = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*\bup\.\d+\.convolutions\.)weight", key)
        if match:
            result |= {f"{match[1]}{n}.weight": half for n, half in enumerate(value.chunk(2, dim=1))}
        else:
            result[key] = value
    return result


def join_kernels(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `split_kernels`."""
    result = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*\bup\.\d+\.convolutions\.)([01])\.weight", key)
        if not match:
            result[key] = value
        elif match[2] == "0":
            result[f"{match[1]}weight"] = torch.cat((value, state[f"{match[1]}1.weight"]), dim=1)
    return result
