"""A folder at a URL."""

from __future__ import annotations

import contextlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, cast

from beam_volumes.errors import CorruptDataError, DestinationError, SourceError, VolumeError
from beam_volumes.storage.gcs import GcsStore
from beam_volumes.storage.https import HttpsStore
from beam_volumes.storage.local import LocalStore
from beam_volumes.storage.remote import in_parallel
from beam_volumes.storage.s3 import S3Store
from beam_volumes.storage.store import BINARY, Attributes, Entry, Store, is_temporary
from beam_volumes.storage.urls import is_local, join, normalize, stored_name

_BUFFER_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_FRESH = "no-cache"
"""A bucket's default lets caches serve public files for an hour: an old info, or another run's claim."""

_STORES: dict[str, Callable[[str], Store]] = {
    "file": LocalStore,
    "gs": GcsStore,
    "s3": S3Store,
    "https": HttpsStore,
    "http": HttpsStore,
}


class Folder:
    """The files below `url`; names are relative to it, with slashes.

    Cheap to make and to pickle: it holds no connection. What is written appears whole or not at all, whatever happens
    to the writer; a writer that is killed leaves at most a file that `list` does not show and `delete_folder` and
    `delete_abandoned` remove.

    Reading raises `SourceError`, writing and deleting `DestinationError`, with the reason and what to do.
    """

    def __init__(self, url: str) -> None:
        self.url = normalize(url)
        scheme, _, path = self.url.partition("://")
        self._store = _STORES[scheme](path if is_local(self.url) else self.url)

    def __repr__(self) -> str:
        """Return the folder with its URL."""
        return f"Folder({self.url!r})"

    def __eq__(self, other: object) -> bool:
        """Whether the other is a folder at the same URL."""
        return isinstance(other, Folder) and other.url == self.url

    def __hash__(self) -> int:
        """Return a hash of the URL."""
        return hash(self.url)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes as they are stored, or None where there is no such file."""
        with self._reading(name):
            return self._store.read(name)

    def read_range(self, name: str, start: int, length: int) -> bytes | None:
        """Return `length` stored bytes from `start`, fewer at the file's end, or None where there is no such file."""
        with self._reading(name):
            if length <= 0:
                return None if self._store.size(name) is None else b""
            return self._store.read_range(name, start, length)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a file's JSON object, or None where there is no such file.

        Raises:
            CorruptDataError: the file holds something else.

        """
        data = self.read(name)
        if data is None:
            return None
        try:
            found = json.loads(zlib.decompress(data, 31) if data.startswith(_GZIP_MAGIC) else data)
        except (ValueError, zlib.error) as error:
            raise CorruptDataError(f"{self._at(name)}: {_expected_json(f'{len(data)} bytes ({error})')}") from error
        if not isinstance(found, dict):
            raise CorruptDataError(f"{self._at(name)}: {_expected_json(f'a JSON {type(found).__name__}')}")
        return found

    def write(self, name: str, data: bytes, *, content_type: str = BINARY) -> None:
        """Write a file, replacing what was there; caches are told not to keep it."""
        with self._writing(name, f"{len(data)} bytes"):
            self._store.write(name, data, Attributes(content_type, cache_control=_FRESH))

    def write_compressed(self, name: str, data: bytes, compression: str) -> None:
        """Write `data`, which is compressed already, so that CloudVolume and Neuroglancer find it as `name`."""
        encoding = None if compression == "none" else compression
        stored = stored_name(self.url, name, compression)
        with self._writing(stored, f"{len(data)} bytes"):
            self._store.write(stored, data, Attributes(content_encoding=encoding))

    @contextmanager
    def write_stream(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write, seek and read, which appears as `name` when all went well, else not at all.

        A remote file is written to the temporary folder (TMPDIR) first, which must hold it.
        """
        with self._writing(name, "a file"):
            pending = self._store.begin(name, Attributes())
        raw = _Raw(pending.descriptor, lambda: self._writing(name, "a file"))
        try:
            out = cast(BinaryIO, io.BufferedRandom(raw, _BUFFER_BYTES))
            yield out
            with self._writing(name, "a file"):
                out.flush()
                pending.commit(out)
        except BaseException:
            with contextlib.suppress(OSError):
                # The raw file first: closing the buffered one would write again, and fail again on a full disk.
                raw.close()
                pending.abort()
            raise

    def create(self, name: str, data: bytes) -> bool:
        """Write a file where none is, whole; return False where one is. Of several at once, one gets True."""
        with self._writing(name, f"{len(data)} bytes"):
            return self._store.create(name, data)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of all files whose names start with `prefix`, sorted, with those in folders below."""
        with self._reading(prefix):
            yield from (name for name in self._store.names(prefix) if not is_temporary(name))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the name, size and, in Cloud Storage, checksum of the files that `list` would yield, in any order."""
        with self._reading(prefix):
            yield from (entry for entry in self._store.entries(prefix) if not is_temporary(entry.name))

    def read_many(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Yield what `read` returns for each name, several at once; the names may be very many."""
        return in_parallel(self.read, names)

    def size(self, name: str) -> int | None:
        """Return the stored bytes of a file, or None where there is no such file."""
        with self._reading(name):
            return self._store.size(name)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with self._reading(name):
            return self._store.size(name) is not None

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; those that are missing count for nothing."""
        with self._deleting(""):
            self._store.delete(names)

    def delete_folder(self, prefix: str) -> None:
        """Remove everything in the folder `prefix`, "" for this one, also what killed writers have left."""
        with self._deleting(prefix):
            self._store.delete_folder(prefix.strip("/"))

    def delete_abandoned(self, prefix: str = "") -> None:
        """Remove what killed writers have left in the folder `prefix`; nothing may be writing there."""
        with self._deleting(prefix):
            self._store.delete_abandoned(prefix.strip("/"))

    def prune(self, prefix: str) -> None:
        """Remove the folder `prefix` and those in it that hold no file; a bucket has none."""
        with self._deleting(prefix):
            self._store.prune(prefix.strip("/"))

    def _at(self, name: str) -> str:
        return join(self.url, name)

    def _reading(self, name: str) -> AbstractContextManager[None]:
        return self._telling(name, "to read", SourceError)

    def _writing(self, name: str, what: str) -> AbstractContextManager[None]:
        return self._telling(name, f"to write {what}", DestinationError)

    def _deleting(self, name: str) -> AbstractContextManager[None]:
        return self._telling(name, "to delete", DestinationError)

    @contextmanager
    def _telling(self, name: str, expected: str, kind: type[VolumeError]) -> Iterator[None]:
        """Raise errors of the storage anew as `kind`."""
        try:
            yield
        except Exception as error:
            failure = self._store.explain(error)
            if failure is None:
                raise
            # Remote errors quote requests with upload sessions, signatures and tokens: they are not shown.
            cause = error if is_local(self.url) else None
            raise kind(f"{self._at(name)}: expected {expected}, came {failure.reason}: {failure.advice}") from cause


class _Raw(io.FileIO):
    """An open file whose failures to write are told as the destination's, not as those of who calls `write`."""

    def __init__(self, descriptor: int, telling: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(descriptor, "rb+")
        self._telling = telling

    def write(self, data: Any) -> int:
        with self._telling():
            return super().write(data)


def _expected_json(came: str) -> str:
    return f"expected a JSON object, came {came}: restore the file, or remove it if it is of no use"
