"""What a meshing run says of itself when it has ended: that nothing was lost, and what was done."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

from beam_volumes.errors import ConservationError
from beam_volumes.geometry import Box, Grid
from beam_volumes.meshing.assembly import WrittenMeshes
from beam_volumes.meshing.legacy import frags_name
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_folder import MeshFolder
from beam_volumes.meshing.mesh_info import fragments_info, multiresolution_info
from beam_volumes.meshing.mesh_picture import PICTURE, largest_meshes, write_picture
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.segment_properties import FOLDER
from beam_volumes.precomputed.info import Json
from beam_volumes.provenance import provenance, utc
from beam_volumes.receipts import recorded_holes
from beam_volumes.runs import Claim, check_claim, finish, is_committed, remove_records
from beam_volumes.storage import Folder, join


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


def finish_meshes(plan: MeshPlan, totals: MeshTotals, started: float) -> None:
    """Prove that nothing was lost, then commit the meshes and clean up.

    A second try after the report was committed cleans up, and no more.

    Raises:
        ConservationError: something was; the records stay, so that the same command goes on.
        DestinationError: the destination was taken over, or cannot be written.

    """
    if not is_committed(plan.claim):
        check_claim(plan.claim)
        check_conservation(plan, totals)
        _check_sizes(plan, shard_sizes(plan, totals))
        _check_fragment_files(plan, totals.counts.file_bytes)
        ended = time.time()
        done = report(plan, totals, (started, ended))
        method: Json = {**plan.claim.identity, "fill_missing": plan.fill_missing}
        finish(_with_info(plan, totals.counts), provenance(plan.launch, method, [plan.source.url], ended), done)
    write_picture(plan)
    remove_records(plan.claim)


def settle(plan: MeshPlan) -> None:
    """Make sure that meshes which were committed still stand as they were written, and remove what their run kept.

    Raises:
        ConservationError: files are missing, or others than they were.

    """
    found = Folder(plan.claim.url).read_json(plan.claim.report) or {}
    shards = {str(k): int(v) for k, v in found.get("shards", {}).items()}
    _check_sizes(plan, shards)
    _check_fragment_files(plan, int(found.get("files", {}).get("bytes", 0)))
    write_picture(plan)
    remove_records(plan.claim)


def check_conservation(plan: MeshPlan, totals: MeshTotals) -> None:
    """Make sure that planned = processed = written, at every stage.

    Raises:
        ConservationError: with the stages that do not agree.

    """
    counts = totals.counts
    stages = {
        "cells counted": (plan.planned["cells"], counts.counted),
        "cells meshed": (plan.planned["cells"], counts.cells),
        "labels of cells added up": (counts.pairs, counts.pairs_added),
        "labels of cells meshed": (counts.pairs_chosen, counts.pairs_meshed),
        "pieces joined": (counts.pieces, counts.joined),
    }
    if plan.mesh_format != "fragments":
        stages["fragments written"] = (sum(counts.fragments), totals.fragments)
    if plan.segment_properties:
        stages["labels listed"] = (counts.labels, totals.listed)
    wrong = [f"{name}: expected {planned}, came {done}" for name, (planned, done) in stages.items() if planned != done]
    if wrong:
        raise ConservationError(
            f"{plan.claim.url}/{plan.folder}: something was lost or came twice on the way ({'; '.join(wrong)}): give "
            "the same command again, and what is missing is done anew"
        )


def shard_sizes(plan: MeshPlan, totals: MeshTotals) -> dict[str, int]:
    """Return the bytes of each shard by its file name; nothing where labels have files of their own."""
    if not plan.is_sharded:
        return {}
    spec = plan.sharding(totals.counts.labels)
    return {spec.shard_name(w.receipt.shard): w.receipt.bytes for w in totals.written}


def _check_fragment_files(plan: MeshPlan, size: int) -> None:
    """Make sure that there is a file of fragments for each cell; all of them have `size` bytes together."""
    if plan.mesh_format != "fragments":
        return
    entries = Folder(join(plan.claim.url, plan.folder)).entries()
    found = {entry.name: entry.bytes for entry in entries if entry.name.endswith(".frags")}
    expected = {frags_name(plan.own_voxels(cell)) for cell in range(len(plan.cells))}
    if found.keys() != expected or sum(found.values()) != size:
        wrong = sorted(found.keys() ^ expected)
        raise ConservationError(
            f"{plan.claim.url}/{plan.folder}: expected {len(expected)} files of fragments of {size:,} "
            f"bytes, came {len(found)} of {sum(found.values()):,}; missing, or not this run's: "
            f"{', '.join(wrong[:5]) or 'none'}: give the command again with --overwrite"
        )


def _check_sizes(plan: MeshPlan, sizes: dict[str, int]) -> None:
    prefix = f"{plan.folder}/"
    entries = {e.name.removeprefix(prefix): e.bytes for e in Folder(plan.claim.url).entries(prefix)}
    found = {name: size for name, size in entries.items() if name.endswith(".shard")}
    if sizes and found != sizes:
        wrong = sorted(name for name in found.keys() | sizes.keys() if found.get(name) != sizes.get(name))
        told = [f"{name} ({found.get(name, 'missing')}, not {sizes.get(name, 'there')})" for name in wrong[:5]]
        raise ConservationError(
            f"{plan.claim.url}/{plan.folder}: expected the {len(sizes)} shards that this run has written and no "
            f"others, came {', '.join(told)} ({len(wrong)} in all): remove what is not this run's, and give the same "
            "command again; over meshes that were complete, with --overwrite"
        )


def report(plan: MeshPlan, totals: MeshTotals, times: tuple[float, float]) -> Json:
    """Return the content of the report; `times` are start and end, UNIX seconds; durations those of all workers."""
    counts, written = totals.counts, totals.written
    # Fragments of one box know nothing of those of the next.
    meshed = counts.labels if plan.mesh_format == "fragments" else totals.labels
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
                "left_out": counts.excluded,
                "without_a_surface": counts.labels - meshed,
            },
            "surfaces": {
                "triangles_of_marching_cubes": counts.raw_faces,
                "simplified_otherwise": counts.fell_back,
                "edges_with_more_than_two_triangles": counts.crowded,
                "vertices_moved_into_their_cell": counts.clamped,
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
            "shards": {
                "written": len(written),
                "done_by_an_interrupted_run": sum(w.reused for w in written),
                "bytes": sum(w.receipt.bytes for w in written),
                "labels_with_fragments_that_were_split": sum(w.capped for w in written),
                "fragments_over_the_cap": sum(w.over_cap for w in written),
                "write_seconds": round(sum(w.seconds for w in written), 3),
            },
        },
        **({"server": _server(counts)} if plan.server else {}),
        "largest": largest_meshes(written),
        "picture": PICTURE if plan.picture else None,
        "not_encoded": list(counts.failures),
        "shards": shard_sizes(plan, totals),
        **({} if plan.mesh_format == "multires" else {"files": {"written": counts.files, "bytes": counts.file_bytes}}),
        "peak_memory_bytes": max([counts.peak_memory_bytes, *(w.peak_memory_bytes for w in written)]),
        "holes": [str(box) for box in _holes(plan)],
    }


def _holes(plan: MeshPlan) -> list[Box]:
    """Return the chunks that are missing; each cell tells of its own part of one. Or the boxes without fragments."""
    holes = recorded_holes(plan.claim)
    if plan.fragments is not None:
        return holes
    source = plan.source
    chunks = Grid(source.box, source.chunk, source.chunk_origin)
    return sorted({chunks.box(position) for hole in holes for position in chunks.positions_meeting(hole)})


def _server(counts: MeshCounts) -> Json:
    return {"ids_asked": counts.ids_asked, "requests": counts.requests, "retries": counts.retries}


def _with_info(plan: MeshPlan, counts: MeshCounts) -> Claim:
    """Return the claim on a destination that knows the `info` of the meshes."""
    destination = plan.claim.destination
    assert isinstance(destination, MeshFolder), "meshes go to a folder of meshes"
    if plan.mesh_format != "multires":
        index = plan.index.grid.info if plan.index else None
        bounds = None if plan.bounds == plan.source.box else plan.bounds
        info = fragments_info(plan.source.mip, plan.cells.cell, index, bounds)
    else:
        sharding = plan.sharding(counts.labels) if plan.is_sharded else None
        properties = FOLDER if plan.segment_properties else None
        info = multiresolution_info(plan.source.mip, plan.bits, sharding, segment_properties=properties)
    return replace(plan.claim, destination=replace(destination, info=info))
