"""A box of whole voxels at a resolution: what a volumetric layer is read and written by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from beam_volumes.geometry.bbox3d import BBox3D, Slices3D
from beam_volumes.geometry.box import Box
from beam_volumes.geometry.exact import kept, nearest, positives, product, three
from beam_volumes.geometry.sides import SnapMode
from beam_volumes.geometry.vec3d import Vec3D


@dataclass(frozen=True)
class VolumetricIndex:
    """The voxels of `resolution` (nm along x, y, z) in `bbox`; immutable and hashable.

    All coordinates, sizes and pads of its methods are in voxels. The methods of BBox3D that are here too do as those
    do, and keep the resolution of this index, also where another index of another resolution takes part.

    An index need not be of whole voxels until it is asked for them (`start`, `stop`, `shape`, `to_slices`): then one
    that is not is a GeometryError, unless `allow_slice_rounding`. `chunk_id` tells which chunk of a flow this is; it is
    kept by all methods, and has no part in comparisons.

    >>> idx = VolumetricIndex.from_coords(
    ...     start_coord=Vec3D(0, 0, 0),
    ...     end_coord=Vec3D(5, 7, 11),
    ...     resolution=Vec3D(4, 4, 30)
    ... )
    >>> idx  # doctest: +NORMALIZE_WHITESPACE
    VolumetricIndex(resolution=Vec3D(4, 4, 30), bbox=BBox3D(bounds=((0, 20), (0, 28), (0, 330)), unit='nm',
    pprint_px_resolution=(1, 1, 1)), allow_slice_rounding=False)
    >>> print(idx.pformat())
    (0.0, 0.0, 0.0) - (5.0, 7.0, 11.0)
    >>> idx.shape
    Vec3D(5, 7, 11)

    >>> idx_c = idx.cropped(Vec3D(1,2,3)) # cropping
    >>> idx_c  # doctest: +NORMALIZE_WHITESPACE
    VolumetricIndex(resolution=Vec3D(4, 4, 30), bbox=BBox3D(bounds=((4.0, 16.0), (8.0, 20.0), (90.0, 240.0)),
    unit='nm', pprint_px_resolution=(1, 1, 1)), allow_slice_rounding=False)
    >>> print(idx_c.pformat())
    (1.0, 2.0, 3.0) - (4.0, 5.0, 8.0)
    >>> idx_c.shape
    Vec3D(3, 3, 5)
    >>> idx_p = idx.padded(Vec3D(1,2,3)) # padding
    >>> idx_p  # doctest: +NORMALIZE_WHITESPACE
    VolumetricIndex(resolution=Vec3D(4, 4, 30), bbox=BBox3D(bounds=((-4.0, 24.0), (-8.0, 36.0), (-90.0, 420.0)),
    unit='nm', pprint_px_resolution=(1, 1, 1)), allow_slice_rounding=False)
    >>> print(idx_p.pformat())
    (-1.0, -2.0, -3.0) - (6.0, 9.0, 14.0)
    >>> idx_p.shape
    Vec3D(7, 11, 17)
    """

    resolution: Vec3D[float]
    bbox: BBox3D
    allow_slice_rounding: bool = False
    chunk_id: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Take any three numbers as the resolution."""
        positives(self.resolution, "resolution")
        if not isinstance(self.resolution, Vec3D):
            numbers = (nearest(kept(r)) for r in three(self.resolution, "resolution"))
            object.__setattr__(self, "resolution", Vec3D(*numbers))

    @classmethod
    def from_coords(
        cls,
        start_coord: Sequence[float],
        end_coord: Sequence[float],
        resolution: Sequence[float],
        allow_slice_rounding: bool = False,
        chunk_id: int = 0,
    ) -> VolumetricIndex:
        """Return the voxels from `start_coord` up to, not including, `end_coord`."""
        bbox = BBox3D.from_coords(start_coord, end_coord, resolution)
        return cls(Vec3D(*three(resolution, "resolution")), bbox, allow_slice_rounding, chunk_id)  # type: ignore[arg-type]

    @property
    def start(self) -> Vec3D[int]:
        """The first voxel."""
        return Vec3D(*(part.start for part in self.to_slices()))

    @property
    def stop(self) -> Vec3D[int]:
        """The first voxel beyond, along each axis."""
        return Vec3D(*(part.stop for part in self.to_slices()))

    @property
    def end(self) -> Vec3D[int]:
        """The same as `stop`."""
        return self.stop

    @property
    def shape(self) -> Vec3D[int]:
        """The number of voxels along x, y and z."""
        return Vec3D(*(part.stop - part.start for part in self.to_slices()))

    @property
    def ndim(self) -> int:
        """The number of axes: 3."""
        return 3

    @property
    def box(self) -> Box:
        """The same voxels in plain ints."""
        x, y, z = self.to_slices()
        return Box((x.start, y.start, z.start), (x.stop, y.stop, z.stop))

    def to_slices(self) -> Slices3D:
        """Return the voxels as three slices of ints."""
        return self.bbox.to_slices(self.resolution, self.allow_slice_rounding)

    def get_slice(self, dim: int) -> slice:
        """Return the voxels along axis `dim` (0, 1, 2: x, y, z) as a slice of ints."""
        return self.bbox.get_slice(dim, self.resolution, self.allow_slice_rounding)

    def pformat(self, resolution: Sequence[float] | None = None) -> str:
        """Return start and stop as floats, in voxels of `resolution`, or else of this index's own."""
        return self.bbox.pformat(self.resolution if resolution is None else resolution)

    def padded(self, pad: Sequence[float | Sequence[float]]) -> VolumetricIndex:
        """Return the index with `pad` voxels more on both sides, or a pair (start, stop) for an axis."""
        return replace(self, bbox=self.bbox.padded(pad, self.resolution))

    def cropped(self, crop: Sequence[float | Sequence[float]]) -> VolumetricIndex:
        """Return the index with `crop` voxels less on both sides, or a pair (start, stop) for an axis."""
        return replace(self, bbox=self.bbox.cropped(crop, self.resolution))

    def split(self, num_splits: Sequence[int]) -> list[VolumetricIndex]:
        """Return the index cut into `num_splits` equal parts along x, y and z; z is fastest.

        Parts need not be whole voxels: divide the shape by `num_splits` first, or allow rounding.
        """
        return [replace(self, bbox=part) for part in self.bbox.split(num_splits)]

    def translated(self, offset: Sequence[float]) -> VolumetricIndex:
        """Return the index moved by `offset` voxels."""
        return replace(self, bbox=self.bbox.translated(offset, self.resolution))

    def translated_start(self, offset: Sequence[float]) -> VolumetricIndex:
        """Return the index with its start moved by `offset` voxels."""
        return replace(self, bbox=self.bbox.translated_start(offset, self.resolution))

    def translated_end(self, offset: Sequence[float]) -> VolumetricIndex:
        """Return the index with its stop moved by `offset` voxels."""
        return replace(self, bbox=self.bbox.translated_end(offset, self.resolution))

    def with_start(self, start: Sequence[float]) -> VolumetricIndex:
        """Return the index from voxel `start` to its own stop."""
        return replace(self, bbox=self.bbox.with_start(start, self.resolution))

    def with_end(self, end: Sequence[float]) -> VolumetricIndex:
        """Return the index from its own start up to, not including, voxel `end`."""
        return replace(self, bbox=self.bbox.with_end(end, self.resolution))

    def transposed(self, dim0: int, dim1: int, local: bool = False) -> VolumetricIndex:
        """Return the index with two axes of its box exchanged, in nm, not of its resolution; see BBox3D."""
        return replace(self, bbox=self.bbox.transposed(dim0, dim1, local))

    def snapped(self, grid_offset: Sequence[float], grid_size: Sequence[float], mode: SnapMode) -> VolumetricIndex:
        """Return the index with its sides on a grid of cells of `grid_size` voxels through voxel `grid_offset`.

        >>> idx = VolumetricIndex.from_coords((5, 0, 3), (130, 64, 4), resolution=(8, 8, 40))
        >>> idx.snapped((0, 0, 0), (64, 64, 1), "expand").pformat()
        '(0.0, 0.0, 3.0) - (192.0, 64.0, 4.0)'
        """
        offset = [product(o, r) for o, r in zip(three(grid_offset, "grid_offset"), self.resolution, strict=True)]
        size = [product(s, r) for s, r in zip(three(grid_size, "grid_size"), self.resolution, strict=True)]
        return replace(self, bbox=self.bbox.snapped(offset, size, mode))

    def aligned(self, other: VolumetricIndex) -> tuple[bool, ...]:
        """Whether the sides are those of `other`: start and stop of x, of y, of z."""
        return self.bbox.aligned(other.bbox)

    def contained_in(self, other: VolumetricIndex) -> bool:
        """Whether no side is beyond that of `other`."""
        return self.bbox.contained_in(other.bbox)

    def intersects(self, other: VolumetricIndex) -> bool:
        """Whether the two have some volume in common."""
        return self.bbox.intersects(other.bbox)

    def intersection(self, other: VolumetricIndex) -> VolumetricIndex:
        """Return what the two have in common, or an index of no voxels at (0, 0, 0)."""
        return replace(self, bbox=self.bbox.intersection(other.bbox))

    def supremum(self, other: VolumetricIndex) -> VolumetricIndex:
        """Return the smallest index that contains both."""
        return replace(self, bbox=self.bbox.supremum(other.bbox))

    def contains(self, point: Sequence[float]) -> bool:
        """Whether `point`, in voxels of this index's resolution, is in the box."""
        return self.bbox.contains(point, self.resolution)

    def get_intersection_and_subindex(self, large: VolumetricIndex) -> tuple[VolumetricIndex, Slices3D]:
        """Return what this has in common with `large`, and the slices of that in an array (XYZ) of `large`.

        Slices are in voxels of `large`'s resolution, and empty where the two have nothing in common.

        >>> large = VolumetricIndex.from_coords((10, 10, 10), (20, 20, 20), resolution=(4, 4, 40))
        >>> common, subindex = large.translated((-3, 0, 5)).get_intersection_and_subindex(large)
        >>> common.pformat(), subindex
        ('(10.0, 10.0, 15.0) - (17.0, 20.0, 20.0)', (slice(0, 7, None), slice(0, 10, None), slice(5, 10, None)))
        """
        common = self.intersection(large)
        if not self.intersects(large):
            return common, (slice(0, 0), slice(0, 0), slice(0, 0))
        parts = common.bbox.to_slices(large.resolution, large.allow_slice_rounding)
        x, y, z = (slice(p.start - first, p.stop - first) for p, first in zip(parts, large.start, strict=True))
        return common, (x, y, z)

    def __mul__(self, factor: Vec3D[float] | float) -> VolumetricIndex:
        """Return the index with all its coordinates times `factor`, at the same resolution."""
        return replace(self, bbox=self.bbox * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Vec3D[float] | float) -> VolumetricIndex:
        """Return the index with all its coordinates divided by `divisor`, at the same resolution."""
        return replace(self, bbox=self.bbox / divisor)
