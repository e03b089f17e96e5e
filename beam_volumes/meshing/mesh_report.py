"""What a meshing run says of itself when it has ended: that nothing was lost, and what was done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from beam_volumes.conservation import check_stages
from beam_volumes.errors import OptionError
from beam_volumes.meshing.assembly import WrittenMeshes
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_files import MeshFiles, check_files, written_files
from beam_volumes.meshing.mesh_folder import MeshFolder
from beam_volumes.meshing.mesh_picture import PICTURE, Drawing, draw, largest_meshes, write_picture
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.remaking import whole_claim
from beam_volumes.precomputed.info import Json
from beam_volumes.provenance import provenance, utc
from beam_volumes.receipts import recorded_holes
from beam_volumes.runs import Claim, check_claim, finish, is_committed, remove_records
from beam_volumes.storage import Folder


@dataclass(frozen=True)
class MeshTotals:
    """Everything a run has done, this run and interrupted ones before it.

    Attributes:
        listed: labels in the table for viewers.

    """

    counts: MeshCounts
    written: list[WrittenMeshes]
    listed: int

    @property
    def labels(self) -> int:
        """Labels with a mesh."""
        return sum(w.receipt.chunks for w in self.written)

    @property
    def fragments(self) -> int:
        """Fragments that came to where they are written."""
        return sum(w.fragments for w in self.written)


def finish_meshes(plan: MeshPlan, totals: MeshTotals, started: float, draw: Callable[[Drawing], bytes] = draw) -> None:
    """Prove that nothing was lost, then commit the meshes and clean up.

    A second try after the report was committed cleans up, and no more. `draw` is that of `write_picture`.

    Raises:
        ConservationError: something was; the records stay, so that the same command goes on.
        DestinationError: the destination was taken over, or cannot be written.

    """
    if plan.remade is not None:
        # What was complete is so again, with the report that it had.
        check_conservation(plan, totals)
        settle(plan)
        return
    if not is_committed(plan.claim):
        check_claim(plan.claim)
        check_conservation(plan, totals)
        _check_any(plan, totals.counts)
        check_files(plan, written_files(plan, totals.counts, totals.written))
        ended = time.time()
        done = report(plan, totals, (started, ended))
        method: Json = {**plan.claim.identity, "fill_missing": plan.fill_missing}
        finish(_with_info(plan, totals.counts), provenance(plan.launch, method, [plan.source.url], ended), done)
    write_picture(plan, draw)
    remove_records(plan.claim)


def _check_any(plan: MeshPlan, counts: MeshCounts) -> None:
    """Refuse to call it complete when there are objects, and none of them was meshed.

    Raises:
        OptionError: so it is; the place is free for another try.

    """
    if counts.labels or not counts.dust + counts.excluded:
        return
    Folder(plan.claim.url).delete_folder(plan.folder)
    remove_records(plan.claim)
    raise OptionError(
        f"{plan.claim.place}: expected an object to mesh, came none: of {counts.dust + counts.excluded:,} objects "
        f"{counts.dust:,} have fewer voxels than --dust_threshold, and {counts.excluded:,} are not those of --labels, "
        "or are those of --exclude: change one of these options"
    )


def settle(plan: MeshPlan) -> None:
    """Make sure that meshes which were committed still stand as they were written, and remove what their run kept.

    Raises:
        ConservationError: files are missing, or others than they were.

    """
    found = Folder(plan.claim.url).read_json(plan.claim.report) or {}
    check_files(plan, MeshFiles.from_json(found.get("files", {})))
    write_picture(plan)
    remove_records(whole_claim(plan))


def check_conservation(plan: MeshPlan, totals: MeshTotals) -> None:
    """Make sure that planned = processed = written, at every stage.

    Raises:
        ConservationError: with the stages that do not agree.

    """
    counts = totals.counts
    stages = {
        "cells counted": (plan.planned["counted"], counts.counted),
        "cells meshed": (plan.planned["cells"], counts.cells),
        "labels of cells added up": (counts.pairs, counts.pairs_added),
        "labels of cells meshed": (counts.pairs_chosen, counts.pairs_meshed),
        "pieces joined": (counts.pieces, counts.joined),
    }
    if plan.output.has_manifests:
        stages["fragments written"] = (sum(counts.fragments), totals.fragments)
    if plan.output.segment_properties:
        stages["labels listed"] = (counts.labels, totals.listed)
    check_stages(f"{plan.claim.url}/{plan.folder}", stages)


def report(plan: MeshPlan, totals: MeshTotals, times: tuple[float, float]) -> Json:
    """Return the content of the report; `times` are start and end, UNIX seconds; durations those of all workers."""
    counts, written = totals.counts, totals.written
    # Fragments of one box know nothing of those of the next.
    meshed = totals.labels if plan.output.has_manifests else counts.labels
    return {
        "pipeline": plan.claim.destination.task,
        "layer": plan.source.url,
        "mip": plan.source.mip,
        "voxels": str(plan.bounds),
        "started": utc(times[0]),
        "ended": utc(times[1]),
        "wall_seconds": round(times[1] - times[0], 3),
        "versions": plan.launch.versions,
        "stages": {
            "cells": {
                "planned": plan.planned["cells"],
                "done": counts.cells,
                "without_labels": counts.empty,
                "voxels_read": counts.voxels_read,
                "elements_taken_up_from_an_interrupted_run": counts.reused,
            },
            "labels": {
                "meshed": meshed,
                "under_the_dust_threshold": counts.dust,
                "not_asked_for": counts.excluded,
                "asked_for_and_not_there": 0 if plan.listed is None else plan.listed - counts.labels - counts.dust,
                "without_a_surface": counts.labels - meshed,
            },
            "surfaces": {
                f"triangles_of_{plan.input.surfaces_of}": counts.raw_faces,
                "simplified_otherwise": counts.fell_back,
                "edges_with_more_than_two_triangles": counts.crowded,
                "vertices_moved_into_their_cell": counts.clamped,
                "fragments_of_one_tetrahedron_for_smaller_triangles": counts.stand_ins,
                "not_encoded": counts.failed,
            },
            **{
                f"level of detail {lod}": {"fragments": fragments, "triangles": faces}
                for lod, (fragments, faces) in enumerate(zip(counts.fragments, counts.faces, strict=True))
            },
            "seconds": {
                name.removesuffix("_seconds"): round(value, 3)
                for name, value in asdict(counts).items()
                if name.endswith("_seconds")
            },
            **_stored(plan, counts, written),
        },
        **({"server": _server(counts)} if plan.server else {}),
        "largest": largest_meshes(written),
        "picture": PICTURE if plan.picture else None,
        "not_encoded": list(counts.failures),
        "files": written_files(plan, counts, written)._asdict(),
        "peak_memory_bytes": max([counts.peak_memory_bytes, *(w.peak_memory_bytes for w in written)]),
        "holes": [str(box) for box in plan.input.holes(plan.source, recorded_holes(plan.claim))],
    }


def _stored(plan: MeshPlan, counts: MeshCounts, written: list[WrittenMeshes]) -> Json:
    """Return what was written: shards, or files of other kinds."""
    stored = {
        "written": len(written),
        "done_by_an_interrupted_run": sum(w.reused for w in written),
        "bytes": sum(w.receipt.bytes for w in written),
        "labels_with_fragments_that_were_split": sum(w.capped for w in written),
        "fragments_over_the_cap": sum(w.over_cap for w in written),
        "write_seconds": round(sum(w.seconds for w in written), 3),
    }
    if not plan.output.has_manifests:
        return {"files of fragments": {"written": counts.files, "bytes": counts.file_bytes}}
    return {"shards": stored}


def _server(counts: MeshCounts) -> Json:
    return {"ids_asked": counts.ids_asked, "requests": counts.requests, "retries": counts.retries}


def _with_info(plan: MeshPlan, counts: MeshCounts) -> Claim:
    """Return the claim on a destination that knows the `info` of the meshes."""
    destination = plan.claim.destination
    assert isinstance(destination, MeshFolder), "meshes go to a folder of meshes"
    index = plan.index.grid.info if plan.index else None
    bounds = None if plan.bounds == plan.source.box else plan.bounds
    info = plan.output.info(plan.source.mip, plan.cells.cell, bounds, index, counts.labels)
    return replace(plan.claim, destination=replace(destination, info=info))
