"""What a process keeps from one region of a source to the next: the open volume, and connections to the server."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from beam_volumes.block_reading import BlockReader, RegionReader, RootReader
from beam_volumes.graphene import RootClient, find_token
from beam_volumes.runs import Claim
from beam_volumes.sources import Source, open_reader
from beam_volumes.volume_plan import Server


class ReadingRun(Protocol):
    """What must be known of a run to read its source."""

    @property
    def claim(self) -> Claim:
        """Whose run it is."""

    @property
    def source(self) -> Source:
        """The volume."""

    @property
    def server(self) -> Server | None:
        """Who is asked for roots; None where voxels are taken as they are."""

    @property
    def fill_missing(self) -> bool:
        """Whether missing chunks are read as 0."""

    @property
    def lookahead_bytes(self) -> int:
        """How many bytes of voxels may wait for the server."""


class SourceWorker:
    """An open source."""

    def __init__(self, run: ReadingRun) -> None:
        blocks = BlockReader(open_reader(run.source, fill_missing=run.fill_missing))
        self._client: RootClient | None = None
        self.reader: RegionReader = blocks
        if server := run.server:
            token = find_token(server.table, server.token_env)
            self._client = RootClient(server.table, token, server.limits)
            self.reader = RootReader(blocks, self._client, server.question, run.lookahead_bytes)

    def close(self) -> None:
        """Hang up."""
        if self._client:
            self._client.close()

    def server_counts(self) -> tuple[int, int, int]:
        """Ids asked for, requests and retries so far."""
        if not self._client:
            return 0, 0, 0
        statistics = self._client.statistics
        return statistics.ids, statistics.requests, statistics.retries


_WORKERS: dict[Hashable, SourceWorker] = {}


def worker_of(run: ReadingRun) -> SourceWorker:
    """Return this process's open source for a run; the one of an earlier run is let go."""
    key = (run.claim.key, run.server, run.lookahead_bytes)
    if key not in _WORKERS:
        let_go()
        _WORKERS[key] = SourceWorker(run)
    return _WORKERS[key]


def let_go() -> None:
    """Close what this process has open: it may be what failed."""
    while _WORKERS:
        _WORKERS.popitem()[1].close()
