"""What every kind of storage can do; `Folder` adds names of errors and messages."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

BINARY = "application/octet-stream"

_ADVICE = {
    errno.ENOSPC: "free space there, or choose another place, then give the same command again",
    errno.EDQUOT: "free space there, or choose another place, then give the same command again",
    errno.EACCES: "give this user the right to it, or choose another place",
    errno.EPERM: "give this user the right to it, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.EMFILE: "allow more open files (ulimit -n), then give the same command again",
    errno.ENAMETOOLONG: "choose a place with a shorter path",
    errno.EISDIR: "move that folder away, or choose another place",
    errno.ENOTDIR: "move the file that stands where a folder should be, or choose another place",
}
_TRY_AGAIN = "see to it, then give the same command again"


class Attributes(NamedTuple):
    """What an object store notes beside a file; a disk keeps none of it."""

    content_type: str = BINARY
    content_encoding: str | None = None
    cache_control: str | None = None


class Failure(NamedTuple):
    """Why an operation failed, and what to do, in words without secrets."""

    reason: str
    advice: str


class Entry(NamedTuple):
    """A stored file, as a listing tells; `crc32c` is None where listings do not."""

    name: str
    bytes: int
    crc32c: int | None


class Pending(Protocol):
    """A file being written, which has no name yet.

    Attributes:
        descriptor: the open file, to be closed by the caller.

    """

    descriptor: int

    def commit(self, file: BinaryIO) -> None:
        """Close the file, and let it appear under its name, replacing what was there."""

    def abort(self) -> None:
        """Remove what was written."""


class Store(Protocol):
    """A folder of some kind; names are relative to it. A picklable value: clients are made where they are used."""

    def read(self, name: str) -> bytes | None:
        """Return a file as it is stored, or None where there is none."""

    def read_range(self, name: str, start: int, length: int) -> bytes | None:
        """Return at most `length` (1 or more) bytes from `start`; fewer at the end of the file."""

    def size(self, name: str) -> int | None:
        """Return the stored bytes of a file."""

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that start with `prefix`, sorted; temporary ones too."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the files whose names start with `prefix`, in any order; temporary ones too."""

    def write(self, name: str, data: bytes, attributes: Attributes) -> None:
        """Write a whole file at once, replacing what was there."""

    def begin(self, name: str, attributes: Attributes) -> Pending:
        """Start a file that is written piece by piece."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file where none is; return False where one is."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; those that are missing count for nothing."""

    def delete_folder(self, prefix: str) -> None:
        """Remove everything below `prefix`, a path without slashes around it, or "" for all."""

    def delete_abandoned(self, prefix: str) -> None:
        """Remove what killed writers have left below `prefix`."""

    def prune(self, prefix: str) -> None:
        """Remove the folder `prefix` and those in it as far as they hold no file."""

    def explain(self, error: Exception) -> Failure | None:
        """Tell why `error` was raised, or None where it is not one of storage."""


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file being written, or left by a killed writer."""
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(".tmp")


def explain_os_error(error: OSError) -> Failure:
    """Tell why the operating system refused."""
    if error.errno is None:
        return Failure(type(error).__name__, _TRY_AGAIN)
    code = errno.errorcode.get(error.errno, str(error.errno))
    return Failure(f"{os.strerror(error.errno)} ({code})", _ADVICE.get(error.errno, _TRY_AGAIN))
