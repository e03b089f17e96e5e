"""MapBuffer: a map from uint64 to bytes that is searched where it lies, as the package mapbuffer reads and writes it.

A file is the header `b"mapbufr"`, the version of the format (uint8: 1, or 0 without checksums), how values are
compressed (4 characters) and the number of entries (`<u4`); then key and place in the file (`<u8` each) of every entry,
in Eytzinger order (`beam_volumes.int_map`); then the values in the same order, each with the CRC32C (`<u4`) of its
compressed bytes behind it. A value ends where the next begins, the last with the file. The format is that of
https://github.com/seung-lab/mapbuffer (class MapBuffer, BSD 3-clause).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import crc32c
import numpy as np
import numpy.typing as npt

from beam_volumes.codecs import compress, decompress
from beam_volumes.errors import CorruptDataError, SourceError
from beam_volumes.int_map import eytzinger_places
from beam_volumes.storage import Folder, join
from beam_volumes.storage.remote import in_parallel

_HEADER = struct.Struct("<7sB4sI")
_MAGIC, _VERSION = b"mapbufr", 1
_CODES = {"none": b"none", "gzip": b"gzip", "br": b"00br"}
_COMPRESSIONS = {code: compression for compression, code in _CODES.items()}
_ENTRY_BYTES = 16
_CHECKSUM = struct.Struct("<I")

_FIRST_BYTES = 64 << 10
"""What is read first: the header, and the index of some 4,000 entries."""

_GAP_BYTES = 32 << 10
"""Bytes between two wanted values that are read, and let go, rather than asked around."""

_REQUEST_BYTES = 8 << 20
"""The most that one request asks for, unless a value is larger."""

_ADVICE = "write the file again"

Words = npt.NDArray[np.uint64]


def pack_value(value: bytes, compression: str = "br", gzip_level: int = 6) -> bytes:
    """Return a value as it stands in a file: compressed, with its checksum."""
    return _checked(compress(value, compression, gzip_level))


def join_packed(packed: dict[int, bytes], compression: str = "br") -> bytes:
    """Return a MapBuffer of what `pack_value` has made of each value, by their keys."""
    keys = np.fromiter(packed, np.uint64, len(packed))
    keys.sort()
    index = np.empty((len(keys), 2), "<u8")
    index[eytzinger_places(np.arange(len(keys), dtype=np.uint64), len(keys)), 0] = keys
    ordered = [packed[key] for key in index[:, 0].tolist()]
    lengths = np.fromiter(map(len, ordered), np.uint64, len(ordered))
    index[:, 1] = np.cumsum(lengths) - lengths + np.uint64(_HEADER.size + index.nbytes)
    header = _HEADER.pack(_MAGIC, _VERSION, _CODES[compression], len(keys))
    return b"".join((header, index.tobytes(), *ordered))


def read_values(folder: Folder, name: str, keys: Collection[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield keys and values of the file `name`, in its order.

    Args:
        folder: where the file is.
        name: of the file, which is not compressed as a whole.
        keys: those that are wanted, as far as they are there; None for all. Of a file of which little is wanted, only
            the index and the values are read; other files are read at once.

    Raises:
        SourceError: there is no such file, or it cannot be read.
        CorruptDataError: it is no MapBuffer, or not what was written.

    """
    if keys is None:
        data = folder.read(name)
        index = _parsed(folder, name, data, None if data is None else len(data))
        yield from index.values(data or b"", 0, np.arange(len(index.keys)))
        return
    index = _read_index(folder, name)
    wanted = np.flatnonzero(np.isin(index.keys, np.fromiter(keys, np.uint64, len(keys))))
    if 2 * int(np.sum(index.stops[wanted] - index.starts[wanted])) > index.size:
        data = folder.read(name) or b""
        yield from index.values(data, 0, wanted)
        return

    def read(entries: npt.NDArray[np.int64]) -> bytes:
        start = int(index.starts[entries[0]])
        return folder.read_range(name, start, int(index.stops[entries[-1]]) - start) or b""

    ranges = index.ranges(wanted)
    for entries, data in zip(ranges, in_parallel(read, ranges), strict=True):
        yield from index.values(data, int(index.starts[entries[0]]), entries)


