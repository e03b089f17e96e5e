"""How far surfaces are apart: what simplification has lost, of our meshes and of anybody's.

Distances are exact, from a point to the nearest point of the nearest triangle. Triangles are listed by the cells of a
grid that their boxes touch; a point looks at its own cell, then at the shells of cells around it, until no nearer
triangle can come.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.floating[Any]]
Faces = npt.NDArray[np.integer[Any]]
_Numbers = npt.NDArray[np.int64]

_MOST_CELLS = 2**24
_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")


class MeshError(NamedTuple):
    """Distances of a surface from another, nm."""

    mean_nm: float
    percentile_99_nm: float
    largest_nm: float


def mesh_error(
    exact: tuple[Points, Faces], simplified: tuple[Points, Faces], samples: int = 100_000, seed: int = 0
) -> MeshError:
    """Measure how far points of an exact surface are from a simplified one.

    Args:
        exact: vertices (V, 3), nm, and faces (M, 3); the points are chosen at random, as many on equal areas.
        simplified: likewise; not empty.
        samples: how many points.
        seed: of the choice.

    """
    distances = distances_to_surface(surface_samples(*exact, samples, seed), *simplified)
    return MeshError(float(distances.mean()), float(np.percentile(distances, 99)), float(distances.max()))


def surface_samples(vertices: Points, faces: Faces, samples: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return random points of a surface, (samples, 3), evenly by area; faces without an area get none."""
    random = np.random.default_rng(seed)
    corners = np.asarray(vertices, np.float64)[faces]
    sides = corners[:, 1:] - corners[:, :1]
    areas = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    chosen = random.choice(len(faces), samples, p=areas / areas.sum())
    along = random.random((2, samples, 1))
    # The other half of a parallelogram is folded onto the triangle.
    along = np.where(along.sum(axis=0) > 1, 1 - along, along)
    return corners[chosen, 0] + along[0] * sides[chosen, 0] + along[1] * sides[chosen, 1]


def distances_to_surface(points: Points, vertices: Points, faces: Faces) -> npt.NDArray[np.float64]:
    """Return the distance of each point (N, 3) to the surface of `vertices` (V, 3) and `faces` (M, 3), in their unit.

    Raises:
        ValueError: there are no faces.

    """
    if not len(faces):
        raise ValueError("expected a surface, came a mesh without faces")
    corners = np.ascontiguousarray(np.asarray(vertices, np.float64)[faces])
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    cell = _cell_size(corners, high - low)
    shape = ((high - low) / cell).astype(np.int64) + 1
    starts = np.zeros(int(shape.prod()) + 2, np.int64)
    boxes = np.empty((len(corners), 2, 3), np.int64)
    boxes[:, 0] = (corners.min(axis=1) - low) / cell
    boxes[:, 1] = (corners.max(axis=1) - low) / cell
    _count_in_cells(boxes, shape, starts)
    listed = np.empty(int(starts[-1]), np.int64)
    _list_in_cells(boxes, shape, starts, listed)
    distances = np.empty(len(points))
    _find_nearest(np.ascontiguousarray(points, np.float64), corners, (low, cell), shape, starts, listed, distances)
    return distances


def _cell_size(corners: npt.NDArray[np.float64], extent: npt.NDArray[np.float64]) -> float:
    """Return the length of a triangle's box, or more, where that made too many cells."""
    length = float((corners.max(axis=1) - corners.min(axis=1)).max(axis=1).mean())
    length = max(length, float(extent.max()) / 2**20, 1e-9)
    while np.prod(extent / length + 1) > _MOST_CELLS:
        length *= 1.25
    return length


@_kernel
def _count_in_cells(boxes: _Numbers, shape: _Numbers, starts: _Numbers) -> None:
    """Leave where the triangles of each cell start, one further than they stand, and their number at last."""
    for i in range(boxes.shape[0]):
        for x in range(boxes[i, 0, 0], boxes[i, 1, 0] + 1):
            for y in range(boxes[i, 0, 1], boxes[i, 1, 1] + 1):
                for z in range(boxes[i, 0, 2], boxes[i, 1, 2] + 1):
                    starts[(x * shape[1] + y) * shape[2] + z + 2] += 1
    for i in range(2, starts.shape[0]):
        starts[i] += starts[i - 1]


