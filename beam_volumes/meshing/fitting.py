"""Fitting: the vertices of a simplified surface are moved to where it is nearest to the one that it was made of.

Where edges collapse onto their ends, a subset of the vertices is left: between them triangles cut off what is convex.
One step of least squares mends most of it: each vertex of the finer surface pulls the triangle that it is next to
towards itself, at the triangle's corners. On neurons a level of detail of as many triangles is off by a sixth less.
"""

from __future__ import annotations

import numpy as np

from beam_volumes.meshing import fitting_kernels as kernels
from beam_volumes.meshing.mesh import UNITS, Faces, Mesh
from beam_volumes.meshing.topology import compact_numbered, frozen, open_edges


def fitted(fine: Mesh, faces: Faces, resolution_nm: tuple[float, float, float]) -> Mesh:
    """Return the surface `faces`, on some of the vertices of `fine`, with these nearer to the surface of `fine`.

    Vertices of open edges stay, no step folds a face over, and nothing leaves the box of `fine`. Memory: 12 bytes per
    face of `fine` and 20 per vertex.
    """
    vertices, all_faces = frozen(fine.vertices, np.int32), frozen(fine.faces, np.uint32)
    coarse, owners = compact_numbered(Mesh(vertices, faces))
    if len(coarse.vertices) == len(vertices):
        return coarse
    x, y, z = (nm / UNITS for nm in resolution_nm)
    at, starts = kernels.faces_at(all_faces, len(vertices))
    kernels.spread(all_faces, at, starts, owners)
    coarse_faces = frozen(coarse.faces, np.uint32)
    surface = (coarse.vertices, coarse_faces, *kernels.faces_at(coarse_faces, len(coarse.vertices)))
    areas = np.zeros(len(vertices))
    kernels.areas_at(vertices, all_faces, (x, y, z), areas)
    ways, weights = np.zeros(coarse.vertices.shape), np.zeros(len(coarse.vertices))
    kernels.pull(vertices, areas, owners, surface, (x, y, z), ways, weights)
    ways /= np.maximum(weights, np.finfo(float).tiny)[:, None] * (x, y, z)
    ends = np.clip(np.rint(coarse.vertices + ways), vertices.min(axis=0), vertices.max(axis=0)).astype(np.int32)
    fixed = np.zeros(len(coarse.vertices), np.bool_)
    fixed[open_edges(coarse.faces, len(coarse.vertices))] = True
    kernels.move(surface, fixed, ends - coarse.vertices, (x, y, z))
    return coarse
