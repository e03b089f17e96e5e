"""What regions and cells have in common as elements: parcels for shards, tiles for the cells above, and counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam import typehints

from beam_volumes.parcels import Parcel
from beam_volumes.process_pool import Task
from beam_volumes.pyramid import CellKey
from beam_volumes.rendering import Counts, Rendered
from beam_volumes.targets import ShardKey
from transforms.pool import PooledDoFn

_TILES, _COUNTS = "tiles", "counts"

_KEYED = typehints.Tuple[typehints.Tuple[int, int], Parcel]
"""A coder of two integers for the key: deterministic, as keys must be, and short."""


class RenderedParts(NamedTuple):
    """What comes of regions or cells."""

    parcels: beam.PCollection[tuple[ShardKey, Parcel]]
    tiles: beam.PCollection[tuple[CellKey, Parcel]]
    counts: beam.PCollection[Counts]


class RenderFn(PooledDoFn):
    """Runs what makes a `Rendered` of an element; `stage` is counted."""

    stage: str

    def outputs(self, task: Task, result: Rendered) -> Iterator[Any]:
        """Yield parcels, and under tags of their own tiles and counts."""
        self.count(self.stage, 1)
        yield from result.parcels.items()
        for tile in result.tiles.items():
            yield beam.pvalue.TaggedOutput(_TILES, tile)
        yield beam.pvalue.TaggedOutput(_COUNTS, result.counts)


def render(label: str, elements: beam.PCollection[Any], fn: RenderFn) -> RenderedParts:
    """Apply `fn` as the step `label`."""
    done = elements | label >> beam.ParDo(fn).with_outputs(_TILES, _COUNTS, main="parcels")
    done.parcels.element_type = _KEYED
    done[_TILES].element_type = _KEYED
    return RenderedParts(done.parcels, done[_TILES], done[_COUNTS])
