"""A box cut into equal cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from beam_volumes.geometry.box import Box
from beam_volumes.geometry.vec import Vec


@dataclass(frozen=True)
class Grid:
    """The cells of shape `cell` that hold `bounds`, each clipped to it; cell boundaries go through `origin`.

    Cells have a position (XYZ, from 0 at the first cell of the bounds) and an index (x fastest).
    """

    bounds: Box
    cell: Vec
    origin: Vec

    @cached_property
    def first(self) -> Vec:
        """The start of the cell at position (0, 0, 0), before clipping."""
        x, y, z = (o + (s - o) // c * c for s, o, c in zip(self.bounds.start, self.origin, self.cell, strict=True))
        return (x, y, z)

    @cached_property
    def shape(self) -> Vec:
        """Cells along x, y and z."""
        x, y, z = (-((f - e) // c) for f, e, c in zip(self.first, self.bounds.stop, self.cell, strict=True))
        return (x, y, z)

    def __len__(self) -> int:
        """Return the number of cells."""
        x, y, z = self.shape
        return x * y * z

    def position(self, index: int) -> Vec:
        """Return the position of the cell with this index."""
        rest, x = divmod(index, self.shape[0])
        z, y = divmod(rest, self.shape[1])
        return (x, y, z)

    def index(self, position: Vec) -> int:
        """Return the index of the cell at this position."""
        x, y, z = position
        return x + self.shape[0] * (y + self.shape[1] * z)

    def box(self, position: Vec) -> Box:
        """Return the voxels of the cell at `position` that lie in the bounds."""
        return self.whole_box(position).intersection(self.bounds)

    def whole_box(self, position: Vec) -> Box:
        """Return the voxels of the cell at `position`, not clipped to the bounds."""
        (fx, fy, fz), (cx, cy, cz), (x, y, z) = self.first, self.cell, position
        return Box.of_shape(self.cell, (fx + x * cx, fy + y * cy, fz + z * cz))

    def positions_meeting(self, box: Box) -> Iterator[Vec]:
        """Yield the positions of the cells that share a voxel with `box`, x fastest."""
        box = box.intersection(self.bounds)
        if not box.voxels:
            return
        ranges = [
            range((s - f) // c, (e - 1 - f) // c + 1)
            for s, e, f, c in zip(box.start, box.stop, self.first, self.cell, strict=True)
        ]
        for z, y, x in itertools.product(*reversed(ranges)):
            yield (x, y, z)
