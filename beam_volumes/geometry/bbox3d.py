"""A half-open box in space, with no voxels of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from beam_volumes.errors import GeometryError
from beam_volumes.geometry.exact import (
    AXES,
    Number,
    difference,
    exact,
    exacts,
    kept,
    nearest,
    positives,
    product,
    quotient,
    text,
    three,
)
from beam_volumes.geometry.sides import (
    NOWHERE,
    Bounds,
    Side,
    SnapMode,
    both_sides,
    check_axes,
    checked,
    kept_sides,
    snapped_sides,
)
from beam_volumes.geometry.vec3d import Vec3D

Slices3D = tuple[slice, slice, slice]

UNIT = "nm"
ONE = (1, 1, 1)
EPSILON = 1e-4


@dataclass(frozen=True)
class BBox3D:
    """The points from `start` up to, not including, `end`; immutable, hashable, equal where bounds and unit are.

    Coordinates, sizes and pads are in voxels of the `resolution` (`unit` per voxel) that stands beside them as an
    argument; without one they are in `unit`. Every method that changes a box returns a new one. Bounds are exact: a
    float stands for the decimal that it is printed as, and what is no decimal, such as a third of 10 nm, is kept as a
    Fraction.

    A box with an end before its start, or of numbers that are not finite, is a GeometryError.

    `pprint_px_resolution` is the resolution of what `pformat` prints, and of nothing else.

    >>> BBox3D.from_coords(start_coord=(1000, 1000, 2000), end_coord=(2000, 2000, 2100), resolution=(64, 64, 40))
    BBox3D(bounds=((64000, 128000), (64000, 128000), (80000, 84000)), unit='nm', pprint_px_resolution=(1, 1, 1))
    """

    bounds: Bounds
    unit: str = UNIT
    pprint_px_resolution: Sequence[float] = field(default=ONE, compare=False)

    def __post_init__(self) -> None:
        """Take lists and numbers of numpy too, and refuse what is no box."""
        object.__setattr__(self, "bounds", checked(self.bounds, self.unit))
        positives(self.pprint_px_resolution, "pprint_px_resolution")
        object.__setattr__(self, "pprint_px_resolution", tuple(nearest(kept(r)) for r in self.pprint_px_resolution))

    @classmethod
    def from_slices(cls, slices: Slices3D, resolution: Sequence[float] = ONE, unit: str = UNIT) -> BBox3D:
        """Return the box of three slices, in voxels of `resolution`; each has a start and a stop, and no step.

        >>> BBox3D.from_slices((slice(0, 10), slice(5, 10), slice(0, 1)), resolution=(4, 4, 40)).shape
        Vec3D(40, 20, 40)
        """
        found = three(slices, "slices")
        for axis, part in zip(AXES, found, strict=True):
            if not isinstance(part, slice) or part.start is None or part.stop is None or part.step not in (None, 1):
                raise GeometryError(f"expected a slice along {axis} with a start, a stop and no step, got {part}")
        parts = [part for part in found if isinstance(part, slice)]
        return cls.from_coords([p.start for p in parts], [p.stop for p in parts], resolution, unit)

    @classmethod
    def from_coords(
        cls,
        start_coord: Sequence[float],
        end_coord: Sequence[float],
        resolution: Sequence[float] = ONE,
        unit: str = UNIT,
    ) -> BBox3D:
        """Return the box from `start_coord` up to, not including, `end_coord`, in voxels of `resolution`."""
        positives(resolution, "resolution")
        triples = (three(start_coord, "start_coord"), three(end_coord, "end_coord"), three(resolution, "resolution"))
        x, y, z = ((product(start, r), product(end, r)) for start, end, r in zip(*triples, strict=True))
        return cls((x, y, z), unit)

    @classmethod
    def from_points(
        cls,
        points: Sequence[Sequence[float]],
        resolution: Sequence[float] = ONE,
        unit: str = UNIT,
        epsilon: float = EPSILON,
    ) -> BBox3D:
        """Return the smallest box with all of `points` (in voxels of `resolution`) in it.

        `epsilon`, in `unit`, is added to its ends, since a box does not hold the points on its end.

        >>> BBox3D.from_points([(7, 0, 2), (-1, 9, 2)]).bounds
        ((-1.0, 7.0001), (0.0, 9.0001), (2.0, 2.0001))
        """
        if not points:
            raise GeometryError("expected at least one point to make a box of, got none")
        scale = positives(resolution, "resolution")
        columns = zip(*(exacts(point, "a point") for point in points), strict=True)
        ranges = [(min(c) * r, max(c) * r + exact(epsilon)) for c, r in zip(columns, scale, strict=True)]
        return cls(kept_sides(ranges), unit)

    @property
    def ndim(self) -> int:
        """The number of axes: 3."""
        return 3

    @property
    def start(self) -> Vec3D[float]:
        """The lowest coordinates, in `unit`; where they are no decimals, the nearest floats."""
        return Vec3D(*(nearest(a) for a, _ in self.bounds))

    @property
    def end(self) -> Vec3D[float]:
        """The first coordinates beyond the box, in `unit`."""
        return Vec3D(*(nearest(b) for _, b in self.bounds))

    @property
    def shape(self) -> Vec3D[float]:
        """The size along x, y and z, in `unit`."""
        return Vec3D(*(difference(b, a) for a, b in self.bounds))

    @property
    def sides(self) -> tuple[Side, ...]:
        """The start and the end along each axis as what is calculated with: ints, or fractions."""
        return tuple((exact(a), exact(b)) for a, b in self.bounds)

    def _of(self, sides: Iterable[Side]) -> BBox3D:
        return replace(self, bounds=kept_sides(sides))

    @property
    def _nothing(self) -> bool:
        return all(a == b == 0 for a, b in self.bounds)

    def _scaled(self, resolution: Sequence[float]) -> tuple[Side, ...]:
        """Return the sides in voxels of `resolution`."""
        scale = positives(resolution, "resolution")
        return tuple((quotient(a, r), quotient(b, r)) for (a, b), r in zip(self.sides, scale, strict=True))

    def get_slice(self, dim: int, resolution: Sequence[float], allow_slice_rounding: bool = False) -> slice:
        """Return the voxels of `resolution` along axis `dim` (0, 1, 2: x, y, z) as a slice of ints.

        A GeometryError where the box does not start and end between voxels, unless `allow_slice_rounding`: then each
        side goes to the nearest voxel boundary, and one that is half-way to the even one, as Python rounds.

        >>> BBox3D.from_coords((0, 0, 120), (64, 64, 360)).get_slice(2, resolution=(8, 8, 40))
        slice(3, 9, None)
        """
        check_axes(dim)
        start, end = self._scaled(resolution)[dim]
        low, high = round(start), round(end)
        if (low, high) != (start, end) and not allow_slice_rounding:
            shown = ", ".join(text(exact(r)) for r in resolution)
            raise GeometryError(
                f"expected whole voxels along {AXES[dim]} at resolution ({shown}), got {text(start)} to {text(end)}:"
                f" use {math.floor(start)} to {math.ceil(end)} (`snapped` to the resolution with mode 'expand'),"
                f" or allow_slice_rounding=True, which takes {low} to {high}"
            )
        return slice(low, high)

    def to_slices(self, resolution: Sequence[float], allow_slice_rounding: bool = False) -> Slices3D:
        """Return the voxels of `resolution` along x, y and z as slices of ints; see `get_slice`.

        >>> BBox3D.from_coords((0, 0, 120), (64, 64, 360)).to_slices(resolution=(8, 4, 40))
        (slice(0, 8, None), slice(0, 16, None), slice(3, 9, None))
        """
        x, y, z = (self.get_slice(dim, resolution, allow_slice_rounding) for dim in range(3))
        return (x, y, z)

    def padded(self, pad: Sequence[float | Sequence[float]], resolution: Sequence[float] = ONE) -> BBox3D:
        """Return the box with `pad` voxels of `resolution` more on both sides, or a pair (start, end) for an axis.

        >>> BBox3D.from_coords((0, 0, 0), (10, 10, 10)).padded((1, (2, 3), 0), resolution=(4, 4, 40)).bounds
        ((-4.0, 14.0), (-8.0, 22.0), (0.0, 10.0))
        """
        return self._grown(both_sides(pad, "pad"), resolution)

    def cropped(self, crop: Sequence[float | Sequence[float]], resolution: Sequence[float] = ONE) -> BBox3D:
        """Return the box with `crop` voxels of `resolution` less on both sides, or a pair (start, end) for an axis."""
        return self._grown([(-low, -high) for low, high in both_sides(crop, "crop")], resolution)

    def _grown(self, pads: Iterable[Side], resolution: Sequence[float]) -> BBox3D:
        axes = zip(self.sides, pads, positives(resolution, "resolution"), strict=True)
        return self._of((a - low * r, b + high * r) for (a, b), (low, high), r in axes)

    def split(self, num_splits: Sequence[int]) -> list[BBox3D]:
        """Return the box cut into `num_splits` equal parts along x, y and z; z is fastest.

        >>> [part.bounds[1:] for part in BBox3D.from_coords((0, 0, 0), (4, 6, 5)).split((1, 2, 2))]
        [((0.0, 3.0), (0.0, 2.5)), ((0.0, 3.0), (2.5, 5.0)), ((3.0, 6.0), (0.0, 2.5)), ((3.0, 6.0), (2.5, 5.0))]
        """
        counts = positives(num_splits, "num_splits")
        if not all(isinstance(n, int) for n in counts):
            raise GeometryError(f"expected whole numbers as num_splits, got {num_splits!r}")
        edges = [
            [a + quotient((b - a) * i, n) for i in range(int(n) + 1)]
            for (a, b), n in zip(self.sides, counts, strict=True)
        ]
        return [self._of(sides) for sides in itertools.product(*(itertools.pairwise(e) for e in edges))]

    def translated(self, offset: Sequence[float], resolution: Sequence[float] = ONE) -> BBox3D:
        """Return the box moved by `offset` voxels of `resolution`."""
        return self._moved(offset, resolution, 1, 1)

    def translated_start(self, offset: Sequence[float], resolution: Sequence[float] = ONE) -> BBox3D:
        """Return the box with its start moved by `offset` voxels of `resolution`, and its end where it is."""
        return self._moved(offset, resolution, 1, 0)

    def translated_end(self, offset: Sequence[float], resolution: Sequence[float] = ONE) -> BBox3D:
        """Return the box with its end moved by `offset` voxels of `resolution`, and its start where it is."""
        return self._moved(offset, resolution, 0, 1)

    def _moved(self, offset: Sequence[float], resolution: Sequence[float], start: int, end: int) -> BBox3D:
        axes = zip(self.sides, exacts(offset, "offset"), positives(resolution, "resolution"), strict=True)
        return self._of((a + start * o * r, b + end * o * r) for (a, b), o, r in axes)

    def with_start(self, start: Sequence[float], resolution: Sequence[float] = ONE) -> BBox3D:
        """Return the box from `start`, in voxels of `resolution`, to its own end."""
        starts = BBox3D.from_coords(start, start, resolution).bounds
        return self._with_bounds((a, b) for (a, _), (_, b) in zip(starts, self.bounds, strict=True))

    def with_end(self, end: Sequence[float], resolution: Sequence[float] = ONE) -> BBox3D:
        """Return the box from its own start to `end`, in voxels of `resolution`."""
        ends = BBox3D.from_coords(end, end, resolution).bounds
        return self._with_bounds((a, b) for (a, _), (_, b) in zip(self.bounds, ends, strict=True))

    def _with_bounds(self, bounds: Iterable[tuple[Number, Number]]) -> BBox3D:
        x, y, z = bounds
        return replace(self, bounds=(x, y, z))

    def transposed(self, dim0: int, dim1: int, local: bool = False) -> BBox3D:
        """Return the box with two axes exchanged; `local`: only their sizes are, and the start stays where it is.

        >>> BBox3D(((10, 14), (20, 26), (0, 9))).transposed(0, 1).bounds
        ((20, 26), (10, 14), (0, 9))
        >>> BBox3D(((10, 14), (20, 26), (0, 9))).transposed(0, 1, local=True).bounds
        ((10.0, 16.0), (20.0, 24.0), (0.0, 9.0))
        """
        check_axes(dim0, dim1)
        order = [0, 1, 2]
        order[dim0], order[dim1] = dim1, dim0
        if not local:
            return self._with_bounds(self.bounds[i] for i in order)
        sizes = [b - a for a, b in self.sides]
        return self._of((a, a + sizes[i]) for (a, _), i in zip(self.sides, order, strict=True))

    def snapped(self, grid_offset: Sequence[Number], grid_size: Sequence[Number], mode: SnapMode) -> BBox3D:
        """Return the box with its sides on a grid of cells of `grid_size` through `grid_offset`, both in `unit`.

        `mode`: `expand` gives the smallest box of whole cells that holds this one; `shrink` the largest that this one
        holds, and where it holds no cell the box of no size at (0, 0, 0); `floor` moves both sides down.

        >>> box = BBox3D(((5, 70), (0, 64), (-3, 41)))
        >>> box.snapped((0, 0, 1), (32, 32, 10), "expand").bounds
        ((0.0, 96.0), (0.0, 64.0), (-9.0, 41.0))
        >>> box.snapped((0, 0, 1), (32, 32, 10), "shrink").bounds
        ((32.0, 64.0), (0.0, 64.0), (1.0, 41.0))
        """
        return replace(self, bounds=snapped_sides(self.sides, grid_offset, grid_size, mode))

    def aligned(self, other: BBox3D) -> tuple[bool, ...]:
        """Whether the sides are those of `other`: start and end of x, of y, of z."""
        self._check_unit(other)
        pairs = zip(self.bounds, other.bounds, strict=True)
        return tuple(a == b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))

    def contained_in(self, other: BBox3D) -> bool:
        """Whether no side is beyond that of `other`; the box of no size at (0, 0, 0) is contained in all."""
        self._check_unit(other)
        pairs = zip(self.sides, other.sides, strict=True)
        return self._nothing or all(c <= a and b <= d for (a, b), (c, d) in pairs)

    def intersects(self, other: BBox3D) -> bool:
        """Whether the two have some volume in common; boxes that only touch have not."""
        self._check_unit(other)
        pairs = zip(self.sides, other.sides, strict=True)
        return all(max(a, c) < min(b, d) for (a, b), (c, d) in pairs)

    def intersection(self, other: BBox3D) -> BBox3D:
        """Return what the two have in common; where they do not intersect, the box of no size at (0, 0, 0).

        >>> box = BBox3D.from_coords((0, 0, 0), (10, 10, 10))
        >>> box.intersection(box.translated((4, 0, 0))).bounds
        ((4.0, 10), (0, 10), (0, 10))
        """
        if not self.intersects(other):
            return replace(self, bounds=NOWHERE)
        pairs = zip(self.bounds, other.bounds, strict=True)
        return self._with_bounds((max(a, c, key=exact), min(b, d, key=exact)) for (a, b), (c, d) in pairs)

    def supremum(self, other: BBox3D) -> BBox3D:
        """Return the smallest box that contains both; the box of no size at (0, 0, 0) adds nothing to the other."""
        self._check_unit(other)
        if self._nothing or other._nothing:
            return replace(self, bounds=(other if self._nothing else self).bounds)
        pairs = zip(self.bounds, other.bounds, strict=True)
        return self._with_bounds((min(a, c, key=exact), max(b, d, key=exact)) for (a, b), (c, d) in pairs)

    def contains(self, point: Sequence[float], resolution: Sequence[float] = ONE) -> bool:
        """Whether `point`, in voxels of `resolution`, is in the box: on its start it is, on its end it is not."""
        axes = zip(self.sides, exacts(point, "point"), positives(resolution, "resolution"), strict=True)
        return all(a <= p * r < b for (a, b), p, r in axes)

    def pformat(self, resolution: Sequence[float] | None = None) -> str:
        """Return start and end as floats, in voxels of `resolution`, or else of `pprint_px_resolution`.

        >>> BBox3D.from_coords((0, 0, 0), (20, 28, 330)).pformat((4, 4, 30))
        '(0.0, 0.0, 0.0) - (5.0, 7.0, 11.0)'
        """
        sides = self._scaled(self.pprint_px_resolution if resolution is None else resolution)
        start, end = (Vec3D(*(float(n) for n in point)).pformat() for point in zip(*sides, strict=True))
        return f"{start} - {end}"

    def __mul__(self, factor: Vec3D[float] | float) -> BBox3D:
        """Return the box with all its coordinates times `factor`, a number or one for each axis."""
        factors = exacts(factor if isinstance(factor, Vec3D) else (factor,) * 3, "factor")
        return self._of((a * f, b * f) for (a, b), f in zip(self.sides, factors, strict=True))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Vec3D[float] | float) -> BBox3D:
        """Return the box with all its coordinates divided by `divisor`, a number or one for each axis."""
        divisors = positives(divisor if isinstance(divisor, Vec3D) else (divisor,) * 3, "divisor")
        sides = zip(self.sides, divisors, strict=True)
        return self._of((quotient(a, d), quotient(b, d)) for (a, b), d in sides)

    def _check_unit(self, other: BBox3D) -> None:
        if self.unit != other.unit:
            raise GeometryError(
                f"expected two boxes of one unit, got {self.unit} and {other.unit}: scale one of them first"
            )