@_kernel
def _list_in_cells(boxes: _Numbers, shape: _Numbers, starts: _Numbers, listed: _Numbers) -> None:
    for i in range(boxes.shape[0]):
        for x in range(boxes[i, 0, 0], boxes[i, 1, 0] + 1):
            for y in range(boxes[i, 0, 1], boxes[i, 1, 1] + 1):
                for z in range(boxes[i, 0, 2], boxes[i, 1, 2] + 1):
                    slot = (x * shape[1] + y) * shape[2] + z + 1
                    listed[starts[slot]] = i
                    starts[slot] += 1


@_kernel
def _find_nearest(
    points: npt.NDArray[np.float64],
    corners: npt.NDArray[np.float64],
    grid: tuple[npt.NDArray[np.float64], float],
    shape: _Numbers,
    starts: _Numbers,
    listed: _Numbers,
    distances: npt.NDArray[np.float64],
) -> None:
    low, cell = grid
    home = np.empty(3, np.int64)
    for i in range(points.shape[0]):
        shells = 0
        for axis in range(3):
            home[axis] = min(max(np.int64((points[i, axis] - low[axis]) / cell), 0), shape[axis] - 1)
            shells = max(shells, home[axis], shape[axis] - 1 - home[axis])
        nearest = np.inf
        for shell in range(shells + 1):
            # All in this shell and beyond is further away than the shells before it are thick.
            if shell and nearest <= ((shell - 1) * cell) ** 2:
                break
            nearest = min(nearest, _nearest_in_shell(points[i], corners, home, shell, shape, starts, listed))
        distances[i] = np.sqrt(nearest)


@_kernel
def _nearest_in_shell(
    point: npt.NDArray[np.float64],
    corners: npt.NDArray[np.float64],
    home: _Numbers,
    shell: int,
    shape: _Numbers,
    starts: _Numbers,
    listed: _Numbers,
) -> float:
    nearest = np.inf
    for x in range(max(home[0] - shell, 0), min(home[0] + shell + 1, shape[0])):
        for y in range(max(home[1] - shell, 0), min(home[1] + shell + 1, shape[1])):
            # Within the shell only its first and last cell along z are new.
            step = 1 if abs(x - home[0]) == shell or abs(y - home[1]) == shell else 2 * shell
            for z in range(home[2] - shell, home[2] + shell + 1, step):
                if 0 <= z < shape[2]:
                    slot = (x * shape[1] + y) * shape[2] + z
                    for k in range(starts[slot], starts[slot + 1]):
                        nearest = min(nearest, _squared_distance(point, corners[listed[k]]))
    return nearest


@_kernel
def _squared_distance(point: npt.NDArray[np.float64], triangle: npt.NDArray[np.float64]) -> float:
    """Return the square of the distance from a triangle (3 corners, XYZ): that of its plane, or that of its sides."""
    normal_square, height, inside = 0.0, 0.0, True
    nearest = np.inf
    normal = (
        _minor(triangle, 1, 2),
        _minor(triangle, 2, 0),
        _minor(triangle, 0, 1),
    )
    for axis in range(3):
        normal_square += normal[axis] ** 2
        height += normal[axis] * (point[axis] - triangle[0, axis])
    for corner in range(3):
        following = (corner + 1) % 3
        along, length = 0.0, 0.0
        for axis in range(3):
            side = triangle[following, axis] - triangle[corner, axis]
            along += side * (point[axis] - triangle[corner, axis])
            length += side**2
        part = min(max(along / length, 0.0), 1.0) if length > 0 else 0.0
        square, outward = 0.0, 0.0
        for axis in range(3):
            second, third = (axis + 1) % 3, (axis + 2) % 3
            side = triangle[following, axis] - triangle[corner, axis]
            square += (point[axis] - triangle[corner, axis] - part * side) ** 2
            # The side, turned outwards within the plane.
            outward += (point[axis] - triangle[corner, axis]) * (
                (triangle[following, second] - triangle[corner, second]) * normal[third]
                - (triangle[following, third] - triangle[corner, third]) * normal[second]
            )
        inside = inside and outward <= 0
        nearest = min(nearest, square)
    if inside and normal_square > 0:
        return min(nearest, height**2 / normal_square)
    return nearest


@_kernel
def _minor(triangle: npt.NDArray[np.float64], first: int, second: int) -> float:
    return (triangle[1, first] - triangle[0, first]) * (triangle[2, second] - triangle[0, second]) - (
        triangle[1, second] - triangle[0, second]
    ) * (triangle[2, first] - triangle[0, first])
