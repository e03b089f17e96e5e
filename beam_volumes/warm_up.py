"""Compile the kernels ahead of the first run that needs them, for the types that volumes mostly have.

    python -m beam_volumes.warm_up

For images: their workers find the compiled code where NUMBA_CACHE_DIR says, if NUMBA_CPU_NAME and NUMBA_CPU_FEATURES
are what they were here.
"""

from __future__ import annotations

import numpy as np

from beam_volumes.codecs import decode_chunk, encode_chunk
from beam_volumes.downsampling import Downsampler
from beam_volumes.meshing.label_kernels import number_voxels
from beam_volumes.meshing.marching_cubes import count_surfaces, extract_surfaces
from beam_volumes.meshing.mesh import UNITS, Mesh
from beam_volumes.meshing.mesh_grid import MeshGrid
from beam_volumes.meshing.multires import encode_fragment
from beam_volumes.meshing.simplification import simplify
from beam_volumes.meshing.topology import weld, without_cavities
from beam_volumes.voxel_counts import LabelCounter

_LABELS = ("uint8", "uint16", "uint32", "uint64")
_IMAGES = ("uint8", "uint16", "float32")

_STEPS = ((2, 2, 2),) * 10
"""As far as averages go: their sums have another type every few mips."""


def warm_up() -> None:
    """Run every kernel once for each type; seconds, or nothing where that has been done."""
    kinds = [("mode", data_type) for data_type in _LABELS] + [("average", data_type) for data_type in _IMAGES]
    for method, data_type in kinds:
        downsampler = Downsampler(method, data_type)
        # Images have a kernel for rows of whole words, too.
        for x in (15, 16):
            tile = downsampler.tile(np.zeros((x, 4, 4, 1), data_type), (0, 0, 0))
            for _ in downsampler.mips(tile, _STEPS):
                pass
    for data_type in _LABELS:
        for with_boxes in (False, True):
            counter = LabelCounter(2**20, lambda _: None, with_boxes=with_boxes)
            counter.add(np.zeros((2, 2, 2, 1), data_type), (0, 0, 0))
            counter.take()
    for data_type in ("uint32", "uint64"):
        encoded = encode_chunk(np.zeros((8, 8, 8, 1), data_type), "compressed_segmentation")
        decode_chunk(encoded, "compressed_segmentation", (8, 8, 8, 1), data_type)
    _warm_up_meshing()


def _warm_up_meshing() -> None:
    """Mesh a sphere in two halves."""
    x, y, z = np.indices((16, 16, 16)) - 8
    ball = x * x + y * y + z * z < 40
    halves = list[Mesh]()
    for start, stop in ((0, 9), (8, 16)):
        voxels = np.asfortranarray(ball[start:stop].astype(np.uint32))
        for data_type in _LABELS:
            number_voxels(voxels.astype(data_type).ravel("F"), np.ones(1, np.uint64), np.zeros(voxels.size, np.uint32))
        found = extract_surfaces(voxels, count_surfaces(voxels, 1), 1, 1)
        vertices = found.vertices.astype(np.int32) + np.array([2 * start, 0, 0], np.int32)
        halves.append(simplify(Mesh(vertices * np.int32(UNITS // 2), found.faces), (1.0, 1.0, 1.0), 300, None).mesh)
    whole = without_cavities(weld(halves, [(0, 8 * UNITS)]))
    grid = MeshGrid.of_voxels((0, 0, 0), (8, 8, 8), (1.0, 1.0, 1.0), 16)
    for lod, mesh in ((0, halves[0]), (1, whole)):
        encode_fragment(mesh, grid, lod, (0, 0, 0))


if __name__ == "__main__":
    warm_up()
