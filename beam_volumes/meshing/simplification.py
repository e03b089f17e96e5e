"""Simplification of meshes: fewer triangles, the same open border, and a surface that stays a surface.

meshoptimizer collapses edges onto one of their vertices, by the quadrics of the planes around them (Garland and
Heckbert 1997). It takes a subset of the vertices, so coordinates stay exact, and the vertices of open borders stay
where they are, so cells that are simplified on their own fit together afterwards. It does not look at whether two
sheets of the surface meet when an edge collapses: in one edge of 50,000 or so they do. Sheets that fall together over
whole faces cancel; those that meet at an edge, which then has more than two faces, are parted by a vertex each. Should
that fail, zmesh simplifies the mesh: ten times slower, but with an eye on that.

One call of meshoptimizer is fastest: half of its time goes until a third of the faces is gone, and stages, a bound on
the error of the first of them, or another order of the vertices gain nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import meshoptimizer
import numpy as np
import numpy.typing as npt
import zmesh

from beam_volumes.meshing.edge_splitting import split_crowded_edges
from beam_volumes.meshing.fitting import fitted
from beam_volumes.meshing.mesh import UNITS, Faces, Mesh, Vertices
from beam_volumes.meshing.topology import (
    Bodies,
    border_edges,
    compact,
    count_edges,
    crowded_edges,
    lost_bodies,
    weld,
    without_pairs,
)

# There is nothing to be saved: 2 x 2 x 2 voxels have 44 faces, with 24 they keep two thirds of their volume, and with 8
# a quarter.
_SMALL = 24

# An octahedron, which is the mesh of a single voxel.
_LEAST_OF_BODY = 8

# Of meshoptimizer: vertices of open edges stay; the error is in the unit of the positions.
_OPTIONS = 1 << 0 | 1 << 2

# nm; its square is a float32.
_ANY_ERROR = 1e18

# zmesh takes coordinates up to 2^20 half units.
_WIDEST_FOR_ZMESH = 2**19

Resolution = tuple[float, float, float]


class Simplified(NamedTuple):
    """A mesh that was simplified, and how that went.

    Attributes:
        mesh: what came of it.
        fell_back: meshoptimizer made edges with more than two faces that could not be parted, so that the mesh is
            zmesh's, or has more faces than wanted.
        crowded: how many more such edges there were after meshoptimizer than before; they are gone.
        error_nm: how far the surface was moved, as meshoptimizer estimates it; at the same target, where it fell back.

    """

    mesh: Mesh
    fell_back: bool
    crowded: int
    error_nm: float


def simplify(
    mesh: Mesh, resolution_nm: Resolution, target_faces: int, max_error_nm: float | None, *, fit: bool = False
) -> Simplified:
    """Simplify a mesh to `target_faces`, or until its surface would move further than `max_error_nm`.

    The open edges of the mesh are those of the result, to the last bit, and no edge has more than two faces that had
    not before. Closed bodies do not vanish, but for those smaller than the error next to others. Small meshes are
    returned as they are.

    Args:
        mesh: any; closed or with open borders.
        resolution_nm: size of a voxel, XYZ: errors are measured in nm, whatever the shape of voxels.
        target_faces: how many faces to aim at; more stay where borders or `max_error_nm` want it.
        max_error_nm: None for no limit.
        fit: whether vertices are moved to where the surface is nearest to what it was, see `fitting`.

    """
    target_faces = max(target_faces, _SMALL)
    if len(mesh.faces) <= target_faces:
        return Simplified(mesh, fell_back=False, crowded=0, error_nm=0.0)
    attempts = _attempts(mesh, resolution_nm, target_faces, max_error_nm, fit=fit)
    collapsed, error_nm = next(attempts)
    if not _crowded(collapsed):
        return Simplified(collapsed, fell_back=False, crowded=0, error_nm=error_nm)
    before = _crowded(mesh)
    crowded = max(0, _crowded(collapsed) - before)
    parted = _part_sheets(collapsed, resolution_nm)
    if _is_sound(parted, mesh, before):
        return Simplified(parted, fell_back=False, crowded=crowded, error_nm=error_nm)
    # On meshes of other tools that have such edges themselves, zmesh may never end.
    careful = None if before else _simplify_with_care(mesh, resolution_nm, target_faces, max_error_nm)
    if careful is not None and _is_sound(careful, mesh, before):
        return Simplified(careful, fell_back=True, crowded=crowded, error_nm=error_nm)
    # The last is the mesh itself.
    collapsed, error_nm = next(attempt for attempt in attempts if _crowded(attempt[0]) <= before)
    return Simplified(collapsed, fell_back=True, crowded=crowded, error_nm=error_nm)


def _attempts(
    mesh: Mesh, resolution_nm: Resolution, target_faces: int, max_error_nm: float | None, *, fit: bool
) -> Iterator[tuple[Mesh, float]]:
    """Yield meshes that are not empty, and their errors; the target doubles each time, and the last is `mesh`."""
    target = target_faces
    while target < len(mesh.faces):
        faces, error_nm = _collapse_bodies(mesh, resolution_nm, target, max_error_nm)
        yield fitted(mesh, faces, resolution_nm) if fit else compact(Mesh(mesh.vertices, faces)), error_nm
        target *= 2
    yield mesh, 0.0


def _collapse_bodies(
    mesh: Mesh, resolution_nm: Resolution, target: int, max_error_nm: float | None
) -> tuple[Faces, float]:
    """Return what is left of the faces, on all vertices, and how far it is off.

    meshoptimizer sees no harm in it when a closed body vanishes, and an object may have thousands. Those that are to
    stay are simplified by themselves.
    """
    kept, error_nm = _collapse(mesh, resolution_nm, target, max_error_nm)
    lost = lost_bodies(mesh, kept)
    staying = _staying(lost, resolution_nm, np.inf if max_error_nm is None else max_error_nm)
    lengths = np.diff(lost.ends)
    small = lengths <= _LEAST_OF_BODY
    found = [kept, lost.faces[np.repeat(staying & small, lengths)]]
    for n in np.flatnonzero(staying & ~small).tolist():
        body = lost.faces[lost.ends[n] : lost.ends[n + 1]]
        numbers, corners = np.unique(body, return_inverse=True)
        alone = Mesh(mesh.vertices[numbers], corners.reshape(-1, 3).astype(np.uint32))
        goal = max(round(len(body) * target / len(mesh.faces)), _LEAST_OF_BODY)
        faces, nm = alone.faces, 0.0
        while goal < len(body):
            faces, nm = _collapse(alone, resolution_nm, goal, max_error_nm)
            if len(faces):
                break
            faces, goal = alone.faces, 2 * goal
        found.append(numbers[faces].astype(np.uint32))
        error_nm = max(error_nm, nm)
    return np.concatenate(found), error_nm


def _staying(bodies: Bodies, resolution_nm: Resolution, max_error_nm: float) -> npt.NDArray[np.bool_]:
    """Return which bodies must not vanish: those larger than the error, and of others one in each cube of that size."""
    scale = np.array(resolution_nm) / UNITS
    staying = np.linalg.norm((bodies.high - bodies.low) * scale, axis=1) > max_error_nm
    others = np.flatnonzero(~staying)
    # Measured from corner to corner.
    edge = max(max_error_nm, np.finfo(float).tiny) / np.sqrt(3)
    cubes = np.floor((bodies.low[others] + bodies.high[others]) / 2 * scale / edge)
    staying[others[np.unique(cubes, axis=0, return_index=True)[1]]] = True
    return staying


def _positions(
    vertices: Vertices, origin: npt.NDArray[np.int32], resolution_nm: Resolution, scale: float
) -> npt.NDArray[np.float32]:
    """Return where vertices are from `origin`: below 2^24 units away, each is where no other is."""
    return (vertices - origin).astype(np.float32) * (np.array(resolution_nm) * scale).astype(np.float32)


def _collapse(mesh: Mesh, resolution_nm: Resolution, target: int, max_error_nm: float | None) -> tuple[Faces, float]:
    """Return what meshoptimizer leaves of the faces, and how far it is off."""
    positions = _positions(mesh.vertices, mesh.vertices[0], resolution_nm, 1 / UNITS)
    out, error = np.empty(mesh.faces.size, np.uint32), np.zeros(1)
    count = meshoptimizer.simplify(
        out,
        np.ascontiguousarray(mesh.faces).reshape(-1),
        positions,
        target_index_count=3 * target,
        target_error=_ANY_ERROR if max_error_nm is None else max_error_nm,
        options=_OPTIONS,
        result_error=error,
    )
    return without_pairs(Mesh(mesh.vertices, out[:count].reshape(-1, 3))).faces, float(error[0])


def _crowded(mesh: Mesh) -> int:
    return count_edges(mesh.faces, len(mesh.vertices)).crowded


def _part_sheets(mesh: Mesh, resolution_nm: Resolution) -> Mesh:
    return weld([split_crowded_edges(mesh, crowded_edges(mesh.faces, len(mesh.vertices)), resolution_nm)], None)


def _simplify_with_care(mesh: Mesh, resolution_nm: Resolution, target_faces: int, max_error_nm: float | None) -> Mesh:
    """Return what zmesh makes of a mesh, in whole units again; empty where the mesh is too large for it."""
    # In its units the finest axis has its sixteenths: no two coordinates fall together when it cuts them to halves.
    scale = 1 / min(resolution_nm)
    corner = mesh.vertices.min(axis=0)
    positions = _positions(mesh.vertices, corner, resolution_nm, scale)
    if positions.max() >= _WIDEST_FOR_ZMESH:
        return Mesh(np.empty((0, 3), np.int32), np.empty((0, 3), np.uint32))
    found = zmesh.Mesher((1, 1, 1)).simplify(
        zmesh.Mesh(positions, mesh.faces, None),
        reduction_factor=max(1, round(len(mesh.faces) / max(target_faces, 1))),
        max_error=_ANY_ERROR if max_error_nm is None else max_error_nm * scale * UNITS,
        min_error=0,
    )
    vertices = np.rint(found.vertices / (np.array(resolution_nm) * scale)).astype(np.int32) + corner
    return weld([Mesh(vertices, found.faces.astype(np.uint32))], None)


def _is_sound(simplified: Mesh, mesh: Mesh, crowded: int) -> bool:
    return (
        0 < len(simplified.faces) <= len(mesh.faces)
        and _crowded(simplified) <= crowded
        and np.array_equal(border_edges(simplified), border_edges(mesh))
    )
