"""Counting a volume: regions become runs, runs are merged in a tree, and the last merge is written out.

See `beam_volumes.voxel_counts` for why.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

from beam_volumes.block_reading import BlockReader, Clock, RegionReading
from beam_volumes.errors import ConservationError
from beam_volumes.geometry import Box
from beam_volumes.payloads import PackReader, PackWriter, Payload, read_pack_index
from beam_volumes.process_pool import peak_memory_bytes
from beam_volumes.receipts import record_holes
from beam_volumes.runs import check_claim, telling_of_replacement
from beam_volumes.sources import open_reader
from beam_volumes.storage import Folder
from beam_volumes.tallies import add_up_tallies
from beam_volumes.voxel_count_files import CountTotals, write_count_files
from beam_volumes.voxel_count_plan import CountPlan, RunKey
from beam_volumes.voxel_count_runs import Run, RunMerge, append_run
from beam_volumes.voxel_counts import LabelCounter, Table


class CountStatistics(NamedTuple):
    """What came of regions and merges; `merge_statistics` makes one of many.

    `reused` regions and merges were left by an interrupted run. `fulls` counts how often a region's memory was full.
    """

    regions: int = 0
    merges: int = 0
    reused: int = 0
    voxels: int = 0
    fulls: int = 0
    rows_in: int = 0
    rows_out: int = 0
    read_seconds: float = 0.0
    count_seconds: float = 0.0
    merge_seconds: float = 0.0
    peak_memory_bytes: int = 0


class CountedRun(NamedTuple):
    """A run, what it counts, and how many voxels these are."""

    key: RunKey
    run: Run
    voxels: int


class Counted(NamedTuple):
    """What comes of a region or a merge."""

    counted: CountedRun
    statistics: CountStatistics


class WrittenCounts(NamedTuple):
    """What comes of the last merge."""

    totals: CountTotals
    statistics: CountStatistics


def merge_statistics(parts: Iterable[CountStatistics]) -> CountStatistics:
    """Add up statistics; of peaks the largest counts."""
    return add_up_tallies(CountStatistics(), parts)


def count_region(plan: CountPlan, region: int) -> Counted:
    """Count the voxels of one region into a run, or take up what an interrupted run has made of it.

    Memory: a few blocks, and `plan.table_bytes`.

    Raises:
        SourceError: voxels are missing or cannot be read.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    check_claim(plan.claim)
    key = RunKey(0, region)
    if taken := _take_up(plan, key):
        return Counted(taken, CountStatistics(regions=1, reused=1, voxels=taken.voxels, rows_out=_rows(plan, taken)))
    try:
        return _count(plan, key)
    except Exception:
        _READERS.clear()
        # Where another run has taken the destination over, files vanish: that is what must be told.
        check_claim(plan.claim)
        raise


def merge_box(plan: CountPlan, key: RunKey, runs: Iterable[CountedRun]) -> Counted:
    """Merge the runs of a box into one, or take up what an interrupted run has made of it.

    Memory: four times `plan.window_bytes`; see `RunMerge`.

    Raises:
        ConservationError: it is not all the runs of the box that came.
        CorruptDataError: a run is not what was written; give the same command again.
        SourceError, DestinationError: packs cannot be read or written, or the destination has been taken over.

    """
    check_claim(plan.claim)
    if taken := _take_up(plan, key):
        return Counted(taken, CountStatistics(merges=1, reused=1, rows_out=_rows(plan, taken)))
    clock = Clock()
    with PackReader(plan.claim.scratch) as packs:
        merge = _Merge(plan, key, runs, packs)
        counted = _write_run(plan, key, merge.tables())
    merge.check(plan.box(key).voxels)
    clock.lap("merge")
    return Counted(counted, merge.statistics(clock))


def write_counts(plan: CountPlan, runs: Iterable[CountedRun]) -> WrittenCounts:
    """Do the last merge, and write it out as it goes; see `write_count_files`.

    Memory: four times `plan.window_bytes`, and what writing needs.

    Raises:
        ConservationError: it is not all the runs of the volume that came.
        CorruptDataError: a run is not what was written; give the same command again.
        SourceError, DestinationError: packs cannot be read, files cannot be written, or the destination has been
            taken over.

    """
    check_claim(plan.claim)
    clock = Clock()
    with telling_of_replacement(plan.claim), PackReader(plan.claim.scratch) as packs:
        merge = _Merge(plan, RunKey(len(plan.levels), 0), runs, packs)
        totals = write_count_files(plan.claim, plan.folder, merge.tables(), plan.subject)
    merge.check(plan.planned["voxels"])
    clock.lap("merge")
    return WrittenCounts(totals, merge.statistics(clock))


