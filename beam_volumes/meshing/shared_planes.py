"""What a cell tells the next ones of: the labels in the planes of voxels that they have in common.

A voxel is counted in one cell. But the last voxels of a cell are also the first that the cubes of the next one take: a
label that ends there has a part of its surface in the next cell, which would not hear of it, having none of its voxels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from beam_volumes.codecs import Array
from beam_volumes.geometry import Box, Vec
from beam_volumes.meshing.mesh_plan import MeshPlan


class SharedPlanes:
    """Collects the labels of a cell that its next ones, up to seven, have in their first planes of voxels."""

    def __init__(self, plan: MeshPlan, cell: int) -> None:
        (x, y, z), shape, own = plan.cells.position(cell), plan.cells.shape, plan.own_voxels(cell)
        self._boxes: dict[int, Box] = {}
        for dx, dy, dz in itertools.product((0, 1), repeat=3):
            there = (x + dx, y + dy, z + dz)
            if (dx or dy or dz) and all(n < s for n, s in zip(there, shape, strict=True)):
                self._boxes[plan.cells.index(there)] = Box(_last(own, (dx, dy, dz)), own.stop)
        self._found: dict[int, list[Array]] = {cell: [] for cell in self._boxes}

    def add(self, box: Box, values: Array) -> None:
        """Take voxels of the cell, XYZC of one channel."""
        for cell, shared in self._boxes.items():
            part = box.intersection(shared)
            if part.voxels:
                self._found[cell].append(np.unique(values[part.slices(box.start)]))

    def labels(self) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
        """Yield the cells that are told, and of which labels; background is among them."""
        for cell, found in self._found.items():
            yield cell, np.unique(np.concatenate(found)).astype(np.uint64)


def _last(own: Box, step: Vec) -> Vec:
    """Return the start of the last voxels along the axes that `step` goes along."""
    x, y, z = (b - 1 if d else a for a, b, d in zip(own.start, own.stop, step, strict=True))
    return (x, y, z)
