"""PHYRE's trials as videos and first frames, simulated by the stand-in or by a package called `phyre`."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data import phyre_trials
from core.data.errors import DataError
from core.data.loader import BatchSource, TrainingLoader
from core.data.phyre import Phyre, PhyreFirstFrames
from core.data.phyre_recordings import (
    COLOURS,
    Recording,
    Recordings,
    colour_frames,
    fixed_length,
    last_moving_index,
    recording_of,
)
from core.data.phyre_trials import ball_tasks, cached_statuses, choose_trials, open_world, select_trials
from core.synth import phyre_world

ROOT = Path(__file__).parents[2]
SMALL = {"num_actions": 40, "num_tasks": 4, "data_ratio": 0.05}
"""Of each of 4 tasks, 20 solved and 80 unsolved trials in training if the 40 actions gave as many."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OBJECTCENTRIC_CACHE", str(folder))
        yield folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def simulated(source: Phyre, trial: int) -> phyre_world.Simulation:
    task, *action = source.info[trial]
    return phyre_world.initialize_simulator(source.tasks, "ball").simulate_action(int(task), action)


def expected_frames(codes: np.ndarray, length: int) -> np.ndarray:
    """[T, 3, 128, 128]: colours on black, upright, 2x2 means, the last one repeated."""
    table = COLOURS.copy()
    table[[0, 6]] = table[[6, 0]]
    pictures = torch.from_numpy(table[codes][:, ::-1].transpose(0, 3, 1, 2).astype(np.float32))
    frames = torch.nn.functional.avg_pool2d(pictures, 2).round().byte().numpy()
    return frames[[min(i, len(frames) - 1) for i in range(length)]]


# Frames


def test_colours_and_their_reversal():
    codes = np.arange(8, dtype=np.uint8).reshape(1, 2, 4)
    picture = colour_frames(codes, reverse_color=False)[0]
    assert picture[1, 0].tolist() == [255, 255, 255]  # code 0 is in row 0, at the bottom
    assert picture[1, 1].tolist() == [0xF3, 0x4F, 0x46]
    assert picture[0, 2].tolist() == [0, 0, 0]
    reversed_picture = colour_frames(codes, reverse_color=True)[0]
    assert (reversed_picture[1, 0].tolist(), reversed_picture[0, 2].tolist()) == ([0, 0, 0], [255, 255, 255])
    np.testing.assert_array_equal(reversed_picture[1, 1:], picture[1, 1:])


@pytest.mark.parametrize(
    ("frames", "last"),
    [([1, 2, 3, 3, 3], 2), ([1, 2, 3, 4], 3), ([1, 1, 1], 2), ([1, 2, 2, 3], 1), ([1, 1, 2, 3], 3), ([1], 0)],
)
def test_last_moving_frame(frames, last):
    assert last_moving_index(np.array(frames, np.uint8).reshape(-1, 1, 1)) == last


def test_fixed_length():
    assert fixed_length(np.array([1, 2, 3]), 5).tolist() == [1, 2, 3, 3, 3]
    assert fixed_length(np.array([1, 2, 3]), 2).tolist() == [1, 2]


def test_a_recording_leaves_repeated_frames_out():
    codes = np.array([1, 2, 2, 3, 3, 3], np.uint8).reshape(-1, 1, 1).repeat(4, 1).repeat(4, 2)
    recording = recording_of(codes, True, (4, 4), reverse_color=False)
    assert (len(recording.frames), recording.length, recording.last_moving) == (4, 6, 1)
    colours = [tuple(COLOURS[code]) for code in (1, 2, 2, 3, 3, 3, 3, 3)]
    for num_frames, is_whole, shown, count in (
        (8, True, colours, 6),
        (5, True, colours[:5], 5),
        (2, False, colours[:2], 2),
    ):
        frames, found = recording.clip(num_frames, is_whole)
        assert ([tuple(frame[0, 0]) for frame in frames], found) == (shown, count)
    frames, count = recording.clip(4, is_whole=False)
    assert ([tuple(frame[0, 0]) for frame in frames], count) == ([*colours[:2], colours[1], colours[1]], 2)


