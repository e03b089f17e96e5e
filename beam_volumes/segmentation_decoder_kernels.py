"""The loops of the decoder of compressed_segmentation, compiled by numba; import it only where voxels are at hand.

Blocks are decoded row by row of them, along x, and each of those voxel row by voxel row: so voxels go to memory in long
pieces, and little is left to do at each.

Nothing is compiled at import, see `beam_volumes.downsampling_kernels`; as there, indices are unsigned in the innermost
loops. For little-endian machines.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Vec

Words = npt.NDArray[np.uint32]
Places = npt.NDArray[np.uint64]
Array = npt.NDArray[Any]
Part = tuple[Vec, Vec]
"""Of a channel: first and end, XYZ."""
Row = tuple[Places, Places, Places, Places]
"""Of each block in a row: the bits of a value; the words that its table and its values begin with; its first labels."""

_0, _1, _5, _8, _31, _32 = (np.uint64(n) for n in (0, 1, 5, 8, 31, 32))
_FEW = 4
"""Bits of a value in blocks whose tables are looked up in `Row`."""
_LABELS = 1 << _FEW

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")
_step = numba.njit(nogil=True, error_model="numpy")


@_kernel
def decode_blocks(words: Words, start: int, blocks: tuple[Vec, Vec], window: Part, out: Array, place: Vec) -> int:
    """Decode the blocks of one channel; all of their headers are known to lie in the words.

    Args:
        words: of the chunk.
        start: the word that the channel begins with.
        blocks: how many there are on each axis, and the size of one, XYZ.
        window: the voxels that are wanted; at least one.
        out: flat, to write to, of the type of the labels.
        place: where the first voxel of the channel lies in `out` (maybe before it), and the strides of Y and Z.

    Returns:
        0, or what is damaged: bits (1), the place of a table (2), that of values (3), a value (4).

    """
    grid, size = blocks
    low, high = window
    damage = _find_damage(words, start, grid[0] * grid[1] * grid[2], size[0] * size[1] * size[2], out.itemsize // 4)
    if damage:
        return damage
    i, n = low[0] // size[0], (high[0] - 1) // size[0] + 1 - low[0] // size[0]
    row = (np.empty(n, np.uint64), np.empty(n, np.uint64), np.empty(n, np.uint64), np.empty(n * _LABELS, np.uint64))
    for k in range(low[2] // size[2], (high[2] - 1) // size[2] + 1):
        for j in range(low[1] // size[1], (high[1] - 1) // size[1] + 1):
            # From the first block of the row on; only along x the window goes on beyond a block.
            x, y, z = i * size[0], j * size[1], k * size[2]
            part = (
                (low[0] - x, max(low[1] - y, 0), max(low[2] - z, 0)),
                (high[0] - x, min(high[1] - y, size[1]), min(high[2] - z, size[2])),
            )
            _read_row(words, start, 2 * (i + grid[0] * (j + grid[1] * k)), row, out.itemsize == 8)
            if not _points_to_labels(words, row, part, size, out.itemsize == 8):
                return 4
            _write_row(words, row, part, size, out, (place[0] + x + place[1] * y + place[2] * z, place[1], place[2]))
    return 0


@_step
def _find_damage(words: Words, start: int, n: int, size: int, label_words: int) -> int:
    """Look at the headers of n blocks."""
    for i in range(n):
        first = words[start + 2 * i]
        bits: Any = np.int64(first >> 24)
        if bits > 32 or bits & (bits - 1):
            return 1
        if start + np.int64(first & 0xFFFFFF) + label_words > words.size:
            return 2
        if bits and start + np.int64(words[start + 2 * i + 1]) + (bits * size + 31) // 32 > words.size:
            return 3
    return 0


@_step
def _read_row(words: Words, start: int, header: int, row: Row, wide: bool) -> None:
    """Read the headers of a row of blocks, and of those with few labels the tables, or as much as there is of one."""
    bits, tables, values, labels = row
    for i in range(bits.size):
        first = words[start + header + 2 * i]
        bits[i] = first >> 24
        tables[i] = start + (first & 0xFFFFFF)
        # The second word means nothing where there are no values.
        values[i] = start + words[start + header + 2 * i + 1] if bits[i] else 0
        if bits[i] <= _FEW:
            n: Any = min(1 << np.int64(bits[i]), _size_of_table(words, tables[i], wide))
            for index in range(n):
                labels[i * _LABELS + index] = _label(words, tables[i], np.uint64(index), wide)


@_step
def _size_of_table(words: Words, table: Any, wide: bool) -> int:
    """Return how many labels there is room for from the start of a table to the end."""
    room: Any = np.int64(words.size) - np.int64(table)
    return room >> 1 if wide else room


@_step
def _label(words: Words, table: Any, index: Any, wide: bool) -> Any:
    if wide:
        at = table + index + index
        return np.uint64(words[at]) | (np.uint64(words[at + _1]) << _32)
    return np.uint64(words[table + index])


@_step
def _points_to_labels(words: Words, row: Row, part: Part, size: Vec, wide: bool) -> bool:
    """Whether the values of a row of blocks all point into the words."""
    bits, tables, values, _ = row
    low, high = part
    for i in range(bits.size):
        known = np.uint64(_size_of_table(words, tables[i], wide))
        mask = (_1 << bits[i]) - _1
        # Tables mostly stand before values, and there is room after them for more labels than a value can tell.
        if mask >= known:
            largest = _0
            for z in range(low[2], high[2]):
                for y in range(low[1], high[1]):
                    for x in range(max(low[0] - i * size[0], 0), min(high[0] - i * size[0], size[0])):
                        at = np.uint64(x + size[0] * (y + size[1] * z)) * bits[i]
                        value = (np.uint64(words[values[i] + (at >> _5)]) >> (at & _31)) & mask
                        largest = max(largest, value)
            if largest >= known:
                return False
    return True


@_step
def _write_row(words: Words, row: Row, part: Part, size: Vec, out: Array, place: Vec) -> None:
    """Write the voxels of a row of blocks."""
    all_bits, tables, values, labels = row
    low, high = part
    for z in range(low[2], high[2]):
        for y in range(low[1], high[1]):
            for i in range(all_bits.size):
                begin = max(low[0] - i * size[0], 0)
                n = np.uint64(min(high[0] - i * size[0], size[0]) - begin)
                to = np.uint64(place[0] + i * size[0] + begin + place[1] * y + place[2] * z)
                bits = all_bits[i]
                at = np.uint64(begin + size[0] * (y + size[1] * z)) * bits
                mask = (_1 << bits) - _1
                if bits <= np.uint64(_FEW) and (at & _31) + n * bits <= _32:
                    packed = np.uint64(words[values[i] + (at >> _5)]) >> (at & _31)
                    table = np.uint64(i * _LABELS)
                    if n == _8:
                        # Most blocks are 8 voxels long; the compiler unrolls this.
                        for x in range(8):
                            out[to + np.uint64(x)] = labels[table + ((packed >> (np.uint64(x) * bits)) & mask)]
                    else:
                        for x in range(n):
                            out[to + x] = labels[table + ((packed >> (x * bits)) & mask)]
                else:
                    for x in range(n):
                        index = (np.uint64(words[values[i] + (at >> _5)]) >> (at & _31)) & mask
                        out[to + x] = _label(words, tables[i], index, out.itemsize == 8)
                        at += bits
