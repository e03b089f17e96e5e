"""Files on a disk of this machine, or one mounted here."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from beam_volumes.storage.store import Attributes, Entry, Failure, explain_os_error, is_temporary

T = TypeVar("T")

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_TRIES = 5
_ABSENT = (FileNotFoundError, NotADirectoryError)


class LocalStore:
    """The files below the absolute path `root`."""

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        try:
            with open(self._path(name), "rb") as file:
                return file.read()
        except _ABSENT:
            return None

    def read_range(self, name: str, start: int, length: int) -> bytes | None:
        """Return `length` bytes from `start`, fewer at the end, or None where there is no such file."""
        try:
            with open(self._path(name), "rb", buffering=0) as file:
                parts, at = [], start
                while at < start + length and (part := os.pread(file.fileno(), start + length - at, at)):
                    parts.append(part)
                    at += len(part)
                return b"".join(parts)
        except _ABSENT:
            return None

    def size(self, name: str) -> int | None:
        """Return a file's bytes."""
        try:
            found = os.stat(self._path(name))
        except _ABSENT:
            return None
        return None if os.path.isdir(self._path(name)) else found.st_size

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that start with `prefix`, sorted."""
        start = len(self._root) + 1
        paths = (path[start:] for path in _files(self._path(prefix.rpartition("/")[0])))
        yield from sorted(name for name in paths if name.startswith(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the files whose names start with `prefix`."""
        start = len(self._root) + 1
        for path in _files(self._path(prefix.rpartition("/")[0])):
            with contextlib.suppress(*_ABSENT):
                if path.startswith(prefix, start):
                    yield Entry(path[start:], os.stat(path).st_size, None)

    def write(self, name: str, data: bytes, attributes: Attributes) -> None:
        """Write a file beside its place, then move it there."""
        temporary = self._temporary(name)
        try:
            with _opened(temporary) as file:
                file.write(data)
            os.replace(temporary, self._path(name))
        except BaseException:
            _remove(temporary)
            raise

    def begin(self, name: str, attributes: Attributes) -> LocalPending:
        """Open a file beside its place."""
        temporary = self._temporary(name)
        descriptor = _in_folder(temporary, lambda: os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        return LocalPending(descriptor, temporary, self._path(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file where none is; return False where one is."""
        temporary = self._temporary(name)
        try:
            with _opened(temporary) as file:
                file.write(data)
            return _link(temporary, self._path(name), data)
        finally:
            _remove(temporary)

    def delete(self, names: Iterable[str]) -> None:
        """Remove files."""
        for name in names:
            _remove(self._path(name))

    def delete_folder(self, prefix: str) -> None:
        """Remove a folder with everything in it."""
        _delete_tree(self._path(prefix))

    def delete_abandoned(self, prefix: str) -> None:
        """Remove temporary files."""
        for path in _files(self._path(prefix)):
            if is_temporary(path):
                _remove(path)

    def prune(self, prefix: str) -> None:
        """Remove folders without files."""
        for parent, _, _ in os.walk(self._path(prefix), topdown=False, onerror=_fail):
            with contextlib.suppress(OSError):
                os.rmdir(parent)

    def explain(self, error: Exception) -> Failure | None:
        """Tell why the operating system refused."""
        return explain_os_error(error) if isinstance(error, OSError) else None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root or "/"

    def _temporary(self, name: str) -> str:
        return f"{self._path(name).rpartition('/')[0]}/.{uuid.uuid4().hex}.tmp"


class LocalPending:
    """A file beside its place."""

    def __init__(self, descriptor: int, temporary: str, path: str) -> None:
        self.descriptor, self._temporary, self._path = descriptor, temporary, path

    def commit(self, file: BinaryIO) -> None:
        """Move it to its place, closed: some file systems tell of a full disk only then."""
        file.close()
        os.replace(self._temporary, self._path)

    def abort(self) -> None:
        """Remove it."""
        _remove(self._temporary)


def _opened(path: str) -> BinaryIO:
    return _in_folder(path, lambda: open(path, "xb"))


def _in_folder(path: str, action: Callable[[], T]) -> T:
    """Do `action`, which makes the file `path`; make its folder only where it is missing, as it seldom is.

    Several times, for a folder may be removed between its making and the file's.
    """
    for _ in range(_TRIES):
        try:
            return action()
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
    return action()


def _link(temporary: str, path: str, data: bytes) -> bool:
    """Give the whole file `temporary` its name unless that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A network file system may lose the answer and send the request again: then the name is this file's.
        return os.stat(temporary).st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _write_exclusively(path, data)
    return True


def _write_exclusively(path: str, data: bytes) -> bool:
    """Write a file where none is, on a file system without links: a writer killed just here leaves part of it."""
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _remove(path: str) -> None:
    with contextlib.suppress(*_ABSENT):
        os.unlink(path)


def _files(folder: str) -> Iterator[str]:
    """Yield the paths of all files below `folder`; none where it does not exist."""
    for parent, _, files in os.walk(folder, onerror=_fail):
        base = parent.rstrip("/")
        yield from (f"{base}/{file}" for file in files)


def _fail(error: OSError) -> None:
    """Let `os.walk` pass over what is gone, and nothing else."""
    if not isinstance(error, _ABSENT):
        raise error


def _delete_tree(folder: str) -> None:
    """Remove a folder; again where somebody else is writing or deleting in it at the same time.

    Where the folder is a link, what it leads to is emptied and both stay; links within are removed, not followed.
    """
    for attempt in range(_TRIES):
        try:
            for parent, folders, files in os.walk(folder, topdown=False, onerror=_fail):
                links = [name for name in folders if os.path.islink(f"{parent}/{name}")]
                for name in (*files, *links):
                    _remove(f"{parent}/{name}")
                if not os.path.islink(parent):
                    os.rmdir(parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or attempt == _TRIES - 1:
                raise
        if not os.path.isdir(folder) or os.path.islink(folder):
            return
