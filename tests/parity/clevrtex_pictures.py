"""The pictures of a validation, pixel by pixel."""

from pathlib import Path

import torch

from clevrtex.framework.pictures import (
    colour,
    recon_picture,
    segmentation_picture,
    side_by_side,
    slots_picture,
)
from tests.parity.golden import Case, Check


def check_pictures(case: Case, tmp_path: Path) -> None:
    given = case.tensors("in/")
    image, recon, patches, background = (given[name] for name in ("img", "out", "patches", "background"))
    masks, presence = given["masks"].squeeze(2), given["pres"].squeeze(2)
    labels = torch.arange(len(case["out/colormap"])).view(1, 1, -1)
    found = {
        "a_output": side_by_side(image, recon),
        "b_segmentation": segmentation_picture(image, recon, given["true"], given["pred"]),
        "c_recon": recon_picture(image, recon, patches, masks),
        "d_recon": recon_picture(image, recon, patches, masks, background, presence),
        "slots": slots_picture(patches),
        "e_outputs": side_by_side(image, recon, background),
        "colormap": colour(labels)[0, :, 0].T,
    }
    theirs = case.tensors("out/")
    assert found.keys() == theirs.keys()
    for name, picture in theirs.items():
        assert torch.equal(found[name], picture), name


CHECKS: dict[str, Check] = {"pictures": check_pictures}
