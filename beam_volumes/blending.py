"""Weights with which chunks that overlap are made one, and the sums of them.

A chunk padded by `pad` overlaps its neighbour by `2 * pad` voxels, in which the weights of both sum to 1. The weight
of a voxel is the product of its weights along the axes. A side of a chunk on the edge of the region that is cut into
chunks has no neighbour, and is not weighted. Formulas: those of the SubchunkableApplyFlow of zetta_utils.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_volumes.errors import FunctionError
from beam_volumes.geometry import Box, Vec, shape_text

Voxels = npt.NDArray[Any]
"""An array CXYZ."""

Edges = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]
"""Along x, y and z, whether the low and the high side of a chunk lie on the edge of the region."""

WEIGHTED = ("linear", "quadratic", "bump")
MODES = (*WEIGHTED, "max", "defer")

_EXACT = 2**46
"""Up to here the error of a sum in float64, over 8 chunks at each of several levels, stays below half a unit."""


def accumulation_type(data_type: str) -> np.dtype[Any]:
    """Return the type in which weighted voxels of `data_type` are summed.

    float32 where its error stays far below half a unit of an integer (8 and 16 bits) and for floats of at most 32 bits;
    float64 for the others.
    """
    kind = np.dtype(data_type)
    wide = kind.itemsize > (4 if kind.kind == "f" else 2)
    return np.dtype(np.float64 if wide else np.float32)


@lru_cache(maxsize=256)
def side_weights(mode: str, chunk: int, pad: int) -> npt.NDArray[np.float64]:
    """Return the weights of the `2 * pad` voxels at the low side of a chunk of `chunk + 2 * pad`, the outermost first.

    Those of the high side are the same, the other way round. Both sum to 1 with those of the neighbour. Not to be
    written to.
    """
    i = np.arange(1, 2 * pad + 1, dtype=np.float64)
    if mode == "linear":
        weights = i / (2 * pad + 1)
    elif mode == "quadratic":
        x = i / (pad + 0.5)
        weights = np.where(i <= pad, x**2 / 2, 1 - (2 - x) ** 2 / 2)
    elif mode == "bump":
        weights = _bump_weights(i - 1, chunk, chunk + 2 * pad)
    else:
        raise ValueError(f"expected a mode with weights, one of {', '.join(WEIGHTED)}, came {mode!r}")
    weights.flags.writeable = False
    return weights


def _bump_weights(j: npt.NDArray[np.float64], stride: int, size: int) -> npt.NDArray[np.float64]:
    # b / (b + b'), of which both are 0 in floating point at large sizes: so by the logarithms of b and b'.
    logarithm, neighbour = (-1 / (1 - (2 * (k + 1) / (size + 1) - 1) ** 2) for k in (j, j + stride))
    ratio = np.exp(-abs(logarithm - neighbour))
    return np.where(logarithm < neighbour, ratio, 1) / (1 + ratio)


def edges_of(chunk: Box, region: Box) -> Edges:
    """Return which sides of a chunk, without pads, lie on the edge of the region that is cut into chunks."""
    x, y, z = ((chunk.start[axis] <= region.start[axis], chunk.stop[axis] >= region.stop[axis]) for axis in range(3))
    return (x, y, z)


def axis_weights(mode: str, chunk: int, pad: int, edges: tuple[bool, bool]) -> npt.NDArray[np.float64]:
    """Return the weights along one axis of a chunk of `chunk + 2 * pad` voxels; 1 where it does not overlap."""
    weights = np.ones(chunk + 2 * pad)
    side = side_weights(mode, chunk, pad)
    low, high = edges
    if not low:
        weights[: 2 * pad] = side
    if not high:
        weights[chunk:] = side[::-1]
    return weights


def weigh(values: Voxels, box: Box, chunk: Box, pad: Vec, mode: str, edges: Edges) -> None:
    """Multiply voxels by their weights, in place.

    Args:
        values: CXYZ floats, the voxels of `box`.
        box: lies within the chunk with its pads.
        chunk: without pads.
        pad: voxels at each side; at most half of the chunk.
        mode: one of `WEIGHTED`.
        edges: sides that are not weighted.

    """
    for axis in range(3):
        start, stop, width = chunk.start[axis] - pad[axis], chunk.stop[axis] + pad[axis], 2 * pad[axis]
        if not width:
            continue
        side = side_weights(mode, chunk.shape[axis], pad[axis]).astype(values.dtype)
        low, high = edges[axis]
        if not low:
            _weigh_strip(values, axis, box, start, side)
        if not high:
            _weigh_strip(values, axis, box, stop - width, side[::-1])


def _weigh_strip(values: Voxels, axis: int, box: Box, start: int, weights: npt.NDArray[Any]) -> None:
    """Multiply the voxels that lie along `axis` within the strip of `weights` from `start` on."""
    first, last = max(start, box.start[axis]), min(start + len(weights), box.stop[axis])
    if first >= last:
        return
    where = [slice(None)] * 4
    where[axis + 1] = slice(first - box.start[axis], last - box.start[axis])
    shape = [1] * 4
    shape[axis + 1] = last - first
    values[tuple(where)] *= weights[first - start : last - start].reshape(shape)


def to_be_weighted(values: Voxels, data_type: str, *, own: bool = False) -> Voxels:
    """Return voxels in the type in which they are summed: a copy, or, if they are one's `own` and of that type, they.

    Args:
        values: of `data_type`, or already of its accumulation type.
        data_type: the destination's.
        own: whether `values` may be written to.

    Raises:
        FunctionError: an integer is too large for a float64.

    """
    kind = accumulation_type(data_type)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size:
        low, high = int(values.min()), int(values.max())
        if max(-low, high) > _EXACT:
            raise FunctionError(
                f"blending: expected values of {values.dtype} within {-_EXACT} and {_EXACT}, of which sums round "
                f"right, came {low if -low > high else high}: blend ids and other large numbers with mode max, or "
                f"crop instead"
            )
    return values.astype(kind, copy=not own)


def rounded(values: Voxels, data_type: str, *, own: bool = False) -> Voxels:
    """Return sums as voxels of `data_type`: rounded half to even for integers.

    Args:
        values: sums whose weights are 1 together, so that they stay within what `data_type` holds; or voxels of it.
        data_type: the destination's.
        own: whether `values` may be given back.

    """
    wanted = np.dtype(data_type)
    if values.dtype.kind == "f" and wanted.kind in "iu":
        return np.rint(values, out=np.empty_like(values, wanted), casting="unsafe")
    return values.astype(wanted, copy=not own)


class Accumulator:
    """Sums (or joins, or takes the largest of) the voxels of chunks that overlap, in the order in which they come.

    The same chunks in the same order give the same bits. Memory: the voxels of `box`, once.

    Args:
        box: the voxels that are wanted; whatever chunks hold beyond it is dropped.
        mode: how chunks are blended; None where they do not overlap.
        kind: type of the voxels: for a mode with weights, that of the sums.

    """

    def __init__(self, box: Box, mode: str | None, kind: np.dtype[Any]) -> None:
        self.box, self._mode, self._kind = box, mode, kind
        self._values: Voxels | None = None

    def add(self, box: Box, values: Voxels) -> None:
        """Take the voxels of one chunk, CXYZ of the shape of `box`; weighted already, where the mode has weights."""
        common = self.box.intersection(box)
        if not common.voxels:
            return
        if self._values is None:
            self._values = self._started(values)
        part = values[(slice(None), *common.slices(box.start))]
        total = self._values[(slice(None), *common.slices(self.box.start))]
        if self._mode is None:
            total[...] = part
        elif self._mode == "max":
            np.maximum(total, part, out=total)
        else:
            total += part

    def _started(self, like: Voxels) -> Voxels:
        """Return as many voxels as nothing has been added to; their axes lie in memory as those of `like`."""
        values = np.empty_like(like, self._kind, shape=(like.shape[0], *self.box.shape))
        if self._mode == "max":
            values.fill(-np.inf if self._kind.kind == "f" else np.iinfo(self._kind).min)
        elif self._mode is not None:
            values.fill(0)
        return values

    def result(self) -> Voxels:
        """Return the voxels of `box`, CXYZ.

        Raises:
            ValueError: nothing has been added.

        """
        if self._values is None:
            raise ValueError(f"expected at least one chunk within {self.box} ({shape_text(self.box.shape)} voxels)")
        return self._values
