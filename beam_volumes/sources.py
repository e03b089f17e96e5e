"""Sources: any volume that CloudVolume reads, a proofreading volume's watershed, or a made volume.

A source is looked at once, on the launcher (`describe_source`); workers open it from that description, so that they
fetch no `info` of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from cloudvolume import Bbox, CloudVolume
from cloudvolume.exceptions import EmptyVolumeException, InfoUnavailableError, ScaleUnavailableError

from beam_volumes.codecs import Array
from beam_volumes.errors import OptionError, SourceError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.graphene import GraphInfo
from beam_volumes.precomputed.info import Json
from beam_volumes.precomputed.sharded_scale import ScaleVoxels, ShardedVoxels, find_shard_files
from beam_volumes.precomputed.sharding import ShardingSpec
from beam_volumes.shard_source import Layout, ShardedScale, sharding_of
from beam_volumes.source_checks import check_location, check_readable, format_of, is_on_this_machine
from beam_volumes.storage import join
from beam_volumes.storage.urls import redacted
from beam_volumes.testing.made import open_made

_MADE = "made://"


@dataclass(frozen=True)
class Source:
    """One mip of a volume, as it was found.

    Attributes:
        url: as the user named it.
        voxels_url: where voxels are read; another place than `url` for a proofreading volume.
        box: the volume's voxels at `mip`, in its absolute grid.
        chunk: shape of a stored chunk, voxels; `chunk_origin` is a corner of that grid.
        info: the Precomputed `info` of the volume, or what CloudVolume makes of another format's metadata.
        graph: the chunk graph of a proofreading volume, else None.

    """

    url: str
    voxels_url: str
    mip: int
    box: Box
    resolution_nm: tuple[float, float, float]
    data_type: str
    num_channels: int
    layer_type: str
    chunk: Vec
    chunk_origin: Vec
    info: Json
    graph: GraphInfo | None = None

    @property
    def grain(self) -> tuple[Vec, Vec]:
        """Shape and origin of the smallest boxes worth reading whole: graph chunks, else stored chunks; voxels."""
        return graph_chunks_at(self) if self.graph else (self.chunk, self.chunk_origin)


class Reader(Protocol):
    """Reads voxels."""

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        """Return the XYZC voxels of `box` and the stored chunks that were missing (and read as 0)."""


def describe_source(url: str, mip: int, graph: GraphInfo | None = None, option: str = "src") -> Source:
    """Look at a volume.

    Args:
        url: a location as CloudVolume takes it, or `made://...`; for a proofreading volume its `graphene://` URL.
        mip: which scale.
        graph: what the proofreading server says of `url`.
        option: the option that names it, without its dashes.

    Raises:
        OptionError: there is no such volume or mip, CloudVolume would read it wrongly, or its URL holds a secret.
        SourceError: the volume cannot be read.

    """
    if url.startswith(_MADE):
        return _describe_made(url, mip)
    voxels_url = graph.data_dir if graph else url
    check_location(voxels_url, f"{url}: data_dir of its info" if graph else f"--{option}")
    volume = _open_volume(voxels_url, mip, None, option)
    check_readable(voxels_url, volume, mip)
    scale = volume.scale
    source = Source(
        url=url,
        voxels_url=voxels_url,
        mip=mip,
        box=Box(_vec(volume.bounds.minpt), _vec(volume.bounds.maxpt)),
        resolution_nm=_floats(scale["resolution"]),
        data_type=str(np.dtype(volume.dtype)),
        num_channels=int(volume.num_channels),
        layer_type=str(volume.layer_type),
        chunk=_vec(volume.chunk_size),
        chunk_origin=_vec(volume.voxel_offset),
        info=graph.info if graph else volume.info,
        graph=graph,
    )
    if not source.box.voxels:
        raise OptionError(
            f"--{option}: expected a volume with voxels, came {url} of shape {source.box.shape} at mip {mip}"
        )
    if graph:
        _check_watershed(source)
    return source


def open_reader(source: Source, *, fill_missing: bool) -> Reader:
    """Open a source for reading, in the process that reads it; see `Source` and `Reader`."""
    if source.url.startswith(_MADE):
        return _MadeReader(source)
    if sharding := _sharding_here(source):
        return _open_sharded(source, sharding, fill_missing)
    return _open_remote_shards(source, fill_missing) or _VolumeReader(source, fill_missing)


def graph_chunks_at(source: Source) -> tuple[Vec, Vec]:
    """Return shape and origin of the graph chunks in voxels at the source's mip.

    Raises:
        OptionError: a graph chunk is no whole number of voxels at that mip.

    """
    graph = source.graph
    if graph is None:
        raise ValueError(f"{source.url} has no chunk graph")
    fine = graph.info["scales"][graph.cv_mip]["resolution"]
    sizes = [c * f / r for c, f, r in zip(graph.chunk_size, fine, source.resolution_nm, strict=True)]
    starts = [o * f / r for o, f, r in zip(graph.chunk_origin, fine, source.resolution_nm, strict=True)]
    if not all(float(n).is_integer() and n >= 1 for n in sizes):
        raise OptionError(
            f"--mip: expected a mip at which a graph chunk ({graph.chunk_size} voxels at mip {graph.cv_mip}) is a "
            f"whole number of voxels, came {source.mip}, where it is {sizes}: export a finer mip and downsample it"
        )
    # A chunk grid that starts between two coarse voxels starts, for reading, at the coarse voxel that holds it.
    return _vec(sizes), _vec([np.floor(n) for n in starts])


def is_read_by_chunk(source: Source) -> bool:
    """Whether a stored chunk can be read for as little as its share of a larger box."""
    return _sharding_here(source) is not None


def _sharding_here(source: Source) -> ShardingSpec | None:
    """Return the sharding of a Precomputed volume on this machine's disk; None for any other volume."""
    if source.url.startswith(_MADE) or format_of(source.voxels_url) != "precomputed":
        return None
    return sharding_of(source.info["scales"][source.mip]) if is_on_this_machine(source.voxels_url) else None


