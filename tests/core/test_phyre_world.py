"""The stand-in for PHYRE behind the interface of the `phyre` package: actions, puzzles, folds, statuses on disk."""

import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from core.data.errors import DataError
from core.synth import phyre_world
from core.synth.phyre.bodies import BLACK, BLUE, GREEN, PURPLE, RED, SIDE, Body, bar_between, overlap
from core.synth.phyre.cache import PENDING, StatusCache, random_actions
from core.synth.phyre.folds import SETUPS, split_tasks
from core.synth.phyre.raster import rasterise
from core.synth.phyre.simulator import MovingBodies, Scene, SimulationStatus, simulate, user_ball, valid_actions
from core.synth.phyre.templates import NUM_VARIANTS, TASK_IDS, TEMPLATES, scene
from core.synth.phyre_world import get_fold, initialize_simulator

ROOT = Path(__file__).parents[2]
FIRST_VARIANTS = [f"{template:05d}:000" for template in range(len(TEMPLATES))]


def valid(task: str, count: int, seed: int = 0) -> np.ndarray:
    """`count` random valid actions."""
    actions = np.random.default_rng(seed).random((40 * count, 3))
    return actions[valid_actions(scene(task), actions)][:count]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_says_what_it_is():
    assert phyre_world.IS_PHYRE is False
    assert phyre_world.SOURCE == "pymunk stand-in, not PHYRE"
    simulator = initialize_simulator(["00001:000"], phyre_world.eval_setup_to_action_tier("ball_within_template"))
    statuses = phyre_world.get_default_100k_cache("ball", num_actions=3, num_workers=1)
    found = [simulator.source, simulator.simulate_action(0, (0, 0, 0)).source, statuses.source]
    assert [*found, statuses.get_sample(["00001:000"])["source"]] == [phyre_world.SOURCE] * 4


# Simulation


def test_an_unsolved_run_has_17_pictures_and_the_first_shows_the_start():
    simulator = initialize_simulator(FIRST_VARIANTS, "ball")
    for number, task in enumerate(FIRST_VARIANTS):
        (action,) = valid(task, 1, seed=number)
        result = simulator.simulate_action(number, action)
        assert result.images.dtype == np.uint8
        assert len(result.images) == 17 if result.status == SimulationStatus.NOT_SOLVED else len(result.images) < 17
        np.testing.assert_array_equal(result.images[0], simulator.first_frame(number, action))
        np.testing.assert_array_equal(result.images[0], rasterise((*scene(task).bodies, user_ball(action))))
        assert result.images[0].max() <= BLACK


def test_stopping_when_everything_sleeps_changes_nothing():
    stopped = 0
    for number, task in enumerate(FIRST_VARIANTS[:8]):
        puzzle = scene(task)
        (action,) = valid(task, 1, seed=number + 50)
        bodies = (*puzzle.bodies, user_ball(action))
        moving, images, held = MovingBodies(bodies, puzzle.goal), [], 0
        for step in range(1000):
            moving.step()
            if step % 60 == 0:
                images.append(rasterise(moving.bodies()))
            held = held + 1 if moving.is_touching() else 0
            if held == 180:
                break
        stopped += moving.is_asleep()
        status, ours = simulate(bodies, puzzle.goal)
        np.testing.assert_array_equal(ours, images)
        assert (status == SimulationStatus.SOLVED) == (held == 180)
    assert stopped > 2


def test_stride_and_no_images():
    simulator = initialize_simulator(["00001:000"], "ball")
    (action,) = valid("00001:000", 1, seed=3)
    often, seldom = (simulator.simulate_action(0, action, stride=stride) for stride in (20, 60))
    np.testing.assert_array_equal(often.images[::3], seldom.images)
    without = simulator.simulate_action(0, action, need_images=False)
    assert (without.images, without.status) == (None, seldom.status)


def test_the_ball_of_an_action():
    placed = user_ball(np.array([0.5, 0.3, 0.55]))  # centre (127.5, 76.5), radius 18.5
    assert (placed.x, placed.y, placed.radius) == (127, 76, 18)


