"""Packs: files in scratch that hold the bytes which a shuffle should not carry.

A pack is its payloads, one after another; an index, bytes whose meaning is its writer's; and a tail of 24 bytes: the
index's length (`<u8`) and crc32c (`<u4`), the number of the format (`<u4`), and a mark.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import BinaryIO, NamedTuple

import crc32c

from beam_volumes.errors import CorruptDataError, SourceError
from beam_volumes.storage import Folder, is_local, local_path
from beam_volumes.storage.remote import in_parallel

_TAIL = struct.Struct("<QII8s")
_FORMAT = 1
_MARK = b"beampack"

_OPEN_FILES = 128
_REQUEST_BYTES = 2**22
"""The most that one request asks for, unless a payload is larger."""


class Payload(NamedTuple):
    """Where the bytes of a payload stand in a pack, and their crc32c."""

    offset: int
    length: int
    crc32c: int

    def checked(self, data: bytes, where: str) -> bytes:
        """Return `data`, which are the payload's bytes.

        Raises:
            CorruptDataError: they are not.

        """
        if len(data) == self.length and crc32c.crc32c(data) == self.crc32c:
            return data
        raise self.error(where)

    def error(self, where: str) -> CorruptDataError:
        """Return the error for bytes that are others."""
        return CorruptDataError(
            f"{where}: expected {self.length} bytes at {self.offset} with crc32c {self.crc32c:#010x}, came others: "
            "give the same command again, and they are made anew"
        )


class PackWriter(AbstractContextManager["PackWriter"]):
    """Writes the pack `name`, which appears in `folder` when the context is left without an exception."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._stream = folder.write_stream(name)
        self._offset = 0

    def __enter__(self) -> PackWriter:
        """Open the file."""
        self._file: BinaryIO = self._stream.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Let the pack appear, or vanish after an exception."""
        return self._stream.__exit__(kind, error, trace)

    def append(self, data: bytes) -> Payload:
        """Add a payload."""
        return self.append_stream([data])

    def append_stream(self, pieces: Iterable[bytes | memoryview]) -> Payload:
        """Add a payload that comes piece by piece."""
        start, crc = self._offset, 0
        for piece in pieces:
            self._file.write(piece)
            crc = crc32c.crc32c(piece, crc)
            self._offset += len(piece)
        return Payload(start, self._offset - start, crc)

    def finish(self, index: bytes) -> None:
        """Add the index; the last thing before the context is left."""
        self._file.write(index + _TAIL.pack(len(index), crc32c.crc32c(index), _FORMAT, _MARK))


def read_pack_index(folder: Folder, name: str) -> bytes | None:
    """Return the index of a pack; None where there is no such pack, or it is damaged and must be made anew."""
    size = folder.size(name)
    if size is None:
        return None
    tail = folder.read_range(name, max(size - _TAIL.size, 0), _TAIL.size) or b""
    if len(tail) == _TAIL.size:
        length, crc, number, mark = _TAIL.unpack(tail)
        if (number, mark) == (_FORMAT, _MARK) and length + _TAIL.size <= size:
            index = folder.read_range(name, size - _TAIL.size - length, length) if length else b""
            if index is not None and crc32c.crc32c(index) == crc:
                return index
    logging.warning("%s/%s is damaged, and made anew", folder.url, name)
    return None


class _Range(NamedTuple):
    """Bytes of a pack that are read at once."""

    name: str
    start: int
    stop: int


class PackReader(AbstractContextManager["PackReader"]):
    """Reads payloads of the packs in the folder `url`; keeps files on a disk open."""

    def __init__(self, url: str) -> None:
        self._folder = Folder(url)
        self._local = is_local(url)
        self._files: OrderedDict[str, int] = OrderedDict()

    def __exit__(self, *_: object) -> None:
        """Close files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def read(self, asked: Sequence[tuple[str, Payload]]) -> Iterator[bytes]:
        """Yield the bytes of payloads, each told by its pack, in their order.

        On a disk one is read at a time. From afar all are read before the first is yielded, those that stand side by
        side with one request, several requests at once: the caller must have memory for all.

        Raises:
            CorruptDataError: they are not what was written; the pack is removed, so that it is made anew.
            SourceError: the pack is gone or cannot be read.

        """
        found = (self._read_local(*one) for one in asked) if self._local else self._read_remote(asked)
        for (name, payload), data in zip(asked, found, strict=True):
            try:
                yield payload.checked(data, f"{self._folder.url}/{name}")
            except CorruptDataError:
                self._folder.delete([name])
                raise

    def stream(self, name: str, payload: Payload, piece_bytes: int) -> Iterator[bytes]:
        """Yield the bytes of a payload in pieces; only with the end of them all are they known to be right.

        Raises:
            CorruptDataError: as `read` does, at the end.
            SourceError: the pack is gone or cannot be read.

        """
        crc = done = 0
        while done < payload.length:
            wanted = Payload(payload.offset + done, min(piece_bytes, payload.length - done), 0)
            piece = self._read_local(name, wanted) if self._local else self._read_remote_range(name, wanted)
            if not piece:
                break
            crc = crc32c.crc32c(piece, crc)
            done += len(piece)
            yield piece
        if (done, crc) != (payload.length, payload.crc32c):
            self._folder.delete([name])
            raise payload.error(f"{self._folder.url}/{name}")

    def _read_local(self, name: str, payload: Payload) -> bytes:
        try:
            return os.pread(self._open(name), payload.length, payload.offset)
        except OSError as error:
            raise SourceError(
                f"{self._folder.url}/{name}: cannot be read ({error.strerror}): give the same command again, and keep "
                "the scratch folder until the run has ended"
            ) from error

    def _open(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(local_path(self._folder.url) / name, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(name)
        return self._files[name]

    def _read_remote(self, asked: Sequence[tuple[str, Payload]]) -> Iterator[bytes]:
        ranges: list[_Range] = []
        places = [0] * len(asked)
        for n in sorted(range(len(asked)), key=asked.__getitem__):
            name, payload = asked[n]
            stop = payload.offset + payload.length
            if not ranges or not _joins(ranges[-1], name, payload):
                ranges.append(_Range(name, payload.offset, stop))
            ranges[-1] = ranges[-1]._replace(stop=max(stop, ranges[-1].stop))
            places[n] = len(ranges) - 1
        parts = list(in_parallel(self._read_range, ranges))
        for (_, payload), place in zip(asked, places, strict=True):
            start = payload.offset - ranges[place].start
            yield parts[place][start : start + payload.length]

    def _read_range(self, part: _Range) -> bytes:
        return self._read_remote_range(part.name, Payload(part.start, part.stop - part.start, 0))

    def _read_remote_range(self, name: str, part: Payload) -> bytes:
        if not part.length:
            return b""
        data = self._folder.read_range(name, part.offset, part.length)
        if data is None:
            raise SourceError(
                f"{self._folder.url}/{name}: expected a pack, but it is gone: give the same command again"
            )
        return data


def _joins(part: _Range, name: str, payload: Payload) -> bool:
    """Whether a payload is read with `part`, which it does not stand before."""
    stop = payload.offset + payload.length
    return name == part.name and payload.offset <= part.stop and stop - part.start <= _REQUEST_BYTES
