"""A half-open box of voxels."""

from __future__ import annotations

from typing import NamedTuple

from beam_volumes.geometry.vec import Vec


class Box(NamedTuple):
    """The voxels from `start` up to, not including, `stop`; XYZ order, in the absolute voxel grid of one mip."""

    start: Vec
    stop: Vec

    @classmethod
    def of_shape(cls, shape: Vec, offset: Vec = (0, 0, 0)) -> Box:
        """Return the box of `shape` voxels whose first voxel is `offset`."""
        return cls(offset, (offset[0] + shape[0], offset[1] + shape[1], offset[2] + shape[2]))

    @classmethod
    def of_lists(cls, values: list[list[int]]) -> Box:
        """Return the box that JSON has made two lists of."""
        (x0, y0, z0), (x1, y1, z1) = values
        return cls((x0, y0, z0), (x1, y1, z1))

    @property
    def shape(self) -> Vec:
        """Voxels along x, y and z; 0 where the box is empty."""
        (x0, y0, z0), (x1, y1, z1) = self
        return (max(x1 - x0, 0), max(y1 - y0, 0), max(z1 - z0, 0))

    @property
    def voxels(self) -> int:
        """The number of voxels in the box."""
        x, y, z = self.shape
        return x * y * z

    def with_side(self, axis: int, start: int, stop: int) -> Box:
        """Return the box with another side along one axis."""
        first, last = list(self.start), list(self.stop)
        first[axis], last[axis] = start, stop
        return Box((first[0], first[1], first[2]), (last[0], last[1], last[2]))

    def intersection(self, other: Box) -> Box:
        """Return the voxels in both; a box of no voxels where they do not meet."""
        (ax, ay, az), (bx, by, bz) = self
        (cx, cy, cz), (dx, dy, dz) = other
        return Box((max(ax, cx), max(ay, cy), max(az, cz)), (min(bx, dx), min(by, dy), min(bz, dz)))

    def contains(self, other: Box) -> bool:
        """Whether every voxel of `other` is in this box."""
        return all(a <= c and d <= b for a, b, c, d in zip(*self, *other, strict=True))

    def translated(self, offset: Vec) -> Box:
        """Return the box moved by `offset` voxels."""
        (x0, y0, z0), (x1, y1, z1) = self
        x, y, z = offset
        return Box((x0 + x, y0 + y, z0 + z), (x1 + x, y1 + y, z1 + z))

    def slices(self, origin: Vec = (0, 0, 0)) -> tuple[slice, slice, slice]:
        """Return the slices of this box in an array (XYZ first) whose first voxel is `origin`."""
        (x0, y0, z0), (x1, y1, z1) = self
        x, y, z = origin
        return (slice(x0 - x, x1 - x), slice(y0 - y, y1 - y), slice(z0 - z, z1 - z))

    def __str__(self) -> str:
        """Return `x0,y0,z0,x1,y1,z1`, the form that `--bounds` takes."""
        return ",".join(str(n) for n in (*self.start, *self.stop))
