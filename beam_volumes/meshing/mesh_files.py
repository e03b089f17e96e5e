"""The files of a meshing run, and whether what stands in its folder is what was written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from beam_volumes.errors import ConservationError
from beam_volumes.meshing.assembly import WrittenMeshes
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_info import PROPERTIES_FOLDER
from beam_volumes.meshing.mesh_picture import PICTURE
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.spatial_index.files import SUFFIX
from beam_volumes.storage import Folder, join

_SHOWN = 5
_BESIDES = {"info", "provenance", "report.json", PICTURE}


class MeshFiles(NamedTuple):
    """The files of meshes.

    Attributes:
        shards: bytes by name; none where labels have files of their own.
        others: how many files are no shards, nor of the spatial index.
        other_bytes: of these.

    """

    shards: dict[str, int]
    others: int
    other_bytes: int

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> MeshFiles:
        """Return what a report says."""
        return cls(found.get("shards", {}), found.get("others", 0), found.get("other_bytes", 0))


def written_files(plan: MeshPlan, counts: MeshCounts, written: Iterable[WrittenMeshes]) -> MeshFiles:
    """Return the files that a run has written: its cells, and who gathered the fragments of labels."""
    written = list(written)
    if plan.output.sharded:
        spec = plan.sharding(counts.labels)
        return MeshFiles({spec.shard_name(w.receipt.shard): w.receipt.bytes for w in written}, 0, 0)
    labels, size = sum(w.receipt.chunks for w in written), sum(w.receipt.bytes for w in written)
    return MeshFiles({}, counts.files + plan.output.files_per_label * labels, counts.file_bytes + size)


def check_files(plan: MeshPlan, expected: MeshFiles) -> None:
    """Make sure that the files stand as they were written, as far as a listing can show, and no others.

    Raises:
        ConservationError: they do not.

    """
    found: dict[str, int] = {}
    of_index = set[str]()
    for entry in Folder(join(plan.claim.url, plan.folder)).entries():
        if SUFFIX in entry.name:
            of_index.add(entry.name)
        elif entry.name not in _BESIDES and not entry.name.startswith(f"{PROPERTIES_FOLDER}/"):
            found[entry.name] = entry.bytes
    shards = {name: size for name, size in found.items() if name.endswith(".shard")}
    others = {name: size for name, size in found.items() if name not in shards}
    if shards != expected.shards:
        sizes = {name: (shards.get(name), expected.shards.get(name)) for name in shards.keys() | expected.shards.keys()}
        wrong = [(name, *both) for name, both in sorted(sizes.items()) if both[0] != both[1]]
        told = [f"{name} ({_bytes(came, 'missing')}, not {_bytes(size, 'there')})" for name, came, size in wrong]
        raise _error(plan, f"the {len(expected.shards):,} shards that this run has written", told)
    names = plan.output.names(map(plan.own_voxels, range(len(plan.cells))))
    if names is not None and names != others.keys():
        raise _error(plan, f"a file of fragments for each of {len(names):,} boxes", sorted(names ^ others.keys()))
    if (len(others), sum(others.values())) != (expected.others, expected.other_bytes):
        came = f"{len(others):,} files of {sum(others.values()):,} bytes"
        raise _error(plan, f"{expected.others:,} files of {expected.other_bytes:,} bytes", [came])
    names = set(plan.index.stored_names()) if plan.index else set[str]()
    if names != of_index:
        raise _error(plan, f"{len(names):,} files of the spatial index", sorted(names ^ of_index))


def _bytes(size: int | None, without: str) -> str:
    return without if size is None else f"{size:,} bytes"


def _error(plan: MeshPlan, expected: str, came: list[str]) -> ConservationError:
    return ConservationError(
        f"{plan.claim.url}/{plan.folder}: expected {expected} and no others, came {', '.join(came[:_SHOWN])} "
        f"({len(came)} in all): remove what is not this run's, and give the same command again; over meshes that were "
        "complete, with --overwrite"
    )
