"""The loops of downsampling, compiled by numba; import this module only where voxels are at hand, it loads numba.

Every array is C-contiguous with shape (C * Z * Y, X): the rows along x of a Fortran-ordered XYZC array, x fastest.
`edges` of an axis (n + 1) are where its n blocks begin and end in the fine array; the first and the last may be short.
`pairs` is the half-open range of the blocks that are two voxels long in x, or (0, 0) where the factor is not 2.

Nothing is compiled at import: a kernel is compiled on its first call with a data type, and kept on disk beside this
module (or where NUMBA_CACHE_DIR says). All of them leave the GIL to other threads.

Two habits make the inner loops fast. Rows are numbers, not slices: numba counts references to every slice, which costs
more than the work on a row. Indices are unsigned there: numba looks at others for negative values, and LLVM makes no
vectors then.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

Array = npt.NDArray[Any]
Edges = npt.NDArray[np.int64]
Axes = tuple[Edges, Edges, Edges]
Range = tuple[int, int]

# Masks of four 16-bit lanes in a word.
_ALL, _ONES, _BYTES = np.uint64(2**64 - 1), np.uint64(0x0001000100010001), np.uint64(0x00FF00FF00FF00FF)
_PAIRS, _8, _16 = np.uint64(0x0000FFFF0000FFFF), np.uint64(8), np.uint64(16)

# Compiling is quick as long as no function of numpy is used: `np.diff` and `max` alone took 3 s.
_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")

_WITHIN: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_part = numba.njit(error_model="numpy", **_WITHIN)
"""What only kernels call: kept on disk within them, and without entries for Python and C, whose compilation counts."""


@_kernel
def first_of_blocks(fine: Array, edges: Axes, out: Array) -> None:
    """Write the first voxel of each block to `out`, of the same type."""
    x_edges = edges[0]
    for row in range(out.shape[0]):
        first = _rows(edges, row)[0]
        for x in range(out.shape[1]):
            out[row, x] = fine[first, x_edges[x]]


@_part
def _rows(edges: Axes, row: int) -> tuple[int, int, int, int]:
    """Return the first fine row of a coarse row, how many rows it has in y and in z, and the stride of the latter."""
    _, y_edges, z_edges = edges
    rest, y = divmod(row, y_edges.size - 1)
    c, z = divmod(rest, z_edges.size - 1)
    first = (c * z_edges[-1] + z_edges[z]) * y_edges[-1] + y_edges[y]
    return first, y_edges[y + 1] - y_edges[y], z_edges[z + 1] - z_edges[z], y_edges[-1]


@_kernel
def mode_of_blocks(
    fine: Array, edges: Axes, pairs: Range, sparse: bool, found: tuple[Array, Array], out: Array
) -> None:
    """Write the most frequent label of each block to `out`; of several, the one whose first voxel is first, x fastest.

    Args:
        fine: labels of an unsigned type.
        edges: of x, y and z.
        pairs: see the module.
        sparse: leave 0 out of the count, unless there is nothing else.
        found: room for the labels of the largest block (of the same type) and for their counts (int64).
        out: labels of the same type.

    """
    x_edges = edges[0]
    for row in range(out.shape[0]):
        rows = _rows(edges, row)
        left, right = pairs if rows[1] == 2 and rows[2] <= 2 else (0, 0)
        for x in range(left):
            out[row, x] = _mode(fine, rows, (x_edges[x], x_edges[x + 1]), sparse, found)
        if right > left and rows[2] == 2:
            _mode_of_eight(fine, rows, x_edges[left] - 2 * left, sparse, found, out[row], (left, right))
        elif right > left and sparse:
            _sparse_mode_of_four(fine, rows[0], x_edges[left] - 2 * left, out, row, (left, right))
        elif right > left:
            _mode_of_four(fine, rows[0], x_edges[left] - 2 * left, out, row, (left, right))
        for x in range(right, out.shape[1]):
            out[row, x] = _mode(fine, rows, (x_edges[x], x_edges[x + 1]), sparse, found)


@_part
def _mode(fine: Array, rows: tuple[int, int, int, int], span: Range, sparse: bool, found: tuple[Array, Array]) -> Any:
    # Labels in the order of their first voxel: the first of the largest counts is the one that came first.
    labels, counts = found
    first, y_rows, z_rows, stride = rows
    n = last = 0
    for z in range(z_rows):
        for row in range(first + z * stride, first + z * stride + y_rows):
            for x in range(span[0], span[1]):
                label = fine[row, x]
                if sparse and label == 0:
                    continue
                # Neighbours are mostly alike.
                if n == 0 or labels[last] != label:
                    last = 0
                    while last < n and labels[last] != label:
                        last += 1
                    if last == n:
                        labels[last], counts[last] = label, 0
                        n += 1
                counts[last] += 1
    return _first_of_most(labels, counts, n) if n else fine.dtype.type(0)


@_part
def _first_of_most(labels: Array, counts: Array, n: int) -> Any:
    best = 0
    for at in range(1, n):
        if counts[at] > counts[best]:
            best = at
    return labels[best]


@_part
def _mode_of_four(fine: Array, first: int, start: int, out: Array, row: int, span: Range) -> None:
    # Two equal labels of four are at least a tie, and the pair that begins first wins it.
    for i in range(span[0], span[1]):
        x, y = np.uint64(start + 2 * i), np.uint64(start + 2 * i + 1)
        a, b, c, d = fine[first, x], fine[first, y], fine[first + 1, x], fine[first + 1, y]
        label = c if c == d else a
        label = b if (b == c) | (b == d) else label
        out[row, np.uint64(i)] = a if (a == b) | (a == c) | (a == d) else label


@_part
def _sparse_mode_of_four(fine: Array, first: int, start: int, out: Array, row: int, span: Range) -> None:
    for i in range(span[0], span[1]):
        x, y = np.uint64(start + 2 * i), np.uint64(start + 2 * i + 1)
        a, b, c, d = fine[first, x], fine[first, y], fine[first + 1, x], fine[first + 1, y]
        label = c if c != 0 else d
        label = b if b != 0 else label
        label = a if a != 0 else label
        label = c if (c != 0) & (c == d) else label
        label = b if (b != 0) & ((b == c) | (b == d)) else label
        out[row, np.uint64(i)] = a if (a != 0) & ((a == b) | (a == c) | (a == d)) else label


@_part
def _mode_of_eight(
    fine: Array,
    rows: tuple[int, int, int, int],
    start: int,
    sparse: bool,
    found: tuple[Array, Array],
    out: Array,
    span: Range,
) -> None:
    first, third = rows[0], rows[0] + rows[3]
    for i in range(span[0], span[1]):
        x, y = np.uint64(start + 2 * i), np.uint64(start + 2 * i + 1)
        a = fine[first, x]
        alike = (fine[first, y] == a) + (fine[first + 1, x] == a) + (fine[first + 1, y] == a)
        alike += (fine[third, x] == a) + (fine[third, y] == a)
        alike += (fine[third + 1, x] == a) + (fine[third + 1, y] == a)
        # Half of the block is at least a tie, and the first voxel wins it.
        if alike == 7 or (alike >= 3 and not (sparse and a == 0)):
            out[np.uint64(i)] = a
        else:
            out[np.uint64(i)] = _mode_of_mixed(fine, (first, third), (x, y), sparse, found[0])


@_part
def _mode_of_mixed(fine: Array, rows: Range, columns: tuple[np.uint64, np.uint64], sparse: bool, labels: Array) -> Any:
    # All pairs are compared, without branches: what is equal can hardly be foretold. The eight are not all background.
    (first, third), (x, y) = rows, columns
    labels[0], labels[1], labels[2], labels[3] = fine[first, x], fine[first, y], fine[first + 1, x], fine[first + 1, y]
    labels[4], labels[5], labels[6], labels[7] = fine[third, x], fine[third, y], fine[third + 1, x], fine[third + 1, y]
    best = 0
    for i in range(8):
        count = 0
        for j in range(8):
            count += labels[i] == labels[j]
        # The larger count, then the lower place.
        best = max(best, 0 if sparse and labels[i] == 0 else count * 8 + 7 - i)
    return labels[7 - best % 8]


@_kernel
def extreme_of_blocks(fine: Array, edges: Axes, pairs: Range, largest: bool, out: Array) -> None:
    """Write the smallest, or the largest, voxel of each block to `out`, of the same type; NaN if there is one."""
    first_of_blocks(fine, edges, out)
    x_edges = edges[0]
    left, right = pairs
    for row in range(out.shape[0]):
        first, y_rows, z_rows, stride = _rows(edges, row)
        for z in range(z_rows):
            for fine_row in range(first + z * stride, first + z * stride + y_rows):
                for i in range(left):
                    for x in range(x_edges[i], x_edges[i + 1]):
                        out[row, i] = _extreme(out[row, i], fine[fine_row, x], largest)
                start = x_edges[left] - 2 * left
                for i in range(left, right):
                    at, one, two = np.uint64(i), np.uint64(start + 2 * i), np.uint64(start + 2 * i + 1)
                    best = _extreme(out[row, at], fine[fine_row, one], largest)
                    out[row, at] = _extreme(best, fine[fine_row, two], largest)
                for i in range(right, out.shape[1]):
                    for x in range(x_edges[i], x_edges[i + 1]):
                        out[row, i] = _extreme(out[row, i], fine[fine_row, x], largest)


@_part
def _extreme(best: Any, value: Any, largest: bool) -> Any:
    # A comparison with NaN is false: NaN is taken, and then nothing replaces it.
    keep = best >= value if largest else best <= value
    return best if keep or best != best else value


@_kernel
def sum_of_blocks(fine: Array, edges: Axes, pairs: Range, sums: Array) -> None:
    """Write the sum of each block to `sums`, of a type that holds every sum: int64 at most, or float64."""
    for row in range(sums.shape[0]):
        _add_rows(fine, edges, pairs, row, sums, row)


@_kernel
def average_of_blocks(
    fine: Array, edges: Axes, pairs: Range, counts: Axes, alike: Range, sums: Array, out: Array
) -> None:
    """Add up each block, and divide by the number of voxels of mip 0 in it.

    Args:
        fine: voxels of mip 0, or sums of such voxels.
        edges: of x, y and z.
        pairs: see the module.
        counts: along x, y and z, the voxels of mip 0 in each block.
        alike: the half-open range of the blocks that are equally long in x; not empty.
        sums: as in `sum_of_blocks`; or one row only, which then serves for all.
        out: averages, rounded half to even in integer types.

    """
    x_counts, y_counts, z_counts = counts
    left, right = alike
    for row in range(out.shape[0]):
        used = row if sums.shape[0] > 1 else 0
        _add_rows(fine, edges, pairs, row, sums, used)
        rest, y = divmod(row, y_counts.size)
        voxels = y_counts[y] * z_counts[rest % z_counts.size]
        for x in range(left):
            _divide(sums, used, voxels * x_counts[x], out, row, (x, x + 1))
        _divide(sums, used, voxels * x_counts[left], out, row, (left, right))
        for x in range(right, out.shape[1]):
            _divide(sums, used, voxels * x_counts[x], out, row, (x, x + 1))


@_part
def _add_rows(fine: Array, edges: Axes, pairs: Range, row: int, sums: Array, used: int) -> None:
    # Always from the first voxel of a block to its last, one by one: the sums of floats depend on the order.
    first, y_rows, z_rows, stride = _rows(edges, row)
    for i in range(sums.shape[1]):
        sums[used, i] = 0
    for z in range(z_rows):
        for fine_row in range(first + z * stride, first + z * stride + y_rows):
            if fine.shape[1] == sums.shape[1]:
                for i in range(fine.shape[1]):
                    sums[used, i] += fine[fine_row, i]
            else:
                _add_row(fine, fine_row, edges[0], pairs, sums, used)


@_part
def _add_row(fine: Array, row: int, x_edges: Edges, pairs: Range, sums: Array, used: int) -> None:
    left, right = pairs
    for i in range(left):
        for x in range(x_edges[i], x_edges[i + 1]):
            sums[used, i] += fine[row, x]
    start = x_edges[left] - 2 * left
    for i in range(left, right):
        at, one, two = np.uint64(i), np.uint64(start + 2 * i), np.uint64(start + 2 * i + 1)
        sums[used, at] = sums[used, at] + fine[row, one] + fine[row, two]
    for i in range(right, sums.shape[1]):
        for x in range(x_edges[i], x_edges[i + 1]):
            sums[used, i] += fine[row, x]


@_kernel
def average_of_bytes(fine: Array, edges: Axes, sums: Array, out: Array) -> None:
    """Do what `average_of_blocks` does for voxels of mip 0 in uint8, with four blocks in each 64-bit word.

    All blocks are two voxels long in x, one or two in y and z. Several times as fast; for little-endian machines.

    Args:
        fine: rows of voxels, seen as 64-bit words.
        edges: of y and z; those of x are not looked at.
        sums: rows of 16-bit sums, or one row, seen as 64-bit words.
        out: rows of averages, seen as 32-bit words.

    """
    for row in range(out.shape[0]):
        used = row if sums.shape[0] > 1 else 0
        first, y_rows, z_rows, stride = _rows(edges, row)
        # The rows of the block: a, b in two rows, a, b, c, d in four; of a single row b is blotted out.
        a = np.uint64(first)
        b = np.uint64(first + 1 if y_rows == 2 else first + (z_rows - 1) * stride)
        c, d = np.uint64(first + (z_rows - 1) * stride), np.uint64(first + (z_rows - 1) * stride + y_rows - 1)
        keep = _ALL if y_rows * z_rows > 1 else np.uint64(0)
        shift = np.uint64(y_rows * z_rows // 2 + 1 if y_rows * z_rows < 4 else 3)
        bias = _ONES * np.uint64(y_rows * z_rows - 1)
        for i in range(out.shape[1]):
            at = np.uint64(i)
            total = _pair_sums(fine[a, at]) + _pair_sums(fine[b, at] & keep)
            if y_rows * z_rows == 4:
                total += _pair_sums(fine[c, at]) + _pair_sums(fine[d, at])
            sums[used, at] = total
            averages = ((total + bias + ((total >> shift) & _ONES)) >> shift) & _BYTES
            averages = (averages | (averages >> _8)) & _PAIRS
            out[row, at] = averages | (averages >> _16)


@_part
def _pair_sums(word: Any) -> Any:
    return (word & _BYTES) + ((word >> _8) & _BYTES)


def _divide(sums: Array, used: int, voxels: int, out: Array, row: int, span: Range) -> None:
    """Write sums / voxels to a span of a row; compiled code takes the version for the type of `sums`."""
    raise NotImplementedError("only compiled code divides here")


def _divide_floats(sums: Array, used: int, voxels: int, out: Array, row: int, span: Range) -> None:
    for i in range(span[0], span[1]):
        average = sums[used, i] / voxels
        # Which of several NaNs an addition returns is the compiler's choice: always write the same one.
        out[row, i] = average if average == average else np.nan


def _divide_integers(sums: Array, used: int, voxels: int, out: Array, row: int, span: Range) -> None:
    if voxels == 4:
        # A shift by a constant is what LLVM turns into vectors of narrow integers.
        for i in range(span[0], span[1]):
            at = np.uint64(i)
            out[row, at] = (sums[used, at] + 1 + ((sums[used, at] >> 2) & 1)) >> 2
    elif voxels == 8:
        for i in range(span[0], span[1]):
            at = np.uint64(i)
            out[row, at] = (sums[used, at] + 3 + ((sums[used, at] >> 3) & 1)) >> 3
    elif voxels > 1 and voxels & (voxels - 1) == 0:
        shift = 0
        while voxels >> shift > 1:
            shift += 1
        for i in range(span[0], span[1]):
            at = np.uint64(i)
            out[row, at] = (sums[used, at] + (voxels // 2 - 1) + ((sums[used, at] >> shift) & 1)) >> shift
    else:
        for i in range(span[0], span[1]):
            quotient = np.int64(sums[used, i]) // voxels
            twice = 2 * (np.int64(sums[used, i]) - quotient * voxels)
            out[row, i] = quotient + ((twice > voxels) | ((twice == voxels) & (quotient & 1 == 1)))


@overload(_divide, strict=False, jit_options={"error_model": "numpy"})
def _divide_by_type(sums: Any, used: Any, voxels: Any, out: Any, row: Any, span: Any) -> Any:
    del used, voxels, out, row, span
    return _divide_floats if isinstance(sums.dtype, types.Float) else _divide_integers