def _open_sharded(source: Source, spec: ShardingSpec, fill_missing: bool) -> Reader:
    scale = source.info["scales"][source.mip]
    chunks = Grid(source.box, source.chunk, source.chunk_origin)
    block_size = scale.get("compressed_segmentation_block_size")
    layout = Layout(chunks, scale["encoding"], source.data_type, source.num_channels, block_size)
    folder = join(source.voxels_url.removeprefix("precomputed://"), scale["key"])
    return ShardedScale(folder, spec, layout, fill_missing=fill_missing)


def _open_remote_shards(source: Source, fill_missing: bool) -> Reader | None:
    """Open a sharded Precomputed volume elsewhere; None for any other, or one that only CloudVolume can read."""
    if format_of(source.voxels_url) != "precomputed" or is_on_this_machine(source.voxels_url):
        return None
    scale = source.info["scales"][source.mip]
    files = find_shard_files(source.voxels_url, scale)
    if files is None:
        return None
    voxels = ScaleVoxels(
        named=f"{source.voxels_url}, mip {source.mip}",
        chunks=Grid(source.box, source.chunk, source.chunk_origin),
        encoding=scale["encoding"],
        data_type=source.data_type,
        num_channels=source.num_channels,
        block_size=scale.get("compressed_segmentation_block_size"),
    )
    return ShardedVoxels(files, voxels, fill_missing=fill_missing)


