"""Counting voxels: regions to runs of counts, runs merged box by box, and the last merge to files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam import typehints

from beam_volumes.process_pool import Task
from beam_volumes.voxel_count_plan import CountPlan, RunKey
from beam_volumes.voxel_counting import (
    Counted,
    CountedRun,
    CountStatistics,
    WrittenCounts,
    count_region,
    merge_box,
    write_counts,
)
from transforms.pool import Execution, PooledDoFn

_STATISTICS = "statistics"

_KEYED = typehints.Tuple[typehints.Tuple[int, int], CountedRun]
"""A coder of two integers for the key: deterministic, as keys must be, and short."""


class Runs(NamedTuple):
    """What comes of one level: a run of counts for each part, by the part of the next level that holds it."""

    runs: beam.PCollection[tuple[RunKey, CountedRun]]
    statistics: beam.PCollection[CountStatistics]


class Written(NamedTuple):
    """What comes of a count: one element that tells of the files, and the statistics of all steps."""

    counts: beam.PCollection[WrittenCounts]
    statistics: beam.PCollection[CountStatistics]


@dataclass
class CountVoxels(beam.PTransform):
    """Count the regions of a volume by label, and write the files of the counts.

    Element in: the index of a region of `plan`. Elements out: see `Written`. Precondition: the destination is claimed.
    Memory per element: as planned from the memory target, see `beam_volumes.voxel_count_planning`.
    """

    plan: CountPlan
    execution: Execution

    def expand(self, regions: beam.PCollection[int]) -> Written:
        """Wire the merges one above the other; the last one has all the volume."""
        plan, execution = self.plan, self.execution
        parts = [_runs("Count regions", regions, _CountFn(plan, execution))]
        for level in range(1, len(plan.levels)):
            grouped = parts[-1].runs | f"Group by box, level {level}" >> beam.GroupByKey()
            parts.append(_runs(f"Merge boxes, level {level}", grouped, _MergeFn(plan, execution)))
        counts = (
            parts[-1].runs
            | "Group all" >> beam.GroupByKey()
            | "Write counts" >> beam.ParDo(_WriteFn(plan, execution)).with_output_types(WrittenCounts)
        )
        return Written(counts, [p.statistics for p in parts] | "Statistics of all levels" >> beam.Flatten())


class _RunFn(PooledDoFn):
    """Makes a run of an element; `stage` is counted."""

    stage: str

    def __init__(self, plan: CountPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def outputs(self, task: Task, result: Counted) -> Iterator[Any]:
        self.count(self.stage, 1)
        yield (self._plan.parent(result.counted.key), result.counted)
        yield beam.pvalue.TaggedOutput(_STATISTICS, result.statistics)


class _CountFn(_RunFn):
    """Runs `count_region`."""

    stage = "regions"

    def task(self, element: int) -> Task:
        return Task(count_region, (self._plan, element), f"region {self._plan.box(RunKey(0, element))}")


class _MergeFn(_RunFn):
    """Runs `merge_box`."""

    stage = "merges"

    def task(self, element: tuple[RunKey, Iterable[CountedRun]]) -> Task:
        key, runs = RunKey(*element[0]), list(element[1])
        return Task(merge_box, (self._plan, key, runs), f"box {self._plan.box(key)}")


class _WriteFn(PooledDoFn):
    """Runs `write_counts`."""

    def __init__(self, plan: CountPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def task(self, element: tuple[RunKey, Iterable[CountedRun]]) -> Task:
        return Task(write_counts, (self._plan, list(element[1])), f"counts of {self._plan.folder}")

    def outputs(self, task: Task, result: WrittenCounts) -> Iterator[WrittenCounts]:
        self.count("merges", 1)
        yield result


def _runs(label: str, elements: beam.PCollection[Any], fn: _RunFn) -> Runs:
    """Apply `fn` as the step `label`."""
    done = elements | label >> beam.ParDo(fn).with_outputs(_STATISTICS, main="runs")
    done.runs.element_type = _KEYED
    return Runs(done.runs, done[_STATISTICS])