# Trials


def test_quotas_and_order_of_trials():
    statuses = np.array([[1] * 5 + [-1] * 50 + [0] * 45, [0] * 10 + [-1] * 89 + [1]])
    actions = np.random.default_rng(0).random((100, 3), dtype=np.float32)
    info, labels = select_trials(actions, statuses, fold=1, split="val", data_ratio=0.04, pos_ratio=0.2)
    assert labels.tolist() == [1] * 4 + [0] * 16 + [1] + [0] * 16  # quotas 4 and 16; the second task has one solution
    assert info[:, 0].tolist() == [0] * 20 + [1] * 17
    of_action = {tuple(action): number for number, action in enumerate(actions.astype(np.float64).tolist())}
    numbers = [of_action[tuple(row)] for row in info[:, 1:].tolist()]
    assert len(set(numbers[:20])) == 20
    for (task, *_), number, label in zip(info, numbers, labels):
        assert statuses[int(task), number] == (1 if label else -1)
    again, _ = select_trials(actions, statuses, fold=1, split="val", data_ratio=0.04, pos_ratio=0.2)
    np.testing.assert_array_equal(info, again)
    other, _ = select_trials(actions, statuses, fold=2, split="val", data_ratio=0.04, pos_ratio=0.2)
    assert not np.array_equal(info, other)


@pytest.mark.parametrize("protocol", ["within", "cross"])
def test_tasks_of_splits(protocol):
    train, val = ball_tasks(protocol, 0, "train"), ball_tasks(protocol, 0, "val")
    assert (len(train), len(val)) == (2000, 500)
    assert not set(train) & set(val)
    parts = phyre_world.get_fold(f"ball_{protocol}_template", 0)
    assert train == [*parts[0], *parts[1]]
    assert ball_tasks(protocol, 0, "val", 5) == val[::100]
    with pytest.raises(ValueError, match="PHYRE split 'test' is not one of train, val"):
        ball_tasks(protocol, 0, "test")
    with pytest.raises(ValueError, match="PHYRE protocol 'both' is not one of within, cross"):
        ball_tasks("both", 0, "train")


def test_no_trials_at_all():
    with pytest.raises(DataError, match=r"not PHYRE: 1 tasks with 2 actions .* Raise data_ratio, num_actions or num"):
        choose_trials("val", "within", 0, data_ratio=0.001, pos_ratio=0.2, num_actions=2, num_tasks=1)


def test_the_stand_in_is_announced_once():
    code = "from core.data.phyre_trials import open_world; open_world(); print(open_world().source)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == phyre_world.SOURCE
    assert done.stderr.count("note: PHYRE cannot be used (No module named 'phyre')") == 1
    assert "a pymunk stand-in, not PHYRE. Its numbers say nothing about PHYRE" in done.stderr


# Videos


def test_validation_clips_are_those_of_the_simulation():
    source = Phyre("val", 6, **SMALL)
    assert isinstance(source, BatchSource)
    assert source.source == phyre_world.SOURCE
    batch = source.read(np.arange(len(source)))
    assert (batch["video"].dtype, tuple(batch["video"].shape)) == (torch.uint8, (len(source), 6, 3, 128, 128))
    assert batch["video"][0].is_contiguous(memory_format=torch.channels_last)
    assert batch["trial"].tolist() == list(range(len(source)))
    assert batch["label"].tolist() == source.labels.tolist()
    for trial in range(0, len(source), 5):
        result = simulated(source, trial)
        assert (int(result.status) == 1) == batch["label"][trial]
        moving = result.images[: last_moving_index(result.images) + 1]
        assert batch["num_frames"][trial] == min(len(moving), 6)
        np.testing.assert_array_equal(batch["video"][trial], expected_frames(moving, 6))
    assert 0 < batch["label"].sum() < len(source)


