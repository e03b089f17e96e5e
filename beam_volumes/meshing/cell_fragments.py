"""What stands in the file of fragments of a cell; and what it means that there is none.

Every box has a file where this program has forged. Other tools write none for boxes without labels, but tell of them in
the spatial index: `{}`. What neither tells of may have been lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import numpy as np

from beam_volumes.errors import CorruptDataError, SourceError
from beam_volumes.map_buffer import Words, read_keys
from beam_volumes.meshing.legacy import read_fragments
from beam_volumes.meshing.mesh import UNITS, Mesh, Reach
from beam_volumes.meshing.mesh_input import FragmentFiles
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.spatial_index.files import decode_boxes, decode_labels
from beam_volumes.storage import Folder, join


def labels_of_fragments(files: FragmentFiles, cell: int, *, fill_missing: bool) -> Words | None:
    """Return the labels in the file of a cell, sorted; None where there is no file, and that is accepted.

    Args:
        files: the fragments.
        cell: whose file it is.
        fill_missing: whether a file may be missing of which the spatial index does not say that it would be empty.

    Raises:
        SourceError: the file is missing, or cannot be read.
        CorruptDataError: it is not what was written.

    """
    folder, name = Folder(files.url), files.name(cell)
    try:
        with _telling_how_to_mend(folder):
            return read_keys(folder, name)
    except SourceError as error:
        if folder.exists(name):
            raise
        known = _labels_of_index(files, cell)
        if known == 0:
            return np.empty(0, np.uint64)
        if fill_missing:
            return None
        says = "nothing tells that its box is empty" if known is None else f"{known:,} labels are in its box"
        raise SourceError(
            f"{join(files.url, name)}: expected the fragments of a box, but there is no such file, and {says}: "
            f"{_advice(folder)}, or take it for empty with --fill_missing"
        ) from error


@contextlib.contextmanager
def _telling_how_to_mend(folder: Folder) -> Iterator[None]:
    """Tell of a damaged file that it must go first: one that is there is taken for done."""
    try:
        yield
    except CorruptDataError as error:
        raise CorruptDataError(f"{error}: remove it, then {_advice(folder)}") from error


def _advice(folder: Folder) -> str:
    """Return what to do about a file that is missing among fragments."""
    made = folder.read_json("report.json") or {}
    if made.get("pipeline") != "forge_mesh":
        return "make it again with the program that made the others"
    if made.get("identity", {}).get("sharded") is False:
        return "forge the volume with --sharded=true: these are meshes, a file for each label of a box"
    return "give the command of forge_mesh that made the others once more: it makes only the files that are missing"


def meshes_of_fragments(plan: MeshPlan, cell: int, labels: Collection[int]) -> Iterator[tuple[int, Mesh]]:
    """Yield the labels and meshes in the file of a cell, in its order.

    Far from the origin float32 is coarser than a sixteenth of a voxel. There vertices in the planes in which cells meet
    come back beside them: they are moved into them again, or surfaces would be open.

    Raises:
        SourceError: there is no such file, or it cannot be read.
        CorruptDataError: the file, or a mesh in it, is not what was written.

    """
    files, resolution = plan.fragments, plan.source.resolution_nm
    position = plan.cells.position(cell)
    starts, lengths = plan.grid.start(0, position), plan.grid.length(0)
    planes = [(axis, n) for axis, start in enumerate(starts) for n in (start, start + lengths[axis])]
    coarse = [(axis, plane, reach) for axis, plane in planes if (reach := _step(plane, resolution[axis]))]
    folder = Folder(files.url)
    with _telling_how_to_mend(folder):
        for label, mesh in read_fragments(folder, files.name(cell), resolution, labels):
            for axis, plane, reach in coarse:
                along = mesh.vertices[:, axis]
                along[np.abs(along - plane) <= reach] = plane
            yield label, mesh


def _step(coordinate: int, resolution_nm: float) -> int:
    """Return how many sixteenths of a voxel lie between a coordinate and the next one of float32 nm; 0 below one."""
    unit = resolution_nm / UNITS
    return int(np.spacing(np.float32(abs(coordinate * unit))) / unit)


def reaches_in_index(plan: MeshPlan, cell: int) -> dict[int, Reach]:
    """Return how far the voxels of labels reach in a cell, as the spatial index of the fragments tells.

    Nothing where it does not tell, or where none is to be written.

    Raises:
        SourceError: its file cannot be read.
        CorruptDataError: its file is not what was written.

    """
    found = _index_file(plan.fragments, cell) if plan.index else None
    if found is None:
        return {}
    labels, boxes = decode_boxes(*found)
    return dict(zip(labels.tolist(), boxes.reshape(-1, 2, 3).astype(np.float64), strict=True))


def _labels_of_index(files: FragmentFiles, cell: int) -> int | None:
    """Return how many labels the spatial index has in a cell; None where there is none, or it does not tell."""
    found = _index_file(files, cell)
    return None if found is None else len(decode_labels(*found))


def _index_file(files: FragmentFiles, cell: int) -> tuple[bytes, str] | None:
    """Return the content and the place of the file that a spatial index has of a cell; None where there is none."""
    if files.index is None:
        return None
    data = next(files.index.read([cell]))
    return None if data is None else (data, f"{files.index.url}/{files.index.grid.name(cell)}")
