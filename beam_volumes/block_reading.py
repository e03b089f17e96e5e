"""Reading the blocks of a region, and asking the proofreading server for roots meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import fastremap
import numpy as np
import numpy.typing as npt

from beam_volumes.codecs import Array
from beam_volumes.geometry import Box
from beam_volumes.graphene import RootClient, RootQuestion
from beam_volumes.root_lookup import RootLookup
from beam_volumes.sources import Reader

Block = tuple[Box, Array]
"""Source voxels and their XYZC values."""


class Clock:
    """Adds up seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last lap as spent on `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class RegionReading(NamedTuple):
    """One region to be read, and what takes notes of it.

    Attributes:
        boxes: its blocks, source voxels; together they hold whole graph chunks.
        name: for messages.
        clock: laps "read" and "wait" are counted.
        holes: takes the stored chunks that were missing.

    """

    boxes: Iterable[Box]
    name: str
    clock: Clock
    holes: list[Box]


class RegionReader(Protocol):
    """Reads regions, whatever their voxels become on the way."""

    def read(self, region: RegionReading) -> Iterator[Block]:
        """Yield the blocks of a region in order."""


class BlockReader:
    """Reads blocks as they stand in the source."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self, region: RegionReading) -> Iterator[Block]:
        """Yield the blocks of a region in order."""
        for box in region.boxes:
            voxels, missing = self._reader.read(box)
            region.holes.extend(missing)
            region.clock.lap("read")
            yield box, voxels


class RootReader:
    """Replaces supervoxels by their roots; blocks are read and encoded while answers are on their way.

    Args:
        blocks: reads the supervoxels.
        lookahead_bytes: how much may wait for answers.

    """

    def __init__(self, blocks: BlockReader, client: RootClient, question: RootQuestion, lookahead_bytes: int) -> None:
        self._blocks, self._client = blocks, client
        self._question, self._lookahead_bytes = question, lookahead_bytes

    def read(self, region: RegionReading) -> Iterator[Block]:
        """Yield the blocks of a region in order.

        Raises:
            ServerError: the server failed, answered wrongly, or gave roots younger than the question's timestamp.

        """
        lookup = RootLookup(self._client, self._question, region.name)
        waiting: deque[tuple[Box, Array, npt.NDArray[np.uint64]]] = deque()
        held = 0
        for box, voxels in self._blocks.read(region):
            supervoxels = fastremap.unique(voxels)
            lookup.ask(supervoxels)
            waiting.append((box, voxels, supervoxels))
            held += voxels.nbytes
            region.clock.lap("read")
            # Blocks at an edge are small: one of them may not make room for the next.
            while held > self._lookahead_bytes:
                held -= waiting[0][1].nbytes
                yield _relabel(*waiting.popleft(), lookup, region.clock)
        lookup.send()
        while waiting:
            yield _relabel(*waiting.popleft(), lookup, region.clock)
        self._client.check_ages(*lookup.answered, self._question, region.name)
        region.clock.lap("wait")


def _relabel(box: Box, voxels: Array, supervoxels: npt.NDArray[np.uint64], lookup: RootLookup, clock: Clock) -> Block:
    roots = lookup.answer(supervoxels)
    clock.lap("wait")
    flat: npt.NDArray[np.uint64] = voxels.ravel(order="F").view(np.uint64)
    fastremap.remap_from_array_kv(flat, supervoxels, roots, preserve_missing_labels=False, in_place=True)
    clock.lap("read")
    return box, voxels if np.shares_memory(flat, voxels) else flat.reshape(voxels.shape, order="F")
