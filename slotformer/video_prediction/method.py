"""How models of dynamics are trained and shown, beside their losses."""

from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor, nn

from core.data.loader import Batch, BatchSource
from core.training.checkpoint import load_weights
from slotformer import original
from slotformer.base_slots.method import BaseMethod
from slotformer.framework.annealing import loss_decay_factor
from slotformer.framework.frame_grids import compare_grid, slots_grid, stacked_videos, to_bytes
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.video_prediction.data import open_slots


def load_parts(
    model: nn.Module, params: BaseParams, entry: str, trained: str, parts: dict[str, str], task: str = "base_slots"
) -> None:
    """Load frozen parts of `model` from the weights of a model of the class `trained`, which `entry` names.

    `parts` says what they are called in `trained`, which is a model of `task`. Raises ParamsError if the file is not
    named or not there, CheckpointError if it holds other weights.
    """
    settings, _, key = entry.partition(".")
    path = params.get(settings, {}).get(key)
    if not path or not Path(path).is_file():
        raise ParamsError(
            f"{entry}: {path or 'no path'}: no such file. Train {trained} first, with a configuration of {task}, "
            f"or name its weights with --set {entry}=FILE"
        )
    weights = original.read_weights(Path(path), trained)
    for part, theirs in parts.items():
        begin = f"{theirs}." if theirs else ""
        own = {name.removeprefix(begin): value for name, value in weights.items() if name.startswith(begin)}
        load_weights(model.get_submodule(part), own, path)


class SlotFormerMethod(BaseMethod):
    """SAVi's decoder is taken over, later frames may count less at first; videos of slots and of predictions."""

    def __init__(self, params: BaseParams):
        super().__init__(params)
        self.is_phyre = params.dataset == "phyre_slots"
        self.fps = 4 if self.is_phyre else 8

    @cached_property
    def whole_videos(self) -> BatchSource:
        """Of the validation split, with their slots."""
        return open_slots(self.params, "val", None, pictures=True)

    def initialise(self, model: nn.Module) -> None:
        """Load the decoder of the SAVi that has made the slots."""
        parts = ("decoder", "decoder_pos_embedding")
        load_parts(model, self.params, "dec_dict.dec_ckp_path", "StoSAVi", {part: part for part in parts})

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Set how much later frames count."""
        if self.params.get("use_loss_decay", False):
            model.loss_decay_factor = loss_decay_factor(step, self.params.loss_decay_pct * num_steps)

    def take(self, model: nn.Module, batch: Batch) -> Batch:
        """With `mean_frames` where videos end early; see `frame_shares`."""
        if "vid_len" not in batch:
            return batch
        counted = (batch["vid_len"] - model.history_len).clamp(0, model.rollout_len)
        sums = torch.stack([counted.sum(), torch.tensor(len(counted), device=counted.device)]).float()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        return {**batch, "mean_frames": (sums[0].clamp(min=1) / sums[1]).expand(len(counted))}

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """How much later frames count, where the configuration speaks of it."""
        return {"loss_decay_factor": model.loss_decay_factor} if "use_loss_decay" in self.params else {}

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """Frames beside: `video`, the slots of the files; `rollout_video`, predicted ones; `compare_video`, both."""
        options = {"reverse_color": self.params.get("reverse_color", False), "is_phyre": self.is_phyre}
        grids: dict[str, list[Tensor]] = {"video": [], "rollout_video": [], "compare_video": []}
        for batch, _ in self.shown(model):
            video, true, rollout = batch["video"][0], model.draw(batch["slots"]), model.decompose(batch)
            for name, found in (("video", true), ("rollout_video", rollout)):
                grid = slots_grid(video, found.recon[0], found.rgb[0], found.masks[0], **options)
                grids[name].append(to_bytes(grid))
            grids["compare_video"].append(to_bytes(compare_grid(video, true.recon[0], rollout.recon[0], **options)))
        return {name: stacked_videos(rows) for name, rows in grids.items()}


class STEVESlotFormerMethod(BaseMethod):
    """STEVE's dVAE and token decoder are taken over. There are no videos: words take too long to generate.

    Raises ParamsError for `use_loss_decay`, which the original's loss of this model does not look at.
    """

    def __init__(self, params: BaseParams):
        super().__init__(params)
        if params.get("use_loss_decay", False):
            raise ParamsError("use_loss_decay is True, expected False: to STEVESlotFormer all frames count alike")

    def initialise(self, model: nn.Module) -> None:
        """Load the dVAE, and the token decoder of the STEVE that has made the slots."""
        load_parts(model, self.params, "dvae_dict.dvae_ckp_path", "dVAE", {"dvae": ""})
        load_parts(model, self.params, "dec_dict.dec_ckp_path", "STEVE", {"decoder": "trans_decoder"})

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """None."""
        return {}


METHODS = {
    "SlotFormer": SlotFormerMethod,
    "SingleStepSlotFormer": SlotFormerMethod,
    "STEVESlotFormer": STEVESlotFormerMethod,
}


def build_method(params: BaseParams) -> BaseMethod:
    """The method of `params.model`."""
    return METHODS[params.model](params)
