"""Volumes read and written by this project's own code, and by CloudVolume where that has to do it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beam_volumes.codecs import COMPRESSIONS, Array
from beam_volumes.errors import DestinationError, OptionError, SourceError
from beam_volumes.geometry import Box, Grid
from beam_volumes.layers.backend import VolumetricBackend
from beam_volumes.layers.chunk_cache import ChunkCache, boxes_of
from beam_volumes.layers.chunk_files import ChunkFiles, ChunkForm
from beam_volumes.layers.graph_reader import GraphReader, checked_timestamp
from beam_volumes.layers.volume import LayerVolume
from beam_volumes.precomputed.info import Json
from beam_volumes.sources import Reader, open_reader
from beam_volumes.storage import is_local, normalize

_COMPRESS = {None: "gzip", True: "gzip", False: "none", "": "none"}
_USED = ("agglomerate", "compress", "delete_black_uploads", "fill_missing", "timestamp")
_WITHOUT_MEANING = (
    "autocrop",
    "bounded",
    "cache",
    "cdn_cache",
    "green_threads",
    "lru_bytes",
    "lru_encoding",
    "non_aligned_writes",
    "parallel",
    "progress",
)
"""What is done here in one way: it changes how CloudVolume works, and no voxel that is read or written."""

_LOCKS = tuple(threading.Lock() for _ in range(64))
"""A chunk that is read, changed and written is locked meanwhile, against the other threads of this process."""


@dataclass(frozen=True)
class AccessOptions:
    """How chunks are read and written; made of CloudVolume's own arguments.

    Attributes:
        fill_missing: chunks that are missing are read as 0.
        delete_black_uploads: chunks of nothing but 0 are not stored, and deleted where they are.
        compress: around encoded chunks: gzip, br or none.
        agglomerate: of a proofreading volume: roots are read, not supervoxels.
        timestamp: of a proofreading volume: UNIX second of the roots.

    """

    fill_missing: bool = True
    delete_black_uploads: bool = False
    compress: str = "gzip"
    agglomerate: bool = True
    timestamp: float | None = None

    @classmethod
    def of_cloudvolume(cls, cv_kwargs: Mapping[str, Any] | None) -> AccessOptions:
        """Return what arguments of CloudVolume ask for.

        Raises:
            OptionError: one of them cannot be obeyed.

        """
        given = dict(cv_kwargs or {})
        unknown = sorted(given.keys() - {*_USED, *_WITHOUT_MEANING})
        if unknown:
            raise OptionError(
                f"cv_kwargs: expected of {', '.join(_USED)}, came {', '.join(unknown)}: leave them out, or use "
                "build_ts_layer"
            )
        found = {name: value for name, value in given.items() if name in _USED}
        if "compress" in found:
            compress = found["compress"]
            found["compress"] = _COMPRESS.get(compress, compress)
            if found["compress"] not in COMPRESSIONS:
                raise OptionError(f"cv_kwargs: expected compress of {', '.join(COMPRESSIONS)}, came {compress!r}")
        return cls(**found)


class _OneAtATime:
    """Lets one thread at a time read with a reader that keeps indices and connections."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._lock = reader, threading.Lock()

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        """Return the XYZC voxels of `box` and the stored chunks that were missing."""
        with self._lock:
            return self._reader.read(box)


