"""SlotFormer's tasks against numbers recorded from the original code: data, question answering, readouts, planning."""

import csv
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from core.data.clevrer import Clevrer
from core.data.clip_reader import ClipReader
from core.data.clips import enter_times
from core.data.obj3d import Obj3D
from core.data.physion import FOLDERS, LABELS, OUTCOME, Physion, PhysionVideo, listed_videos, without_bad_stimuli
from core.data.vqa import ClevrerQuestions, tokenise
from tests.parity.golden import Case, Check, cases, check_case
from tests.parity.phyre_cases import CHECKS as PHYRE_CHECKS
from tests.parity.slotformer_clevrer import CHECKS as CLEVRER_CHECKS
from tests.parity.slotformer_physion import CHECKS as PHYSION_CHECKS
from tests.parity.slotformer_planning import CHECKS as PLANNING_CHECKS
from tests.parity.slotformer_rollouts import TASK_CHECKS as ROLLOUT_CHECKS
from tests.parity.video_preprocessing import check_bilinear, check_boxes, check_masks, within_rounding
from tests.video_files import touch_clevrer, write_clevrer_annotation, write_frames, write_json

SYSTEM = "slotformer_tasks"


def make_folders(root: Path, videos: list[PhysionVideo]) -> None:
    for video in videos:
        (root / video.path).with_suffix("").mkdir(parents=True, exist_ok=True)


def clip_settings(config: dict) -> dict:
    return {
        "num_frames": config["n_sample_frames"],
        "frame_offset": config["frame_offset"],
        "video_len": config["video_len"],
    }


def open_clips(name: str, config: dict, case: Case, root: Path) -> ClipReader:
    split, settings = config["split"], clip_settings(config)
    if name.startswith("obj3d"):
        for folder in config["folders_in_order"]:
            (root / split / folder).mkdir(parents=True)
        source = Obj3D(root, split, **settings)
        assert source.names == config["folders_in_order"]
        return source
    assert name.startswith("clevrer")
    inside_view = case["in/inside_camera_view"].numpy()
    touch_clevrer(root, split, len(inside_view))
    for number, inside in enumerate(inside_view):
        write_clevrer_annotation(root, split, number, inside)
    return Clevrer(root, split, **settings, filter_enter=config["filter_enter"], warmup_len=config["warmup_len"])


def check_clip_index(case: Case, tmp_path: Path) -> None:
    for name, config in case.info["configs"].items():
        if not name.startswith("physion"):
            ours = open_clips(name, config, case, tmp_path / name)
            np.testing.assert_array_equal(ours.clips, case[f"out/{name}"].numpy().reshape(-1, 2), err_msg=name)
            continue
        root, subset, split = tmp_path / name, config["subset"], config["split"]
        make_folders(root, listed_videos(root, subset, split, config["tasks"]))
        source = Physion(root, subset, split, **clip_settings(config), tasks=config["tasks"])
        assert [len(source), len(source.names)] == case[f"out/{name}_len"].tolist()
        starts = case[f"out/{name}_starts_per_video"].tolist()
        assert source.clips.tolist() == [[video, start] for video in range(len(source.names)) for start in starts]
    for number, theirs in case.tensors("out/enter_times_").items():
        ours = enter_times(case["in/inside_camera_view"].numpy()[int(number)])
        np.testing.assert_array_equal(ours, theirs.numpy())


def check_preprocessing(case: Case, tmp_path: Path) -> None:
    for name, image in case.tensors("in/img").items():
        size = tuple(case[f"in/res{name}"].tolist())
        theirs = case[f"out/img{name}"]
        check_bilinear(image.numpy(), size, theirs, rtol=1e-5, atol=1e-6)
        write_frames(tmp_path / name / "val" / "0", image.numpy()[None], "test_{}.png", first=1)
        video = Obj3D(tmp_path / name, "val", 1, video_len=1, size=size).read(np.array([0]))["video"]
        within_rounding(video[0, 0], theirs)
    size = tuple(case.info["mask_resolution"])
    check_masks(case.info["rle"], case["in/masks"], size, case["out/mask_stack"], case["out/mask_resized"])
    assert case.info["pad_to"] == len(case["out/presence"])
    check_boxes(case["out/mask_resized"], case["out/boxes"], case["out/presence"], case["out/label_map"])


def write_labels(path: Path, keys: list[str], labels: list[bool]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["", OUTCOME], *zip(keys, labels)])


def check_physion_labels(case: Case, tmp_path: Path) -> None:
    names, tasks, kept = case.info["names"], case.info["tasks"], case["out/kept"].tolist()
    videos = listed_videos(tmp_path, "test", "test", tasks)
    assert [video.name for video in videos] == names
    make_folders(tmp_path, videos)
    write_labels(tmp_path / LABELS["test"], case.info["csv_keys"], case["in/labels"].tolist())
    settings = {"num_frames": None, "video_len": 1, "tasks": tasks, "labels": True}
    original = Physion(tmp_path, "test", "test", **settings, as_original=True)
    assert original.names == [names[i] for i in kept]
    assert original.labels.tolist() == case["out/label"].tolist()
    assert original.scenarios.tolist() == case["out/task_idx_original"].tolist()
    intended = dict(zip(original.names, zip(case["out/label"].tolist(), case["out/task_idx_intended"].tolist())))
    ours = Physion(tmp_path, "test", "test", **settings)
    assert list(zip(ours.labels, ours.scenarios)) == [intended[name] for name in ours.names]
    paths = [
        f"{FOLDERS['readout'].format(case.info['readout_task'])}/{name}.mp4" for name in case.info["readout_names"]
    ]
    write_json(tmp_path / "splits" / "readout_val.json", {case.info["readout_task"]: paths})
    make_folders(tmp_path, listed_videos(tmp_path, "readout", "val"))
    keys = [name.removesuffix("_img") for name in case.info["readout_names"]]
    write_labels(tmp_path / LABELS["readout"], keys, case["in/readout_labels"].tolist())
    readout = Physion(tmp_path, "readout", "val", **settings | {"tasks": ["all"]})
    assert readout.labels.tolist() == case["out/readout_label"].tolist()