@dataclass(frozen=True)
class _Index:
    """What the beginning of a file tells.

    Attributes:
        where: the file, for messages.
        keys: in the order of the file.
        starts: where each value begins, bytes.
        stops: where it ends, with its checksum.
        size: of the file, bytes.

    """

    where: str
    has_checksums: bool
    compression: str
    keys: Words
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    size: int

    def values(self, data: bytes, offset: int, entries: npt.NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        """Yield keys and values of entries; `data` is the file from `offset` on."""
        view = memoryview(data)
        for entry in entries.tolist():
            key, start, stop = int(self.keys[entry]), int(self.starts[entry]), int(self.stops[entry])
            stored = bytes(view[start - offset : stop - offset])
            if len(stored) != stop - start:
                raise self.corrupt(f"{stop - start} bytes for {key}", f"{len(stored)}")
            yield key, self._plain(key, stored)

    def ranges(self, entries: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Return the entries in groups of which each is worth one request."""
        groups: list[list[int]] = []
        start = stop = 0
        for entry in entries.tolist():
            end = int(self.stops[entry])
            if groups and int(self.starts[entry]) - stop <= _GAP_BYTES and end - start <= _REQUEST_BYTES:
                groups[-1].append(entry)
            else:
                groups.append([entry])
                start = int(self.starts[entry])
            stop = end
        return [np.array(group, np.int64) for group in groups]

    def corrupt(self, expected: str, came: str) -> CorruptDataError:
        return CorruptDataError(f"{self.where}: expected {expected}, came {came}: {_ADVICE}")

    def _plain(self, key: int, stored: bytes) -> bytes:
        if self.has_checksums:
            if len(stored) < _CHECKSUM.size:
                raise self.corrupt(f"a value with a checksum for {key}", f"{len(stored)} bytes")
            (checksum,) = _CHECKSUM.unpack(stored[-_CHECKSUM.size :])
            stored = stored[: -_CHECKSUM.size]
            if crc32c.crc32c(stored) != checksum:
                raise self.corrupt(f"the value that was written for {key}", "bytes with another checksum")
        try:
            return decompress(stored, self.compression)
        except CorruptDataError as error:
            raise CorruptDataError(f"{self.where}: the value of {key}: {error}: {_ADVICE}") from error


def read_keys(folder: Folder, name: str) -> Words:
    """Return the keys of a file, sorted; only its index is read.

    Raises:
        SourceError: there is no such file, or it cannot be read.
        CorruptDataError: it is not what was written.

    """
    return np.sort(_read_index(folder, name).keys)


def _checked(value: bytes) -> bytes:
    return value + _CHECKSUM.pack(crc32c.crc32c(value))


def _read_index(folder: Folder, name: str) -> _Index:
    """Read the index alone."""
    size, head = folder.size(name), folder.read_range(name, 0, _FIRST_BYTES)
    if size is not None and head is not None and len(head) >= _HEADER.size:
        needed = min(size, _HEADER.size + _ENTRY_BYTES * _HEADER.unpack_from(head)[3])
        if head.startswith(_MAGIC) and needed > len(head):
            head += folder.read_range(name, len(head), needed - len(head)) or b""
    return _parsed(folder, name, head, size)


def _parsed(folder: Folder, name: str, head: bytes | None, size: int | None) -> _Index:
    """Return the index at the beginning of a file of `size` bytes, after a look at every place in it."""
    where = join(folder.url, name)
    if head is None or size is None:
        raise SourceError(f"{where}: expected a MapBuffer, but there is no such file: {_ADVICE}")
    magic, version, code, count = _HEADER.unpack_from(head) if len(head) >= _HEADER.size else (head[:7], 0, b"", 0)
    if magic != _MAGIC or version > _VERSION:
        raise CorruptDataError(
            f"{where}: expected a MapBuffer of version 0 or 1, came {size} bytes that begin with {head[:8]!r}: "
            f"{_ADVICE}"
        )
    if code not in _COMPRESSIONS:
        raise SourceError(
            f"{where}: expected values compressed with one of {', '.join(_CODES)}, came {code!r}: write the file again "
            "with one of these"
        )
    begin = _HEADER.size + _ENTRY_BYTES * count
    if min(size, len(head)) < begin:
        raise CorruptDataError(f"{where}: expected {begin} bytes for {count} entries, came {size}: {_ADVICE}")
    index = np.frombuffer(head, "<u8", 2 * count, _HEADER.size).reshape(-1, 2)
    places = np.append(index[:, 1], np.uint64(size))
    if places[0] != begin or (places[1:] < places[:-1]).any():
        raise CorruptDataError(
            f"{where}: expected the places of {count} values in {begin} to {size}, came others: {_ADVICE}"
        )
    signed = places.astype(np.int64)
    keys = index[:, 0].astype(np.uint64)
    return _Index(where, version > 0, _COMPRESSIONS[code], keys, signed[:-1], signed[1:], size)
