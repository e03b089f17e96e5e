"""Where a layer stores what is written to it: its processors of indices, found out by asking them.

Along each axis a stored coordinate must be a multiple of the written one and an offset: then the boxes that the volume
stores as one object are boxes of what is written, too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec, Vec3D, VolumetricIndex
from beam_volumes.geometry.exact import exact
from beam_volumes.layers import JointIndexDataProcessor, VolumetricLayer
from beam_volumes.reading_plan import Lattice

_UNIT = 2**10 * 3**4 * 5**3 * 7 * 11 * 13
"""Voxels of a probe are a multiple of it: whole at any resolution whose ratio to theirs is of small numbers."""

_PROBES = ((0, 1), (2, 5), (-3, -1))
"""Start and stop of the boxes that processors are asked about: two tell the map, the third proves it."""


class AxisMap(NamedTuple):
    """Along one axis, the stored coordinate of voxel n is scale * n + offset."""

    scale: Fraction
    offset: Fraction

    def stored(self, voxel: int) -> Fraction:
        """Return where a voxel begins, in stored voxels."""
        return self.scale * voxel + self.offset

    def meeting(self, cell: int, origin: int) -> tuple[int, int] | None:
        """Return (cell, origin) of the smallest cells of whole voxels whose edges are edges of stored cells.

        None where the edges never meet.
        """
        common = math.lcm(self.scale.denominator, self.offset.denominator)
        step, period = int(self.scale * common), cell * common
        wanted = int((origin - self.offset) * common)
        divisor = math.gcd(step, period)
        if wanted % divisor:
            return None
        size = period // divisor
        return size, wanted // divisor * pow(step // divisor, -1, size) % size


@dataclass(frozen=True)
class IndexMap:
    """From voxels as they are written to those that are stored.

    Attributes:
        axes: along x, y and z.
        resolution: of stored voxels, nm.
        first_changing: the place, in `write_procs`, of the first processor that changes the index; their number where
            none does.

    """

    axes: tuple[AxisMap, AxisMap, AxisMap]
    resolution: Vec3D[float]
    first_changing: int

    def cells(self, stored: Lattice) -> Lattice | None:
        """Return the smallest cells of whole voxels with edges on edges of stored cells; None where there are none."""
        found = [a.meeting(c, o) for a, c, o in zip(self.axes, stored.cell, stored.origin, strict=True)]
        sizes, origins = [f[0] for f in found if f], [f[1] for f in found if f]
        return Lattice(_vec(sizes), _vec(origins)) if len(sizes) == 3 else None

    def is_whole(self, box: Box) -> bool:
        """Whether a box begins and ends between stored voxels."""
        corners = zip(self.axes, box.start, box.stop, strict=True)
        return all(axis.stored(n).denominator == 1 for axis, *sides in corners for n in sides)

    def stored(self, box: Box) -> Box:
        """Return the stored voxels of a box, and those that it has a part of."""
        start = [math.floor(axis.stored(n)) for axis, n in zip(self.axes, box.start, strict=True)]
        stop = [math.ceil(axis.stored(n)) for axis, n in zip(self.axes, box.stop, strict=True)]
        return Box(_vec(start), _vec(stop))

    def covering(self, stored: Box, grain: Lattice) -> Box:
        """Return the smallest box of whole cells of `grain` that holds stored voxels."""
        low = [(n - axis.offset) / axis.scale for axis, n in zip(self.axes, stored.start, strict=True)]
        high = [(n - axis.offset) / axis.scale for axis, n in zip(self.axes, stored.stop, strict=True)]
        edges = [
            (o + math.floor((a - o) / c) * c, o + math.ceil((b - o) / c) * c)
            for a, b, c, o in zip(low, high, grain.cell, grain.origin, strict=True)
        ]
        return Box(_vec([a for a, _ in edges]), _vec([b for _, b in edges]))


def index_map(layer: VolumetricLayer, resolution: Sequence[float]) -> IndexMap:
    """Return where a layer stores what is written to it at a resolution, nm per voxel.

    Raises:
        OptionError: its processors make of a box another that is not the same, moved and scaled.

    """
    probes = [_probe(layer, resolution, low * _UNIT, high * _UNIT) for low, high in _PROBES]
    found = probes[0][0].resolution
    axes = [_axis_map([idx.bbox.sides[axis] for idx, _ in probes], exact(r)) for axis, r in enumerate(found)]
    x, y, z = axes if all(idx.resolution == found for idx, _ in probes) else (None, None, None)
    if x is None or y is None or z is None:
        raise OptionError(
            f"dst, {layer.name}: expected index_procs and write_procs that move and scale boxes, each by the same, "
            f"came others, which make of {_box_text(*_PROBES[0])} {probes[0][0].pformat()}, and of "
            f"{_box_text(*_PROBES[1])} {probes[1][0].pformat()} at resolution {probes[1][0].resolution}: leave them "
            "out, and write to a layer of the boxes that are processed"
        )
    return IndexMap((x, y, z), found, min(first for _, first in probes))


def _probe(layer: VolumetricLayer, resolution: Sequence[float], low: int, high: int) -> tuple[VolumetricIndex, int]:
    """Return the index of what is written for a box, and the place of the first of write_procs that changes it."""
    # Some boxes need not be whole on the way; a box says exactly where it is, even so.
    idx = VolumetricIndex.from_coords([low] * 3, [high] * 3, resolution, allow_slice_rounding=True)
    for index_proc in layer.index_procs:
        idx = index_proc(idx)
    first = len(layer.write_procs)
    for place, proc in enumerate(layer.write_procs):
        if isinstance(proc, JointIndexDataProcessor):
            # A copy: what is prepared for data that never come must not stay.
            changed = copy.deepcopy(proc).process_index(idx, "write")
            if (changed.resolution, changed.bbox) != (idx.resolution, idx.bbox):
                first = min(first, place)
            idx = changed
    return idx, first


def _axis_map(sides: Sequence[tuple[int | Fraction, int | Fraction]], resolution: int | Fraction) -> AxisMap | None:
    """Return the map that the sides (nm) of the probes' boxes show; None where they show none."""
    before = [n * _UNIT for probe in _PROBES for n in probe]
    after = [Fraction(n) / resolution for pair in sides for n in pair]
    scale = (after[2] - after[0]) / (before[2] - before[0])
    found = AxisMap(scale, after[0] - scale * before[0])
    return found if scale > 0 and all(found.stored(b) == a for b, a in zip(before, after, strict=True)) else None


def _box_text(low: int, high: int) -> str:
    return f"({low * _UNIT}, ...) - ({high * _UNIT}, ...)"


def _vec(numbers: Sequence[int]) -> Vec:
    x, y, z = numbers
    return (x, y, z)
