"""A box in space cut into chunks at regular distances, each made when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from beam_volumes.errors import GeometryError
from beam_volumes.geometry.bbox3d import BBox3D
from beam_volumes.geometry.exact import Exact, Number, exacts, positives, quotient
from beam_volumes.geometry.sides import Side, kept_sides
from beam_volumes.geometry.vec import Vec

MODES = ("shrink", "expand", "exact")


class _Axis(NamedTuple):
    """The chunks along one axis, all in the unit of the box: `number` of them from `first`, cut off at `sides`."""

    first: Exact
    stride: Exact
    chunk: Exact
    number: int
    sides: Side

    def chunk_sides(self, at: int) -> Side:
        start = self.first + at * self.stride
        return max(start, self.sides[0]), min(start + self.chunk, self.sides[1])


@dataclass(frozen=True)
class BBoxStrider:
    """The chunks of a box, `stride` apart, by number, x fastest; any number of them in no memory.

    Along each axis chunks begin at multiples of `stride` from the start of the box, or from
    `stride_start_offset_in_unit`. `expand` takes as many as cover the box, so that the last may reach beyond it, and
    the first begin before it; `shrink` those that fit the box, of which there may be none; `exact` all that meet the
    box, cut off where it ends, and needs a stride of `chunk_size`.

    `max_superchunk_size` joins neighbours to chunks of as many whole ones as it holds, from the first whole one on;
    the last ones are smaller where nothing is left to join. It needs a stride of `chunk_size`, too.

    >>> strider = BBoxStrider(
    ...     bbox=BBox3D.from_coords((0, 0, 0), (100, 60, 3), resolution=(16, 16, 40)),
    ...     resolution=(16, 16, 40),
    ...     chunk_size=(40, 40, 1),
    ...     stride=(40, 40, 1),
    ...     mode="exact",
    ... )
    >>> strider.num_chunks, strider.shape
    (18, (3, 2, 3))
    >>> [strider.get_nth_chunk_bbox(n).pformat((16, 16, 40)) for n in (0, 2)]
    ['(0.0, 0.0, 0.0) - (40.0, 40.0, 1.0)', '(80.0, 0.0, 0.0) - (100.0, 40.0, 1.0)']

    A GeometryError where the arguments contradict each other or are no sizes.

    Attributes:
        bbox: what is cut into chunks.
        resolution: of `chunk_size`, `stride` and `max_superchunk_size`, units of the box per voxel.
        chunk_size: voxels along x, y and z.
        stride: voxels from the start of one chunk to that of the next.
        max_superchunk_size: voxels; at least a chunk.
        stride_start_offset_in_unit: a point where a chunk begins, or would begin if there were one, in the unit of the
            box; None for the start of the box.
        mode: shrink, expand or exact.

    """

    bbox: BBox3D
    resolution: Sequence[float]
    chunk_size: Sequence[int]
    stride: Sequence[int]
    max_superchunk_size: Sequence[int] | None = None
    stride_start_offset_in_unit: Sequence[Number] | None = None
    mode: str = "expand"
    axes: tuple[_Axis, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the arguments, and count the chunks."""
        if self.mode not in MODES:
            raise GeometryError(f"mode: expected one of {', '.join(MODES)}, came {self.mode!r}: choose one")
        chunk, stride = _whole(self.chunk_size, "chunk_size"), _whole(self.stride, "stride")
        joined = self._joined(chunk)
        for needs, name in (
            (self.mode == "exact", "exact"),
            (self.max_superchunk_size is not None, "max_superchunk_size"),
        ):
            if needs and chunk != stride:
                raise GeometryError(
                    f"mode: expected a stride of chunk_size with {name}, came {self.stride!r} and "
                    f"{self.chunk_size!r}: give the same, or choose shrink or expand without superchunks"
                )
        offset = self.stride_start_offset_in_unit
        starts = [a for a, _ in self.bbox.sides] if offset is None else exacts(offset, "stride_start_offset_in_unit")
        scale = positives(self.resolution, "resolution")
        found = [
            self._axis(side, start, (c * r, s * r), n)
            for side, start, c, s, r, n in zip(self.bbox.sides, starts, chunk, stride, scale, joined, strict=True)
        ]
        object.__setattr__(self, "axes", tuple(found))

    def _joined(self, chunk: tuple[int, int, int]) -> Vec:
        """Return how many chunks are joined along each axis."""
        if self.max_superchunk_size is None:
            return (1, 1, 1)
        x, y, z = (m // c for m, c in zip(_whole(self.max_superchunk_size, "max_superchunk_size"), chunk, strict=True))
        if min(x, y, z) < 1:
            raise GeometryError(
                f"max_superchunk_size: expected at least chunk_size, {self.chunk_size!r}, came "
                f"{self.max_superchunk_size!r}: give more, or None"
            )
        return (x, y, z)

    def _axis(self, side: Side, offset: Exact, sizes: tuple[Exact, Exact], joined: int) -> _Axis:
        """Return the chunks along an axis: of a side of the box, where one begins, chunk and stride."""
        (low, high), (chunk, stride) = side, sizes
        inside = self.mode == "shrink"
        first = offset + (_ceil if inside else _floor)(low - offset, stride) * stride
        if self.mode == "exact":
            return _clipped(side, first, chunk, joined)
        steps = (_floor if inside else _ceil)(high - chunk - first, stride) + 1
        count = max(steps, 0 if inside else 1)
        covered = (first, first + max(count - 1, 0) * stride + chunk)
        if joined > 1 and count:
            return _clipped(covered, first, chunk, joined)
        return _Axis(first, stride, chunk, count, covered)

    @property
    def shape(self) -> Vec:
        """Chunks along x, y and z."""
        x, y, z = (axis.number for axis in self.axes)
        return (x, y, z)

    @property
    def num_chunks(self) -> int:
        """The number of chunks."""
        return math.prod(self.shape)

    def get_all_chunk_bboxes(self) -> list[BBox3D]:
        """Return all chunks, x fastest."""
        return [self.get_nth_chunk_bbox(n) for n in range(self.num_chunks)]

    def get_nth_chunk_bbox(self, n: int) -> BBox3D:
        """Return chunk number `n`, from 0; an IndexError where there is none."""
        if not 0 <= n < self.num_chunks:
            raise IndexError(f"expected the number of a chunk from 0 to {self.num_chunks - 1}, came {n}")
        rest, x = divmod(int(n), self.shape[0])
        z, y = divmod(rest, self.shape[1])
        sides = (axis.chunk_sides(at) for axis, at in zip(self.axes, (x, y, z), strict=True))
        return replace(self.bbox, bounds=kept_sides(sides))


def _clipped(side: Side, first: Exact, chunk: Exact, joined: int) -> _Axis:
    """Return the chunks that meet a side, cut off at its ends, `joined` of them at a time.

    `first` is where the first one begins, which may be before the side does: then it is joined with none.
    """
    low, high = side
    size = chunk * joined
    if first < low:
        first += chunk - size
    count = _ceil(high - first, size) if high > low else 0
    return _Axis(first, size, size, count, side)


def _whole(values: Sequence[int], what: str) -> tuple[int, int, int]:
    found = positives(values, what)
    if not all(isinstance(n, int) for n in found):
        raise GeometryError(f"expected whole voxels as {what}, came {values!r}: give whole numbers")
    x, y, z = (int(n) for n in found)
    return (x, y, z)


def _floor(a: Exact, b: Exact) -> int:
    return math.floor(quotient(a, b))


def _ceil(a: Exact, b: Exact) -> int:
    return math.ceil(quotient(a, b))