def check_physion_splits(case: Case, tmp_path: Path) -> None:
    lists = {name: words.astype(str).tolist() for name, words in case.arrays.items()}
    assert case.info["folders"] == {subset: f"{folder}/" for subset, folder in FOLDERS.items()}
    for name, size in case.info["sizes"].items():
        (subset, split), scenario = name.partition("/")[0].split("_"), name.partition("/")[2]
        members = listed_videos(tmp_path, subset, split, [scenario])
        assert len(members) == size
        assert [video.path for video in members] == [
            f"{case.info['folders'][subset].format(scenario)}{word}.mp4" for word in lists[f"out/{name}"]
        ]
    for key in lists:
        if key.endswith("/scenario_order"):
            subset, split = key.removeprefix("out/").partition("/")[0].split("_")
            joined = [video for task in lists[key] for video in listed_videos(tmp_path, subset, split, [task])]
            assert listed_videos(tmp_path, subset, split) == joined
    test = listed_videos(tmp_path, "test", "test")
    left_out = {video.path for video in test} - {video.path for video in without_bad_stimuli(tmp_path, test, True)}
    for video in test:
        is_bad = any(name in video.path.replace("-redyellow", "") for name in lists["out/bad_stimuli"])
        assert is_bad == (video.path in left_out)
    assert len(without_bad_stimuli(tmp_path, test)) == len(test) - len(lists["out/bad_stimuli"])


def spread_texts(batch: dict[str, Tensor], length: int) -> dict[str, np.ndarray]:
    """A batch of questions whose texts have all their places, padding too, as the original's."""
    arrays = {key: value.numpy() for key, value in batch.items()}
    for kind in ("cls", "mc"):
        for key, padding in ((f"{kind}_q_tokens", 0), (f"{kind}_q_pad_mask", True)):
            spread = np.full((len(arrays[key]), length), padding, arrays[key].dtype)
            np.put_along_axis(spread, arrays[f"{kind}_q_places"], arrays[key], axis=1)
            arrays[key] = spread
    return arrays


def check_vqa_data(case: Case, tmp_path: Path) -> None:
    given = case.info["kwargs"]
    path = write_json(tmp_path / "questions" / f"{given['split']}.json", case.info["questions"])
    slots = {f"{name}.mp4": array.numpy() for name, array in case.tensors("in/slots_").items()}
    assert {name: len(array) for name, array in slots.items()} == case.info["slot_lengths"]
    lengths = {"max_question_len": given["max_question_len"], "max_choice_len": given["max_choice_len"]}
    settings = {"num_frames": given["n_sample_frames"], "video_len": given["video_len"], **lengths}
    source = ClevrerQuestions(path, case.info["vocab"], slots, **settings)
    assert source.num_starts == case["out/valid_start_count"]
    starts = case["in/start_idx"].numpy()
    for index, kind in enumerate(source.kinds):
        item = spread_texts(source.batch(np.array([index]), starts[[index]]), source.text_len)
        theirs = {key: value.numpy() for key, value in case.tensors(f"out/item{index}_").items()}
        ours = {
            "q_tokens": item["mc_q_tokens"] if kind else item["cls_q_tokens"][0],
            "q_pad_mask": item["mc_q_pad_mask"] if kind else item["cls_q_pad_mask"][0],
            "a_label": item["mc_label"] if kind else item["cls_label"][0],
            "mc_choice_id": item["mc_choice_id"],
            "q_type": int(kind > 0),
            "q_subtype": kind,
            "scene_index": item["scene_index"][0],
            "question_id": item["question_id"][0],
            "frames": np.arange(10**4)[source.frames(index, int(starts[index]))],
        }
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=f"item {index}: {key}")
    batch = spread_texts(source.batch(np.arange(len(source)), starts), source.text_len)
    assert [len(batch["cls_label"]), len(batch["mc_subtype"])] == case["out/num_cls_mc"].tolist()
    for key, theirs in case.tensors("out/batch_").items():
        np.testing.assert_array_equal(batch[key], theirs.numpy(), err_msg=key)
    for kind, chosen in (("cls", np.flatnonzero(source.kinds == 0)), ("mc", np.flatnonzero(source.kinds))):
        batch = source.batch(chosen, starts[chosen])
        for key, theirs in case.tensors(f"out/only_{kind}_").items():
            assert batch[key].numel() == theirs.numel() == 0
    for number, text in enumerate(case.info["texts"]):
        tokens, is_padding = tokenise(text, case.info["vocab"]["q_vocab"], case.info["text_pad_to"])
        np.testing.assert_array_equal(tokens, case[f"out/text{number}_tokens"].numpy())
        np.testing.assert_array_equal(is_padding, case[f"out/text{number}_pad"].numpy())


CHECKS: dict[str, Check] = {
    "clip-index": check_clip_index,
    "image-and-mask-preprocessing": check_preprocessing,
    "physion-labels": check_physion_labels,
    "physion-splits": check_physion_splits,
    "vqa-data": check_vqa_data,
    **CLEVRER_CHECKS,
    **PHYRE_CHECKS,
    **PHYSION_CHECKS,
    **PLANNING_CHECKS,
    **ROLLOUT_CHECKS,
}


@pytest.mark.parametrize("case", cases(SYSTEM))
def test_parity(case: Case, tmp_path: Path) -> None:
    check_case(case, CHECKS, tmp_path)
