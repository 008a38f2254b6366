"""SlotDiffusion against numbers recorded from the original code: models, diffusion, metrics, data."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from core.data.errors import DataError
from core.data.movi import Movi
from tests.parity.golden import Case, Check, cases, check_case
from tests.parity.slotdiffusion_diffusion import CHECKS as DIFFUSION_CHECKS
from tests.parity.slotdiffusion_encoders import CHECKS as ENCODER_CHECKS
from tests.parity.slotdiffusion_generation import CHECKS as GENERATION_CHECKS
from tests.parity.slotdiffusion_layout import CHECKS as LAYOUT_CHECKS
from tests.parity.slotdiffusion_metrics import CHECKS as METRIC_CHECKS
from tests.parity.slotdiffusion_physion import CHECKS as PHYSION_CHECKS
from tests.parity.slotdiffusion_vae import CHECKS as VAE_CHECKS
from tests.parity.video_preprocessing import within_rounding
from tests.video_files import write_frames

SYSTEM = "slotdiffusion"

PENDING: set[str] = set()

FOLDERS = {"train": "train", "val": "validation", "test": "test"}


def open_movi(case: Case, root: Path, num_frames: int, frame_offset: int) -> Movi:
    config = case.info["config"]
    assert config["load_mask"]
    return Movi(
        root,
        config["level"],
        config["split"],
        num_frames,
        frame_offset,
        video_len=config["video_len"],
        size=tuple(config["resolution"]),
        masks=True,
        as_original=True,
    )


def everything(source: Movi) -> tuple[Tensor, Tensor]:
    batch = source.read(np.arange(len(source)))
    return batch["video"], batch["mask"]


def check_index(case: Case, tmp_path: Path) -> None:
    for split, num_frames, offset, length in case.info["config"]["combos"]:
        name = f"{split}_n{num_frames}_off{offset}_L{length}"
        theirs = case[f"out/{name}"].numpy().reshape(-1, 2)
        for video in range(theirs[:, 0].max(initial=0) + 1):
            (tmp_path / name / "MOVi-E" / FOLDERS[split] / f"{video:08d}").mkdir(parents=True)
        settings = {"num_frames": num_frames, "frame_offset": offset, "video_len": length}
        if len(theirs):
            np.testing.assert_array_equal(Movi(tmp_path / name, "e", split, **settings).clips, theirs, err_msg=name)
        else:
            with pytest.raises(DataError, match="do not fit"):
                Movi(tmp_path / name, "e", split, **settings)


def check_movi(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    folder = tmp_path / f"MOVi-{config['level'].capitalize()}" / FOLDERS[config["split"]]
    for number, (frames, masks) in enumerate(zip(case["in/frames_uint8"].numpy(), case["in/masks_uint8"].numpy())):
        write_frames(folder / f"{number:08d}", frames, "{:06d}.jpg", file_format="PNG")
        write_frames(folder / f"{number:08d}", masks, "{:06d}_mask.png")
    video, mask = everything(open_movi(case, tmp_path, config["n_sample_frames"], config["frame_offset"]))
    within_rounding(video, case["out/img"])
    np.testing.assert_array_equal(mask, case["out/masks"])
    count = len(case["out/video1_masks"])
    source = open_movi(case, tmp_path, count, config["video_len"] // count)
    video, mask = (value[source.clips[:, 0] == 1] for value in everything(source))
    within_rounding(video[0, 0], case["out/video1_first_frame"])
    np.testing.assert_array_equal(mask[0], case["out/video1_masks"])


def check_steve_movi(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    folder = tmp_path / f"MOVi-{config['level']}" / config["split"]
    for number, (frames, masks) in enumerate(zip(case["in/frames_uint8"].numpy(), case["in/masks_uint8"].numpy())):
        write_frames(folder / f"{number:08d}", frames, "{:08d}_image.png")
        for index in range(masks.shape[1]):
            write_frames(folder / f"{number:08d}", masks[:, index], f"{{:08d}}_mask_{index:02d}.png")
    video, mask = everything(open_movi(case, tmp_path, config["n_sample_frames"], config["frame_offset"]))
    within_rounding(video, case["out/img"])
    np.testing.assert_array_equal(mask, case["out/masks"])


CHECKS: dict[str, Check] = {
    "data-index": check_index,
    "data-movi": check_movi,
    "data-steve-movi": check_steve_movi,
    **DIFFUSION_CHECKS,
    **ENCODER_CHECKS,
    **GENERATION_CHECKS,
    **LAYOUT_CHECKS,
    **METRIC_CHECKS,
    **PHYSION_CHECKS,
    **VAE_CHECKS,
}


@pytest.mark.parametrize("case", cases(SYSTEM))
def test_parity(case: Case, tmp_path: Path) -> None:
    check_case(case, CHECKS, tmp_path, PENDING)
