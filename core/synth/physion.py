"""A small stand-in for Physion (Bear et al. 2021) in its layout on disk, with lists of its own: NOT Physion.

A red and a yellow object in eight scenarios; a video's outcome is whether the two touch at any time of it. The index of
a scene says its scenario, subset, split and the outcome that is drawn for, so that a set can grow.
"""

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.data.physion import FOLDERS, LABELS, OUTCOME, SCENARIOS, SPLITS
from core.synth import clevr, textures
from core.synth.h5_writer import sample_rng
from core.synth.physics import Motion, simulate
from core.synth.physion_scenarios import Setup, draw_setup
from core.synth.render import index_of
from core.synth.scene import Camera, Light, Material, Scene
from core.synth.scene_writer import Files, Options
from core.synth.videos import describe, film
from core.viz.videos import encode_mp4

TRAIN, VALIDATION = ("training", "train"), ("training", "val")
READOUT_TRAIN, READOUT_VALIDATION = ("readout", "train"), ("readout", "val")
TEST = ("test", "test")
# Of a scenario's scenes in turn. An odd number, so that each place has both outcomes in turn.
SPLIT_CYCLE = (
    *(TRAIN, TRAIN, READOUT_TRAIN, TEST, TRAIN, READOUT_VALIDATION, VALIDATION),
    *(TRAIN, READOUT_TRAIN, TRAIN, TEST, READOUT_TRAIN, TRAIN),
)
MOST_TRIES = 80
DEEPEST = 0.1  # that bodies may be in each other; they are 0.12 thick or more, mats apart
FEWEST_PIXELS = 160  # of either marked object in the first frame, at 256x256
AT_ONCE = 0.05  # seconds, before which a touch is no event
FOV = 42.0
LAMP_HEIGHT = 8.5


@dataclass(frozen=True)
class Event:
    """A setup and what becomes of it."""

    setup: Setup
    motion: Motion
    scene: Scene
    first_touch: float | None
    """When red and yellow meet, in seconds; None if they do not."""


def make_physion(index: int, *, seed: int, frames: int, fps: float, width: int, height: int, samples: int) -> Files:
    """The mp4 of one video, and scenes/{scenario}/{name}.json with what happened."""
    rng = sample_rng(seed, "physion", index)
    event = draw_event(rng, index, frames, fps, width, height)
    pictures = film(event.scene, event.motion, [event.scene.camera] * frames, samples, int(rng.integers(2**30)))
    video = encode_mp4([drawn.image for drawn in pictures], fps)
    scenario, _, subset, split = place_of(index)
    described = json.loads(describe(event.scene, event.motion, event.setup.describe(), fps))
    described |= {
        "scenario": scenario,
        "subset": subset,
        "split": split,
        "red": event.setup.red,
        "yellow": event.setup.yellow,
        "outcome": event.first_touch is not None,
        "first_touch": event.first_touch,
    }
    return {path_of(index): video, description_of(index): json.dumps(described).encode()}


def place_of(index: int) -> tuple[str, int, str, str]:
    """Scenario, number within the scenario, subset and split of a scene."""
    number, scenario = divmod(index, len(SCENARIOS))
    return (SCENARIOS[scenario], number, *SPLIT_CYCLE[number % len(SPLIT_CYCLE)])


def wanted_outcome(index: int) -> bool:
    """The outcomes of a scenario's scenes alternate; so do those of the scenarios."""
    number, scenario = divmod(index, len(SCENARIOS))
    return (number + scenario) % 2 == 0


def path_of(index: int) -> str:
    """The mp4 of a scene below the root."""
    scenario, number, subset, _ = place_of(index)
    mark = "-redyellow" if subset == "test" else ""
    return f"{FOLDERS[subset].format(scenario)}/{scenario.lower()}{mark}_{number:04d}_img.mp4"


def description_of(index: int) -> str:
    scenario, number, _, _ = place_of(index)
    return f"scenes/{scenario}/{scenario.lower()}_{number:04d}.json"


