"""Rendering: from regions of a source to parcels of encoded chunks, keyed by the shard that owns them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam import typehints

from beam_volumes.export import ExportPlan, RegionCounts, RenderedRegion, render_region
from beam_volumes.parcels import Parcel
from beam_volumes.process_pool import Task
from beam_volumes.targets import ShardKey
from transforms.pool import Execution, PooledDoFn

_COUNTS = "counts"


class Rendered(NamedTuple):
    """What comes of regions: parcels by shard, and counts."""

    parcels: beam.PCollection[tuple[ShardKey, Parcel]]
    counts: beam.PCollection[RegionCounts]


@dataclass
class RenderRegions(beam.PTransform):
    """Read, relabel and encode regions.

    Element in: the index of a region of `plan`. Elements out: see `Rendered`. Precondition: the destination is claimed.
    Memory per element: as planned from the memory target, see `beam_volumes.export.render_region`.
    """

    plan: ExportPlan
    execution: Execution

    def expand(self, regions: beam.PCollection[int]) -> Rendered:
        """Run `render_region` on each."""
        done = regions | "Render" >> beam.ParDo(_RenderFn(self.plan, self.execution)).with_outputs(
            _COUNTS, main="parcels"
        )
        # A coder of two integers: deterministic, as keys must be, and short.
        done.parcels.element_type = typehints.Tuple[typehints.Tuple[int, int], Parcel]
        return Rendered(done.parcels, done[_COUNTS])


class _RenderFn(PooledDoFn):
    """Runs `render_region`."""

    def __init__(self, plan: ExportPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def task(self, element: int) -> Task:
        return Task(render_region, (self._plan, element), f"region {self._plan.region_box(element)}")

    def outputs(self, task: Task, result: RenderedRegion) -> Iterator[Any]:
        self.count("regions", 1)
        yield from result.parcels.items()
        yield beam.pvalue.TaggedOutput(_COUNTS, result.counts)
