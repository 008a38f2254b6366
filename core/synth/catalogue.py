"""Every rendered data set by name: what makes a scene, with which options, below which folder."""

import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.synth.scene_writer import Files, write_scenes

Options = dict[str, int | float]
STILL = {"width": 320, "height": 240, "samples": 8}
VIDEO = {"width": 128, "height": 128, "samples": 6, "frames": 24, "fps": 12.0}


@dataclass(frozen=True)
class RenderedSet:
    """One data set that is made of scenes.

    `make(index, seed=..., **options)` gives the files of a scene below `folder`; `options` holds the defaults, those of
    the published set; `finish(root, count, options)` gives the files that cover all scenes.
    """

    what: str
    make: Callable[..., Files]
    options: Options
    folder: str = "."
    finish: Callable[[Path, int, Options], Files] | None = None
    constants: dict[str, str] = field(default_factory=dict)
    """Arguments of `make` that the name stands for."""


def make_clevr(index: int, *, seed: int, samples: int, width: int, height: int, fewest: int, most: int) -> Files:
    """One .npz of CLEVR with masks, as the ClevrTex benchmark reads it."""
    import numpy as np

    from core.synth import clevr
    from core.synth.h5_writer import sample_rng

    rng = sample_rng(seed, "clevr", index)
    image, masks, factors = clevr.sample(rng, fewest, most, samples, width, height)
    columns = dict(zip(clevr.FACTOR_NAMES, factors.T))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=image, mask=masks[..., None], **columns)
    return {f"{index // 10_000}/{index}.npz": buffer.getvalue()}


def clevr_manifest(root: Path, count: int, options: Options) -> Files:
    paths = {str(index): f"{index // 10_000}/{index}.npz" for index in range(count)}
    return {"manifest_ind.json": json.dumps(paths).encode()}


def make_clevrtex(index: int, **arguments) -> Files:
    from core.synth import clevrtex

    return clevrtex.make_scene(index, **arguments)


def make_obj3d(index: int, **arguments) -> Files:
    from core.synth import videos

    return videos.make_obj3d(index, **arguments)


def make_movi(index: int, **arguments) -> Files:
    from core.synth import videos

    return videos.make_movi(index, **arguments)


def make_views(index: int, **arguments) -> Files:
    from core.synth import views

    return views.make_views(index, **arguments)


def views_metadata(root: Path, count: int, options: Options) -> Files:
    from core.synth import views

    return views.metadata(root, count, int(options["most"]))


def make_msn(index: int, **arguments) -> Files:
    from core.synth import msn

    return msn.make_shard(index, **arguments)


def msn_description(root: Path, count: int, options: Options) -> Files:
    from core.synth import msn

    return msn.description(root, count, int(options["per_shard"]))


def make_clevrer(index: int, **arguments) -> Files:
    from core.synth import clevrer

    return clevrer.make_clevrer(index, **arguments)


def clevrer_questions(root: Path, count: int, options: Options) -> Files:
    from core.synth import clevrer

    return clevrer.question_files(root, count)


def make_physion(index: int, **arguments) -> Files:
    from core.synth import physion

    return physion.make_physion(index, **arguments)


def physion_lists(root: Path, count: int, options: Options) -> Files:
    from core.synth import physion

    return physion.lists_and_labels(root, count)


def _clevrtex(variant: str, what: str) -> RenderedSet:
    return RenderedSet(what, make_clevrtex, STILL, f"clevrtex_{variant}", constants={"variant": variant})


def _movi(kind: str, what: str, folder: str, most: int) -> RenderedSet:
    return RenderedSet(what, make_movi, {**VIDEO, "fewest": 10, "most": most}, folder, constants={"kind": kind})


