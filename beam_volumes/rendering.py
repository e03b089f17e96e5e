"""What regions and cells have in common: voxels become encoded chunks of every mip, and tiles for the level above."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from beam_volumes import tile_packing
from beam_volumes.block_reading import Clock
from beam_volumes.codecs import Array, compress, encode_chunk
from beam_volumes.downsampling import Tile, coarse_box
from beam_volumes.geometry import Box
from beam_volumes.parcels import PIECE_COMPRESSION, PIECE_LEVEL, Owner, Parcel, Parcels, ParcelWriter, read_parcels
from beam_volumes.process_pool import peak_memory_bytes
from beam_volumes.pyramid import CellKey
from beam_volumes.tallies import add_up_tallies
from beam_volumes.targets import ShardKey, Target
from beam_volumes.volume_plan import VolumePlan


class Counts(NamedTuple):
    """What came of regions and cells; `merge_counts` makes one of many.

    `voxels_read` are those of the source, `voxels` those of all mips in `pieces`; `tiles` were handed up, `joined`
    taken. `reused` of the regions, `cells_reused` of the cells are an interrupted run's. `wait_seconds` is the time in
    which a worker could do nothing but wait for the proofreading server; `peak_memory_bytes` the most it has ever held.
    """

    regions: int = 0
    cells: int = 0
    reused: int = 0
    cells_reused: int = 0
    voxels_read: int = 0
    pieces: int = 0
    voxels: int = 0
    encoded_bytes: int = 0
    tiles: int = 0
    tile_bytes: int = 0
    joined: int = 0
    ids_asked: int = 0
    requests: int = 0
    retries: int = 0
    read_seconds: float = 0.0
    wait_seconds: float = 0.0
    downsample_seconds: float = 0.0
    encode_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def timed(self, clock: Clock) -> Counts:
        """Return these with the seconds of `clock`."""
        return self._replace(**{f"{name}_seconds": spent for name, spent in clock.seconds.items()})  # type: ignore[arg-type]


class Rendered(NamedTuple):
    """The parcels of a region or a cell, by who takes them, and what was counted on the way."""

    parcels: dict[ShardKey, Parcel]
    tiles: dict[CellKey, Parcel]
    counts: Counts


def merge_counts(parts: Iterable[Counts]) -> Counts:
    """Add up counts; of peaks the largest counts."""
    return add_up_tallies(Counts(), parts)


def encode_box(target: Target, box: Box, voxels: Array, out: ParcelWriter) -> None:
    """Cut voxels (XYZC) on the chunk grid; whole chunks are encoded, parts of chunks kept raw for the shard to join."""
    scale = target.scale
    for position in target.chunks.positions_meeting(box):
        chunk = target.chunks.box(position)
        part = chunk.intersection(box)
        array = voxels[part.slices(box.start)]
        if part == chunk:
            data = compress(encode_chunk(array, scale.encoding, scale.encoding_level), target.compression)
        else:
            data = compress(array.tobytes(order="F"), PIECE_COMPRESSION, PIECE_LEVEL)
        owner = Owner(target.mip, target.shards.shard_of(position))
        out.add(owner, target.chunk_id(position), part, data)


def make_mips(plan: VolumePlan, level: int, tile: Tile, out: ParcelWriter, clock: Clock) -> None:
    """Make and encode the mips of one level of a tile, and hand the last one up, cut on the cells above.

    Memory: each mip in turn, and the one before it.
    """
    pyramid = plan.pyramid
    first, last = pyramid.mips_of(level)
    mips = pyramid.downsampler.mips(tile, pyramid.factors[first:last])
    for mip, (made, voxels) in enumerate(mips, first + 1):
        clock.lap("downsample")
        tile = made
        target = plan.target(plan.base_mip + mip)
        assert target is not None, "all mips after the first are written"
        encode_box(target, tile.box, voxels, out)
        clock.lap("encode")
    for key in pyramid.parents(level, tile.base):
        part = _cut(tile, pyramid.cell_box(key))
        out.add(Owner(-key.level, key.cell), 0, part.base, tile_packing.pack(part))
    clock.lap("encode")


def unpack_tile(plan: VolumePlan, mip: int, base: Box, data: bytes) -> Tile:
    """Return what `make_mips` has packed: a tile of `mip`, made of the base's voxels in `base`."""
    pyramid = plan.pyramid
    return tile_packing.unpack(pyramid.downsampler, base, pyramid.totals[mip], data)


def _cut(tile: Tile, box: Box) -> Tile:
    base = tile.base.intersection(box)
    part = coarse_box(base, tile.factor)
    return Tile(base, tile.factor, tile.state[part.slices(tile.box.start)])


def take_up(plan: VolumePlan, name: str, box: Box, counts: Counts) -> Rendered | None:
    """Return, with `counts`, what an interrupted run has left of `box`; None where it cut the volume otherwise."""
    found = read_parcels(plan.claim.scratch, name)
    if found is None or Box.of_lists(found[1]["box"]) != box:
        return None
    return rendered(plan, found[0], counts)


def rendered(plan: VolumePlan, made: Parcels, counts: Counts) -> Rendered:
    """Return what is needed of parcels: finished shards, and cells of nothing but these, take none."""
    parcels = dict(made)
    shards = {ShardKey(*owner): parcel for owner, parcel in parcels.items() if owner.stream >= 0}
    shards = {key: parcel for key, parcel in shards.items() if not plan.is_finished(key)}
    tiles = {CellKey(-owner.stream, owner.number): parcel for owner, parcel in parcels.items() if owner.stream < 0}
    tiles = {key: parcel for key, parcel in tiles.items() if plan.needs_cell(key)}
    tables = [p.pieces for p in shards.values()]
    tile_tables = [p.pieces for p in tiles.values()]
    counts = counts._replace(
        pieces=sum(len(t) for t in tables),
        voxels=sum(int(np.prod(t["stop"] - t["start"], axis=1).sum()) for t in tables),
        encoded_bytes=sum(int(t["length"].sum()) for t in tables),
        tiles=sum(len(t) for t in tile_tables),
        tile_bytes=sum(int(t["length"].sum()) for t in tile_tables),
        peak_memory_bytes=peak_memory_bytes(),
    )
    return Rendered(shards, tiles, counts)
