"""Closed surfaces of random solids, and what tells whether a surface is closed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from beam_volumes.geometry import Vec
from beam_volumes.meshing.mesh import UNITS, Mesh
from beam_volumes.meshing.mesh_grid import MeshGrid
from beam_volumes.meshing.multires import QuantizedMesh

Ints = npt.NDArray[np.int64]


def boundary(solid: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return corners, in voxels, and triangles of the faces between voxels of which one is in the solid."""
    padded = np.pad(solid, 1).astype(np.int8)
    quads = []
    for axis in range(3):
        step = np.diff(padded, axis=axis)
        u, v = np.eye(3, dtype=np.int64)[[(axis + 1) % 3, (axis + 2) % 3]]
        for sign in (-1, 1):
            corner = np.argwhere(step == sign)
            corner[:, axis] += 1
            # From outside: the solid begins where the step is up.
            sides = (u, u + v, v) if sign < 0 else (v, u + v, u)
            quads.append(np.stack([corner, *(corner + side for side in sides)], axis=1))
    corners = np.concatenate(quads) - 1
    vertices, indices = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    a, b, c, d = indices.reshape(-1, 4).T
    return vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


@dataclass(frozen=True)
class CutSurface:
    """A closed surface with no triangle across a face between two cells of one level, and its triangles by cell."""

    mesh: Mesh
    grid: MeshGrid
    lod: int

    def cells(self) -> dict[Vec, Mesh]:
        """Return the triangles of each cell; those within a face between two belong to the lower one."""
        start, length = np.array(self.grid.origin), np.array(self.grid.length(self.lod))
        corners = self.mesh.vertices[self.mesh.faces].astype(np.int64) - start
        lowest = corners.min(axis=1) // length
        flat = (corners.max(axis=1) == corners.min(axis=1)) & (corners.min(axis=1) % length == 0)
        positions = lowest - flat
        return {
            (int(x), int(y), int(z)): used(self.mesh, self.mesh.faces[(positions == (x, y, z)).all(axis=1)])
            for x, y, z in np.unique(positions, axis=0)
        }


def used(mesh: Mesh, faces: npt.NDArray[np.uint32]) -> Mesh:
    """Return some triangles of a mesh, with their own vertices."""
    vertices, numbers = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[vertices], numbers.reshape(-1, 3).astype(np.uint32))


@st.composite
def cut_surfaces(draw: st.DrawFn, lods: st.SearchStrategy[int] | None = None) -> CutSurface:
    """Solids from single voxels to sponges with rough surfaces, anywhere, in cells of any shape."""
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    solid = random.random(shape) < draw(st.sampled_from([0.1, 0.5, 0.9, 1]))
    solid.flat[0] = True
    lod = draw(st.integers(0, 3) if lods is None else lods)
    cell = draw(st.tuples(*[st.sampled_from([1, 2, 3, 5, 64, 999])] * 3))
    corners, faces = boundary(solid)
    # Rough, but for the faces between cells, which vertices stay on.
    reach = draw(st.sampled_from([0, 1, 7]))
    rough = random.integers(-reach, reach + 1, corners.shape)
    first = np.array(draw(st.tuples(*[st.integers(-3, 3)] * 3)))
    on_plane = (corners + first) % (np.array(cell) << lod) == 0
    moved = np.array(draw(st.tuples(*[st.integers(-(2**20), 2**20)] * 3)))
    vertices = (corners + first) * UNITS + np.where(on_plane, 0, rough) + moved
    bits = draw(st.sampled_from([10, 16]))
    origin = (int(moved[0]), int(moved[1]), int(moved[2]))
    grid = MeshGrid.of_voxels(origin, cell, (16.0, 16.0, 40.0), bits)
    return CutSurface(Mesh(vertices.astype(np.int32), faces.astype(np.uint32)), grid, lod)


def joined(parts: Iterable[tuple[Vec, QuantizedMesh]], grid: MeshGrid) -> tuple[Ints, Ints]:
    """Return the surface of all cells in quanta from the origin of the grid; vertices are not welded."""
    vertices, faces, count = [np.empty((0, 3), np.int64)], [np.empty((0, 3), np.int64)], 0
    for position, mesh in parts:
        vertices.append(mesh.quanta + np.array(position, np.int64) * grid.top)
        faces.append(mesh.faces.astype(np.int64) + count)
        count += len(mesh.quanta)
    return np.concatenate(vertices), np.concatenate(faces)


def odd_edges(vertices: npt.NDArray[Any], faces: npt.NDArray[Any]) -> int:
    """Return how many edges have an odd number of faces; vertices at one place are one."""
    _, same = np.unique(vertices, axis=0, return_inverse=True)
    triangles = same.reshape(-1)[faces.astype(np.int64)]
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    _, counts = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0, return_counts=True)
    return int((counts % 2).sum())


def volume(vertices: npt.NDArray[Any], faces: npt.NDArray[Any]) -> float:
    """Return the volume in a closed surface; over 0 where triangles are counterclockwise from outside."""
    a, b, c = np.moveaxis((vertices - vertices[0]).astype(np.float64)[faces.astype(np.int64)], 1, 0)
    return float((np.cross(a, b) * c).sum() / 6)
