"""Videos of rigid bodies, in the file layouts of OBJ3D (Lin et al. 2020) and of MOVi (Greff et al. 2022)."""

import json
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from core.synth import clevr, textures
from core.synth.encoded import jpeg, png
from core.synth.h5_writer import sample_rng
from core.synth.physics import Body, Motion, simulate
from core.synth.render import Rendering, render
from core.synth.scene import Camera, Scene, SceneObject
from core.synth.scene_writer import Files
from core.synth.shapes import SHAPES, resting_height

SPLIT_CYCLE = 10  # of ten scenes the ninth is for validation, the tenth for test


def split_of(index: int, names: tuple[str, str, str]) -> tuple[str, int]:
    """The split of a scene, and its number there; both stay what they are when a data set grows."""
    cycle, place = divmod(index, SPLIT_CYCLE)
    if place < SPLIT_CYCLE - 2:
        return names[0], cycle * (SPLIT_CYCLE - 2) + place
    return names[place - SPLIT_CYCLE + 3], cycle


STIRRED = 0.002  # of a length or of a quaternion: below it hardly a pixel changes


def film(scene: Scene, motion: Motion, cameras: list[Camera], samples: int, seed: int) -> list[Rendering]:
    """As many frames of a motion as there are cameras; the noise of the renderer differs from picture to picture.

    A frame in which nothing has moved since the last one drawn shows that one again.
    """
    drawn: dict[int, Rendering] = {}
    shown = drawn_frames(motion, cameras)
    for frame in sorted(set(shown)):
        moved = scene.moved(motion.positions[frame], motion.rotations[frame], cameras[frame])
        drawn[frame] = render(moved, samples, seed=seed + frame)
    return [drawn[frame] for frame in shown]


def drawn_frames(motion: Motion, cameras: list[Camera]) -> list[int]:
    """For every frame the number of the frame whose picture it shows: its own, or an earlier one's like it."""
    poses = np.concatenate([motion.positions, motion.rotations], axis=2)
    shown = [0]
    for frame in range(1, len(cameras)):
        last = shown[-1]
        still = cameras[frame] == cameras[last] and np.abs(poses[frame] - poses[last]).max() <= STIRRED
        shown.append(last if still else frame)
    return shown


# ---- OBJ3D ----

OBJ3D_FOV = 38.0  # what CLEVR's camera sees of the height of its picture, and a little more


def make_obj3d(
    index: int, *, seed: int, frames: int, fps: float, width: int, height: int, samples: int, fewest: int, most: int
) -> Files:
    """test_{k}.png and mask_{k}.png, k from 1, of one video, and scene.json with what happened."""
    rng = sample_rng(seed, "obj3d", index)
    things, bodies = draw_collision(rng, fewest, most)
    objects = tuple(thing.place() for thing in things)
    motion = simulate(objects, bodies, frames, fps, friction=0.25, restitution=0.5)
    camera = Camera(clevr.CAMERA, clevr.TARGET, fov=OBJ3D_FOV, width=width, height=height)
    scene = Scene(objects, camera, clevr.draw_lights(rng, 0.0), clevr.GROUND)
    pictures = film(scene, motion, [scene.camera] * frames, samples, int(rng.integers(2**30)))
    split, number = split_of(index, ("train", "val", "test"))
    folder = f"{split}/{number:06d}"
    files = {f"{folder}/test_{k}.png": png(picture.image) for k, picture in enumerate(pictures, start=1)}
    files |= {f"{folder}/mask_{k}.png": png(picture.index) for k, picture in enumerate(pictures, start=1)}
    return files | {f"{folder}/scene.json": describe(scene, motion, [vars(thing) for thing in things], fps)}


def draw_collision(rng: np.random.Generator, fewest: int, most: int) -> tuple[list[clevr.Thing], list[Body]]:
    """Objects at rest near the middle, and one or two that slide in from outside towards one of them."""
    while True:
        things = clevr.draw_things(rng, fewest, most, reach=2.2)
        bodies = [Body() for _ in things]
        for _ in range(int(rng.integers(1, 3))):
            target = np.array(things[int(rng.integers(len(things)))].position)
            angle = rng.uniform(0, 2 * np.pi)
            start = target + rng.uniform(3.5, 5.0) * np.array([np.cos(angle), np.sin(angle)])
            guest = replace(clevr.draw_things(rng, 1, 1)[0], position=(float(start[0]), float(start[1])))
            towards = (target - start) / np.linalg.norm(target - start)
            speed = rng.uniform(4.0, 6.5)
            if all(clevr.are_apart(guest, other) for other in things):
                things.append(guest)
                bodies.append(Body(velocity=(float(speed * towards[0]), float(speed * towards[1]), 0.0)))
        if any(any(body.velocity) for body in bodies):
            return things, bodies


# ---- MOVi ----

MOVI_SPLITS = {"movi": ("train", "validation", "test"), "steve": ("train", "val", "test")}
MOVI_KINDS = {
    # Moving camera, textures, shapes beyond the simple ones.
    "movi-d": (False, True, True),
    "movi-e": (True, True, True),
    "movi-solid": (False, False, True),
    "movi-tex": (False, True, True),
}


