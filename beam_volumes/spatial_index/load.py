"""Loading index files into a database: the plan, the work on one batch, and the proof at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from beam_volumes.errors import ConservationError, OptionError
from beam_volumes.precomputed.info import Json
from beam_volumes.process_pool import peak_memory_bytes
from beam_volumes.provenance import Launch, provenance, utc
from beam_volumes.receipts import check_reported_holes, record_holes, recorded_holes
from beam_volumes.runs import Claim, check_claim, finish, is_committed, remove_records, telling_of_replacement
from beam_volumes.spatial_index.database import open_database
from beam_volumes.spatial_index.files import IndexFiles, decode_labels
from beam_volumes.spatial_index.tables import (
    Batch,
    IndexFile,
    Loaded,
    Rows,
    count_rows,
    end_load,
    load_batch,
    loaded_so_far,
    make_indexes,
)
from beam_volumes.spatial_index.urls import DatabaseUrl
from beam_volumes.storage import Folder
from beam_volumes.tallies import add_up_tallies

FILES_PER_BATCH = 16
"""Files of one transaction: of tasks of 448^3 voxels some 100,000 rows."""

_NO_LABELS = np.empty(0, np.uint64)


@dataclass(frozen=True)
class Batches:
    """The files of an index, cut into batches."""

    files: IndexFiles
    size: int

    @property
    def regions(self) -> range:
        """The indices of the batches."""
        return range(-(-len(self.files) // self.size))

    def tasks(self, batch: int) -> range:
        """Return the indices, in the grid, of the files of a batch."""
        return range(batch * self.size, min((batch + 1) * self.size, len(self.files)))


@dataclass(frozen=True)
class LoadPlan:
    """Everything that a worker needs to know of a load; picklable, the same in every worker, and without a password.

    Attributes:
        reading: the batches.
        loaded: those that a run before has loaded.
        fill_missing: whether files may be missing.
        launch: who launched it, with which versions.

    """

    claim: Claim
    reading: Batches
    database: DatabaseUrl
    loaded: frozenset[int]
    fill_missing: bool
    launch: Launch

    @property
    def files(self) -> IndexFiles:
        """The files to load."""
        return self.reading.files

    @property
    def one_writer(self) -> bool:
        """Whether only one process may write; others read then."""
        return open_database(self.database).one_writer

    def needs_region(self, batch: int) -> bool:
        """Whether a batch is still to be loaded."""
        return batch not in self.loaded


class LoadStatistics(NamedTuple):
    """What a run has done; `labels` are rows. Of several, `merge_statistics` makes one."""

    batches: int = 0
    files: int = 0
    missing: int = 0
    labels: int = 0
    read_seconds: float = 0.0
    write_seconds: float = 0.0
    peak_memory_bytes: int = 0


class ReadFiles(NamedTuple):
    """A batch that was read, and how long it took."""

    batch: Batch
    statistics: LoadStatistics


def merge_statistics(parts: Iterable[LoadStatistics]) -> LoadStatistics:
    """Add up statistics; of peaks the largest counts."""
    return add_up_tallies(LoadStatistics(), parts)


def read_files(plan: LoadPlan, batch: int) -> ReadFiles:
    """Read the files of a batch. Memory: eight bytes for each label in them, and the text of a few files.

    Raises:
        SourceError: a file is missing, and that was not accepted, or it cannot be read.
        CorruptDataError: a file holds something else.

    """
    started = time.perf_counter()
    grid, tasks = plan.files.grid, plan.reading.tasks(batch)
    files, missing = list[IndexFile](), list[int]()
    for task, data in zip(tasks, plan.files.read(tasks), strict=True):
        name = grid.name(task)
        if data is None:
            missing.append(task)
        labels = _NO_LABELS if data is None else decode_labels(data, f"{plan.files.url}/{name}")
        files.append(IndexFile(task + 1, name, labels))
    if missing:
        if not plan.fill_missing:
            raise plan.files.missing(missing)
        record_holes(plan.claim, batch, [grid.tasks.box(grid.tasks.position(task)) for task in missing])
    statistics = LoadStatistics(
        batches=1,
        files=len(files),
        missing=len(missing),
        labels=sum(len(file.labels) for file in files),
        read_seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
    )
    return ReadFiles(Batch(batch, files, len(missing)), statistics)


def write_files(plan: LoadPlan, read: ReadFiles) -> LoadStatistics:
    """Write a batch that was read, unless it is there already; all of it or nothing.

    Raises:
        DatabaseError: the database refuses.
        DestinationError: another run has replaced this one.

    """
    started = time.perf_counter()
    with telling_of_replacement(plan.claim):
        load_batch(open_database(plan.database), plan.claim.key, read.batch)
    seconds = time.perf_counter() - started
    return read.statistics._replace(write_seconds=seconds, peak_memory_bytes=peak_memory_bytes())


def load_files(plan: LoadPlan, batch: int) -> LoadStatistics:
    """Read and write a batch; see `read_files` and `write_files`."""
    return write_files(plan, read_files(plan, batch))


def check_holes(claim: Claim, *, fill_missing: bool) -> None:
    """Refuse to do without missing files where the run that is resumed, or complete, has accepted some.

    Raises:
        OptionError: so it is.

    """
    check_reported_holes(claim, fill_missing=fill_missing)
    if claim.state == "resumed" and not fill_missing and (holes := recorded_holes(claim)):
        raise OptionError(
            f"--fill_missing: expected it, because the run that is resumed has accepted {len(holes)} missing index "
            "files: give it, or begin anew with --resume=false"
        )


def finish_load(plan: LoadPlan, statistics: LoadStatistics, started: float) -> None:
    """Make the indexes, prove that nothing was lost, commit the report and clean up.

    A second try after the report was committed cleans up, and no more.

    Raises:
        ConservationError: something was; what was loaded stays, so that the same command goes on.
        DatabaseError: the database refuses.
        DestinationError: another run has replaced this one.

    """
    database, key = open_database(plan.database), plan.claim.key
    if not is_committed(plan.claim):
        check_claim(plan.claim)
        with telling_of_replacement(plan.claim):
            loaded = loaded_so_far(database, key)
            # Before the indexes, which may take as long as all before.
            _check(plan, loaded, None)
            indexing = time.perf_counter()
            make_indexes(database)
            seconds = time.perf_counter() - indexing
            rows = count_rows(database)
        _check(plan, loaded, rows)
        ended = time.time()
        holes = [plan.files.grid.name_of(box) for box in recorded_holes(plan.claim)]
        done = report(plan, statistics, loaded, rows, holes)
        done |= {"indexing_seconds": round(seconds, 3), **_times(started, ended)}
        finish(plan.claim, provenance(plan.launch, plan.claim.identity, [plan.files.url], ended), done)
    end_load(database, key)
    remove_records(plan.claim)


def settle(plan: LoadPlan) -> None:
    """Make sure that an index that was committed still stands as it was written, and remove what its run kept.

    Raises:
        ConservationError: it has other rows than it had.

    """
    database = open_database(plan.database)
    found = (Folder(plan.claim.url).read_json(plan.claim.report) or {}).get("rows")
    rows = count_rows(database)
    if found != rows._asdict():
        raise ConservationError(
            f"{plan.database}: expected the rows that {plan.claim.report} tells of, {found}, came {rows._asdict()}: "
            "load the index anew with --overwrite"
        )
    end_load(database, plan.claim.key)
    remove_records(plan.claim)


def report(plan: LoadPlan, statistics: LoadStatistics, loaded: Loaded, rows: Rows, holes: list[str]) -> Json:
    """Return the content of the report, but the times; durations are those of all workers."""
    return {
        "pipeline": plan.claim.destination.task,
        "layer": plan.claim.url,
        "index_files": plan.files.url,
        "spatial_index": plan.files.grid.info,
        "database": str(plan.database),
        "versions": plan.launch.versions,
        "stages": {
            "files": {
                "planned": len(plan.files),
                "read": loaded.files - loaded.missing,
                "missing": loaded.missing,
                "read_seconds": round(statistics.read_seconds, 3),
            },
            "rows": {
                "read": loaded.labels,
                "written": rows.file_lookup,
                "write_seconds": round(statistics.write_seconds, 3),
            },
            "taken up from an interrupted run": {"batches": loaded.batches - statistics.batches},
        },
        "rows": rows._asdict(),
        "peak_memory_bytes": statistics.peak_memory_bytes,
        "holes": holes,
    }


def _times(started: float, ended: float) -> Json:
    return {"started": utc(started), "ended": utc(ended), "wall_seconds": round(ended - started, 3)}


def _check(plan: LoadPlan, loaded: Loaded, rows: Rows | None) -> None:
    """Make sure that planned = read = written; the rows too, where they were counted."""
    planned = {"batches": len(plan.reading.regions), "files": len(plan.files), "file_lookup": loaded.labels}
    done = {"batches": loaded.batches, "files": loaded.files}
    if rows is not None:
        planned["index_files"] = len(plan.files)
        done |= rows._asdict()
    wrong = [f"{name}: expected {planned[name]}, came {n}" for name, n in done.items() if n != planned[name]]
    if wrong:
        raise ConservationError(
            f"{plan.database}: something was lost or came twice on the way ({'; '.join(wrong)}): give the same command "
            "again, or begin anew with --overwrite"
        )
