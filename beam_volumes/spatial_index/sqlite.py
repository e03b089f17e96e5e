"""An index in a sqlite file, which one process writes.

Labels are stored as sqlite has integers, signed: those of 2^63 and more as negative numbers, which CloudVolume does not
find.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from beam_volumes.spatial_index.database import Cursor, DatabaseError, ResultT
from beam_volumes.spatial_index.files import Labels
from beam_volumes.spatial_index.schema import SQLITE, Dialect
from beam_volumes.spatial_index.urls import DatabaseUrl

_SECONDS_TO_WAIT = 60.0
"""For another program that has the file locked."""

_CACHE_KIB = 65_536
_ROWS_PER_STATEMENT = 128
"""Measured: a quarter of the time of `executemany`; 2,000 take twice as long again."""


class SqliteDatabase:
    """See `Database`."""

    one_writer = True
    dialect: Dialect = SQLITE

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url

    def exists(self) -> bool:
        """Whether there is a file."""
        return os.path.exists(self.url.place)

    def check_writable(self) -> None:
        """See `Database.check_writable`; the folder of the file must be there."""
        place = Path(self.url.place)
        if not place.parent.is_dir():
            raise DatabaseError(
                f"{self.url}: expected a sqlite file in a folder that is there, but there is no {place.parent}: "
                "correct the name, or make that folder; sqlite://index.db is a file in the current folder, "
                "sqlite:///path/index.db one at an absolute path"
            )
        for path in (place.parent, place):
            if path.exists() and not os.access(path, os.W_OK):
                raise self._refused(PermissionError(f"no right to write {path}"))

    def create(self) -> None:
        """Leave that: the file comes with the first table."""

    def run(self, work: Callable[[Cursor], ResultT]) -> ResultT:
        """See `Database.run`."""
        with self._connected(self.url.place) as connection:
            # Rows are appended, so a journal on the disk costs next to nothing: it holds the few pages that were there
            # before. In memory, a process that is killed would leave a broken file.
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            # At once for writing: a reader that wants to write later may find that another has written meanwhile.
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection.cursor())
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return result

    def read(self, work: Callable[[Cursor], ResultT]) -> ResultT:
        """See `Database.read`; the file may be one that cannot be written."""
        if not self.exists():
            raise DatabaseError(
                f"{self.url}: expected an index, but there is no such file: correct the name, or load it with "
                "index_mesh"
            )
        # A load that was killed may have left a journal, which the next who opens the file plays back: by writing.
        mode = "rw" if os.access(self.url.place, os.W_OK) else "ro"
        with self._connected(f"{Path(self.url.place).as_uri()}?mode={mode}") as connection:
            connection.execute("BEGIN")
            return work(connection.cursor())

    def insert_labels(self, cursor: Cursor, file_number: int, labels: Labels) -> None:
        """See `Database.insert_labels`."""
        values = self.values_of(labels)
        for start in range(0, len(values), _ROWS_PER_STATEMENT):
            some = values[start : start + _ROWS_PER_STATEMENT]
            places = ",".join([f"(?,{file_number})"] * len(some))
            cursor.execute(f"INSERT INTO file_lookup(label, fid) VALUES {places}", some)

    def values_of(self, labels: Iterable[int]) -> list[int]:
        """See `Database.values_of`."""
        values: list[int] = np.asarray(labels, np.uint64).view(np.int64).tolist()
        return values

    def labels_of(self, values: list[int]) -> Labels:
        """See `Database.labels_of`."""
        return np.array(values, np.int64).view(np.uint64)

    @contextlib.contextmanager
    def _connected(self, place: str) -> Iterator[sqlite3.Connection]:
        try:
            # Transactions begin and end where it is written, not where Python guesses.
            connection = sqlite3.connect(
                place, timeout=_SECONDS_TO_WAIT, isolation_level=None, uri=place.startswith("file:")
            )
            with contextlib.closing(connection):
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> DatabaseError:
        return DatabaseError(
            f"{self.url}: expected a sqlite file to read and write, came {error}: see to the file, its folder and the "
            "space there, then give the same command again; sqlite://index.db is a file in the current folder, "
            "sqlite:///path/index.db one at an absolute path"
        )
