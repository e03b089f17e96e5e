"""A small index, made in a volume without voxels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from cloudvolume import CloudVolume

from beam_volumes.geometry import Box
from beam_volumes.spatial_index.files import IndexFiles, IndexGrid, LabelBoxes

OFFSET = (5, -7, 11)
SIZE = (300, 150, 90)
SHAPE = (64, 64, 64)
FIRST = 0x0A00_0000_0000_0000


def make_index(
    folder: Path, resolution: tuple[float, float, float] = (16, 16, 40), *, compression: str = "gzip"
) -> IndexFiles:
    """Write an index of objects that reach over several tasks; some tasks have none."""
    scale = {"key": "s", "size": SIZE, "voxel_offset": OFFSET, "resolution": resolution}
    scale |= {"chunk_sizes": [[64, 64, 64]], "encoding": "raw"}
    info: dict[str, Any] = {"type": "segmentation", "data_type": "uint64", "num_channels": 1, "mesh": "mesh"}
    (folder / "mesh").mkdir(parents=True)
    (folder / "info").write_text(json.dumps(info | {"scales": [scale]}))
    bounds = Box.of_shape(SIZE, OFFSET)
    files = IndexFiles(f"file://{folder}/mesh", IndexGrid.of_shape(bounds, SHAPE, resolution))
    mesh = {"@type": "neuroglancer_legacy_mesh", "mip": 0, "spatial_index": files.grid.info}
    (folder / "mesh/info").write_text(json.dumps(mesh))
    rng = np.random.default_rng(0)
    starts = rng.integers(OFFSET, np.add(OFFSET, SIZE) - 1, (200, 3))
    stops = np.minimum(starts + rng.integers(1, 90, (200, 3)), np.add(OFFSET, SIZE))
    labels = FIRST + np.arange(200, dtype=np.uint64) * 7
    for task in range(len(files)):
        box = files.grid.tasks.box(files.grid.tasks.position(task))
        low, high = np.maximum(starts, box.start), np.minimum(stops, box.stop)
        here = (low < high).all(axis=1) & (task % 5 != 3)
        corners = np.concatenate([np.floor(low * resolution), np.ceil(high * resolution)], axis=1).astype(np.int64)
        files.write(task, LabelBoxes(labels[here], corners[here]), compression)
    return files


def cloudvolume_index(files: IndexFiles, database: str | None = None) -> Any:
    """Return CloudVolume's own index."""
    layer = files.url.removesuffix("/mesh")
    return CloudVolume(layer, progress=False, spatial_index_db=database).mesh.spatial_index
