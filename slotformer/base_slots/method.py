"""How base models are trained and shown, beside their losses."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from core.data.clips import visualised_videos
from core.data.loader import Batch, BatchSource, to_device
from core.nn.noise import ImageNoise, derive_seed
from core.training.checkpoint import load_weights
from slotformer import original
from slotformer.base_slots.data import open_data
from slotformer.base_slots.models.steve import parameter_groups
from slotformer.framework.annealing import cosine_anneal
from slotformer.framework.frame_grids import captioned, dvae_grid, slots_grid, stacked_videos, steve_grid, to_bytes
from slotformer.framework.params import BaseParams, ParamsError

DVAE_FRAMES = 100
"""Of a video, that are reconstructed in one pass."""


class BaseMethod:
    """Of the models that see videos; see slotformer.framework.tasks.Method."""

    floor = 0.01

    def __init__(self, params: BaseParams):
        self.params = params
        self.fps = 4 if params.dataset == "phyre" else 8

    @cached_property
    def whole_videos(self) -> BatchSource:
        """Of the validation split."""
        return open_data(self.params, "val", None)

    def initialise(self, model: nn.Module) -> None:
        """Nothing: training starts from random weights."""

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """All that is trained, at `lr`."""
        return [{"params": [value for value in model.parameters() if value.requires_grad], "lr": self.params.lr}]

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Nothing changes."""

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """None."""
        return {}

    def shown(self, model: nn.Module) -> Iterator[tuple[Batch, Callable]]:
        """`n_samples` videos of the validation split, one by one, on the model's device, and their noise."""
        device = next(model.parameters()).device
        for index in visualised_videos(self.params.n_samples, len(self.whole_videos)).tolist():
            batch = to_device(self.whole_videos.read(np.array([index])), device)
            yield batch, ImageNoise(derive_seed(self.params.seed, 4), [index])


class SAViMethod(BaseMethod):
    """Videos of the frame, its reconstruction and every slot."""

    def __init__(self, params: BaseParams):
        super().__init__(params)
        self._replaced: Tensor | float = 0.0
        """The sum of the shares of batches; of `_batches`."""
        self._batches = 0

    def take(self, model: nn.Module, batch: Batch) -> Batch:
        """As it is; which of PHYRE's clips were replaced is noted."""
        if "replaced" in batch:
            self._replaced = self._replaced + batch["replaced"].float().mean()
            self._batches += 1
        return batch

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor | float]:
        """The share of PHYRE's clips, of the main process since the last call, in whose place others came."""
        total, count = self._replaced, self._batches
        self._replaced, self._batches = 0.0, 0
        return {"replaced": total / count} if count else {}

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """`video`; PHYRE's say whether the task was solved."""
        is_phyre = self.params.dataset == "phyre"
        grids = []
        for batch, noise in self.shown(model):
            found = model.decompose(batch, noise.at(0, batch["video"].device))
            options = {"reverse_color": self.params.get("reverse_color", False), "is_phyre": is_phyre}
            grid = to_bytes(slots_grid(batch["video"][0], found.recon[0], found.rgb[0], found.masks[0], **options))
            grids.append(captioned(grid, "Success" if batch["label"] else "Fail") if is_phyre else grid)
        return {"video": stacked_videos(grids)}


class DVAEMethod(BaseMethod):
    """The temperature falls; videos of the frame and what its words say."""

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Set the temperature."""
        params = self.params
        model.tau = cosine_anneal(step, params.init_tau, params.final_tau, params.tau_decay_pct * num_steps)

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """The temperature."""
        return {"gumbel_tau": model.tau}

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """`video`."""
        grids = []
        for batch, _ in self.shown(model):
            video = batch["video"]
            parts = [model.decompose({"video": part}).recon for part in video.split(DVAE_FRAMES, dim=1)]
            grids.append(to_bytes(dvae_grid(video[0], torch.cat(parts, dim=1)[0])))
        return {"video": stacked_videos(grids)}


class STEVEMethod(BaseMethod):
    """Two learning rates, a dVAE trained before; videos of the frame and of what each slot attends to."""

    floor = 0.0

    def initialise(self, model: nn.Module) -> None:
        """Load the dVAE. Raises ParamsError if its file is not named or not there."""
        path = self.params.dvae_dict.get("dvae_ckp_path")
        if not path or not Path(path).is_file():
            raise ParamsError(
                f"dvae_dict.dvae_ckp_path: {path or 'no path'}: no such file. Train the dVAE first, with a "
                "configuration dvae_*_params.py for the same data, or name its weights with --set "
                "dvae_dict.dvae_ckp_path=FILE"
            )
        load_weights(model.dvae, original.read_weights(Path(path), model.dvae), path)

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The token decoder at `dec_lr`, the rest at `lr`."""
        return parameter_groups(model, self.params.lr, self.params.dec_lr)

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """The second rate."""
        return {"dec_lr": optimizer.param_groups[1]["lr"]}

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """`video`."""
        grids = []
        for batch, _ in self.shown(model):
            masks = model.segment(batch)
            grids.append(to_bytes(steve_grid(batch["video"][0], masks[0])))
        return {"video": stacked_videos(grids)}


METHODS = {"StoSAVi": SAViMethod, "dVAE": DVAEMethod, "STEVE": STEVEMethod}


def build_method(params: BaseParams) -> BaseMethod:
    """The method of `params.model`."""
    return METHODS[params.model](params)
