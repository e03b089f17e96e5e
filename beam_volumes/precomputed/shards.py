"""Shard files: a shard index, encoded chunks, and an index for each minishard.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/sharded.md
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import crc32c
import deflate
import numpy as np
import numpy.typing as npt

from beam_volumes.precomputed.sharding import ShardingSpec

_READ_BYTES = 2**22
_GZIP_LEVEL = 9


class ShardSummary(NamedTuple):
    """A shard file: its size, the chunks in it, the crc32c of the whole file."""

    bytes: int
    chunks: int
    crc32c: int


class _Row(NamedTuple):
    """A chunk in a minishard index; `start` counts from the end of the shard index, bytes."""

    chunk: int
    start: int
    length: int


def write_shard(out: BinaryIO, spec: ShardingSpec, chunks: Iterable[tuple[int | None, bytes]]) -> ShardSummary:
    """Write a shard, holding one chunk at a time.

    Args:
        out: a new file, open for writing and reading, that can seek.
        spec: the sharding of the scale.
        chunks: (chunk id, bytes as `spec.data_encoding` says), by ascending id, all of one shard, at least one. Bytes
            without an id stand where they come, and in no index: the fragments of a mesh, before its manifest.

    Raises:
        ValueError: a chunk does not belong here, or not at this place.

    """
    head = np.zeros((1 << spec.minishard_bits, 2), "<u8")
    out.write(bytes(head.nbytes))
    minishards: dict[int, list[_Row]] = {}
    end, last = 0, -1
    shard = None
    for chunk, data in chunks:
        if chunk is None:
            out.write(data)
            end += len(data)
            continue
        shard = spec.shard_number(chunk) if shard is None else shard
        if chunk <= last or spec.shard_number(chunk) != shard:
            raise ValueError(f"expected chunks of shard {shard} by ascending id, came {chunk} after {last}")
        minishards.setdefault(spec.minishard_number(chunk), []).append(_Row(chunk, end, len(data)))
        out.write(data)
        end, last = end + len(data), chunk
    if shard is None:
        raise ValueError("expected at least one chunk, came none")
    for minishard, rows in minishards.items():
        index = _minishard_index(rows, spec.minishard_index_encoding)
        out.write(index)
        head[minishard] = end, end + len(index)
        end += len(index)
    out.seek(0)
    out.write(head.tobytes())
    return ShardSummary(head.nbytes + end, sum(map(len, minishards.values())), _checksum(out))


def _minishard_index(rows: list[_Row], encoding: str) -> bytes:
    """Return three rows of differences: ids, starts (from the end of the chunk before) and lengths."""
    table: npt.NDArray[np.uint64] = np.array(rows, np.uint64)
    ids, starts, lengths = table.T
    ends = starts + lengths
    zero = np.zeros(1, np.uint64)
    differences = [np.diff(ids, prepend=zero), starts - np.concatenate([zero, ends[:-1]]), lengths]
    data = np.stack(differences).astype("<u8").tobytes()
    return bytes(deflate.gzip_compress(data, _GZIP_LEVEL)) if encoding == "gzip" else data


def _checksum(file: BinaryIO) -> int:
    """Return the crc32c of a whole file, which storage services know of each object, too."""
    file.seek(0)
    crc = 0
    while block := file.read(_READ_BYTES):
        crc = crc32c.crc32c(block, crc)
    return int(crc)
