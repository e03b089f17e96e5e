"""The tables of a load: begun, filled batch by batch, indexed and counted; see `beam_volumes.spatial_index.schema`.

Each function is one transaction, and may be called again after it was killed at any point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from beam_volumes.errors import DestinationError
from beam_volumes.spatial_index.database import Cursor, Database
from beam_volumes.spatial_index.files import Labels
from beam_volumes.spatial_index.schema import FILES_TABLE, LOOKUP_TABLE, TABLES, is_loaded_table, loaded_table


class IndexFile(NamedTuple):
    """A file of the index: its number in the tables, its name, and the labels in it (none where it is missing)."""

    number: int
    name: str
    labels: Labels


class Batch(NamedTuple):
    """Files that are loaded in one transaction; `missing` of them are."""

    number: int
    files: Sequence[IndexFile]
    missing: int


class Loaded(NamedTuple):
    """What a load has written so far; `labels` are rows of `file_lookup`, `missing` is a part of `files`."""

    batches: int
    files: int
    missing: int
    labels: int


class Rows(NamedTuple):
    """The rows of the two tables."""

    index_files: int
    file_lookup: int


def tables_in(database: Database) -> set[str]:
    """Return the names of the tables of an index, and of loads, that stand in a database."""
    if not database.exists():
        return set()
    return {name for name in database.read(lambda cursor: _names(cursor, database)) if _is_ours(name)}


def drop_tables(database: Database) -> None:
    """Remove an index, and whatever loads have left."""
    if not database.exists():
        return

    def work(cursor: Cursor) -> None:
        names = _names(cursor, database)
        # Those of loads first: no other load can write any more, and what refers to a table goes before it.
        for name in (*sorted(n for n in names if is_loaded_table(n)), *(n for n in TABLES if n in names)):
            cursor.execute(f"DROP TABLE {name}")

    database.run(work)


def begin_load(database: Database, key: str) -> None:
    """Make the tables of the load with this key, or find those that it has begun.

    Raises:
        DestinationError: there is an index already, which is not this load's.

    """
    database.create()

    def work(cursor: Cursor) -> None:
        names = _names(cursor, database)
        if loaded_table(key) not in names:
            if found := sorted(name for name in names if _is_ours(name)):
                raise DestinationError(
                    f"{database.url}: expected no index, came {', '.join(found)}: another load has begun there, or the "
                    "index was made by another program: wait for it, or replace the index with --overwrite"
                )
            cursor.execute(database.dialect.create_loaded(key))
        for statement in database.dialect.create:
            cursor.execute(statement)

    database.run(work)


def loaded_batches(database: Database, key: str) -> frozenset[int]:
    """Return the batches that the load with this key has loaded so far."""
    if loaded_table(key) not in tables_in(database):
        return frozenset()

    def work(cursor: Cursor) -> frozenset[int]:
        cursor.execute(f"SELECT batch FROM {loaded_table(key)}")
        return frozenset(int(row[0]) for row in cursor.fetchall())

    return database.read(work)


def load_batch(database: Database, key: str, batch: Batch) -> bool:
    """Write a batch of the load with this key; return False where it is there already.

    Raises:
        DatabaseError: the load was replaced, or the database refuses.

    """
    insert_batch = database.dialect.insert_batch.format(loaded_table(key))
    labels = sum(len(file.labels) for file in batch.files)

    def work(cursor: Cursor) -> bool:
        # First of all: of two attempts at one batch, the second waits here for the end of the first.
        cursor.execute(insert_batch, (batch.number, len(batch.files), batch.missing, labels))
        if cursor.rowcount < 1:
            return False
        cursor.executemany(database.dialect.insert_file, [(file.number, file.name) for file in batch.files])
        for file in batch.files:
            if len(file.labels):
                database.insert_labels(cursor, file.number, file.labels)
        return True

    return database.run(work)


def loaded_so_far(database: Database, key: str) -> Loaded:
    """Return what the load with this key has written."""

    def work(cursor: Cursor) -> Loaded:
        cursor.execute(f"SELECT COUNT(*), SUM(files), SUM(missing), SUM(labels) FROM {loaded_table(key)}")
        return Loaded(*(int(value or 0) for value in cursor.fetchone()))

    return database.read(work)


def make_indexes(database: Database) -> None:
    """Make the indexes that are not there yet."""

    def work(cursor: Cursor) -> None:
        cursor.execute(database.dialect.list_indexes)
        found = {row[0] for row in cursor.fetchall()}
        for index in database.dialect.indexes:
            if index.name not in found:
                cursor.execute(index.create)
        for statement in database.dialect.afterwards:
            cursor.execute(statement)

    database.run(work)


def count_rows(database: Database) -> Rows:
    """Count the rows of both tables; reads all of them."""

    def work(cursor: Cursor) -> Rows:
        counts = []
        for table in (FILES_TABLE, LOOKUP_TABLE):
            cursor.execute(f"SELECT COUNT(*) FROM {table}")
            counts.append(int(cursor.fetchone()[0]))
        return Rows(*counts)

    return database.read(work)


def end_load(database: Database, key: str) -> None:
    """Remove what the load with this key has kept beside the tables."""
    if loaded_table(key) in tables_in(database):
        database.run(lambda cursor: cursor.execute(f"DROP TABLE IF EXISTS {loaded_table(key)}"))


def _names(cursor: Cursor, database: Database) -> set[str]:
    cursor.execute(database.dialect.list_tables)
    return {row[0] for row in cursor.fetchall()}


def _is_ours(name: str) -> bool:
    return name in TABLES or is_loaded_table(name)
