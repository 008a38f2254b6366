"""Make a synthetic data set on disk, in the format of the published one.

    python tools/make_data.py tetrominoes --root data --train 60000 --test 320

The same command continues an interrupted run; the files do not depend on the number of workers.
"""

import argparse
import difflib
import functools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


def write_tetrominoes(arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    from core.synth import tetrominoes

    num_shapes = arguments.shapes or 19
    return write_h5_splits(
        arguments,
        stem="tetrominoes",
        sample=functools.partial(tetrominoes.sample, num_shapes=num_shapes),
        factor_names=tetrominoes.FACTOR_NAMES,
        generator="core.synth.tetrominoes",
        options={"num_shapes": num_shapes},
    )


def write_multi_dsprites(variant: str, arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    from core.synth import multi_dsprites

    return write_h5_splits(
        arguments,
        stem=f"multi_dsprites_{variant}",
        sample=functools.partial(multi_dsprites.sample, variant=variant),
        factor_names=multi_dsprites.FACTOR_NAMES,
        generator="core.synth.multi_dsprites",
        options={"variant": variant},
    )


def write_h5_splits(arguments: argparse.Namespace, *, stem: str, **source) -> list[tuple[Path, str]]:
    """STEM.h5 with group `train` and STEM_test.h5 with group `test`; an empty split has no file."""
    from core.synth.h5_writer import write_h5

    report = []
    for split, name, count in (("train", f"{stem}.h5", arguments.train), ("test", f"{stem}_test.h5", arguments.test)):
        if count == 0:
            continue
        path = arguments.root / name
        drawn = write_h5(
            path,
            split=split,
            count=count,
            seed=arguments.seed,
            workers=arguments.workers,
            force=arguments.force,
            **source,
        )
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
    """One NAME of the command line: what it is, its writer (files and a remark each), the extra options it takes."""

    what: str
    write: Callable[[argparse.Namespace], list[tuple[Path, str]]]
    extra_options: tuple[str, ...] = ()


def multi_dsprites_dataset(variant: str, what: str) -> Dataset:
    return Dataset(f"64x64, {what}", functools.partial(write_multi_dsprites, variant))


DATASETS = {
    "tetrominoes": Dataset("35x35, three shaded tetrominoes on black", write_tetrominoes, ("shapes",)),
    "multi_dsprites": multi_dsprites_dataset("colored_on_grayscale", "short for multi_dsprites_colored_on_grayscale"),
    "multi_dsprites_binarized": multi_dsprites_dataset("binarized", "2-3 white sprites on black, one channel"),
    "multi_dsprites_colored_on_grayscale": multi_dsprites_dataset("colored_on_grayscale", "2-5 coloured on grey"),
    "multi_dsprites_colored_on_colored": multi_dsprites_dataset("colored_on_colored", "1-4 coloured on a colour"),
}


def number_from(least: int) -> Callable[[str], int]:
    """An argparse type: an integer, at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text!r}")
        return int(text)

    return parse


def nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word, known, n=1, cutoff=0)[0]


def parse_arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        epilog="names:\n" + "\n".join(f"  {name:36}{dataset.what}" for name, dataset in DATASETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="data set, one of the names below")
    parser.add_argument("--root", type=Path, required=True, help="folder to write to, made if missing")
    parser.add_argument("--train", type=number_from(0), required=True, help="number of training samples")
    parser.add_argument("--test", type=number_from(0), required=True, help="number of test samples")
    parser.add_argument("--seed", type=number_from(0), default=0, help="same seed, same files (default 0)")
    parser.add_argument("--workers", type=number_from(1), default=1, help="rendering processes (default 1)")
    parser.add_argument("--shapes", type=int, choices=(17, 19), help="tetrominoes: number of shapes (default 19)")
    parser.add_argument("--force", action="store_true", help="start over and overwrite existing files")
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        flags = [f"--{name}" for name in vars(arguments) if name != "name"]
        parser.error(f"no flag {unknown[0]!r}; did you mean {nearest(unknown[0], flags)!r}?")
    if arguments.name not in DATASETS:
        guess = nearest(arguments.name, DATASETS)
        parser.error(f"no data set {arguments.name!r}; did you mean {guess!r}? Known: {', '.join(DATASETS)}")
    if arguments.shapes and "shapes" not in DATASETS[arguments.name].extra_options:
        parser.error(f"--shapes does not apply to {arguments.name}")
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
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return 130
    for path, remark in report:
        print(f"{path}: {remark}")
    print(f"{time.monotonic() - begin:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
