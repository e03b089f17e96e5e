"""Marching cubes over all labels of a block at once: the surface of each, as if the others were background.

Lorensen and Cline, Marching Cubes, SIGGRAPH 1987. A cube has the centers of eight voxels as its corners. A surface has
its vertices half-way on the edges of cubes between a voxel of the label and one that is not. On each face of a cube
they are joined around the corners that are of the label: voxels that touch along an edge alone stay apart. That depends
on the face alone, so both of its cubes join them alike, and so do two blocks that have a plane of voxels in common. The
loops that arise are cut into triangles along diagonals that lie in no face of the cube, where another cube could have
them, too. So each edge of a surface has exactly two triangles, or one where it lies in a face of the block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MOST_VOXELS = 2**14
"""Along an axis: coordinates are int16 and count in half voxels."""

_VOLUME_WEIGHT = 1 / 30
"""Of volume against area, in the units of `_roughness`. Loops change at 0.030, 0.039 and 0.041. On neurons, after
simplification to a sixth, with 0 small ones lose 2.2 % of their volume, with this 1.8 %, and no surface is further off;
with more than 0.041 they lose 1.6 %, but the 1 % of the surface that is furthest off is so by 46 nm instead of 34."""

Edge = tuple[int, int]
"""The corners at its ends, the lower one first; corner `dx + 2 * dy + 4 * dz` of a cube is at (dx, dy, dz)."""
Triangle = tuple[Edge, Edge, Edge]
"""The edges that its vertices are on, counterclockwise as seen from outside of the label."""
Array = npt.NDArray[Any]
Counts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""How many vertices and how many triangles each label has; that of label k at k."""

_FACES = tuple(
    tuple(side << axis | u << (axis + 1) % 3 | v << (axis + 2) % 3 for u, v in corners)
    for axis in range(3)
    for side, corners in ((0, ((0, 0), (0, 1), (1, 1), (1, 0))), (1, ((0, 0), (1, 0), (1, 1), (0, 1))))
)
"""The corners of each face of a cube, counterclockwise as seen from outside of the cube."""


class Surfaces(NamedTuple):
    """The surfaces of labels, one after the other; labels that were not asked for have none.

    Attributes:
        vertices: int16, (vertices, XYZ), half voxels from the center of the first voxel of the block.
        faces: uint32, (triangles, 3), indices that count from the first vertex of the label; counterclockwise as seen
            from outside of the label.
        vertex_starts: int64, (labels + 2); label k has the vertices from `vertex_starts[k]` to `vertex_starts[k + 1]`.
        face_starts: int64, (labels + 2); as `vertex_starts`.

    """

    vertices: npt.NDArray[np.int16]
    faces: npt.NDArray[np.uint32]
    vertex_starts: npt.NDArray[np.int64]
    face_starts: npt.NDArray[np.int64]


def count_surfaces(voxels: npt.NDArray[np.uint32], labels: int) -> Counts:
    """Return how many vertices and triangles the surface of each label has: int64, (labels + 1).

    Args:
        voxels: uint32, XYZ, in Fortran order; labels from 1 on, and 0 for background, which has no surface.
        labels: the highest label.

    Raises:
        ValueError: the voxels are of another type or order, too many along an axis, or have higher labels.

    """
    from beam_volumes.meshing import marching_cubes_kernels as kernels

    flat = _flattened(voxels)
    highest = int(flat.max(initial=0))
    if highest > labels:
        raise ValueError(f"expected labels up to {labels}, came {highest}: number the labels from 1 on")
    tallies = np.zeros(labels, np.uint64)
    if min(voxels.shape) > 1:
        tables = _tables()
        kernels.count(flat, voxels.shape, tables.sizes, tables.lowest, tallies)
    vertices, triangles = np.zeros((2, labels + 1), np.int64)
    vertices[1:], triangles[1:] = tallies >> np.uint64(32), tallies & np.uint64(2**32 - 1)
    return vertices, triangles


def extract_surfaces(voxels: npt.NDArray[np.uint32], counts: Counts, first: int, last: int) -> Surfaces:
    """Return the surfaces of labels `first` to `last`; they are open where they meet the faces of the block.

    Vertices and triangles are in the order of the voxels they are at. The first call in a process loads numba, and the
    first of all compiles.

    Args:
        voxels: as in `count_surfaces`.
        counts: what `count_surfaces` has returned for these very voxels; others damage memory.
        first: the lowest label, at least 1.
        last: the highest label.

    Raises:
        ValueError: the voxels are of another type or order, too many along an axis, or there are no such labels.

    """
    from beam_volumes.meshing import marching_cubes_kernels as kernels

    flat = _flattened(voxels)
    if not 1 <= first <= last < len(counts[0]):
        raise ValueError(f"expected labels from 1 to {len(counts[0]) - 1}, came {first} to {last}")
    vertex_starts, face_starts = (_starts(array, first, last) for array in counts)
    vertices = np.empty((vertex_starts[-1], 3), np.int16)
    faces = np.empty((face_starts[-1], 3), np.uint32)
    if len(faces):
        state = np.empty((last + 1 - first, 4), np.uint64)
        state.T[:] = np.stack([s[first : last + 1] for s in (vertex_starts, vertex_starts, face_starts, face_starts)])
        numbers = np.empty(2 * kernels.PLACES * voxels.shape[0] * voxels.shape[1], np.uint32)
        tables = _tables()
        steps = _steps(voxels.shape[0], voxels.shape[1])
        output = (state, numbers, vertices, faces)
        kernels.extract(flat, voxels.shape, first, (tables.lowest, tables.triangles, steps), output)
    return Surfaces(vertices, faces, vertex_starts, face_starts)


