"""Weights that others trained and published: where they lie, whether they are whole, and what to say if they are not.

Nothing is downloaded: a file is given, or lies in torch hub's cache under the name it is published under.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.training.checkpoint import CheckpointError, load

BLOCK = 1 << 20


class MissingWeightsError(Exception):
    """Published weights are not on this machine; the message says which, where they come from and where to put them."""


def hub_folder() -> Path:
    """Where torch hub keeps weights: `$TORCH_HOME/hub/checkpoints`, else `~/.cache/torch/hub/checkpoints`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def in_hub_folder(name: str) -> Path | None:
    """The file of torch hub's cache called `name`, or `name` with a hash (`vgg16.pth`: `vgg16-397923af.pth`)."""
    stem, suffix = Path(name).stem, Path(name).suffix
    found = sorted([*hub_folder().glob(stem + suffix), *hub_folder().glob(f"{stem}-*{suffix}")])
    return found[0] if found else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, bare or below `state_dict`; nothing but tensors and builtin types is admitted.

    If the file is named as torch hub names them, `NAME-HASH.pth`, its SHA-256 must begin with HASH.

    Raises CheckpointError if the file is absent, damaged or not the one that its name promises.
    """
    path = Path(path)
    promised = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    if promised and path.is_file() and not (found := sha256(path)).startswith(promised[1]):
        raise CheckpointError(
            f"{path}: its SHA-256 should begin with {promised[1]}, as the name says, but is {found[:16]}... "
            "The download is damaged or another file: remove it and fetch it again"
        )
    state = load(path)
    state = state.get("state_dict", state)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def missing(metric: str, files: Sequence[tuple[str, str]]) -> MissingWeightsError:
    """For `metric`, which needs `files`, each a name and the address it comes from."""
    wanted = "".join(f"\n  {name} from {address}" for name, address in files)
    return MissingWeightsError(
        f"{metric} needs weights that are not on this machine:{wanted}\n"
        f"Put them into {hub_folder()} under these names (TORCH_HOME moves the folder), or name the files. "
        f"Only {metric} needs them: everything else goes on without"
    )
