"""IntMap: a map from uint64 to uint64 that is searched where it lies, as the package mapbuffer reads it.

A file is the header `b"intm"`, the version of the format (uint8, 0), the type (uint8, 3 for uint64), the number of
entries (`<u4`); then key and value (`<u8` each) of every entry, in Eytzinger order: level by level of a complete binary
search tree. The format is that of https://github.com/seung-lab/mapbuffer (class IntMap, BSD 3-clause).
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_HEADER = struct.Struct("<4sBBI")
_ENTRY_BYTES = 16

MOST_ENTRIES = 2**32 - 1
"""The header has 4 bytes for their number."""


def file_bytes(entries: int) -> int:
    """Return the size of an IntMap."""
    return _HEADER.size + _ENTRY_BYTES * entries


class IntMapWriter:
    """Writes an IntMap of `entries` entries, which come in the order of their keys, to a file that can seek.

    Memory: that of the entries in hand. Each level of the tree is a stream of its own, so of `n` entries at a time some
    32 pieces are written.
    """

    def __init__(self, file: BinaryIO, entries: int) -> None:
        if not 0 <= entries <= MOST_ENTRIES:
            raise ValueError(f"expected 0 to {MOST_ENTRIES:,} entries, came {entries:,}")
        self._file, self._entries = file, entries
        self._written = 0
        file.write(_HEADER.pack(b"intm", 0, 3, entries))

    def write(self, entries: npt.NDArray[Any]) -> None:
        """Write the next entries: (n, 2), key and value, uint64."""
        ranks = np.arange(self._written, self._written + len(entries), dtype=np.uint64)
        places = eytzinger_places(ranks, self._entries)
        levels = np.frexp((places + np.uint64(1)).astype(np.float64))[1]
        for level in np.unique(levels):
            # Within a level places follow on each other as keys do.
            own = np.flatnonzero(levels == level)
            self._file.seek(file_bytes(int(places[own[0]])))
            self._file.write(np.ascontiguousarray(entries[own], dtype="<u8").tobytes())
        self._written += len(entries)

    def finish(self) -> None:
        """Make sure that all entries have come."""
        if self._written != self._entries:
            raise ValueError(f"expected {self._entries:,} entries, came {self._written:,}")


def eytzinger_places(ranks: npt.NDArray[np.uint64], entries: int) -> npt.NDArray[np.uint64]:
    """Return where entries stand, from 0, whose keys have these ranks among `entries` keys.

    In a full tree with H levels the node of rank r, from 1, is on level H - 1 - z, where z counts the zeros at the end
    of r in binary, and is the (r >> (z + 1))-th of its level. The last level may be filled from the left only: from the
    first missing leaf on every second rank of the full tree is left out.
    """
    if not entries:
        return ranks
    levels = entries.bit_length()
    leaves = np.uint64(entries - (2 ** (levels - 1) - 1))
    one = np.uint64(1)
    full = np.where(ranks < 2 * leaves, ranks, 2 * ranks - 2 * leaves + one) + one
    lowest = full & (~full + one)
    zeros = (np.frexp(lowest.astype(np.float64))[1] - 1).astype(np.uint64)
    return (one << (np.uint64(levels - 1) - zeros)) + (full >> (zeros + one)) - one
