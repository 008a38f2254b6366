"""What the commands of this folder have in common: their flags, and what they print at the end."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from core.commandline import StrictParser, positive
from core.data.errors import DataError
from core.data.frame_folders import Extraction

MOST_FAILURES_PRINTED = 20


def parse_arguments(
    words: list[str], script: str, what: str, root: Path, subsets: tuple[str, ...] = ()
) -> argparse.Namespace:
    """Root of the data, number of processes and, if there are any, the subsets to work on."""
    parser = StrictParser(f"slotformer/scripts/data_preproc/{script}", what)
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the data set (default {root})")
    cores = min(8, len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=positive, default=cores, help=f"processes side by side (default {cores})")
    if subsets:
        parser.add_argument("--subset", action="append", choices=subsets, help="only this one; may be repeated")
    arguments = parser.parse(words)
    if not arguments.root.is_dir():
        parser.error(f"--root: no folder {arguments.root}")
    return arguments


def report(extract: Callable[[], Extraction]) -> int:
    """Run `extract`, print what came of it, and give the exit code."""
    try:
        result = extract()
    except (DataError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return 130
    print(
        f"{result.written:,} videos extracted, {result.already_there:,} already there, {len(result.failures):,} failed"
    )
    for message in result.failures[:MOST_FAILURES_PRINTED]:
        print(f"error: {message}", file=sys.stderr)
    if len(result.failures) > MOST_FAILURES_PRINTED:
        print(f"... and {len(result.failures) - MOST_FAILURES_PRINTED:,} more", file=sys.stderr)
    return 1 if result.failures else 0
