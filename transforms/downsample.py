"""The coarser mips above the regions: all tiles of a cell meet at one element, which makes the next mips of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam

from beam_volumes.downsample import coarsen_cell
from beam_volumes.parcels import Parcel
from beam_volumes.process_pool import Task
from beam_volumes.pyramid import CellKey
from beam_volumes.volume_plan import VolumePlan
from transforms.pool import Execution
from transforms.rendering import RenderedParts, RenderFn, render


@dataclass
class CoarsenCells(beam.PTransform):
    """Group tiles on their cell, one level of the pyramid, and make the next mips.

    Element in: (cell, one region's or cell's tiles for it). Elements out: see `RenderedParts`. Precondition: together
    the tiles of a cell hold each of its voxels once. Memory per element: see `beam_volumes.downsample.coarsen_cell`.
    """

    plan: VolumePlan
    execution: Execution

    def expand(self, tiles: beam.PCollection[tuple[CellKey, Parcel]]) -> RenderedParts:
        """Group, then run `coarsen_cell`."""
        grouped = tiles | "Group by cell" >> beam.GroupByKey()
        return render("Coarsen", grouped, _CoarsenCellFn(self.plan, self.execution))


class _CoarsenCellFn(RenderFn):
    stage = "cells"

    def __init__(self, plan: VolumePlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def task(self, element: tuple[tuple[int, int], Iterable[Parcel]]) -> Task:
        key, parcels = CellKey(*element[0]), list(element[1])
        label = f"cell {self._plan.pyramid.cell_box(key)} of level {key.level}"
        return Task(coarsen_cell, (self._plan, key, parcels), label)
