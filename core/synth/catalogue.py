"""Every rendered data set by name: what makes a scene, with which options, below which folder."""

import functools
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.synth.scene_writer import Options, write_scenes

STILL = {"width": 320, "height": 240, "samples": 8}
VIDEO = {"width": 128, "height": 128, "samples": 6, "frames": 24, "fps": 12.0}


@dataclass(frozen=True)
class RenderedSet:
    """One data set that is made of scenes.

    `make` and `finish` are "module:function", which are imported when a set is made. `make(index, seed=..., **options)`
    gives the files of a scene below `folder`; `options` holds the defaults, those of the published set;
    `finish(root, count, options)` gives the files that cover all scenes.
    """

    what: str
    make: str
    options: Options
    folder: str = "."
    finish: str | None = None
    constants: dict[str, str] = field(default_factory=dict)
    """Arguments of `make` that the name stands for."""
    least_objects: int = 1
    room: int = 20
    """Most objects that its files can hold, or that fit into the scene."""
    even_sides: bool = False
    """Videos need even numbers of pixels."""

    def check(self, options: Options) -> None:
        """Raises ValueError, naming the option."""
        for option, value in options.items():
            if not 0 < value < math.inf:
                raise ValueError(f"--{option} {value}: must be positive and finite")
        if options.get("fewest", 0) > options.get("most", 0):
            raise ValueError(f"--fewest {options['fewest']} is more than --most {options['most']}")
        if options.get("fewest", self.least_objects) < self.least_objects:
            raise ValueError(f"--fewest {options['fewest']}: at least {self.least_objects} objects, for they collide")
        if options.get("most", 0) > self.room:
            raise ValueError(f"--most {options['most']}: there is room for {self.room} objects")
        if self.even_sides and (options["width"] % 2 or options["height"] % 2):
            sides = f"--width {options['width']} --height {options['height']}"
            raise ValueError(f"{sides}: videos need even numbers of pixels")


def _function(path: str) -> Callable:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _clevrtex(variant: str, what: str) -> RenderedSet:
    return RenderedSet(
        what, "core.synth.clevrtex:make_scene", STILL, f"clevrtex_{variant}", constants={"variant": variant}
    )


def _movi(kind: str, what: str, folder: str, most: int) -> RenderedSet:
    return RenderedSet(
        what,
        "core.synth.videos:make_movi",
        {**VIDEO, "fewest": 10, "most": most},
        folder,
        constants={"kind": kind},
        room=most,
    )


