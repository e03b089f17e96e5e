"""What a load of an index will take, estimated from a listing and a few of the files; nothing is written."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import NamedTuple

from beam_volumes.geometry import shape_text
from beam_volumes.spatial_index.files import SUFFIX, IndexFiles, Labels, decode_labels
from beam_volumes.spatial_index.load import LoadPlan
from beam_volumes.spatial_index.schema import SQLITE
from beam_volumes.spatial_index.sqlite import SqliteDatabase
from beam_volumes.storage import Folder
from beam_volumes.storage.store import Entry
from beam_volumes.volume_estimate import PROCESS_BYTES, VCPU_HOUR_USD

_SAMPLES = 4

_ROW_BYTES = 48
"""Of memory, while a row waits and is written: a label as a number, as Python's, and as text."""


class LoadEstimate(NamedTuple):
    """Sums over all files; `database_bytes` is 0 where no file of this machine is written.

    Attributes:
        batch_bytes: of memory for the largest files, as many as a batch has.
        cpu_seconds: of this program; the server has work of its own.

    """

    rows: int
    database_bytes: int
    batch_bytes: int
    cpu_seconds: float


def list_files(files: IndexFiles) -> list[Entry]:
    """Return the files that are there, the smallest first."""
    names = {files.grid.name(task) for task in range(len(files))}
    found = (entry for entry in Folder(files.url).entries() if _plain_name(entry) in names)
    return sorted(found, key=lambda entry: (entry.bytes, entry.name))


def estimate(plan: LoadPlan, listed: list[Entry]) -> LoadEstimate:
    """Read a few files, and return what comes of them; for sqlite they are loaded into a database in memory.

    Raises:
        SourceError: a file cannot be read.
        CorruptDataError: a file holds something else.

    """
    grid, started = plan.files.grid, time.process_time()
    picked = {(2 * i + 1) * len(listed) // (2 * _SAMPLES) for i in range(_SAMPLES)} if listed else set()
    tasks = [grid.task_of(_plain_name(listed[n])) for n in sorted(picked)]
    read = list(plan.files.read(tasks))
    labels = {grid.name(t): decode_labels(data, grid.name(t)) for t, data in zip(tasks, read, strict=True) if data}
    size = _load(SqliteDatabase(plan.database), labels) if plan.one_writer else 0
    seconds = time.process_time() - started
    stored = sum(listed[n].bytes for n in picked)
    scale = sum(entry.bytes for entry in listed) / stored if stored else 0.0
    rows = sum(map(len, labels.values()))
    # The text of one file at a time, and what comes of all.
    text = sum(len(data) for data in read if data)
    batch = min(plan.reading.size, len(listed))
    largest = listed[-1].bytes / stored if stored else 0.0
    return LoadEstimate(
        rows=round(rows * scale),
        database_bytes=round(size * scale),
        batch_bytes=round(largest * (text + batch * (stored + rows * _ROW_BYTES))),
        cpu_seconds=seconds * scale,
    )


def _plain_name(entry: Entry) -> str:
    """Return the name of a file of an index without that of its compression."""
    return entry.name.partition(SUFFIX)[0] + SUFFIX


def _load(database: SqliteDatabase, files: dict[str, Labels]) -> int:
    """Load the labels of files as the database would, but into memory, and return its bytes."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        cursor = connection.cursor()
        for statement in SQLITE.create:
            cursor.execute(statement)
        for number, (name, labels) in enumerate(files.items()):
            cursor.execute(SQLITE.insert_file, (number, name))
            database.insert_labels(cursor, number, labels)
        for index in SQLITE.indexes:
            cursor.execute(index.create)
        pages, page = (cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages) * int(page)


def summary(plan: LoadPlan) -> list[tuple[str, str]]:
    """Return what `--plan` prints, row by row."""
    tasks, listed = plan.files.grid.tasks, list_files(plan.files)
    guess = estimate(plan, listed)
    x, y, z = (f"{n * size}" for n, size in zip(plan.files.grid.resolution, tasks.cell, strict=True))
    hours = guess.cpu_seconds / 3600
    to_write = [("bytes to write, estimated", f"{guess.database_bytes:,}")] if plan.one_writer else []
    return [
        ("index files", f"{len(plan.files):,} in {plan.files.url}"),
        ("files that are there", f"{len(listed):,} of {sum(entry.bytes for entry in listed):,} bytes"),
        ("box of a file", f"{shape_text(tasks.cell)} voxels, {x} x {y} x {z} nm"),
        ("database", f"{plan.database} ({plan.claim.state})"),
        ("report", f"{plan.claim.url}/{plan.claim.report}"),
        ("batches", f"{len(plan.reading.regions):,} of {plan.reading.size} files, {len(plan.loaded):,} loaded before"),
        ("processes that write", "1" if plan.one_writer else "all"),
        ("rows of labels, estimated", f"{guess.rows:,}"),
        *to_write,
        ("memory per worker, bytes, estimated", f"{PROCESS_BYTES + guess.batch_bytes:,}"),
        (f"CPU hours{'' if plan.one_writer else ' without those of the server'}, estimated", f"{hours:,.4f}"),
        ("Dataflow USD, at an assumed price", f"{hours * VCPU_HOUR_USD:,.4f} ({VCPU_HOUR_USD} a vCPU hour)"),
    ]
