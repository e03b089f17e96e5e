"""How a volume is cut into chunks, these into smaller ones, and so on: boxes, ids and counts, in Python ints.

A plan has levels, the largest chunks first. A chunk of one level, padded by that level's blend and crop, is cut into
chunks of the next; each of these overlaps its neighbours by its own blend. Of what a chunk yields only what the levels
above keep is wanted: the rest, and the chunks that lie in it altogether, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from beam_volumes.blending import WEIGHTED
from beam_volumes.geometry import Box, Grid, Vec, added

Span = tuple[int, int]
"""From, and up to, not including, a voxel along one axis."""


class VoxelKind(NamedTuple):
    """What a voxel is: channels, and the name of their type."""

    channels: int
    data_type: str


class Level(NamedTuple):
    """One level of chunks; voxels of the destination, XYZ.

    Attributes:
        chunk: shape of a chunk without pads.
        crop: by how much it is padded for the function, and cropped thereafter.
        blend: by how much it overlaps each neighbour; twice that is the overlap.
        mode: one of `blending.MODES`.

    """

    chunk: Vec
    crop: Vec
    blend: Vec
    mode: str

    @property
    def overlaps(self) -> bool:
        """Whether chunks overlap."""
        return any(self.blend)

    @property
    def is_weighted(self) -> bool:
        """Whether voxels of chunks are weighted and summed."""
        return self.overlaps and self.mode in WEIGHTED

    @property
    def whole(self) -> Vec:
        """Shape of a chunk with its blend and crop."""
        x, y, z = (c + 2 * b + 2 * r for c, b, r in zip(self.chunk, self.blend, self.crop, strict=True))
        return (x, y, z)


class Chunk(NamedTuple):
    """A chunk of a level.

    Attributes:
        level: 0 for the largest.
        id: unique among the chunks of a level; that of its first chunk at the level below.
        box: without pads.
        region: whose chunks it and its neighbours are.
        wanted: what of the chunk with its blend is needed; never empty.

    """

    level: int
    id: int
    box: Box
    region: Box
    wanted: Box


class BottomChunk(NamedTuple):
    """A chunk that the function takes whole; voxels of the destination.

    Attributes:
        id: sequential from 0 over the whole run, x fastest within a chunk of the level above.
        box: with its blend: what is left once the crop is cut off.
        read_box: with its blend and crop: what the function reads, and yields.

    """

    id: int
    box: Box
    read_box: Box


@dataclass(frozen=True)
class SubchunkPlan:
    """How a run is cut into chunks; picklable, and the same on every machine.

    Attributes:
        bounds: whole chunks of the top level, with the gaps between them.
        levels: the largest chunks first.
        gap: voxels between the chunks of the top level, that stay untouched.
        owners: boxes of the output, each written once, whole, by the one element that owns it.

    """

    bounds: Box
    levels: tuple[Level, ...]
    gap: Vec
    owners: Grid

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: a plan travels with tasks."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def top(self) -> Level:
        """The level of the largest chunks."""
        return self.levels[0]

    @property
    def bottom(self) -> Level:
        """The level of the smallest chunks, which the function takes whole."""
        return self.levels[-1]

    @cached_property
    def shape(self) -> Vec:
        """Chunks of the top level along x, y and z."""
        x, y, z = (-(-n // (c + g)) for n, c, g in zip(self.bounds.shape, self.top.chunk, self.gap, strict=True))
        return (x, y, z)

    def __len__(self) -> int:
        """Return the number of chunks of the top level."""
        return math.prod(self.shape)

    @property
    def typical_top(self) -> int:
        """The index of a chunk of the top level that has neighbours at all sides, if there is one."""
        x, y, z = (n // 2 for n in self.shape)
        return x + self.shape[0] * (y + self.shape[1] * z)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """By level, the number of bottom chunks below one chunk; 1 for the bottom."""
        strides = [1]
        for upper, lower in zip(self.levels[-2::-1], self.levels[:0:-1], strict=True):
            strides.append(strides[-1] * math.prod(w // c for w, c in zip(upper.whole, lower.chunk, strict=True)))
        return tuple(reversed(strides))

    def sums(self, level: int) -> bool:
        """Whether what a chunk of `level` yields, not yet blended with its neighbours, is made of weighted sums."""
        return any(below.is_weighted for below in self.levels[level + 1 :])

    def top_chunk(self, index: int) -> Chunk:
        """Return a chunk of the top level; indexes are x fastest.

        Of what it yields that is wanted which lies in the bounds; all of it with mode defer, as nothing is reduced.
        """
        rest, x = divmod(index, self.shape[0])
        z, y = divmod(rest, self.shape[1])
        start = [
            s + i * (c + g) for s, i, c, g in zip(self.bounds.start, (x, y, z), self.top.chunk, self.gap, strict=True)
        ]
        box = Box.of_shape(self.top.chunk, (start[0], start[1], start[2]))
        padded = grown(box, self.top.blend)
        wanted = padded if self.top.mode == "defer" else padded.intersection(self.bounds)
        return Chunk(0, index * self.strides[0], box, self.bounds, wanted)

    def chunks_below(self, chunk: Chunk) -> Iterator[Chunk]:
        """Yield the chunks of the next level that hold what is wanted of `chunk`, x fastest."""
        upper, lower, level = self.levels[chunk.level], self.levels[chunk.level + 1], chunk.level + 1
        region = grown(chunk.box, added(upper.blend, upper.crop))
        cells = Grid(region, lower.chunk, region.start)
        for position in cells.positions_meeting(grown(chunk.wanted, lower.blend)):
            box = cells.box(position)
            wanted = grown(box, lower.blend).intersection(chunk.wanted)
            if wanted.voxels:
                number = chunk.id + cells.index(position) * self.strides[level]
                yield Chunk(level, number, box, region, wanted)

    def bottom_chunk(self, chunk: Chunk) -> BottomChunk:
        """Return what the function needs to know of a chunk of the bottom level."""
        box = grown(chunk.box, self.bottom.blend)
        return BottomChunk(chunk.id, box, grown(box, self.bottom.crop))

    def bottom_chunks(self, index: int) -> Iterator[BottomChunk]:
        """Yield the bottom chunks below a chunk of the top level, in the order in which their results are reduced."""
        return self._descend(self.top_chunk(index))

    def _descend(self, chunk: Chunk) -> Iterator[BottomChunk]:
        if chunk.level == len(self.levels) - 1:
            yield self.bottom_chunk(chunk)
            return
        for below in self.chunks_below(chunk):
            yield from self._descend(below)

    def count_bottom_chunks(self, index: int | None = None) -> int:
        """Return how many times the function runs for a chunk of the top level; without one, for all."""
        if index is None:
            return math.prod(sum(self._count(axis, i) for i in range(self.shape[axis])) for axis in range(3))
        rest, x = divmod(index, self.shape[0])
        return math.prod(self._count(axis, i) for axis, i in enumerate((x, *reversed(divmod(rest, self.shape[1])))))

    def _count(self, axis: int, position: int) -> int:
        """Return the number of bottom chunks along one axis of the chunk of the top level at `position`."""
        steps = tuple((level.chunk[axis], level.blend[axis], level.crop[axis]) for level in self.levels)
        chunk, blend, _ = steps[0]
        start = position * (chunk + self.gap[axis])
        wanted = (-blend, chunk + blend)
        if self.top.mode != "defer":
            wanted = (max(wanted[0], -start), min(wanted[1], self.bounds.shape[axis] - start))
        return _count_below(steps, wanted)

    def owners_of(self, index: int) -> Iterator[int]:
        """Yield the indexes of the output boxes that a chunk of the top level has voxels for."""
        chunk = self.top_chunk(index)
        for position in self.owners.positions_meeting(chunk.wanted):
            yield self.owners.index(position)

    def owner_box(self, owner: int) -> Box:
        """Return the voxels of an output box."""
        return self.owners.box(self.owners.position(owner))

    def tops_of(self, owner: int) -> list[int]:
        """Return the indexes of the chunks of the top level that have voxels for an output box, in order."""
        x, y, z = (self._tops_along(axis, span) for axis, span in enumerate(zip(*self.owner_box(owner), strict=True)))
        nx, ny, _ = self.shape
        return [i + nx * (j + ny * k) for k in z for j in y for i in x]

    def count_owners(self) -> int:
        """Return how many output boxes have voxels of chunks; the others lie in gaps, and are not written."""
        if not any(self.gap):
            return len(self.owners)
        counts = []
        for axis, (first, cell, count) in enumerate(
            zip(self.owners.first, self.owners.cell, self.owners.shape, strict=True)
        ):
            spans = ((first + i * cell, first + (i + 1) * cell) for i in range(count))
            counts.append(sum(bool(self._tops_along(axis, span)) for span in spans))
        return math.prod(counts)

    def _tops_along(self, axis: int, span: Span) -> range:
        """Return the positions of the chunks of the top level that have voxels in a span, along one axis."""
        first, chunk, blend = self.bounds.start[axis], self.top.chunk[axis], self.top.blend[axis]
        step = chunk + self.gap[axis]
        low = (span[0] - first - chunk - blend) // step + 1
        high = -((first - blend - span[1]) // step)
        return range(max(low, 0), min(high, self.shape[axis]))


def grown(box: Box, pad: Vec) -> Box:
    """Return the box with `pad` voxels more at each side."""
    x, y, z = pad
    return Box(added(box.start, (-x, -y, -z)), added(box.stop, pad))


@lru_cache(maxsize=4096)
def _count_below(steps: tuple[tuple[int, int, int], ...], wanted: Span) -> int:
    """Return the number of bottom chunks that hold what is wanted of a chunk, along one axis; it starts at 0."""
    if len(steps) == 1:
        return 1
    (upper, blend, crop), (chunk, pad, _) = steps[:2]
    total = 0
    for start in range(-blend - crop, upper + blend + crop, chunk):
        low, high = max(start - pad, wanted[0]), min(start + chunk + pad, wanted[1])
        if low < high:
            total += _count_below(steps[1:], (low - start, high - start))
    return total
