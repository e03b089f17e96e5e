"""The loops of quantized meshes, compiled by numba: import it only where meshes are at hand.

Positions are quantized: three numbers from 0 to 2^16 - 1 at most, so that one packs into a word. Nothing here depends
on the order or the number of triangles but through positions: cells that share an edge change it in the same way.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Vec

Quanta = npt.NDArray[np.int32]
Faces = npt.NDArray[np.uint32]

# 2^64 divided by the golden ratio: the high bits of the product depend on all bits of a key (Knuth, volume 3, 6.4).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_Y, _Z = np.uint64(16), np.uint64(32)

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")
_step = numba.njit(nogil=True, error_model="numpy")


@_kernel
def quantize(vertices: npt.NDArray[np.int32], start: Vec, length: Vec, top: int, quanta: Quanta) -> int:
    """Write where vertices are in a cell, 0 at its start and `top` at its end; halves are rounded up.

    Args:
        vertices: (n, XYZ); `start` and `length` are of the cell, in the same unit.
        start: as above.
        length: as above.
        top: the last quantized coordinate.
        quanta: (n, XYZ), to write to.

    Returns:
        How many vertices are outside of the cell; they are moved to its border.

    """
    outside = 0
    for i in range(vertices.shape[0]):
        moved = False
        for axis in range(3):
            at = np.int64(vertices[i, axis]) - start[axis]
            inside: Any = min(max(at, 0), length[axis])
            moved = moved or at != inside
            quanta[i, axis] = (inside * (2 * top) + length[axis]) // (2 * length[axis])
        outside += moved
    return outside


@_kernel
def split(quanta: Quanta, faces: Faces, middle: int) -> tuple[Quanta, Faces]:
    """Cut the triangles that cross the planes x = `middle`, then those that cross y and z = `middle`.

    A cut is made at a point that depends on the two ends of the edge alone. Every triangle gets points of its own.

    Returns:
        The vertices, with those of the cuts behind them, and the triangles.

    """
    for axis in range(3):
        crossing = 0
        for t in range(faces.shape[0]):
            crossing += _crosses(quanta, faces, t, axis, middle)
        if crossing:
            quanta, faces = _split_axis(quanta, faces, axis, middle, crossing)
    return quanta, faces


@_step
def _crosses(quanta: Quanta, faces: Faces, t: int, axis: int, middle: int) -> bool:
    a, b, c = quanta[faces[t, 0], axis], quanta[faces[t, 1], axis], quanta[faces[t, 2], axis]
    return min(a, b, c) < middle < max(a, b, c)


@_step
def _split_axis(quanta: Quanta, faces: Faces, axis: int, middle: int, crossing: int) -> tuple[Quanta, Faces]:
    n, m = quanta.shape[0], 0
    points = np.empty((n + 2 * crossing, 3), np.int32)
    points[:n] = quanta
    parts = np.empty((faces.shape[0] + 2 * crossing, 3), np.uint32)
    for t in range(faces.shape[0]):
        if not _crosses(quanta, faces, t, axis, middle):
            parts[m] = faces[t]
            m += 1
            continue
        # Turn the triangle so that its first corner is on the plane, or else alone on its side of it.
        first = 0
        for corner in range(3):
            here = np.sign(quanta[faces[t, corner], axis] - middle)
            others = np.sign(quanta[faces[t, (corner + 1) % 3], axis] - middle) + np.sign(
                quanta[faces[t, (corner + 2) % 3], axis] - middle
            )
            if others == -2 * here:
                first = corner
        a, b, c = faces[t, first], faces[t, (first + 1) % 3], faces[t, (first + 2) % 3]
        if quanta[a, axis] == middle:
            _cut(quanta, b, c, axis, middle, points[n])
            _write(parts, m, a, b, n)
            _write(parts, m + 1, a, n, c)
            n, m = n + 1, m + 2
        else:
            _cut(quanta, a, b, axis, middle, points[n])
            _cut(quanta, a, c, axis, middle, points[n + 1])
            _write(parts, m, a, n, n + 1)
            _write(parts, m + 1, n, b, c)
            _write(parts, m + 2, n, c, n + 1)
            n, m = n + 2, m + 3
    return points[:n], parts[:m]


@_step
def _write(parts: Faces, at: int, a: Any, b: Any, c: Any) -> None:
    parts[at, 0], parts[at, 1], parts[at, 2] = a, b, c


@_step
def _cut(quanta: Quanta, a: Any, b: Any, axis: int, middle: int, point: Quanta) -> None:
    """Write the point of an edge on the plane, rounded, halves up: the same from either end, as fractions are exact."""
    way = np.int64(quanta[b, axis]) - quanta[a, axis]
    part = np.int64(middle) - quanta[a, axis]
    if way < 0:
        way, part = -way, -part
    for k in range(3):
        step = np.int64(quanta[b, k]) - quanta[a, k]
        point[k] = quanta[a, k] + (2 * step * part + way) // (2 * way)


@_kernel
def weld(quanta: Quanta, faces: Faces) -> tuple[Quanta, Faces]:
    """Make one vertex of those at one position, and leave out what is not needed then.

    Triangles of which two corners have become one are left out: the edge between the others has two faces fewer, or is
    none any more, so that closed surfaces stay closed. Flat triangles with three corners stay, and so do two triangles
    on the same corners: they are the two sides of something thin.

    Returns:
        The vertices that triangles have, and the triangles.

    """
    bits = 4
    while (1 << bits) < 2 * quanta.shape[0]:
        bits += 1
    shift, mask = np.uint64(64 - bits), np.int64((1 << bits) - 1)
    table = np.full(1 << bits, -1, np.int32)
    same = np.full(quanta.shape[0], -1, np.int32)
    for i in range(quanta.shape[0]):
        key = np.uint64(quanta[i, 0]) | np.uint64(quanta[i, 1]) << _Y | np.uint64(quanta[i, 2]) << _Z
        at = np.int64((key * _GOLDEN) >> shift)
        while table[at] >= 0:
            other = table[at]
            if (
                quanta[other, 0] == quanta[i, 0]
                and quanta[other, 1] == quanta[i, 1]
                and quanta[other, 2] == quanta[i, 2]
            ):
                break
            at = (at + 1) & mask
        if table[at] < 0:
            table[at] = i
        same[i] = table[at]
    number = np.full(quanta.shape[0], -1, np.int32)
    points = np.empty_like(quanta)
    kept = np.empty_like(faces)
    n, m = 0, 0
    for t in range(faces.shape[0]):
        a, b, c = same[faces[t, 0]], same[faces[t, 1]], same[faces[t, 2]]
        if a == b or b == c or c == a:
            continue
        for k in range(3):
            old = same[faces[t, k]]
            if number[old] < 0:
                number[old] = n
                points[n] = quanta[old]
                n += 1
            kept[m, k] = number[old]
        m += 1
    return points[:n], kept[:m]


@_kernel
def find_octants(quanta: Quanta, faces: Faces, middle: int) -> npt.NDArray[np.uint8]:
    """Return the octant of each triangle, x + 2 y + 4 z; what lies in a plane is on its lower side."""
    octants = np.zeros(faces.shape[0], np.uint8)
    for t in range(faces.shape[0]):
        for axis in range(3):
            a, b, c = quanta[faces[t, 0], axis], quanta[faces[t, 1], axis], quanta[faces[t, 2], axis]
            if max(a, b, c) > middle:
                octants[t] |= np.uint8(1 << axis)
    return octants