@pytest.mark.parametrize(
    ("action", "is_valid"),
    [
        ((0.9, 0.9, 0.3), True),
        ((1.01, 0.5, 0.0), False),
        ((0.5, -0.01, 0.0), False),
        ((0.5, 0.9, 1.2), False),
        ((11.1 / 255, 0.9, 0.3), True),  # radius 11
        ((10.9 / 255, 0.9, 0.3), False),
        ((0.9, 245.1 / 255, 0.3), False),  # 256 - 11 is the limit
        ((0.9, 244.9 / 255, 0.3), True),
        ((128 / 255, (32 + 12.5 + 11 + 0.01) / 255, 0.3), True),  # above the ball
        ((128 / 255, (32 + 12.5 + 11 - 0.01) / 255, 0.3), False),
        ((200 / 255, (5.12 + 11 + 0.01) / 255, 0.3), True),  # above the floor
        ((200 / 255, (5.12 + 11 - 0.01) / 255, 0.3), False),
        ((60 / 255, 100 / 255, 0.0), False),  # its centre is in a polygon
    ],
)
def test_validity_of_actions(action, is_valid):
    block = Body(BLACK, 60.0, 100.0, polygons=(np.array([(-40.0, -30.0), (40, -30), (40, 30), (-40, 30)]),))
    puzzle = Scene("", (bar_between(PURPLE, (0, 2.56), (SIDE, 2.56)), Body(GREEN, 128.0, 32.0, radius=12.5), block))
    assert valid_actions(puzzle, np.array([action]))[0] == is_valid


def test_invalid_actions_are_not_simulated():
    simulator = initialize_simulator(["00001:000"], "ball")
    target = scene("00001:000").bodies[2]
    for action in ((0, 0, 0), (2, 0.5, 0.5), (target.x / 255, target.y / 255, 0.1)):
        result = simulator.simulate_action(0, action)
        assert (result.status, result.images) == (SimulationStatus.INVALID_INPUT, None)
        assert simulator.first_frame(0, action) is None
    with pytest.raises(ValueError, match=r"an action is \(x, y, radius\), three numbers .*; found shape \[2\]"):
        simulator.simulate_action(0, (0.5, 0.5))
    with pytest.raises(ValueError, match="need_featurized_objects=True: the stand-in for PHYRE gives pictures only"):
        simulator.simulate_action(0, (0.5, 0.5, 0.5), need_featurized_objects=True)


DIGEST = """
import hashlib, numpy as np
from core.synth.phyre_world import initialize_simulator
tasks = ["00009:000", "00022:001", "00010:002"]
simulator, digest = initialize_simulator(tasks, "ball"), hashlib.sha256()
for number in {order}:
    for action in np.random.default_rng(number).random((6, 3)):
        result = simulator.simulate_action(number, action)
        if number == 1:
            digest.update(bytes([int(result.status) + 1]) + (b"" if result.images is None else result.images.tobytes()))
print(digest.hexdigest())
"""


def test_simulations_are_the_same_in_any_process_and_order():
    digests = set()
    for order in ([0, 1, 2], [1]):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST.format(order=order)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


# Puzzles


def test_there_are_25_templates_of_100_variants():
    assert len(TEMPLATES) == 25
    assert len(TASK_IDS) == 2500
    assert list(TASK_IDS) == sorted(TASK_IDS)
    assert (TASK_IDS[0], TASK_IDS[-1]) == ("00000:000", "00024:099")
    for task in ("00025:000", "00000:100", "0:0", "00000"):
        with pytest.raises(ValueError, match=f"no task '{task}': they are 00000:000 to 00024:099, 100 to a template"):
            scene(task)


def test_every_puzzle_is_well_formed():
    pictures = set()
    for task in TASK_IDS:
        puzzle = scene(task)
        first, second = (puzzle.bodies[number] for number in puzzle.goal)
        assert (first.colour, second.colour in (BLUE, PURPLE)) == (GREEN, True)
        assert not overlap(first, second, -0.1), f"{task} begins solved"
        assert RED not in {body.colour for body in puzzle.bodies}
        for body in puzzle.bodies:
            if body.is_dynamic:
                assert min(body.box) > -0.01, task
                assert max(body.box) < SIDE + 0.01, task
        for one, other in combinations(puzzle.bodies, 2):
            assert not (one.is_dynamic or other.is_dynamic) or not overlap(one, other, 0.01), task
        pictures.add(rasterise(puzzle.bodies).tobytes())
    assert len(pictures) == len(TASK_IDS)


def test_half_of_the_variants_are_mirrored():
    shares = []
    for template in range(len(TEMPLATES)):
        tasks = TASK_IDS[template * NUM_VARIANTS : (template + 1) * NUM_VARIANTS]
        shares.append(np.mean([scene(task).bodies[scene(task).goal[0]].x < SIDE / 2 for task in tasks]))
    assert min(shares) > 0.3
    assert max(shares) < 0.7


