"""What a run will take, estimated from a few blocks that are read, and nothing written."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import fastremap
import numpy as np

from beam_volumes.codecs import Array, compress, encode_chunk
from beam_volumes.downsampling import Tile
from beam_volumes.encoding_choice import Choice
from beam_volumes.geometry import Box, shape_text
from beam_volumes.sources import open_reader
from beam_volumes.volume_plan import VolumePlan

_SAMPLES = 4

PROCESS_BYTES = 400_000_000
"""A worker process with its libraries loaded, before it has any voxel."""

VCPU_HOUR_USD = 0.07
"""An assumption for the cost row: a Dataflow batch vCPU with 4 GB of memory; prices differ by region and year."""


class Estimate(NamedTuple):
    """Sums over the whole volume and all its mips; `ids` is 0 where no server is asked."""

    encoded_bytes: int
    ids: int
    requests: int
    cpu_seconds: float


@dataclass
class _Measured:
    """What was measured of one mip: encoded bytes and seconds for so many voxels."""

    voxels: int = 0
    bytes: int = 0
    seconds: float = 0.0


def memory_per_worker(plan: VolumePlan) -> int:
    """Return the bytes that one worker process is planned to use at most."""
    block = plan.reading.block.voxels * plan.source_voxel_bytes
    waiting = plan.lookahead_bytes if plan.server else 0
    # A block exists as stored chunks being decoded, as an array, and as what is encoded from it; a cell as joined
    # tiles, and as the mips made of them.
    return PROCESS_BYTES + max(waiting + 4 * block, 3 * plan.pyramid.cell_bytes(plan.source.num_channels))


def estimate(plan: VolumePlan) -> Estimate:
    """Read a few blocks, spread over the volume, make their mips, and encode a chunk of each.

    Raises:
        SourceError: a block cannot be read.

    """
    regions = plan.reading.regions
    picked = sorted({(2 * i + 1) * len(regions) // (2 * _SAMPLES) for i in range(_SAMPLES)})
    reader = open_reader(plan.source, fill_missing=plan.fill_missing)
    x, y, z = plan.translate
    voxels = ids = 0
    seconds = 0.0
    measured: dict[int, _Measured] = {}
    for region in picked:
        blocks = plan.reading.blocks(region)
        box = blocks.box(blocks.position(len(blocks) // 2))
        started = time.process_time()
        array, _ = reader.read(box.translated((-x, -y, -z)))
        if plan.server:
            ids += int(np.count_nonzero(fastremap.unique(array)))
        voxels += box.voxels
        seconds += time.process_time() - started
        seconds += _measure_mips(plan, plan.pyramid.downsampler.tile(array, box.start), measured)
    total = plan.reading.regions.bounds.voxels
    ids_expected = ids * total // voxels
    per_request = plan.server.limits.ids_per_request if plan.server else 1
    encoded = [_of_mip(measured, t.mip) for t in plan.targets]
    sizes = [t.scale.box.voxels for t in plan.targets]
    return Estimate(
        encoded_bytes=sum(size * of.bytes // of.voxels for size, of in zip(sizes, encoded, strict=True)),
        ids=ids_expected,
        # One request for a sample of root ages per region, and the last batch of a region is seldom full.
        requests=(len(regions) + max(len(regions), math.ceil(ids_expected / per_request))) if plan.server else 0,
        cpu_seconds=total * seconds / voxels
        + sum(size * of.seconds / of.voxels for size, of in zip(sizes, encoded, strict=True)),
    )


def _measure_mips(plan: VolumePlan, tile: Tile, measured: dict[int, _Measured]) -> float:
    """Measure a chunk of each mip of a block, and return the seconds that it took to make the mips."""
    pyramid, seconds = plan.pyramid, 0.0
    _measure(plan, 0, tile.box, tile.state, measured)
    mips = pyramid.downsampler.mips(tile, pyramid.factors[: pyramid.block_mips])
    for mip in range(1, pyramid.block_mips + 1):
        started = time.process_time()
        made, voxels = next(mips)
        seconds += time.process_time() - started
        _measure(plan, mip, made.box, voxels, measured)
    return seconds


def _measure(plan: VolumePlan, mip: int, box: Box, voxels: Array, measured: dict[int, _Measured]) -> None:
    """Encode a chunk as its mip will be, or as the first one where it is not written itself."""
    target = plan.target(plan.base_mip + mip) or plan.targets[0]
    part = Box.of_shape(target.scale.chunk, box.start).intersection(box)
    of = measured.setdefault(plan.base_mip + mip, _Measured())
    started = time.process_time()
    data = encode_chunk(voxels[part.slices(box.start)], target.scale.encoding, target.scale.encoding_level)
    of.bytes += len(compress(data, target.compression))
    of.voxels += part.voxels
    of.seconds += time.process_time() - started


def _of_mip(measured: dict[int, _Measured], mip: int) -> _Measured:
    """Return what was measured of a mip, or of the coarsest that was."""
    return measured[min(mip, max(measured))]


def summary(plan: VolumePlan, choices: Sequence[Choice]) -> list[tuple[str, str]]:
    """Return what `--plan` prints, row by row; `choices` are those of the encodings of the targets."""
    reading, guess = plan.reading, estimate(plan)
    regions, levels = reading.regions, plan.pyramid.levels
    hours = guess.cpu_seconds / 3600
    box = regions.bounds
    rows = [
        ("source", f"{plan.source.url}, mip {plan.source.mip}"),
        ("destination", f"{plan.claim.url} ({plan.claim.state})"),
        ("voxels", f"{box} = {shape_text(box.shape)} of {plan.source.data_type} x {plan.source.num_channels}"),
    ]
    for target, choice in zip(plan.targets, choices, strict=True):
        scale, shards = target.scale, target.shards
        what, wrap = "one file each" if scale.sharding else "whose chunks are files", target.compression
        rows += [
            (f"mip {target.mip}", f"{scale.key}, {shape_text(scale.box.shape)} voxels"),
            (f"mip {target.mip} chunks", f"{len(target.chunks):,} of {shape_text(scale.chunk)}, {choice}, {wrap}"),
            (f"mip {target.mip} shards", f"{len(shards):,} of {shape_text(shards.shard_chunks)} chunks, {what}"),
        ]
    blocks = shape_text(reading.block.cell)
    rows += [
        ("boxes to read", f"{len(regions):,} of {shape_text(regions.cell)} in blocks of {blocks}"),
        ("boxes of unfinished shards", f"{plan.planned['regions']:,}"),
    ]
    for number, level in enumerate(levels, 1):
        what = f"{len(level.cells):,} of {shape_text(level.cells.cell)} voxels of mip {plan.base_mip}"
        made = f"mips {plan.base_mip + level.first + 1} to {plan.base_mip + level.last}"
        rows.append((f"cells of level {number}", f"{what}, for {made}"))
    rows += [
        ("shards left to write", f"{plan.planned['shards']:,}"),
        ("bytes of voxels", f"{box.voxels * plan.source_voxel_bytes:,}"),
        ("bytes to write, estimated", f"{guess.encoded_bytes:,}"),
        ("memory per worker, bytes", f"{memory_per_worker(plan):,}"),
    ]
    if plan.server:
        rows += [("server ids, estimated", f"{guess.ids:,}"), ("server requests, estimated", f"{guess.requests:,}")]
    return [
        *rows,
        ("CPU hours, estimated", f"{hours:,.4f}"),
        ("Dataflow USD, at an assumed price", f"{hours * VCPU_HOUR_USD:,.4f} ({VCPU_HOUR_USD} a vCPU hour)"),
    ]
