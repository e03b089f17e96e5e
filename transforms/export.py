"""Rendering: from regions of a source to parcels of encoded chunks, and tiles of the coarser mips."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from beam_volumes.export import render_region
from beam_volumes.process_pool import Task
from beam_volumes.volume_plan import VolumePlan
from transforms.pool import Execution
from transforms.rendering import RenderedParts, RenderFn, render


@dataclass
class RenderRegions(beam.PTransform):
    """Read, relabel, coarsen and encode regions.

    Element in: the index of a region of `plan`. Elements out: see `RenderedParts`. Precondition: the destination is
    claimed. Memory per element: as planned from the memory target, see `beam_volumes.export.render_region`.
    """

    plan: VolumePlan
    execution: Execution

    def expand(self, regions: beam.PCollection[int]) -> RenderedParts:
        """Run `render_region` on each."""
        return render("Render", regions, _RenderRegionFn(self.plan, self.execution))


class _RenderRegionFn(RenderFn):
    stage = "regions"

    def __init__(self, plan: VolumePlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def task(self, element: int) -> Task:
        return Task(render_region, (self._plan, element), f"region {self._plan.region_box(element)}")