def make_movi(
    index: int,
    *,
    kind: str,
    seed: int,
    frames: int,
    fps: float,
    width: int,
    height: int,
    samples: int,
    fewest: int,
    most: int,
) -> Files:
    """Frames and masks of one video in the layout of its kind, and scene.json with what happened."""
    moving_camera, textured, _ = MOVI_KINDS[kind]
    rng = sample_rng(seed, kind, index)
    objects, bodies, names = draw_pile(rng, fewest, most, textured)
    motion = simulate(objects, bodies, frames, fps, friction=0.5, restitution=0.4)
    cameras = draw_path(rng, frames, width, height, moving_camera)
    ground = replace(textures.material(str(rng.choice(textures.MATERIALS)), 24.0), metallic=0.0, roughness=0.85)
    scene = Scene(objects, cameras[0], clevr.draw_lights(rng), ground)
    pictures = film(scene, motion, cameras, samples, int(rng.integers(2**30)))
    in_steve_layout = kind in ("movi-solid", "movi-tex")
    split, number = split_of(index, MOVI_SPLITS["steve" if in_steve_layout else "movi"])
    folder = f"{split}/{number:08d}"
    files: Files = {f"{folder}/scene.json": describe(scene, motion, names, fps, cameras)}
    for t, picture in enumerate(pictures):
        if in_steve_layout:
            files[f"{folder}/{t:08d}_image.png"] = png(picture.image)
            if split != "val":  # as in the published sets
                for k in range(10):
                    files[f"{folder}/{t:08d}_mask_{k:02d}.png"] = png((picture.index == k + 1) * np.uint8(255))
        else:
            files[f"{folder}/{t:06d}.jpg"] = jpeg(picture.image)
            files[f"{folder}/{t:06d}_mask.png"] = png(picture.index)
    return files


def draw_pile(
    rng: np.random.Generator, fewest: int, most: int, textured: bool
) -> tuple[tuple[SceneObject, ...], list[Body], list[dict]]:
    """Objects at rest on the ground, and one to three that fall among them."""
    objects: list[SceneObject] = []
    bodies: list[Body] = []
    names: list[dict] = []
    count = int(rng.integers(fewest, most + 1))
    falling = min(int(rng.integers(1, 4)), count - 1)
    while len(objects) < count:
        shape, size = str(rng.choice(SHAPES)), float(rng.uniform(0.3, 0.75))
        x, y = map(float, rng.uniform(-3.5, 3.5, 2))
        falls = len(objects) >= count - falling
        reach = 1.5**0.5 * size  # half of a cube's diagonal
        near = (np.hypot(x - thing.position[0], y - thing.position[1]) < reach + 1.2 * thing.size for thing in objects)
        if any(near) and not falls:
            continue
        name = str(rng.choice(textures.MATERIALS)) if textured else str(rng.choice(list(clevr.COLOURS)))
        surface = (
            textures.material(name, 2.0)
            if textured
            else replace(clevr.MATERIALS["rubber"], colour=clevr.linear(clevr.COLOURS[name]))
        )
        nth = len(objects) - (count - falling)
        height = 2.0 + 0.9 * nth if falls else size * resting_height(shape)
        rotation = _random_rotation(rng) if falls else _upright(rng)
        objects.append(SceneObject(shape, size, (x, y, height), rotation, surface))
        towards = -0.6 * np.array([x, y]) + rng.uniform(-1, 1, 2)
        spin = rng.uniform(-4, 4, 3)
        bodies.append(Body((float(towards[0]), float(towards[1]), -1.0), tuple(map(float, spin))) if falls else Body())
        names.append({"shape": shape, "size": size, "material": name, "falls": falls})
    return tuple(objects), bodies, names


def _upright(rng: np.random.Generator) -> tuple[float, float, float, float]:
    angle = float(rng.uniform(0, np.pi))
    return float(np.cos(angle)), 0.0, 0.0, float(np.sin(angle))


def _random_rotation(rng: np.random.Generator) -> tuple[float, float, float, float]:
    w, x, y, z = map(float, (lambda q: q / np.linalg.norm(q))(rng.normal(size=4)))
    return w, x, y, z


def draw_path(rng: np.random.Generator, frames: int, width: int, height: int, moves: bool) -> list[Camera]:
    """Cameras on a half shell of radius 7 to 9 that look near the origin; a moving one goes straight, at even speed."""
    start, end = (_on_shell(rng) for _ in range(2))
    if not moves:
        end = start
    elif np.linalg.norm(end - start) > 4:
        end = start + 4 * (end - start) / np.linalg.norm(end - start)
    places = start + np.linspace(0, 1, frames)[:, None] * (end - start)
    return [Camera(tuple(map(float, place)), (0.0, 0.0, 0.4), width=width, height=height) for place in places]


def _on_shell(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    angle, height, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.75), rng.uniform(7, 9)
    flat = np.sqrt(1 - height**2)
    return radius * np.array([flat * np.cos(angle), flat * np.sin(angle), height])


def describe(scene: Scene, motion: Motion, names: list[dict], fps: float, cameras: list[Camera] | None = None) -> bytes:
    """What happened, as JSON: objects, their places in every frame, contacts, cameras."""
    cameras = cameras or [scene.camera]
    return json.dumps(
        {
            "frames_per_second": fps,
            "objects": names,
            "positions": motion.positions.round(5).tolist(),
            "rotations": motion.rotations.round(5).tolist(),
            "contacts": [vars(contact) for contact in motion.contacts],
            "cameras": [
                {"position": camera.position, "target": camera.target, "fov": camera.fov} for camera in cameras
            ],
        }
    ).encode()
