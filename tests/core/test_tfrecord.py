"""TFRecord files: checksums, framing, messages, and every kind of damage."""

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.errors import DataError
from core.data.tfrecord import (
    crc32c,
    encode_example,
    masked_crc32c,
    parse_example,
    read_record,
    read_records,
    record_index,
    scan_records,
    write_records,
)

PAYLOADS = [b"first", b"", np.random.default_rng(0).bytes(70_001), b"\x00" * 100]
HEAD, FOOT = 12, 4


def bit_by_bit(data: bytes) -> int:
    """CRC-32C from its definition: division by the reflected polynomial 0x82F63B78."""
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "set-train.tfrecord-00000-of-00001"
    assert write_records(path, PAYLOADS) == len(PAYLOADS)
    return path


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_known_checksums(data, expected):
    """RFC 3720, appendix B.4, and the check value of the catalogue of CRCs."""
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [1, 2, 3, 4, 63, 64, 65, 66, 127, 128, 129, 255, 1000, 4097, 10_001])
def test_checksums_of_every_length(length):
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == bit_by_bit(data) == crc32c(memoryview(data))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_checksums_equal_their_definition(data):
    assert crc32c(data) == bit_by_bit(data)


def test_masked_checksum():
    crc = bit_by_bit(b"abc")
    assert masked_crc32c(b"abc") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_framing(file):
    data = file.read_bytes()
    assert data[:8] == struct.pack("<Q", 5)
    assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
    assert data[12:17] == b"first"
    assert struct.unpack("<I", data[17:21]) == (masked_crc32c(b"first"),)
    assert len(data) == sum(HEAD + len(payload) + FOOT for payload in PAYLOADS)


def test_round_trip(file):
    assert [bytes(payload) for payload in read_records(file)] == PAYLOADS
    found = scan_records(file)
    assert found[:, 1].tolist() == [len(payload) for payload in PAYLOADS]
    offset, length = found[2].tolist()
    assert bytes(read_record(file, offset, length)) == PAYLOADS[2]


def test_a_file_without_records(tmp_path):
    assert write_records(tmp_path / "none", []) == 0
    assert scan_records(tmp_path / "none").shape == (0, 2)
    assert record_index([tmp_path / "none"]).shape == (0, 3)


def test_a_file_appears_only_when_complete(tmp_path):
    def payloads():
        yield b"one"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_records(tmp_path / "records", payloads())
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_found_in_every_byte(tmp_path):
    path = tmp_path / "records"
    write_records(path, [b"abcdef", b"g" * 100])
    whole = path.read_bytes()
    for position in range(len(whole)):
        flip(path, position)
        with pytest.raises(DataError, match=rf"{path}: .*byte \d+.*Fetch or generate it again"):
            list(read_records(path))
        path.write_bytes(whole)


def test_a_damaged_payload_names_its_place_and_may_be_let_pass(file):
    offset, length = scan_records(file)[2].tolist()
    flip(file, offset + 1000)
    message = rf"{file}: damaged: the record of {length} bytes at byte {offset} has the checksum 0x\w+, expected 0x\w+"
    with pytest.raises(DataError, match=message):
        read_record(file, offset, length)
    assert len(read_record(file, offset, length, checksum=False)) == length


def test_a_file_cut_anywhere(file):
    whole = file.read_bytes()
    ends = np.cumsum([HEAD + len(payload) + FOOT for payload in PAYLOADS]).tolist()
    for length in (1, 11, 12, 20, ends[0] + 3, ends[1] + 5000, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"{file}: truncated: .*byte \d+.*Fetch or generate it again"):
            scan_records(file)
    file.write_bytes(whole[: ends[1]])  # a cut between two records cannot be seen
    assert len(scan_records(file)) == 2


def test_a_record_behind_the_end(file):
    offset, length = scan_records(file)[3].tolist()
    os.truncate(file, offset + 10)
    with pytest.raises(
        DataError, match=rf"truncated: expected a record of {length} bytes .* at byte {offset}, found 10"
    ):
        read_record(file, offset, length)


@pytest.mark.parametrize(("compress", "name"), [(gzip.compress, "gzip"), (zlib.compress, "zlib")])
def test_compressed_files(file, compress, name):
    file.write_bytes(compress(file.read_bytes()))
    with pytest.raises(DataError, match=rf"{file}: compressed with {name}: .*Decompress it"):
        scan_records(file)


def test_a_length_that_looks_like_gzip(tmp_path):
    length = int.from_bytes(b"\x1f\x8b", "little")
    write_records(tmp_path / "records", [bytes(length)])
    assert scan_records(tmp_path / "records").tolist() == [[12, length]]


def test_other_files(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match=r"picture\.png: not a TFRecord file: at byte 0 expected the length"):
        scan_records(tmp_path / "picture.png")
    with pytest.raises(DataError, match=r"missing: cannot be read \(No such file or directory\)"):
        scan_records(tmp_path / "missing")
    with pytest.raises(DataError, match=r"missing: cannot be read \(No such file or directory\)"):
        read_record(tmp_path / "missing", 12, 3)


