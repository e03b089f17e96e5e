"""How the faces of meshes hang together: open and crowded edges, welding, cavities.

A surface is closed if each of its edges has two faces. An edge is open with an odd number of faces, and crowded with
more than two; both are counted modulo what is said: an edge with three faces is both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes.meshing import topology_kernels as kernels
from beam_volumes.meshing.mesh import Faces, Mesh, Vertices

MOST_FACES = (2**32 - 1) // 3
"""Edges are numbered with 32 bits."""


class EdgeCounts(NamedTuple):
    """How many edges are not as in a closed surface.

    Attributes:
        open: edges with an odd number of faces.
        crowded: edges with more than two faces.

    """

    open: int
    crowded: int


def count_edges(faces: Faces, vertices: int) -> EdgeCounts:
    """Count the open and the crowded edges of `faces`, uint32 (M, 3), which have indices below `vertices`.

    Memory: 12 bytes per face and 4 per vertex. The time is linear.

    Raises:
        ValueError: there are more than `MOST_FACES`.

    """
    return EdgeCounts(*kernels.count_open_and_crowded(*_buckets(faces, vertices)))


def open_edges(faces: Faces, vertices: int) -> npt.NDArray[np.uint32]:
    """Return the edges with an odd number of faces: uint32 (edges, 2), the lower index first, in order; see above."""
    return _select(faces, vertices, crowded=False)


def crowded_edges(faces: Faces, vertices: int) -> npt.NDArray[np.uint32]:
    """Return the edges with more than two faces: uint32 (edges, 2), the lower index first, in order; see above."""
    return _select(faces, vertices, crowded=True)


def border_edges(mesh: Mesh) -> npt.NDArray[np.int32]:
    """Return the open edges by their coordinates: int32 (edges, 2, XYZ), in an order that depends on nothing else.

    The lower end comes first, compared by x, y, z, and so do lower edges. Equal borders are equal arrays.
    """
    ends = mesh.vertices[open_edges(mesh.faces, len(mesh.vertices))]
    x, y, z = np.moveaxis(ends[:, 1] < ends[:, 0], 1, 0)
    same_x, same_y = np.moveaxis(ends[:, 1] == ends[:, 0], 1, 0)[:2]
    turned = x | (same_x & (y | (same_y & z)))
    ends[turned] = ends[turned, ::-1]
    flat = ends.reshape(-1, 6)
    return ends[np.lexsort(flat.T[::-1])]


def weld(meshes: Sequence[Mesh], planes: Sequence[tuple[int, int]] | None) -> Mesh:
    """Join meshes: vertices with equal coordinates become one, the first of them; nothing else moves in the order.

    Faces that lose a corner go, and of faces with the same three corners two and two, whichever way they look, so that
    a closed surface stays closed; of three the first stays that looks as most of them do.

    Args:
        meshes: in the order that their vertices and faces shall have.
        planes: pairs of an axis and a coordinate (sixteenths of a voxel): only vertices on one of these are compared,
            and only faces that have all corners on them. Of use where the meshes meet there and have no vertex twice
            themselves. None: compare all.

    Raises:
        ValueError: the meshes have more than `MOST_FACES` faces.

    """
    vertices: Vertices = np.concatenate([np.empty((0, 3), np.int32), *(mesh.vertices for mesh in meshes)])
    faces = _joined_faces(meshes)
    flags = np.ones(len(vertices), np.uint8)
    compared = len(vertices)
    if planes is not None:
        compared = kernels.on_planes(vertices, np.array(planes, np.int64).reshape(-1, 2), flags)
    numbers = np.empty(len(vertices), np.uint32)
    left = kernels.merge_equal(vertices, flags, _table(compared), numbers)
    faces_left, faces_compared = kernels.renumber(faces, numbers, flags)
    vertices, flags = vertices[:left], flags[:left]
    kept = _cancel(faces[:faces_left], flags, faces_compared)
    return compact(Mesh(vertices, kept))


def without_pairs(mesh: Mesh) -> Mesh:
    """Drop two of every two faces with the same three corners, as `weld` does; all vertices stay."""
    faces = np.array(mesh.faces, np.uint32, order="C")
    kept = _cancel(faces, np.ones(len(mesh.vertices), np.uint8), len(faces))
    return mesh if len(kept) == len(faces) else Mesh(mesh.vertices, kept)


def without_cavities(mesh: Mesh) -> Mesh:
    """Drop the closed components that are turned inside out: the holes within an object.

    Faces with a common vertex are of one component. One with an open border stays, as it may belong to the outside.
    """
    faces, parents, volumes = _components(mesh)
    inverted = volumes < 0
    if not inverted.any():
        return mesh
    roots = parents[faces[:, 0]]
    inverted[parents[open_edges(faces[inverted[roots]], len(parents)).ravel()]] = False
    return compact(Mesh(mesh.vertices, faces[~inverted[roots]])) if inverted.any() else mesh


class Bodies(NamedTuple):
    """Components of a mesh, one after another, the largest volume first.

    Attributes:
        faces: uint32 (M, 3), of all.
        ends: where the faces of each begin, and where the last ones end.
        low: lowest corner of each, int32 (bodies, XYZ).
        high: highest corner.

    """

    faces: Faces
    ends: npt.NDArray[np.int64]
    low: npt.NDArray[np.int32]
    high: npt.NDArray[np.int32]


def lost_bodies(mesh: Mesh, kept: Faces) -> Bodies:
    """Return the components of `mesh` that have no face among `kept`."""
    faces, parents, volumes = _components(mesh)
    is_kept = np.zeros(len(parents), np.bool_)
    is_kept[parents[kept[:, 0]]] = True
    roots = parents[faces[:, 0]]
    lost = np.flatnonzero(~is_kept[roots])
    order = lost[np.lexsort((roots[lost], -np.abs(volumes[roots[lost]])))]
    starts = np.flatnonzero(np.diff(roots[order].astype(np.int64), prepend=-1))
    corners = mesh.vertices[faces[order]].reshape(-1, 3)
    low, high = (some.reduceat(corners, 3 * starts) if len(starts) else corners for some in (np.minimum, np.maximum))
    return Bodies(faces[order], np.append(starts, len(order)), low, high)


def _components(mesh: Mesh) -> tuple[Faces, npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Return the faces, the lowest vertex of the component of each vertex, and the volume of each by that vertex.

    Where a vertex is not the lowest its volume is 0.
    """
    vertices, faces = frozen(mesh.vertices, np.int32), frozen(mesh.faces, np.uint32)
    parents, volumes = np.empty(len(vertices), np.uint32), np.zeros(len(vertices))
    kernels.join_components(faces, parents)
    kernels.signed_volumes(vertices, faces, parents, volumes)
    return faces, parents, volumes


