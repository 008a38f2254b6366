"""Make a synthetic data set on disk, in the format of the published one.

    python tools/make_data.py tetrominoes --root data/tetrominoes --train 60000 --test 320
    python tools/make_data.py clevrtex --root data --scenes 1000 --workers 2

The same command continues an interrupted run; the files do not depend on the number of workers. Sets with --scenes have
options, their defaults those of the published set; a larger --scenes continues a finished set.
"""

import argparse
import difflib
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.commandline import StrictParser, natural, positive
from core.synth.catalogue import SETS


def write_tetrominoes(arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    from core.synth import tetrominoes

    num_shapes = arguments.shapes or 19
    return write_h5_splits(
        arguments,
        names=("tetrominoes.h5", "tetrominoes_test.h5"),
        sample=functools.partial(tetrominoes.sample, num_shapes=num_shapes),
        factor_names=tetrominoes.FACTOR_NAMES,
        generator="core.synth.tetrominoes",
        options={"num_shapes": num_shapes},
    )


def write_multi_dsprites(variant: str, arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    from core.synth import multi_dsprites

    return write_h5_splits(
        arguments,
        names=(f"multi_dsprites_{variant}.h5", f"multi_dsprites_{variant}_test.h5"),
        sample=functools.partial(multi_dsprites.sample, variant=variant),
        factor_names=multi_dsprites.FACTOR_NAMES,
        generator="core.synth.multi_dsprites",
        options={"variant": variant},
    )


def write_clevr(most: int, files: tuple[str, str], groups: tuple[str, str], arguments) -> list[tuple[Path, str]]:
    from core.synth import clevr

    return write_h5_splits(
        arguments,
        names=files,
        groups=groups,
        sample=functools.partial(clevr.sample, fewest=3, most=most),
        factor_names=clevr.FACTOR_NAMES,
        generator="core.synth.clevr",
        options={"fewest": 3, "most": most},
    )


def write_rendered(name: str, arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    from core.synth.catalogue import write_set

    chosen = {option: getattr(arguments, option) for option in SETS[name].options}
    folder, total, made = write_set(
        name,
        arguments.root,
        arguments.scenes,
        seed=arguments.seed,
        workers=arguments.workers,
        force=arguments.force,
        **{option: value for option, value in chosen.items() if value is not None},
    )
    whole = f" ({arguments.scenes:,} asked for; files are written whole)" if total > arguments.scenes else ""
    return [(folder, f"{total:,} scenes{whole}, {made:,} of them made by this call")]


def write_phyre(arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    from core.synth.phyre.preview import write_phyre_preview

    path = write_phyre_preview(arguments.root / "phyre", arguments.seed)
    return [(path, "a preview; the tasks themselves are simulated where they are needed and have no files")]


def write_h5_splits(
    arguments: argparse.Namespace, *, names: tuple[str, str], groups: tuple[str, str] = ("train", "test"), **source
) -> list[tuple[Path, str]]:
    """The training and the test file of these names and groups; an empty split has no file."""
    from core.synth.h5_writer import write_h5
    from core.synth.preview import describe_h5, write_h5_preview

    report = []
    for split, name, count in zip(groups, names, (arguments.train, arguments.test)):
        if count == 0:
            continue
        path = arguments.root / name
        drawn = write_h5(
            path,
            split=split,
            draws="train" if path.name == names[0] else "test",
            count=count,
            seed=arguments.seed,
            workers=arguments.workers,
            force=arguments.force,
            **source,
        )
        describe_h5(path, arguments.name, DATASETS[arguments.name].what)
        if not report:
            write_h5_preview(path)
        if drawn == 0:
            state = "already there"
        elif drawn < count:
            state = f"continued after {count - drawn:,}"
        else:
            state = "written"
        report.append((path, f"{count:,} samples, {path.stat().st_size / 1e6:,.1f} MB, {state}"))
    return report


@dataclass(frozen=True)
class Dataset:
    """One NAME of the command line: what it is, its writer (files and a remark each), the options of its own."""

    what: str
    write: Callable[[argparse.Namespace], list[tuple[Path, str]]]
    options: tuple[str, ...] = ()
    sized_by: tuple[str, ...] = ("train", "test")


def multi_dsprites_dataset(variant: str, what: str) -> Dataset:
    return Dataset(f"64x64, {what}", functools.partial(write_multi_dsprites, variant))


CLEVR6_FILES = ("clevr6_with_masks_train.h5", "clevr6_with_masks_and_factors_test.h5")
CLEVR10_FILES = ("clevr10_with_masks_and_factors_train.h5", "clevr10_with_masks_test.h5")
DATASETS = {
    "tetrominoes": Dataset("35x35, three shaded tetrominoes on black", write_tetrominoes, ("shapes",)),
    "multi_dsprites": multi_dsprites_dataset("colored_on_grayscale", "short for multi_dsprites_colored_on_grayscale"),
    "multi_dsprites_binarized": multi_dsprites_dataset("binarized", "2-3 white sprites on black, one channel"),
    "multi_dsprites_colored_on_grayscale": multi_dsprites_dataset("colored_on_grayscale", "2-5 coloured on grey"),
    "multi_dsprites_colored_on_colored": multi_dsprites_dataset("colored_on_colored", "1-4 coloured on a colour"),
    "clevr6": Dataset(
        "320x240 stills, 3-6 objects, .h5 of EfficientMORL",
        functools.partial(write_clevr, 6, CLEVR6_FILES, ("train", "test")),
    ),
    # The published configuration reads group `test` of both files.
    "clevr10": Dataset(
        "320x240 stills, 3-10 objects, .h5 of EfficientMORL",
        functools.partial(write_clevr, 10, CLEVR10_FILES, ("test", "test")),
    ),
    **{
        name: Dataset(
            rendered.what, functools.partial(write_rendered, name), tuple(rendered.options), sized_by=("scenes",)
        )
        for name, rendered in SETS.items()
    },
    "phyre": Dataset("stand-in for PHYRE, 25 templates of 100 tasks: a preview, no files", write_phyre, sized_by=()),
}
OPTIONS = {
    "shapes": "tetrominoes: number of shapes, 17 or 19 (default 19)",
    "width": "pixels",
    "height": "pixels",
    "samples": "light paths per pixel: less is faster and noisier",
    "frames": "frames per video",
    "fps": "frames per second",
    "fewest": "objects per scene, at least",
    "most": "objects per scene, at most",
    "per_shard": "scenes per record file; files are written whole",
    "zoom": "how many times larger things look",
}


def parse_arguments(words: list[str]) -> argparse.Namespace:
    """The command line. Ends the process if it cannot be understood, or if options and data set do not agree."""
    names = "\n".join(f"  {name:36}{dataset.what}" for name, dataset in DATASETS.items())
    parser = StrictParser("tools/make_data.py", f"{__doc__}\nnames:\n{names}")
    parser.add_argument("name", metavar="NAME", help="data set, one of the names below")
    parser.add_argument("--root", type=Path, required=True, help="folder to write to, made if missing")
    parser.add_argument("--train", type=natural, help=".h5 sets: number of training samples")
    parser.add_argument("--test", type=natural, help=".h5 sets: number of test samples")
    parser.add_argument("--scenes", type=positive, help="other sets: number of scenes, all splits together")
    parser.add_argument("--seed", type=natural, default=0, help="same seed, same files (default 0)")
    parser.add_argument("--workers", type=positive, default=1, help="rendering processes (default 1)")
    parser.add_argument("--force", action="store_true", help="start over and overwrite existing files")
    for name, what in OPTIONS.items():
        kind = float if name in ("fps", "zoom") else positive
        parser.add_argument(f"--{name}", type=kind, help=what)
    arguments = parser.parse(words)
    if arguments.name not in DATASETS:
        guess = difflib.get_close_matches(arguments.name, DATASETS, n=1, cutoff=0)[0]
        parser.error(f"no data set {arguments.name!r}; did you mean {guess!r}? Known: {', '.join(DATASETS)}")
    dataset = DATASETS[arguments.name]
    for name in ("train", "test", "scenes"):
        given = getattr(arguments, name) is not None
        if given != (name in dataset.sized_by):
            sizes = " and ".join(f"--{size}" for size in dataset.sized_by)
            sized = f"the size of {arguments.name} is given by {sizes}" if sizes else f"{arguments.name} has no files"
            parser.error(sized)
    for name in OPTIONS:
        if getattr(arguments, name) is not None and name not in dataset.options:
            own = ", ".join(f"--{option}" for option in dataset.options) or "no options of its own"
            parser.error(f"--{name} does not apply to {arguments.name}, which has {own}")
    if arguments.shapes not in (None, 17, 19):
        parser.error(f"--shapes {arguments.shapes}: 17 or 19")
    if arguments.train == arguments.test == 0:
        parser.error("nothing to write: --train and --test are both 0")
    return arguments


def main(words: list[str]) -> int:
    arguments = parse_arguments(words)
    begin = time.monotonic()
    try:
        report = DATASETS[arguments.name].write(arguments)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"error: {error}. Rendering needs `pip install -e '.[synth]'`", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return 130
    for path, remark in report:
        print(f"{path}: {remark}")
    print(f"{time.monotonic() - begin:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
