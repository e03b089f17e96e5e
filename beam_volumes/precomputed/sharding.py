"""Which shard and minishard a chunk belongs to.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/sharded.md

The hash of voxels is the identity, so the lowest bits of a chunk's id (its compressed Morton code) number it within a
minishard (`preshift_bits`), the next ones number the minishard within its shard, the rest the shard. A shard is then a
box of chunks, which is what lets one worker own it. Meshes go by labels, whose MurmurHash spreads them evenly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.precomputed.morton import bits_per_axis, compressed_morton_code, position_of
from beam_volumes.precomputed.murmur import murmurhash3_of

_SHARD_INDEX_ROW_BYTES = 16
_MINISHARD_INDEX_ROW_BYTES = 24

SHARDING_TYPE = "neuroglancer_uint64_sharded_v1"
_MURMUR = "murmurhash3_x86_128"
_TOLD = ("@type", "hash", "preshift_bits", "minishard_bits", "shard_bits")
_ENCODED = ("minishard_index_encoding", "data_encoding")

_MOST_MINISHARD_BITS = 20
"""A shard index of 16 MB, which is read whole."""

_MOST_CHUNK_BITS = 16
"""A shard holds 65,536 chunks at most. Its owner keeps about 750 bytes for each chunk (its pieces, its place in the
index), 50 MB in all, and a reader fetches some 10 KB of indices before a chunk; with small chunks both would go on
growing with the memory target, and there would be too few shards to share the work.
"""

_LABELS_PER_MINISHARD = 64
_LABEL_MINISHARD_BITS = 4


@dataclass(frozen=True)
class ShardingSpec:
    """The sharding of a scale, as it stands in `info`.

    Attributes:
        data_encoding: what is around each encoded chunk: "raw" or "gzip".
        hash: "identity" or "murmurhash3_x86_128".

    """

    preshift_bits: int
    minishard_bits: int
    shard_bits: int
    minishard_index_encoding: str = "gzip"
    data_encoding: str = "gzip"
    hash: str = "identity"

    @classmethod
    def from_info(cls, entry: Any) -> ShardingSpec | None:
        """Return the sharding that the `sharding` entry of a scale tells of; None for one that is not known here.

        Other tools may leave the encodings out, which are then raw.
        """
        if not isinstance(entry, dict) or not set(_TOLD) <= set(entry) <= {*_TOLD, *_ENCODED}:
            return None
        bits = [entry[name] for name in ("preshift_bits", "minishard_bits", "shard_bits")]
        encodings = [entry.get(name, "raw") for name in _ENCODED]
        known = (entry["@type"], entry["hash"]) == (SHARDING_TYPE, "identity") and set(encodings) <= {"raw", "gzip"}
        if not known or not all(type(n) is int and 0 <= n <= 64 for n in bits) or sum(bits[1:]) > 64:
            return None
        return cls(*bits, *encodings) if bits[1] <= _MOST_MINISHARD_BITS else None

    def to_info(self) -> dict[str, Any]:
        """Return the `sharding` entry of a scale, or of a mesh."""
        return {
            "@type": SHARDING_TYPE,
            "hash": self.hash,
            "preshift_bits": self.preshift_bits,
            "minishard_bits": self.minishard_bits,
            "shard_bits": self.shard_bits,
            "minishard_index_encoding": self.minishard_index_encoding,
            "data_encoding": self.data_encoding,
        }

    def minishard_number(self, chunk_id: int) -> int:
        """Return which minishard of its shard a chunk is in."""
        return self._hashed(chunk_id) & ((1 << self.minishard_bits) - 1)

    def shard_number(self, chunk_id: int) -> int:
        """Return which shard a chunk is in; with fewer bits than ids have, several ranges of ids share a shard."""
        return (self._hashed(chunk_id) >> self.minishard_bits) & ((1 << self.shard_bits) - 1)

    def _hashed(self, chunk_id: int) -> int:
        shifted = chunk_id >> self.preshift_bits
        return murmurhash3_of(shifted) if self.hash == _MURMUR else shifted

    def shard_name(self, number: int) -> str:
        """Return a shard's file name: its number in as many hex digits as the largest one needs."""
        return f"{number:0{-(-self.shard_bits // 4)}x}.shard"


