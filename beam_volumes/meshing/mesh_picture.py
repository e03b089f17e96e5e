"""The picture of a local run: its largest meshes, read back as a viewer reads them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from beam_volumes.meshing.assembly import WrittenMeshes
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder

PICTURE = "meshes.png"
"""Beside the report."""

_MESHES = 60
_MOST_BYTES = 2**27
"""Of the files of what is drawn: larger meshes are passed over."""

_MOST_FINE_BYTES = 2**23
"""With more than that, the coarsest level of detail is drawn, else the finest."""


def largest_meshes(written: Iterable[WrittenMeshes]) -> list[Json]:
    """Return label and bytes of the largest meshes of all shards."""
    found = heapq.nlargest(_MESHES, (entry for shard in written for entry in shard.largest))
    return [{"label": str(label), "bytes": size} for size, label in found]


def write_picture(plan: MeshPlan) -> None:
    """Draw the largest meshes of a run that has ended well, unless that is not wanted or was done.

    Raises:
        SourceError: they cannot be read.
        DestinationError: the picture cannot be written.

    """
    folder, name = Folder(plan.claim.url), f"{plan.folder}/{PICTURE}"
    if not plan.picture or folder.exists(name):
        return
    report = folder.read_json(plan.claim.report) or {}
    labels, left = list[int](), _MOST_BYTES
    for entry in report.get("largest", []):
        if int(entry["bytes"]) <= left:
            labels.append(int(entry["label"]))
            left -= int(entry["bytes"])
    # matplotlib takes most of a second to import.
    from beam_volumes.meshing.picture import render_meshes

    scale = np.array(plan.source.resolution_nm)
    x0, y0, z0 = (scale * plan.bounds.start).tolist()
    x1, y1, z1 = (scale * plan.bounds.stop).tolist()
    title = f"{plan.claim.url}: the {len(labels)} largest of {report['stages']['labels']['meshed']:,} objects"
    lod = 0 if _MOST_BYTES - left <= _MOST_FINE_BYTES else plan.num_lods - 1
    picture = render_meshes(_read(plan, labels, lod), box_nm=((x0, y0, z0), (x1, y1, z1)), title=title)
    folder.write(name, picture, content_type="image/png")


def _read(
    plan: MeshPlan, labels: list[int], lod: int
) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.uint32]]]:
    from cloudvolume import CloudVolume

    volume = CloudVolume(plan.claim.url, mesh_dir=plan.folder, use_https=False, progress=False)
    for label in labels:
        mesh = volume.mesh.get(label, **({"lod": lod} if plan.mesh_format == "multires" else {}))
        mesh = mesh[label] if isinstance(mesh, dict) else mesh
        yield label, np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)
