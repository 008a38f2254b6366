"""TFRecord files and the `tf.train.Example` messages in them, read and written without TensorFlow.

A record is its length (u64, little-endian), the masked CRC-32C of these eight bytes (u32), the payload, and the masked
CRC-32C of the payload (u32). An Example maps names to lists of bytes, of float32 or of int64 (protocol buffers).
"""

import fcntl
import functools
import hashlib
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8, UInt32
from tqdm import tqdm

from core.data.cache import cache_folder
from core.data.errors import DataError
from core.files import replacing

Feature = Sequence[bytes | memoryview] | np.ndarray
"""A list of bytes, or a one-dimensional array of float32 or int64."""

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib"}
_FILES_AT_A_TIME = 16  # scanning waits for the disk
_SHORT = 64  # bytes; below, a plain loop is faster

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


def _table_of_octets() -> UInt32[np.ndarray, "256"]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


_OCTETS = _table_of_octets()
_OCTETS_AS_INTEGERS = _OCTETS.tolist()


def _past_zero(register: UInt32[np.ndarray, "n"]) -> UInt32[np.ndarray, "n"]:
    """The register one zero octet later."""
    return _OCTETS[register & 0xFF] ^ (register >> np.uint32(8))


@functools.cache
def _pairs() -> UInt32[np.ndarray, "65536"]:
    """The register after two octets, the first one low, starting from zero."""
    pairs = np.arange(1 << 16, dtype=np.uint32)
    return _past_zero(_OCTETS[pairs & 0xFF] ^ (pairs >> np.uint32(8)))


@functools.cache
def _past_zeros(doublings: int) -> tuple[UInt32[np.ndarray, "65536"], UInt32[np.ndarray, "65536"]]:
    """What 2 * 2**doublings zero octets make of the low and of the high half of a register."""
    if doublings:
        low, high = _past_zeros(doublings - 1)
        return tuple(low[table & 0xFFFF] ^ high[table >> np.uint32(16)] for table in (low, high))
    halves = np.arange(1 << 16, dtype=np.uint32)
    return tuple(_past_zero(_past_zero(half)) for half in (halves, halves << np.uint32(16)))


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli) of `data`, as iSCSI, ext4 and TFRecord use it (RFC 3720, appendix B.4).

    The CRC is linear: those of all pairs of octets come from a table, and neighbours are then joined level by level,
    the left one carried past as many zeros as the right one is long. About a millisecond for 300 kB.
    """
    if len(data) < _SHORT:
        register = 0xFFFFFFFF
        for octet in bytes(data):
            register = _OCTETS_AS_INTEGERS[(register ^ octet) & 0xFF] ^ (register >> 8)
        return register ^ 0xFFFFFFFF
    padded = np.zeros(len(data) + len(data) % 2, np.uint8)  # zeros in front change nothing
    message = padded[len(data) % 2 :]
    message[:] = np.frombuffer(data, np.uint8)
    message[:4] ^= 0xFF  # the same as starting from all ones
    parts = _pairs()[padded.view("<u2")]
    doublings = 0
    while len(parts) > 1:
        if len(parts) % 2:
            parts = np.concatenate((np.zeros(1, np.uint32), parts))
        low, high = _past_zeros(doublings)
        halves = parts[::2].astype("<u4").view("<u2")
        parts = low[halves[::2]] ^ high[halves[1::2]] ^ parts[1::2]
        doublings += 1
    return int(parts[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview) -> int:
    """CRC-32C turned right by 15 bits plus a constant: what TFRecord stores, so that records may hold records."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scan_records(path: Path) -> Int64[np.ndarray, "n 2"]:
    """Offset and length of every payload in a file, seeking over the payloads. Raises DataError."""
    found, at = [], 0
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            while at < size:
                header = os.pread(file.fileno(), _HEADER.size, at)
                length = _length_of_record(path, at, header)
                end = at + _HEADER.size + length + _FOOTER.size
                if end > size:
                    raise DataError(
                        f"{path}: truncated: the record at byte {at} ends at byte {end}, the file at byte {size}. "
                        "Fetch or generate it again"
                    )
                found.append((at + _HEADER.size, length))
                at = end
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Fetch or generate it again") from error
    return np.array(found, np.int64).reshape(-1, 2)


