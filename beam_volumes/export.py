"""Export: voxels, or the root ids of a proofreading volume at a moment, become encoded chunks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from beam_volumes.block_reading import BlockReader, Clock, RegionReader, RegionReading, RootReader
from beam_volumes.codecs import Array, compress, encode_chunk
from beam_volumes.geometry import Box, Vec
from beam_volumes.graphene import GrapheneTable, Limits, RootClient, RootQuestion, find_token
from beam_volumes.parcels import Parcel, ParcelWriter, read_parcels
from beam_volumes.process_pool import peak_memory_bytes
from beam_volumes.provenance import Launch
from beam_volumes.reading_plan import ReadingPlan
from beam_volumes.runs import Claim, check_claim, record_holes
from beam_volumes.shard_assembly import PIECE_COMPRESSION
from beam_volumes.sources import Source, open_reader
from beam_volumes.targets import ShardKey, Target


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
class ExportPlan:
    """Everything that a worker needs to know of an export; picklable, and the same in every worker.

    Attributes:
        server: None where voxels are exported as they are.
        targets: the scales to write, by mip.
        translate: destination minus source, voxels.
        lookahead_bytes: how many bytes of voxels may wait for the server in one worker.
        inline_bytes: what a region may send along without a pack.
        launch: who launched it, with which versions.
        finished: by mip, a bit per shard that an earlier run has written; nothing where there is none.

    """

    claim: Claim
    source: Source
    server: Server | None
    targets: tuple[Target, ...]
    translate: Vec
    reading: ReadingPlan
    fill_missing: bool
    lookahead_bytes: int
    inline_bytes: int
    launch: Launch
    finished: dict[int, bytes] = field(default_factory=dict)

    def target(self, mip: int) -> Target:
        """Return the scale to write at `mip`."""
        return self._targets[mip]

    @cached_property
    def _targets(self) -> dict[int, Target]:
        return {target.mip: target for target in self.targets}

    def is_finished(self, key: ShardKey) -> bool:
        """Whether an earlier run has written this shard."""
        bits = self.finished.get(key.mip)
        if not bits:
            return False
        index = self.target(key.mip).shards.index_of(key.shard)
        return bool(bits[index // 8] >> (index % 8) & 1)

    def needs(self, box: Box) -> bool:
        """Whether a shard that is not finished holds voxels of `box`."""
        target = self.targets[0]
        shards = (ShardKey(target.mip, shard) for shard in target.shards_meeting(box))
        return not self.finished or any(not self.is_finished(key) for key in shards)

    def region_box(self, region: int) -> Box:
        """Return the voxels of a region, in the destination."""
        regions = self.reading.regions
        return regions.box(regions.position(region))

    @property
    def source_voxel_bytes(self) -> int:
        """Bytes of one voxel, all channels together."""
        return np.dtype(self.source.data_type).itemsize * self.source.num_channels

    @cached_property
    def planned(self) -> dict[str, int]:
        """What this run has to do: regions to render, voxels in them, chunks and shards to write."""
        regions = self.reading.regions
        if not self.finished:
            return {
                "regions": len(regions),
                "voxels": sum(t.scale.box.voxels for t in self.targets),
                "chunks": sum(len(t.chunks) for t in self.targets),
                "shards": sum(len(t.shards) for t in self.targets),
            }
        left = [(t, n) for t in self.targets for n in t.shards.numbers() if not self.is_finished(ShardKey(t.mip, n))]
        return {
            "regions": sum(self.needs(self.region_box(r)) for r in range(len(regions))),
            "voxels": sum(t.shard_box(n).voxels for t, n in left),
            "chunks": sum(t.shards.chunk_count(n) for t, n in left),
            "shards": len(left),
        }


class RegionCounts(NamedTuple):
    """What came of regions; `merge_counts` makes one of many.

    `wait_seconds` is the time in which a worker could do nothing but wait for the proofreading server;
    `peak_memory_bytes` the most that the worker process has ever held.
    """

    regions: int = 0
    reused: int = 0
    pieces: int = 0
    voxels: int = 0
    encoded_bytes: int = 0
    ids_asked: int = 0
    requests: int = 0
    retries: int = 0
    read_seconds: float = 0.0
    wait_seconds: float = 0.0
    encode_seconds: float = 0.0
    peak_memory_bytes: int = 0


class RenderedRegion(NamedTuple):
    """A region's parcels by shard, and what was counted on the way."""

    parcels: dict[ShardKey, Parcel]
    counts: RegionCounts


def merge_counts(parts: Iterable[RegionCounts]) -> RegionCounts:
    """Add up counts; of peaks the largest counts."""
    merged = [RegionCounts(), *parts]
    peak = max(c.peak_memory_bytes for c in merged)
    sums = (sum(values) for values in zip(*merged, strict=True))
    return RegionCounts(*sums)._replace(peak_memory_bytes=peak)


