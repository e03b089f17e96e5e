"""Simplification of meshes: fewer triangles, the same open border, and a surface that stays a surface.

meshoptimizer collapses edges onto one of their vertices, by the quadrics of the planes around them (Garland and
Heckbert 1997). It takes a subset of the vertices, so coordinates stay exact, and the vertices of open borders stay
where they are, so cells that are simplified on their own fit together afterwards. It does not look at whether two
sheets of the surface meet when an edge collapses. Sheets that fall together over whole faces cancel. Where an edge is
left with more than two faces, zmesh simplifies the mesh instead: ten times slower, but with an eye on that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import meshoptimizer
import numpy as np
import numpy.typing as npt
import zmesh

from beam_volumes.meshing.mesh import UNITS, Faces, Mesh, Vertices
from beam_volumes.meshing.topology import border_edges, compact, count_edges, crowded_edges, weld, without_pairs

# A tetrahedron has 4 faces, an octahedron, which is the mesh of a single voxel, 8: there is nothing to be saved.
_SMALL = 8

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
        fell_back: meshoptimizer made edges with more than two faces, and the mesh was made otherwise.
        crowded: the edges with more than two faces that it had made, and the mesh did not have before.
        error_nm: how far the surface was moved, as meshoptimizer estimates it; at the same target, where it fell back.

    """

    mesh: Mesh
    fell_back: bool
    crowded: int
    error_nm: float


def simplify(mesh: Mesh, resolution_nm: Resolution, target_faces: int, max_error_nm: float | None) -> Simplified:
    """Simplify a mesh to `target_faces`, or until its surface would move further than `max_error_nm`.

    The open edges of the mesh are those of the result, to the last bit, and no edge has more than two faces that had
    not before. What is not empty does not become so: a closed body has 4 faces at least. Small meshes are returned as
    they are.

    Args:
        mesh: any; closed or with open borders.
        resolution_nm: size of a voxel, XYZ: errors are measured in nm, whatever the shape of voxels.
        target_faces: how many faces to aim at; more stay where borders or `max_error_nm` want it.
        max_error_nm: None for no limit.

    """
    if len(mesh.faces) <= max(target_faces, _SMALL):
        return Simplified(mesh, fell_back=False, crowded=0, error_nm=0.0)
    attempts = _attempts(mesh, resolution_nm, target_faces, max_error_nm)
    collapsed, error_nm = next(attempts)
    crowded = _new_crowded_edges(mesh, collapsed)
    if not crowded:
        return Simplified(compact(collapsed), fell_back=False, crowded=0, error_nm=error_nm)
    careful = _simplify_with_care(mesh, resolution_nm, target_faces, max_error_nm)
    if careful is not None:
        return Simplified(careful, fell_back=True, crowded=crowded, error_nm=error_nm)
    for collapsed, error_nm in attempts:
        if not _new_crowded_edges(mesh, collapsed):
            return Simplified(compact(collapsed), fell_back=True, crowded=crowded, error_nm=error_nm)
    return Simplified(mesh, fell_back=True, crowded=crowded, error_nm=0.0)


def _attempts(
    mesh: Mesh, resolution_nm: Resolution, target_faces: int, max_error_nm: float | None
) -> Iterator[tuple[Mesh, float]]:
    """Yield meshes that are not empty, with all vertices of `mesh`, and their errors; the target doubles each time.

    The last is the mesh itself.
    """
    positions = _positions(mesh.vertices, resolution_nm, 1 / UNITS)
    target = max(target_faces, 1)
    while target < len(mesh.faces):
        faces, error_nm = _collapse(mesh.faces, positions, target, max_error_nm)
        collapsed = without_pairs(Mesh(mesh.vertices, faces))
        if len(collapsed.faces):
            yield collapsed, error_nm
        target *= 2
    yield mesh, 0.0


def _positions(vertices: Vertices, resolution_nm: Resolution, scale: float) -> npt.NDArray[np.float32]:
    """Return where vertices are from the lower corner of their box, as exactly as 24 bits allow."""
    steps = np.array(resolution_nm, np.float64) * scale
    return ((vertices - vertices.min(axis=0)) * steps).astype(np.float32)


def _collapse(
    faces: Faces, positions: npt.NDArray[np.float32], target: int, max_error_nm: float | None
) -> tuple[Faces, float]:
    out, error = np.empty(faces.size, np.uint32), np.zeros(1)
    count = meshoptimizer.simplify(
        out,
        np.ascontiguousarray(faces).reshape(-1),
        positions,
        target_index_count=3 * target,
        target_error=_ANY_ERROR if max_error_nm is None else max_error_nm,
        options=_OPTIONS,
        result_error=error,
    )
    return out[:count].reshape(-1, 3), float(error[0])


def _new_crowded_edges(mesh: Mesh, collapsed: Mesh) -> int:
    """Count the edges with more than two faces that `mesh` has not; both have the same vertices."""
    if not count_edges(collapsed.faces, len(collapsed.vertices)).crowded:
        return 0
    before, after = (crowded_edges(m.faces, len(m.vertices)).astype(np.uint64) for m in (mesh, collapsed))
    shift = np.uint64(32)
    return len(np.setdiff1d(after[:, 0] << shift | after[:, 1], before[:, 0] << shift | before[:, 1]))


def _simplify_with_care(
    mesh: Mesh, resolution_nm: Resolution, target_faces: int, max_error_nm: float | None
) -> Mesh | None:
    """Return what zmesh makes of a mesh, or None where it does not keep the border, or makes crowded edges itself."""
    # In its units, voxels of one nm say, the finest axis keeps its sixteenths, and no two coordinates fall together.
    scale = 1 / min(resolution_nm)
    positions = _positions(mesh.vertices, resolution_nm, scale)
    if positions.max() >= _WIDEST_FOR_ZMESH:
        return None
    found = zmesh.Mesher((1, 1, 1)).simplify(
        zmesh.Mesh(positions, mesh.faces, None),
        reduction_factor=max(1, round(len(mesh.faces) / max(target_faces, 1))),
        max_error=_ANY_ERROR if max_error_nm is None else max_error_nm * scale * UNITS,
        min_error=0,
    )
    steps = np.array(resolution_nm, np.float64) * scale
    vertices = np.rint(found.vertices / steps).astype(np.int32) + mesh.vertices.min(axis=0)
    careful = weld([Mesh(vertices.astype(np.int32), found.faces.astype(np.uint32))], None)
    return careful if _is_sound(careful, mesh) else None


def _is_sound(careful: Mesh, mesh: Mesh) -> bool:
    return (
        0 < len(careful.faces) <= len(mesh.faces)
        and count_edges(careful.faces, len(careful.vertices)).crowded
        <= count_edges(mesh.faces, len(mesh.vertices)).crowded
        and np.array_equal(border_edges(careful), border_edges(mesh))
    )