def sharding_of_labels(labels: int) -> ShardingSpec:
    """Return the sharding of what there is for each of `labels` labels: some 64 in a minishard, 1,024 in a shard.

    A shard is then written in seconds, and a reader fetches 256 and some 500 bytes of indices before a manifest.
    """
    bits = max(0, (max(labels, 1) - 1) // _LABELS_PER_MINISHARD).bit_length()
    minishard = min(bits, _LABEL_MINISHARD_BITS)
    return ShardingSpec(0, minishard, bits - minishard, "gzip", "gzip", _MURMUR)


def plan_sharding(grid_shape: Vec, chunk_bytes: int, memory_target: int, data_encoding: str) -> ShardingSpec:
    """Return the sharding with the fewest shards whose voxels fit the memory target, of 65,536 chunks at most.

    Within a shard the minishards are as many as make the least to fetch before a chunk: one row of the shard index for
    each minishard, and one minishard index.

    Args:
        grid_shape: chunks along XYZ.
        chunk_bytes: bytes of the voxels of one whole chunk.
        memory_target: bytes of voxels that a shard may hold.
        data_encoding: see `ShardingSpec`.

    Raises:
        OptionError: not even one chunk fits.

    """
    if chunk_bytes > memory_target:
        raise OptionError(
            f"--chunk_size: expected chunks of at most {memory_target:,} bytes of voxels, the --memory_target, came "
            f"{chunk_bytes:,}: make them smaller, or raise --memory_target"
        )
    total = sum(bits_per_axis(grid_shape))
    bits = min(total, _MOST_CHUNK_BITS, (memory_target // chunk_bytes).bit_length() - 1)
    minishard = min(range(bits + 1), key=lambda m: (_bytes_before_a_chunk(m, bits - m), m))
    return ShardingSpec(bits - minishard, minishard, total - bits, "gzip", data_encoding)


def _bytes_before_a_chunk(minishard_bits: int, preshift_bits: int) -> int:
    return (_SHARD_INDEX_ROW_BYTES << minishard_bits) + (_MINISHARD_INDEX_ROW_BYTES << preshift_bits)


@dataclass(frozen=True)
class ShardGrid:
    """The shards of a scale; positions and boxes are in chunks, from 0.

    A shard has a *number*, as in its file name, and an *index*, which counts shards without gaps, x fastest: where the
    grid is not a power of two, some numbers stand for no shard.
    """

    grid_shape: Vec
    spec: ShardingSpec

    @cached_property
    def shard_chunks(self) -> Vec:
        """Chunks along XYZ in a whole shard."""
        x, y, z = position_of((1 << self._low_bits) - 1, self.grid_shape)
        return (x + 1, y + 1, z + 1)

    @cached_property
    def shape(self) -> Vec:
        """Shards along XYZ."""
        x, y, z = (-(-g // s) for g, s in zip(self.grid_shape, self.shard_chunks, strict=True))
        return (x, y, z)

    def __len__(self) -> int:
        """Return how many shards hold a chunk."""
        x, y, z = self.shape
        return x * y * z

    def shard_of(self, chunk_position: Vec) -> int:
        """Return the number of the shard that holds a chunk."""
        return self.spec.shard_number(compressed_morton_code(chunk_position, self.grid_shape))

    def position_of(self, chunk_id: int) -> Vec:
        """Return the position of a chunk."""
        return position_of(chunk_id, self.grid_shape)

    def number(self, index: int) -> int:
        """Return the number of the shard with this index."""
        rest, x = divmod(index, self.shape[0])
        z, y = divmod(rest, self.shape[1])
        sx, sy, sz = self.shard_chunks
        return self.shard_of((x * sx, y * sy, z * sz))

    def index_of(self, number: int) -> int:
        """Return the index of the shard with this number."""
        first = self._first_chunk(number)
        x, y, z = (p // s for p, s in zip(first, self.shard_chunks, strict=True))
        return x + self.shape[0] * (y + self.shape[1] * z)

    def numbers(self) -> Iterator[int]:
        """Yield the number of each shard, by index."""
        return (self.number(i) for i in range(len(self)))

    def chunk_box(self, number: int) -> Box:
        """Return the box of a shard's chunks."""
        whole = Box.of_shape(self.shard_chunks, self._first_chunk(number))
        return whole.intersection(Box.of_shape(self.grid_shape))

    def chunk_count(self, number: int) -> int:
        """Return how many chunks a shard holds."""
        return self.chunk_box(number).voxels

    def chunk_positions(self, number: int) -> Iterator[Vec]:
        """Yield the positions of a shard's chunks, by id."""
        box = self.chunk_box(number)
        x, y, z = (range(a, b) for a, b in zip(box.start, box.stop, strict=True))
        return iter(sorted(itertools.product(x, y, z), key=lambda p: compressed_morton_code(p, self.grid_shape)))

    @property
    def _low_bits(self) -> int:
        return self.spec.preshift_bits + self.spec.minishard_bits

    def _first_chunk(self, number: int) -> Vec:
        return position_of(number << self._low_bits, self.grid_shape)
