"""The work on one element: chunks of the top level processed, and output boxes put together of their pieces."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import crc32c
import numpy as np

from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.worker import Worker, let_go, worker_of
from beam_volumes.blending import Voxels, rounded
from beam_volumes.block_reading import Clock
from beam_volumes.geometry import Box
from beam_volumes.parcels import Owner, Parcel, ParcelReader, ParcelWriter, read_parcels
from beam_volumes.process_pool import peak_memory_bytes
from beam_volumes.receipts import Receipt, receipt_of, record
from beam_volumes.runs import check_claim, telling_of_replacement
from beam_volumes.subchunk_flow import (
    Piece,
    Process,
    Result,
    Yielded,
    piece_type,
    pieces_of,
    process_chunks,
    reduce_pieces,
)
from beam_volumes.subchunks import BottomChunk, VoxelKind
from beam_volumes.tallies import add_up_tallies


class Counts(NamedTuple):
    """What came of elements of the first step.

    `tops` are chunks of the top level, `chunks` those that the function has taken whole; `reused` of the regions were
    done by another try, or by an interrupted run. `missing_chunks` of inputs were read as 0. Seconds are those of all
    processes together.
    """

    regions: int = 0
    reused: int = 0
    tops: int = 0
    chunks: int = 0
    missing_chunks: int = 0
    pieces: int = 0
    piece_bytes: int = 0
    read_seconds: float = 0.0
    function_seconds: float = 0.0
    blend_seconds: float = 0.0
    write_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def timed(self, clock: Clock) -> Counts:
        """Return these with the seconds of `clock`."""
        return self._replace(**{f"{name}_seconds": spent for name, spent in clock.seconds.items()})  # type: ignore[arg-type]


class WrittenUnit(NamedTuple):
    """An output box, or a chunk of the top level where nothing is reduced, that is finished.

    Attributes:
        receipt: its `shard` is the unit, its `chunks` are boxes.
        pieces: that it was made of, where these came by a shuffle.

    """

    receipt: Receipt
    pieces: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0


class Applied(NamedTuple):
    """What comes of an element: pieces for output boxes, and units that are finished."""

    parcels: dict[Owner, Parcel]
    written: list[WrittenUnit]
    counts: Counts


def merge_counts(parts: Iterable[Counts]) -> Counts:
    """Add up counts; of peaks the largest counts."""
    return add_up_tallies(Counts(), parts)


def apply_region(plan: ApplyPlan, region: int) -> Applied:
    """Process the chunks of one element, or take up what another try has made of them.

    An output box that one chunk alone has voxels for is written at once; of the others pieces go to who owns them.

    Raises:
        VolumeError: a layer cannot be read or written, the function has failed, or its result does not fit.

    """
    check_claim(plan.claim)
    tops = plan.tops_needed(region)
    if taken := _take_up(plan, region, tops) or _done_before(plan, tops):
        return taken
    with telling_of_replacement(plan.claim):
        try:
            return _apply(plan, _pack(region), tops)
        except Exception:
            # What the worker keeps may be what failed.
            let_go()
            raise


def _apply(plan: ApplyPlan, name: str, tops: Sequence[int]) -> Applied:
    worker, clock = worker_of(plan), Clock()
    missing, process = worker.missing_chunks, _Counted(worker.process(clock))
    written: list[WrittenUnit] = []
    with ParcelWriter(plan.claim.scratch, name, plan.inline_bytes) as out:
        left = iter(tops)
        for yielded in process_chunks(plan.subchunks, tops, process, plan.kinds):
            clock.lap("blend")
            written += _put(plan, worker, next(left), yielded, out)
            clock.lap("write")
            # Or it would stay while the next one is made, as it would in a zip.
            del yielded
        parcels = out.finish({"tops": [*tops]})
        clock.lap("write")
    counts = Counts(chunks=process.count, missing_chunks=worker.missing_chunks - missing).timed(clock)
    return _applied(plan, tops, parcels, written, counts)


def _put(
    plan: ApplyPlan, worker: Worker, top: int, yielded: Sequence[Yielded], out: ParcelWriter
) -> Iterator[WrittenUnit]:
    """Write what a chunk alone has voxels for, and send the rest."""
    if not plan.is_reduced:
        yield _write_chunk(plan, top, yielded)
        return
    # Also what is finished: a pack must have all, whatever another try finds.
    wanted = {o for o in plan.subchunks.owners_of(top) if not (plan.is_finished(o) and _is_alone(plan, top, o))}
    each = [pieces_of(plan.subchunks, y, kind, wanted) for y, kind in zip(yielded, plan.kinds, strict=True)]
    while pieces := [piece for of_output in each for piece in itertools.islice(of_output, 1)]:
        yield from _put_pieces(plan, worker, pieces, out)
        # Or they would stay while the next ones are made.
        pieces.clear()


def _put_pieces(plan: ApplyPlan, worker: Worker, pieces: Sequence[Piece], out: ParcelWriter) -> Iterator[WrittenUnit]:
    """Write or send the pieces that all outputs have for the same voxels."""
    owner, top = pieces[0].owner, pieces[0].top
    if _is_alone(plan, top, owner):
        yield _write_box(plan, worker, owner, [[(piece.box, piece.values)] for piece in pieces])
        return
    for output, piece in enumerate(pieces):
        out.add(Owner(0, owner), top * len(pieces) + output, piece.box, _to_bytes(piece.values))


def _write_chunk(plan: ApplyPlan, top: int, yielded: Sequence[Yielded]) -> WrittenUnit:
    """Leave a chunk of the top level as it is, where the mode is defer; else note that it is done."""
    started = time.perf_counter()
    if (found := receipt_of(plan.claim, 0, top)) is not None:
        return WrittenUnit(found)
    size = crc = 0
    for layers, each, kind in zip(plan.deferred, yielded, plan.kinds, strict=True):
        written = layers.write(top, each.box, rounded(each.values, kind.data_type))
        size, crc = size + written.bytes, _joined(crc, written.crc32c)
    return _finished(plan, Receipt(0, top, len(yielded), size, crc), 0, started)


def _write_box(
    plan: ApplyPlan, worker: Worker, owner: int, parts: Sequence[Sequence[tuple[Box, Voxels]]], pieces: int = 0
) -> WrittenUnit:
    """Write an output box of all outputs, whole, and its receipt."""
    started = time.perf_counter()
    check_claim(plan.claim)
    boxes = size = crc = 0
    for output, part in zip(worker.outputs, parts, strict=True):
        for box, values in part:
            written = output.write(box, values)
            boxes, size, crc = boxes + 1, size + written.bytes, _joined(crc, written.crc32c)
    return _finished(plan, Receipt(0, owner, boxes, size, crc), pieces, started)


def _finished(plan: ApplyPlan, receipt: Receipt, pieces: int, started: float) -> WrittenUnit:
    check_claim(plan.claim)
    record(plan.claim, receipt)
    return WrittenUnit(receipt, pieces, time.perf_counter() - started, peak_memory_bytes())


def reduce_box(plan: ApplyPlan, owner: int, parcels: Sequence[Parcel]) -> WrittenUnit:
    """Write an output box of the pieces of all chunks that have voxels for it.

    Raises:
        ConservationError: a piece is missing, or came twice.
        DestinationError: it cannot be written, or the destination has been taken over.

    """
    with telling_of_replacement(plan.claim), ParcelReader(plan.claim.scratch, parcels) as reader:
        pieces = len(reader.pieces)
        if (found := receipt_of(plan.claim, 0, owner)) is not None:
            return WrittenUnit(found, pieces)
        outputs = _read_pieces(plan, owner, reader)
        parts = []
        for kind in plan.kinds:
            # Taken out of the list: pieces go when they are reduced.
            parts.append(reduce_pieces(plan.subchunks, owner, outputs.pop(0), kind))
        return _write_box(plan, worker_of(plan), owner, parts, pieces)


def _read_pieces(plan: ApplyPlan, owner: int, reader: ParcelReader) -> list[list[Piece]]:
    """Return all pieces of an output box, by output."""
    outputs: list[list[Piece]] = [[] for _ in plan.kinds]
    for number, found in reader.chunks():
        top, output = divmod(number, len(plan.kinds))
        for box, data in found:
            outputs[output].append(Piece(owner, top, box, _from_bytes(plan, top, box, plan.kinds[output], data)))
    return outputs


class _Counted:
    """Counts the results of a process."""

    def __init__(self, process: Process) -> None:
        self.count, self._process = 0, process

    def __call__(self, chunks: Iterable[BottomChunk]) -> Iterator[Result]:
        for result in self._process(chunks):
            self.count += 1
            yield result


def _is_alone(plan: ApplyPlan, top: int, owner: int) -> bool:
    """Whether a chunk of the top level has all voxels of an output box, and writes it."""
    return plan.subchunks.tops_of(owner) == [top]


def _done_before(plan: ApplyPlan, tops: Sequence[int]) -> Applied | None:
    """Return what another try has written of an element, if nothing is to be sent, and it has written all."""
    if plan.is_reduced and any(not _is_alone(plan, top, owner) for top in tops for owner in plan.units_of(top)):
        return None
    written = _written_before(plan, tops)
    return None if written is None else _applied(plan, tops, (), written, _reused(plan, tops))


def _take_up(plan: ApplyPlan, region: int, tops: Sequence[int]) -> Applied | None:
    """Return what another try has made of an element; None where there is nothing, or not all of it."""
    found = read_parcels(plan.claim.scratch, _pack(region))
    # Of two tries one may have cut the volume into other elements, or have found less to do.
    if found is None or not set(tops) <= set(found[1]["tops"]) <= set(plan.tops(region)):
        return None
    written = _written_before(plan, tops)
    return None if written is None else _applied(plan, tops, found[0], written, _reused(plan, tops))


def _written_before(plan: ApplyPlan, tops: Sequence[int]) -> list[WrittenUnit] | None:
    """Return the units that chunks write by themselves, of their receipts; None where one is not there."""
    written = []
    for top in tops:
        for unit in plan.units_of(top):
            if plan.is_finished(unit) or (plan.is_reduced and not _is_alone(plan, top, unit)):
                continue
            receipt = receipt_of(plan.claim, 0, unit)
            if receipt is None:
                return None
            written.append(WrittenUnit(receipt))
    return written


def _reused(plan: ApplyPlan, tops: Sequence[int]) -> Counts:
    """Return the counts of an element whose chunks another try has counted."""
    return Counts(reused=1, chunks=sum(plan.subchunks.count_bottom_chunks(top) for top in tops))


def _applied(
    plan: ApplyPlan,
    tops: Sequence[int],
    made: Iterable[tuple[Owner, Parcel]],
    written: list[WrittenUnit],
    counts: Counts,
) -> Applied:
    parcels = {owner: parcel for owner, parcel in made if not plan.is_finished(owner.number)}
    tables = [parcel.pieces for parcel in parcels.values()]
    counts = counts._replace(
        regions=1,
        tops=len(tops),
        pieces=sum(len(table) for table in tables),
        piece_bytes=sum(int(table["length"].sum()) for table in tables),
        peak_memory_bytes=peak_memory_bytes(),
    )
    return Applied(parcels, written, counts)


def _pack(region: int) -> str:
    return f"region-{region}.pack"


def _to_bytes(values: Voxels) -> memoryview:
    """Return CXYZ values as bytes, x fastest, then y, z and the channel; no copy, where they lie so already."""
    return np.ascontiguousarray(values.transpose(0, 3, 2, 1)).data.cast("B")


def _from_bytes(plan: ApplyPlan, top: int, box: Box, kind: VoxelKind, data: bytes) -> Voxels:
    x, y, z = box.shape
    values = np.frombuffer(data, piece_type(plan.subchunks, top, box, kind))
    return values.reshape(kind.channels, z, y, x).transpose(0, 3, 2, 1)


def _joined(crc: int, other: int) -> int:
    """Return a checksum of checksums."""
    return crc32c.crc32c(struct.pack("<I", other), crc)
