"""The loops of `fitting`, compiled by numba; import this module only where meshes are at hand, it loads numba.

Vertices are int32 (V, 3), faces uint32 (M, 3), both C-contiguous; `scale` is nm per unit, XYZ. Nothing is compiled at
import, see `beam_volumes.downsampling_kernels`; as there, indices are unsigned in the innermost loops.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.uint32]
Coordinates = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.float64]

_NOBODY = np.uint32(0xFFFFFFFF)
_ONE = np.uint64(1)

# Of the angle by which one step may turn a triangle, 72 degrees; from a right angle on it would be folded over.
_LEAST_COSINE = 0.3

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")
_WITHIN: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_part = numba.njit(error_model="numpy", **_WITHIN)
"""What only kernels call: kept on disk within them."""


@_kernel
def faces_at(faces: Indices, vertices: int) -> tuple[Indices, Indices]:
    """Return the faces at each vertex, one vertex after the other, and where those of each begin (V + 1)."""
    starts = np.zeros(vertices + 2, np.uint32)
    for i in range(faces.shape[0]):
        for corner in range(3):
            starts[np.uint64(faces[np.uint64(i), np.uint64(corner)]) + np.uint64(2)] += np.uint32(1)
    for i in range(2, vertices + 2):
        starts[i] += starts[i - 1]
    # Counted one further than they stand: `starts` is what it shall be when all are placed.
    found = np.empty(3 * faces.shape[0], np.uint32)
    for i in range(faces.shape[0]):
        for corner in range(3):
            slot = np.uint64(faces[np.uint64(i), np.uint64(corner)]) + _ONE
            found[np.uint64(starts[slot])] = np.uint32(i)
            starts[slot] += np.uint32(1)
    return found, starts[: vertices + 1]


@_kernel
def spread(faces: Indices, at: Indices, starts: Indices, owners: Indices) -> None:
    """Give each vertex that has no owner (2^32 - 1) the one of those that are the fewest edges away, if any is."""
    queue = np.empty(owners.shape[0], np.uint32)
    first: Any = np.uint64(0)
    last: Any = np.uint64(0)
    for i in range(owners.shape[0]):
        if owners[np.uint64(i)] != _NOBODY:
            queue[last] = np.uint32(i)
            last += _ONE
    while first < last:
        vertex = np.uint64(queue[first])
        first += _ONE
        for i in range(starts[vertex], starts[vertex + _ONE]):
            face = np.uint64(at[np.uint64(i)])
            for corner in range(3):
                other = np.uint64(faces[face, np.uint64(corner)])
                if owners[other] == _NOBODY:
                    owners[other] = owners[vertex]
                    queue[last] = np.uint32(other)
                    last += _ONE


@_part
def _between(starts: Coordinates, a: Any, ends: Coordinates, b: Any, scale: Any) -> tuple[float, float, float]:
    """Return the way from one vertex to another, nm."""
    return (
        np.float64(np.int64(ends[b, 0]) - np.int64(starts[a, 0])) * scale[0],
        np.float64(np.int64(ends[b, 1]) - np.int64(starts[a, 1])) * scale[1],
        np.float64(np.int64(ends[b, 2]) - np.int64(starts[a, 2])) * scale[2],
    )


@_part
def _side(vertices: Coordinates, a: Any, b: Any, scale: Any) -> tuple[float, float, float]:
    return _between(vertices, a, vertices, b, scale)


@_part
def _cross(a: Any, b: Any) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@_part
def _dot(a: Any, b: Any) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_part
def _nearest(ab: Any, ac: Any, ap: Any) -> tuple[float, float]:
    """Return the weights of b and c of the point of the triangle a, b, c that is nearest to p; all seen from a.

    Ericson, Real-Time Collision Detection, 5.1.5.
    """
    d1, d2 = _dot(ab, ap), _dot(ac, ap)
    if d1 <= 0 and d2 <= 0:
        return 0.0, 0.0
    bb, bc, cc = _dot(ab, ab), _dot(ab, ac), _dot(ac, ac)
    d3, d4 = d1 - bb, d2 - bc
    if d3 >= 0 and d4 <= d3:
        return 1.0, 0.0
    vc = d1 * d4 - d3 * d2
    if vc <= 0 and d1 >= 0 and d3 <= 0:
        return d1 / (d1 - d3), 0.0
    d5, d6 = d1 - bc, d2 - cc
    if d6 >= 0 and d5 <= d6:
        return 0.0, 1.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0 and d2 >= 0 and d6 <= 0:
        return 0.0, d2 / (d2 - d6)
    va = d3 * d6 - d5 * d4
    if va <= 0 and d4 >= d3 and d5 >= d6:
        share = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        return 1.0 - share, share
    total = va + vb + vc
    return vb / total, vc / total


@_kernel
def areas_at(vertices: Coordinates, faces: Indices, scale: tuple[float, float, float], areas: Numbers) -> None:
    """Add to `areas` (V) twice the area of the faces at each vertex, nm^2."""
    for i in range(faces.shape[0]):
        face = np.uint64(i)
        a, b, c = np.uint64(faces[face, 0]), np.uint64(faces[face, 1]), np.uint64(faces[face, 2])
        normal = _cross(_side(vertices, a, b, scale), _side(vertices, a, c, scale))
        area = np.sqrt(_dot(normal, normal))
        areas[a] += area
        areas[b] += area
        areas[c] += area


@_kernel
def pull(
    vertices: Coordinates,
    areas: Numbers,
    owners: Indices,
    coarse: tuple[Coordinates, Indices, Indices, Indices],
    scale: tuple[float, float, float],
    ways: Numbers,
    weights: Numbers,
) -> None:
    """Add up how far each fine vertex is from the coarse surface, at the corners of the triangle that it is next to.

    Each counts by the area around it, and for each corner by that corner's share of the point next to it.

    Args:
        vertices: of the fine surface.
        areas: of these, as `areas_at` adds them up.
        owners: the coarse vertex at whose faces the nearest point is looked for; none: 2^32 - 1.
        coarse: vertices and faces of the coarse surface, and what `faces_at` returns of them.
        scale: see the module.
        ways: (coarse vertices, XYZ), zeros, to add to: nm, by weight.
        weights: (coarse vertices), zeros, to add to.

    """
    corners, faces, at, starts = coarse
    for i in range(vertices.shape[0]):
        vertex = np.uint64(i)
        if owners[vertex] == _NOBODY:
            continue
        owner, area = np.uint64(owners[vertex]), areas[vertex]
        away = _between(corners, owner, vertices, vertex, scale)
        if _dot(away, away) == 0:
            weights[owner] += area
            continue
        least, nearest, share_b, share_c = np.inf, np.uint64(0), 0.0, 0.0
        way = away
        for n in range(starts[owner], starts[owner + _ONE]):
            face = np.uint64(at[np.uint64(n)])
            a, b, c = np.uint64(faces[face, 0]), np.uint64(faces[face, 1]), np.uint64(faces[face, 2])
            ab, ac = _side(corners, a, b, scale), _side(corners, a, c, scale)
            ap = _between(corners, a, vertices, vertex, scale)
            v, w = _nearest(ab, ac, ap)
            left = (
                ap[0] - v * ab[0] - w * ac[0],
                ap[1] - v * ab[1] - w * ac[1],
                ap[2] - v * ab[2] - w * ac[2],
            )
            distance = _dot(left, left)
            if distance < least:
                least, nearest, share_b, share_c, way = distance, face, v, w, left
        shares = (1.0 - share_b - share_c, share_b, share_c)
        for corner in range(3):
            to = np.uint64(faces[nearest, np.uint64(corner)])
            weight = area * shares[corner]
            weights[to] += weight
            for axis in range(3):
                ways[to, axis] += weight * way[axis]


@_kernel
def move(
    coarse: tuple[Coordinates, Indices, Indices, Indices],
    fixed: npt.NDArray[np.bool_],
    steps: Coordinates,
    scale: tuple[float, float, float],
) -> None:
    """Move vertices by `steps` (V, 3), one after the other: all but the `fixed` and those that would fold a face."""
    vertices, faces, at, starts = coarse
    for i in range(vertices.shape[0]):
        vertex = np.uint64(i)
        x, y, z = steps[vertex, 0], steps[vertex, 1], steps[vertex, 2]
        if fixed[vertex] or (x == 0 and y == 0 and z == 0):
            continue
        folds = False
        for n in range(starts[vertex], starts[vertex + _ONE]):
            face = np.uint64(at[np.uint64(n)])
            a, b, c = np.uint64(faces[face, 0]), np.uint64(faces[face, 1]), np.uint64(faces[face, 2])
            before = _cross(_side(vertices, a, b, scale), _side(vertices, a, c, scale))
            vertices[vertex, 0] += x
            vertices[vertex, 1] += y
            vertices[vertex, 2] += z
            after = _cross(_side(vertices, a, b, scale), _side(vertices, a, c, scale))
            vertices[vertex, 0] -= x
            vertices[vertex, 1] -= y
            vertices[vertex, 2] -= z
            # Without an area there is no telling.
            if _dot(before, after) <= _LEAST_COSINE * np.sqrt(_dot(before, before) * _dot(after, after)):
                folds = True
                break
        if not folds:
            vertices[vertex, 0] += x
            vertices[vertex, 1] += y
            vertices[vertex, 2] += z
