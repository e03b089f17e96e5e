"""What is read of a cell: its voxels, or its file of fragments; which labels it holds, and their surfaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from beam_volumes.meshing.cell_fragments import labels_of_fragments, meshes_of_fragments, reaches_in_index
from beam_volumes.meshing.elements import CellReading, ElementWork
from beam_volumes.meshing.forging import Forged, forge
from beam_volumes.meshing.label_rows import LabelRows, label_rows
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_input import VoxelInput
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.shared_planes import SharedPlanes
from beam_volumes.receipts import record_holes
from beam_volumes.voxel_counts import LabelCounter, Table, add_up


class CellInput(Protocol):
    """What can be had of a cell, whatever is read."""

    def labels(self) -> dict[int, LabelRows]:
        """Return the labels of the cell; and of cells that it tells of common planes, by cell."""

    def surfaces(self, labels: LabelRows) -> Iterator[Forged]:
        """Yield the surfaces of `labels` (sorted), by label; those without any are left out."""

    def counted(self, counts: MeshCounts) -> MeshCounts:
        """Return `counts` with what reading took."""


def input_of_cell(plan: MeshPlan, cell: int, work: ElementWork) -> CellInput:
    """Return what is read of a cell."""
    kind = CellVoxels if isinstance(plan.input, VoxelInput) else CellFragments
    return kind(plan, cell, work)


class CellVoxels:
    """The voxels of a cell."""

    def __init__(self, plan: MeshPlan, cell: int, work: ElementWork) -> None:
        self._plan, self._cell, self._clock = plan, cell, work.clock
        self._reading = CellReading(plan, cell, work)

    def labels(self) -> dict[int, LabelRows]:
        """Return the labels of the cell and their voxels; and for the next cells those in common planes, of none."""
        plan, cell, full = self._plan, self._cell, list[Table]()
        counter, shared = LabelCounter(plan.voxels.share_bytes, full.append, with_boxes=False), SharedPlanes(plan, cell)
        for block, values in self._reading.blocks(plan.own_voxels(cell)):
            counter.add(values, block.start)
            shared.add(block, values)
            self._clock.lap("count")
        table = add_up([*full, counter.take()])
        rows = {cell: label_rows(table["label"], table["voxels"])}
        return rows | {there: label_rows(labels, 0) for there, labels in shared.labels()}

    def surfaces(self, labels: LabelRows) -> Iterator[Forged]:
        """Yield the surfaces of `labels`; see `forge`."""
        return forge(self._plan, self._cell, labels, self._reading, self._clock)

    def counted(self, counts: MeshCounts) -> MeshCounts:
        """Return `counts` with the voxels that were read, and what the server was asked."""
        return self._reading.counted(counts)


class CellFragments:
    """The file of fragments of a cell."""

    def __init__(self, plan: MeshPlan, cell: int, work: ElementWork) -> None:
        self._plan, self._cell = plan, cell

    def labels(self) -> dict[int, LabelRows]:
        """Return the labels that have a fragment in the cell; of how many voxels nobody knows."""
        plan, cell = self._plan, self._cell
        keys = labels_of_fragments(plan.fragments, cell, fill_missing=plan.fill_missing)
        if keys is None:
            record_holes(plan.claim, cell, [plan.fragments.box(cell)])
            keys = np.empty(0, np.uint64)
        return {cell: label_rows(keys, 0)}

    def surfaces(self, labels: LabelRows) -> Iterator[Forged]:
        """Yield the surfaces of `labels`, in the order of the file."""
        plan, cell = self._plan, self._cell
        found, reaches = meshes_of_fragments(plan, cell, labels["label"].tolist()), reaches_in_index(plan, cell)
        return (Forged(label, mesh, len(mesh.faces), False, 0, reaches.get(label)) for label, mesh in found)

    def counted(self, counts: MeshCounts) -> MeshCounts:
        """Return `counts`: no voxels were read."""
        return counts
