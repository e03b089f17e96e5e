"""Shards of all scales: every parcel of one shard meets at one element, which writes the shard once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam

from beam_volumes.parcels import Parcel
from beam_volumes.process_pool import Task
from beam_volumes.runs import Claim
from beam_volumes.shard_assembly import WrittenShard, assemble_shard
from beam_volumes.targets import ShardKey, Target
from transforms.pool import Execution, PooledDoFn


@dataclass
class AssembleShards(beam.PTransform):
    """Group parcels on their shard and write each shard.

    Element in: (shard, one region's parcel for it). Element out: what was written. Precondition: together the
    parcels of a shard hold each of its voxels once. Memory per element: the table of its pieces and one chunk.
    """

    claim: Claim
    targets: Sequence[Target]
    execution: Execution

    def expand(self, parcels: beam.PCollection[tuple[ShardKey, Parcel]]) -> beam.PCollection[WrittenShard]:
        """Group, then run `assemble_shard`."""
        return (
            parcels
            | "Group by shard" >> beam.GroupByKey()
            | "Assemble" >> beam.ParDo(_AssembleFn(self)).with_output_types(WrittenShard)
        )


class _AssembleFn(PooledDoFn):
    """Runs `assemble_shard`."""

    def __init__(self, what: AssembleShards) -> None:
        super().__init__(what.execution)
        self._claim, self._targets = what.claim, {target.mip: target for target in what.targets}

    def task(self, element: tuple[tuple[int, int], Iterable[Parcel]]) -> Task:
        (mip, shard), parcels = element
        target = self._targets[mip]
        args = (self._claim, target, shard, list(parcels))
        return Task(assemble_shard, args, f"shard {shard} of scale {target.scale.key}")

    def outputs(self, task: Task, result: WrittenShard) -> Iterator[WrittenShard]:
        self.count("shards", 1)
        self.count("chunks", result.receipt.chunks)
        yield result