def test_index_of_many_files(tmp_path, cache):
    paths = [tmp_path / f"set.tfrecord-{i}" for i in range(3)]
    for number, path in enumerate(paths):
        write_records(path, [f"{number} {i}".encode() * (i + 1) for i in range(number + 1)])
    index = record_index(paths)
    assert index[:, 0].tolist() == [0, 1, 1, 2, 2, 2]
    read = [bytes(read_record(paths[number], offset, length)) for number, offset, length in index.tolist()]
    assert read == [f"{n} {i}".encode() * (i + 1) for n in range(3) for i in range(n + 1)]
    (kept,) = cache.glob("*.npy")
    stamp = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(record_index(paths), index)
    assert kept.stat().st_mtime_ns == stamp
    write_records(paths[0], [b"another", b"and one more"])
    assert record_index(paths)[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_index_of_damaged_files(tmp_path, cache):
    paths = [tmp_path / f"set.tfrecord-{i}" for i in range(3)]
    for path in paths:
        write_records(path, PAYLOADS)
    os.truncate(paths[1], 1000)
    with pytest.raises(DataError, match=rf"{paths[1]}: truncated"):
        record_index(paths)
    assert not list(cache.glob("*.npy"))
    paths[2].unlink()
    with pytest.raises(DataError, match=rf"{paths[2]}: No such file or directory\. Fetch or generate it again"):
        record_index(paths)


def test_an_index_that_cannot_be_kept(file, monkeypatch, tmp_path):
    (tmp_path / "occupied").write_bytes(b"")
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "occupied"))
    with pytest.raises(DataError, match=r"occupied.*cannot keep the index of records .*set OBJECTCENTRIC_CACHE"):
        record_index([file])


def test_example_round_trip():
    features = {
        "picture": [b"\x89PNG" + bytes(300)],
        "names": [b"a", b"", "\u00e4".encode()],
        "K": np.array([1.5, -2.25, 1e-30], np.float32),
        "ids": np.array([0, 1, 127, 128, 2**40, -1, -(2**63), 2**63 - 1]),
        "none": [],
        "no floats": np.empty(0, np.float32),
    }
    found = parse_example(encode_example(features))
    assert list(found) == list(features)
    assert [bytes(value) for value in found["names"]] == features["names"]
    assert bytes(found["picture"][0]) == features["picture"][0]
    np.testing.assert_array_equal(found["K"], features["K"])
    assert found["K"].dtype == np.float32
    np.testing.assert_array_equal(found["ids"], features["ids"])
    assert found["ids"].dtype == np.int64
    assert found["none"] == []
    assert (len(found["no floats"]), found["no floats"].dtype) == (0, np.float32)


def test_known_bytes_of_an_example():
    """Written out by the wire format of protocol buffers: Example{features{feature{"a": int64_list{3, 300}}}}."""
    # Lengths: 3 bytes of numbers, in 5 of a list, in 7 of a feature; with the name 3 + 9 of an entry, 14 of features.
    packed = bytes.fromhex("0a0e0a0c0a016112071a050a0303ac02")
    assert packed == encode_example({"a": np.array([3, 300])})
    np.testing.assert_array_equal(parse_example(packed)["a"], [3, 300])


def message(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def example_of(feature: bytes, name: bytes = b"x") -> bytes:
    return message(1, message(1, message(1, name) + message(2, feature)))


def test_unpacked_numbers():
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in (0.5, -3.0))
    np.testing.assert_array_equal(parse_example(example_of(message(2, floats)))["x"], np.float32([0.5, -3.0]))
    integers = b"\x08\x05" + b"\x08" + b"\xff" * 9 + b"\x01"
    np.testing.assert_array_equal(parse_example(example_of(message(3, integers)))["x"], [5, -1])
    mixed = b"\x0d" + struct.pack("<f", 1.0) + message(1, struct.pack("<2f", 2.0, 3.0))
    np.testing.assert_array_equal(parse_example(example_of(message(2, mixed)))["x"], np.float32([1, 2, 3]))


def test_unknown_fields_are_passed_over():
    others = b"\x48\x07" + b"\x51" + bytes(8) + b"\x5d" + bytes(4) + message(12, b"later")
    encoded = others + message(1, others + message(1, others + message(1, b"x") + message(2, others + message(1, b""))))
    assert parse_example(encoded) == {"x": []}


def test_bytes_and_floats_are_not_copied():
    payload = bytearray(encode_example({"a": [b"abcd"], "f": np.array([1.0], np.float32)}))
    found = parse_example(memoryview(payload))
    where = payload.index(b"abcd")
    payload[where : where + 4] = b"efgh"
    assert bytes(found["a"][0]) == b"efgh"
    payload[-4:] = struct.pack("<f", 2.0)
    assert found["f"][0] == 2.0


@pytest.mark.parametrize(
    ("payload", "at", "message"),
    [
        (b"\x0a", 101, "expected a number of at most ten bytes, found no end of it"),
        (b"\x0a\x05abc", 100, "field 1 ends 2 bytes behind its message"),
        (b"\x0b\x00", 100, "expected wire type 0, 1, 2 or 5, found 3"),
        (b"\x0a\x02\x0a\x09", 102, "field 1 ends 9 bytes behind its message"),
        (b"\x80" * 11, 100, "expected a number of at most ten bytes, found no end of it"),
        (example_of(message(2, message(1, b"abc"))), 113, "expected float32 of 4 bytes each, found 3 bytes"),
        (example_of(message(1, b""), b"\xff\xfe"), 106, "expected the name of a feature in UTF-8"),
    ],
)
def test_malformed_messages(payload, at, message):
    with pytest.raises(DataError, match=f"data/set: not a tf.train.Example at byte {at}: {message}. Fetch"):
        parse_example(payload, "data/set", 100)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_features_or_an_error(data):
    try:
        found = parse_example(data)
    except DataError as error:
        found = str(error)
    assert isinstance(found, dict) or "not a tf.train.Example at byte" in found


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.lists(st.binary(max_size=9), max_size=4)
        | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda numbers: np.array(numbers, np.int64))
        | st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda numbers: np.array(numbers, np.float32)),
        max_size=5,
    )
)
def test_any_features_survive(features):
    found = parse_example(encode_example(features))
    assert found.keys() == features.keys()
    for name, value in features.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value)
        else:
            assert [bytes(item) for item in found[name]] == value
