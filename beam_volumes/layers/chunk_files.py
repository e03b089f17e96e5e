"""The chunks of a scale that is not sharded: one file each, as Precomputed has it.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beam_volumes.codecs import (
    BLOCK_SIZE,
    COMPRESSIONS,
    ENCODINGS,
    Array,
    compress,
    compression_of,
    decode_chunk,
    decompress,
    encode_chunk,
)
from beam_volumes.errors import CorruptDataError, SourceError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.precomputed.info import Json, chunk_name
from beam_volumes.storage import Folder, is_local, join, stored_name
from beam_volumes.storage.urls import redacted

_LEVELS = {"jpeg": "jpeg_quality", "png": "png_level"}


@dataclass(frozen=True)
class ChunkForm:
    """How the chunks of a scale are stored.

    Attributes:
        grid: the chunks, in voxels; each is clipped to the bounds.
        block_size: of compressed_segmentation.
        level: quality of jpeg or level of png; None for the encoder's own.

    """

    grid: Grid
    encoding: str
    data_type: str
    num_channels: int
    block_size: Vec
    level: int | None

    @classmethod
    def of_scale(cls, info: Json, scale: Json, grid: Grid) -> ChunkForm:
        """Return what an `info` and a scale in it say."""
        x, y, z = scale.get("compressed_segmentation_block_size", BLOCK_SIZE)
        level = scale.get(_LEVELS.get(scale["encoding"], ""))
        channels = int(info["num_channels"])
        return cls(grid, scale["encoding"], info["data_type"], channels, (int(x), int(y), int(z)), level)

    @property
    def is_written_here(self) -> bool:
        """Whether chunks of this form can be encoded."""
        is_own_block = self.encoding != "compressed_segmentation" or self.block_size == BLOCK_SIZE
        return self.encoding in ENCODINGS and is_own_block

    def decoded(self, data: bytes, box: Box, where: str) -> Array:
        """Return the XYZC voxels of a chunk, which may be read-only.

        Raises:
            CorruptDataError: the bytes are not those of such a chunk.

        """
        shape = (*box.shape, self.num_channels)
        try:
            array = decode_chunk(data, self.encoding, shape, self.data_type, self.block_size)
        except MemoryError:
            raise
        except Exception as error:
            # Each library has errors of its own.
            raise CorruptDataError(f"{where}: cannot read its {self.encoding}: {redacted(repr(error))}") from error
        array = array[..., np.newaxis] if array.ndim == 3 else array
        if array.shape != shape or not np.can_cast(array.dtype, self.data_type, "safe"):
            expected = f"expected {shape} of {self.data_type}, came {array.shape} of {array.dtype}"
            raise CorruptDataError(f"{where}: {expected}: write the chunk anew, or restore it")
        return np.asarray(array)

    def encoded(self, array: Array, compression: str) -> tuple[bytes, str]:
        """Return the bytes of a chunk (XYZC), and how they are compressed."""
        around = compression_of(self.encoding, compression)
        return compress(encode_chunk(array, self.encoding, self.level), around), around


class ChunkFiles:
    """Reads and writes the chunks of a scale.

    Args:
        url: the volume.
        key: the scale's folder in it.
        form: of the chunks.
        fill_missing: read chunks that are missing as 0.

    """

    def __init__(self, url: str, key: str, form: ChunkForm, *, fill_missing: bool) -> None:
        self._folder, self._key, self._form, self._fill_missing = Folder(url), key, form, fill_missing
        self._last = "gzip"

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        """Return the XYZC voxels of `box`, Fortran order, and the parts that were missing and read as 0.

        Only for a folder on a disk: elsewhere a file's name does not tell how it is compressed.

        Raises:
            SourceError: a chunk is missing or cannot be read.
            CorruptDataError: a chunk is damaged.

        """
        form, holes = self._form, []
        array = np.empty((*box.shape, form.num_channels), form.data_type, order="F")
        for position in form.grid.positions_meeting(box):
            chunk = form.grid.box(position)
            part = chunk.intersection(box)
            found = self._read_file(chunk)
            if found is None:
                self._check_may_lack(chunk)
                holes.append(part)
                array[part.slices(box.start)] = 0
            else:
                array[part.slices(box.start)] = found[part.slices(chunk.start)]
        return array, holes

    def write(self, position: Vec, array: Array, compression: str) -> None:
        """Write a whole chunk, XYZC; what stood there in another compression goes.

        Raises:
            DestinationError: it cannot be written.
            OptionError: the encoding cannot hold these voxels.

        """
        data, around = self._form.encoded(array, compression)
        name = self._name(position)
        self._folder.write_compressed(name, data, around)
        if is_local(self._folder.url):
            self._folder.delete(self._names(name, [other for other in COMPRESSIONS if other != around]))

    def delete(self, position: Vec) -> None:
        """Remove a chunk, so that it is read as 0."""
        self._folder.delete(self._names(self._name(position), COMPRESSIONS))

    def _name(self, position: Vec) -> str:
        return f"{self._key}/{chunk_name(self._form.grid.box(position))}"

    def _names(self, name: str, compressions: tuple[str, ...] | list[str]) -> list[str]:
        return sorted({stored_name(self._folder.url, name, other) for other in compressions})

    def _read_file(self, chunk: Box) -> Array | None:
        name = f"{self._key}/{chunk_name(chunk)}"
        for compression in sorted(COMPRESSIONS, key=lambda one: one != self._last):
            stored = stored_name(self._folder.url, name, compression)
            data = self._folder.read(stored)
            if data is None:
                continue
            self._last = compression
            where = join(self._folder.url, stored)
            try:
                data = decompress(data, compression)
            except CorruptDataError as error:
                raise CorruptDataError(f"{where}: {error}") from error
            return self._form.decoded(data, chunk, where)
        return None

    def _check_may_lack(self, chunk: Box) -> None:
        if not self._fill_missing:
            raise SourceError(
                f"{join(self._folder.url, self._key, chunk_name(chunk))}: expected a chunk, but it is missing: restore "
                "it, or read what is missing as 0 with fill_missing"
            )
