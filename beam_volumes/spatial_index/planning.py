"""Whether a meshing run writes a spatial index, and of which boxes."""

from __future__ import annotations

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Grid
from beam_volumes.sources import Source
from beam_volumes.spatial_index.files import IndexFiles, IndexGrid
from beam_volumes.storage import Folder, join


def plan_index(asked: bool | None, source: Source, tasks: Grid, url: str, folder: str) -> IndexFiles | None:
    """Return the files of the spatial index that a run writes; None where it writes none.

    Readers take the boxes of an index to begin where the volume does that holds its folder, and to end there.

    Args:
        asked: whether one is wanted; None for where it can be.
        source: what is meshed.
        tasks: the boxes, voxels.
        url: the volume that the meshes are added to.
        folder: of the meshes, below it.

    Raises:
        OptionError: one is wanted, and the boxes are not all of that volume.

    """
    if asked is False:
        return None
    scales = (Folder(url).read_json("info") or {}).get("scales", ())
    scale = scales[source.mip] if source.mip < len(scales) else None
    if scale is not None and tuple(scale["resolution"]) == source.resolution_nm:
        x, y, z = scale.get("voxel_offset", (0, 0, 0))
        a, b, c = scale["size"]
        if Box.of_shape((a, b, c), (x, y, z)) == tasks.bounds:
            grid = IndexGrid.of_shape(tasks.bounds, tasks.cell, scale["resolution"])
            return IndexFiles(join(url, folder), grid)
    if asked:
        raise OptionError(
            f"--spatial_index: expected with it to mesh all voxels of mip {source.mip} of {url}, whose readers take an "
            f"index to be one of the whole volume, came {tasks.bounds} of {source.resolution_nm} nm: leave it out, or "
            "--bounds"
        )
    return None
