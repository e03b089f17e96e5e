"""The loops of voxel counting, compiled by numba; import this module only where voxels are at hand, it loads numba.

A hash table is two arrays: `slots` (n, 2), uint64, of labels and their voxels, where no voxels mark an empty slot; and
`boxes` (n, 6), int64, of x0, y0, z0, x1, y1, z1, half open, or (0, 6) where boxes are not wanted. n is a power of two.
A label stands in the first free slot from its hash on.

Neighbours along x are mostly alike: a run of equal voxels is looked up once. Nothing is compiled at import, see
`beam_volumes.downsampling_kernels`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.uint64]
Boxes = npt.NDArray[np.int64]

# 2^64 divided by the golden ratio: the high bits of the product depend on all bits of a label (Knuth, volume 3, 6.4).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")


@_kernel
def count_rows(
    rows: npt.NDArray[Any], start: tuple[int, int], origin: npt.NDArray[np.int64], slots: Slots, boxes: Boxes, used: int
) -> tuple[int, int]:
    """Count rows of voxels into a table, until it is half full.

    Args:
        rows: (Z * Y, X), C-contiguous, of an unsigned type.
        start: the first row to count, and the number of rows in y.
        origin: the place of the first voxel of `rows`, XYZ.
        slots: see the module; more than twice as many as there are voxels in a row.
        boxes: see the module.
        used: how many slots are taken.

    Returns:
        The first row that was not counted, and how many slots are taken now.

    """
    row, y_size = start
    length = np.uint64(rows.shape[1])
    mask = np.uint64(slots.shape[0] - 1)
    shift = np.uint64(64 - _log2(slots.shape[0]))
    most = slots.shape[0] // 2
    with_boxes = boxes.shape[0] > 0
    while row < rows.shape[0] and used + rows.shape[1] <= most:
        at = np.uint64(row)
        x = np.uint64(0)
        while x < length:
            voxel = rows[at, x]
            first = x
            x += _ONE
            while x < length and rows[at, x] == voxel:
                x += _ONE
            label = np.uint64(voxel)
            slot = (label * _GOLDEN) >> shift
            while slots[slot, 1] != 0 and slots[slot, 0] != label:
                slot = (slot + _ONE) & mask
            is_new = slots[slot, 1] == 0
            if is_new:
                slots[slot, 0] = label
                used += 1
            slots[slot, 1] += x - first
            if with_boxes:
                z, y = divmod(row, y_size)
                _extend(boxes, slot, is_new, (origin[0] + np.int64(first), origin[0] + np.int64(x)), origin, (y, z))
        row += 1
    return row, used


@_kernel
def _log2(number: int) -> int:
    bits = 0
    while number > 1:
        number >>= 1
        bits += 1
    return bits


@_kernel
def _extend(
    boxes: Boxes, slot: Any, is_new: bool, span: tuple[int, int], origin: npt.NDArray[np.int64], row: tuple[int, int]
) -> None:
    y, z = origin[1] + row[0], origin[2] + row[1]
    if is_new:
        boxes[slot, 0], boxes[slot, 1], boxes[slot, 2] = span[0], y, z
        boxes[slot, 3], boxes[slot, 4], boxes[slot, 5] = span[1], y + 1, z + 1
        return
    boxes[slot, 0], boxes[slot, 3] = min(boxes[slot, 0], span[0]), max(boxes[slot, 3], span[1])
    boxes[slot, 1], boxes[slot, 4] = min(boxes[slot, 1], y), max(boxes[slot, 4], y + 1)
    boxes[slot, 2], boxes[slot, 5] = min(boxes[slot, 2], z), max(boxes[slot, 5], z + 1)


@_kernel
def move_slots(slots: Slots, boxes: Boxes, larger_slots: Slots, larger_boxes: Boxes) -> None:
    """Move a table into a larger one, which is empty."""
    mask = np.uint64(larger_slots.shape[0] - 1)
    shift = np.uint64(64 - _log2(larger_slots.shape[0]))
    for i in range(slots.shape[0]):
        if slots[i, 1] == 0:
            continue
        slot = (slots[i, 0] * _GOLDEN) >> shift
        while larger_slots[slot, 1] != 0:
            slot = (slot + _ONE) & mask
        larger_slots[slot, 0], larger_slots[slot, 1] = slots[i, 0], slots[i, 1]
        if boxes.shape[0]:
            for axis in range(6):
                larger_boxes[slot, axis] = boxes[i, axis]
