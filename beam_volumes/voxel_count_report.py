"""What a count says of itself when it has ended: that nothing was lost, and what was done."""

from __future__ import annotations

import time
from collections.abc import Iterable

from beam_volumes.conservation import check_stages
from beam_volumes.errors import ConservationError
from beam_volumes.geometry import Box
from beam_volumes.precomputed.info import Json
from beam_volumes.provenance import provenance, utc
from beam_volumes.receipts import recorded_holes
from beam_volumes.runs import check_claim, finish, is_committed, remove_records
from beam_volumes.storage import Folder
from beam_volumes.storage.store import Entry
from beam_volumes.voxel_count_plan import CountPlan
from beam_volumes.voxel_counting import CountStatistics, WrittenCounts, merge_statistics


def finish_count(plan: CountPlan, statistics: CountStatistics, merged: Iterable[WrittenCounts], started: float) -> None:
    """Prove that nothing was lost, then commit the report and clean up.

    A second try after the report was committed cleans up, and no more. `merged` is one: what comes of the last merge.

    Raises:
        ConservationError: something was; the records stay, so that the same command goes on.
        DestinationError: the destination was taken over, or cannot be written.

    """
    if not is_committed(plan.claim):
        check_claim(plan.claim)
        [written] = merged
        statistics = merge_statistics([statistics, written.statistics])
        written = written._replace(statistics=statistics)
        check_conservation(plan, written)
        _check_files(plan, written.totals.bytes, written.totals.crc32c)
        ended = time.time()
        method: Json = {**plan.claim.identity, "fill_missing": plan.fill_missing}
        done = report(plan, written, recorded_holes(plan.claim), (started, ended))
        finish(plan.claim, provenance(plan.launch, method, [plan.source.url], ended), done)
    remove_records(plan.claim)


def settle(plan: CountPlan) -> None:
    """Make sure that counts which were committed still stand as they were written, and remove what their run kept.

    Raises:
        ConservationError: files are missing, or others than they were.

    """
    found = Folder(plan.claim.url).read_json(plan.claim.report) or {}
    _check_files(plan, found.get("files", {}), found.get("files_crc32c", {}))
    remove_records(plan.claim)


def check_conservation(plan: CountPlan, written: WrittenCounts) -> None:
    """Make sure that planned = processed = written, at every stage.

    Raises:
        ConservationError: with the stages that do not agree.

    """
    statistics, totals = written.statistics, written.totals
    expected = {**plan.planned, "voxels in the files": plan.planned["voxels"]}
    done = {
        "regions": statistics.regions,
        "merges": statistics.merges,
        "voxels": statistics.voxels,
        "voxels in the files": totals.voxels,
    }
    check_stages(f"{plan.claim.url}/{plan.folder}", {name: (expected[name], done[name]) for name in done})


def report(plan: CountPlan, written: WrittenCounts, holes: list[Box], times: tuple[float, float]) -> Json:
    """Return the content of the report; `times` are start and end, UNIX seconds; durations those of all workers."""
    statistics, totals = written.statistics, written.totals
    x, y, z = plan.source.resolution_nm
    return {
        "pipeline": plan.claim.destination.task,
        "layer": plan.source.url,
        "mip": plan.source.mip,
        "voxels": str(plan.reading.regions.bounds),
        "voxel_volume_nm3": x * y * z,
        "bounding_boxes": plan.with_boxes,
        "started": utc(times[0]),
        "ended": utc(times[1]),
        "wall_seconds": round(times[1] - times[0], 3),
        "versions": plan.launch.versions,
        "stages": {
            "regions": {
                "planned": plan.planned["regions"],
                "done": statistics.regions,
                "voxels": statistics.voxels,
                "times_memory_was_full": statistics.fulls,
                "read_seconds": round(statistics.read_seconds, 3),
                "count_seconds": round(statistics.count_seconds, 3),
            },
            "merges": {
                "planned": plan.planned["merges"],
                "done": statistics.merges,
                "rows_read": statistics.rows_in,
                "merge_seconds": round(statistics.merge_seconds, 3),
            },
            "taken up from an interrupted run": {"regions_and_merges": statistics.reused},
            "counts": {
                "objects": totals.objects,
                "voxels_of_objects": totals.voxels - totals.background_voxels,
                "voxels_of_background": totals.background_voxels,
                "median_voxels_of_an_object": totals.median_voxels,
            },
        },
        "files": totals.bytes,
        "files_crc32c": totals.crc32c,
        "peak_memory_bytes": statistics.peak_memory_bytes,
        "holes": [str(box) for box in holes],
    }


def _check_files(plan: CountPlan, sizes: dict[str, int], checksums: dict[str, int]) -> None:
    """Make sure that the files stand as they were written, as far as a listing can show."""
    entries = Folder(plan.claim.url).entries(plan.folder)
    found = {entry.name.removeprefix(plan.folder): entry for entry in entries}
    told = ((name, _difference(found.get(name), size, checksums.get(name))) for name, size in sizes.items())
    wrong = [f"{name} ({difference})" for name, difference in told if difference]
    if wrong or not sizes:
        raise ConservationError(
            f"{plan.claim.url}/{plan.folder}: expected the files that this run has written, came "
            f"{'; '.join(wrong) or 'a report without files'}: give the command with --overwrite"
        )


def _difference(entry: Entry | None, size: int, checksum: int | None) -> str:
    if entry is None or entry.bytes != size:
        return f"{'missing' if entry is None else f'{entry.bytes} bytes'}, not {size} bytes"
    return "" if checksum is None or entry.crc32c in (None, checksum) else "of other bytes"
