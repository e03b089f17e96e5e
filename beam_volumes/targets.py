"""A scale that is being written, and which shard owns which of its chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from beam_volumes.codecs import compression_of
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.precomputed.info import Scale
from beam_volumes.precomputed.morton import compressed_morton_code
from beam_volumes.precomputed.sharding import ShardGrid, ShardingSpec


class ShardKey(NamedTuple):
    """One shard among those of all scales that a run writes."""

    mip: int
    shard: int


@dataclass(frozen=True)
class Target:
    """One scale of a destination.

    A shard is the unit of writing, sharded or not: without sharding, its owner writes each chunk as a file.

    Attributes:
        url: the destination, without the scale's key.
        mip: the scale's place in the destination's `info`.
        compress: what is put around encoded chunks: gzip, br or none.
        ownership: which chunks a shard holds; equals `scale.sharding` in a sharded scale.

    """

    url: str
    mip: int
    scale: Scale
    compress: str
    ownership: ShardingSpec

    @property
    def compression(self) -> str:
        """What is really put around chunks: an encoding that is compressed already is left as it is."""
        return compression_of(self.scale.encoding, self.compress)

    @cached_property
    def chunks(self) -> Grid:
        """The grid of chunks, in voxels."""
        return self.scale.chunks

    @cached_property
    def shards(self) -> ShardGrid:
        """The shards, in chunks."""
        return ShardGrid(self.chunks.shape, self.ownership)

    def chunk_id(self, position: Vec) -> int:
        """Return the id (compressed Morton code) of the chunk at `position` in the grid."""
        return compressed_morton_code(position, self.chunks.shape)

    def shards_meeting(self, box: Box) -> Iterator[int]:
        """Yield the numbers of the shards that hold a voxel of `box`."""
        cx, cy, cz = self.scale.chunk
        sx, sy, sz = self.shards.shard_chunks
        grid = Grid(self.scale.box, (cx * sx, cy * sy, cz * sz), self.scale.box.start)
        for x, y, z in grid.positions_meeting(box):
            yield self.shards.shard_of((x * sx, y * sy, z * sz))

    def shard_box(self, shard: int) -> Box:
        """Return the voxels that a shard holds."""
        start, stop = self.shards.chunk_box(shard)
        (x, y, z), (cx, cy, cz) = self.scale.box.start, self.scale.chunk
        whole = Box(
            (x + start[0] * cx, y + start[1] * cy, z + start[2] * cz),
            (x + stop[0] * cx, y + stop[1] * cy, z + stop[2] * cz),
        )
        return whole.intersection(self.scale.box)
