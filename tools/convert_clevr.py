"""Convert CLEVR with masks of Multi-Object Datasets to the files of the ClevrTex benchmark, without TensorFlow.

    gsutil cp gs://multi-object-datasets/clevr_with_masks/clevr_with_masks_train.tfrecords .
    python tools/convert_clevr.py clevr_with_masks_train.tfrecords --root ool_data --workers 8

Writes `<root>/clevr_with_masks/<index // 10000>/<index>.npz`, then the manifest that makes the set complete. The same
command continues an interrupted conversion.
"""

import functools
import gzip
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.commandline import StrictParser, positive
from core.data.errors import DataError
from core.data.tfrecord import masked_crc32c, parse_example
from core.files import replacing
from core.parallel import ordered_map

HEIGHT, WIDTH = 240, 320
BYTE_FEATURES = ("image", "mask", "color", "material", "shape", "size")
FLOAT_FEATURES = ("x", "y", "z", "rotation", "pixel_coords", "visibility")
PER_FOLDER = 10_000
REMEDY = "Fetch it with gsutil cp gs://multi-object-datasets/clevr_with_masks/clevr_with_masks_train.tfrecords ."

Record = tuple[int, bytes, int]
"""Number, payload, and the checksum that the file gives."""


def read_gzip_records(path: Path, bar: tqdm) -> Iterator[Record]:
    """All records of a GZIP TFRecord file, in order; `bar` counts compressed bytes. Raises DataError."""
    index = 0
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as file:
            while header := file.read(12):
                length, stored = struct.unpack("<QI", header)
                if masked_crc32c(header[:8]) != stored:
                    raise DataError(f"{path}: damaged: record {index} has no valid length. {REMEDY}")
                payload, footer = file.read(length), file.read(4)
                yield index, payload, struct.unpack("<I", footer)[0]
                bar.update(raw.tell() - bar.n)
                index += 1
    except gzip.BadGzipFile as error:
        raise DataError(f"{path}: not a GZIP file of records ({error}). {REMEDY}") from error
    except (EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: damaged or cut short at record {index} ({error}). {REMEDY}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). {REMEDY}") from error


def decode(path: Path, record: Record) -> dict[str, np.ndarray]:
    """The features of a record, as the published `clevr_with_masks.dataset` gives them. Raises DataError."""
    index, payload, stored = record
    if masked_crc32c(payload) != stored:
        raise DataError(f"{path}: damaged: record {index} does not fit its checksum. {REMEDY}")
    features = parse_example(payload, path, joined=BYTE_FEATURES)
    missing = [name for name in (*BYTE_FEATURES, *FLOAT_FEATURES) if name not in features]
    if missing:
        raise DataError(f"{path}: record {index} has no {', '.join(missing)}: not CLEVR with masks. {REMEDY}")
    entities = len(features["visibility"])
    shapes = {"image": (HEIGHT, WIDTH, 3), "mask": (entities, HEIGHT, WIDTH, 1), "pixel_coords": (entities, 3)}
    try:
        return {
            name: np.asarray(features[name]).reshape(shapes.get(name, (entities,)))
            for name in (*BYTE_FEATURES, *FLOAT_FEATURES)
        }
    except ValueError as error:
        raise DataError(f"{path}: record {index} is not a picture of {WIDTH}x{HEIGHT} ({error}). {REMEDY}") from error


def write(record: Record, source: Path, folder: Path) -> int:
    """The file of one record, whole or not at all."""
    content = decode(source, record)
    with replacing(folder / path_of(record[0])) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **content)
    return record[0]


def path_of(index: int) -> str:
    return f"{index // PER_FOLDER}/{index}.npz"


def convert(source: Path, folder: Path, workers: int) -> tuple[int, int]:
    """Numbers of records, and of files written by this call; those already there are left alone.

    Raises DataError for a damaged file, and for a folder with a generated set.
    """
    if (folder / "dataset.json").exists():
        raise DataError(
            f"{folder}: holds a set that tools/make_data.py made (dataset.json). Give another --root, or move it away"
        )
    total = written = 0

    def missing(records: Iterator[Record]) -> Iterator[Record]:
        nonlocal total
        for record in records:
            total += 1
            if not (folder / path_of(record[0])).exists():
                yield record

    size = source.stat().st_size if source.exists() else 0
    with tqdm(total=size, desc=source.name, unit="B", unit_scale=True, disable=None) as bar:
        one = functools.partial(write, source=source, folder=folder)
        for _ in ordered_map(one, missing(read_gzip_records(source, bar)), workers):
            written += 1
    if not total:
        raise DataError(f"{source}: holds no records. {REMEDY}")
    with replacing(folder / "manifest_ind.json") as partial:
        partial.write_text(json.dumps({str(index): path_of(index) for index in range(total)}))
    return total, written


def main(words: list[str]) -> int:
    parser = StrictParser("tools/convert_clevr.py", __doc__)
    parser.add_argument("source", type=Path, help="clevr_with_masks_train.tfrecords")
    parser.add_argument("--root", type=Path, default=Path("ool_data"), help="folder of the data (default ool_data)")
    parser.add_argument("--workers", type=positive, default=1, help="processes that compress (default 1)")
    arguments = parser.parse(words)
    folder = arguments.root / "clevr_with_masks"
    try:
        total, written = convert(arguments.source, folder, arguments.workers)
    except (DataError, OSError, RuntimeError) as error:
        print(f"error: {error}\nThe same command continues after the files that are written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        return 130
    print(f"{folder}: {total:,} pictures, {written:,} of them converted by this call")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