def compact(mesh: Mesh) -> Mesh:
    """Drop the vertices that no face has; the order of the others stays."""
    return compact_numbered(mesh)[0]


def compact_numbered(mesh: Mesh) -> tuple[Mesh, npt.NDArray[np.uint32]]:
    """Do that, and return the new number of each vertex, too: 2^32 - 1 of those that are dropped."""
    vertices, faces = frozen(mesh.vertices, np.int32), frozen(mesh.faces, np.uint32)
    numbers = np.zeros(len(vertices), np.uint32)
    used = kernels.number_used(faces, numbers)
    if used == len(vertices):
        return mesh, numbers
    smaller = Mesh(np.empty((used, 3), np.int32), np.empty((len(faces), 3), np.uint32))
    kernels.take_used(vertices, faces, numbers, *smaller)
    return smaller, numbers


def _buckets(faces: Faces, vertices: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    _check(len(faces))
    return kernels.edge_buckets(frozen(faces, np.uint32), vertices)


def _select(faces: Faces, vertices: int, *, crowded: bool) -> npt.NDArray[np.uint32]:
    ends, starts = _buckets(faces, vertices)
    selected = np.empty((kernels.count_open_and_crowded(ends, starts)[crowded], 2), np.uint32)
    kernels.select_edges(ends, starts, selected, crowded)
    return selected


def _joined_faces(meshes: Sequence[Mesh]) -> Faces:
    count = sum(len(mesh.faces) for mesh in meshes)
    _check(count)
    faces, done, first = np.empty((count, 3), np.uint32), 0, 0
    for mesh in meshes:
        np.add(mesh.faces, np.uint32(first), out=faces[done : done + len(mesh.faces)])
        done, first = done + len(mesh.faces), first + len(mesh.vertices)
    return faces


def _cancel(faces: Faces, flags: npt.NDArray[np.uint8], compared: int) -> Faces:
    """Return the first of `faces`, which have been moved within the array."""
    if not compared:
        return faces
    table = _table(compared)
    return faces[: kernels.cancel_pairs(faces, flags, table, np.zeros((len(table), 2), np.int32))]


def _table(entries: int) -> npt.NDArray[np.uint32]:
    """Return an empty hash table that is half full at most."""
    return np.full(1 << (2 * entries).bit_length(), 2**32 - 1, np.uint32)


def frozen(array: npt.NDArray[Any], data_type: type[np.generic]) -> npt.NDArray[Any]:
    """Return a view that cannot be written to: kernels are compiled for such arrays, and once more for others."""
    view = np.ascontiguousarray(array, data_type).view()
    view.flags.writeable = False
    return view


def _check(faces: int) -> None:
    if faces > MOST_FACES:
        raise ValueError(f"expected at most {MOST_FACES:,} faces of a mesh, came {faces:,}: divide it into cells")