def test_whole_videos_are_cut_or_filled_up():
    source = Phyre("val", None, video_len=11, **SMALL)
    batch = source.read(np.arange(len(source)))
    assert batch["video"].shape[1] == 11
    for trial in range(0, len(source), 5):
        images = simulated(source, trial).images
        assert batch["num_frames"][trial] == min(len(images), 11)
        np.testing.assert_array_equal(batch["video"][trial], expected_frames(images, 11))
    assert batch["num_frames"].min() < 11


def test_training_replaces_short_clips_by_others():
    source = Phyre("train", 6, **SMALL)
    batch = source.read(np.arange(len(source)))
    replaced = batch["trial"] != torch.arange(len(source))
    assert torch.equal(batch["replaced"], replaced)
    assert 0.1 < replaced.float().mean() < 0.9
    assert batch["num_frames"].unique().tolist() == [6]
    for trial in range(0, len(source), 7):
        found = int(batch["trial"][trial])
        images = simulated(source, found).images
        np.testing.assert_array_equal(batch["video"][trial], expected_frames(images, 6))
        assert batch["label"][trial] == source.labels[found]
        assert replaced[trial] == (last_moving_index(simulated(source, trial).images) < 5)
    order = np.array([5, 0, 5, 3])
    for key, value in source.read(order).items():
        assert torch.equal(value, batch[key][order]), key


def test_other_sizes_colours_and_rates():
    source = Phyre("val", None, video_len=4, fps=2, size=(64, 64), reverse_color=False, **SMALL)
    batch = source.read(np.array([0]))
    task, *action = source.info[0]
    simulator = phyre_world.initialize_simulator(source.tasks, "ball")
    images = simulator.simulate_action(int(task), action, stride=30).images
    expected = colour_frames(images[:4], reverse_color=False).astype(float)
    assert batch["video"].shape == (1, 4, 3, 64, 64)
    # At a quarter of the size the two middle pixels of four are mixed.
    middle = (expected[:, 1::4] + expected[:, 2::4])[:, :, 1::4] / 4 + (expected[:, 1::4] + expected[:, 2::4])[
        :, :, 2::4
    ] / 4
    np.testing.assert_allclose(batch["video"][0].permute(0, 2, 3, 1), middle, atol=0.51)


def test_the_second_reading_does_not_simulate(monkeypatch):
    source = Phyre("val", 6, **SMALL)
    first = source.read(np.arange(8))
    monkeypatch.setattr(source, "_simulator", None)
    again = source.read(np.arange(8))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_workers_read_the_same_as_one_process(own_cache):
    def read(num_workers: int) -> list[torch.Tensor]:
        source = Phyre("train", 3, num_actions=20, num_tasks=2)
        loader = TrainingLoader(source, 4, seed=1, device=torch.device("cpu"), num_workers=num_workers)
        batches = loader.batches(0)
        return [next(batches)["video"] for _ in range(4)]

    in_workers = read(2)
    for ours, theirs in zip(read(0), in_workers):
        assert torch.equal(ours, theirs)


def test_a_label_that_the_simulation_contradicts():
    source = Phyre("val", 6, **SMALL)
    source.labels = 1 - source.labels
    with pytest.raises(DataError, match=r"sqlite: task \d{5}:\d{3}, action \[0.* is solved, unlike its label\. Videos"):
        source.read(np.array([0]))


# First frames


