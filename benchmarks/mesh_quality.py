"""What multi-resolution meshes are worth, of whoever made them: triangles, open edges, and how far they are off.

Meshes are read by CloudVolume. Their positions are taken in thousandths of nm, a small part of a quantum, so that what
lies at one place in two fragments is one vertex. The error is that of `mesh_error`, from the surface that zmesh's
marching cubes makes of the voxels, of labels that are the same for all: the largest, and some at random. Points are
chosen evenly by area over all of them, so that large objects count for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import fastremap
import numpy as np
import numpy.typing as npt
import zmesh
from cloudvolume import CloudVolume

from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.topology import border_edges, weld
from benchmarks.mesh_error import MeshError, Points, distances_to_surface, surface_samples

Labels = npt.NDArray[Any]

_PER_NM = 1000
_LARGEST, _AT_RANDOM, _SAMPLES = 30, 100, 1_000_000


class LevelQuality(NamedTuple):
    """One level of detail of all objects.

    Attributes:
        objects: how many have it.
        triangles: of all of them.
        triangles_in_common: of the objects that have this level in all that is compared.
        open_edges: with an odd number of faces; those on the faces of the volume are left out.
        error: of some of the objects in common; None where there is none.

    """

    objects: int
    triangles: int
    triangles_in_common: int
    open_edges: int
    error: MeshError | None


class Judge:
    """Compares meshes of the same voxels.

    Args:
        voxels: labels, XYZ, of the whole volume, which begins at 0.
        resolution_nm: size of a voxel, XYZ.
        dust_threshold: the fewest voxels of a label that has a mesh.

    """

    def __init__(self, voxels: Labels, resolution_nm: Sequence[int], dust_threshold: int) -> None:
        labels, counts = fastremap.unique(voxels, return_counts=True)
        meshed = (labels != 0) & (counts >= dust_threshold)
        self._labels = labels[meshed]
        self._voxel_nm, self._size_nm = np.array(resolution_nm), np.array(voxels.shape) * resolution_nm
        self._points = _sampled_surfaces(voxels, resolution_nm, self._chosen(counts[meshed]))

    def compare(self, layers: Sequence[str]) -> list[list[LevelQuality]]:
        """Return the levels of detail of the meshes of each layer, a URL.

        Raises:
            RuntimeError: one of them has no meshes that CloudVolume reads.

        """
        read = [_reader(url) for url in layers]
        tallies: list[list[_Tally]] = [[] for _ in layers]
        for label in self._labels.tolist():
            objects = [list(levels(label)) for levels in read]
            in_common = min(map(len, objects))
            for tally, levels in zip(tallies, objects, strict=True):
                tally.extend(_Tally() for _ in range(len(levels) - len(tally)))
                for lod, level in enumerate(levels):
                    points = self._points.get(label) if lod < in_common else None
                    tally[lod].add(level, self._open_edges(level.welded), lod < in_common, points)
        return [[tally.quality() for tally in levels] for levels in tallies]

    def _chosen(self, counts: npt.NDArray[np.integer[Any]]) -> Labels:
        order = np.argsort(counts, kind="stable")[::-1]
        others = np.random.default_rng(0).permutation(order[_LARGEST:])
        return self._labels[np.concatenate([order[:_LARGEST], others[:_AT_RANDOM]])]

    def _open_edges(self, mesh: Mesh) -> int:
        """Return the number of open edges but for those of which both ends are at the same face of the volume."""
        ends: npt.NDArray[np.float64] = border_edges(mesh) / _PER_NM
        # Surfaces that are not closed there end half a voxel before it.
        at_face = np.concatenate([ends < self._voxel_nm, ends > self._size_nm - self._voxel_nm], axis=2)
        return int(np.count_nonzero(~np.any(np.all(at_face, axis=1), axis=1)))


class _Level(NamedTuple):
    """An object at one level of detail: how many triangles are stored, and what is left of them when they are welded.

    Vertices are in thousandths of nm.
    """

    triangles: int
    welded: Mesh


class _Tally:
    """Adds up objects at one level of detail."""

    def __init__(self) -> None:
        self._objects = self._triangles = self._in_common = self._open_edges = 0
        self._distances = list[npt.NDArray[np.float64]]()

    def add(self, level: _Level, open_edges: int, in_common: bool, points: Points | None) -> None:
        self._objects += 1
        self._triangles += level.triangles
        self._in_common += in_common * level.triangles
        self._open_edges += open_edges
        if points is not None:
            self._distances.append(distances_to_surface(points, level.welded.vertices / _PER_NM, level.welded.faces))

    def quality(self) -> LevelQuality:
        error = None
        if self._distances:
            all_of_them = np.concatenate(self._distances)
            error = MeshError(
                float(all_of_them.mean()), float(np.percentile(all_of_them, 99)), float(all_of_them.max())
            )
        return LevelQuality(self._objects, self._triangles, self._in_common, self._open_edges, error)


def _sampled_surfaces(voxels: Labels, resolution_nm: Sequence[int], labels: Labels) -> dict[int, Points]:
    """Return points on the surface of each label, nm; as many on equal areas."""
    mesher = zmesh.Mesher(tuple(resolution_nm))
    mesher.mesh(fastremap.mask_except(voxels, labels.tolist()), close=True)
    surfaces, areas = [], []
    for label in labels.tolist():
        found = mesher.get(label, normals=False, reduction_factor=0, voxel_centered=True)
        # To close surfaces zmesh puts a voxel before the first one, which it then counts from.
        vertices = found.vertices - np.array(resolution_nm)
        surfaces.append((vertices, found.faces))
        sides = np.diff(vertices[found.faces], axis=1)
        areas.append(np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum() / 2)
    samples = np.ceil(np.array(areas) / sum(areas) * _SAMPLES).astype(int).tolist()
    return {
        label: surface_samples(*surface, number)
        for label, surface, number in zip(labels.tolist(), surfaces, samples, strict=True)
    }


def _reader(url: str) -> Callable[[int], Iterator[_Level]]:
    """Return what yields the levels of detail of a label; none where it has no mesh."""
    source = CloudVolume(url, progress=False).mesh
    if source.meta.info["@type"] != "neuroglancer_multilod_draco":
        raise RuntimeError(f"{url}: expected multi-resolution meshes, came {source.meta.info['@type']}")

    def levels(label: int) -> Iterator[_Level]:
        manifest = source.get_manifest(label)
        for lod in range(manifest.num_lods if manifest else 0):
            found = source.get(label, lod=lod)[label]
            vertices = np.rint(found.vertices * _PER_NM).astype(np.int32)
            faces = np.asarray(found.faces, np.uint32).reshape(-1, 3)
            yield _Level(len(faces), weld([Mesh(vertices, faces)], None))

    return levels
