"""Surfaces of random blobs by zmesh's marching cubes, whole and cut into cells, and small bodies made by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import zmesh

from beam_volumes.geometry import Vec
from beam_volumes.meshing.mesh import UNITS, Mesh

EMPTY = Mesh(np.empty((0, 3), np.int32), np.empty((0, 3), np.uint32))

_TETRAHEDRON = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
_TETRAHEDRON_FACES = ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))


def make_blobs(shape: Vec, seed: int, smoothness: int, share: float = 0.5) -> npt.NDArray[np.bool_]:
    """Return voxels, XYZ, of which about `share` are inside."""
    noise = np.random.default_rng(seed).random(shape)
    for _ in range(smoothness):
        for axis in range(3):
            noise += np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return noise < np.quantile(noise, share)


def surface(voxels: npt.NDArray[np.bool_], origin: Vec = (0, 0, 0), *, closed: bool = True) -> Mesh:
    """Return the surface of voxels of which the first is that at `origin`; not closed, it ends at their centers."""
    mesher = zmesh.Mesher((1, 1, 1))
    mesher.mesh(np.asfortranarray(np.pad(voxels, int(closed)), np.uint32))
    if 1 not in mesher.ids():
        return EMPTY
    found = mesher.get(1, normals=False)
    units = (
        np.rint(found.vertices * UNITS).astype(np.int32) + UNITS // 2 + UNITS * (np.array(origin, np.int32) - closed)
    )
    return Mesh(units, found.faces.astype(np.uint32))


def cut_surface(voxels: npt.NDArray[np.bool_], axis: int, at: int) -> tuple[list[Mesh], tuple[int, int]]:
    """Return the closed surface in two parts, which meet at the centers of the voxels `at`, and the plane of these."""
    padded = np.pad(voxels, 1)
    parts = []
    for low, high in ((0, at + 2), (at + 1, padded.shape[axis])):
        own = tuple(slice(low, high) if i == axis else slice(None) for i in range(3))
        x, y, z = (low * (i == axis) - 1 for i in range(3))
        parts.append(surface(padded[own], (x, y, z), closed=False))
    return parts, (axis, at * UNITS + UNITS // 2)


def tetrahedra(origins: npt.ArrayLike, size: int = 16, *, inside_out: bool = False) -> Mesh:
    """Return a tetrahedron at each of some origins (n, 3)."""
    places = np.array(origins, np.int32).reshape(-1, 3)
    vertices = (places[:, None] + size * np.array(_TETRAHEDRON, np.int32)).reshape(-1, 3)
    faces = np.array(_TETRAHEDRON_FACES, np.uint32)[:, :: -1 if inside_out else 1]
    return Mesh(vertices, (faces + 4 * np.arange(len(places), dtype=np.uint32)[:, None, None]).reshape(-1, 3))


def volume(mesh: Mesh) -> float:
    """Return the signed volume that a closed mesh encloses, in cubic units."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    return float(np.linalg.det(corners - mesh.vertices.mean(axis=0)).sum() / 6) if len(mesh.faces) else 0.0


def faces_at_edges(faces: npt.NDArray[Any]) -> Counter[tuple[int, int]]:
    """Return how many faces each edge has, by its ends, the lower first."""
    return Counter(
        (min(a, b), max(a, b)) for face in faces.tolist() for a, b in zip(face, face[1:] + face[:1], strict=True)
    )


def triangles(mesh: Mesh) -> list[tuple[tuple[int, ...], ...]]:
    """Return the corners of each face, from the lowest on, in an order that depends on nothing else."""
    found = []
    for corners in mesh.vertices[mesh.faces].tolist():
        points = [tuple(corner) for corner in corners]
        first = points.index(min(points))
        found.append(tuple(points[first:] + points[:first]))
    return sorted(found)
