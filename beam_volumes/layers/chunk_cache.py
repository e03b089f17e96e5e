"""Decoded chunks that a process keeps, up to a number of bytes: those that were used last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from beam_volumes.codecs import Array
from beam_volumes.geometry import Vec

Key = tuple[int, Vec]
"""The mip, and the position of the chunk in its grid."""


class ChunkCache:
    """Chunks of one volume, at most `limit` bytes; for several threads.

    Pickled, it is empty.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._clear()

    def _clear(self) -> None:
        self._chunks: OrderedDict[Key, Array] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return the limit."""
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin anew."""
        self.limit = state["limit"]
        self._clear()

    @property
    def bytes(self) -> int:
        """The bytes of the chunks that are kept."""
        return self._bytes

    def get(self, key: Key) -> Array | None:
        """Return a chunk, not to be written to, or None where it is not kept."""
        with self._lock:
            found = self._chunks.get(key)
            if found is not None:
                self._chunks.move_to_end(key)
            return found

    def put(self, key: Key, chunk: Array) -> None:
        """Keep a copy of a chunk, unless it is larger than the limit."""
        if chunk.nbytes > self.limit:
            return
        kept = np.array(chunk, order="F")
        with self._lock:
            self._drop(key)
            while self._bytes + kept.nbytes > self.limit:
                self._bytes -= self._chunks.popitem(last=False)[1].nbytes
            self._chunks[key] = kept
            self._bytes += kept.nbytes

    def drop(self, key: Key) -> None:
        """Let go of a chunk, which is going to be written."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._chunks.clear()
            self._bytes = 0

    def _drop(self, key: Key) -> None:
        if (found := self._chunks.pop(key, None)) is not None:
            self._bytes -= found.nbytes


def boxes_of(positions: Iterable[Vec]) -> Iterator[tuple[Vec, Vec]]:
    """Yield boxes (first, and first beyond) that together are exactly these positions; few, where they are solid."""
    boxes = [(position, (position[0] + 1, position[1] + 1, position[2] + 1)) for position in sorted(set(positions))]
    for axis in (2, 1, 0):
        boxes = _joined(boxes, axis)
    yield from boxes


def _joined(boxes: Sequence[tuple[Vec, Vec]], axis: int) -> list[tuple[Vec, Vec]]:
    """Return the boxes with those joined that continue one another along an axis."""

    def others(box: tuple[Vec, Vec]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        start, stop = box
        return tuple(n for i, n in enumerate(start) if i != axis), tuple(n for i, n in enumerate(stop) if i != axis)

    joined: list[tuple[Vec, Vec]] = []
    for box in sorted(boxes, key=lambda box: (others(box), box[0][axis])):
        if joined and others(joined[-1]) == others(box) and joined[-1][1][axis] == box[0][axis]:
            joined[-1] = (joined[-1][0], box[1])
        else:
            joined.append(box)
    return joined
