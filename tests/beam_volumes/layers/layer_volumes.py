"""Volumes for tests of layers, and numpy's view of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts
from cloudvolume import CloudVolume

from beam_volumes.geometry import BBox3D, Box, Vec
from beam_volumes.layers import VolumetricLayer, build_cv_layer

Voxels = npt.NDArray[Any]
RESOLUTION = (4, 4, 40)


def random_voxels(shape: tuple[int, ...], data_type: str, seed: int = 0) -> Voxels:
    """Return values from all over a type, those of ids up to 2**63 - 1."""
    random = np.random.default_rng(seed)
    kind = np.dtype(data_type)
    if kind.kind == "f":
        return random.normal(0, 100, shape).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, min(int(limits.max), 2**63 - 1), shape, kind, endpoint=True)


def new_arguments(
    path: Path | str, bounds: Box, data_type: str = "uint8", chunk: Vec = (16, 16, 8), **others: Any
) -> dict[str, Any]:
    """Return the arguments of a layer of a new volume of one scale."""
    return {
        "path": str(path),
        "info_scales": [list(RESOLUTION)],
        "info_data_type": data_type,
        "info_chunk_size": list(chunk),
        "info_encoding": "raw",
        "info_bbox": BBox3D.from_coords(bounds.start, bounds.stop, RESOLUTION),
        "default_desired_resolution": RESOLUTION,
        **others,
    }


def new_layer(path: Path | str, bounds: Box, data_type: str = "uint8", **others: Any) -> VolumetricLayer:
    return build_cv_layer(**new_arguments(path, bounds, data_type, **others))


def stored_layer(path: Path | str, voxels: Voxels, offset: Vec = (0, 0, 0), **others: Any) -> VolumetricLayer:
    """Return the layer of a new volume that holds CXYZ voxels."""
    x, y, z = voxels.shape[1:]
    bounds = Box.of_shape((x, y, z), offset)
    layer = new_layer(path, bounds, str(voxels.dtype), info_num_channels=voxels.shape[0], **others)
    layer.backend.write(layer.frontend.convert(bounds.slices()), voxels)
    return layer


def by_cloudvolume(path: Path | str, resolution: Sequence[float] = RESOLUTION, *, fill_missing: bool = False) -> Voxels:
    """Return all of a volume, CXYZ, as CloudVolume reads it."""
    volume = CloudVolume(f"file://{path}", mip=list(resolution), fill_missing=fill_missing, progress=False)
    return np.moveaxis(np.asarray(volume[volume.bounds]), 3, 0)


def by_tensorstore(path: Path | str, resolution: Vec = RESOLUTION) -> Voxels:
    """Return all of a volume, CXYZ, as tensorstore reads it."""
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": f"file://{path}/",
        "scale_metadata": {"resolution": list(resolution)},
    }
    return np.moveaxis(ts.open(spec, open=True).result().read().result(), 3, 0)


def window(voxels: Voxels, offset: Vec, box: Box) -> Voxels:
    """Return a box of a volume of CXYZ voxels whose first is at `offset`; 0 beyond it."""
    out = np.zeros((voxels.shape[0], *box.shape), voxels.dtype)
    x, y, z = voxels.shape[1:]
    inside = box.intersection(Box.of_shape((x, y, z), offset))
    if inside.voxels:
        out[(slice(None), *inside.slices(box.start))] = voxels[(slice(None), *inside.slices(offset))]
    return out
