"""Writing scales of a volume: regions rendered, mips made of them, chunks grouped on shards, and all of it proved."""

from __future__ import annotations

from functools import partial

import apache_beam as beam

from beam_volumes.rendering import merge_counts
from beam_volumes.volume_plan import VolumePlan
from beam_volumes.volume_report import finish_volume
from transforms.downsample import CoarsenCells
from transforms.export import RenderRegions
from transforms.finish import Finish
from transforms.pool import Execution
from transforms.regions import ListRegions
from transforms.shards import AssembleShards


def write_volume(plan: VolumePlan, root: beam.Pipeline, execution: Execution) -> None:
    """Wire all that `plan` tells of: the levels of the pyramid one above the other, and one step for all shards.

    Precondition: the destination is claimed.
    """
    regions = root | "List regions" >> ListRegions(plan)
    parts = [regions | "Render regions" >> RenderRegions(plan, execution)]
    for level in range(1, len(plan.pyramid.levels) + 1):
        parts.append(parts[-1].tiles | f"Make mips, level {level}" >> CoarsenCells(plan, execution))
    parcels = [p.parcels for p in parts] | "Parcels of all levels" >> beam.Flatten()
    counts = [p.counts for p in parts] | "Counts of all levels" >> beam.Flatten()
    written = parcels | "Write shards" >> AssembleShards(plan.claim, plan.targets, execution)
    _ = root | "Finish" >> Finish(partial(finish_volume, plan), counts, merge_counts, (written,))
