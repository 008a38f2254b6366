"""The published CLEVR with masks, a GZIP TFRecord file, converted by the command of the README."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from core.data.clevr import Clevr
from core.data.framing import Framing
from core.data.tfrecord import encode_example, framed, parse_example
from tests.conftest import ROOT, Runner

COUNT, NUM_ENTITIES = 5, 3
_rng = np.random.default_rng(0)
LABELS = _rng.integers(0, NUM_ENTITIES, (COUNT, 12, 16)).repeat(20, axis=1).repeat(20, axis=2)
PICTURES = np.stack((LABELS, 100 + LABELS, 255 - LABELS), axis=-1).astype(np.uint8)
FACTORS = {name: _rng.normal(size=(COUNT, NUM_ENTITIES)).astype(np.float32) for name in ("x", "y", "z", "rotation")}
KINDS = {name: _rng.integers(0, 4, (COUNT, NUM_ENTITIES)).astype(np.uint8) for name in ("color", "material", "shape")}


def varint(value: int) -> bytes:
    octets = []
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def one_value_a_byte(name: str, content: np.ndarray) -> bytes:
    """An Example with one list of bytes, each value of which is one byte, as the published pictures are stored."""
    triples = np.empty((content.size, 3), np.uint8)
    triples[:] = (0x0A, 1, 0)
    triples[:, 2] = content.ravel()
    entry = message(1, name.encode()) + message(2, message(1, triples.tobytes()))
    return message(1, message(1, entry))


def masks_of(number: int) -> np.ndarray:
    return ((LABELS[number] == np.arange(NUM_ENTITIES)[:, None, None]) * np.uint8(255))[..., None]


def record(number: int, **changes) -> bytes:
    features = {name: values[number] for name, values in FACTORS.items()}
    features |= {"pixel_coords": np.arange(9, dtype=np.float32), "visibility": np.ones(NUM_ENTITIES, np.float32)}
    features |= {name: [bytes([value]) for value in values[number]] for name, values in KINDS.items()}
    features |= {"size": [b"\1", b"\2", b"\1"]}
    # Two Examples in a row are one with the features of both.
    pictures = one_value_a_byte("image", PICTURES[number]) + one_value_a_byte("mask", masks_of(number))
    return pictures + encode_example({name: value for name, value in (features | changes).items() if value is not None})


def write(path: Path, payloads: list[bytes]) -> Path:
    path.write_bytes(gzip.compress(b"".join(map(framed, payloads)), compresslevel=1))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "clevr_with_masks_train.tfrecords"
    return write(path, [record(number) for number in range(COUNT)])


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_converted_scenes_are_read(run: Runner, tmp_path: Path, source: Path):
    done = run("tools/convert_clevr.py", source, "--root", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'clevr_with_masks'}: 5 pictures, 5 of them converted by this call" in done.stdout
    folder = tmp_path / "clevr_with_masks"
    assert json.loads((folder / "manifest_ind.json").read_text()) == {str(i): f"0/{i}.npz" for i in range(COUNT)}
    batch = Clevr(folder, "test", Framing()).read(np.arange(COUNT))
    np.testing.assert_array_equal(batch["image"].numpy(), PICTURES.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["mask"].numpy(), LABELS)
    assert batch["visible"].all()
    with np.load(folder / "0" / "3.npz") as scene:
        np.testing.assert_array_equal(scene["mask"], masks_of(3))
        assert scene["pixel_coords"].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        assert scene["size"].tolist() == [1, 2, 1]
        for name, values in (FACTORS | KINDS).items():
            np.testing.assert_array_equal(scene[name], values[3])
            assert scene[name].dtype == values.dtype


def test_a_killed_conversion_is_continued_by_two_workers(run: Runner, tmp_path: Path):
    source = write(tmp_path / "clevr.tfrecords", [record(number % COUNT) for number in range(40)])
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("tools/convert_clevr.py", source, "--root", whole).returncode == 0
    words = [sys.executable, "tools/convert_clevr.py", str(source), "--root", str(cut)]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    folder = cut / "clevr_with_masks"
    deadline = time.monotonic() + 60
    while not (folder / "0/0.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "manifest_ind.json").exists()
    first = (folder / "0/0.npz").stat().st_mtime_ns
    found = len(list(folder.rglob("*.npz")))
    done = run("tools/convert_clevr.py", source, "--root", cut, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert f"40 pictures, {40 - found} of them converted by this call" in done.stdout
    assert (folder / "0/0.npz").stat().st_mtime_ns == first
    left = {path: content for path, content in contents(cut).items() if not path.endswith(".partial")}
    assert left == contents(whole)


def test_a_generated_set_is_left_alone(run: Runner, tmp_path: Path, source: Path):
    (tmp_path / "clevr_with_masks").mkdir()
    (tmp_path / "clevr_with_masks/dataset.json").write_text("{}")
    done = run("tools/convert_clevr.py", source, "--root", tmp_path)
    assert done.returncode == 1
    assert "clevr_with_masks: holds a set that tools/make_data.py made (dataset.json)" in done.stderr
    assert list(contents(tmp_path)) == ["clevr_with_masks/dataset.json"]


def test_lists_of_whole_strings_are_joined_too():
    payload = encode_example({"image": [b"ab", b"", b"c"], "empty": [], "word": [b"\n\1x\n\1y"]})
    found = parse_example(payload, joined=("image", "empty", "word"))
    assert {name: value.tobytes() for name, value in found.items()} == {
        "image": b"abc",
        "empty": b"",
        "word": b"\n\1x\n\1y",
    }


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "damaged or cut short at record 1"),
        (lambda path: path.write_bytes(b"no gzip file"), "not a GZIP file of records"),
        (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
        (lambda path: write(path, []), "holds no records"),
        (lambda path: write(path, [record(0, visibility=None)]), "record 0 has no visibility: not CLEVR with masks"),
        (lambda path: write(path, [record(0, x=np.zeros(2, np.float32))]), "record 0 is not a picture of 320x240"),
        (
            lambda path: path.write_bytes(gzip.compress(framed(record(0))[:-1] + b"\0", compresslevel=1)),
            "record 0 does not fit its checksum",
        ),
        (lambda path: path.write_bytes(gzip.compress(bytes(40))), "record 0 has no valid length"),
    ],
)
def test_damage_is_named_with_where_the_file_comes_from(run: Runner, tmp_path: Path, damage, said: str):
    path = write(tmp_path / "clevr.tfrecords", [record(0), record(1)])
    damage(path)
    done = run("tools/convert_clevr.py", path, "--root", tmp_path)
    assert done.returncode == 1
    assert f"error: {path}: " in done.stderr
    assert said in done.stderr
    assert "gsutil cp gs://multi-object-datasets/clevr_with_masks/" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "clevr_with_masks" / "manifest_ind.json").exists()