def finished_bits(targets: Sequence[Target], finished: Iterable[ShardKey]) -> dict[int, bytes]:
    """Return the bit fields that `ExportPlan.finished` is."""
    shards = {target.mip: target.shards for target in targets}
    bits: dict[int, bytearray] = {}
    for mip, shard in finished:
        index = shards[mip].index_of(shard)
        bits.setdefault(mip, bytearray(-(-len(shards[mip]) // 8)))[index // 8] |= 1 << (index % 8)
    return {mip: bytes(field) for mip, field in bits.items()}


def render_region(plan: ExportPlan, region: int) -> RenderedRegion:
    """Read, relabel, cut and encode one region, or take up what an interrupted run has made of it.

    Memory: `plan.lookahead_bytes` of blocks that wait for the server, and a few blocks more.

    Raises:
        SourceError: voxels are missing or cannot be read.
        ServerError: the proofreading server failed, or answered wrongly.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    check_claim(plan.claim)
    name = f"region-{region}.pack"
    if taken := _take_up(plan, region, name):
        return taken
    try:
        return _render(plan, region, name)
    except Exception:
        # What the worker keeps may be what failed: a token that is no longer good, an open volume that was mended.
        _let_go()
        # Where another run has taken the destination over, files vanish: that is what must be told.
        check_claim(plan.claim)
        raise


def _render(plan: ExportPlan, region: int, name: str) -> RenderedRegion:
    worker, clock, holes = _worker(plan), Clock(), list[Box]()
    before = worker.server_counts()
    reading = RegionReading(_boxes(plan, region), f"region {plan.region_box(region)}", clock, holes)
    with ParcelWriter(plan.claim.scratch, name, plan.inline_bytes) as out:
        for box, voxels in worker.reader.read(reading):
            _encode_block(plan, box.translated(plan.translate), voxels, out)
            clock.lap("encode")
        if holes:
            record_holes(plan.claim, region, holes)
        parcels = out.finish({"box": plan.region_box(region)})
    ids, requests, retries = (now - then for now, then in zip(worker.server_counts(), before, strict=True))
    seconds = {f"{name}_seconds": spent for name, spent in clock.seconds.items()}
    counts = RegionCounts(ids_asked=ids, requests=requests, retries=retries, **seconds)  # type: ignore[arg-type]
    return _rendered(plan, parcels, counts)


def _take_up(plan: ExportPlan, region: int, name: str) -> RenderedRegion | None:
    """Return what an interrupted run has left of a region; None where it cut the volume into other regions."""
    found = read_parcels(plan.claim.scratch, name)
    if found is None or Box.of_lists(found[1]["box"]) != plan.region_box(region):
        return None
    return _rendered(plan, found[0], RegionCounts(reused=1))


def _boxes(plan: ExportPlan, region: int) -> Iterator[Box]:
    """Yield the blocks of a region, in source voxels.

    All of them, whatever is finished: of two runs at once, each may take up the other's packs.
    """
    x, y, z = plan.translate
    blocks = plan.reading.blocks(region)
    for index in range(len(blocks)):
        yield blocks.box(blocks.position(index)).translated((-x, -y, -z))


def _encode_block(plan: ExportPlan, box: Box, voxels: Array, out: ParcelWriter) -> None:
    """Cut a block on the chunk grid; whole chunks are encoded, parts of chunks kept raw for the shard to join."""
    target = plan.targets[0]
    for position in target.chunks.positions_meeting(box):
        chunk = target.chunks.box(position)
        part = chunk.intersection(box)
        array = voxels[part.slices(box.start)]
        if part == chunk:
            data = compress(encode_chunk(array, target.scale.encoding), target.compression)
        else:
            data = compress(array.tobytes(order="F"), PIECE_COMPRESSION)
        out.add(target.shards.shard_of(position), target.chunk_id(position), part, data)


def _rendered(plan: ExportPlan, by_shard: dict[int, Parcel], counts: RegionCounts) -> RenderedRegion:
    """Return what is needed of a region: finished shards take no parcels."""
    keys = {ShardKey(plan.targets[0].mip, shard): parcel for shard, parcel in by_shard.items()}
    parcels = {key: parcel for key, parcel in keys.items() if not plan.is_finished(key)}
    tables = [p.pieces for p in parcels.values()]
    counts = counts._replace(
        regions=1,
        pieces=sum(len(t) for t in tables),
        voxels=sum(int(np.prod(t["stop"] - t["start"], axis=1).sum()) for t in tables),
        encoded_bytes=sum(int(t["length"].sum()) for t in tables),
        peak_memory_bytes=peak_memory_bytes(),
    )
    return RenderedRegion(parcels, counts)


class _Worker:
    """What a process keeps from region to region: open volume, connections, metadata."""

    def __init__(self, plan: ExportPlan) -> None:
        blocks = BlockReader(open_reader(plan.source, fill_missing=plan.fill_missing))
        self._client: RootClient | None = None
        self.reader: RegionReader = blocks
        if server := plan.server:
            token = find_token(server.table, server.token_env)
            self._client = RootClient(server.table, token, server.limits)
            self.reader = RootReader(blocks, self._client, server.question, plan.lookahead_bytes)

    def close(self) -> None:
        """Hang up."""
        if self._client:
            self._client.close()

    def server_counts(self) -> tuple[int, int, int]:
        """Ids asked for, requests and retries so far."""
        if not self._client:
            return 0, 0, 0
        statistics = self._client.statistics
        return statistics.ids, statistics.requests, statistics.retries


_WORKERS: dict[Hashable, _Worker] = {}


def _worker(plan: ExportPlan) -> _Worker:
    """Return this process's worker for a run; the one of an earlier run is let go."""
    key = (plan.claim.key, plan.server, plan.lookahead_bytes)
    if key not in _WORKERS:
        _let_go()
        _WORKERS[key] = _Worker(plan)
    return _WORKERS[key]


def _let_go() -> None:
    while _WORKERS:
        _WORKERS.popitem()[1].close()
