#!/usr/bin/env python3
"""Fetch MOVi-A to E (Greff et al. 2022, Kubric) and unpack its videos into folders of frames and masks.

    python slotdiffusion/scripts/data_utils/download_movi.py --out_path ./data/MOVi/ --level e

MOVi-<LEVEL>/<train|validation|test>/<8 digits>/ gets %06d.jpg and %06d_mask.png of every frame. One file of records
after the other is fetched and removed again; the same command continues an interrupted one. Neither TensorFlow nor an
account is needed. Exit codes: 0 done, 1 error, 2 misuse, 130 interrupted.
"""

import io
import json
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from core.commandline import StrictParser, positive
from core.data.errors import DataError
from core.data.tfrecord import Feature, parse_example, read_records
from core.outcome import exit_code_of

BUCKET = "https://storage.googleapis.com/kubric-public/tfds"
VERSION = "1.0.0"
LEVELS = ("a", "b", "c", "d", "e")
SPLITS = ("train", "validation", "test")
FEATURES = ("video", "segmentations")
"""Of a record: frames and their instance indices, encoded pictures."""
TIMEOUT = 60
"""Seconds without a byte."""


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("slotdiffusion/scripts/data_utils/download_movi.py", __doc__)
    what = "folder for MOVi-<LEVEL> (default: ./data/MOVi/)"
    parser.add_argument("--out_path", type=Path, default=Path("data/MOVi"), metavar="DIR", help=what)
    parser.add_argument("--level", choices=LEVELS, default="e", help="of difficulty (default: e)")
    what = "sides of the frames, of which the publishers have 128 and 256 (default: 128)"
    parser.add_argument("--image_size", type=positive, default=128, metavar="N", help=what)
    what = "only this one; may be repeated (default: all)"
    parser.add_argument("--split", choices=SPLITS, action="append", help=what)
    what = f"URL, or folder of a copy, in which movi_<level>/ lies (default: {BUCKET})"
    parser.add_argument("--source", default=BUCKET, metavar="URL", help=what)
    return parser.parse(words)


def download(arguments: Namespace) -> int:
    """Fetch and unpack as the command line says; the exit code."""
    name, size = f"movi_{arguments.level}", arguments.image_size
    place = f"{arguments.source.rstrip('/')}/{name}/{size}x{size}/{VERSION}"
    lengths = shard_lengths(place)
    for split in arguments.split or SPLITS:
        if split not in lengths:
            raise DataError(f"{place}: has no split {split}, only {', '.join(lengths)}. Leave it out with --split")
        folder = arguments.out_path / f"MOVi-{arguments.level.upper()}" / split
        first, count = 0, len(lengths[split])
        for shard, length in enumerate(tqdm(lengths[split], f"{name} {split}", unit=" files", disable=None)):
            videos = [folder / f"{number:08d}" for number in range(first, first + length)]
            if not all(video.is_dir() for video in videos):
                with fetched(f"{place}/{name}-{split}.tfrecord-{shard:05d}-of-{count:05d}") as path:
                    unpack(path, videos)
            first += length
        print(f"{split}: {first:,} videos in {folder}")
    return 0


def shard_lengths(place: str) -> dict[str, list[int]]:
    """How many videos each file of a split holds, as the data set says of itself."""
    with fetched(f"{place}/dataset_info.json") as path:
        try:
            splits = json.loads(path.read_text())["splits"]
            return {split["name"]: [int(length) for length in split["shardLengths"]] for split in splits}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{place}/dataset_info.json: not understood ({error!r}). Is --source right?") from error


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """A file of that path or address; what was fetched is removed in the end. Raises DataError."""
    if "://" not in address:
        if not Path(address).is_file():
            raise DataError(f"{address}: no such file. Is --source the folder that holds movi_<level>/?")
        yield Path(address)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / address.rpartition("/")[2]
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as response, path.open("wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise DataError(f"{address}: cannot be fetched ({reason}). Repeat the command to continue") from error
        yield path


def unpack(path: Path, videos: Sequence[Path]) -> None:
    """Write the records of a file to the folders `videos`, each of which is there as a whole or not at all."""
    found = 0
    for payload, folder in zip(read_records(path), videos):
        found += 1
        if folder.is_dir():
            continue
        features = parse_example(payload, path)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for number, (frame, mask) in enumerate(zip(*(pictures(features, key, path) for key in FEATURES), strict=True)):
            Image.fromarray(frame).save(partial / f"{number:06d}.jpg")
            Image.fromarray(mask if mask.ndim == 2 else mask[..., 0]).save(partial / f"{number:06d}_mask.png")
        partial.rename(folder)
    if found < len(videos):
        raise DataError(f"{path}: holds {found} videos, expected {len(videos)}. Repeat the command to fetch it again")


def pictures(features: dict[str, Feature], key: str, path: Path) -> list[np.ndarray]:
    """The frames of a feature, uint8, each of which is an encoded picture."""
    encoded = features.get(key, [])
    if not len(encoded):
        raise DataError(f"{path}: a record has no {key!r}, only {', '.join(sorted(features))}. Is it MOVi?")
    try:
        return [np.asarray(Image.open(io.BytesIO(bytes(frame)))).astype(np.uint8) for frame in encoded]
    except (OSError, TypeError) as error:
        raise DataError(f"{path}: {key!r} of a record is damaged ({error}). Fetch the file again") from error


def main(words: Sequence[str]) -> int:
    """Fetch and unpack as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: download(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
