"""SlotFormer against numbers recorded from the original code: base models, roll-outs, metrics, data of the models."""

from pathlib import Path

import numpy as np
import pytest

from core.data.clevrer import Clevrer
from core.data.clip_reader import ClipReader
from core.data.clips import enter_times, visualised_videos
from core.data.obj3d import Obj3D
from core.data.physion import FOLDERS, Physion
from tests.parity import (
    slotformer_dynamics,
    slotformer_metrics,
    slotformer_pictures,
    slotformer_rollouts,
    slotformer_savi,
    slotformer_steve,
)
from tests.parity.golden import Case, Check, cases, check_case
from tests.parity.video_preprocessing import check_bilinear, check_masks, within_rounding
from tests.video_files import clevrer_mp4, touch_clevrer, write_clevrer_annotation, write_frames, write_json

SYSTEM = "slotformer"


def open_clips(dataset: str, split: str, config: dict, root: Path) -> ClipReader:
    """A data set with as many (empty) videos as the configuration says."""
    lengths = {"frame_offset": config["frame_offset"], "video_len": config["video_len"]}
    frames = config["n_sample_frames"]
    if dataset == "clevrer_filtered":
        touch_clevrer(root, split, len(config["enter_times"]))
        for number, times in enumerate(config["enter_times"]):
            # One object for each time, in view from then on.
            inside = np.arange(config["video_len"])[:, None] >= np.array(times, int)
            write_clevrer_annotation(root, split, number, inside)
        return Clevrer(root, split, frames, **lengths, filter_enter=True, warmup_len=config["warmup_len"])
    count = config["videos"]
    if dataset == "clevrer":
        touch_clevrer(root, split, count)
        return Clevrer(root, split, frames, **lengths)
    if dataset == "obj3d":
        for number in range(count):
            (root / split / str(number)).mkdir(parents=True)
        return Obj3D(root, split, frames, **lengths)
    assert dataset == "physion"
    subset = "test" if split == "test" else "training"
    paths = [f"{FOLDERS[subset].format('Roll')}/{number}.mp4" for number in range(count)]
    write_json(root / "splits" / f"{subset}_{split}.json", {"Roll": paths})
    for path in paths:
        (root / path).with_suffix("").mkdir(parents=True)
    return Physion(root, subset, split, frames, **lengths)


def check_clip_index(case: Case, tmp_path: Path) -> None:
    for name, config in case.info["config"].items():
        dataset, split = name[: name.index("_n")].rsplit("_", 1)
        ours = open_clips(dataset, split, config, tmp_path / name)
        np.testing.assert_array_equal(ours.clips, case[f"out/{name}"].numpy().reshape(-1, 2), err_msg=name)
    ours = enter_times(case["in/inside_camera_view"].numpy().T)
    np.testing.assert_array_equal(ours, case["out/enter_times"].numpy())
    for name, theirs in case.tensors("out/vis_index_").items():
        samples, videos = (int(word.lstrip("Nlen")) for word in name.split("_"))
        np.testing.assert_array_equal(visualised_videos(samples, videos), theirs.numpy())


def check_dataset_transforms(case: Case, tmp_path: Path) -> None:
    size = tuple(case.info["config"]["resolution"])
    image, present = case["in/img"].numpy(), case["out/present"]
    check_bilinear(image, size, case["out/img"], rtol=1e-4, atol=2e-5)
    proposals = case.info["config"]["annotation"]["objects"]
    check_masks(proposals, case["in/object_masks"], size, case["out/anno2mask"], case["out/process_mask"])
    write_json(tmp_path / "derender_proposals" / "proposal_00000.json", {"frames": [{"objects": proposals}]})
    write_frames(clevrer_mp4(tmp_path, "val", 0).with_suffix(""), image[None])
    settings = {"num_frames": 1, "video_len": 1, "size": size, "masks": True, "max_num_objects": len(present) - 1}
    sample = {key: value[0, 0] for key, value in Clevrer(tmp_path, "val", **settings).read(np.array([0])).items()}
    within_rounding(sample["video"], case["out/img"])
    np.testing.assert_array_equal(sample["mask"], case["out/label_map"])
    np.testing.assert_array_equal(sample["mask"], case["out/process_mask_2d"])
    np.testing.assert_array_equal(sample["bbox"], case["out/boxes"])
    np.testing.assert_array_equal(sample["visible"], present)
    original = Clevrer(tmp_path, "val", **settings, as_original=True).read(np.array([0]))
    np.testing.assert_array_equal(original["video"][0, 0], sample["video"].flip(0))


CHECKS: dict[str, Check] = {
    "clip-index": check_clip_index,
    "dataset-transforms": check_dataset_transforms,
    **slotformer_dynamics.CHECKS,
    **slotformer_metrics.CHECKS,
    **slotformer_pictures.CHECKS,
    **slotformer_rollouts.CHECKS,
    **slotformer_savi.CHECKS,
    **slotformer_steve.CHECKS,
}


@pytest.mark.parametrize("case", cases(SYSTEM))
def test_parity(case: Case, tmp_path: Path) -> None:
    check_case(case, CHECKS, tmp_path)
