"""Data at another resolution: images, fields of displacements, masks and segmentations, each as it must be.

Modes:
    img: linear along each axis, between the centers of voxels; for factors of exactly 1/2, 1/4, 1/8 or 1/16 along x and
        y, and along z the same or 1, the average of all voxels. Integers are rounded, half to even.
    field: linear as well; vectors, in voxels, are scaled with the resolution: two channels, and the same factor along
        x and y.
    mask: 1 where the average of the voxels that a voxel covers is above `mask_value_thr`, else 0.
    segmentation: the voxel that the center of the new one lies in; for the factors above, the most frequent one, of
        several the one that comes first (x fastest, then y, then z).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from beam_volumes.codecs import DATA_TYPES
from beam_volumes.downsampling import downsample
from beam_volumes.errors import FunctionError, OptionError
from beam_volumes.geometry import Vec
from beam_volumes.geometry.exact import positives, quotient

if TYPE_CHECKING:
    import torch

MODES = ("img", "field", "mask", "segmentation")

_AVERAGED = (2, 4, 8, 16)
_WIDE_BYTES = 2
"""Integers of more bytes do not all fit float32, nor do sums of them."""

Scale = tuple[Fraction | int, Fraction | int, Fraction | int]
"""How many voxels there are after for one voxel before, along x, y and z."""


def check_mode(mode: object) -> None:
    """Refuse what is no mode.

    Raises:
        OptionError: with those that there are.

    """
    if mode not in MODES:
        raise OptionError(f"interpolation_mode: expected one of {', '.join(MODES)}, came {mode!r}: choose one")


def scale_between(before: Sequence[float], after: Sequence[float]) -> Scale:
    """Return the exact scale from one resolution, nm per voxel, to another."""
    pairs = zip(positives(before, "resolution"), positives(after, "resolution"), strict=True)
    x, y, z = (quotient(a, b) for a, b in pairs)
    return (x, y, z)


def interpolate(data: torch.Tensor, size: Vec, scale: Scale, mode: str, mask_value_thr: float = 0.0) -> torch.Tensor:
    """Return data at another resolution, of the same type.

    Args:
        data: CXYZ.
        size: voxels along x, y and z that the result has; `scale` times those of `data`, or that rounded.
        scale: voxels after for one voxel before.
        mode: one of MODES.
        mask_value_thr: what averages must be above, in masks.

    Returns:
        CXYZ; `data` itself where nothing changes.

    Raises:
        OptionError: there is no such mode.
        FunctionError: the data have another number of axes, or have no voxels, or are no field of two channels.

    """
    check_mode(mode)
    if data.ndim != 4:
        raise FunctionError(f"expected data of four axes (C, x, y, z) to interpolate, came {tuple(data.shape)}")
    if mode == "field":
        _check_field(data, scale)
    if mode == "mask":
        return _mask(data, size, mask_value_thr)
    if tuple(data.shape[1:]) == tuple(size) and scale == (1, 1, 1):
        return data
    _check_voxels(data, size)
    x, y, z = data.shape[1:]
    factor = _averaged_factor((x, y, z), size, scale)
    if mode == "segmentation":
        return _coarser(data, factor, "mode") if factor else _nearest(data, size)
    if mode == "img" and factor:
        return _coarser(data, factor, "average")
    return _linear(data, size, scale[0] if mode == "field" else 1)


def held_bytes(before: Vec, size: Vec, scale: Scale, mode: str, data_type: str) -> int:
    """Return the most bytes that `interpolate` holds at once for one channel, with what it takes and returns.

    Args:
        before: voxels along x, y and z that it takes.
        size: voxels that it returns.
        scale: voxels after for one voxel before.
        mode: one of MODES.
        data_type: of the tensor, as numpy names it.

    """
    kind = np.dtype(data_type)
    taken, returned = math.prod(before), math.prod(size)
    if mode in ("img", "segmentation") and (before == size or _averaged_factor(before, size, scale)):
        return (taken + returned) * kind.itemsize
    if mode == "segmentation":
        # Axis after axis: each is made of the one before.
        made, shape = [0], list(before)
        for axis in range(3):
            if before[axis] != size[axis]:
                shape[axis] = size[axis]
                made.append(math.prod(shape))
        return (taken + max(a + b for a, b in itertools.pairwise(made))) * kind.itemsize
    is_wide = kind.itemsize > (4 if kind.kind == "f" else _WIDE_BYTES)
    copied = 0 if kind.kind == "f" and kind.itemsize >= 4 else taken
    # Fields are multiplied, and integers rounded and clamped, each time into new memory.
    results = {"field": 2, "img": 1 if kind.kind == "f" else 3}.get(mode, 1)
    return taken * kind.itemsize + (copied + results * returned) * (8 if is_wide else 4)


def is_downsampled(before: Vec, size: Vec, scale: Scale, mode: str) -> bool:
    """Whether `interpolate` averages or counts whole blocks of voxels, by compiled code."""
    return mode in ("img", "segmentation") and before != size and _averaged_factor(before, size, scale) is not None


def _check_field(data: torch.Tensor, scale: Scale) -> None:
    if data.shape[0] != 2:
        raise FunctionError(f"expected a field of 2 channels, x and y, came {data.shape[0]}: use another mode")
    if scale[0] != scale[1]:
        raise FunctionError(
            f"expected the same factor along x and y for a field, came {scale[0]} and {scale[1]}: choose resolutions "
            "of one ratio"
        )


def _check_voxels(data: torch.Tensor, size: Vec) -> None:
    if min(data.shape[1:]) < 1 or min(size) < 1:
        raise FunctionError(
            f"expected at least one voxel before and after, came {tuple(data.shape[1:])} to be made {tuple(size)}: "
            "ask for a larger box"
        )


def _averaged_factor(before: Vec, size: Vec, scale: Scale) -> Vec | None:
    """Return how many voxels make one, if they are averaged or counted; None where they are not."""
    inverse = tuple(1 / Fraction(s) for s in scale)
    x, y, z = (int(f) if f.denominator == 1 else 0 for f in inverse)
    if x not in _AVERAGED or y != x or z not in (1, x):
        return None
    whole = tuple(n * f for n, f in zip(size, (x, y, z), strict=True))
    return (x, y, z) if whole == before else None


def _coarser(data: torch.Tensor, factor: Vec, method: str) -> torch.Tensor:
    import torch

    array = data.detach().cpu().numpy()
    stored = array
    if array.dtype == np.bool_:
        stored = array.view(np.uint8)
    elif array.dtype.name not in DATA_TYPES:
        if method == "average":
            return _average(data, factor)
        # By their bits, which is what labels are compared by.
        stored = array.view(f"i{array.itemsize}")
    result = downsample(np.moveaxis(stored, 0, 3), (0, 0, 0), factor, method)
    # One voxel along an axis gives strides of their own; torch takes none that are negative or odd.
    return torch.from_numpy(np.moveaxis(result, 3, 0).view(array.dtype)).to(data.device)


def _average(data: torch.Tensor, factor: Vec) -> torch.Tensor:
    channels, x, y, z = data.shape
    fx, fy, fz = factor
    blocks = data.double().reshape(channels, x // fx, fx, y // fy, fy, z // fz, fz)
    return blocks.mean(dim=(2, 4, 6)).to(data.dtype)


def _linear(data: torch.Tensor, size: Vec, multiplier: Fraction | int) -> torch.Tensor:
    import torch
    from torch.nn import functional

    values = _as_float(data)
    result = functional.interpolate(values[None], size=tuple(size), mode="trilinear", align_corners=False)[0]
    if multiplier != 1:
        result = result * float(multiplier)
    if data.dtype.is_floating_point:
        return result.to(data.dtype)
    if data.dtype == torch.bool:
        return result.round().bool()
    limits = torch.iinfo(data.dtype)
    return result.round().clamp(limits.min, limits.max).to(data.dtype)


def _mask(data: torch.Tensor, size: Vec, threshold: float) -> torch.Tensor:
    from torch.nn import functional

    if tuple(data.shape[1:]) == tuple(size):
        return (data > threshold).to(data.dtype)
    _check_voxels(data, size)
    return (functional.adaptive_avg_pool3d(_as_float(data), size) > threshold).to(data.dtype)


def _as_float(data: torch.Tensor) -> torch.Tensor:
    is_wide = data.element_size() > (4 if data.dtype.is_floating_point else _WIDE_BYTES)
    return data.double() if is_wide else data.float()


def _nearest(data: torch.Tensor, size: Vec) -> torch.Tensor:
    import torch

    for axis, (before, after) in enumerate(zip(data.shape[1:], size, strict=True), start=1):
        if before != after:
            # The center of voxel i is at (2 i + 1) / 2 of the new voxels, which are before / after of the old ones.
            at = (2 * torch.arange(after) + 1) * before // (2 * after)
            data = data.index_select(axis, at.to(data.device))
    return data
