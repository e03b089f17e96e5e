"""Compressed Morton codes: the ids of chunks in a sharded volume.

Definition: the section "Compressed Morton code" of
https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md

Bits of x, y and z take turns, lowest first, x before y before z; bit i of an axis is left out where the grid is so
small that it is 0 everywhere (2**i >= chunks along the axis).
"""

from __future__ import annotations

from functools import lru_cache

from beam_volumes.geometry import Vec


def bits_per_axis(grid_shape: Vec) -> Vec:
    """Return how many bits a position takes along XYZ, in a grid of this many chunks."""
    x, y, z = grid_shape
    return ((x - 1).bit_length(), (y - 1).bit_length(), (z - 1).bit_length())


@lru_cache(maxsize=64)
def _layout(grid_shape: Vec) -> tuple[tuple[int, int], ...]:
    """Return (axis, bit of the position) for each bit of the code, lowest first."""
    bits = bits_per_axis(grid_shape)
    return tuple((axis, bit) for bit in range(max(bits)) for axis in range(3) if bit < bits[axis])


def compressed_morton_code(position: Vec, grid_shape: Vec) -> int:
    """Return the id of the chunk at `position`, chunks along XYZ from 0."""
    code = 0
    for place, (axis, bit) in enumerate(_layout(grid_shape)):
        code |= (position[axis] >> bit & 1) << place
    return code


def position_of(code: int, grid_shape: Vec) -> Vec:
    """Return the position of the chunk with this id; the inverse of `compressed_morton_code`."""
    position = [0, 0, 0]
    for place, (axis, bit) in enumerate(_layout(grid_shape)):
        position[axis] |= (code >> place & 1) << bit
    return (position[0], position[1], position[2])
