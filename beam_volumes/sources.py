"""Sources: any volume that CloudVolume reads, a proofreading volume's watershed, or a made volume.

A source is looked at once, on the launcher (`describe_source`); workers open it from that description, so that they
fetch no `info` of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from beam_volumes.codecs import Array
from beam_volumes.errors import OptionError, SourceError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.graphene import GraphInfo
from beam_volumes.precomputed.info import Json
from beam_volumes.precomputed.shard_reading import ShardFiles
from beam_volumes.precomputed.sharded_scale import ScaleVoxels, ShardedVoxels, find_shard_files
from beam_volumes.source_checks import check_location, check_readable, format_of, is_on_this_machine
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
    from beam_volumes.volume_reading import open_volume

    volume = open_volume(voxels_url, mip, None, option)
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
    if reader := _open_shards(source, fill_missing):
        return reader
    # CloudVolume takes a second to import: workers that read shards, or made volumes, do without.
    from beam_volumes.volume_reading import VolumeReader

    return VolumeReader(source, fill_missing)


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
    """Whether a stored chunk can be read for as little as its share of a larger box: from shards on this machine."""
    return is_on_this_machine(source.voxels_url) and _find_shards(source) is not None


def _find_shards(source: Source) -> ShardFiles | None:
    """Return the shards of a source; None where only CloudVolume can read it, or it is not sharded."""
    if source.url.startswith(_MADE) or format_of(source.voxels_url) != "precomputed":
        return None
    return find_shard_files(source.voxels_url, source.info["scales"][source.mip])


def _open_shards(source: Source, fill_missing: bool) -> Reader | None:
    files = _find_shards(source)
    if files is None:
        return None
    scale = source.info["scales"][source.mip]
    voxels = ScaleVoxels(
        named=f"{source.voxels_url}, mip {source.mip}",
        chunks=Grid(source.box, source.chunk, source.chunk_origin),
        encoding=scale["encoding"],
        data_type=source.data_type,
        num_channels=source.num_channels,
        block_size=scale.get("compressed_segmentation_block_size"),
    )
    return ShardedVoxels(files, voxels, fill_missing=fill_missing)


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
