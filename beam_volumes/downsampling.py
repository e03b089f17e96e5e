"""Coarser mips of a volume: each coarse voxel from the fine voxels at its place in the absolute grid.

The coarse voxel at index i covers the fine voxels from i * factor up to (i + 1) * factor, as far as they are in the
volume; it does not matter where the volume, or the part of it at hand, begins. A part gives the same voxels as the
whole if its boundaries are boundaries of the coarsest voxels that are made of it, or of the volume.

Methods:
    mode: the most frequent label; of several, the one whose first voxel comes first (x fastest, then y, then z). With
        `sparse`, background (0) is not counted unless the block holds nothing else. Labels are compared by their bits:
        in float32, NaNs of the same bits are one label, and -0.0 is neither 0.0 nor background. A coarser mip is the
        mode of the mip below, not of mip 0.
    average: of the voxels of mip 0, at every mip: their exact sum is carried up and rounded anew for each mip, half to
        even in integer types. float32 is added up in float64, in an order that the factors alone decide (x fastest in
        each block, mip by mip); the average is rounded to float32. A block with NaN, or with both infinities, is NaN.
    min, max: the smallest or largest voxel; NaN if the block holds one.
    stride: the first voxel of the block, after it has been clipped to the volume.

"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes.codecs import DATA_TYPES, Array
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec, product

if TYPE_CHECKING:
    from types import ModuleType

METHODS = ("mode", "average", "min", "max", "stride")

MOST_VOXELS = 2**31
"""Voxels of mip 0 that an average can cover: then every sum fits 64 bits."""

_LITTLE = sys.byteorder == "little"

_Axes = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def coarse_box(box: Box, factor: Vec) -> Box:
    """Return the coarse voxels that cover any voxel of `box`, in the absolute grid of the coarse mip.

    Raises:
        OptionError: a factor is less than 1.

    """
    if min(factor) < 1:
        raise OptionError(f"--factor: expected numbers from 1, came {factor}")
    (x0, y0, z0), (x1, y1, z1), (fx, fy, fz) = box.start, box.stop, factor
    return Box((x0 // fx, y0 // fy, z0 // fz), (-(-x1 // fx), -(-y1 // fy), -(-z1 // fz)))


class Tile(NamedTuple):
    """A part of a mip, with all that the coarser mips need of it: two keys of Python ints, and one array to store.

    `state` holds the XYZC voxels themselves, Fortran order. Averages hold the sums of voxels of mip 0 instead, in the
    type that `Downsampler.state_type` says; for 64-bit integers channels stand there twice, the sums of the upper
    halves (`>> 32`) of all channels before those of the lower halves.
    """

    base: Box
    """The voxels of mip 0 that it is made of; cut at boundaries of coarse voxels or of the volume."""
    factor: Vec
    """From mip 0 to this mip."""
    state: Array

    @property
    def box(self) -> Box:
        """The voxels of its mip that it holds."""
        return coarse_box(self.base, self.factor)


@dataclass(frozen=True)
class Downsampler:
    """Makes coarser mips of tiles.

    Args:
        method: one of METHODS.
        data_type: of the volume, one of `codecs.DATA_TYPES`.
        sparse: background does not count; for `mode` only.

    Raises:
        OptionError: there is no such method or type, or the method cannot be sparse.

    """

    method: str
    data_type: str
    sparse: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.method not in METHODS:
            raise OptionError(f"--method: expected one of {', '.join(METHODS)}; came {self.method}")
        if self.data_type not in DATA_TYPES:
            raise OptionError(f"expected data of type {', '.join(DATA_TYPES)}; came {self.data_type}")
        if self.sparse and self.method != "mode":
            raise OptionError(f"--sparse: expected --method=mode, came {self.method}, which counts no labels")

    def check(self, factor: Vec) -> None:
        """Refuse a mip that is coarser than mip 0 by more than can be averaged exactly.

        Raises:
            OptionError: so it is.

        """
        if self.method == "average" and math.prod(factor) > MOST_VOXELS:
            raise OptionError(
                f"--num_mips: expected averages of at most {MOST_VOXELS:,} voxels of mip 0, came {factor}: make fewer "
                "mips, and give another command for those above them"
            )

    def tile(self, voxels: Array, offset: Vec) -> Tile:
        """Return voxels of mip 0 (XYZC, any memory order) as a tile; `offset` is the absolute place of the first."""
        x, y, z = voxels.shape[:3]
        native = np.asfortranarray(voxels, dtype=np.dtype(self.data_type))
        return Tile(Box.of_shape((x, y, z), offset), (1, 1, 1), native)

    def coarser(self, tile: Tile, factor: Vec) -> tuple[Tile, Array]:
        """Return the next mip, as a tile and as XYZC voxels (Fortran order, the volume's type).

        Both are the same array, except for averages.

        Raises:
            OptionError: a factor is less than 1, or an average would cover more than MOST_VOXELS voxels.
            ValueError: the tile's array has another shape than its box, or the box is empty.

        """
        return self._coarser(tile, factor, keep=True)

    def mips(self, tile: Tile, factors: Iterable[Vec]) -> Iterator[tuple[Tile, Array]]:
        """Yield the coarser mips of a tile, one for each factor (from the mip before it); see `coarser`."""
        for factor in factors:
            tile, voxels = self._coarser(tile, factor, keep=True)
            yield tile, voxels

    def state_type(self, factor: Vec) -> np.dtype[np.generic]:
        """Return the type of `Tile.state` at a mip that is coarser than mip 0 by `factor`.

        For averages it is the smallest type that holds every sum.
        """
        voxels = math.prod(factor)
        data_type = np.dtype(self.data_type)
        if self.method != "average" or voxels == 1:
            return data_type
        if data_type.kind == "f":
            return np.dtype(np.float64)
        for bits in (16, 32):
            if voxels <= 2 ** (bits - 8 * data_type.itemsize):
                return np.dtype(f"{data_type.kind}{bits // 8}")
        return np.dtype(np.int64)

    def state_bytes(self, factor: Vec) -> int:
        """Return the bytes of `Tile.state` for each voxel and channel; see `state_type`."""
        halves = 2 if self._in_halves and math.prod(factor) > 1 else 1
        return halves * self.state_type(factor).itemsize

    @property
    def _in_halves(self) -> bool:
        return self.method == "average" and self.data_type in ("uint64", "int64")

    def _coarser(self, tile: Tile, factor: Vec, keep: bool) -> tuple[Tile, Array]:
        from beam_volumes import downsampling_kernels as kernels

        fine, coarse = tile.box, coarse_box(tile.box, factor)
        if tile.state.shape[:3] != fine.shape or not fine.voxels:
            raise ValueError(f"expected voxels of the shape of {fine}, at least one; came {tile.state.shape}")
        if product(tile.factor, factor) == (1, 1, 1):
            return tile, tile.state
        edges = _edges(fine, coarse, factor)
        if self.method == "average":
            return _average(self, tile, factor, edges, keep, kernels)
        out = np.empty((*coarse.shape, tile.state.shape[3]), self.data_type, order="F")
        pairs = _pairs(edges[0], factor[0])
        if self.method in ("min", "max"):
            kernels.extreme_of_blocks(_rows_to_read(tile.state), edges, pairs, self.method == "max", _rows(out))
        else:
            # By their bits: four types are compiled instead of nine.
            bits = f"u{out.itemsize}"
            array, target = _rows_to_read(tile.state).view(bits), _rows(out).view(bits)
            if self.method == "mode":
                most = math.prod(int(np.diff(axis).max()) for axis in edges)
                found = (np.empty(most, bits), np.empty(most, np.int64))
                kernels.mode_of_blocks(array, edges, pairs, self.sparse, found, target)
            else:
                kernels.first_of_blocks(array, edges, target)
        return Tile(tile.base, product(tile.factor, factor), out), out


def downsample(voxels: Array, offset: Vec, factor: Vec, method: str, sparse: bool = False) -> Array:
    """Return one coarser mip.

    Args:
        voxels: XYZC, any memory order; whole blocks, except at the edges of the volume.
        offset: the absolute place of the first voxel.
        factor: XYZ.
        method: one of METHODS.
        sparse: background does not count; for `mode` only.

    Returns:
        XYZC voxels of `coarse_box(...)`, Fortran order, the same type.

    Raises:
        OptionError: there is no such method, or it does not fit the type or the factor.
        ValueError: there are no voxels.

    """
    downsampler = Downsampler(method, voxels.dtype.name, sparse)
    return downsampler._coarser(downsampler.tile(voxels, offset), factor, keep=False)[1]


def _rows(array: Array) -> Array:
    """Return a Fortran-ordered XYZC array as its rows along x, (C * Z * Y, X), without a copy."""
    return array.T.reshape(-1, array.shape[0])


def _rows_to_read(array: Array) -> Array:
    """Return rows that cannot be written; numba compiles a kernel anew for arrays that can, and some cannot."""
    rows = _rows(array)
    rows.flags.writeable = False
    return rows


def _edges(fine: Box, coarse: Box, factor: Vec) -> _Axes:
    """Return for each axis where blocks begin and end in an array whose first voxel is that of `fine`."""
    x, y, z = (
        np.clip(np.arange(first, last + 1, dtype=np.int64) * f, start, stop) - start
        for start, stop, first, last, f in zip(*fine, *coarse, factor, strict=True)
    )
    return x, y, z


def _pairs(edges: npt.NDArray[np.int64], factor: int) -> tuple[int, int]:
    """Return the half-open range of the blocks of two voxels, (0, 0) where the factor is not 2."""
    lengths = np.diff(edges)
    if factor != 2 or lengths.max() < 2:
        return (0, 0)
    return (int(lengths[0] < 2), len(lengths) - int(lengths[-1] < 2))


def _range_of_most(counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the half-open range of the largest counts, which only the first and the last may not be."""
    found = np.flatnonzero(counts == counts.max())
    return int(found[0]), int(found[-1]) + 1


def _average(
    downsampler: Downsampler, tile: Tile, factor: Vec, edges: _Axes, keep: bool, kernels: ModuleType
) -> tuple[Tile, Array]:
    total = product(tile.factor, factor)
    downsampler.check(total)
    coarse = coarse_box(tile.base, total)
    base_x, base_y, base_z = _edges(tile.base, coarse, total)
    counts = (np.diff(base_x), np.diff(base_y), np.diff(base_z))
    pairs = _pairs(edges[0], factor[0])
    state, (x, y, z) = tile.state, coarse.shape
    if downsampler._in_halves:
        state = _halves(state) if tile.factor == (1, 1, 1) else state
        halves = np.empty((x, y, z, state.shape[3]), np.int64, order="F")
        kernels.sum_of_blocks(_rows_to_read(state), edges, pairs, _rows(halves))
        return Tile(tile.base, total, halves), _average_of_halves(halves, counts, downsampler.data_type)
    channels = state.shape[3]
    out = np.empty((x, y, z, channels), downsampler.data_type, order="F")
    sums = np.empty((channels * z * y if keep else 1, x), downsampler.state_type(total))
    rows, averages = _rows_to_read(state), _rows(out)
    if state.dtype == np.uint8 and rows.shape[1] % 8 == 0 and pairs == (0, x) and max(factor) == 2 and _LITTLE:
        kernels.average_of_bytes(rows.view(np.uint64), edges, sums.view(np.uint64), averages.view(np.uint32))
    else:
        kernels.average_of_blocks(rows, edges, pairs, counts, _range_of_most(counts[0]), sums, averages)
    return Tile(tile.base, total, sums.reshape(channels, z, y, x).T if keep else out), out


def _halves(voxels: npt.NDArray[Any]) -> Array:
    """Return the upper and the lower 32 bits of 64-bit integers, so that value = upper * 2**32 + lower, lower >= 0."""
    channels = voxels.shape[3]
    halves = np.empty((*voxels.shape[:3], 2 * channels), np.int64, order="F")
    halves[..., :channels] = voxels >> 32
    halves[..., channels:] = voxels & 0xFFFFFFFF
    return halves


def _average_of_halves(halves: Array, counts: _Axes, data_type: str) -> Array:
    """Divide sums of upper and lower halves by counts, half to even, without ever needing more than 64 bits."""
    upper, lower = np.split(halves.astype(np.int64, copy=False), 2, axis=3)
    nx, ny, nz = counts
    count = (nx[:, None, None, None] * ny[:, None, None]) * nz[:, None]
    quotient, rest = np.divmod(upper, count)
    # rest < count <= 2**31 and lower < count * 2**32: their sum is less than 2**63 + 2**63.
    remaining = (rest.astype(np.uint64) << np.uint64(32)) + lower.astype(np.uint64)
    low, remainder = np.divmod(remaining, count.astype(np.uint64))
    average = (quotient.astype(np.uint64) << np.uint64(32)) + low
    twice = 2 * remainder.astype(np.int64)
    average += (twice > count) | ((twice == count) & (average % 2 == 1))
    return np.asfortranarray(average).view(data_type)
