"""The loops of `topology`, compiled by numba; import this module only where meshes are at hand, it loads numba.

Vertices are int32 (V, 3), faces uint32 (M, 3), both C-contiguous. Nothing is compiled at import, see
`beam_volumes.downsampling_kernels`; as there, indices are unsigned in the innermost loops.

The edges of a mesh are three per face, each with the vertex of the lower number as its start. `edge_buckets` sorts them
by their start, in two passes over the faces and without comparing; what few edges start at one vertex are then sorted
by their end, and the faces at an edge are the length of a run.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.uint32]
Coordinates = npt.NDArray[np.int32]
Flags = npt.NDArray[np.uint8]

# 2^64 divided by the golden ratio: the high bits of the product depend on all bits of a key (Knuth, volume 3, 6.4).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)
_ONE, _32, _33 = np.uint64(1), np.uint64(32), np.uint64(33)
_EMPTY = np.uint32(0xFFFFFFFF)

# Edges that start at one vertex, which insertion alone sorts.
_FEW = 8

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")

_WITHIN: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_part = numba.njit(error_model="numpy", **_WITHIN)
"""What only kernels call: kept on disk within them."""


@_kernel
def edge_buckets(faces: Indices, vertices: int) -> tuple[Indices, Indices]:
    """Return the end of every edge, and where those that start at each vertex begin (V + 1); in no order within them.

    12 bytes per face and 4 per vertex.
    """
    starts = np.zeros(vertices + 2, np.uint32)
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        a, b, c = np.uint64(faces[at, 0]), np.uint64(faces[at, 1]), np.uint64(faces[at, 2])
        starts[min(a, b) + np.uint64(2)] += np.uint32(1)
        starts[min(b, c) + np.uint64(2)] += np.uint32(1)
        starts[min(c, a) + np.uint64(2)] += np.uint32(1)
    for i in range(2, vertices + 2):
        starts[i] += starts[i - 1]
    # Counted one further than they stand: `starts` is what it shall be when all are placed.
    ends = np.empty(3 * faces.shape[0], np.uint32)
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        a, b, c = np.uint64(faces[at, 0]), np.uint64(faces[at, 1]), np.uint64(faces[at, 2])
        for low, high in ((min(a, b), max(a, b)), (min(b, c), max(b, c)), (min(c, a), max(c, a))):
            slot = low + _ONE
            ends[np.uint64(starts[slot])] = np.uint32(high)
            starts[slot] += np.uint32(1)
    return ends, starts[: vertices + 1]


@_part
def _sort(ends: Indices, first: int, last: int) -> None:
    """Sort some of `ends`: by insertion, after rougher passes (Shell's) where they are many, at the hub of a fan."""
    gap = 1
    while gap < (last - first) // _FEW:
        gap = 3 * gap + 1
    while gap:
        for i in range(first + gap, last):
            end = ends[np.uint64(i)]
            j = i
            while j >= first + gap and ends[np.uint64(j - gap)] > end:
                ends[np.uint64(j)] = ends[np.uint64(j - gap)]
                j -= gap
            ends[np.uint64(j)] = end
        gap //= 3


@_kernel
def count_open_and_crowded(ends: Indices, starts: Indices) -> tuple[int, int]:
    """Return how many edges have an odd number of faces, and how many more than two; sorts `ends` within buckets."""
    n_open: Any = np.int64(0)
    n_crowded: Any = np.int64(0)
    for vertex in range(starts.shape[0] - 1):
        first, last = np.int64(starts[np.uint64(vertex)]), np.int64(starts[np.uint64(vertex + 1)])
        _sort(ends, first, last)
        while first < last:
            end, begin = ends[np.uint64(first)], first
            while first < last and ends[np.uint64(first)] == end:
                first += 1
            n_open += (first - begin) & 1
            n_crowded += np.int64(first - begin > 2)
    return n_open, n_crowded


@_kernel
def select_edges(ends: Indices, starts: Indices, out: Indices, crowded: bool) -> None:
    """Write the edges with an odd number of faces, or those with more than two, to `out` (edges, 2), in order.

    `ends` is sorted within buckets, as `count_open_and_crowded` leaves it, and `out` as long as that says.
    """
    n = 0
    for vertex in range(starts.shape[0] - 1):
        first, last = np.int64(starts[vertex]), np.int64(starts[vertex + 1])
        while first < last:
            end, begin = ends[first], first
            while first < last and ends[first] == end:
                first += 1
            count = first - begin
            if (crowded and count > 2) or (not crowded and count & 1):
                out[n, 0], out[n, 1] = vertex, end
                n += 1


@_part
def _mixed(a: Any, b: Any, c: Any) -> Any:
    key = (np.uint64(a) & _LOW) | (np.uint64(b) << _32)
    key = (key ^ (key >> _33)) * _GOLDEN
    key = (key ^ (key >> _32)) + (np.uint64(c) & _LOW)
    return (key ^ (key >> _33)) * _GOLDEN


@_kernel
def on_planes(vertices: Coordinates, planes: npt.NDArray[np.int64], flags: Flags) -> int:
    """Set the flags of vertices on one of `planes` (planes, 2), axis and coordinate; return how many there are."""
    count: Any = np.int64(0)
    for i in range(vertices.shape[0]):
        at = np.uint64(i)
        found = False
        for plane in range(planes.shape[0]):
            found |= np.int64(vertices[at, planes[plane, 0]]) == planes[plane, 1]
        flags[at] = np.uint8(found)
        count += np.int64(found)
    return count


@_kernel
def merge_equal(vertices: Coordinates, flags: Flags, table: Indices, numbers: Indices) -> int:
    """Make flagged vertices with equal coordinates one, the first; the others go, and the rest moves up, in place.

    Args:
        vertices: what is left of them comes first in it afterwards.
        flags: which vertices are compared; moved along with them.
        table: 2^n slots, more than the flagged vertices, all 2^32 - 1.
        numbers: (V), to write to: the new number of each vertex.

    Returns:
        How many vertices are left.

    """
    mask = np.uint64(table.shape[0] - 1)
    left: Any = np.uint64(0)
    for i in range(vertices.shape[0]):
        at = np.uint64(i)
        x, y, z = vertices[at, 0], vertices[at, 1], vertices[at, 2]
        if flags[at]:
            slot = (_mixed(x, y, z) >> _32) & mask
            while table[slot] != _EMPTY:
                known = np.uint64(table[slot])
                if vertices[known, 0] == x and vertices[known, 1] == y and vertices[known, 2] == z:
                    break
                slot = (slot + _ONE) & mask
            if table[slot] != _EMPTY:
                numbers[at] = table[slot]
                continue
            table[slot] = np.uint32(left)
        numbers[at] = np.uint32(left)
        vertices[left, 0], vertices[left, 1], vertices[left, 2] = x, y, z
        flags[left] = flags[at]
        left += _ONE
    return left


@_kernel
def renumber(faces: Indices, numbers: Indices, flags: Flags) -> tuple[int, int]:
    """Give the corners of faces their new numbers and drop faces that lost a corner; the rest moves up, in place.

    Returns:
        How many faces are left, and how many of them have three flagged corners.

    """
    left: Any = np.uint64(0)
    flagged: Any = np.int64(0)
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        a = numbers[np.uint64(faces[at, 0])]
        b = numbers[np.uint64(faces[at, 1])]
        c = numbers[np.uint64(faces[at, 2])]
        if a == b or b == c or c == a:
            continue
        faces[left, 0], faces[left, 1], faces[left, 2] = a, b, c
        flagged += np.int64(flags[np.uint64(a)] and flags[np.uint64(b)] and flags[np.uint64(c)])
        left += _ONE
    return left, flagged


@_part
def _turned(a: Any, b: Any, c: Any) -> bool:
    """Whether the corners descend when they are read from the lowest on."""
    low = min(a, b, c)
    return (a == low and b > c) or (b == low and c > a) or (c == low and a > b)


@_part
def _slot_of(faces: Indices, at: Any, table: Indices, mask: Any) -> Any:
    """Return the slot of the faces with these corners, or the free one that they are to have."""
    a, b, c = faces[at, 0], faces[at, 1], faces[at, 2]
    low, high = min(a, b, c), max(a, b, c)
    # All three are different.
    middle = a ^ b ^ c ^ low ^ high
    slot = (_mixed(low, middle, high) >> _32) & mask
    while table[slot] != _EMPTY:
        known = np.uint64(table[slot])
        d, e, f = faces[known, 0], faces[known, 1], faces[known, 2]
        lowest, highest = min(d, e, f), max(d, e, f)
        if lowest == low and highest == high and d ^ e ^ f ^ lowest ^ highest == middle:
            break
        slot = (slot + _ONE) & mask
    return slot


@_kernel
def cancel_pairs(faces: Indices, flags: Flags, table: Indices, tallies: npt.NDArray[np.int32]) -> int:
    """Drop two of every two faces with the same three corners, whichever way they look; the rest moves up, in place.

    Of an odd number one stays: the first that looks the way that most of them do.

    Args:
        faces: only those whose corners are all flagged are compared.
        flags: of the vertices.
        table: 2^n slots, more than the compared faces, all 2^32 - 1.
        tallies: (slots, 2), zeros: the faces in a slot that look each way.

    Returns:
        How many faces are left.

    """
    mask = np.uint64(table.shape[0] - 1)
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        a, b, c = faces[at, 0], faces[at, 1], faces[at, 2]
        if flags[np.uint64(a)] and flags[np.uint64(b)] and flags[np.uint64(c)]:
            slot = _slot_of(faces, at, table, mask)
            table[slot] = min(table[slot], np.uint32(i))
            tallies[slot, np.uint64(_turned(a, b, c))] += 1
    for slot in range(table.shape[0]):
        # From here on: whether one is still to be kept, and which way it looks.
        ahead, back = tallies[slot, 0], tallies[slot, 1]
        tallies[slot, 0], tallies[slot, 1] = (ahead + back) & 1, back > ahead
    # The table leads to faces by their places: they move only when all is decided.
    dropped = np.zeros(faces.shape[0], np.uint8)
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        a, b, c = faces[at, 0], faces[at, 1], faces[at, 2]
        if flags[np.uint64(a)] and flags[np.uint64(b)] and flags[np.uint64(c)]:
            slot = _slot_of(faces, at, table, mask)
            if tallies[slot, 0] and tallies[slot, 1] == np.int32(_turned(a, b, c)):
                tallies[slot, 0] = 0
            else:
                dropped[at] = 1
    left: Any = np.uint64(0)
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        if not dropped[at]:
            faces[left, 0], faces[left, 1], faces[left, 2] = faces[at, 0], faces[at, 1], faces[at, 2]
            left += _ONE
    return left


@_kernel
def join_components(faces: Indices, parents: Indices) -> None:
    """Write to `parents` (V) the lowest vertex of the component that each vertex belongs to."""
    for i in range(parents.shape[0]):
        parents[np.uint64(i)] = np.uint32(i)
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        first = _root_of(parents, faces[at, 0])
        for corner in range(1, 3):
            other = _root_of(parents, faces[at, np.uint64(corner)])
            if other < first:
                parents[np.uint64(first)] = other
                first = other
            else:
                parents[np.uint64(other)] = first
    for i in range(parents.shape[0]):
        # Parents come before their children, so that theirs are known.
        parents[np.uint64(i)] = parents[np.uint64(parents[np.uint64(i)])]


@_part
def _root_of(parents: Indices, vertex: Any) -> Any:
    at = np.uint64(vertex)
    while np.uint64(parents[at]) != at:
        parents[at] = parents[np.uint64(parents[at])]
        at = np.uint64(parents[at])
    return np.uint32(at)


@_kernel
def signed_volumes(vertices: Coordinates, faces: Indices, parents: Indices, volumes: npt.NDArray[np.float64]) -> None:
    """Add up in `volumes` (V) six times the volume that each component encloses, at its lowest vertex.

    Measured from that vertex, as numbers stay small then; it is the same from everywhere if the component is closed.
    """
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        a, b, c = np.uint64(faces[at, 0]), np.uint64(faces[at, 1]), np.uint64(faces[at, 2])
        root = np.uint64(parents[a])
        ax, ay, az = _from(vertices, root, a)
        bx, by, bz = _from(vertices, root, b)
        cx, cy, cz = _from(vertices, root, c)
        volumes[root] += ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)