@pytest.mark.parametrize("tasks", [TASK_IDS[::25], pytest.param(TASK_IDS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_no_puzzle_solves_itself(tasks):
    for task in tasks:
        status, _ = simulate(scene(task).bodies, scene(task).goal, need_images=False)
        assert status == SimulationStatus.NOT_SOLVED, task


@pytest.mark.slow
def test_random_actions_solve_some_puzzles_of_every_template():
    actions = random_actions(100)
    rates = []
    for template in range(len(TEMPLATES)):
        simulator = initialize_simulator([f"{template:05d}:{variant:03d}" for variant in range(0, 100, 20)], "ball")
        found = [
            int(simulator.simulate_action(number, action, need_images=False).status)
            for number in range(len(simulator.task_ids))
            for action in actions
        ]
        assert 0.4 < np.mean(np.array(found) != 0) < 0.8
        rates.append(np.mean([status == 1 for status in found if status]))
    assert min(rates) > 0.01, np.round(rates, 3)
    assert max(rates) < 0.2, np.round(rates, 3)


# Folds


@pytest.mark.parametrize("setup", SETUPS)
def test_folds_partition_the_tasks(setup):
    tests = []
    for fold in range(10):
        parts = get_fold(setup, fold)
        assert [len(part) for part in parts] == [1600, 400, 500]
        assert all(list(part) == sorted(part) for part in parts)
        assert sorted(sum(parts, ())) == list(TASK_IDS)
        tests.append(parts[2])
    assert len(set(tests)) == 10


def test_templates_are_shared_within_and_apart_across():
    templates = [[{task[:5] for task in part} for part in get_fold(setup, 3)] for setup in SETUPS]
    within, cross = templates
    assert within[0] == within[2] == {task[:5] for task in TASK_IDS}
    assert [len(part) for part in cross] == [16, 4, 5]
    assert not set.intersection(*cross)


def test_unknown_setups_folds_and_tiers():
    with pytest.raises(ValueError, match="setup 'two_balls' is not one of ball_within_template, ball_cross_template"):
        get_fold("two_balls", 0)
    with pytest.raises(ValueError, match="fold 10 is not one of 0 to 9"):
        get_fold("ball_within_template", 10)
    with pytest.raises(ValueError, match="action tier 'two_balls' is not 'ball'"):
        initialize_simulator(["00000:000"], "two_balls")
    assert split_tasks([], "ball_within_template", 0) == ((), (), ())


# Statuses on disk


def test_statuses_are_those_of_simulations(cache):
    tasks = ["00006:001", "00000:000", "00014:007"]
    statuses = StatusCache(num_actions=40, num_workers=1)
    found = statuses.get_sample(tasks)
    simulator = initialize_simulator(tasks, "ball")
    expected = [
        [int(simulator.simulate_action(number, action, need_images=False).status) for action in statuses.action_array]
        for number in range(len(tasks))
    ]
    np.testing.assert_array_equal(found["simulation_statuses"], expected)
    assert {-1, 0, 1} == set(np.unique(expected))
    assert found["task_ids"] == tuple(tasks)
    fewer = statuses.get_sample(tasks[1:], 7)
    np.testing.assert_array_equal(fewer["simulation_statuses"], np.array(expected)[1:, :7])
    np.testing.assert_array_equal(fewer["actions"], statuses.action_array[:7])
    in_two_processes = StatusCache(num_actions=40, num_workers=2)
    assert in_two_processes.path == statuses.path
    statuses.path.unlink()
    np.testing.assert_array_equal(in_two_processes.get_sample(tasks)["simulation_statuses"], expected)


def test_actions_are_seeded_and_a_longer_list_continues_a_shorter_one():
    np.testing.assert_array_equal(random_actions(1000)[:10], random_actions(10))
    assert random_actions(5).dtype == np.float32
    assert abs(random_actions(2000).mean() - 0.5) < 0.02


COMPUTE = """
from core.synth.phyre.cache import StatusCache
StatusCache(num_actions=600, num_workers=1).get_sample(["00003:000", "00008:001", "00016:002", "00021:003"])
"""


def test_a_killed_computation_is_continued(cache):
    process = subprocess.Popen([sys.executable, "-c", COMPUTE], cwd=ROOT, env=dict(os.environ))
    while not (found := list(cache.glob("*.npy"))) or (np.load(found[0], mmap_mode="r") == PENDING).all():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path,) = found
    kept = np.lib.format.open_memmap(path, mode="r+")
    row = TASK_IDS.index("00003:000")
    assert (kept != PENDING).sum() < 4 * 600
    invalid = int(np.flatnonzero(kept[row] == 0)[0])
    kept[row, invalid] = 1  # shows whether it is simulated again
    kept.flush()
    statuses = StatusCache(num_actions=600, num_workers=1)
    assert statuses.path == path
    found = statuses.get_sample(["00003:000", "00016:002"])["simulation_statuses"]
    assert found[0, invalid] == 1
    assert set(np.unique(found)) == {-1, 0, 1}
    assert (np.load(path)[TASK_IDS.index("00000:000")] == PENDING).all()


def test_a_damaged_file_is_named(cache):
    statuses = StatusCache(num_actions=5, num_workers=1)
    cache.mkdir()
    statuses.path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"statuses-5-\w+\.npy: cannot keep the statuses .*Remove the file"):
        statuses.get_sample(["00000:000"])
    with pytest.raises(ValueError, match="no task '00000:100'"):
        statuses.get_sample(["00000:100"])
