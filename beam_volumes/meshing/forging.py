"""Forging: the voxels of a cell become the simplified surface of each of its labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes.block_reading import Clock
from beam_volumes.codecs import Array
from beam_volumes.geometry import Vec
from beam_volumes.meshing.elements import CellReading
from beam_volumes.meshing.label_kernels import number_voxels
from beam_volumes.meshing.label_rows import LabelRows
from beam_volumes.meshing.marching_cubes import Surfaces, count_surfaces, extract_surfaces
from beam_volumes.meshing.mesh import UNITS, Mesh, Reach, Vertices
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.simplification import simplify
from beam_volumes.meshing.topology import without_cavities

Labels = npt.NDArray[np.uint64]
Counts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Vertices and triangles by number, from 0, which has none."""

_FACE_BYTES = 12
_VERTEX_BYTES = 6
_HALF_VOXEL = UNITS // 2
_SAMPLES = 4096


class Forged(NamedTuple):
    """The surface of a label in a cell, and what its simplification took.

    Attributes:
        reach: how far it reached before, for the spatial index: simplified surfaces reach less far than the voxels;
            None where nobody asks, or knows.

    """

    label: int
    mesh: Mesh
    raw_faces: int
    fell_back: bool
    crowded: int
    reach: Reach | None = None


def forge(plan: MeshPlan, cell: int, labels: LabelRows, reading: CellReading, clock: Clock) -> Iterator[Forged]:
    """Yield the surfaces of `labels` (sorted) in a cell, by label; those without any are left out.

    Memory: the voxels of the cell, as they are stored and as 32-bit numbers, a share of raw surfaces (see
    `VoxelInput`), and the largest of them being simplified.
    """
    box = plan.mesh_voxels(cell)
    return forge_voxels(plan, reading.padded(box), np.ascontiguousarray(labels["label"]), box.start, clock)


def forge_voxels(plan: MeshPlan, voxels: Array, labels: Labels, start: Vec, clock: Clock) -> Iterator[Forged]:
    """Yield the surfaces of `labels` (sorted) in voxels, XYZ in Fortran order, of which the first is `start`."""
    if _is_uniform(voxels):
        clock.lap("surface")
        return
    numbers = _numbered(voxels, labels)
    del voxels
    counts = count_surfaces(numbers, len(labels))
    clock.lap("surface")
    x, y, z = start
    origin = (x * UNITS + _HALF_VOXEL, y * UNITS + _HALF_VOXEL, z * UNITS + _HALF_VOXEL)
    planes = np.array([origin, [o + (n - 1) * UNITS for o, n in zip(origin, numbers.shape, strict=True)]], np.int32)
    for first, last in _batches(counts, plan.voxels.share_bytes):
        surfaces = extract_surfaces(numbers, counts, first, last)
        clock.lap("surface")
        for number in range(first, last + 1):
            mesh = _mesh_of(surfaces, number, origin)
            if len(mesh.faces):
                yield _finished(plan, int(labels[number - 1]), mesh, planes, clock)


def _finished(plan: MeshPlan, label: int, raw: Mesh, planes: Vertices, clock: Clock) -> Forged:
    """Simplify a surface; `planes` are the lowest and the highest coordinates of the cell, where its border is."""
    mesh = without_cavities(raw) if plan.fill_holes else raw
    clock.lap("surface")
    # It stays as it is, and so do the triangles on it; its edges are as many as its vertices.
    border = int(np.count_nonzero(((mesh.vertices == planes[0]) | (mesh.vertices == planes[1])).any(axis=1)))
    target = border + round(max(len(mesh.faces) - border, 0) / plan.voxels.simplification_factor)
    done = simplify(mesh, plan.source.resolution_nm, target, plan.max_error_at(0))
    clock.lap("simplify")
    reach = raw.reach_nm(plan.source.resolution_nm) if plan.index else None
    return Forged(label, done.mesh, len(raw.faces), done.fell_back, done.crowded, reach)


def _is_uniform(voxels: Array) -> bool:
    """Whether all voxels are of one label, or background: most cells within a large object, or in empty space."""
    flat = voxels.ravel(order="K")
    # A few of them show it of nearly all others.
    return bool((flat[:: max(flat.size // _SAMPLES, 1)] == flat[0]).all() and (flat == flat[0]).all())


def _numbered(voxels: Array, labels: Labels) -> npt.NDArray[np.uint32]:
    """Return the place of each voxel's label in `labels`, from 1, and 0 for all others; XYZ, in Fortran order."""
    numbers = np.empty(voxels.shape, np.uint32, order="F")
    number_voxels(voxels.ravel(order="K"), labels, numbers.ravel(order="K"))
    return numbers


def _mesh_of(surfaces: Surfaces, number: int, origin: Vec) -> Mesh:
    vertices = surfaces.vertices[slice(*surfaces.vertex_starts[number : number + 2])]
    faces = surfaces.faces[slice(*surfaces.face_starts[number : number + 2])]
    return Mesh(vertices.astype(np.int32) * _HALF_VOXEL + np.array(origin, np.int32), faces)


def _batches(counts: Counts, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of numbers, first and last, whose raw surfaces fit `most_bytes`; a single one may be larger."""
    vertices, faces = counts
    sizes = (vertices * _VERTEX_BYTES + faces * _FACE_BYTES).tolist()
    first, held = 1, 0
    for number in range(1, len(sizes)):
        if held and held + sizes[number] > most_bytes:
            yield first, number - 1
            first, held = number, 0
        held += sizes[number]
    if first < len(sizes):
        yield first, len(sizes) - 1