SETS = {
    "clevr": RenderedSet(
        "320x240 stills, 3-10 objects, .npz of the ClevrTex benchmark",
        make_clevr,
        {**STILL, "fewest": 3, "most": 10},
        "clevr_with_masks",
        clevr_manifest,
    ),
    "clevrtex": _clevrtex("full", "320x240 stills, textured objects and ground (variant full)"),
    "clevrtex_pbg": _clevrtex("pbg", "the same on plain ground"),
    "clevrtex_vbg": _clevrtex("vbg", "plain objects on textured ground"),
    "clevrtex_grassbg": _clevrtex("grassbg", "textured objects on grass"),
    "clevrtex_camo": _clevrtex("camo", "objects of the ground's material"),
    "clevrtex_outd": _clevrtex("outd", "materials and shapes that no other variant shows"),
    "clevrtex_test": _clevrtex("test", "more of full"),
    "obj3d": RenderedSet(
        "128x128 videos of 100 frames, objects slide and collide",
        make_obj3d,
        {**VIDEO, "frames": 100, "fewest": 2, "most": 4},
        "OBJ3D",
    ),
    "movi-d": _movi("movi-d", "128x128 videos of 24 frames, 10-20 objects, some fall", "MOVi-D", 20),
    "movi-e": _movi("movi-e", "the same seen by a moving camera", "MOVi-E", 20),
    "movi-solid": _movi("movi-solid", "plain objects of many shapes on textured ground", "MOVi-Solid", 10),
    "movi-tex": _movi("movi-tex", "textured objects on textured ground", "MOVi-Tex", 10),
    "clevrer": RenderedSet(
        "480x320 videos of 128 frames, objects enter, collide and leave; questions about them",
        make_clevrer,
        {**VIDEO, "width": 480, "height": 320, "samples": 4, "frames": 128, "fps": 25.0, "fewest": 3, "most": 6},
        "CLEVRER",
        clevrer_questions,
    ),
    "physion": RenderedSet(
        "256x256 videos of 150 frames, eight scenarios, does red touch yellow",
        make_physion,
        {**VIDEO, "width": 256, "height": 256, "samples": 4, "frames": 150, "fps": 30.0},
        "Physion",
        physion_lists,
    ),
    "clevr3d": RenderedSet(
        "320x240, three views of CLEVR scenes",
        make_views,
        {**STILL, "fewest": 3, "most": 6},
        "clevr3d",
        views_metadata,
        {"kind": "clevr3d"},
    ),
    "obsurf_msn": RenderedSet(
        "320x240, three views of 2-4 stretched, textured bodies",
        make_views,
        {**STILL, "fewest": 2, "most": 4},
        "obsurf_msn",
        views_metadata,
        {"kind": "obsurf_msn"},
    ),
    "msn": RenderedSet(
        "128x128, ten views of 16-31 bodies, record files of MultiShapeNet",
        make_msn,
        {**STILL, "width": 128, "height": 128, "fewest": 16, "most": 31, "per_shard": 16},
        "msn",
        msn_description,
    ),
}


def write_set(
    name: str, root: Path, scenes: int, *, seed: int = 0, workers: int = 1, force: bool = False, **chosen: int | float
) -> tuple[Path, int]:
    """Make `scenes` scenes of the set `name` below `root`, and a preview; the folder, and how many files of scenes (for
    `msn` shards) this call made.

    `chosen` replaces defaults of the set's options. Raises what `write_scenes` raises, ValueError for options out of
    range.
    """
    made = SETS[name]
    from core.synth.preview import write_preview

    options = {**made.options, **chosen}
    check_options(name, options)
    folder = root / made.folder
    make = functools.partial(made.make, seed=seed, **made.constants, **options)
    description = {"name": name, "what": made.what, "version": 1, "seed": seed, "options": options}
    items = -(-scenes // int(options.get("per_shard", 1)))  # a file may hold several scenes
    finish = functools.partial(made.finish, folder, items, options) if made.finish else None
    number = write_scenes(folder, make, items, description, finish=finish, workers=workers, force=force)
    if number:
        write_preview(folder, options.get("fps"))
    return folder, number


def check_options(name: str, options: Options) -> None:
    """Raises ValueError, naming the option."""
    for option, value in options.items():
        if value <= 0:
            raise ValueError(f"--{option} {value}: must be positive")
    if options.get("fewest", 0) > options.get("most", 0):
        raise ValueError(f"--fewest {options['fewest']} is more than --most {options['most']}")
    if name in ("movi-solid", "movi-tex") and options["most"] > 10:
        raise ValueError(f"--most {options['most']}: the files of {name} have room for 10 masks")
    if name in ("clevrer", "physion") and (options["width"] % 2 or options["height"] % 2):
        raise ValueError(f"--width {options['width']} --height {options['height']}: videos need even numbers of pixels")
    if name == "clevrer" and options["fewest"] < 2:
        raise ValueError(f"--fewest {options['fewest']}: at least 2 objects, for they collide")
    room = {"msn": 33, "clevrer": 6}.get(name, 20)
    if options.get("most", 0) > room:
        raise ValueError(f"--most {options['most']}: there is room for {room} objects")