def triangles_of(configuration: int) -> list[Triangle]:
    """Return the triangles in a cube of which those corners are of the label whose bits are set.

    Of all ways to cut loops into triangles it is that of the least area, which is the smoothest, or of hardly more and
    a larger volume: surfaces that pass between the centers of voxels are rather too small.
    """
    return [triangle for loop in _loops(configuration) for triangle in min(_triangulations(loop), key=_roughness)]


def _loops(configuration: int) -> Iterator[list[Edge]]:
    following: dict[Edge, Edge] = {}
    for face in _FACES:
        is_set = [configuration >> corner & 1 for corner in face]
        edges = [_edge(face[i - 1], face[i]) for i in range(4)]
        for i in range(4):
            if is_set[i] and not is_set[i - 1]:
                end = next(j for j in range(i + 1, i + 4) if not is_set[j % 4])
                following[edges[i]] = edges[end % 4]
    while following:
        loop = [min(following)]
        while (edge := following.pop(loop[-1])) != loop[0]:
            loop.append(edge)
        yield loop


def _edge(corner: int, other: int) -> Edge:
    return min(corner, other), max(corner, other)


def _triangulations(loop: list[Edge]) -> Iterator[list[Triangle]]:
    """Yield all ways to cut a loop into triangles along diagonals that lie in no face of the cube."""
    if len(loop) < 3:
        yield []
        return
    for i in range(1, len(loop) - 1):
        first, middle, last = loop[0], loop[i], loop[-1]
        if (i > 1 and _in_one_face(first, middle)) or (i < len(loop) - 2 and _in_one_face(middle, last)):
            continue
        for before in _triangulations(loop[: i + 1]):
            for after in _triangulations(loop[i:]):
                yield [*before, (first, middle, last), *after]


def _in_one_face(edge: Edge, other: Edge) -> bool:
    return any({*edge, *other} <= {*face} for face in _FACES)


def _roughness(triangles: list[Triangle]) -> tuple[float, int]:
    """Return the area of triangles, less a little of the volume below them, and minus that volume.

    It is rounded, so that what is equal is so everywhere.
    """
    points = np.array([[[sum(c >> axis & 1 for c in edge) for axis in range(3)] for edge in t] for t in triangles])
    a, b, c = points.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    volume = int(np.sum(normals * a))
    return round(sum(math.sqrt(normal @ normal) for normal in normals) - _VOLUME_WEIGHT * volume, 6), -volume


class _Tables(NamedTuple):
    """What `beam_volumes.meshing.marching_cubes_kernels` looks up; all are uint64.

    Attributes:
        sizes: of each configuration: 2^32 times the vertices on the three edges of the far corner, plus the triangles.
        triangles: of each configuration.
        lowest: the lowest bit that is set, of numbers from 0 to 255.

    """

    sizes: npt.NDArray[np.uint64]
    triangles: npt.NDArray[np.uint64]
    lowest: npt.NDArray[np.uint64]


@functools.cache
def _all_triangles() -> tuple[list[Triangle], ...]:
    return tuple(triangles_of(configuration) for configuration in range(256))


@functools.cache
def _tables() -> _Tables:
    triangles = np.zeros(512, np.uint64)
    triangles[:256] = [len(found) for found in _all_triangles()]
    crossings = [sum((c >> corner ^ c >> 7) & 1 for corner in (6, 5, 3)) for c in range(256)]
    sizes = (np.array(crossings * 2, np.uint64) << np.uint64(32)) + triangles
    lowest = np.array([0, *((c & -c).bit_length() - 1 for c in range(1, 256))], np.uint64)
    return _Tables(sizes, triangles, lowest)


@functools.lru_cache(8)
def _steps(x_size: int, y_size: int) -> npt.NDArray[np.uint64]:
    """Return where the vertices of triangles have their numbers: the table of steps of `kernels.extract`, flat."""
    from beam_volumes.meshing import marching_cubes_kernels as kernels

    steps = np.zeros((2, kernels.CONFIGURATIONS, kernels.MOST_STEPS), np.int64)
    for configuration, triangles in enumerate(_all_triangles()):
        for i, (low, high) in enumerate(edge for triangle in triangles for edge in triangle):
            side = 2 * ((high ^ low).bit_length() - 1) + (configuration >> high & 1)
            x, y, z = (1 - (high >> axis & 1) for axis in range(3))
            for odd, slice_step in enumerate((x_size * y_size, -x_size * y_size)):
                steps[odd, configuration, i] = kernels.PLACES * (slice_step * z - x_size * y - x) + side
    return steps.view(np.uint64).ravel()


def _starts(counts: npt.NDArray[np.int64], first: int, last: int) -> npt.NDArray[np.int64]:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts[first : last + 1], out=starts[first + 1 : last + 2])
    starts[last + 2 :] = starts[last + 1]
    return starts


def _flattened(voxels: Array) -> npt.NDArray[np.uint32]:
    if voxels.dtype != np.uint32 or voxels.ndim != 3 or not voxels.flags.f_contiguous:
        raise ValueError(
            f"expected XYZ voxels of uint32 in Fortran order, came {voxels.dtype} of shape {voxels.shape} and strides "
            f"{voxels.strides}: number the labels with uint32 and copy the voxels with numpy.asfortranarray"
        )
    if max(voxels.shape) > MOST_VOXELS:
        raise ValueError(
            f"expected at most {MOST_VOXELS} voxels along an axis, came {voxels.shape}: take smaller blocks"
        )
    # For arrays that cannot be written to, numba would compile all once more.
    return (voxels if voxels.flags.writeable else voxels.copy(order="F")).reshape(-1, order="F")