SETS = {
    "clevr": RenderedSet(
        "320x240 stills, 3-10 objects, .npz of the ClevrTex benchmark",
        "core.synth.clevr_npz:make_npz",
        {**STILL, "fewest": 3, "most": 10},
        "clevr_with_masks",
        "core.synth.clevr_npz:manifest",
    ),
    "clevrtex": _clevrtex("full", "320x240 stills, textured objects and ground (variant full)"),
    "clevrtex_pbg": _clevrtex("pbg", "the same on plain ground"),
    "clevrtex_vbg": _clevrtex("vbg", "plain objects on textured ground"),
    "clevrtex_grassbg": _clevrtex("grassbg", "textured objects on grass"),
    "clevrtex_camo": _clevrtex("camo", "objects of the ground's material"),
    "clevrtex_outd": _clevrtex("outd", "materials and shapes that no other variant shows"),
    "clevrtex_test": _clevrtex("test", "more of full"),
    "celeba": RenderedSet(
        "178x218, drawn faces",
        "core.synth.faces:make_face",
        {"width": 178, "height": 218},
        "CelebA",
        "core.synth.faces:partition",
    ),
    "coco": RenderedSet(
        "640x480 or upright stills, bodies outlined by polygons, classes are their shapes",
        "core.synth.photos:make_coco",
        {**STILL, "width": 640, "height": 480, "fewest": 1, "most": 8},
        "COCO",
        "core.synth.photos:coco_tables",
        room=12,
    ),
    "voc": RenderedSet(
        "500x375 or upright stills, label maps of bodies and of classes with unlabelled rims",
        "core.synth.photos:make_voc",
        {**STILL, "width": 500, "height": 375, "fewest": 1, "most": 6},
        "VOC",
        "core.synth.photos:voc_lists",
        room=6,
    ),
    "obj3d": RenderedSet(
        "128x128 videos of 100 frames, objects slide and collide",
        "core.synth.videos:make_obj3d",
        {**VIDEO, "frames": 100, "fewest": 2, "most": 4},
        "OBJ3D",
    ),
    "movi-d": _movi("movi-d", "128x128 videos of 24 frames, 10-20 objects, some fall", "MOVi-D", 20),
    "movi-e": _movi("movi-e", "the same seen by a moving camera", "MOVi-E", 20),
    "movi-solid": _movi("movi-solid", "plain objects of many shapes on textured ground", "MOVi-Solid", 10),
    "movi-tex": _movi("movi-tex", "textured objects on textured ground", "MOVi-Tex", 10),
    "clevrer": RenderedSet(
        "480x320 videos of 128 frames, objects enter, collide and leave; questions about them",
        "core.synth.clevrer:make_clevrer",
        {
            **VIDEO,
            "width": 480,
            "height": 320,
            "samples": 4,
            "frames": 128,
            "fps": 25.0,
            "fewest": 3,
            "most": 6,
            "zoom": 1.0,
        },
        "CLEVRER",
        "core.synth.clevrer:question_files",
        least_objects=2,
        room=6,
        even_sides=True,
    ),
    "physion": RenderedSet(
        "256x256 videos of 150 frames, eight scenarios, does red touch yellow",
        "core.synth.physion:make_physion",
        {**VIDEO, "width": 256, "height": 256, "samples": 4, "frames": 150, "fps": 30.0},
        "Physion",
        "core.synth.physion:lists_and_labels",
        even_sides=True,
    ),
    "clevr3d": RenderedSet(
        "320x240, three views of CLEVR scenes",
        "core.synth.views:make_views",
        {**STILL, "fewest": 3, "most": 6, "zoom": 1.0},
        "clevr3d",
        "core.synth.views:metadata",
        {"kind": "clevr3d"},
    ),
    "obsurf_msn": RenderedSet(
        "320x240, three views of 2-4 stretched, textured bodies",
        "core.synth.views:make_views",
        {**STILL, "fewest": 2, "most": 4, "zoom": 1.0},
        "obsurf_msn",
        "core.synth.views:metadata",
        {"kind": "obsurf_msn"},
    ),
    "msn": RenderedSet(
        "128x128, ten views of 16-31 bodies, record files of MultiShapeNet",
        "core.synth.msn:make_shard",
        {**STILL, "width": 128, "height": 128, "fewest": 16, "most": 31, "per_shard": 16},
        "msn",
        "core.synth.msn:description",
        room=33,
    ),
}


def write_set(
    name: str, root: Path, scenes: int, *, seed: int = 0, workers: int = 1, force: bool = False, **chosen: int | float
) -> tuple[Path, int, int]:
    """Make at least `scenes` scenes of the set `name` below `root`, and a preview.

    The folder, how many scenes it holds, and how many of them this call made. A file that holds several scenes is
    written whole, so that there may be more than asked for.

    `chosen` replaces defaults of the set's options. Raises what `write_scenes` raises, ValueError for options out of
    range.
    """
    from core.synth.preview import write_preview

    made = SETS[name]
    options = {**made.options, **chosen}
    made.check(options)
    folder = root / made.folder
    make = functools.partial(_function(made.make), seed=seed, **made.constants, **options)
    description = {"name": name, "what": made.what, "version": 1, "seed": seed, "options": options}
    scenes_each = int(options.get("per_shard", 1))
    items = -(-scenes // scenes_each)
    finish = functools.partial(_function(made.finish), folder, items, options) if made.finish else None
    writing = {"finish": finish, "workers": workers, "force": force, "scenes_each": scenes_each}
    number = write_scenes(folder, make, items, description, **writing)
    fps = options.get("fps")
    if number or not (folder / ("preview.gif" if fps else "preview.png")).exists():
        write_preview(folder, fps)
    return folder, items * scenes_each, number
