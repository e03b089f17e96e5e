"""Reading a proofreading volume: the root that each voxel had at a moment, or its supervoxel."""

from __future__ import annotations

import time
import weakref

from beam_volumes.block_reading import BlockReader, Clock, RegionReading, RootReader
from beam_volumes.codecs import Array
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
from beam_volumes.sources import describe_source, open_reader

_LIMITS = Limits(max_requests_in_flight=4)
"""Of each process: how many there are is not known here."""


def read_graph_info(url: str) -> Json:
    """Return what the proofreading server says of a volume at `graphene://`.

    Raises:
        OptionError: the URL is none of such a volume.
        ServerError: the server does not answer, or wants a token.

    """
    table = GrapheneTable.parse(url)
    with RootClient(table, find_token(table, None), _LIMITS) as client:
        return client.get_info().info


class GraphReader:
    """Reads a volume at `graphene://`; the token is found where CloudVolume keeps it.

    Args:
        url: the volume.
        info: what its server says of it.
        mip: which scale.
        timestamp: UNIX second of the roots; None for supervoxels.
        fill_missing: read chunks that are missing as 0.

    Raises:
        OptionError: there is no such scale, or the timestamp is in the future or from before the graph.
        ServerError: the server does not answer, or wants a token.

    """

    def __init__(self, url: str, info: Json, mip: int, timestamp: int | None, *, fill_missing: bool) -> None:
        graph = GraphInfo.from_info(info, url)
        self._name = f"{url}, mip {mip}"
        source = describe_source(url, mip, graph, option="path")
        supervoxels = BlockReader(open_reader(source, fill_missing=fill_missing))
        self._reader: BlockReader | RootReader = supervoxels
        if timestamp is not None:
            table = GrapheneTable.parse(url)
            client = RootClient(table, find_token(table, None), _LIMITS)
            weakref.finalize(self, client.close)
            check_timestamp(client.oldest_timestamp(), timestamp, time.time())
            question = RootQuestion(timestamp, None, graph.n_layers)
            # One block is asked for at a time: nothing waits for more than its own answer.
            self._reader = RootReader(supervoxels, client, question, lookahead_bytes=1 << 62)

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        """Return the XYZC voxels of `box`, uint64, and the stored chunks that were missing (and read as 0).

        Raises:
            SourceError: the supervoxels cannot be read.
            ServerError: the server does not answer, or answers wrongly.

        """
        holes: list[Box] = []
        region = RegionReading([box], f"{self._name}, box {box}", Clock(), holes)
        ((_, voxels),) = self._reader.read(region)
        return voxels, holes


def checked_timestamp(agglomerate: bool, timestamp: float | None) -> int | None:
    """Return the timestamp of the roots that are to be read, None for supervoxels.

    Raises:
        OptionError: roots are wanted, and of no whole second: of now, they would be others in each process.

    """
    if not agglomerate:
        return None
    if timestamp is None or int(timestamp) != timestamp:
        raise OptionError(
            f"cv_kwargs: expected a timestamp, in whole UNIX seconds, for the roots of a proofreading volume, came "
            f"{timestamp!r}: give one, or read supervoxels with agglomerate=False"
        )
    return int(timestamp)