class _Merge:
    """A merge that is checked: all runs of a box have come, and no voxel is lost on the way."""

    def __init__(self, plan: CountPlan, key: RunKey, runs: Iterable[CountedRun], packs: PackReader) -> None:
        self._plan = plan
        # A bundle that is tried again may find its runs in another order.
        self._runs = sorted(runs)
        last = key.level == len(plan.levels)
        self._name = "the volume" if last else f"box {plan.box(key)}"
        children = len(plan.levels[-1]) if last else plan.children(key)
        keys = {counted.key for counted in self._runs}
        if len(keys) != len(self._runs) or len(keys) != children:
            raise ConservationError(
                f"{plan.claim.url}: expected the counts of {children} parts of {self._name}, came {len(self._runs)} "
                f"of {len(keys)}: something was lost or came twice on the way; give the same command again"
            )
        self._merge = RunMerge(packs, [c.run for c in self._runs], plan.row, plan.window_bytes)
        self._voxels = 0

    def tables(self) -> Iterator[Table]:
        for table in self._merge:
            self._voxels += int(table["voxels"].sum())
            yield table

    def check(self, voxels: int) -> None:
        """Make sure that the merged runs count `voxels` voxels, and that all rows of them were read."""
        rows = sum(_rows(self._plan, counted) for counted in self._runs)
        told = sum(counted.voxels for counted in self._runs)
        if (told, self._voxels, self._merge.rows_in) != (voxels, voxels, rows):
            raise ConservationError(
                f"{self._plan.claim.url}: expected {voxels} voxels in {self._name} and {rows} rows of counts, came "
                f"{told} counted and {self._voxels} merged in {self._merge.rows_in} rows: give the same command again"
            )

    def statistics(self, clock: Clock) -> CountStatistics:
        return CountStatistics(
            merges=1,
            rows_in=self._merge.rows_in,
            rows_out=self._merge.rows_out,
            merge_seconds=clock.seconds["merge"],
            peak_memory_bytes=peak_memory_bytes(),
        )


def _count(plan: CountPlan, key: RunKey) -> Counted:
    clock, holes = Clock(), list[Box]()
    with _Spill(plan, key) as spill:
        counter = LabelCounter(plan.table_bytes, spill.add, with_boxes=plan.with_boxes)
        clock.lap("count")
        blocks = plan.reading.blocks(key.cell)
        boxes = (blocks.box(blocks.position(index)) for index in range(len(blocks)))
        for box, voxels in _reader(plan).read(RegionReading(boxes, f"region {plan.box(key)}", clock, holes)):
            counter.add(voxels, box.start)
            clock.lap("count")
        if holes:
            record_holes(plan.claim, key.cell, holes)
        counted = _write_run(plan, key, spill.tables(counter.take()))
    clock.lap("count")
    if counted.voxels != plan.box(key).voxels:
        raise ConservationError(
            f"{plan.claim.url}: expected {plan.box(key).voxels} voxels in region {plan.box(key)}, came "
            f"{counted.voxels}: give the same command again"
        )
    seconds = {f"{name}_seconds": spent for name, spent in clock.seconds.items()}
    statistics = CountStatistics(
        regions=1,
        voxels=counted.voxels,
        fulls=spill.fulls,
        rows_out=_rows(plan, counted),
        peak_memory_bytes=peak_memory_bytes(),
        **seconds,  # type: ignore[arg-type]
    )
    return Counted(counted, statistics)


class _Spill:
    """Tables that a region has set aside, in a pack of their own that is removed when they are merged."""

    def __init__(self, plan: CountPlan, key: RunKey) -> None:
        self._plan, self._name = plan, f"{_pack_name(key)}.tables"
        self._folder = Folder(plan.claim.scratch)
        self._pack: PackWriter | None = None
        self._payloads: list[Payload] = []

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        # Open still after an exception only.
        if self._pack:
            self._pack.__exit__(kind, *rest)

    @property
    def fulls(self) -> int:
        return len(self._payloads)

    def add(self, table: Table) -> None:
        if not self._pack:
            self._pack = PackWriter(self._folder, self._name).__enter__()
        self._payloads.append(append_run(self._pack, [table]))

    def tables(self, last: Table) -> Iterator[Table]:
        """Yield the sum of the tables that were set aside and `last`, in parts."""
        if not self._pack:
            yield last
            return
        self.add(last)
        pack, self._pack = self._pack, None
        pack.finish(b"")
        pack.__exit__(None, None, None)
        with PackReader(self._plan.claim.scratch) as packs:
            runs = [Run(self._name, payload) for payload in self._payloads]
            yield from RunMerge(packs, runs, self._plan.row, self._plan.window_bytes)
        self._folder.delete([self._name])


def _write_run(plan: CountPlan, key: RunKey, tables: Iterable[Table]) -> CountedRun:
    """Write a run as a pack that a later run can take up."""
    name, voxels = _pack_name(key), 0

    def counted() -> Iterator[Table]:
        nonlocal voxels
        for table in tables:
            voxels += int(table["voxels"].sum())
            yield table

    with PackWriter(Folder(plan.claim.scratch), name) as pack:
        payload = append_run(pack, counted())
        pack.finish(json.dumps({"box": plan.box(key), "voxels": voxels, "payload": payload}).encode())
    return CountedRun(key, Run(name, payload), voxels)


def _take_up(plan: CountPlan, key: RunKey) -> CountedRun | None:
    """Return the run that an interrupted run has left; None where it cut the volume otherwise."""
    name = _pack_name(key)
    index = read_pack_index(Folder(plan.claim.scratch), name)
    if index is None:
        return None
    note = json.loads(index)
    if Box.of_lists(note["box"]) != plan.box(key):
        return None
    return CountedRun(key, Run(name, Payload(*note["payload"])), note["voxels"])


def _pack_name(key: RunKey) -> str:
    return f"{f'merge-{key.level}' if key.level else 'region'}-{key.cell}.pack"


def _rows(plan: CountPlan, counted: CountedRun) -> int:
    return counted.run.payload.length // plan.row.itemsize


_READERS: dict[Hashable, BlockReader] = {}


def _reader(plan: CountPlan) -> BlockReader:
    """Return this process's open volume; the one of an earlier run is let go."""
    key = (plan.claim.key, plan.fill_missing)
    if key not in _READERS:
        _READERS.clear()
        _READERS[key] = BlockReader(open_reader(plan.source, fill_missing=plan.fill_missing))
    return _READERS[key]
