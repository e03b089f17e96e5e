"""The end of a run: what its steps have done is gathered, and committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam


@dataclass
class Finish(beam.PTransform):
    """Commit a run when all its steps have ended, or fail.

    It is part of the graph, because a launcher does not wait for a job on a cluster. No element in or out; memory: what
    comes of all steps.

    Attributes:
        finish: proves that nothing was lost, commits and cleans up; takes the counts, an iterable for each of
            `written`, and when the run started, UNIX seconds.
        counts: of each element.
        merge: makes one of many counts.
        written: what was made, step by step.

    """

    finish: Callable[..., None]
    counts: beam.PCollection[Any]
    merge: Callable[[Iterable[Any]], Any]
    written: tuple[beam.PCollection[Any], ...] = ()

    def expand(self, root: beam.Pipeline) -> beam.PCollection[None]:
        """Gather what was done at one element."""
        counts = self.counts | "Add up" >> beam.CombineGlobally(self.merge)
        gathered = [beam.pvalue.AsSingleton(counts), *map(beam.pvalue.AsIter, self.written)]
        return root | "Once" >> beam.Create([time.time()]) | "Commit" >> beam.ParDo(_FinishFn(self.finish), *gathered)


class _FinishFn(beam.DoFn):
    def __init__(self, finish: Callable[..., None]) -> None:
        self._finish = finish

    def process(self, started: float, *gathered: Any) -> None:
        self._finish(*gathered, started)
