"""The steps of planning a count: what its options mean for this layer, and what it will take. Nothing is written."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from beam_volumes.codecs import Array
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec, shape_text
from beam_volumes.int_map import file_bytes
from beam_volumes.reading_plan import Lattice, ReadingPlan, plan_reading
from beam_volumes.sources import Source, is_read_by_chunk, open_reader
from beam_volumes.storage import is_local
from beam_volumes.volume_estimate import PROCESS_BYTES, VCPU_HOUR_USD
from beam_volumes.voxel_count_files import GROUP_ROWS, SPOOLED_BYTES
from beam_volumes.voxel_count_plan import CountPlan
from beam_volumes.voxel_counts import LabelCounter, Table, add_up

_SAMPLES = 4

_TABLES_PER_TARGET = 8
_WINDOWS_PER_TARGET = 32
"""A merge holds four times its windows."""


class Memory(NamedTuple):
    """How a worker's memory is shared out, bytes: the labels of a region, the windows of a merge."""

    table_bytes: int
    window_bytes: int


def share_memory(memory_target: int) -> Memory:
    """Return the shares of `memory_target` bytes."""
    return Memory(memory_target // _TABLES_PER_TARGET, memory_target // _WINDOWS_PER_TARGET)


def check_labels(source: Source) -> None:
    """Refuse a layer whose voxels are no labels.

    Raises:
        OptionError: it is an image, or of a signed or floating type, or has several channels.

    """
    is_unsigned = np.dtype(source.data_type).kind == "u"
    if source.layer_type != "segmentation" or not is_unsigned or source.num_channels != 1:
        raise OptionError(
            "--layer: expected a segmentation, of an unsigned integer type in one channel, whose values are labels; "
            f"came {source.url}: {source.layer_type} of {source.data_type} in {source.num_channels}"
        )


def plan_reading_of(source: Source, bounds: Box, memory_target: int) -> ReadingPlan:
    """Return how `bounds` are cut: on stored chunks, each of which is read once.

    Raises:
        OptionError: not even one stored chunk fits the memory.

    """
    stored = Lattice(source.chunk, source.chunk_origin)
    voxel_bytes = np.dtype(source.data_type).itemsize
    reading = plan_reading(bounds, stored, stored, [stored], (voxel_bytes, memory_target))
    # Where larger blocks gain nothing, one chunk stays in the caches from decoding to counting.
    return replace(reading, block=stored) if is_read_by_chunk(source) else reading


def memory_per_worker(plan: CountPlan) -> int:
    """Return the bytes that one worker process is planned to use at most."""
    block = plan.reading.block.voxels * np.dtype(plan.source.data_type).itemsize
    # A block exists as stored chunks being decoded, as an array, and at most as a copy in another order.
    counting = 4 * block + plan.table_bytes
    writing = 4 * plan.window_bytes + 4 * GROUP_ROWS * plan.row.itemsize
    return PROCESS_BYTES + max(counting, writing)


def temporary_bytes(plan: CountPlan, labels: int) -> int:
    """Return the bytes that the last merge needs at most in its worker's temporary folder, for so many labels.

    The map is written when the table is in its bucket; what compression saves of the table is not known before.
    """
    spooled = SPOOLED_BYTES * labels
    if is_local(plan.claim.url):
        return spooled
    # Two columns more than the rows have: volume_nm3 and background.
    table = (plan.row.itemsize + 8 + 1) * labels
    return spooled + max(table, file_bytes(labels))


class CountEstimate(NamedTuple):
    """Sums over the whole volume."""

    labels: int
    cpu_seconds: float


def estimate(plan: CountPlan) -> CountEstimate:
    """Read a few blocks, spread over the volume, and count the labels that begin in each.

    A label begins in a block where it touches none of the block's lower faces, except those of the volume: of the
    blocks that hold an object that is true for one, or nearly so, however many there are.

    Raises:
        SourceError: a block cannot be read.

    """
    regions = plan.reading.regions
    picked = sorted({(2 * i + 1) * len(regions) // (2 * _SAMPLES) for i in range(_SAMPLES)})
    reader = open_reader(plan.source, fill_missing=plan.fill_missing)
    # The first use of a data type compiles, which is no part of what a voxel takes.
    _count(plan, np.zeros((1, 1, 1), plan.source.data_type), (0, 0, 0))
    voxels = labels = seen = 0
    seconds = 0.0
    for region in picked:
        blocks = plan.reading.blocks(region)
        box = blocks.box(blocks.position(len(blocks) // 2))
        started = time.process_time()
        array, _ = reader.read(box)
        table = _count(plan, array, box.start)
        seconds += time.process_time() - started
        labels += _beginning(table, box, regions.bounds)
        seen = max(seen, len(table))
        voxels += box.voxels
    total = regions.bounds.voxels
    return CountEstimate(max(round(labels * total / voxels), seen), seconds * total / voxels)


def _count(plan: CountPlan, voxels: Array, origin: Vec) -> Table:
    full = list[Table]()
    counter = LabelCounter(plan.table_bytes, full.append, with_boxes=True)
    counter.add(voxels, origin)
    return add_up([*full, counter.take()])


def _beginning(table: Table, box: Box, bounds: Box) -> int:
    inner: list[int] = [low if low == edge else low + 1 for low, edge in zip(box.start, bounds.start, strict=True)]
    return int((table["start"] >= inner).all(axis=1).sum())


def summary(plan: CountPlan) -> list[tuple[str, str]]:
    """Return what `--plan` prints, row by row."""
    reading, guess = plan.reading, estimate(plan)
    regions, source = reading.regions, plan.source
    voxel_bytes = np.dtype(source.data_type).itemsize
    hours = guess.cpu_seconds / 3600
    blocks = shape_text(reading.block.cell)
    return [
        ("layer", f"{source.url}, mip {source.mip}"),
        ("destination", f"{plan.claim.url}/{plan.folder} ({plan.claim.state})"),
        ("voxels", f"{regions.bounds} = {shape_text(regions.bounds.shape)} of {source.data_type}"),
        ("boxes to read", f"{len(regions):,} of {shape_text(regions.cell)} in blocks of {blocks}"),
        ("merges of counts", f"{plan.planned['merges']:,}"),
        ("bytes of voxels", f"{regions.bounds.voxels * voxel_bytes:,}"),
        ("labels, estimated", f"{guess.labels:,}"),
        ("bytes of the map, estimated", f"{file_bytes(guess.labels):,}"),
        ("temporary disk of the last merge, bytes, estimated", f"{temporary_bytes(plan, guess.labels):,}"),
        ("memory per worker, bytes", f"{memory_per_worker(plan):,}"),
        ("CPU hours, estimated", f"{hours:,.4f}"),
        ("Dataflow USD, at an assumed price", f"{hours * VCPU_HOUR_USD:,.4f} ({VCPU_HOUR_USD} a vCPU hour)"),
    ]
