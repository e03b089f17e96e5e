"""The voxels of a sharded scale, wherever it is stored.

CloudVolume reads any volume, but looks at its queues of requests every tenth of a second: three times for each box, for
the shard index, the minishard indices and the chunks. That is more than decoding a box takes.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np

from beam_volumes.codecs import Array, decode_chunk
from beam_volumes.errors import CorruptDataError, SourceError, VolumeError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.precomputed.info import Json
from beam_volumes.precomputed.morton import compressed_morton_code
from beam_volumes.precomputed.shard_reading import ShardFiles
from beam_volumes.precomputed.sharding import ShardingSpec
from beam_volumes.segmentation_decoder import decode_into
from beam_volumes.storage import Folder, is_local, join
from beam_volumes.storage.urls import SCHEMES, redacted, split_schemes

_ENCODINGS = (
    "raw",
    "compressed_segmentation",
    "compresso",
    "crackle",
    "png",
    "jpeg",
    "jxl",
    "fpzip",
    "kempressed",
    "zfpc",
)
"""Those that CloudVolume reads; some need a package of their own."""


@dataclass(frozen=True)
class ScaleVoxels:
    """What stands in a scale.

    Attributes:
        named: the volume and its mip, for messages.
        chunks: the stored chunks, in voxels.
        block_size: of compressed_segmentation, else None.

    """

    named: str
    chunks: Grid
    encoding: str
    data_type: str
    num_channels: int
    block_size: Vec | None


def find_shard_files(url: str, scale: Json) -> ShardFiles | None:
    """Return the shard files of a scale of the Precomputed volume at `url`, or None where CloudVolume is to read it.

    That is where the sharding or the encoding is none that is known here, or where this project's own clients cannot
    read the volume's info, which CloudVolume can: it has credentials, aliases of stores and ways to sign in of its own.
    """
    spec = ShardingSpec.from_info(scale.get("sharding"))
    url = url.strip().removeprefix("precomputed://")
    schemes, _ = split_schemes(url)
    if spec is None or scale["encoding"] not in _ENCODINGS or schemes not in ([], *([name] for name in SCHEMES)):
        return None
    key = str(scale["key"])
    if key.startswith("/") or "://" in key or ".." in key.split("/"):
        return None
    return ShardFiles(join(url, key), spec) if _is_readable(Folder(url)) else None


def _is_readable(folder: Folder) -> bool:
    if is_local(folder.url):
        return True
    try:
        return bool(folder.read_range("info", 0, 1))
    except VolumeError:
        # No credentials, none that are accepted, or no client installed.
        return False


class ShardedVoxels:
    """Reads a sharded scale.

    Args:
        files: its shards.
        voxels: its voxels.
        fill_missing: read chunks that are missing as 0.

    """

    def __init__(self, files: ShardFiles, voxels: ScaleVoxels, *, fill_missing: bool) -> None:
        self._files, self._voxels, self._fill_missing = files, voxels, fill_missing

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        """Return the XYZC voxels of `box`, Fortran order, and the parts that were missing and read as 0.

        Raises:
            SourceError: a chunk is missing, or cannot be read, or the box is not in the volume.

        """
        bounds = self._voxels.chunks.bounds
        if not bounds.contains(box):
            raise SourceError(f"{self._voxels.named}: expected a box in {bounds}, came {box}")
        try:
            return self._read(box)
        except SourceError:
            self._files.forget()
            raise

    def _read(self, box: Box) -> tuple[Array, list[Box]]:
        wanted, holes = self._chunks_meeting(box), set[int]()
        array: Array | None = None
        with closing(self._files.read(wanted)) as stored:
            for number, data in stored:
                chunk = wanted[number]
                if data is None:
                    self._check_may_lack(box, number, chunk)
                    holes.add(number)
                    continue
                if array is None:
                    array = self._empty(box)
                self._decode(number, chunk, data, box, array)
        array = self._empty(box) if array is None else array
        # In the order of the grid, not of the files.
        parts = [chunk.intersection(box) for number, chunk in wanted.items() if number in holes]
        for part in parts:
            array[part.slices(box.start)] = 0
        return array, parts

    def _empty(self, box: Box) -> Array:
        """Return room for voxels: every one of them is in a chunk."""
        return np.empty((*box.shape, self._voxels.num_channels), self._voxels.data_type, order="F")

    def _chunks_meeting(self, box: Box) -> dict[int, Box]:
        """Return chunks by id, x fastest; the bits of an axis in an id are the same whatever the other axes."""
        grid = self._voxels.chunks
        codes: dict[tuple[int, int], int] = {}
        found = {}
        for position in grid.positions_meeting(box):
            number = 0
            for axis, at in enumerate(position):
                if (axis, at) not in codes:
                    alone = (at if axis == 0 else 0, at if axis == 1 else 0, at if axis == 2 else 0)
                    codes[axis, at] = compressed_morton_code(alone, grid.shape)
                number |= codes[axis, at]
            found[number] = grid.box(position)
        return found

    def _check_may_lack(self, box: Box, number: int, chunk: Box) -> None:
        if not self._fill_missing:
            raise SourceError(
                f"{self._voxels.named}: expected every chunk of {box}, but one is missing ({chunk} in "
                f"{self._files.path_of(number)}): restore it, or accept holes with --fill_missing"
            )

    def _decode(self, number: int, chunk: Box, data: bytes, box: Box, array: Array) -> None:
        """Write the voxels of a chunk to the array of a box."""
        voxels = self._voxels
        if voxels.encoding != "compressed_segmentation" or voxels.block_size is None:
            part = chunk.intersection(box)
            array[part.slices(box.start)] = self._decoded(number, chunk, data)[part.slices(chunk.start)]
            return
        x, y, z = (a - b for a, b in zip(chunk.start, box.start, strict=True))
        try:
            decode_into(data, array, chunk.shape, (x, y, z), voxels.block_size)
        except (CorruptDataError, ValueError) as error:
            raise self._damaged(number, chunk, str(error)) from error

    def _decoded(self, number: int, chunk: Box, data: bytes) -> Array:
        """Return the XYZC voxels of a chunk."""
        voxels = self._voxels
        shape = (*chunk.shape, voxels.num_channels)
        try:
            decoded = decode_chunk(data, voxels.encoding, shape, voxels.data_type, voxels.block_size)
        except MemoryError:
            raise
        except Exception as error:
            # Each library has errors of its own.
            raise self._damaged(number, chunk, redacted(repr(error))) from error
        if decoded.ndim == 3:
            decoded = decoded[..., np.newaxis]
        if decoded.shape != shape or not np.can_cast(decoded.dtype, voxels.data_type, "safe"):
            expected = f"expected {shape} of {voxels.data_type}, came {decoded.shape} of {decoded.dtype}"
            raise self._damaged(number, chunk, expected)
        return np.asarray(decoded)

    def _damaged(self, number: int, chunk: Box, why: str) -> SourceError:
        path = self._files.path_of(number)
        return SourceError(f"{path}, chunk {chunk}: cannot read its {self._voxels.encoding}: {why}: restore it")
