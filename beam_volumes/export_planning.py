"""The steps of planning an export: what its options mean for this source and this destination. Nothing is written."""

from __future__ import annotations

import hashlib
import json
import time
from typing import NamedTuple

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box
from beam_volumes.graphene import (
    GrapheneTable,
    GraphInfo,
    Limits,
    RootClient,
    RootQuestion,
    check_timestamp,
    find_token,
)
from beam_volumes.precomputed.info import Json
from beam_volumes.receipts import check_reported_holes, recorded_holes
from beam_volumes.runs import Claim
from beam_volumes.sources import Source
from beam_volumes.volume_plan import Server


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


def check_holes(claim: Claim, *, fill_missing: bool) -> None:
    """Refuse to do without holes where the run that is resumed, or complete, has accepted some.

    Raises:
        OptionError: so it is.

    """
    check_reported_holes(claim, fill_missing=fill_missing)
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
