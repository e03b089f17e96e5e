"""A function applied to a volume in chunks of several levels, in memory: what the chunks yield, cropped and blended.

One chunk of the top level is worked on at a time. What it yields is cut by the boxes of the output that own its voxels,
and each of these is reduced of its pieces in a fixed order: the same bits, however often a piece is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from beam_volumes.blending import Accumulator, Voxels, accumulation_type, edges_of, rounded, to_be_weighted, weigh
from beam_volumes.errors import ConservationError, FunctionError
from beam_volumes.geometry import Box
from beam_volumes.subchunks import BottomChunk, Chunk, SubchunkPlan, VoxelKind


class Result(NamedTuple):
    """What the function makes of a bottom chunk.

    Attributes:
        box: the chunk's `read_box`; its `box` where the function has cropped already.
        values: of each output, CXYZ of the shape of `box`. They are not written to, and not looked at again once the
            next result is asked for.

    """

    box: Box
    values: Sequence[Voxels]


Process = Callable[[Iterable[BottomChunk]], Iterable[Result]]
"""Yields for each chunk, in order, what the function makes of it.

The chunks come as they are asked for, so that some may be read ahead, or put into one batch.
"""


@dataclass(frozen=True)
class Yielded:
    """What a chunk of the top level yields, not yet weighted against its neighbours.

    Attributes:
        top: index of the chunk.
        box: the chunk with its blend, as far as it is wanted.
        values: CXYZ; sums in floating point where a level below is weighted, else of the destination's type. It may be
            a view of what the function has returned.

    """

    top: int
    box: Box
    values: Voxels


@dataclass(frozen=True)
class Piece:
    """Weighted voxels of one chunk of the top level that one output box owns.

    Attributes:
        owner: index of the output box.
        top: index of the chunk: pieces are reduced in this order.
        box: lies in the output box.
        values: CXYZ; of the destination's type where no other chunk has a part, else of that of sums.

    """

    owner: int
    top: int
    box: Box
    values: Voxels


def one_by_one(read: Callable[[Box], Any], function: Callable[[Any], Voxels]) -> Process:
    """Return a process that reads the box of one chunk and calls the function with that, chunk after chunk.

    Args:
        read: returns what the function takes for a box of the destination's voxels.
        function: returns CXYZ of the shape of the box, for the one output.

    """

    def process(chunks: Iterable[BottomChunk]) -> Iterator[Result]:
        for chunk in chunks:
            yield Result(chunk.read_box, [function(read(chunk.read_box))])

    return process


def process_chunks(
    plan: SubchunkPlan, tops: Iterable[int], process: Process, kinds: Sequence[VoxelKind]
) -> Iterator[list[Yielded]]:
    """Yield what chunks of the top level yield, one after another: for each output one `Yielded`.

    Memory: that of one chunk, see `subchunk_memory`; and of the bottom chunks that `process` takes ahead.

    Args:
        plan: how the run is cut.
        tops: indexes of the chunks.
        process: calls the function.
        kinds: channels and type of each output; none where the function's results are not looked at.

    Raises:
        FunctionError: a result has another shape, or a type that the destination's cannot hold.
        ConservationError: results came too few, or too many.

    """
    wanted = list(tops)
    results = iter(process(chunk for top in wanted for chunk in plan.bottom_chunks(top)))
    for top in wanted:
        chunk = plan.top_chunk(top)
        values = _Recursion(plan, kinds, results).voxels_of(chunk)
        yield [Yielded(top, chunk.wanted, each) for each in values]
        # Or it would stay while the next one is made.
        del values
    if next(results, None) is not None:
        raise ConservationError("expected a result for each chunk, came more: yield as many as there are chunks")


class _Recursion:
    """Reduces the results of bottom chunks, which come in the order of `SubchunkPlan.bottom_chunks`."""

    def __init__(self, plan: SubchunkPlan, kinds: Sequence[VoxelKind], results: Iterator[Result]) -> None:
        self._plan, self._kinds, self._results = plan, kinds, results

    def voxels_of(self, chunk: Chunk) -> list[Voxels]:
        """Return what is wanted of a chunk, for each output, CXYZ."""
        plan = self._plan
        if chunk.level == len(plan.levels) - 1:
            return self._bottom(plan.bottom_chunk(chunk), chunk.wanted)
        level = plan.levels[chunk.level + 1]
        totals = [Accumulator(chunk.wanted, level.mode if level.overlaps else None, t) for t in self._types(chunk)]
        for below in plan.chunks_below(chunk):
            values = self.voxels_of(below)
            for i, total in enumerate(totals):
                total.add(below.wanted, self._weighed(below, i, values[i]))
            # Or they would stay while the next ones are made.
            del values
        return [total.result() for total in totals]

    def _types(self, chunk: Chunk) -> Iterator[np.dtype[Any]]:
        """Yield for each output the type in which the chunks below are joined."""
        sums = self._plan.sums(chunk.level)
        return (accumulation_type(kind.data_type) if sums else np.dtype(kind.data_type) for kind in self._kinds)

    def _weighed(self, chunk: Chunk, output: int, values: Voxels) -> Voxels:
        level = self._plan.levels[chunk.level]
        if not level.is_weighted:
            return values
        own = chunk.level + 1 < len(self._plan.levels)
        values = to_be_weighted(values, self._kinds[output].data_type, own=own)
        weigh(values, chunk.wanted, chunk.box, level.blend, level.mode, edges_of(chunk.box, chunk.region))
        return values

    def _bottom(self, chunk: BottomChunk, wanted: Box) -> list[Voxels]:
        result = next(self._results, None)
        if result is None:
            raise ConservationError(
                f"expected a result for each chunk, came none for chunk {chunk.id} ({chunk.read_box}): yield as many "
                f"as there are chunks"
            )
        part = (slice(None), *wanted.slices(result.box.start))
        pairs = zip(result.values, self._kinds, strict=True)
        return [checked_result(values, kind, chunk, result.box)[part] for values, kind in pairs]


def checked_result(result: Voxels, kind: VoxelKind, chunk: BottomChunk, box: Box) -> Voxels:
    """Return what the function has made of a chunk in the destination's type.

    Integers become integers of another size where all fit; floats become floats; bool becomes any number.

    Raises:
        FunctionError: it has another shape, or values that the destination's type cannot hold.

    """
    result = np.asarray(result)
    expected = (kind.channels, *box.shape)
    where = f"the function's result for chunk {chunk.id} ({box})"
    if result.shape != expected:
        if result.ndim == 4 and result.shape[1:] == expected[1:]:
            raise FunctionError(
                f"{where}: expected {kind.channels} channels, as many as the destination has, came {len(result)}: "
                f"return so many, or give the destination num_channels {len(result)} (info_num_channels of a new one)"
            )
        uncropped = box == chunk.read_box
        raise FunctionError(
            f"{where}: expected the shape {expected}, {kind.channels} channels, and x, y, z of the chunk with twice "
            f"its {'crop_pad and ' if uncropped else ''}blend_pad, came {result.shape}: return that"
            f"{', uncropped' if uncropped else ''}"
        )
    wanted = np.dtype(kind.data_type)
    if result.dtype == wanted:
        return result
    if result.dtype.kind in "iu" and wanted.kind in "iu":
        low, high, limits = int(result.min()), int(result.max()), np.iinfo(wanted)
        if not limits.min <= low <= high <= limits.max:
            raise FunctionError(
                f"{where}: expected values that the destination's {wanted} holds, came values from {low} to {high}: "
                f"clip them, or write to a wider type"
            )
    elif not np.can_cast(result.dtype, wanted, "safe") and not result.dtype.kind == wanted.kind == "f":
        raise FunctionError(
            f"{where}: expected the destination's type {wanted}, came {result.dtype}: round, clip and convert in the "
            f"function, or in one of write_procs"
        )
    return result.astype(wanted)


def pieces_of(
    plan: SubchunkPlan, yielded: Yielded, kind: VoxelKind, owners: Collection[int] | None = None
) -> Iterator[Piece]:
    """Yield what a chunk of the top level has for each output box, weighted; copies, x fastest.

    Of one output box there is a piece that no other chunk reaches into, and those around it.

    Args:
        plan: how the run is cut.
        yielded: what the chunk yields.
        kind: channels and type of the destination.
        owners: the output boxes that are wanted; None for all.

    Raises:
        ValueError: the mode is defer: nothing is to be reduced.
        FunctionError: an integer is too large to be blended.

    """
    top = plan.top
    if top.mode == "defer":
        raise ValueError(
            "expected a mode that is reduced, came defer, which leaves the chunks of the top level as they are"
        )
    chunk = plan.top_chunk(yielded.top).box
    edges = edges_of(chunk, plan.bounds)
    for owner in plan.owners_of(yielded.top):
        if owners is not None and owner not in owners:
            continue
        for box in piece_boxes(plan, yielded.top, owner):
            values = yielded.values[(slice(None), *box.slices(yielded.box.start))]
            if top.is_weighted and is_shared(plan, chunk, box):
                values = to_be_weighted(values, kind.data_type)
                weigh(values, box, chunk, top.blend, top.mode, edges)
            else:
                # The largest of rounded values is the rounded largest.
                values = rounded(values, kind.data_type)
            yield Piece(owner, yielded.top, box, values)


def piece_boxes(plan: SubchunkPlan, top: int, owner: int) -> list[Box]:
    """Return the boxes of the pieces that a chunk of the top level has for an output box, in order.

    Where chunks are weighted, what others reach into is cut off: the rest is of the destination's type, and is most.
    """
    chunk, cut = plan.top_chunk(top), list[Box]()
    box = chunk.wanted.intersection(plan.owner_box(owner))
    if not plan.top.is_weighted:
        return [box]
    for axis, edges in enumerate(edges_of(chunk.box, plan.bounds)):
        low, high, blend = box.start[axis], box.stop[axis], plan.top.blend[axis]
        inner = low if edges[0] else min(max(low, chunk.box.start[axis] + blend), high)
        outer = high if edges[1] else max(min(high, chunk.box.stop[axis] - blend), inner)
        cut += [box.with_side(axis, low, inner), box.with_side(axis, outer, high)]
        box = box.with_side(axis, inner, outer)
    return sorted(part for part in (box, *cut) if part.voxels)


def piece_type(plan: SubchunkPlan, top: int, box: Box, kind: VoxelKind) -> np.dtype[Any]:
    """Return the type of the values of a piece: that of sums where other chunks have a part."""
    if plan.top.is_weighted and is_shared(plan, plan.top_chunk(top).box, box):
        return accumulation_type(kind.data_type)
    return np.dtype(kind.data_type)


def pieces_expected(plan: SubchunkPlan, owner: int) -> list[tuple[int, Box]]:
    """Return the chunks of the top level and the boxes of all pieces of an output box, in order."""
    return [(top, box) for top in plan.tops_of(owner) for box in piece_boxes(plan, top, owner)]


def is_shared(plan: SubchunkPlan, chunk: Box, box: Box) -> bool:
    """Whether other chunks of the top level reach into `box`, a part of a chunk with its blend."""
    edges = edges_of(chunk, plan.bounds)
    return any(
        (not low and box.start[axis] < chunk.start[axis] + blend)
        or (not high and box.stop[axis] > chunk.stop[axis] - blend)
        for axis, ((low, high), blend) in enumerate(zip(edges, plan.top.blend, strict=True))
    )


def reduce_pieces(plan: SubchunkPlan, owner: int, pieces: Iterable[Piece], kind: VoxelKind) -> list[tuple[Box, Voxels]]:
    """Return the voxels of an output box: CXYZ of the destination's type, in boxes that do not overlap.

    One box, the whole output box, but where there are gaps between chunks: then one per chunk.

    Args:
        plan: how the run is cut.
        owner: index of the output box.
        pieces: all of this output box, in any order.
        kind: channels and type of the destination.

    Raises:
        ConservationError: a piece is missing, or came twice.

    """
    ordered = sorted(pieces, key=lambda piece: (piece.top, piece.box))
    expected = pieces_expected(plan, owner)
    came = [(piece.top, piece.box) for piece in ordered]
    if came != expected or any(piece.owner != owner for piece in ordered):
        raise ConservationError(
            f"output box {plan.owner_box(owner)}: expected {len(expected)} pieces of the chunks {plan.tops_of(owner)}, "
            f"came {len(came)} of {sorted({top for top, _ in came})}: something was lost, or done twice: give the same "
            "command again, and what is missing is done anew"
        )
    if any(plan.gap) or len(ordered) == 1:
        return [(piece.box, piece.values) for piece in ordered]
    box, weighted = plan.owner_box(owner), plan.top.is_weighted
    sums = accumulation_type(kind.data_type) if weighted else np.dtype(kind.data_type)
    total = Accumulator(box, plan.top.mode if plan.top.overlaps else None, sums)
    shared = [not weighted or is_shared(plan, plan.top_chunk(piece.top).box, piece.box) for piece in ordered]
    for piece in itertools.compress(ordered, shared):
        total.add(piece.box, piece.values)
    if any(shared):
        values = rounded(total.result(), kind.data_type, own=True)
    else:
        values = np.empty_like(ordered[0].values, shape=(kind.channels, *box.shape))
    for piece, is_sum in zip(ordered, shared, strict=True):
        if not is_sum:
            # As it is: integers may be larger than those of which sums are exact.
            values[(slice(None), *piece.box.slices(box.start))] = piece.values
    return [(box, values)]


def process_volume(plan: SubchunkPlan, process: Process, kind: VoxelKind) -> Voxels:
    """Return all of the output, CXYZ over the plan's bounds; 0 in the gaps between chunks.

    Memory: the whole volume, and what of it waits for other chunks.
    """
    volume = np.zeros((kind.channels, *plan.bounds.shape), kind.data_type)
    waiting: dict[int, list[Piece]] = {}
    for (yielded,) in process_chunks(plan, range(len(plan)), process, [kind]):
        for piece in pieces_of(plan, yielded, kind):
            pieces = waiting.setdefault(piece.owner, [])
            pieces.append(piece)
            if len(pieces) == len(pieces_expected(plan, piece.owner)):
                for box, values in reduce_pieces(plan, piece.owner, waiting.pop(piece.owner), kind):
                    volume[(slice(None), *box.slices(plan.bounds.start))] = values
    return volume
