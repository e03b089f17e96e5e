"""What a run that has written scales says of itself when it has ended: that nothing was lost, and what was done."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from beam_volumes.conservation import check_stages
from beam_volumes.geometry import Box
from beam_volumes.precomputed.info import Json
from beam_volumes.provenance import provenance, utc
from beam_volumes.receipts import Receipt, receipts, recorded_holes
from beam_volumes.rendering import Counts
from beam_volumes.runs import check_claim, finish, is_committed, remove_records
from beam_volumes.scale_files import check_files
from beam_volumes.shard_assembly import WrittenShard
from beam_volumes.storage import Folder
from beam_volumes.targets import ShardKey, Target
from beam_volumes.volume_plan import VolumePlan


class Totals(NamedTuple):
    """Everything a run has done, this run and interrupted ones before it."""

    counts: Counts
    written: list[WrittenShard]
    earlier: list[Receipt]
    holes: list[Box]

    @property
    def receipts(self) -> list[Receipt]:
        """The receipts of all shards, by mip and shard."""
        return sorted([w.receipt for w in self.written] + self.earlier)


def check_conservation(plan: VolumePlan, totals: Totals) -> None:
    """Make sure that planned = processed = written, at every stage.

    Raises:
        ConservationError: with the stages that do not agree.

    """
    counts, receipts = totals.counts, totals.receipts
    done = {
        "regions": counts.regions,
        "cells": counts.cells,
        "tiles": counts.tiles,
        "voxels": counts.voxels,
        "pieces": counts.pieces,
        "chunks": sum(w.receipt.chunks for w in totals.written),
        "shards": len(totals.written),
        "all chunks": sum(r.chunks for r in receipts),
        "all shards": len({(r.mip, r.shard) for r in receipts}),
    }
    expected = {
        **plan.planned,
        "tiles": counts.joined,
        "pieces": sum(w.pieces for w in totals.written),
        "all chunks": sum(len(t.chunks) for t in plan.targets),
        "all shards": sum(len(t.shards) for t in plan.targets),
    }
    stages = {name: (expected[name], done[name]) for name in done}
    check_stages(plan.claim.url, stages, "the volume is not complete; ")


def report(plan: VolumePlan, totals: Totals, started: float, ended: float) -> Json:
    """Return the content of `report.json`; times are UNIX seconds, durations seconds of all workers together."""
    counts, receipts = totals.counts, totals.receipts
    return {
        "pipeline": plan.claim.destination.task,
        "source": plan.source.url,
        "destination": plan.claim.url,
        "started": utc(started),
        "ended": utc(ended),
        "wall_seconds": round(ended - started, 3),
        "versions": plan.launch.versions,
        "stages": {
            "regions": {
                "planned": plan.planned["regions"],
                "done": counts.regions,
                "taken_up_from_an_interrupted_run": counts.reused,
                "voxels_read": counts.voxels_read,
            },
            **({"cells": _cell_counts(plan, counts)} if plan.pyramid.levels else {}),
            "rendering": {
                "pieces": counts.pieces,
                "voxels": counts.voxels,
                "encoded_bytes": counts.encoded_bytes,
                **{name: round(getattr(counts, name), 3) for name in counts._fields if name.endswith("_seconds")},
            },
            "shards": {
                "planned": sum(len(t.shards) for t in plan.targets),
                "done": len(totals.written),
                "done_by_an_interrupted_run": len(totals.earlier),
                "chunks": sum(r.chunks for r in receipts),
                "bytes": sum(r.bytes for r in receipts),
                "write_seconds": round(sum(w.seconds for w in totals.written), 3),
            },
        },
        **({"server": _server_counts(counts)} if plan.server else {}),
        "peak_memory_bytes": max([counts.peak_memory_bytes, *(w.peak_memory_bytes for w in totals.written)]),
        "holes": [str(box) for box in totals.holes],
        "scales": [_scale(target, receipts) for target in plan.targets],
        "shards": [r._asdict() for r in receipts],
    }


def _scale(target: Target, receipts: list[Receipt]) -> Json:
    mine = [r for r in receipts if r.mip == target.mip]
    return {
        "mip": target.mip,
        "key": target.scale.key,
        "encoding": target.scale.encoding,
        "chunks": sum(r.chunks for r in mine),
        "shards": len(mine),
        "bytes": sum(r.bytes for r in mine),
    }


def volume_provenance(plan: VolumePlan, ended: float) -> Json:
    """Return the content of `provenance`: every option that the bytes depend on, and what the server was asked."""
    method: Json = {**plan.claim.identity, "fill_missing": plan.fill_missing}
    if plan.server:
        method["server_table"] = str(plan.server.table)
        method["timestamp_utc"] = utc(plan.server.question.timestamp)
    return provenance(plan.launch, method, [plan.source.url], ended)


def _cell_counts(plan: VolumePlan, counts: Counts) -> Json:
    return {
        "planned": plan.planned["cells"],
        "done": counts.cells,
        "taken_up_from_an_interrupted_run": counts.cells_reused,
        "tiles": counts.tiles,
        "tile_bytes": counts.tile_bytes,
    }


def _server_counts(counts: Counts) -> Json:
    return {"ids_asked": counts.ids_asked, "requests": counts.requests, "retries": counts.retries}


def finish_volume(plan: VolumePlan, counts: Counts, written: Iterable[WrittenShard], started: float) -> None:
    """Prove that nothing was lost, then commit provenance and report and clean up.

    A second try after the report was committed cleans up, and no more.

    Raises:
        ConservationError: something was, or stands there that is not of this run; the records stay, so that the same
            command goes on.
        DestinationError: the destination was taken over, or cannot be written.

    """
    if not is_committed(plan.claim):
        _commit(plan, counts, written, started)
    remove_records(plan.claim)


def settle(plan: VolumePlan) -> None:
    """Make sure that a volume which was committed still stands as it was written, and remove what its run kept.

    Raises:
        ConservationError: files are missing, or others than they were.

    """
    report = Folder(plan.claim.url).read_json(plan.claim.report) or {}
    _check_files(plan, [Receipt(**shard) for shard in report.get("shards", [])])
    remove_records(plan.claim)


def _commit(plan: VolumePlan, counts: Counts, written: Iterable[WrittenShard], started: float) -> None:
    check_claim(plan.claim)
    earlier = [r for r in receipts(plan.claim) if plan.is_finished(ShardKey(r.mip, r.shard))]
    totals = Totals(counts, list(written), earlier, recorded_holes(plan.claim))
    check_conservation(plan, totals)
    _check_files(plan, totals.receipts)
    ended = time.time()
    finish(plan.claim, volume_provenance(plan, ended), report(plan, totals, started, ended))


def _check_files(plan: VolumePlan, receipts: list[Receipt]) -> None:
    for target in plan.targets:
        check_files(target, receipts)
