"""Reading a sharded scale on this machine's disk, chunk by chunk.

CloudVolume reads any volume, but asks for a shard's index, minishards and chunks through queues of threads that it
looks at every tenth of a second: 0.2 s in which nothing happens for each box, more than what decoding a box takes. From
a disk there is nothing to wait for.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/sharded.md
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from cloudvolume import chunks as cloudvolume_chunks

from beam_volumes.codecs import ENCODINGS, Array, decompress
from beam_volumes.errors import CorruptDataError, SourceError, VolumeError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.precomputed.info import Json
from beam_volumes.precomputed.morton import compressed_morton_code
from beam_volumes.precomputed.sharding import ShardingSpec
from beam_volumes.storage import Folder

_INDICES = 256
"""Minishard indices that are kept: of 65,536 chunks in a shard they hold some 10 KB each."""

_ROW = 8


class Layout(NamedTuple):
    """The chunks of a scale: their grid in voxels, encoding, and type of voxels in how many channels."""

    chunks: Grid
    encoding: str
    data_type: str
    num_channels: int
    block_size: Vec | None


def sharding_of(scale: Json) -> ShardingSpec | None:
    """Return the sharding of a scale of `info`, where this module can read it; None where CloudVolume is to."""
    found: Any = scale.get("sharding")
    if not found or found.get("hash") != "identity" or scale["encoding"] not in ENCODINGS:
        return None
    spec = ShardingSpec(
        int(found["preshift_bits"]),
        int(found["minishard_bits"]),
        int(found["shard_bits"]),
        found.get("minishard_index_encoding", "raw"),
        found.get("data_encoding", "raw"),
    )
    return spec if {spec.minishard_index_encoding, spec.data_encoding} <= {"raw", "gzip"} else None


class ShardedScale:
    """The chunks of a sharded scale.

    Args:
        url: the scale's folder.
        spec: see `sharding_of`.
        layout: of the voxels.
        fill_missing: read chunks that are missing as 0.

    """

    def __init__(self, url: str, spec: ShardingSpec, layout: Layout, *, fill_missing: bool) -> None:
        self._folder, self._spec, self._layout = Folder(url), spec, layout
        self._fill_missing = fill_missing
        self._indices: OrderedDict[tuple[int, int], _Index | None] = OrderedDict()

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        """Return the XYZC voxels of `box`, Fortran order, and the parts that were missing and read as 0.

        Raises:
            SourceError: a chunk is missing, or cannot be read.

        """
        layout, holes = self._layout, list[Box]()
        whole: Array | None = None
        for position in layout.chunks.positions_meeting(box):
            chunk = layout.chunks.box(position)
            part = chunk.intersection(box)
            voxels = self._chunk(position, chunk)
            if voxels is None:
                self._check_may_lack(box, chunk)
                holes.append(part)
            elif part == box:
                # Decoded voxels may be the file's bytes, which cannot be written to.
                return np.require(voxels[box.slices(chunk.start)], requirements=["F", "W"]), holes
            if whole is None:
                # Every voxel is in a chunk; those of missing ones are 0.
                whole = np.zeros((*box.shape, layout.num_channels), layout.data_type, order="F")
            if voxels is not None:
                whole[part.slices(box.start)] = voxels[part.slices(chunk.start)]
        assert whole is not None, "boxes lie in the volume, and have voxels"
        return whole, holes

    def _check_may_lack(self, box: Box, chunk: Box) -> None:
        if not self._fill_missing:
            raise SourceError(
                f"{self._folder.url}: expected every chunk of {box}, but one is missing ({chunk}): restore it, or "
                "accept holes with --fill_missing"
            )

    def _chunk(self, position: Vec, box: Box) -> Array | None:
        layout = self._layout
        number = compressed_morton_code(position, layout.chunks.shape)
        try:
            data = self._bytes(number)
            if data is None:
                return None
            shape = (*box.shape, layout.num_channels)
            voxels: Array = cloudvolume_chunks.decode(
                data, layout.encoding, shape=shape, dtype=layout.data_type, block_size=layout.block_size
            )
            return voxels.reshape(shape, order="F")
        except VolumeError:
            raise
        except Exception as error:
            raise SourceError(f"{self._folder.url}, chunk {box}: cannot read: {error!r}") from error

    def _bytes(self, number: int) -> bytes | None:
        """Return the encoded bytes of a chunk, or None where there is no such chunk."""
        spec = self._spec
        name = spec.shard_name(spec.shard_number(number))
        index = self._index(spec.shard_number(number), spec.minishard_number(number))
        if index is None:
            return None
        row = int(np.searchsorted(index.ids, np.uint64(number)))
        if row == len(index.ids) or index.ids[row] != number:
            return None
        data = self._range(name, int(index.starts[row]), int(index.lengths[row]))
        # No bytes are no chunk, as CloudVolume has it.
        return (self._decoded(name, data, spec.data_encoding) if data else None) or None

    def _index(self, shard: int, minishard: int) -> _Index | None:
        key = (shard, minishard)
        if key not in self._indices:
            self._indices[key] = self._read_index(shard, minishard)
            if len(self._indices) > _INDICES:
                self._indices.popitem(last=False)
        self._indices.move_to_end(key)
        return self._indices[key]

    def _read_index(self, shard: int, minishard: int) -> _Index | None:
        spec, name = self._spec, self._spec.shard_name(shard)
        head = self._folder.read_range(name, minishard * 2 * _ROW, 2 * _ROW)
        if head is None:
            return None
        if len(head) != 2 * _ROW:
            raise self._truncated(name, minishard * 2 * _ROW, 2 * _ROW)
        start, stop = np.frombuffer(head, "<u8").tolist()
        if start == stop:
            return None
        base = 2 * _ROW << spec.minishard_bits
        data = self._decoded(name, self._range(name, base + start, stop - start), spec.minishard_index_encoding)
        ids, gaps, lengths = np.frombuffer(data, "<u8").reshape(3, -1)
        starts = np.cumsum(gaps + np.concatenate([np.zeros(1, np.uint64), lengths[:-1]])) + np.uint64(base)
        return _Index(np.cumsum(ids), starts, lengths)

    def _range(self, name: str, start: int, length: int) -> bytes:
        data = self._folder.read_range(name, start, length)
        if data is None or len(data) != length:
            raise self._truncated(name, start, length)
        return data

    def _decoded(self, name: str, data: bytes, encoding: str) -> bytes:
        try:
            return decompress(data, encoding)
        except CorruptDataError as error:
            raise CorruptDataError(f"{self._folder.url}/{name}: {error}: restore the shard") from error

    def _truncated(self, name: str, start: int, length: int) -> CorruptDataError:
        return CorruptDataError(
            f"{self._folder.url}/{name}: expected {length} bytes at {start}, came fewer: the shard is truncated; "
            "restore it"
        )


class _Index(NamedTuple):
    """A minishard's chunks: ids, ascending, and where their bytes stand in the shard file."""

    ids: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint64]
