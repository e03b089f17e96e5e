"""The encoder of compressed_segmentation: blocks of voxels, each with a table of its labels.

The format: https://github.com/google/neuroglancer/blob/master/src/sliceview/compressed_segmentation/README.md, which
leaves the order open. Here all tables stand before all values: what is alike is side by side, which gzip makes smaller
than tables and values in turn; and only tables come before a table, whose offset has but 24 bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Vec

Array = npt.NDArray[Any]


def encode(array: Array, block_size: Vec = (8, 8, 8)) -> bytes:
    """Encode voxels; the bytes depend on the voxels alone, not on their order in memory.

    The first call in a process loads numba, and the first of all compiles; one serves for all types and shapes.

    Args:
        array: XYZC, uint32 or uint64; not copied where neighbours along x are neighbours in memory.
        block_size: in voxels, XYZ.

    Raises:
        ValueError: the voxels are of another type, or none.
        OverflowError: they are so many and varied that the offsets of the format are too short.

    """
    if array.dtype not in (np.uint32, np.uint64) or array.ndim != 4 or not array.size:
        raise ValueError(f"expected XYZC voxels of uint32 or uint64, came {array.dtype} of shape {array.shape}")
    channels = [_encode_channel(array[..., c], block_size) for c in range(array.shape[3])]
    lengths = [sum(part.nbytes for part in parts) // 4 for parts in channels]
    starts = np.cumsum([len(channels), *lengths])
    if starts[-1] >= 2**32:
        raise OverflowError("the input data were too large and varied and generated an offset larger than 32-bits")
    return b"".join([starts[:-1].astype(np.uint32).data, *(part.data for parts in channels for part in parts)])


def _encode_channel(voxels: Array, block_size: Vec) -> tuple[Array, Array, Array]:
    """Return the headers, the tables and the values of XYZ voxels."""
    from beam_volumes import segmentation_encoder_kernels as kernels

    x, y, z = voxels.shape
    grid = [-(-n // b) for n, b in zip((x, y, z), block_size, strict=True)]
    size = math.prod(block_size)
    most_bits = next(bits for bits in (1, 2, 4, 8, 16, 32) if size <= 2**bits)
    headers = np.empty((math.prod(grid), 2), np.uint32)
    # Pages that nothing is written to take no memory.
    tables = np.empty(min(voxels.size, 2**24 + (grid[0] + 1) * size), np.uint64)
    values = np.empty(headers.shape[0] * -(-size * most_bits // 64), np.uint64)
    flat, steps = _flattened(voxels)
    both: Any = tuple(flat if flat.dtype == t else np.empty(0, t) for t in (np.uint32, np.uint64))
    n_labels, n_words = kernels.encode_blocks(both, (x, y, z), steps, block_size, headers, tables, values)
    if n_labels < 0:
        raise OverflowError("the input data were too large and varied and generated a table offset larger than 24-bits")
    tables, values = tables[:n_labels].astype(voxels.dtype, copy=False), values[:n_words]
    headers[headers[:, 0] >= 2**24, 1] += np.uint32((headers.nbytes + tables.nbytes) // 4)
    return headers, tables, values


def _flattened(voxels: Array) -> tuple[Array, tuple[int, int]]:
    """Return XYZ voxels as one piece of memory, and how far neighbours along y and z are apart in it."""
    item = voxels.itemsize
    in_place = voxels.strides[0] == item and all(s >= 0 and s % item == 0 for s in voxels.strides)
    if not (in_place and voxels.flags.aligned and voxels.dtype.isnative):
        voxels = np.array(voxels, voxels.dtype.newbyteorder("="), order="F")
    _, y, z = (stride // item for stride in voxels.strides)
    length = voxels.shape[0] + (voxels.shape[1] - 1) * y + (voxels.shape[2] - 1) * z
    return np.asarray(_Memory(voxels, length)), (y, z)


class _Memory:
    """Voxels from the first one on, flat, with what lies between.

    They pass for writeable even where they are not: nothing writes to them, and numba would compile all once more.
    """

    def __init__(self, voxels: Array, length: int) -> None:
        self._voxels = voxels
        self.__array_interface__ = {
            "version": 3,
            "data": (voxels.ctypes.data, False),
            "shape": (length,),
            "typestr": voxels.dtype.str,
        }
