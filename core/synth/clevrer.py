"""Videos like CLEVRER's (Yi et al. 2020): alike-sized objects slide into the picture and collide, questions ask why.

All objects of a video differ in colour, material or shape. Some rest in the picture, one to three come in from outside.
What happens is read off the simulation; what would happen without an object, or happens after the end, is simulated.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from core.data.run_length import encode_run_lengths
from core.synth import clevr
from core.synth.clevrer_questions import PROPERTIES, Event, EventLog, Properties, Question, ask
from core.synth.h5_writer import sample_rng
from core.synth.physics import Body, Motion, simulate
from core.synth.render import Rendering
from core.synth.scene import Camera, Scene, SceneObject, rotation_about_z
from core.synth.scene_writer import Files, Options
from core.synth.videos import film, split_of
from core.viz.videos import encode_mp4

FIRST_NUMBER = {"train": 0, "val": 10_000, "test": 15_000}
LAST_NUMBER = {"train": 9_999, "val": 14_999, "test": 19_999}
BROKEN_NUMBER = 10_800  # the published annotation of this video is broken, and readers leave it out
PER_FOLDER = 1000

FOV = 38.0
SIZE = 0.4  # half sides; cubes are smaller, as in CLEVR
REACH = 2.0  # objects at rest stand within this distance of the centre, along x and y
GAP = 0.5  # between objects at rest
FARTHEST = 9.0  # that an object comes from
SPEED_AT_TARGET = (2.0, 5.5)
FRICTION, RESTITUTION, GRAVITY = 0.09, 0.6, 9.81
SEPARATION = 0.4  # seconds; what bounces sooner is one collision to the eye
LATEST_START = 0.6  # of the video
FRAMES_AFTER = 32  # that predictive questions are about
MOST_TRIES = 60


@dataclass(frozen=True)
class World:
    """Objects, how they look and how they move."""

    things: tuple[Properties, ...]
    objects: tuple[SceneObject, ...]
    bodies: tuple[Body, ...]

    def without(self, number: int) -> "World":
        return World(*(part[:number] + part[number + 1 :] for part in (self.things, self.objects, self.bodies)))

    def run(self, frames: int, fps: float) -> Motion:
        return simulate(
            self.objects,
            self.bodies,
            frames,
            fps,
            friction=FRICTION,
            restitution=RESTITUTION,
            gravity=GRAVITY,
            separation=SEPARATION,
        )


def place_of(index: int) -> tuple[str, int]:
    """Split and published number of a scene. ValueError where a split is full, as it is for the published set."""
    split, place = split_of(index, ("train", "val", "test"))
    number = FIRST_NUMBER[split] + place
    if split == "val" and number >= BROKEN_NUMBER:
        number += 1
    if number > LAST_NUMBER[split]:
        raise ValueError(f"--scenes: scene {index} does not fit, split {split} ends at video {LAST_NUMBER[split]}")
    return split, number


def path_of(kind: str, split: str, number: int, suffix: str) -> str:
    """Like videos/train/video_00000-01000/video_00007.mp4 for kind "video"."""
    begin = number // PER_FOLDER * PER_FOLDER
    return f"{kind}s/{split}/{kind}_{begin:05d}-{begin + PER_FOLDER:05d}/{kind}_{number:05d}.{suffix}"


def make_clevrer(
    index: int,
    *,
    seed: int,
    frames: int,
    fps: float,
    width: int,
    height: int,
    samples: int,
    fewest: int,
    most: int,
    zoom: float = 1.0,
) -> Files:
    """Video, annotation (none of the test split, as published), proposals and questions of one scene."""
    split, number = place_of(index)
    rng = sample_rng(seed, "clevrer", index)
    camera = Camera(clevr.CAMERA, clevr.TARGET, fov=FOV, width=width, height=height).zoomed(zoom)
    world, motion, log = draw_video(rng, camera, fewest, most, frames, fps)
    scene = Scene(world.objects, camera, clevr.draw_lights(rng, 0.0), clevr.GROUND)
    pictures = film(scene, motion, [camera] * frames, samples, int(rng.integers(2**30)))
    name = f"video_{number:05d}.mp4"
    contents = {
        f"derender_proposals/proposal_{number:05d}.json": proposals(number, name, log, pictures),
        f"questions/scenes/{number:05d}.json": {
            "scene_index": number,
            "video_filename": name,
            "questions": ask(log, rng),
        },
    }
    if split != "test":
        contents[path_of("annotation", split, number, "json")] = annotation(number, name, log, motion)
    files = {path: json.dumps(content).encode() for path, content in contents.items()}
    return {path_of("video", split, number, "mp4"): encode_mp4([drawn.image for drawn in pictures], fps), **files}


def question_files(root: Path, count: int, options: Options) -> Files:
    """questions/{train,val,test}.json of the first `count` scenes, in the order of their numbers."""
    scenes: dict[str, list[dict]] = {split: [] for split in FIRST_NUMBER}
    for index in range(count):
        split, number = place_of(index)
        scene = json.loads((root / f"questions/scenes/{number:05d}.json").read_text())
        if split == "test":
            scene["questions"] = without_answers(scene["questions"])
        scenes[split].append(scene)
    return {f"questions/{split}.json": json.dumps(found).encode() for split, found in scenes.items()}


def without_answers(questions: Sequence[Question]) -> list[Question]:
    """Questions as the published test file has them."""
    stripped = []
    for question in questions:
        kept = {key: value for key, value in question.items() if key != "answer"}
        if "choices" in kept:
            kept["choices"] = [{k: v for k, v in choice.items() if k != "answer"} for choice in kept["choices"]]
        stripped.append(kept)
    return stripped


# ---- what happens ----


def draw_video(
    rng: np.random.Generator, camera: Camera, fewest: int, most: int, frames: int, fps: float
) -> tuple[World, Motion, EventLog]:
    """A world in which objects collide, all of them seen and none of them out of sight; how it moves; what happens.

    Videos too short for that show what they can.
    """
    for tries in itertools.count(1):
        world = draw_world(rng, camera, fewest, most, frames / fps)
        motion = world.run(frames + FRAMES_AFTER, fps)
        inside = is_inside(motion, camera)
        collisions = [event for event in events_of(motion, inside, fps, frames) if event.kind == "collision"]
        is_told = len(collisions) == sum(
            contact.first >= 0 and frame_of(contact.time, fps) < frames for contact in motion.contacts
        )
        if (collisions and is_told and inside[:frames].any(axis=0).all()) or tries == MOST_TRIES:
            return world, motion, log_of(world, motion, camera, frames, fps)
    raise AssertionError


def log_of(world: World, motion: Motion, camera: Camera, frames: int, fps: float) -> EventLog:
    """What happens in the first `frames` frames of a motion, what after them, and what without each object."""
    inside = is_inside(motion, camera)
    events = events_of(motion, inside, fps, len(inside))
    without = []
    for gone in range(len(world.objects)):
        rest = world.without(gone).run(frames, fps)
        kept = [number for number in range(len(world.objects)) if number != gone]
        without.append(
            tuple(
                replace(event, objects=tuple(kept[number] for number in event.objects))
                for event in events_of(rest, is_inside(rest, camera), fps, frames)
            )
        )
    return EventLog(
        world.things,
        inside[:frames],
        np.linalg.norm(motion.velocities[:frames], axis=2),
        tuple(event for event in events if event.frame < frames),
        tuple(event for event in events if event.frame >= frames),
        tuple(without),
    )


def is_inside(motion: Motion, camera: Camera) -> Bool[np.ndarray, "T N"]:
    """Whether the centre of an object lies in the picture."""
    seen = camera.project(motion.positions.reshape(-1, 3))
    inside = (seen > 0).all(axis=1) & (seen[:, 0] < camera.width) & (seen[:, 1] < camera.height)
    return inside.reshape(motion.positions.shape[:2])


def frame_of(time: float, fps: float) -> int:
    return int(np.floor(time * fps + 0.5))


def events_of(motion: Motion, inside: Bool[np.ndarray, "T N"], fps: float, frames: int) -> list[Event]:
    """Entrances, exits and collisions in the first `frames` frames, in order; collisions only if both are in view."""
    timed = []
    for contact in motion.contacts:
        pair, frame = (contact.first, contact.second), frame_of(contact.time, fps)
        if contact.first >= 0 and frame < frames and inside[frame, pair].all():
            timed.append((contact.time * fps, Event("collision", pair, frame)))
    for frame, number in np.argwhere(inside[1:frames] != inside[: frames - 1]).tolist():
        kind = "enter" if inside[frame + 1, number] else "exit"
        timed.append((frame + 1, Event(kind, (number,), frame + 1)))
    return [event for _, event in sorted(timed, key=lambda pair: (pair[1].frame, pair[0]))]


# ---- what there is ----


def draw_world(rng: np.random.Generator, camera: Camera, fewest: int, most: int, seconds: float) -> World:
    """Objects at rest, and one to three that start from beyond the picture at some time towards one of the others."""
    count = int(rng.integers(fewest, most + 1))
    guests = min(int(rng.integers(1, 4)), max(count - 1, 1))
    kinds = list(itertools.product(*PROPERTIES.values()))
    things = [Properties(*kinds[place]) for place in rng.permutation(len(kinds))[:count]]
    places: list[np.ndarray] = []
    while len(places) < count - guests:
        place = rng.uniform(-REACH, REACH, 2)
        if _is_apart(place, places):
            places.append(place)
    bodies = [Body() for _ in places]
    targets = list(places) or [np.zeros(2)]
    while len(places) < count:
        target = targets[int(rng.integers(len(targets)))] + rng.uniform(-0.3, 0.3, 2)
        towards = (lambda angle: np.array([np.cos(angle), np.sin(angle)]))(rng.uniform(0, 2 * np.pi))
        distance = _way_out(camera, target, -towards)
        if distance < FARTHEST and _is_apart(target - distance * towards, places):
            places.append(target - distance * towards)
            # Friction takes from the square of the speed what it does on the way.
            speed = np.sqrt(rng.uniform(*SPEED_AT_TARGET) ** 2 + 2 * FRICTION * GRAVITY * distance)
            x, y = map(float, speed * towards)
            bodies.append(Body((x, y, 0.0), start=float(rng.uniform(0, LATEST_START * seconds))))
    turns = rng.uniform(0, 2 * np.pi, count)
    objects = tuple(place_object(*items) for items in zip(things, places, turns))
    return World(tuple(things), objects, tuple(bodies))


def place_object(thing: Properties, place: Float[np.ndarray, "2"], turn: float) -> SceneObject:
    """The body on the ground."""
    size = SIZE / (2**0.5 if thing.shape == "cube" else 1)
    surface = replace(
        clevr.MATERIALS[thing.material], colour=clevr.linear(clevr.COLOURS[thing.color]), name=thing.material
    )
    return SceneObject(thing.shape, size, (float(place[0]), float(place[1]), size), rotation_about_z(turn), surface)


def _is_apart(place: Float[np.ndarray, "2"], others: Sequence[Float[np.ndarray, "2"]]) -> bool:
    return all(np.linalg.norm(place - other) > 2 * SIZE + GAP for other in others)


def _way_out(camera: Camera, target: Float[np.ndarray, "2"], direction: Float[np.ndarray, "2"]) -> float:
    """How far from `target` an object is first wholly out of the picture."""
    distances = np.arange(0.0, FARTHEST + 0.1, 0.1)
    ground = target + distances[:, None] * direction
    columns, rows, depths = camera.project(np.column_stack([ground, np.full(len(ground), SIZE)])).T
    focal = camera.width / 2 / np.tan(np.radians(camera.fov) / 2)
    margin = 1.8 * focal * SIZE / np.maximum(depths, SIZE)
    beyond = np.maximum.reduce([-columns, columns - camera.width, -rows, rows - camera.height]) > margin
    return float(distances[beyond.argmax()]) if beyond.any() else np.inf


# ---- files ----


def annotation(number: int, name: str, log: EventLog, motion: Motion) -> dict:
    """annotation_NNNNN.json: properties, places in every frame, collisions."""
    angles = euler_angles(motion.rotations)
    return {
        "scene_index": number,
        "video_filename": name,
        "object_property": [{"object_id": k, **asdict(thing)} for k, thing in enumerate(log.things)],
        "motion_trajectory": [
            {
                "frame_id": frame,
                "objects": [
                    {
                        "object_id": k,
                        "location": _rounded(motion.positions[frame, k]),
                        "orientation": _rounded(angles[frame, k]),
                        "velocity": _rounded(motion.velocities[frame, k]),
                        "angular_velocity": _rounded(motion.spins[frame, k]),
                        "inside_camera_view": bool(log.inside[frame, k]),
                    }
                    for k in range(len(log.things))
                ],
            }
            for frame in range(len(log.inside))
        ],
        "collision": [
            {
                "object_ids": list(event.objects),
                "frame_id": event.frame,
                "location": _rounded(motion.positions[event.frame, event.objects].mean(axis=0)),
            }
            for event in log.events
            if event.kind == "collision"
        ],
    }


def _rounded(values: Float[np.ndarray, "3"]) -> list[float]:
    return values.round(5).tolist()


def euler_angles(rotations: Float[np.ndarray, "T N 4"]) -> Float[np.ndarray, "T N 3"]:
    """Turns about x, then y, then z, of quaternions (w, x, y, z)."""
    w, x, y, z = np.moveaxis(rotations, -1, 0)
    return np.stack(
        [
            np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y)),
            np.arcsin(np.clip(2 * (w * y - z * x), -1, 1)),
            np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)),
        ],
        axis=-1,
    )


def proposals(number: int, name: str, log: EventLog, pictures: Sequence[Rendering]) -> dict:
    """proposal_NNNNN.json, where the published set has what a segmentation network found: here it made no mistake."""
    frames = [
        {"frame_index": frame, "objects": list(_masks(log.things, drawn.index))} for frame, drawn in enumerate(pictures)
    ]
    return {"video_index": number, "video_filename": name, "frames": frames}


def _masks(things: Sequence[Properties], index: UInt8[np.ndarray, "H W"]) -> Iterator[dict]:
    for k, thing in enumerate(things):
        if (mask := index == k + 1).any():
            code = {"size": list(mask.shape), "counts": encode_run_lengths(mask)}
            yield {"mask": code, **asdict(thing), "score": 1.0}