def draw_event(rng: np.random.Generator, index: int, frames: int, fps: float, width: int, height: int) -> Event:
    """The first draw of the wanted outcome in which red and yellow are seen; after MOST_TRIES, one of either outcome.

    RuntimeError if red or yellow are never seen, as in pictures that are too flat.
    """
    scenario = place_of(index)[0]
    enough = FEWEST_PIXELS * width * height / 256**2
    other: Event | None = None
    for _ in range(MOST_TRIES):
        side = int(rng.choice((-1, 1)))
        setup = draw_setup(scenario, rng, -side)
        motion = simulate_setup(setup, frames, fps)
        touch = first_touch(motion, setup.red, setup.yellow)
        wanted = (touch is not None) == wanted_outcome(index)
        touch_at_once = touch is not None and touch < AT_ONCE
        if touch_at_once or motion.deepest > DEEPEST or (other and not wanted):
            continue
        camera = _camera(rng, side, width, height)
        scene = Scene(tuple(setup.objects), camera, _lights(rng, side), _ground(rng))
        pixels = np.bincount(index_of(scene).ravel(), minlength=len(setup.objects) + 1)[1:]
        if min(pixels[setup.red], pixels[setup.yellow]) < enough:
            continue
        event = Event(setup, motion, scene, touch)
        if wanted:
            return event
        other = event
    if other is None:
        raise RuntimeError(
            f"no scene of {scenario} shows its red and its yellow object in {width}x{height} pixels. Choose a --width "
            "and --height that are nearer to each other"
        )
    return other


def simulate_setup(setup: Setup, frames: int, fps: float) -> Motion:
    return simulate(setup.objects, setup.bodies, frames, fps, friction=0.35, restitution=0.25, rolling_friction=0.01)


def first_touch(motion: Motion, first: int, second: int) -> float | None:
    """When two objects touch for the first time, in seconds."""
    pair = (min(first, second), max(first, second))
    return next((contact.time for contact in motion.contacts if (contact.first, contact.second) == pair), None)


def _camera(rng: np.random.Generator, side: int, width: int, height: int) -> Camera:
    """From small y (`side` -1) or from large y, a little to the left or right."""
    angle, distance, up = rng.uniform(-0.4, 0.4), rng.uniform(7.5, 8.3), rng.uniform(3.2, 4.6)
    place = (distance * np.sin(angle), side * distance * np.cos(angle), up)
    target = (0.0, 0.0, float(rng.uniform(0.6, 0.9)))
    return Camera(tuple(map(float, place)), target, fov=FOV, width=width, height=height)


def _lights(rng: np.random.Generator, side: int) -> tuple[Light, ...]:
    """Of CLEVR, whose camera is at small y; the other way round for a camera at large y. Above what the camera sees."""
    places = [(light, light.position) for light in clevr.draw_lights(rng)]
    return tuple(replace(light, position=(-side * x, -side * y, LAMP_HEIGHT)) for light, (x, y, _) in places)


def _ground(rng: np.random.Generator) -> Material:
    """Plain, or textured in colours that are too pale for red or yellow."""
    if rng.random() < 0.4:
        return replace(clevr.GROUND, colour=(float(rng.uniform(0.25, 0.6)),) * 3)
    surface = textures.material(str(rng.choice(textures.MATERIALS)), 24.0)
    grey = surface.texture.mean(axis=2, keepdims=True)
    pale = (0.25 + 0.35 * (0.8 * grey + 0.2 * surface.texture)).astype(np.float32)
    return replace(surface, texture=pale, metallic=0.0, roughness=0.85)


def lists_and_labels(root: Path, count: int, options: Options) -> Files:
    """The lists of all splits, that of flawed videos (there are none), and the tables of outcomes."""
    lists: dict[tuple[str, str], dict[str, list[str]]] = {
        (subset, split): {scenario: [] for scenario in SCENARIOS}
        for subset, splits in SPLITS.items()
        for split in splits
    }
    tables: dict[str, list[tuple[str, bool]]] = {subset: [] for subset in LABELS}
    for index in range(count):
        scenario, _, subset, split = place_of(index)
        lists[subset, split][scenario].append(path_of(index))
        if subset in tables:
            outcome = json.loads((root / description_of(index)).read_text())["outcome"]
            tables[subset].append((_key(index), outcome))
    files = {
        f"splits/{subset}_{split}.json": json.dumps(paths, indent=1).encode()
        for (subset, split), paths in lists.items()
    }
    return files | {"splits/bad_stimuli.txt": b""} | {LABELS[subset]: _table(rows) for subset, rows in tables.items()}


def _key(index: int) -> str:
    """What the table of its subset calls a video: in the readout's without `_img`, else without `-redyellow`."""
    name = Path(path_of(index)).stem
    return name.removesuffix("_img") if place_of(index)[2] == "readout" else name.replace("-redyellow", "")


def _table(rows: list[tuple[str, bool]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("", OUTCOME), *rows])
    return text.getvalue().encode()
