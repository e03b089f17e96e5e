"""The steps of planning an export: what its options mean for this source and this destination. Nothing is written."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from beam_volumes.codecs import check_chunk, check_encoding, compression_of, default_encoding
from beam_volumes.downsampling import Downsampler, coarse_box
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.graphene import (
    GrapheneTable,
    GraphInfo,
    Limits,
    RootClient,
    RootQuestion,
    check_timestamp,
    find_token,
)
from beam_volumes.precomputed.info import Json, Scale
from beam_volumes.precomputed.sharding import plan_sharding
from beam_volumes.pyramid import Pyramid, chunk_lattices, plan_pyramid, total_factors
from beam_volumes.reading_plan import Lattice, plan_reading
from beam_volumes.runs import Claim, recorded_holes
from beam_volumes.sources import Source
from beam_volumes.targets import Target
from beam_volumes.volume_plan import Server

_COORDINATES = 2**31
"""CloudVolume keeps positions in int32."""


class Proofreading(NamedTuple):
    """What the server of a proofreading volume says; `server` is None where supervoxels are exported as they are."""

    graph: GraphInfo
    server: Server | None
    warnings: list[str]


def ask_server(
    url: str, question: tuple[int | None, int | None] | None, token_env: str | None, limits: Limits
) -> Proofreading:
    """Ask the server of a proofreading volume for its info: the one time in an export.

    Args:
        url: the proofreading volume.
        question: timestamp and stop layer; None to export supervoxels.
        token_env: where the token is found.
        limits: one worker's share.

    Raises:
        OptionError: the timestamp is missing, in the future or from before the graph, or there is no such layer.
        ServerError: the server does not answer, or wants a token.

    """
    table = GrapheneTable.parse(url)
    with RootClient(table, find_token(table, token_env), limits) as client:
        graph = client.get_info()
        if question is None:
            return Proofreading(graph, None, [])
        timestamp, stop_layer = question
        if stop_layer is not None and stop_layer >= graph.n_layers:
            raise OptionError(
                f"--stop_layer: expected 2 to {graph.n_layers - 1}, the layers under the roots of this graph, came "
                f"{stop_layer}; roots are had without --stop_layer"
            )
        warnings = check_timestamp(client.oldest_timestamp(), timestamp, time.time())
        assert timestamp is not None, "check_timestamp refuses it"
        root_question = RootQuestion(timestamp=timestamp, stop_layer=stop_layer, n_layers=graph.n_layers)
        server = Server(table, root_question, token_env, limits)
    return Proofreading(graph, server, warnings)


def share_of_limits(max_requests_in_flight: int, max_ids_per_second: int | None, workers: int | None) -> Limits:
    """Return what one of `workers` worker processes may ask of the server.

    Raises:
        OptionError: it is not known how many there will be, or there are more of them than the server may be asked by.

    """
    if workers is None:
        raise OptionError(
            "--max_num_workers: expected the most workers that the job may have, came none: "
            "the limits of the proofreading server are shared among them"
        )
    limits = Limits(max_requests_in_flight=max_requests_in_flight, max_ids_per_second=max_ids_per_second)
    return limits.share(workers)


def bounds_in(source: Source, bounds: Box | None) -> Box:
    """Return the source voxels to export.

    Raises:
        OptionError: they are not all in the source.

    """
    if bounds is None:
        return source.box
    if not bounds.voxels:
        raise OptionError(f"--bounds: expected x0,y0,z0,x1,y1,z1 with each start below its stop, came {bounds}")
    if not source.box.contains(bounds):
        part = bounds.intersection(source.box)
        raise OptionError(
            f"--bounds: expected voxels of {source.url} at mip {source.mip}, which has {source.box}, came {bounds}: "
            f"{f'the part of it that is there is {part}' if part.voxels else 'nothing of it is there'}"
        )
    return bounds


def plan_scale(source: Source, box: Box, chunk: Vec, encoding: str | None) -> Scale:
    """Return the scale to write, not yet sharded; `box` in destination voxels.

    Raises:
        OptionError: the encoding does not fit the voxels, or the chunks.

    """
    if max(abs(n) for n in (*box.start, *box.stop)) >= _COORDINATES:
        raise OptionError(
            f"--translate: expected a volume within {-_COORDINATES} and {_COORDINATES} voxels along each axis, which "
            f"readers can open, came {box}"
        )
    kind = (source.layer_type, source.data_type, source.num_channels)
    encoding = encoding or default_encoding(*kind)
    scale = Scale(source.resolution_nm, box, chunk, encoding, source.data_type, source.num_channels, None)
    _check_encoding(scale, source.layer_type)
    return scale


def chunk_bytes(scale: Scale) -> int:
    """Return the bytes of the voxels of one whole chunk."""
    return math.prod(scale.chunk) * _voxel_bytes(scale)


def coarser_scales(base: Scale, factors: Sequence[Vec], layer_type: str, encodings: Sequence[str]) -> list[Scale]:
    """Return the scales of the mips above `base`, not yet sharded, with chunks of its shape.

    Args:
        base: mip 0.
        factors: of each mip from the one before it.
        layer_type: "image" or "segmentation".
        encodings: of each mip.

    Raises:
        OptionError: an encoding does not fit the voxels, or the chunks.

    """
    scales = []
    for total, encoding in zip(total_factors(factors)[1:], encodings, strict=True):
        box = coarse_box(base.box, total)
        x, y, z = (r * f for r, f in zip(base.resolution_nm, total, strict=True))
        scale = replace(base, resolution_nm=(x, y, z), box=box, encoding=encoding)
        _check_encoding(scale, layer_type)
        scales.append(scale)
    return scales


def plan_pyramid_of(
    source: Source,
    scales: Sequence[Scale],
    factors: tuple[Vec, ...],
    downsampler: Downsampler,
    memory_target: int,
    translate: Vec = (0, 0, 0),
    base_written: bool = True,
) -> Pyramid:
    """Return how the source is cut for reading, and its mips are made; see `plan_reading` and `plan_pyramid`.

    Args:
        source: what is read.
        scales: of all mips, in destination voxels; the first is that of the voxels that are read.
        factors: of each mip from the one before it.
        downsampler: makes the mips.
        memory_target: bytes that one worker may use.
        translate: destination minus source, voxels.
        base_written: whether the first of `scales` is written, too.

    Raises:
        OptionError: a stored chunk, or one of the chunks to write, does not fit the memory.

    """
    base, (grain, grain_origin) = scales[0], source.grain
    chunks = chunk_lattices(scales, total_factors(factors))
    reading = plan_reading(
        base.box,
        Lattice(grain, _sum(grain_origin, translate)),
        Lattice(source.chunk, _sum(source.chunk_origin, translate)),
        chunks if base_written else chunks[1:],
        (_voxel_bytes(base), memory_target),
        looked_up=source.graph is not None,
    )
    return plan_pyramid(downsampler, reading, scales, factors, memory_target)


def plan_target(url: str, scale: Scale, compress: str, *, sharded: bool, memory_target: int, mip: int = 0) -> Target:
    """Return the scale to write, the destination's mip `mip`, with the shards that own its chunks.

    Raises:
        OptionError: a chunk does not fit the memory.

    """
    data_encoding = "gzip" if compression_of(scale.encoding, compress) == "gzip" else "raw"
    ownership = plan_sharding(scale.chunks.shape, chunk_bytes(scale), memory_target, data_encoding)
    return Target(url, mip, replace(scale, sharding=ownership if sharded else None), compress, ownership)


def check_holes(claim: Claim, *, fill_missing: bool) -> None:
    """Refuse to go on without holes where the run that is resumed has accepted some.

    Raises:
        OptionError: so it is.

    """
    if claim.state != "resumed" or fill_missing:
        return
    if holes := recorded_holes(claim):
        raise OptionError(
            f"--fill_missing: expected it, because the run that is resumed has read {len(holes)} missing chunks as 0 "
            f"({holes[0]} and others): give it, or begin anew with --resume=false"
        )


def source_version(source: Source) -> str:
    """Return a hash that changes when the source is another volume: elsewhere, of another shape, or stored otherwise.

    It covers the locations, the shape, and what `info` says of the voxels of this mip (encoding, sharding, folder). It
    does not cover the voxels: one that changes in place keeps its version. Nor does it cover other mips, meshes and
    the like, which may be added to a source while it is exported.
    """
    facts: Json = {
        "url": source.url,
        "voxels": source.voxels_url,
        "box": source.box,
        "resolution": source.resolution_nm,
        "data_type": source.data_type,
        "num_channels": source.num_channels,
        "chunk": source.chunk,
        "type": source.layer_type,
        "scale": source.info.get("scales", [])[source.mip : source.mip + 1],
    }
    # Of other formats CloudVolume makes an info in which numbers may be numpy's.
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _check_encoding(scale: Scale, layer_type: str) -> None:
    check_encoding(scale.encoding, layer_type, scale.data_type, scale.num_channels)
    check_chunk(scale.encoding, _least(scale.chunk, scale.box.shape))


def _sum(a: Vec, b: Vec) -> Vec:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _least(a: Vec, b: Vec) -> Vec:
    return (min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2]))


def _voxel_bytes(scale: Scale) -> int:
    return np.dtype(scale.data_type).itemsize * scale.num_channels
