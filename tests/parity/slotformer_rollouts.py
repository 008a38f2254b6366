"""Checks of the roll-outs of stored slots: phases apart, and interleaved."""

from pathlib import Path

import torch
from torch import Tensor

from slotformer.video_prediction.models.rollouter import SlotRollouter
from slotformer.video_prediction.rollouts import interleaved_rollout
from tests.parity.golden import Case, Check
from tests.parity.slotformer_savi import close


def check_script(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    seen = config["input_frames"]
    options = {key: value for key, value in config["rollout_dict"].items() if key != "history_len"}
    assert config["rollout_dict"]["history_len"] == seen
    rollouter = SlotRollouter(**options, window_len=seen, dropout=0.0).eval()
    rollouter.load_state_dict(case.tensors("state/rollouter."))
    with torch.no_grad():
        observed = case["in/slots"][:, : config["observed"]]
        ours = interleaved_rollout(rollouter, observed, seen, config["frame_offset"], config["target"])
    close(case, "slots", ours)


def stand_in(past: Tensor, num_steps: int) -> Tensor:
    """What the recording has in place of a model."""
    steps = torch.arange(1, num_steps + 1).view(1, -1, 1, 1)
    return past.mean(dim=1, keepdim=True) + past[:, -1:] + steps


def check_interleave(case: Case, tmp_path: Path) -> None:
    settings = case.info["kwargs"]
    lengths = (settings["input_frames"], settings["frame_offset"])
    for name, observed in case.tensors("in/").items():
        frames = settings[name]
        ours = interleaved_rollout(stand_in, observed[:, : frames["observed"]], *lengths, frames["target"])
        tolerance = float(case.info["tolerance"])
        torch.testing.assert_close(ours, case[f"out/{name}"], rtol=tolerance, atol=tolerance)


CHECKS: dict[str, Check] = {"rollout-script": check_script}
TASK_CHECKS: dict[str, Check] = {"rollout-interleave": check_interleave}
