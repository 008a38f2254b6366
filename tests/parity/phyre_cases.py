"""PHYRE's frames, trials, folds and AUCCESS against numbers recorded from the originals."""

import re
from pathlib import Path

import numpy as np

from core.data.phyre_recordings import colour_frames, fixed_length, last_moving_index, recording_of
from core.data.phyre_trials import select_trials, tasks_of_split
from core.data.video import bilinear
from core.metrics.phyre import auccess, auccess_weights, merge_parts, solved_in_log, solved_within
from core.synth.phyre.folds import split_tasks
from tests.parity.golden import Case, Check


def attempts_in(text: str) -> list[int]:
    """The numbers in a description like "success rate at 1, 5, 10 attempts"."""
    return [int(word) for word in re.findall(r"\d+", text)]


def check_frames(case: Case, tmp_path: Path) -> None:
    given, scene = case.info["kwargs"], case.arrays["in/scene"]
    for name, reverse_color in (("rgb", False), ("rgb_reversed", True)):
        np.testing.assert_array_equal(colour_frames(scene, reverse_color), case.arrays[f"out/{name}"])
    for key, video in case.arrays.items():
        if key.startswith("in/video_"):
            assert last_moving_index(video) == case.arrays[key.replace("in/video", "out/last_moving")], key
    for key, theirs in case.arrays.items():
        if key.startswith("out/fixed_len_"):
            np.testing.assert_array_equal(fixed_length(scene, int(key.rpartition("_")[2])), theirs, err_msg=key)
        if key.startswith("in/slots"):
            slots, name = case.arrays[key], key.replace("in/", "out/")
            padded = fixed_length(slots, given["slots_seq_size"])
            np.testing.assert_array_equal(padded, case.arrays[name])
            assert min(len(slots), given["slots_seq_size"]) == case.arrays[f"{name}_vid_len"]
    size = tuple(given["resolution"])
    recording = recording_of(scene, True, size, given["reverse_color"])
    exact = np.stack([bilinear(frame, size) for frame in colour_frames(scene, given["reverse_color"])]) / 127.5 - 1
    for name, num_frames, is_whole in (
        ("get_video", given["vid_len"], True),
        ("read_frames_padded", given["vid_len"], True),
        ("read_frames", given["seq_size"], False),
    ):
        theirs = case.arrays[f"out/{name}"].transpose(0, 2, 3, 1)
        frames, count = recording.clip(num_frames, is_whole)
        assert count == case.arrays[f"out/{name}_len"]
        np.testing.assert_allclose(fixed_length(exact[:count], num_frames), theirs, rtol=0, atol=1e-6)
        np.testing.assert_allclose(frames, (theirs + 1) * 127.5, rtol=0, atol=0.501)


def check_selection(case: Case, tmp_path: Path) -> None:
    places = {task: row for row, task in enumerate(case.info["task_ids"])}
    folds = [case.info[part] for part in ("train", "dev", "test")]
    for name, config in case.info["configs"].items():
        tasks = tasks_of_split(*folds, config["split"])
        assert tasks == config["tasks_in_order"]
        info, labels = select_trials(
            case.arrays["in/actions"],
            case.arrays["in/statuses"][[places[task] for task in tasks]],
            fold=config["fold"],
            split=config["split"],
            data_ratio=config["ratio"],
            pos_ratio=config["pos_ratio"],
        )
        np.testing.assert_array_equal(info, case.arrays[f"out/info_{name}"])
        np.testing.assert_array_equal(labels, case.arrays[f"out/label_{name}"])
        assert (info.dtype, labels.dtype) == (np.float64, np.int32)


def check_folds(case: Case, tmp_path: Path) -> None:
    tasks = case.arrays["in/task_ids"].astype(str).tolist()
    for name, size in case.info["sizes"].items():
        setup, fold, part = name.rsplit("_", 2)
        ours = split_tasks(tasks, setup, int(fold))[("train", "dev", "test").index(part)]
        assert len(ours) == size
        assert list(ours) == [tasks[place] for place in case.arrays[f"out/{name}"]]
    log, rates = case.arrays["in/log"], case.arrays["out/evaluator_solved_by"]
    solved = solved_in_log(log, num_tasks=int(log[:, 0].max()) + 1, attempts=len(rates) - 1)
    np.testing.assert_allclose([0, *solved.mean(axis=0)], rates, rtol=0, atol=1e-9)
    ours = [auccess(solved, attempts) for attempts in attempts_in(case.info["outputs"]["evaluator_auccess"])]
    np.testing.assert_allclose(ours, case.arrays["out/evaluator_auccess"], rtol=0, atol=1e-9)


def check_auccess(case: Case, tmp_path: Path) -> None:
    numbers = range(case.info["kwargs"]["total_split"])
    parts = [tuple(case.arrays[f"in/{name}-{number}"] for name in ("pred_conf", "gt_status")) for number in numbers]
    confidences, statuses = merge_parts(parts)
    np.testing.assert_array_equal(confidences, case.arrays["out/all_conf"])
    np.testing.assert_array_equal(statuses, case.arrays["out/all_gt"])
    theirs = case.arrays["out/solved_within"]
    solved = solved_within(confidences, statuses, theirs.shape[1])
    np.testing.assert_array_equal(solved, theirs)
    np.testing.assert_allclose(solved.mean(axis=0), case.arrays["out/success_rate"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(auccess_weights(theirs.shape[1]), case.arrays["out/weights"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(100 * auccess(solved), case.arrays["out/auccess"], rtol=0, atol=1e-9)
    assert f"AUCCESS = {100 * auccess(solved):.2f}" == case.info["printed_last_line"]
    attempts = np.array(attempts_in(case.info["outputs"]["success_at"]))
    np.testing.assert_allclose(solved.mean(axis=0)[attempts - 1], case.arrays["out/success_at"], rtol=0, atol=1e-9)


CHECKS: dict[str, Check] = {
    "phyre-frames": check_frames,
    "phyre-selection": check_selection,
    "phyre-folds": check_folds,
    "phyre-auccess": check_auccess,
}
