"""The picture of a local run: its largest meshes, read back as a viewer reads them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from beam_volumes.meshing.assembly import WrittenMeshes
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.picture import BoxNm, LabelMesh, render_meshes
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder

PICTURE = "meshes.png"
"""Beside the report."""

_MESHES = 60
_ENOUGH_BYTES = 2**20
"""The finest level of detail is drawn that takes no more, or else the coarsest: more shows hardly more."""

_MOST_BYTES = 2**23
"""Of what is drawn, some 6 million triangles: larger meshes are passed over."""


class Drawing(NamedTuple):
    """What `draw` takes."""

    meshes: list[LabelMesh]
    box_nm: BoxNm
    title: str


def draw(drawing: Drawing) -> bytes:
    """Return the picture: PNG."""
    return render_meshes(drawing.meshes, box_nm=drawing.box_nm, title=drawing.title)


def largest_meshes(written: Iterable[WrittenMeshes]) -> list[Json]:
    """Return label and bytes of the largest meshes of all shards."""
    found = heapq.nlargest(_MESHES, (entry for shard in written for entry in shard.largest))
    return [{"label": str(label), "bytes": size} for size, label in found]


def write_picture(plan: MeshPlan, draw: Callable[[Drawing], bytes] = draw) -> None:
    """Draw the largest meshes of a run that has ended well, unless that is not wanted or was done.

    Args:
        plan: of the run.
        draw: calls `draw`; elsewhere, for one, where its kernels are loaded.

    Raises:
        SourceError: they cannot be read.
        DestinationError: the picture cannot be written.

    """
    folder, name = Folder(plan.claim.url), f"{plan.folder}/{PICTURE}"
    if not plan.picture or folder.exists(name):
        return
    report = folder.read_json(plan.claim.report) or {}
    sizes = {int(entry["label"]): int(entry["bytes"]) for entry in report.get("largest", [])}
    lod, factor = _level_drawn(plan, sum(sizes.values()))
    labels, left = list[int](), _MOST_BYTES * factor
    for label, size in sizes.items():
        if size <= left:
            labels.append(label)
            left -= size
    scale = np.array(plan.source.resolution_nm)
    x0, y0, z0 = (scale * plan.bounds.start).tolist()
    x1, y1, z1 = (scale * plan.bounds.stop).tolist()
    title = f"{plan.claim.url}: the {len(labels)} largest of {report['stages']['labels']['meshed']:,} objects"
    drawing = Drawing(_read(plan, labels, lod), ((x0, y0, z0), (x1, y1, z1)), title)
    folder.write(name, draw(drawing), content_type="image/png")


def _level_drawn(plan: MeshPlan, size: int) -> tuple[int, float]:
    """Return which level of detail is drawn of meshes of `size` bytes, and what part of the finest it is, inverted."""
    factor = 1.0
    for lod in range(plan.num_lods):
        factor *= plan.multires.factor_of(lod) if lod else 1
        if size <= _ENOUGH_BYTES * factor:
            break
    return lod, factor


def _read(plan: MeshPlan, labels: list[int], lod: int) -> list[LabelMesh]:
    from cloudvolume import CloudVolume

    volume = CloudVolume(plan.claim.url, mesh_dir=plan.folder, use_https=False, progress=False)
    meshes = list[LabelMesh]()
    for label in labels:
        mesh = volume.mesh.get(label, **plan.output.level_option(lod))
        mesh = mesh[label] if isinstance(mesh, dict) else mesh
        meshes.append((label, np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)))
    return meshes
