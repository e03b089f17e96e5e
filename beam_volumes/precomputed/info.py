"""The `info` file: one scale of a volume, and what an export keeps of its source's.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from beam_volumes.codecs import BLOCK_SIZE, level_in_info
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.precomputed.sharding import ShardingSpec

Json = dict[str, Any]

_CHUNK_NAME = re.compile(r"(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)")

_SERVER_FIELDS = frozenset(
    {"app", "chunks_start_at_voxel_offset", "data_dir", "graph", "mesh_metadata", "sharded_mesh", "verify_mesh"}
)
"""What a PyChunkGraph adds to the info of its watershed: none of it holds for an exported volume."""


@dataclass(frozen=True)
class Scale:
    """One resolution of a volume, as it stands in `info`.

    Attributes:
        resolution_nm: size of a voxel along XYZ, nanometres.
        box: the voxels, in this scale's absolute grid; its start is the voxel offset.
        chunk: shape of a chunk, XYZ voxels; the chunk grid starts at the voxel offset.
        sharding: None where each chunk is a file of its own.
        encoding_level: quality of jpeg or level of png; None for the encoder's own.

    """

    resolution_nm: tuple[float, float, float]
    box: Box
    chunk: Vec
    encoding: str
    data_type: str
    num_channels: int
    sharding: ShardingSpec | None
    encoding_level: int | None = None

    @property
    def key(self) -> str:
        """The scale's folder: its resolution, as other tools name it (`16_16_40`)."""
        return "_".join(str(n) for n in _numbers(self.resolution_nm))

    @property
    def chunks(self) -> Grid:
        """The grid of chunks."""
        return Grid(self.box, self.chunk, self.box.start)

    def to_info(self) -> Json:
        """Return the scale's entry of `info`."""
        entry: Json = {
            "key": self.key,
            "resolution": _numbers(self.resolution_nm),
            "size": list(self.box.shape),
            "voxel_offset": list(self.box.start),
            "chunk_sizes": [list(self.chunk)],
            "encoding": self.encoding,
        }
        if self.encoding == "compressed_segmentation":
            entry["compressed_segmentation_block_size"] = list(BLOCK_SIZE)
        entry.update(level_in_info(self.encoding, self.encoding_level))
        if self.sharding:
            entry["sharding"] = self.sharding.to_info()
        return entry


def chunk_name(box: Box) -> str:
    """Return the file name of the chunk that holds `box`, for volumes that are not sharded."""
    return "_".join(f"{a}-{b}" for a, b in zip(box.start, box.stop, strict=True))


def box_of_chunk_name(name: str) -> Box | None:
    """Return the box that a chunk's file name tells; None for another name."""
    found = _CHUNK_NAME.fullmatch(name)
    if found is None:
        return None
    x0, x1, y0, y1, z0, z1 = map(int, found.groups())
    return Box((x0, y0, z0), (x1, y1, z1))


def volume_info(source: Json, layer_type: str, scales: Iterable[Scale], *, clean: bool) -> Json:
    """Return the `info` of a volume of `scales`, made from `source`.

    Args:
        source: the info of the source, possibly empty.
        layer_type: "image" or "segmentation".
        scales: from the finest to the coarsest, all of one data type.
        clean: drop every field that tells of things derived from the source (meshes, skeletons, segment properties)
            and not copied along. What a proofreading server adds is dropped in either case.

    """
    scales = list(scales)
    kept = {} if clean else {k: v for k, v in source.items() if k not in _SERVER_FIELDS}
    return {
        **kept,
        "@type": "neuroglancer_multiscale_volume",
        "type": layer_type,
        "data_type": scales[0].data_type,
        "num_channels": scales[0].num_channels,
        "scales": [s.to_info() for s in scales],
    }


def _numbers(values: Iterable[float]) -> list[int | float]:
    """Return whole numbers as ints, so that 16.0 stands as 16 in keys and files."""
    return [int(v) if float(v).is_integer() else float(v) for v in values]
