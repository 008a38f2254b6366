"""The frame grids of SlotFormer's logs and evaluations, pixel by pixel."""

from pathlib import Path

import torch
from torch import Tensor

from slotformer.framework.frame_grids import (
    FRAME_INTENSITY,
    PALETTE,
    compare_grid,
    dvae_grid,
    evaluation_video,
    paint_labels,
    slots_grid,
    stacked_videos,
    steve_grid,
    to_bytes,
)
from tests.parity.golden import Case, Check


def rollout_of(recon: Tensor, length: int) -> Tensor:
    """The recording shows the reconstructions for a roll-out, and the first ones again if it is longer."""
    return torch.cat([recon, recon])[:length]


def num_burnin(video: Tensor) -> int:
    """How many frames the recording takes for burn-in: those whose lower left corner is green."""
    return int((video[:, 1, -1, 0] > 0).sum())


def check_pictures(case: Case, tmp_path: Path) -> None:
    given = {name: value / 2 + 0.5 for name, value in case.tensors("in/").items() if name != "masks"}
    image, recon, rgb, masks = given["img"], given["recon"], given["recons"], case["in/masks"].squeeze(2)
    theirs = case.tensors("out/")
    still = len(theirs["grid_phyre"]) - len(theirs["grid"])
    grid, phyre = slots_grid(image, recon, rgb, masks), {"reverse_color": True, "is_phyre": True}
    video = theirs["vp_video"]
    found = {
        "grid": grid,
        "grid_phyre": slots_grid(image, recon, rgb, masks, **phyre),
        "compare": compare_grid(image, recon, rollout_of(recon, len(theirs["compare"]))),
        "compare_phyre": compare_grid(image, recon, rollout_of(recon, len(theirs["compare_phyre"]) - still), **phyre),
        "steve_slots": steve_grid(image, masks),
        "dvae": dvae_grid(image, recon),
        "vp_video": evaluation_video(image[None], recon[None], num_burnin(video)),
        "palette": 2 * paint_labels(torch.arange(len(PALETTE)).view(1, -1))[:, 0].T - 1,
    }
    assert found.keys() | {"wandb_video"} == theirs.keys()
    tolerance = case.info["tolerance"]["out"]
    for name, picture in found.items():
        torch.testing.assert_close(picture, theirs[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)
    assert video[..., 0].max() == torch.tensor(FRAME_INTENSITY)
    # A value on the border of two levels may fall to either; rounding in place of cutting would move half of them.
    apart = (stacked_videos([to_bytes(grid)] * 2).int() - theirs["wandb_video"].int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.01


CHECKS: dict[str, Check] = {"visualisation": check_pictures}
