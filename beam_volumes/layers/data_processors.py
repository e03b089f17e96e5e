"""Ready-made processors of data: another resolution, inverted images, masks of a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_volumes.builder import register
from beam_volumes.errors import FunctionError, OptionError
from beam_volumes.geometry import Slices3D, Vec, Vec3D, VolumetricIndex
from beam_volumes.layers.indexing import as_vec
from beam_volumes.layers.interpolation import Scale, check_mode, interpolate, scale_between
from beam_volumes.layers.processors import Mode, Prepared

if TYPE_CHECKING:
    import torch


@register("DataResolutionInterpolator")
@dataclass(frozen=True)
class DataResolutionInterpolator:
    """Reads and writes data at `data_resolution`, whatever resolution is asked for; see `interpolation`.

    Attributes:
        data_resolution: nm per voxel.
        interpolation_mode: img, field, mask or segmentation.
        allow_slice_rounding: whether a box need not be of whole voxels at `data_resolution`.
        mask_value_thr: what averages must be above, in masks.

    """

    data_resolution: Sequence[float]
    interpolation_mode: str
    allow_slice_rounding: bool = False
    mask_value_thr: float = 0.0
    _prepared: Prepared[tuple[Vec, Scale]] = field(default_factory=Prepared, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the mode, and take any three numbers as the resolution."""
        check_mode(self.interpolation_mode)
        object.__setattr__(self, "data_resolution", as_vec(self.data_resolution, "data_resolution"))

    def process_index(self, idx: VolumetricIndex, mode: Mode) -> VolumetricIndex:
        """Return the same box at `data_resolution`."""
        resolution = as_vec(self.data_resolution, "data_resolution")
        rounding = idx.allow_slice_rounding or self.allow_slice_rounding
        stored = replace(idx, resolution=resolution, allow_slice_rounding=rounding)
        before, after = (stored, idx) if mode == "read" else (idx, stored)
        size = after.box.shape
        # What was asked for must be whole voxels, too, or nothing is kept for `process_data`.
        before.to_slices()
        self._prepared.keep((size, scale_between(before.resolution, after.resolution)))
        return stored

    def process_data(self, data: torch.Tensor, mode: Mode) -> torch.Tensor:
        """Return the data (CXYZ) at the resolution that was asked for; in writing at `data_resolution`."""
        size, scale = self._prepared.take()
        return interpolate(data, size, scale, self.interpolation_mode, self.mask_value_thr)


@register("InvertProcessor")
@dataclass(frozen=True)
class InvertProcessor:
    """Turns dark into bright in images of uint8, as zetta_utils does: v becomes 257 - v, modulo 256.

    So the darkest and the brightest that stand for something change places, and 0 becomes 1: 2 and 255, 0 and 1.

    Attributes:
        invert: whether it does so, or leaves all as it is.

    """

    invert: bool = True

    def process_index(self, idx: VolumetricIndex, mode: Mode) -> VolumetricIndex:
        """Return the index as it is."""
        return idx

    def process_data(self, data: Any, mode: Mode) -> Any:
        """Return the image inverted."""
        if not self.invert:
            return data
        if str(data.dtype).rpartition(".")[2] != "uint8":
            raise FunctionError(f"InvertProcessor: expected an image of uint8, came {data.dtype}: convert it first")
        return ~data + 2


@register("ROIMaskProcessor")
@dataclass(frozen=True)
class ROIMaskProcessor:
    """Adds a mask to what a layer set reads: for target `a` the data `a_mask`, 1 in a region and 0 elsewhere.

    A mask that is there already stays.

    Attributes:
        start_coord: first voxel of the region.
        end_coord: first voxel beyond it.
        resolution: of these coordinates, nm per voxel.
        targets: names of the layers that get a mask, of their shape and type.
        upstream_pad: by how many voxels the data are larger, at each side, than the index that comes here.

    """

    start_coord: Sequence[int]
    end_coord: Sequence[int]
    resolution: Sequence[float]
    targets: Sequence[str]
    upstream_pad: Sequence[int] | None = None
    _prepared: Prepared[Slices3D] = field(default_factory=Prepared, init=False, repr=False, compare=False)

    def process_index(self, idx: VolumetricIndex, mode: Mode) -> VolumetricIndex:
        """Return the index as it is."""
        region = VolumetricIndex.from_coords(self.start_coord, self.end_coord, self.resolution)
        x, y, z = region.get_intersection_and_subindex(idx)[1]
        self._prepared.keep((x, y, z))
        return idx

    def process_data(self, data: dict[str, Any], mode: Mode) -> dict[str, Any]:
        """Return the data of a layer set with masks; arrays and tensors of any axes before x, y and z."""
        slices = self._prepared.take()
        pad = Vec3D(*self.upstream_pad) if self.upstream_pad is not None else Vec3D(0, 0, 0)
        inside = tuple(slice(s.start + p, s.stop + p) for s, p in zip(slices, pad, strict=True))
        if unknown := [target for target in self.targets if target not in data]:
            raise OptionError(
                f"ROIMaskProcessor: expected targets among {', '.join(data)}, came {', '.join(unknown)}: name layers "
                "of the set"
            )
        masks = {}
        for target in self.targets:
            if f"{target}_mask" not in data:
                mask = _zeros_like(data[target])
                mask[(..., *inside)] = 1
                masks[f"{target}_mask"] = mask
        return {**data, **masks}


def _zeros_like(data: Any) -> Any:
    return data.new_zeros(data.shape) if hasattr(data, "new_zeros") else np.zeros_like(data)
