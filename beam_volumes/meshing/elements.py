"""What the elements of meshing have in common: packs that a later run takes up, counts, and voxels that are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from beam_volumes.block_reading import Block, Clock, RegionReading
from beam_volumes.codecs import Array
from beam_volumes.geometry import Box, Grid
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.parcels import Parcels, ParcelWriter, read_parcels
from beam_volumes.process_pool import peak_memory_bytes
from beam_volumes.receipts import record_holes
from beam_volumes.runs import check_claim, telling_of_replacement
from beam_volumes.source_worker import let_go, worker_of


class ElementOutput(NamedTuple):
    """What comes of an element: parcels, and what was counted."""

    parcels: Parcels
    counts: MeshCounts


class ElementWork:
    """One element being worked on.

    Attributes:
        out: takes its pieces.
        clock: its laps become seconds of the counts.
        taken: what an interrupted run has made of it; then nothing is left to do.

    """

    def __init__(self, out: ParcelWriter, taken: ElementOutput | None) -> None:
        self.out, self.taken = out, taken
        self.clock = Clock()

    def output(self, counts: MeshCounts) -> ElementOutput:
        """Return what came of the element."""
        seconds = {f"{name}_seconds": spent for name, spent in self.clock.seconds.items()}
        counts = replace(counts, peak_memory_bytes=peak_memory_bytes(), **seconds)  # type: ignore[arg-type]
        return ElementOutput(self.out.finish({"counts": counts.to_json()}), counts)


@contextmanager
def working_on(plan: MeshPlan, name: str) -> Iterator[ElementWork]:
    """Give the work on an element whose pack is `name`; or what an interrupted run has made of it, as `taken`.

    Raises:
        DestinationError: the destination has been taken over.

    """
    check_claim(plan.claim)
    if found := read_parcels(plan.claim.scratch, name):
        parcels, note = found
        counts = replace(MeshCounts.from_json(note["counts"]), reused=1)
        yield ElementWork(ParcelWriter(plan.claim.scratch, name, plan.inline_bytes), ElementOutput(parcels, counts))
        return
    with telling_of_replacement(plan.claim), ParcelWriter(plan.claim.scratch, name, plan.inline_bytes) as out:
        try:
            yield ElementWork(out, None)
        except Exception:
            # What the process keeps may be what failed: a token that is no longer good, a volume that was mended.
            let_go()
            raise


class CellReading:
    """Reads voxels of a cell, and counts what that takes."""

    def __init__(self, plan: MeshPlan, cell: int, work: ElementWork) -> None:
        self._plan, self._cell, self._work = plan, cell, work
        self._worker = worker_of(plan)
        self._before = self._worker.server_counts()
        self._voxels = 0

    def blocks(self, box: Box) -> Iterator[Block]:
        """Yield the blocks of `box`, which lies in the bounds, in order."""
        plan, holes = self._plan, list[Box]()
        grid = Grid(box, plan.voxels.block.cell, plan.voxels.block.origin)
        boxes = (grid.box(grid.position(index)) for index in range(len(grid)))
        reading = RegionReading(boxes, f"cell {box}", self._work.clock, holes)
        for block, voxels in self._worker.reader.read(reading):
            self._voxels += block.voxels
            yield block, voxels
        if holes:
            record_holes(plan.claim, self._cell, holes)

    def padded(self, box: Box) -> Array:
        """Return the voxels of `box` as XYZ, in Fortran order; 0 outside of the bounds."""
        plan = self._plan
        voxels: Array = np.zeros(box.shape, plan.source.data_type, order="F")
        for block, values in self.blocks(box.intersection(plan.bounds)):
            voxels[block.slices(box.start)] = values[..., 0]
        self._work.clock.lap("read")
        return voxels

    def counted(self, counts: MeshCounts) -> MeshCounts:
        """Return `counts` with what reading took."""
        served = zip(self._worker.server_counts(), self._before, strict=True)
        ids, requests, retries = (now - then for now, then in served)
        return replace(counts, voxels_read=self._voxels, ids_asked=ids, requests=requests, retries=retries)
