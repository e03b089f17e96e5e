"""What every index database can do; one module for each kind of database does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from beam_volumes.errors import VolumeError
from beam_volumes.spatial_index.files import Labels
from beam_volumes.spatial_index.schema import Dialect
from beam_volumes.spatial_index.urls import DatabaseUrl

Cursor = Any
"""Of Python's database interface, https://peps.python.org/pep-0249/."""

ResultT = TypeVar("ResultT")


class DatabaseError(VolumeError):
    """The index database cannot be reached, or refuses; the message holds no password."""


class Database(Protocol):
    """An index database; cheap to make, and opens a connection for each transaction."""

    url: DatabaseUrl
    dialect: Dialect

    @property
    def one_writer(self) -> bool:
        """Whether only one process may write at a time, on the machine that has the database."""

    def exists(self) -> bool:
        """Whether the database is there; its server must be.

        Raises:
            DatabaseError: the server does not answer, or refuses the user.

        """

    def check_writable(self) -> None:
        """Refuse a database in which no tables can be made, or that cannot be made itself; writes nothing.

        Raises:
            DatabaseError: so it is: the name may be wrong.

        """

    def create(self) -> None:
        """Make the database, without tables, if it is not there."""

    def run(self, work: Callable[[Cursor], ResultT]) -> ResultT:
        """Return what `work` returns, and keep all that it does or, where anything fails, nothing.

        A server that gives up a transaction, because it got in the way of another, is asked again.

        Raises:
            DatabaseError: the database cannot be reached, or refuses.

        """

    def read(self, work: Callable[[Cursor], ResultT]) -> ResultT:
        """Return what `work` returns, which only reads; see `run`."""

    def insert_labels(self, cursor: Cursor, file_number: int, labels: Labels) -> None:
        """Add rows to `file_lookup`."""

    def values_of(self, labels: Iterable[int]) -> list[int]:
        """Return labels as they are stored."""

    def labels_of(self, values: list[int]) -> Labels:
        """Return labels that were stored, in their order."""


def open_database(url: DatabaseUrl) -> Database:
    """Return the database at `url`; opens nothing, and looks for no password yet.

    Raises:
        OptionError: what it needs is not installed.

    """
    # Each brings its own client, which the others do without.
    if url.scheme == "sqlite":
        from beam_volumes.spatial_index.sqlite import SqliteDatabase

        return SqliteDatabase(url)
    if url.scheme == "cloudsql":
        from beam_volumes.spatial_index.cloudsql import CloudSqlDatabase

        return CloudSqlDatabase(url)
    from beam_volumes.spatial_index.mysql import MySqlDatabase

    return MySqlDatabase(url)