class _VolumeReader:
    """Reads through CloudVolume, with the info that the launcher fetched."""

    def __init__(self, source: Source, fill_missing: bool) -> None:
        self._source = source
        self._fill_missing = fill_missing
        plain = format_of(source.voxels_url) == "precomputed"
        self._volume = _open_volume(source.voxels_url, source.mip, source.info if plain else None)

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        try:
            return self._download(box), []
        except SourceError as error:
            if not (self._fill_missing and isinstance(error.__cause__, EmptyVolumeException)):
                raise
        return self._read_around_holes(box)

    def _read_around_holes(self, box: Box) -> tuple[Array, list[Box]]:
        """Read stored chunk by stored chunk, so that each missing one is known."""
        source, holes = self._source, []
        array = np.zeros((*box.shape, source.num_channels), source.data_type, order="F")
        chunks = Grid(box, source.chunk, source.chunk_origin)
        for position in chunks.positions_meeting(box):
            part = chunks.box(position)
            try:
                array[part.slices(box.start)] = self._download(part)
            except SourceError as error:
                if not isinstance(error.__cause__, EmptyVolumeException):
                    raise
                holes.append(part)
        return array, holes

    def _download(self, box: Box) -> Array:
        source = self._source
        try:
            cutout = self._volume.download(Bbox(box.start, box.stop), mip=source.mip)
        except EmptyVolumeException as error:
            raise SourceError(
                f"{source.voxels_url}, mip {source.mip}: expected every chunk of {box}, but one is missing "
                f"({redacted(str(error))}): restore it, or accept holes with --fill_missing"
            ) from error
        except Exception as error:
            raise SourceError(
                f"{source.voxels_url}, mip {source.mip}, box {box}: cannot read: {redacted(repr(error))}"
            ) from error
        array = np.asarray(cutout)
        expected = (*box.shape, source.num_channels)
        if box.voxels == 1:
            # CloudVolume 12 puts the channels of a single voxel along x.
            array = array.reshape(expected)
        if array.shape != expected:
            raise SourceError(
                f"{source.voxels_url}, mip {source.mip}: expected {expected} for {box}, came {array.shape}"
            )
        return array


class _MadeReader:
    """Reads a volume that is computed, not stored."""

    def __init__(self, source: Source) -> None:
        self._volume = open_made(source.url)

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        return self._volume.read(box), []


def _describe_made(url: str, mip: int) -> Source:
    info = open_made(url).info()
    if not 0 <= mip < len(info["scales"]):
        raise OptionError(f"--mip: expected one of {list(range(len(info['scales'])))}, the mips of {url}, came {mip}")
    scale = info["scales"][mip]
    offset = _vec(scale["voxel_offset"])
    return Source(
        url=url,
        voxels_url=url,
        mip=mip,
        box=Box.of_shape(_vec(scale["size"]), offset),
        resolution_nm=_floats(scale["resolution"]),
        data_type=info["data_type"],
        num_channels=info["num_channels"],
        layer_type=info["type"],
        chunk=_vec(scale["chunk_sizes"][0]),
        chunk_origin=offset,
        info=info,
    )


def _open_volume(url: str, mip: int, info: Json | None, option: str = "src") -> Any:
    """Open with CloudVolume: reads are bounded, uncached, single-process, and fail on what is missing."""
    try:
        volume = CloudVolume(url, mip=0, info=info, bounded=True, fill_missing=False, progress=False, parallel=1)
        mips = list(volume.available_mips)
        if mip in mips:
            volume.mip = mip
            return volume
    except (InfoUnavailableError, ScaleUnavailableError) as error:
        raise OptionError(
            f"--{option}: expected a volume at {url}, but it has no metadata that can be read: {redacted(str(error))}"
        ) from error
    except Exception as error:
        raise SourceError(
            f"--{option}: expected a volume in a form that CloudVolume reads (Precomputed, zarr2:// and zarr3:// as "
            f"OME-Zarr, n5:// with multiscale metadata), but {url} cannot be opened: {redacted(repr(error))}"
        ) from error
    raise OptionError(f"--mip: expected one of {mips}, the mips of {url}, came {mip}")


def _check_watershed(source: Source) -> None:
    if source.data_type != "uint64" or source.num_channels != 1:
        raise SourceError(
            f"{source.voxels_url}: expected a watershed of supervoxels, uint64 in one channel, "
            f"came {source.data_type} in {source.num_channels}"
        )


def _vec(values: Any) -> Vec:
    x, y, z = (int(v) for v in values)
    return (x, y, z)


def _floats(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return (x, y, z)