def _length_of_record(path: Path, at: int, header: bytes) -> int:
    if len(header) < _HEADER.size:
        raise DataError(
            f"{path}: truncated: a record begins at byte {at}, expected a head of {_HEADER.size} bytes, found "
            f"{len(header)}. Fetch or generate it again"
        )
    length, stored = _HEADER.unpack(header)
    if (found := masked_crc32c(header[:8])) == stored:
        return length
    if at == 0 and (kind := _COMPRESSED.get(header[:2])):
        raise DataError(
            f"{path}: compressed with {kind}: expected plain records from byte 0 on. Decompress it, or write it without"
        )
    what = "not a TFRecord file" if at == 0 else "damaged"
    raise DataError(
        f"{path}: {what}: at byte {at} expected the length of a record and its checksum {found:#010x}, found "
        f"{stored:#010x}. Fetch or generate it again"
    )


def read_record(path: Path, offset: int, length: int, checksum: bool = True) -> memoryview:
    """The payload at `offset`, as `scan_records` gives it; compared with its checksum unless told not to.

    Raises DataError.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = memoryview(os.pread(file.fileno(), length + _FOOTER.size, offset))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Fetch or generate it again") from error
    if len(data) != length + _FOOTER.size:
        raise DataError(
            f"{path}: truncated: expected a record of {length} bytes and its checksum at byte {offset}, found "
            f"{len(data)} bytes. Fetch or generate it again"
        )
    payload = data[:length]
    (stored,) = _FOOTER.unpack(data[length:])
    if checksum and (found := masked_crc32c(payload)) != stored:
        raise DataError(
            f"{path}: damaged: the record of {length} bytes at byte {offset} has the checksum {found:#010x}, expected "
            f"{stored:#010x}. Fetch or generate it again"
        )
    return payload


def read_records(path: Path, checksum: bool = True) -> Iterator[memoryview]:
    """All payloads of a file, in order. Raises DataError."""
    for offset, length in scan_records(path).tolist():
        yield read_record(path, offset, length, checksum)


def framed(payload: bytes) -> bytes:
    """A record as it stands in a file."""
    length = struct.pack("<Q", len(payload))
    checksums = _FOOTER.pack(masked_crc32c(length)), _FOOTER.pack(masked_crc32c(payload))
    return b"".join((length, checksums[0], payload, checksums[1]))


def write_records(path: Path, payloads: Iterable[bytes]) -> int:
    """Write a file of records and return their number; `path` appears only when it is complete."""
    count = 0
    with replacing(path, durable=True) as partial, partial.open("wb") as file:
        for payload in payloads:
            file.write(framed(payload))
            count += 1
    return count


def record_index(paths: Sequence[Path]) -> Int64[np.ndarray, "n 3"]:
    """File number, offset and length of every record of `paths`, in their order.

    Scanned on the first call and kept in the cache folder under a key of the paths, sizes and times; one process scans
    while others wait. Raises DataError.
    """
    identity = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}. Fetch or generate it again") from error
        identity.update(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    name = paths[0].name.partition(".")[0] if paths else "none"
    target = cache_folder() / f"{name}-records-{identity.hexdigest()[:16]}.npy"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                with replacing(target, durable=True) as partial, partial.open("wb") as file:
                    np.save(file, _scan_all(paths))
        return np.load(target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot keep the index of records ({error.strerror or error}). "
            "Make room, or set OBJECTCENTRIC_CACHE to a folder with space"
        ) from error


def _scan_all(paths: Sequence[Path]) -> Int64[np.ndarray, "n 3"]:
    rows = [np.empty((0, 3), np.int64)]
    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        scans = tqdm(pool.map(scan_records, paths), "finding records once", len(paths), unit=" files", leave=False)
        for number, found in enumerate(scans):
            rows.append(np.insert(found, 0, number, axis=1))
    return np.concatenate(rows)


class _MalformedMessage(Exception):
    def __init__(self, at: int, what: str):
        super().__init__(what)
        self.at = at


def parse_example(
    payload: bytes | memoryview, path: str | Path = "payload", offset: int = 0, joined: Collection[str] = ()
) -> dict[str, Feature]:
    """The features of a serialised `tf.train.Example`: lists of memoryviews, or arrays of float32 or int64.

    Bytes and packed floats are views of `payload`. A feature without a kind is an empty list. Numbers may be packed
    or not. Features in `joined` are lists of bytes that come as one array of uint8: Multi-Object Datasets store every
    byte of a picture as a value of its own. `path` and `offset` say in errors where the payload lies. Raises DataError.
    """
    data = memoryview(payload)
    features: dict[str, Feature] = {}
    try:
        for number, wire, begin, end in _fields(data, 0, len(data)):
            if (number, wire) == (1, _BYTES):
                for inner, inner_wire, first, last in _fields(data, begin, end):
                    if (inner, inner_wire) == (1, _BYTES):
                        name, feature = _entry(data, first, last, joined)
                        features[name] = feature
    except _MalformedMessage as error:
        raise DataError(
            f"{path}: not a tf.train.Example at byte {offset + error.at}: {error}. Fetch or generate it again"
        ) from error
    return features


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value, shift, begin = 0, 0, at
    while at < end and shift < 70:
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
    raise _MalformedMessage(begin, "expected a number of at most ten bytes, found no end of it")


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number and wire type of each field of a message, and where its value begins and ends."""
    while at < end:
        begin = at
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            stop = _varint(data, at, end)[1]
        elif wire == _BYTES:
            length, at = _varint(data, at, end)
            stop = at + length
        elif wire in (_FIXED64, _FIXED32):
            stop = at + (8 if wire == _FIXED64 else 4)
        else:
            raise _MalformedMessage(begin, f"expected wire type 0, 1, 2 or 5, found {wire}")
        if stop > end:
            raise _MalformedMessage(begin, f"field {number} ends {stop - end} bytes behind its message")
        yield number, wire, at, stop
        at = stop


