"""MurmurHash3 of 64-bit ids, as Precomputed shards them that do not go by place: labels of meshes.

Algorithm: MurmurHash3_x86_128 with seed 0 of the 8 bytes of an id, little endian (Austin Appleby, public domain); the
format takes the first 8 bytes of the hash as a little endian number.
https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/sharded.md
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_C1, _C2, _C3 = np.uint32(0x239B961B), np.uint32(0xAB0E9789), np.uint32(0x38B34AE5)
_LENGTH = np.uint32(8)

Words = npt.NDArray[np.uint32]


def murmurhash3(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the hash of each id."""
    ids = np.atleast_1d(ids).astype(np.uint64)
    with np.errstate(over="ignore"):
        # Eight bytes are less than a block: all of them are the tail, in two of the four words.
        low = (ids & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        high = (ids >> np.uint64(32)).astype(np.uint32)
        h1 = _rotate(low * _C1, 15) * _C2 ^ _LENGTH
        h2 = _rotate(high * _C2, 16) * _C3 ^ _LENGTH
        h3 = h4 = np.full_like(h1, _LENGTH)
        h1 = h1 + h2 + h3 + h4
        h2, h3, h4 = h2 + h1, h3 + h1, h4 + h1
        h1, h2, h3, h4 = map(_mix, (h1, h2, h3, h4))
        h1 = h1 + h2 + h3 + h4
        h2 = h2 + h1
    return h1.astype(np.uint64) | h2.astype(np.uint64) << np.uint64(32)


def _rotate(words: Words, bits: int) -> Words:
    return words << np.uint32(bits) | words >> np.uint32(32 - bits)


def _mix(words: Words) -> Words:
    words = (words ^ words >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    words = (words ^ words >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return words ^ words >> np.uint32(16)