@_part
def _from(vertices: Coordinates, origin: Any, vertex: Any) -> tuple[float, float, float]:
    return (
        np.float64(np.int64(vertices[vertex, 0]) - np.int64(vertices[origin, 0])),
        np.float64(np.int64(vertices[vertex, 1]) - np.int64(vertices[origin, 1])),
        np.float64(np.int64(vertices[vertex, 2]) - np.int64(vertices[origin, 2])),
    )


@_kernel
def number_used(faces: Indices, numbers: Indices) -> int:
    """Write to `numbers` (V), all 0, the new number of each vertex with a face, or 2^32 - 1; return how many have."""
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        numbers[np.uint64(faces[at, 0])] = 1
        numbers[np.uint64(faces[at, 1])] = 1
        numbers[np.uint64(faces[at, 2])] = 1
    used = 0
    for i in range(numbers.shape[0]):
        if numbers[np.uint64(i)]:
            numbers[np.uint64(i)] = np.uint32(used)
            used += 1
        else:
            numbers[np.uint64(i)] = _EMPTY
    return used


@_kernel
def take_used(vertices: Coordinates, faces: Indices, numbers: Indices, out: Coordinates, out_faces: Indices) -> None:
    """Write the vertices that have a new number, and the faces with the new numbers."""
    for i in range(vertices.shape[0]):
        at = np.uint64(i)
        if numbers[at] != _EMPTY:
            to = np.uint64(numbers[at])
            out[to, 0], out[to, 1], out[to, 2] = vertices[at, 0], vertices[at, 1], vertices[at, 2]
    for i in range(faces.shape[0]):
        at = np.uint64(i)
        out_faces[at, 0] = numbers[np.uint64(faces[at, 0])]
        out_faces[at, 1] = numbers[np.uint64(faces[at, 1])]
        out_faces[at, 2] = numbers[np.uint64(faces[at, 2])]
