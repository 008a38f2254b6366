"""The stand-in for Physion: its files by the command of the README, read back, and the physics behind the labels."""

import csv
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.physion import FOLDERS, LABELS, OUTCOME, SCENARIOS, SPLITS, Physion
from core.data.video import read_mp4
from core.synth.h5_writer import sample_rng
from core.synth.physics import Body, simulate
from core.synth.physion import (
    DEEPEST,
    SPLIT_CYCLE,
    Event,
    draw_event,
    first_touch,
    path_of,
    place_of,
    simulate_setup,
    wanted_outcome,
)
from core.synth.physion_scenarios import DRAWS, draw_setup
from core.synth.scene import SceneObject
from tests.conftest import Runner

FRAMES, FPS, SIDE = 6, 2.5, 48
SMALL = ("--frames", FRAMES, "--fps", FPS, "--width", SIDE, "--height", SIDE, "--samples", 1)
SCENES = 7 * len(SCENARIOS)  # of which every scenario has all subsets and splits
PER_SCENARIO = {("training", "train"): 3, ("readout", "train"): 1}


def make(run: Runner, root: Path, *words: object) -> subprocess.CompletedProcess:
    return run("tools/make_data.py", "physion", "--root", root, *words)


def succeed(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def root(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("physion")
    succeed(make(run, folder, "--scenes", SCENES, "--seed", 4, *SMALL))
    return folder / "Physion"


def descriptions(root: Path) -> Iterator[tuple[int, dict]]:
    for index in range(SCENES):
        scenario, number, _, _ = place_of(index)
        yield index, json.loads((root / f"scenes/{scenario}/{scenario.lower()}_{number:04d}.json").read_text())


@pytest.mark.parametrize(("subset", "split"), [(subset, split) for subset in SPLITS for split in SPLITS[subset]])
def test_every_split_is_read(root: Path, subset: str, split: str):
    labelled = subset in LABELS
    source = Physion(root, subset, split, None, video_len=FRAMES, size=(SIDE, SIDE), labels=labelled)
    each = PER_SCENARIO.get((subset, split), 1)
    assert len(source) == each * len(SCENARIOS)
    batch = source.read(np.arange(len(source)))
    assert batch["video"].shape == (len(source), FRAMES, 3, SIDE, SIDE)
    assert batch["video"].dtype == torch.uint8
    expected = [
        (index, told) for index, told in descriptions(root) if (told["subset"], told["split"]) == (subset, split)
    ]
    expected.sort(key=lambda entry: (SCENARIOS.index(entry[1]["scenario"]), entry[0]))
    assert source.names == [Path(path_of(index)).stem for index, _ in expected]
    if labelled:
        assert batch["label"].tolist() == [int(told["outcome"]) for _, told in expected]
        assert batch["scenario"].tolist() == sorted(list(range(len(SCENARIOS))) * each)
        assert 0 < batch["label"].sum() < len(source)
    else:
        assert set(batch) == {"video"}


def test_files_have_the_published_names(root: Path):
    videos = {str(path.relative_to(root)) for path in root.rglob("*.mp4")}
    assert videos == {path_of(index) for index in range(SCENES)}
    assert "PhysionTrainMP4s/Collide_training_MP4s/collide_0000_img.mp4" in videos
    assert "PhysionTrainMP4s/Roll_readout_MP4s/roll_0002_img.mp4" in videos
    assert "PhysionTestMP4s/Drape/mp4s-redyellow/drape-redyellow_0003_img.mp4" in videos
    keys = {"readout": "roll_0002", "test": "drape_0003_img"}
    for subset, key in keys.items():
        with (root / LABELS[subset]).open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["", OUTCOME]
        assert key in {row[0] for row in rows}
        assert {row[1] for row in rows} == {"True", "False"}
    assert (root / "splits/bad_stimuli.txt").read_bytes() == b""
    lists = json.loads((root / "splits/test_test.json").read_text())
    assert lists["Drape"] == [f"{FOLDERS['test'].format('Drape')}/drape-redyellow_0003_img.mp4"]
    assert {path.name for path in root.glob("preview.*")} == {"preview.png", "preview.gif"}


def test_labels_are_the_contacts_and_red_and_yellow_are_seen(root: Path):
    for index, told in descriptions(root):
        red, yellow = sorted((told["red"], told["yellow"]))
        touches = [
            contact["time"] for contact in told["contacts"] if (contact["first"], contact["second"]) == (red, yellow)
        ]
        if index % 5 == 0:
            motion = simulate_setup(redraw(index, seed=4).setup, FRAMES, FPS)
            again = [contact.time for contact in motion.contacts if (contact.first, contact.second) == (red, yellow)]
            assert touches == pytest.approx(again)
            assert motion.touching[:, red, yellow].any() <= bool(touches)
        assert told["outcome"] == bool(touches) == wanted_outcome(index)
        assert told["first_touch"] == (touches[0] if touches else None)
        colours = [thing["colour"] for thing in told["objects"]]
        assert (colours[told["red"]], colours[told["yellow"]]) == ("red", "yellow")
        assert (colours.count("red"), colours.count("yellow")) == (1, 1)
        picture = read_mp4(root / path_of(index), FRAMES).astype(int)
        r, g, b = picture[..., 0], picture[..., 1], picture[..., 2]
        assert (r - np.maximum(g, b)).max() > 30, f"{path_of(index)} shows no red"
        assert (np.minimum(r, g) - b).max() > 30, f"{path_of(index)} shows no yellow"


def redraw(index: int, seed: int, frames: int = FRAMES, fps: float = FPS) -> Event:
    return draw_event(sample_rng(seed, "physion", index), index, frames, fps, SIDE, SIDE)


def test_nothing_is_deep_in_anything_or_flies_away():
    for index in range(2 * len(SCENARIOS)):
        event = redraw(index, seed=11, frames=61, fps=20.0)
        assert event.motion.deepest <= DEEPEST
        assert (event.first_touch is not None) == wanted_outcome(index)
        assert event.motion.positions[..., 2].min() > -0.05
        fixed = [body.fixed for body in event.setup.bodies]
        assert np.ptp(event.motion.positions[:, fixed], axis=0).max(initial=0) == 0
        assert np.ptp(event.motion.positions[:, event.setup.red], axis=0).max() < 15


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_outcomes_occur_without_choosing(scenario: str):
    rng = np.random.default_rng(5)
    outcomes = []
    for _ in range(10):
        setup = draw_setup(scenario, rng, 1)
        motion = simulate_setup(setup, FRAMES, FPS)
        outcomes.append(first_touch(motion, setup.red, setup.yellow) is not None)
    assert 2 <= sum(outcomes) <= 8
    assert set(DRAWS) == set(SCENARIOS)


def test_splits_have_their_shares_and_both_outcomes():
    cycle = range(2 * len(SPLIT_CYCLE) * len(SCENARIOS))
    places = [place_of(index) for index in cycle]
    shares = {subset: sum(place[2] == subset for place in places) / len(places) for subset in SPLITS}
    assert shares == pytest.approx({"training": 7 / 13, "readout": 4 / 13, "test": 2 / 13})
    for scenario in SCENARIOS:
        for subset, splits in SPLITS.items():
            for split in splits:
                outcomes = [
                    wanted_outcome(i)
                    for i in cycle
                    if place_of(i)[::2] == (scenario, subset) and place_of(i)[3] == split
                ]
                assert 2 * sum(outcomes) == len(outcomes) > 0


@pytest.mark.slow
def test_files_do_not_depend_on_workers_and_a_larger_count_continues(run: Runner, tmp_path: Path):
    words = ("--frames", 3, "--fps", 1.0, "--width", 32, "--height", 32, "--samples", 1)
    succeed(make(run, tmp_path / "grown", "--scenes", 2, *words))
    succeed(make(run, tmp_path / "grown", "--scenes", 5, "--workers", 2, *words))
    succeed(make(run, tmp_path / "at-once", "--scenes", 5, *words))
    grown, at_once = (
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("grown", "at-once")
    )
    assert grown == at_once
    assert sum(path.endswith(".mp4") for path in at_once) == 5


def test_odd_sizes_are_refused(run: Runner, tmp_path: Path):
    done = make(run, tmp_path, "--scenes", 1, "--width", 33, "--height", 32)
    assert done.returncode == 1
    assert "--width 33 --height 32: videos need even numbers of pixels" in done.stderr


def test_rolling_friction_stops_balls():
    ball = SceneObject("sphere", 0.3, (0.0, 0.0, 0.3))
    ways = [
        simulate([ball], [Body(velocity=(2.0, 0.0, 0.0))], 16, 4.0, rolling_friction=lever).positions[:, 0, 0]
        for lever in (0.0, 0.01, 0.03)
    ]
    assert ways[0][-1] > ways[1][-1] > ways[2][-1] > 0.5
    assert ways[2][-1] - ways[2][-2] < 0.1 * (ways[0][-1] - ways[0][-2])