class ChunkedBackend(VolumetricBackend):
    """A volume in any format that this project or CloudVolume reads; Precomputed that is not sharded can be written.

    Several threads may use it at once.

    Args:
        volume: the volume.
        unwritten: its `info`, where it is not the one that stands there.
        options: how chunks are read and written.
        cache_bytes_limit: bytes of decoded chunks that each process may keep; what other processes, or other layers,
            write meanwhile is not seen in them. 0 to keep none.

    Attributes:
        missing_chunks: how many have been read as 0, each as often as it was.

    """

    def __init__(
        self,
        volume: LayerVolume,
        unwritten: Json | None = None,
        options: AccessOptions | None = None,
        cache_bytes_limit: int = 0,
    ) -> None:
        super().__init__(volume, unwritten)
        self.options = options or AccessOptions()
        self.cache = ChunkCache(cache_bytes_limit)
        self.missing_chunks = 0
        self._readers: dict[int, Reader] = {}
        if self.name.startswith("graphene://"):
            checked_timestamp(self.options.agglomerate, self.options.timestamp)

    def __getstate__(self) -> dict[str, Any]:
        """Return all but open files."""
        return {**self.__dict__, "_readers": {}}

    def check_writable(self, resolution: Sequence[float]) -> None:
        """Refuse a scale that is sharded, of another format than Precomputed, or cannot be encoded here."""
        mip = self.volume.mip(resolution)
        self._files_to_write(mip, self.volume.grid(mip))
        # Where it is not written whole, a chunk is read before.
        self.volume.source(mip)

    def settle(self, info: Json) -> None:
        """Take `info` as the one that stands there, and open all anew."""
        super().settle(info)
        self._readers = {}
        self.cache.clear()

    def _read(self, mip: int, box: Box) -> Array:
        if not self.cache.limit:
            return self._own(self._found(mip, box))
        grid = self.volume.grid(mip)
        self._fetch(mip, grid, box)
        array = np.empty((*box.shape, self.num_channels), self.data_type, order="F")
        for position in grid.positions_meeting(box):
            chunk = grid.box(position)
            part = chunk.intersection(box)
            kept = self.cache.get((mip, position))
            if kept is None:
                # The box needs more chunks than the cache may hold.
                array[part.slices(box.start)] = self._found(mip, part)
            else:
                array[part.slices(box.start)] = kept[part.slices(chunk.start)]
        return array

    def _fetch(self, mip: int, grid: Grid, box: Box) -> None:
        """Let the cache have the chunks of a box, if they fit it."""
        chunk_bytes = int(np.prod(grid.cell)) * self.num_channels * np.dtype(self.data_type).itemsize
        positions = list(grid.positions_meeting(box))
        if len(positions) * chunk_bytes > self.cache.limit:
            return
        missing = [position for position in positions if self.cache.get((mip, position)) is None]
        for first, stop in boxes_of(missing):
            start = grid.box(first).start
            end = grid.box((stop[0] - 1, stop[1] - 1, stop[2] - 1)).stop
            array = self._found(mip, Box(start, end))
            for position in grid.positions_meeting(Box(start, end)):
                self.cache.put((mip, position), array[grid.box(position).slices(start)])

    def _found(self, mip: int, box: Box) -> Array:
        """Return the XYZC voxels of a box, as they are stored, and count the chunks that are missing."""
        array, holes = self._reader(mip).read(box)
        self.missing_chunks += len(holes)
        return array

    def _write(self, mip: int, box: Box, values: Array) -> None:
        grid = self.volume.grid(mip)
        files = self._files_to_write(mip, grid)
        for position in grid.positions_meeting(box):
            chunk = grid.box(position)
            part = chunk.intersection(box)
            piece = values[part.slices(box.start)]
            with _LOCKS[hash((self.name, mip, position)) % len(_LOCKS)]:
                if part != chunk:
                    whole = self._own(self._stored(mip, chunk))
                    whole[part.slices(chunk.start)] = piece
                    piece = whole
                self.cache.drop((mip, position))
                if self.options.delete_black_uploads and not piece.any():
                    files.delete(position)
                else:
                    files.write(position, piece, self.options.compress)

    def _files_to_write(self, mip: int, grid: Grid) -> ChunkFiles:
        scale = self.volume.scale(mip)
        named = f"{self.name}, scale {scale['key']}"
        if not self.volume.is_precomputed or "sharding" in scale:
            raise DestinationError(
                f"{named}: expected a scale of Precomputed that is not sharded to write to, came another: write to a "
                "new volume, or to shards with build_ts_layer"
            )
        # Elsewhere nothing of this project's own can write.
        normalize(self.name)
        form = ChunkForm.of_scale(self.volume.info, scale, grid)
        if not form.is_written_here:
            raise DestinationError(
                f"{named}: expected an encoding that can be written here, came {form.encoding} (blocks of "
                f"{form.block_size}): write to a volume with another encoding, or use build_ts_layer"
            )
        return ChunkFiles(self.name, scale["key"], form, fill_missing=True)

    def _stored(self, mip: int, chunk: Box) -> Array:
        """Return a whole chunk as it is stored now; 0 where it is missing."""
        reader = self._reader(mip, fill_missing=True)
        try:
            return reader.read(chunk)[0]
        except SourceError as error:
            raise DestinationError(
                f"{error}. It was to be read so that the rest of the chunk is kept: write whole chunks, or restore it"
            ) from error

    def _reader(self, mip: int, *, fill_missing: bool | None = None) -> Reader:
        fills = self.options.fill_missing if fill_missing is None else fill_missing
        key = 2 * mip + fills
        if key not in self._readers:
            self._readers[key] = self._open(mip, fills)
        return self._readers[key]

    def _open(self, mip: int, fill_missing: bool) -> Reader:
        if self.name.startswith("graphene://"):
            timestamp = checked_timestamp(self.options.agglomerate, self.options.timestamp)
            graph = GraphReader(self.name, self.volume.info, mip, timestamp, fill_missing=fill_missing)
            return _OneAtATime(graph)
        source = self.volume.source(mip)
        scale = self.volume.scale(mip)
        if self.volume.is_precomputed and is_local(self.name) and "sharding" not in scale:
            grid = self.volume.grid(mip)
            form = ChunkForm.of_scale(self.volume.info, scale, grid)
            return ChunkFiles(self.name, scale["key"], form, fill_missing=fill_missing)
        return _OneAtATime(open_reader(source, fill_missing=fill_missing))

    def _own(self, array: Array) -> Array:
        """Return an array that may be written to, and that nothing else refers to."""
        return array if array.flags.writeable and array.flags.owndata else np.array(array, order="F")
