"""The plan of a run that writes scales of a volume: an export, a pyramid, or both at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from beam_volumes.downsampling import coarse_box
from beam_volumes.geometry import Box, Vec
from beam_volumes.graphene import GrapheneTable, Limits, RootQuestion
from beam_volumes.provenance import Launch
from beam_volumes.pyramid import CellKey, Pyramid
from beam_volumes.reading_plan import ReadingPlan
from beam_volumes.runs import Claim
from beam_volumes.sources import Source
from beam_volumes.targets import ShardKey, Target

_CELLS_KEPT = 100_000
"""Of which a worker, or the launcher, remembers whether they are needed."""


@dataclass(frozen=True)
class Server:
    """How a worker talks to the proofreading server.

    Attributes:
        token_env: where the token is found; the token itself never travels.
        limits: one worker's share.

    """

    table: GrapheneTable
    question: RootQuestion
    token_env: str | None
    limits: Limits


@dataclass(frozen=True)
class VolumePlan:
    """Everything that a worker needs to know of a run; picklable, and the same in every worker.

    Attributes:
        server: None where voxels are taken as they are.
        targets: the scales to write, by mip.
        base_mip: the mip of the destination that the source's voxels are, whether it is written or stands already.
        translate: destination minus source, voxels.
        pyramid: how the source is read, and the mips made of it.
        lookahead_bytes: how many bytes of voxels may wait for the server in one worker.
        inline_bytes: what a region may send to one owner without a pack.
        launch: who launched it, with which versions.
        finished: by mip, a bit per shard that an earlier run has written; nothing where there is none.

    """

    claim: Claim
    source: Source
    server: Server | None
    targets: tuple[Target, ...]
    base_mip: int
    translate: Vec
    pyramid: Pyramid
    fill_missing: bool
    lookahead_bytes: int
    inline_bytes: int
    launch: Launch
    finished: dict[int, bytes] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: a plan travels with each task, and what it has found out since may be large."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def reading(self) -> ReadingPlan:
        """How the source is cut for reading, in the destination's voxels."""
        return self.pyramid.reading

    def target(self, mip: int) -> Target | None:
        """Return the scale to write at `mip`; None where that stands already."""
        return self._targets.get(mip)

    @cached_property
    def _targets(self) -> dict[int, Target]:
        return {target.mip: target for target in self.targets}

    def is_finished(self, key: ShardKey) -> bool:
        """Whether an earlier run has written this shard."""
        bits = self.finished.get(key.mip)
        if not bits:
            return False
        index = self._targets[key.mip].shards.index_of(key.shard)
        return bool(bits[index // 8] >> (index % 8) & 1)

    def region_box(self, region: int) -> Box:
        """Return the voxels of a region, in the destination."""
        regions = self.reading.regions
        return regions.box(regions.position(region))

    def needs_region(self, region: int) -> bool:
        """Whether a shard that is not finished is made of voxels of a region."""
        return self._needs(0, self.region_box(region))

    def needs_cell(self, key: CellKey) -> bool:
        """Whether a shard that is not finished is made of a cell's tiles."""
        if not self.finished:
            return True
        if key not in self._cells_needed:
            # Those below a cell are asked for one after another, and each asks for it again.
            if len(self._cells_needed) >= _CELLS_KEPT:
                self._cells_needed.clear()
            self._cells_needed[key] = self._needs(key.level, self.pyramid.cell_box(key))
        return self._cells_needed[key]

    @cached_property
    def _cells_needed(self) -> dict[CellKey, bool]:
        return {}

    def _needs(self, level: int, box: Box) -> bool:
        """Whether `box`, voxels of the base, is needed at a level or above it."""
        if not self.finished:
            return True
        first, last = self.pyramid.mips_of(level)
        mips = range(first + 1 if level else 0, last + 1)
        if any(self._needs_mip(mip, box) for mip in mips):
            return True
        return any(self.needs_cell(key) for key in self.pyramid.parents(level, box))

    def _needs_mip(self, mip: int, box: Box) -> bool:
        target = self.target(self.base_mip + mip)
        if target is None:
            return False
        shards = target.shards_meeting(coarse_box(box, self.pyramid.totals[mip]))
        return any(not self.is_finished(ShardKey(target.mip, shard)) for shard in shards)

    @property
    def source_voxel_bytes(self) -> int:
        """Bytes of one voxel, all channels together."""
        return np.dtype(self.source.data_type).itemsize * self.source.num_channels

    @cached_property
    def planned(self) -> dict[str, int]:
        """What this run has to do: regions to render, cells to coarsen, voxels, chunks and shards to write."""
        regions, levels = self.reading.regions, self.pyramid.levels
        if not self.finished:
            return {
                "regions": len(regions),
                "cells": sum(len(level.cells) for level in levels),
                "voxels": sum(t.scale.box.voxels for t in self.targets),
                "chunks": sum(len(t.chunks) for t in self.targets),
                "shards": sum(len(t.shards) for t in self.targets),
            }
        keys = (CellKey(number, cell) for number, level in enumerate(levels, 1) for cell in range(len(level.cells)))
        voxels = chunks = shards = 0
        for target in self.targets:
            for number in target.shards.numbers():
                if not self.is_finished(ShardKey(target.mip, number)):
                    voxels += target.shard_box(number).voxels
                    chunks += target.shards.chunk_count(number)
                    shards += 1
        return {
            "regions": sum(self.needs_region(region) for region in range(len(regions))),
            "cells": sum(self.needs_cell(key) for key in keys),
            "voxels": voxels,
            "chunks": chunks,
            "shards": shards,
        }


def finished_bits(targets: Sequence[Target], finished: Iterable[ShardKey]) -> dict[int, bytes]:
    """Return the bit fields that `VolumePlan.finished` is."""
    shards = {target.mip: target.shards for target in targets}
    bits: dict[int, bytearray] = {}
    for mip, shard in finished:
        index = shards[mip].index_of(shard)
        bits.setdefault(mip, bytearray(-(-len(shards[mip]) // 8)))[index // 8] |= 1 << (index % 8)
    return {mip: bytes(field) for mip, field in bits.items()}
