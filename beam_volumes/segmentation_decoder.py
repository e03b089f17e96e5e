"""The decoder of compressed_segmentation: it looks at every offset first, and writes to where the voxels are wanted.

The format: https://github.com/google/neuroglancer/blob/master/src/sliceview/compressed_segmentation/README.md. Other
decoders take offsets on trust, and read or crash beyond the end of damaged bytes; and make an array of their own for
each chunk, to be copied.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_volumes.errors import CorruptDataError
from beam_volumes.geometry import Vec

Array = npt.NDArray[Any]

_LARGEST_BLOCK = 2**48
"""In voxels, so that no number of bits overflows."""

_DAMAGE = {
    1: "a value has a number of bits that is none of 0, 1, 2, 4, 8, 16 and 32",
    2: "a table begins beyond the end",
    3: "values end beyond the end",
    4: "a value points beyond the end",
}
"""By what the kernel returns."""


def decode(data: bytes, shape: tuple[int, ...], data_type: npt.DTypeLike, block_size: Vec = (8, 8, 8)) -> Array:
    """Return the voxels of a chunk, Fortran order; see `decode_into`.

    Args:
        data: of the chunk.
        shape: of its voxels, XYZC.
        data_type: of its voxels.
        block_size: in voxels, XYZ.

    """
    x, y, z, channels = shape
    _check_data(data, (x, y, z), channels, block_size)
    out = np.empty(shape, data_type, order="F")
    decode_into(data, out, (x, y, z), (0, 0, 0), block_size)
    return out


def decode_into(data: bytes, out: Array, shape: Vec, at: Vec, block_size: Vec = (8, 8, 8)) -> None:
    """Decode a chunk to where it lies in an array; what lies outside of the array is left out.

    Blocks that are left out are checked but for their values. The first call in a process loads numba, and the first of
    all with a type compiles.

    Args:
        data: of the chunk, not compressed any more.
        out: XYZC, uint32 or uint64, Fortran-ordered, to write to. Where an error is raised some of it may be written.
        shape: of the chunk, XYZ.
        at: where its first voxel lies in `out`, XYZ; it may be outside.
        block_size: in voxels, XYZ.

    Raises:
        CorruptDataError: the blocks do not lie in the bytes.
        ValueError: `out` is something else, or the blocks have no size.

    """
    from beam_volumes import segmentation_decoder_kernels as kernels

    flags = out.flags
    if out.dtype not in (np.uint32, np.uint64) or not out.dtype.isnative or out.ndim != 4:
        raise ValueError(f"expected XYZC voxels of uint32 or uint64, came {out.dtype} of shape {out.shape}")
    if not (flags.f_contiguous and flags.writeable and flags.aligned):
        raise ValueError("expected an array in Fortran order that can be written to, came another")
    _check_data(data, shape, out.shape[3], block_size)
    low = [max(0, -a) for a in at]
    high = [min(n, m - a) for n, m, a in zip(shape, out.shape[:3], at, strict=True)]
    if any(n >= m for n, m in zip(low, high, strict=True)):
        return
    # Another kind of memory would be another type to numba, and compiled once more.
    words = np.require(np.frombuffer(data, np.uint32, len(data) // 4), None, ["A"])
    words.flags.writeable = False
    flat, (x, y, z, channels) = out.reshape(-1, order="F"), out.shape
    grid: Any = tuple(-(-n // b) for n, b in zip(shape, block_size, strict=True))
    # In an info it is a list.
    blocks: Any = (grid, tuple(block_size))
    window: Any = (tuple(low), tuple(high))
    for channel in range(channels):
        first = at[0] + x * (at[1] + y * (at[2] + z * channel))
        damage = kernels.decode_blocks(words, int(words[channel]), blocks, window, flat, (first, x, x * y))
        if damage:
            raise _damaged(data, _DAMAGE[damage])


def _check_data(data: bytes, shape: Vec, channels: int, block_size: Vec) -> None:
    """Check that the headers of all blocks lie in the bytes."""
    if min(block_size) < 1 or math.prod(block_size) > _LARGEST_BLOCK:
        raise ValueError(f"expected blocks of 1 to {_LARGEST_BLOCK} voxels, came {block_size}")
    n_words = len(data) // 4
    n_headers = 2 * math.prod(-(-n // b) for n, b in zip(shape, block_size, strict=True))
    if n_words < channels or np.any(np.frombuffer(data, "<u4", channels).astype(np.int64) + n_headers > n_words):
        raise _damaged(data, f"there are to be {n_headers // 2} in each of {channels} channel(s)")


def _damaged(data: bytes, why: str) -> CorruptDataError:
    return CorruptDataError(f"its blocks do not lie in its {len(data)} bytes: {why}")
