"""The plan of a run that applies a function in chunks: what every worker knows of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from beam_volumes.applying.deferred import DeferredLayers
from beam_volumes.applying.specs import FlowSpec
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.precomputed.info import Json
from beam_volumes.provenance import Launch
from beam_volumes.receipts import receipts
from beam_volumes.runs import Claim
from beam_volumes.subchunks import SubchunkPlan, VoxelKind


class Regions(NamedTuple):
    """The elements of the first step, of whole chunks of the top level; `regions` counts these."""

    regions: Grid


@dataclass(frozen=True)
class ApplyPlan:
    """Everything that a worker needs to know of a run; picklable, and the same in every worker.

    Attributes:
        spec: what each process builds once: layers are opened, and models loaded, where they are used.
        subchunks: how the volume is cut.
        kinds: channels and type of each output.
        infos: of the volumes that are written, by location.
        deferred: where the chunks of the top level are left, for mode defer, by output; empty where they are reduced.
        batch: chunks that the function takes at once.
        region: how many chunks of the top level an element takes, one after another, along x, y and z.
        cache_bytes: of stored chunks that each process keeps while neighbours need them.
        threads: that the function may use in each process.
        inline_bytes: what an element may send to one owner without a pack.
        picture: whether a slice of input and output is drawn.
        launch: who launched it, with which versions.
        finished: a bit per unit that an earlier run has finished; empty where there is none.

    """

    claim: Claim
    spec: FlowSpec
    subchunks: SubchunkPlan
    kinds: tuple[VoxelKind, ...]
    infos: dict[str, Json]
    deferred: tuple[DeferredLayers, ...]
    batch: int
    region: Vec
    cache_bytes: int
    threads: int
    inline_bytes: int
    picture: bool
    launch: Launch
    finished: bytes = b""

    @property
    def reading(self) -> Regions:
        """The elements, as `ListRegions` takes them."""
        return Regions(Grid(Box.of_shape(self.subchunks.shape), self.region, (0, 0, 0)))

    @property
    def is_reduced(self) -> bool:
        """Whether what chunks yield is put together in output boxes."""
        return bool(self.kinds) and not self.deferred

    @property
    def units(self) -> int:
        """What is finished one by one: output boxes; where nothing is reduced, chunks of the top level."""
        return self.subchunks.count_owners() if self.is_reduced else len(self.subchunks)

    @property
    def _numbers(self) -> int:
        """Up to which, not including it, units are numbered; some are missing where there are gaps."""
        return len(self.subchunks.owners) if self.is_reduced else len(self.subchunks)

    def tops(self, region: int) -> list[int]:
        """Return the chunks of the top level that an element takes."""
        regions = self.reading.regions
        (x0, y0, z0), (x1, y1, z1) = regions.box(regions.position(region))
        nx, ny, _ = self.subchunks.shape
        return [x + nx * (y + ny * z) for z in range(z0, z1) for y in range(y0, y1) for x in range(x0, x1)]

    def units_of(self, top: int) -> Iterable[int]:
        """Return the units that a chunk of the top level has a part in."""
        return self.subchunks.owners_of(top) if self.is_reduced else [top]

    def is_finished(self, unit: int) -> bool:
        """Whether an earlier run has finished a unit."""
        return bool(self.finished) and bool(self.finished[unit // 8] >> (unit % 8) & 1)

    def tops_needed(self, region: int) -> list[int]:
        """Return the chunks of an element for which there is something left to do."""
        tops = self.tops(region)
        if not self.finished:
            return tops
        needed = [top for top in tops if any(not self.is_finished(unit) for unit in self.units_of(top))]
        # Of batches of other chunks the same bits would not come.
        return tops if needed and self.batch > 1 else needed

    def needs_region(self, region: int) -> bool:
        """Whether there is anything left to do for an element."""
        return bool(self.tops_needed(region))

    def taken_up(self) -> ApplyPlan:
        """Return the plan of a run that goes on where the one before has stopped.

        Raises:
            CorruptDataError: what it has recorded is damaged.

        """
        return self.with_finished(receipt.shard for receipt in receipts(self.claim))

    def with_finished(self, units: Iterable[int]) -> ApplyPlan:
        """Return the plan of a run that goes on where others are finished."""
        bits = bytearray(-(-self._numbers // 8))
        for unit in units:
            bits[unit // 8] |= 1 << (unit % 8)
        return replace(self, finished=bytes(bits) if any(bits) else b"")

    @cached_property
    def planned(self) -> dict[str, int]:
        """What there is to do: elements, chunks of the top level, bottom chunks, and units to finish."""
        if self.claim.state == "complete":
            return {"regions": 0, "tops": 0, "chunks": 0, "units": 0}
        if not self.finished:
            tops = len(self.subchunks)
            chunks = self.subchunks.count_bottom_chunks()
            return {"regions": len(self.reading.regions), "tops": tops, "chunks": chunks, "units": self.units}
        regions = tops = chunks = 0
        for needed in self._needed():
            regions += 1
            tops += len(needed)
            chunks += sum(self.subchunks.count_bottom_chunks(top) for top in needed)
        left = self.units - sum(byte.bit_count() for byte in self.finished)
        return {"regions": regions, "tops": tops, "chunks": chunks, "units": left}

    def _needed(self) -> Iterator[list[int]]:
        for region in range(len(self.reading.regions)):
            if needed := self.tops_needed(region):
                yield needed
