"""The end of a run: proof that nothing was lost, then provenance and report, then the clean-up."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam

from beam_volumes.rendering import Counts, merge_counts
from beam_volumes.shard_assembly import WrittenShard
from beam_volumes.volume_plan import VolumePlan
from beam_volumes.volume_report import finish_volume


@dataclass
class FinishVolume(beam.PTransform):
    """Commit a run when all its shards are written, or fail.

    It is part of the graph, because a launcher does not wait for a job on a cluster. No element in or out; memory: the
    receipts of all shards.
    """

    plan: VolumePlan
    counts: beam.PCollection[Counts]
    written: beam.PCollection[WrittenShard]

    def expand(self, root: beam.Pipeline) -> beam.PCollection[None]:
        """Gather what was done at one element."""
        counts = self.counts | "Add up" >> beam.CombineGlobally(merge_counts)
        return (
            root
            | "Once" >> beam.Create([time.time()])
            | "Commit"
            >> beam.ParDo(
                _FinishFn(self.plan),
                counts=beam.pvalue.AsSingleton(counts),
                written=beam.pvalue.AsIter(self.written),
            )
        )


class _FinishFn(beam.DoFn):
    def __init__(self, plan: VolumePlan) -> None:
        self._plan = plan

    def process(self, started: float, counts: Counts, written: Iterable[WrittenShard]) -> None:
        finish_volume(self._plan, counts, written, started)
