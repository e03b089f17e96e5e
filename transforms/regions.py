"""Source keys, made inside the graph: as quick to start for 1e8 regions as for ten."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import apache_beam as beam

_MOST_RANGES = 1_000


class Cut(Protocol):
    """What a run reads, in pieces."""

    @property
    def regions(self) -> Sized:
        """The pieces: boxes of a volume, batches of files."""


class RegionPlan(Protocol):
    """What must be known of a run for its regions to be listed; picklable."""

    @property
    def reading(self) -> Cut:
        """How that is cut which is read."""

    def needs_region(self, region: int) -> bool:
        """Whether there is anything left to do in a region."""


class RegionRange(NamedTuple):
    """Regions from `start` up to, not including, `stop`."""

    start: int
    stop: int


@dataclass
class ListRegions(beam.PTransform):
    """Make the index of every region in which something is left to do.

    Element out: the region's index, an int. Memory per element: none to speak of.
    """

    plan: RegionPlan

    def expand(self, root: beam.Pipeline) -> beam.PCollection[int]:
        """Create ranges, spread them, and let each worker count its own."""
        total = len(self.plan.reading.regions)
        step = max(1, -(-total // _MOST_RANGES))
        ranges = [RegionRange(i, min(i + step, total)) for i in range(0, total, step)]
        return (
            root
            | "Create ranges" >> beam.Create(ranges)
            | "Spread ranges" >> beam.Reshuffle()
            | "List indices" >> beam.ParDo(_ListFn(self.plan)).with_output_types(int)
            # Without this break the runner would fuse a whole range with its work on one worker.
            | "Spread regions" >> beam.Reshuffle()
        )


class _ListFn(beam.DoFn):
    def __init__(self, plan: RegionPlan) -> None:
        self._plan = plan

    def process(self, element: RegionRange) -> Iterator[int]:
        for region in range(element.start, element.stop):
            if self._plan.needs_region(region):
                yield region
