"""The most memory that one element of a run holds, in bytes: planned of its boxes alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from beam_volumes.blending import accumulation_type
from beam_volumes.geometry import Vec
from beam_volumes.parcels import HELD_BYTES
from beam_volumes.subchunk_flow import is_shared, piece_boxes
from beam_volumes.subchunks import SubchunkPlan, VoxelKind

Kinds = Sequence[VoxelKind]
"""Channels and type of each output."""


@dataclass(frozen=True)
class Input:
    """One layer that the function takes.

    Attributes:
        kind: channels, and the type in which the function takes them.
        pad: by how many voxels of the destination more it is read at each side than the chunk with its pads.
        scale: how many voxels of it there are along each axis of a voxel of the destination.

    """

    kind: VoxelKind
    pad: Vec = (0, 0, 0)
    scale: tuple[Fraction | int, Fraction | int, Fraction | int] = (1, 1, 1)


@dataclass(frozen=True)
class PlannedMemory:
    """Bytes of what one element holds.

    Attributes:
        inputs: what the function takes for one batch of bottom chunks.
        function: what it needs besides, as far as that has been said.
        outputs: what it returns for one batch, and what of one result is converted, or weighted.
        accumulators: by level, what one of its chunks is reduced into; 0 for the bottom, which is the function's.
        sending: what is held besides while a chunk of the top level, ready, is cut into pieces, and these are sent.
        chunk: the most at any time while a chunk of the top level is worked on.
        reduction: the most while an output box is reduced of its pieces, them included.

    """

    inputs: int
    function: int
    outputs: int
    accumulators: tuple[int, ...]
    sending: int
    chunk: int
    reduction: int

    @property
    def element(self) -> int:
        """The most that one element of either stage holds."""
        return max(self.chunk, self.reduction)


def plan_memory(
    plan: SubchunkPlan,
    outputs: Kinds,
    inputs: Sequence[Input],
    *,
    batch: int = 1,
    function_bytes: int = 0,
    reading_bytes: int = 0,
    writing_bytes: int = 0,
) -> PlannedMemory:
    """Return the bytes that one element holds.

    Args:
        plan: how the run is cut.
        outputs: channels and type of each output.
        inputs: all that is read for a bottom chunk.
        batch: bottom chunks that the function takes at once.
        function_bytes: what the function needs for a batch besides what it takes and returns.
        reading_bytes: what reading needs besides the inputs.
        writing_bytes: what writing a box needs besides its voxels.

    """
    wanted, bottom = _wanted_shapes(plan), len(plan.levels) - 1
    accumulators = (*(_bytes(shape, outputs, sums=plan.sums(i)) for i, shape in enumerate(wanted[:-1])), 0)
    taken, returned = batch * _input_bytes(plan, inputs), batch * _bytes(plan.bottom.whole, outputs)
    # The converted result of one chunk is weighted while those of its batch, but not their inputs, are still held.
    copied = _weighted_copy(plan, outputs, bottom, wanted[bottom]) if bottom else 0
    at_bottom = max(taken + max(reading_bytes, function_bytes + returned), returned + copied)
    most = sum(accumulators) + at_bottom
    for level in range(1, bottom):
        # A chunk of this level is ready, and weighted into the one above.
        most = max(most, sum(accumulators[: level + 1]) + _weighted_copy(plan, outputs, level, wanted[level]))
    top = plan.typical_top
    sending = _sending_bytes(plan, outputs, wanted[0], writing_bytes)
    # The last of a batch has been let go of where it is reduced.
    held = accumulators[0] or returned
    reduction = max(_reduction_bytes(plan, outputs, owner, writing_bytes) for owner in plan.owners_of(top))
    return PlannedMemory(
        taken, function_bytes, returned + copied, accumulators, sending, max(most, held + sending), reduction
    )


def _bytes(shape: Vec, kinds: Kinds, *, sums: bool = False) -> int:
    types = [accumulation_type(kind.data_type) if sums else np.dtype(kind.data_type) for kind in kinds]
    return math.prod(shape) * sum(kind.channels * t.itemsize for kind, t in zip(kinds, types, strict=True))


def _input_bytes(plan: SubchunkPlan, inputs: Sequence[Input]) -> int:
    total = 0
    for each in inputs:
        shape = [math.ceil((n + 2 * p) * s) for n, p, s in zip(plan.bottom.whole, each.pad, each.scale, strict=True)]
        total += _bytes((shape[0], shape[1], shape[2]), [each.kind])
    return total


def _wanted_shapes(plan: SubchunkPlan) -> list[Vec]:
    """Return by level the shape of what is wanted of a chunk, of one of which much is."""
    top = plan.top_chunk(plan.typical_top)
    shapes = []
    for axis in range(3):
        start = top.box.start[axis]
        low, high = top.wanted.start[axis] - start, top.wanted.stop[axis] - start
        sizes = [high - low]
        for upper, level in itertools.pairwise(plan.levels):
            chunk, pad, around = level.chunk[axis], level.blend[axis], upper.blend[axis] + upper.crop[axis]
            parts = [
                (max(first - pad, low) - first, min(first + chunk + pad, high) - first)
                for first in range(-around, upper.chunk[axis] + around, chunk)
            ]
            low, high = max(parts, key=lambda part: part[1] - part[0])
            sizes.append(high - low)
        shapes.append(sizes)
    return list(zip(*shapes, strict=True))


def _weighted_copy(plan: SubchunkPlan, outputs: Kinds, number: int, wanted: Vec) -> int:
    """Return the bytes of the copy of what a chunk yields that is weighted; 0 where it is weighted in place."""
    is_own = number < len(plan.levels) - 1 and plan.sums(number)
    return _bytes(wanted, outputs, sums=True) if plan.levels[number].is_weighted and not is_own else 0


def _piece_bytes(plan: SubchunkPlan, outputs: Kinds, top: int, owner: int) -> list[int]:
    """Return the bytes of each piece that a chunk of the top level has for an output box."""
    chunk, boxes = plan.top_chunk(top).box, piece_boxes(plan, top, owner)
    return [_bytes(box.shape, outputs, sums=plan.top.is_weighted and is_shared(plan, chunk, box)) for box in boxes]


def _sending_bytes(plan: SubchunkPlan, outputs: Kinds, wanted: Vec, writing_bytes: int) -> int:
    top = plan.typical_top
    if plan.top.mode == "defer":
        return _bytes(wanted, outputs) + writing_bytes
    alone, sent = 0, list[int]()
    for owner in plan.owners_of(top):
        pieces = _piece_bytes(plan, outputs, top, owner)
        if plan.tops_of(owner) == [top]:
            alone = max(alone, *pieces)
        else:
            sent += pieces
    written = alone + writing_bytes if alone else 0
    # A piece, the same in order, and what is collected of others until it goes to the pack.
    largest = max(sent, default=0)
    return max(written, 2 * largest) + min(sum(sent), HELD_BYTES + largest)


def _reduction_bytes(plan: SubchunkPlan, outputs: Kinds, owner: int, writing_bytes: int) -> int:
    tops = plan.tops_of(owner)
    pieces = sum(sum(_piece_bytes(plan, outputs, top, owner)) for top in tops)
    if len(tops) <= 1 or any(plan.gap):
        return pieces + writing_bytes
    shape = plan.owner_box(owner).shape
    total = _bytes(shape, outputs, sums=plan.top.is_weighted)
    rounded = [kind for kind in outputs if plan.top.is_weighted and np.dtype(kind.data_type).kind != "f"]
    return pieces + total + max(_bytes(shape, rounded), writing_bytes - pieces)
