"""What an export will take, estimated from a few blocks that are read, and nothing written."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import fastremap
import numpy as np

from beam_volumes.codecs import compress, encode_chunk
from beam_volumes.geometry import Box
from beam_volumes.sources import open_reader
from beam_volumes.volume_plan import VolumePlan

_SAMPLES = 4

PROCESS_BYTES = 400_000_000
"""A worker process with its libraries loaded, before it has any voxel."""

VCPU_HOUR_USD = 0.07
"""An assumption for the cost row: a Dataflow batch vCPU with 4 GB of memory; prices differ by region and year."""


class Estimate(NamedTuple):
    """Sums over the whole volume; `ids` is 0 where no server is asked."""

    encoded_bytes: int
    ids: int
    requests: int
    cpu_seconds: float


def memory_per_worker(plan: VolumePlan) -> int:
    """Return the bytes that one worker process is planned to use at most."""
    block = plan.reading.block.voxels * plan.source_voxel_bytes
    waiting = plan.lookahead_bytes if plan.server else 0
    # A block exists as stored chunks being decoded, as an array, and as what is encoded from it.
    return PROCESS_BYTES + waiting + 4 * block


def estimate(plan: VolumePlan) -> Estimate:
    """Read a few blocks, spread over the volume, and encode a chunk of each.

    Raises:
        SourceError: a block cannot be read.

    """
    regions = plan.reading.regions
    picked = sorted({(2 * i + 1) * len(regions) // (2 * _SAMPLES) for i in range(_SAMPLES)})
    reader = open_reader(plan.source, fill_missing=plan.fill_missing)
    x, y, z = plan.translate
    voxels = encoded = ids = chunk_voxels = 0
    read_seconds = encode_seconds = 0.0
    for region in picked:
        blocks = plan.reading.blocks(region)
        box = blocks.box(blocks.position(len(blocks) // 2))
        started = time.process_time()
        array, _ = reader.read(box.translated((-x, -y, -z)))
        if plan.server:
            ids += int(np.count_nonzero(fastremap.unique(array)))
        voxels += box.voxels
        read_seconds += time.process_time() - started
        started = time.process_time()
        part = Box.of_shape(plan.targets[0].scale.chunk, box.start).intersection(box)
        data = encode_chunk(array[part.slices(box.start)], plan.targets[0].scale.encoding)
        encoded += len(compress(data, plan.targets[0].compression))
        chunk_voxels += part.voxels
        encode_seconds += time.process_time() - started
    total = plan.targets[0].scale.box.voxels
    ids_expected = ids * total // voxels
    per_request = plan.server.limits.ids_per_request if plan.server else 1
    return Estimate(
        encoded_bytes=encoded * total // chunk_voxels,
        ids=ids_expected,
        # One request for a sample of root ages per region, and the last batch of a region is seldom full.
        requests=(len(regions) + max(len(regions), math.ceil(ids_expected / per_request))) if plan.server else 0,
        cpu_seconds=total * (read_seconds / voxels + encode_seconds / chunk_voxels),
    )


def summary(plan: VolumePlan) -> list[tuple[str, str]]:
    """Return what `--plan` prints, row by row."""
    target, reading, guess = plan.targets[0], plan.reading, estimate(plan)
    scale, regions = target.scale, reading.regions
    hours = guess.cpu_seconds / 3600
    rows = [
        ("source", f"{plan.source.url}, mip {plan.source.mip}"),
        ("destination", f"{target.url}, scale {scale.key} ({plan.claim.state})"),
        ("voxels", f"{scale.box} = {_by(scale.box.shape)} of {scale.data_type} x {scale.num_channels}"),
        ("chunks", f"{len(target.chunks):,} of {_by(scale.chunk)}, {scale.encoding}, {target.compression}"),
        ("boxes to read", f"{len(regions):,} of {_by(regions.cell)} in blocks of {_by(reading.block.cell)}"),
        ("boxes of unfinished shards", f"{plan.planned['regions']:,}"),
        ("shards", f"{len(target.shards):,} of {_by(target.shards.shard_chunks)} chunks, {_files(plan)}"),
        ("shards left to write", f"{plan.planned['shards']:,}"),
        ("bytes of voxels", f"{scale.box.voxels * plan.source_voxel_bytes:,}"),
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


def _files(plan: VolumePlan) -> str:
    return "one file each" if plan.targets[0].scale.sharding else "whose chunks are files"


def _by(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(n) for n in shape)
