"""The `info` of a folder of meshes: for fragments and legacy meshes, and for multi-resolution ones.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/meshes.md; `mip`, `chunk_size` and
`spatial_index` are what CloudVolume and Igneous read besides.
"""

from __future__ import annotations

from beam_volumes.geometry import Box, Vec
from beam_volumes.precomputed.info import Json
from beam_volumes.precomputed.sharding import ShardingSpec

OVERLAP, LOW, HIGH = "overlap", "low", "high"
"""How many voxels below and above a task's box its surfaces reach; of other tools it is one above, and not told."""

BOUNDS = "bounds"
"""The voxels of which there are fragments, start and stop; only where they are not all of the volume."""

PROPERTIES_FOLDER = "segment_properties"
"""Below the folder of the meshes, whose `info` names it: a table of their labels."""

_IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
"""Stored coordinates to nm; 3 rows of 4, row by row."""


def fragments_info(mip: int, task_shape: Vec, spatial_index: Json | None = None, bounds: Box | None = None) -> Json:
    """Return the `info` of a folder of fragments, which are legacy meshes once they have manifests.

    Args:
        mip: that was meshed.
        task_shape: voxels of that mip, XYZ, without the overlap.
        spatial_index: what tells of its files (`beam_volumes.spatial_index`); None where there is none.
        bounds: the voxels that were meshed; None for all of the volume.

    """
    return {
        "@type": "neuroglancer_legacy_mesh",
        "mip": mip,
        "chunk_size": list(task_shape),
        OVERLAP: {LOW: 1, HIGH: 0},
        **({} if bounds is None else {BOUNDS: [list(bounds.start), list(bounds.stop)]}),
        **_index(spatial_index),
    }


def multiresolution_info(
    mip: int,
    bits: int,
    sharding: ShardingSpec | None,
    spatial_index: Json | None = None,
    segment_properties: str | None = None,
) -> Json:
    """Return the `info` of a folder of multi-resolution meshes, whose manifests are in nm.

    Args:
        mip: that was meshed.
        bits: of a quantized position: 10 or 16.
        sharding: None where each mesh is in files of its own.
        spatial_index: as of fragments.
        segment_properties: the folder of names and numbers of the labels, relative to that of the meshes; None for
            none.

    """
    info: Json = {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": bits,
        "transform": _IDENTITY,
        "lod_scale_multiplier": 1,
        "mip": mip,
        **_index(spatial_index),
    }
    if sharding is not None:
        info["sharding"] = sharding.to_info()
    if segment_properties is not None:
        info["segment_properties"] = segment_properties
    return info


def _index(spatial_index: Json | None) -> Json:
    return {} if spatial_index is None else {"spatial_index": spatial_index}
