"""A function applied in chunks: chunks of the top level processed, and output boxes put together of their pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam import typehints

from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.processing import Applied, Counts, WrittenUnit, apply_region, merge_counts, reduce_box
from beam_volumes.applying.report import finish_apply
from beam_volumes.parcels import Parcel
from beam_volumes.process_pool import Task
from transforms.finish import Finish
from transforms.pool import Execution, PooledDoFn
from transforms.regions import ListRegions

_WRITTEN, _COUNTS = "written", "counts"

_KEYED = typehints.Tuple[typehints.Tuple[int, int], Parcel]
"""A coder of two integers for the key: deterministic, as keys must be, and short."""


class AppliedParts(NamedTuple):
    """What comes of a function applied in chunks.

    Attributes:
        written: output boxes; chunks of the top level where nothing is reduced.
        counts: of each element of the first step.

    """

    written: beam.PCollection[WrittenUnit]
    counts: beam.PCollection[Counts]


def apply_in_chunks(plan: ApplyPlan, hints: Mapping[str, Any], root: beam.Pipeline, execution: Execution) -> None:
    """Wire a whole run; `hints` are what the function's step needs of its workers, as Beam names it.

    Precondition: the destination is claimed.
    """
    for layers in plan.deferred:
        layers.write_infos()
    regions = root | "List chunks" >> ListRegions(plan)
    done = regions | "Apply" >> ApplyInChunks(plan, execution, hints)
    _ = root | "Finish" >> Finish(partial(finish_apply, plan), done.counts, merge_counts, (done.written,))


@dataclass
class ApplyInChunks(beam.PTransform):
    """Process chunks of the top level, group what they yield on output boxes, and write each of these once.

    Element in: the index of a region of `plan`. Elements out: see `AppliedParts`. Precondition: the destination is
    claimed. Memory per element: see `beam_volumes.subchunk_memory`.
    """

    plan: ApplyPlan
    execution: Execution
    hints: Mapping[str, Any] = field(default_factory=dict)

    def expand(self, regions: beam.PCollection[int]) -> AppliedParts:
        """Run `apply_region`, group, run `reduce_box`."""
        process = beam.ParDo(_ApplyFn(self.plan, self.execution)).with_outputs(_WRITTEN, _COUNTS, main="pieces")
        if self.hints:
            process = process.with_resource_hints(**self.hints)
        done = regions | "Process chunks" >> process
        done.pieces.element_type = _KEYED
        reduced = (
            done.pieces
            | "Group by output box" >> beam.GroupByKey()
            | "Reduce" >> beam.ParDo(_ReduceFn(self.plan, self.execution)).with_output_types(WrittenUnit)
        )
        return AppliedParts((done[_WRITTEN], reduced) | "All written" >> beam.Flatten(), done[_COUNTS])


class _ApplyFn(PooledDoFn):
    """Runs `apply_region`."""

    def __init__(self, plan: ApplyPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def task(self, element: int) -> Task:
        first = self._plan.subchunks.top_chunk(self._plan.tops(element)[0]).box
        return Task(apply_region, (self._plan, element), f"top chunk {first}")

    def outputs(self, task: Task, result: Applied) -> Iterator[Any]:
        self.count("chunks", result.counts.tops)
        self.count("boxes", len(result.written))
        yield from result.parcels.items()
        for written in result.written:
            yield beam.pvalue.TaggedOutput(_WRITTEN, written)
        yield beam.pvalue.TaggedOutput(_COUNTS, result.counts)


class _ReduceFn(PooledDoFn):
    """Runs `reduce_box`."""

    def __init__(self, plan: ApplyPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def task(self, element: tuple[tuple[int, int], Iterable[Parcel]]) -> Task:
        (_, owner), parcels = element
        box = self._plan.subchunks.owner_box(owner)
        return Task(reduce_box, (self._plan, owner, list(parcels)), f"output box {box}")

    def outputs(self, task: Task, result: WrittenUnit) -> Iterator[WrittenUnit]:
        self.count("boxes", 1)
        yield result
