"""What a run that applies a function says of itself when it has ended: that nothing was lost, and what was done."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from beam_volumes.applying.drawing import PICTURE, remove_picture, write_picture
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.processing import Counts, WrittenUnit
from beam_volumes.conservation import check_stages
from beam_volumes.precomputed.info import Json
from beam_volumes.provenance import provenance, utc
from beam_volumes.receipts import Receipt, receipts
from beam_volumes.runs import check_claim, finish, is_committed, remove_records


class Totals(NamedTuple):
    """Everything a run has done, this run and interrupted ones before it."""

    counts: Counts
    written: list[WrittenUnit]
    earlier: list[Receipt]

    @property
    def receipts(self) -> list[Receipt]:
        """The receipts of all units."""
        return sorted([w.receipt for w in self.written] + self.earlier)


def finish_apply(plan: ApplyPlan, counts: Counts, written: Iterable[WrittenUnit], started: float) -> None:
    """Prove that nothing was lost, then commit provenance and report and clean up.

    A second try after the report was committed cleans up, and no more.

    Raises:
        ConservationError: something was; the records stay, so that the same command goes on.
        DestinationError: the destination was taken over, or cannot be written.

    """
    if not is_committed(plan.claim):
        check_claim(plan.claim)
        earlier = [r for r in receipts(plan.claim) if plan.is_finished(r.shard)]
        totals = Totals(counts, list(written), earlier)
        check_conservation(plan, totals)
        remove_picture(plan)
        ended = time.time()
        done = provenance(plan.launch, plan.claim.identity, sources(plan), ended)
        finish(plan.claim, done, report(plan, totals, started, ended))
    settle(plan)


def settle(plan: ApplyPlan) -> None:
    """Remove what a run has kept while it went on, and draw the picture, if one is wanted."""
    remove_records(plan.claim)
    if plan.picture:
        write_picture(plan)


def sources(plan: ApplyPlan) -> list[str]:
    """Return the volumes that are read."""
    return sorted({each["volume"] for each in plan.claim.identity["inputs"]})


def check_conservation(plan: ApplyPlan, totals: Totals) -> None:
    """Make sure that planned = processed = written, at every stage.

    Raises:
        ConservationError: with the stages that do not agree.

    """
    counts, planned = totals.counts, plan.planned
    stages = {
        "elements": (planned["regions"], counts.regions),
        "chunks of the top level": (planned["tops"], counts.tops),
        "chunks": (planned["chunks"], counts.chunks),
        "pieces": (counts.pieces, sum(w.pieces for w in totals.written)),
        "written": (planned["units"], len(totals.written)),
        "all written": (plan.units, len({r.shard for r in totals.receipts})),
    }
    check_stages(plan.claim.place, stages, "it is not complete; ")


def report(plan: ApplyPlan, totals: Totals, started: float, ended: float) -> Json:
    """Return the content of the report; times are UNIX seconds, durations seconds of all workers together."""
    counts, subchunks = totals.counts, plan.subchunks
    return {
        "pipeline": plan.claim.destination.task,
        "destination": plan.claim.url,
        "voxels": str(subchunks.bounds),
        "started": utc(started),
        "ended": utc(ended),
        "wall_seconds": round(ended - started, 3),
        "versions": plan.launch.versions,
        "stages": {
            "chunks": {
                "planned": plan.planned["tops"],
                "done": counts.tops,
                "elements_taken_up_from_an_interrupted_run": counts.reused,
                "chunks_of_the_function": counts.chunks,
                "missing_chunks_of_inputs_read_as_0": counts.missing_chunks,
                **{name: round(getattr(counts, name), 3) for name in counts._fields if name.endswith("_seconds")},
            },
            "pieces": {"made": counts.pieces, "bytes": counts.piece_bytes},
            "boxes": {
                "planned": plan.units,
                "done": len(totals.written),
                "done_by_an_interrupted_run": len(totals.earlier),
                "bytes": sum(r.bytes for r in totals.receipts),
                "write_seconds": round(sum(w.seconds for w in totals.written), 3),
            },
        },
        "picture": PICTURE if plan.picture else None,
        "peak_memory_bytes": max([counts.peak_memory_bytes, *(w.peak_memory_bytes for w in totals.written)]),
    }
