"""What may stand in the brackets of a layer, and the voxels that it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_volumes.errors import GeometryError, OptionError
from beam_volumes.geometry import BBox3D, Vec3D, VolumetricIndex
from beam_volumes.geometry.exact import kept, nearest, positives, three

UserIndex = Any
"""`VolumetricIndex`, `BBox3D`, three slices, or a resolution (or None) before a `BBox3D` or before three slices."""

_FORMS = "a VolumetricIndex, a BBox3D, three slices, or a resolution before a BBox3D or three slices"


def as_vec(values: Sequence[float], what: str) -> Vec3D[float]:
    """Return three numbers above 0, such as a resolution, as a Vec3D.

    Raises:
        GeometryError: they are not; `what` names them.

    """
    if isinstance(values, Vec3D):
        positives(values, what)
        return values
    found = three(values, what)
    positives(found, what)
    x, y, z = (nearest(kept(value)) for value in found)
    return Vec3D(x, y, z)


@dataclass(frozen=True)
class VolumetricFrontend:
    """Makes indices of what stands in the brackets of a layer.

    Resolutions are nm per voxel along x, y and z.

    Attributes:
        index_resolution: of slices; None for that in the brackets, or else the desired one.
        default_desired_resolution: of what is read or written, where none stands in the brackets.
        allow_slice_rounding: whether an index need not be of whole voxels.

    """

    index_resolution: Sequence[float] | None = None
    default_desired_resolution: Sequence[float] | None = None
    allow_slice_rounding: bool = False

    def __post_init__(self) -> None:
        """Take any three numbers as a resolution."""
        for name in ("index_resolution", "default_desired_resolution"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, as_vec(value, name))

    def convert(self, index: UserIndex) -> VolumetricIndex:
        """Return the voxels that an index means, at the resolution in which they are wanted.

        A `VolumetricIndex` stays as it is, whatever the resolutions of the layer are, but for rounding.

        Raises:
            OptionError: it has none of the forms, or no resolution is known for it.
            GeometryError: its numbers make no box.

        """
        if isinstance(index, VolumetricIndex):
            return replace(index, allow_slice_rounding=True) if self.allow_slice_rounding else index
        resolution, where = _taken_apart(index)
        desired = resolution or self.default_desired_resolution
        if desired is None:
            raise OptionError(
                "expected a resolution for what is read or written, came none in the index, nor as "
                "default_desired_resolution of the layer: write layer[Vec3D(4, 4, 40), 0:10, 0:10, 0:10], or give it"
            )
        wanted = as_vec(desired, "resolution")
        bbox = where if isinstance(where, BBox3D) else BBox3D.from_slices(where, self.index_resolution or wanted)
        return VolumetricIndex(wanted, bbox, self.allow_slice_rounding)


def _taken_apart(index: UserIndex) -> tuple[Vec3D[float] | None, Any]:
    """Return the resolution, if there is one, and a BBox3D or three slices."""
    if isinstance(index, BBox3D):
        return None, index
    parts = tuple(index) if isinstance(index, (tuple, list)) else ()
    if len(parts) == 3 and all(isinstance(part, slice) for part in parts):
        return None, parts
    rest = parts[1:]
    is_box = len(rest) == 1 and isinstance(rest[0], BBox3D)
    if not is_box and not (len(rest) == 3 and all(isinstance(part, slice) for part in rest)):
        raise OptionError(f"index of a layer: expected {_FORMS}, came {index!r}: write one of these")
    try:
        resolution = None if parts[0] is None else as_vec(parts[0], "the resolution in an index")
    except GeometryError as error:
        raise OptionError(f"index of a layer: {error}") from error
    return resolution, rest[0] if is_box else rest
