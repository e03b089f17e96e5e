"""Ready-made processors of indices: move, pad, override, and ask for another resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from beam_volumes.builder import register
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Vec3D, VolumetricIndex
from beam_volumes.layers.indexing import as_vec

T = TypeVar("T", bound=float)


@register("VolumetricIndexTranslator")
@dataclass(frozen=True)
class VolumetricIndexTranslator:
    """Moves an index by `offset` voxels of `resolution` (nm per voxel), and keeps its own resolution.

    >>> idx = VolumetricIndex.from_coords((0, 0, 0), (8, 8, 1), resolution=(16, 16, 40))
    >>> VolumetricIndexTranslator(offset=(1, 0, -1), resolution=(4, 4, 40))(idx).bbox.bounds
    ((4.0, 132.0), (0.0, 128.0), (-40.0, 0.0))
    """

    offset: Sequence[float]
    resolution: Sequence[float]

    def __call__(self, idx: VolumetricIndex) -> VolumetricIndex:
        """Return the index that is moved."""
        return replace(idx, bbox=idx.bbox.translated(self.offset, self.resolution))


@register("VolumetricIndexPadder")
@dataclass(frozen=True)
class VolumetricIndexPadder:
    """Makes an index larger by `pad` of its own voxels at both sides, or a pair (start, stop) for an axis."""

    pad: Sequence[float | Sequence[float]]

    def __call__(self, idx: VolumetricIndex) -> VolumetricIndex:
        """Return the index that is padded."""
        return idx.padded(self.pad)


@register("VolumetricIndexScaler")
@dataclass(frozen=True)
class VolumetricIndexScaler:
    """Asks for the same box at the index's resolution times `res_change_mult`.

    Voxels that are not whole are refused when the index is used, unless `allow_slice_rounding`.

    >>> idx = VolumetricIndex.from_coords((4, 6, 6), (14, 14, 16), resolution=(1, 1, 1))
    >>> scaled = VolumetricIndexScaler(res_change_mult=(2, 2, 1))(idx)
    >>> scaled.resolution, scaled.pformat()
    (Vec3D(2, 2, 1), '(2.0, 3.0, 6.0) - (7.0, 7.0, 16.0)')
    """

    res_change_mult: Sequence[float]
    allow_slice_rounding: bool = False

    def __call__(self, idx: VolumetricIndex) -> VolumetricIndex:
        """Return the index at its new resolution."""
        resolution = idx.resolution * as_vec(self.res_change_mult, "res_change_mult")
        rounding = self.allow_slice_rounding or idx.allow_slice_rounding
        return replace(idx, resolution=resolution, allow_slice_rounding=rounding)


@register("VolumetricIndexOverrider")
@dataclass(frozen=True)
class VolumetricIndexOverrider:
    """Replaces the first voxel, the number of voxels, or the resolution of an index; None leaves them, also by axis.

    >>> idx = VolumetricIndex.from_coords((4, 5, 6), (14, 15, 16), resolution=(1, 1, 1))
    >>> VolumetricIndexOverrider(override_offset=(None, None, 10), override_size=(None, 2, 3))(idx).pformat()
    '(4.0, 5.0, 10.0) - (14.0, 7.0, 13.0)'
    """

    override_offset: Sequence[int | None] | None = None
    override_size: Sequence[int | None] | None = None
    override_resolution: Sequence[float | None] | None = None

    def __call__(self, idx: VolumetricIndex) -> VolumetricIndex:
        """Return the index that takes its place."""
        start = _overridden(self.override_offset, idx.start, "override_offset")
        size = _overridden(self.override_size, idx.shape, "override_size")
        resolution = _overridden(self.override_resolution, idx.resolution, "override_resolution")
        stop = start + size
        return VolumetricIndex.from_coords(start, stop, resolution, idx.allow_slice_rounding, idx.chunk_id)


def _overridden(values: Sequence[float | None] | None, own: Vec3D[T], what: str) -> Vec3D[T]:
    if values is None:
        return own
    if len(values) != 3:
        raise OptionError(f"{what}: expected three numbers, each of which may be None, came {values!r}: give three")
    return Vec3D(*(b if a is None else a for a, b in zip(values, own, strict=True)))  # type: ignore[arg-type]