def _entry(data: memoryview, begin: int, end: int, joined: Collection[str]) -> tuple[str, Feature]:
    name, value = "", (end, end)
    for number, wire, first, last in _fields(data, begin, end):
        if (number, wire) == (1, _BYTES):
            try:
                name = str(data[first:last], "utf-8")
            except UnicodeDecodeError as error:
                raise _MalformedMessage(first, "expected the name of a feature in UTF-8") from error
        elif (number, wire) == (2, _BYTES):
            value = first, last
    return name, _joined_bytes(data, *value) if name in joined else _values(data, *value)


def _joined_bytes(data: memoryview, begin: int, end: int) -> UInt8[np.ndarray, "n"]:
    """All bytes of a list of bytes; the values of one byte each take three, two of which are always the same."""
    parts = [np.empty(0, np.uint8)]
    for kind, wire, first, last in _fields(data, begin, end):
        if (kind, wire) == (_BYTES_LIST, _BYTES):
            octets = np.frombuffer(data[first:last], np.uint8)
            if len(octets) % 3 == 0 and (octets.reshape(-1, 3)[:, :2] == (1 << 3 | _BYTES, 1)).all():
                parts.append(octets[2::3])
            else:
                values = [field[2:] for field in _fields(data, first, last) if field[:2] == (1, _BYTES)]
                parts.append(np.frombuffer(b"".join(data[start:stop] for start, stop in values), np.uint8))
    return np.concatenate(parts)


def _values(data: memoryview, begin: int, end: int) -> Feature:
    for kind, wire, first, last in _fields(data, begin, end):
        if wire != _BYTES or kind not in (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST):
            continue
        values = [field[1:] for field in _fields(data, first, last) if field[0] == 1]
        if kind == _BYTES_LIST:
            return [data[start:stop] for _, start, stop in values]
        if kind == _FLOAT_LIST:
            return _floats(data, values)
        return _integers(data, values)
    return []


def _floats(data: memoryview, values: list[tuple[int, int, int]]) -> np.ndarray:
    for _, start, stop in values:
        if (stop - start) % 4:
            raise _MalformedMessage(start, f"expected float32 of 4 bytes each, found {stop - start} bytes")
    parts = [np.frombuffer(data[start:stop], "<f4") for _, start, stop in values]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])


def _integers(data: memoryview, values: list[tuple[int, int, int]]) -> np.ndarray:
    numbers = []
    for _, at, stop in values:  # one number, or many in a row: the same bytes
        while at < stop:
            number, at = _varint(data, at, stop)
            numbers.append(number & 0xFFFFFFFFFFFFFFFF)
    return np.array(numbers, np.uint64).view(np.int64)


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Serialise a `tf.train.Example`; lists of numbers are packed, in the order of `features`."""
    entries = (
        _message(1, _message(1, name.encode()) + _message(2, _encoded(value))) for name, value in features.items()
    )
    return _message(1, b"".join(entries))


def _encoded(value: Feature) -> bytes:
    if not isinstance(value, np.ndarray):
        return _message(_BYTES_LIST, b"".join(_message(1, bytes(item)) for item in value))
    if value.dtype.kind == "f":
        return _message(_FLOAT_LIST, _message(1, value.astype("<f4").tobytes()))
    octets = b"".join(_encoded_varint(number & 0xFFFFFFFFFFFFFFFF) for number in value.ravel().tolist())
    return _message(_INT64_LIST, _message(1, octets))


def _message(number: int, content: bytes) -> bytes:
    return _encoded_varint(number << 3 | _BYTES) + _encoded_varint(len(content)) + content


def _encoded_varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
