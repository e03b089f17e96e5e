"""Export: voxels, or the root ids of a proofreading volume at a moment, become encoded chunks and coarser mips."""

from __future__ import annotations

from collections.abc import Iterator

from beam_volumes.block_reading import Clock, RegionReading
from beam_volumes.geometry import Box
from beam_volumes.parcels import ParcelWriter
from beam_volumes.receipts import record_holes
from beam_volumes.rendering import Counts, Rendered, encode_box, make_mips, rendered, take_up
from beam_volumes.runs import check_claim, telling_of_replacement
from beam_volumes.source_worker import let_go, worker_of
from beam_volumes.volume_plan import VolumePlan


def render_region(plan: VolumePlan, region: int) -> Rendered:
    """Read, relabel, cut, coarsen and encode one region, or take up what an interrupted run has made of it.

    Memory: `plan.lookahead_bytes` of blocks that wait for the server, and a few blocks more.

    Raises:
        SourceError: voxels are missing or cannot be read.
        ServerError: the proofreading server failed, or answered wrongly.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    check_claim(plan.claim)
    name = f"region-{region}.pack"
    if taken := take_up(plan, name, plan.region_box(region), Counts(regions=1, reused=1)):
        return taken
    with telling_of_replacement(plan.claim):
        try:
            return _render(plan, region, name)
        except Exception:
            # What the worker keeps may be what failed: a token that is no longer good, an open volume that was mended.
            let_go()
            raise


def _render(plan: VolumePlan, region: int, name: str) -> Rendered:
    worker, clock, holes, read = worker_of(plan), Clock(), list[Box](), 0
    before = worker.server_counts()
    reading = RegionReading(_boxes(plan, region), f"region {plan.region_box(region)}", clock, holes)
    base, downsampler = plan.target(plan.base_mip), plan.pyramid.downsampler
    with ParcelWriter(plan.claim.scratch, name, plan.inline_bytes) as out:
        for source_box, voxels in worker.reader.read(reading):
            box = source_box.translated(plan.translate)
            read += box.voxels
            if base:
                encode_box(base, box, voxels, out)
                clock.lap("encode")
            make_mips(plan, 0, downsampler.tile(voxels, box.start), out, clock)
        if holes:
            record_holes(plan.claim, region, holes)
        parcels = out.finish({"box": plan.region_box(region)})
    ids, requests, retries = (now - then for now, then in zip(worker.server_counts(), before, strict=True))
    counts = Counts(regions=1, voxels_read=read, ids_asked=ids, requests=requests, retries=retries)
    return rendered(plan, parcels, counts.timed(clock))


def _boxes(plan: VolumePlan, region: int) -> Iterator[Box]:
    """Yield the blocks of a region, in source voxels.

    All of them, whatever is finished: of two runs at once, each may take up the other's packs.
    """
    x, y, z = plan.translate
    blocks = plan.reading.blocks(region)
    for index in range(len(blocks)):
        yield blocks.box(blocks.position(index)).translated((-x, -y, -z))