def test_first_frames_are_those_of_the_videos():
    tasks = ball_tasks("within", 0, "val", SMALL["num_tasks"])
    actions, statuses = cached_statuses(tasks, SMALL["num_actions"])
    source = PhyreFirstFrames(tasks, actions)
    assert (len(source), source.source) == (statuses.size, phyre_world.SOURCE)
    places = np.flatnonzero(statuses != 0)[::9]
    images = source.read(places)["image"]
    assert (images.dtype, tuple(images.shape[1:])) == (torch.uint8, (3, 128, 128))
    simulator = phyre_world.initialize_simulator(tasks, "ball")
    for image, place in zip(images, places):
        codes = simulator.simulate_action(place // len(actions), actions[place % len(actions)]).images[:1]
        np.testing.assert_array_equal(image, expected_frames(codes, 1)[0])
    invalid = int(np.flatnonzero(statuses == 0)[0])
    with pytest.raises(DataError, match=r"is invalid in task \d{5}:\d{3}, .* Leave out actions of status 0"):
        source.read(np.array([places[0], invalid]))


# Recordings on disk


def one_recording(shade: int) -> Recording:
    return Recording(np.full((2, 3, 3, 3), shade, np.uint8), 9, 1, False)


def test_recordings_are_kept_and_made_once(tmp_path):
    made = []

    def record(trial):
        made.append(trial[0])
        return one_recording(int(trial[0]))

    trials = [(str(number), b"action") for number in (4, 7, 4)]
    found = Recordings(tmp_path / "kept.sqlite", (3, 3)).read(trials, record)
    assert [int(recording.frames[0, 0, 0, 0]) for recording in found] == [4, 7, 4]
    assert made == ["4", "7"]
    again = Recordings(tmp_path / "kept.sqlite", (3, 3)).read(trials[::-1], record)
    assert made == ["4", "7"]
    for ours, theirs in zip(again, found[::-1]):
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        assert (ours.length, ours.last_moving, ours.is_solved) == (9, 1, False)


def test_damaged_recordings_are_named(tmp_path):
    path = tmp_path / "kept.sqlite"
    kept = Recordings(path, (3, 3))
    kept.read([("1", b"a")], lambda trial: one_recording(1))
    with sqlite3.connect(path) as file:
        file.execute("UPDATE recordings SET frames = x'00'")
    with pytest.raises(DataError, match=r"kept\.sqlite: cannot keep simulated videos there .*Remove the file if it is"):
        kept.read([("1", b"a")], lambda trial: one_recording(1))
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match=r"kept\.sqlite: cannot keep .*\(file is not a database\)"):
        Recordings(path, (3, 3))


# The package phyre


@pytest.fixture
def installed_phyre(tmp_path, monkeypatch, own_cache) -> Path:
    """An installed package `phyre`, which hands on to the stand-in; the working folder is empty."""
    (tmp_path / "site" / "phyre").mkdir(parents=True)
    package = "from core.synth.phyre_world import get_fold, initialize_simulator\nfrom core.synth import phyre_world\n"
    package += "def get_default_100k_cache(tier):\n    return phyre_world.get_default_100k_cache(tier, 15, 1)\n"
    (tmp_path / "site" / "phyre" / "__init__.py").write_text(package)
    (tmp_path / "site" / "phyre-0.2.2.dist-info").mkdir()
    (tmp_path / "site" / "phyre-0.2.2.dist-info" / "METADATA").write_text("Name: phyre\nVersion: 0.2.2\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    open_world.cache_clear()
    yield tmp_path
    open_world.cache_clear()
    sys.modules.pop("phyre", None)


def test_an_installed_phyre_is_used(installed_phyre):
    assert (open_world().is_phyre, open_world().source) == (True, "PHYRE 0.2.2")
    source = Phyre("val", 6, num_actions=10, num_tasks=2)
    assert source.source == "PHYRE 0.2.2"
    assert source.path.name == "phyre-0.2.2-stride-60-128x128-reversed.sqlite"
    assert source.read(np.array([0]))["video"].shape == (1, 6, 3, 128, 128)
    assert not (installed_phyre / "splits").exists()


def test_lists_of_trials_are_kept_and_read(installed_phyre, monkeypatch):
    monkeypatch.setattr(phyre_trials, "NUM_TEMPLATES", 1)
    source = Phyre("val", 6)
    names = {"within-fold_0-val-data_0.1-pos_0.2.npy", "within-fold_0-val-data_0.1-pos_0.2-label.npy"}
    folder = installed_phyre / "splits" / "PHYRE"
    assert {path.name for path in folder.iterdir()} == names
    first = sorted(names)[1]
    np.save(folder / first, source.info[::-1])
    np.testing.assert_array_equal(Phyre("val", 6).info, source.info[::-1])
    np.save(folder / first, source.info[:, :3])
    with pytest.raises(DataError, match=r"pos_0\.2-label\.npy: no list of trials \[M, 4\] with labels .* Remove both"):
        Phyre("val", 6)
