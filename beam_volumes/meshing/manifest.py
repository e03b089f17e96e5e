"""Manifests of multi-resolution meshes: which cells hold an object at each level of detail, and how many bytes each.

Format: the section "Multi-resolution mesh manifest file format" of
https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/meshes.md

Neuroglancer walks down from the coarsest level, so that a fragment is only found below a listed one: where a level has
nothing to show in a cell, the cell is listed with a size of 0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes.errors import VolumeError
from beam_volumes.geometry import Vec
from beam_volumes.meshing.mesh_grid import MeshGrid

Numbers = npt.NDArray[np.uint32]

_HEADER = struct.Struct("<6fI")
_LARGEST = 2**32 - 1


class ListedLevel(NamedTuple):
    """One level of detail of an object, in the order of its manifest.

    Attributes:
        positions: uint32, (fragments, XYZ), in cells of this level from the first of the object.
        sizes: uint32, bytes; 0 where there is nothing but fragments of finer levels.
        given: int64, which of the fragments given stands here; -1 where none was given.

    """

    positions: Numbers
    sizes: Numbers
    given: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Manifest:
    """The cells of an object.

    Attributes:
        first_cell: where its positions count from, in cells of level 0 of the grid of the layer, XYZ; cells of all
            levels start there.
        levels: from the finest level of detail on.

    """

    first_cell: Vec
    levels: tuple[ListedLevel, ...]


def list_fragments(lods: Sequence[Sequence[tuple[Vec, int]]]) -> Manifest:
    """Bring the fragments of an object in the order that their bytes must have, too: by level, then in Z-order.

    Args:
        lods: for each level of detail, from the finest on, the position of each fragment in the grid of the layer, in
            cells of that level, and its size in bytes; in any order. Parents of fragments are added where they miss.

    Raises:
        VolumeError: if two fragments are in one cell, there are none, or they are more than the format can hold.

    """
    cells = _with_parents(lods)
    span = 1 << (len(cells) - 1)
    lowest = [min(min(p[axis] for p in level) << lod for lod, level in enumerate(cells) if level) for axis in range(3)]
    first = (lowest[0] // span * span, lowest[1] // span * span, lowest[2] // span * span)
    levels = []
    for lod, level in enumerate(cells):
        positions = np.array(list(level), np.int64).reshape(-1, 3) - np.array(first, np.int64) // 2**lod
        given = np.array(list(level.values()), np.int64)
        sizes = np.array([lods[lod][n][1] if n >= 0 else 0 for n in given.tolist()], np.int64)
        if max(positions.max(initial=0), sizes.max(initial=0)) > _LARGEST:
            raise VolumeError(
                f"expected fragments at positions and of sizes under 2^32, came {positions.max():,} cells from the "
                f"first one and {sizes.max():,} bytes at level {lod}: use larger cells, or a smaller max_fragment_bytes"
            )
        order = _z_order(positions)
        levels.append(ListedLevel(positions[order].astype("<u4"), sizes[order].astype("<u4"), given[order]))
    return Manifest(first, tuple(levels))


def _with_parents(lods: Sequence[Sequence[tuple[Vec, int]]]) -> list[dict[Vec, int]]:
    """Return for each level which fragment each cell has, -1 where it has none but there are some in it."""
    cells: list[dict[Vec, int]] = []
    for lod, fragments in enumerate(lods):
        level = {position: n for n, (position, _) in enumerate(fragments)}
        if len(level) < len(fragments):
            raise VolumeError(
                f"expected one fragment in each cell, came {len(fragments):,} in {len(level):,} cells at level {lod}: "
                "weld what belongs together before encoding it"
            )
        for x, y, z in cells[-1] if cells else ():
            level.setdefault((x >> 1, y >> 1, z >> 1), -1)
        cells.append(level)
    if not any(cells):
        raise VolumeError("expected an object with a fragment, came none: write manifests of objects with meshes only")
    return cells


def _z_order(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order of ascending Morton codes, x in their lowest bits; of positions under 2^32."""
    # Codes of 32 bits on each axis do not fit in a word: two of 16 bits do.
    low, high = (_interleaved(positions >> shift & 0xFFFF) for shift in (0, 16))
    return np.lexsort((low, high))


def _interleaved(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the Morton codes of positions under 2^16."""
    spread = positions
    for shift, mask in ((16, 0xFF0000FF), (8, 0xF00F00F00F), (4, 0xC30C30C30C3), (2, 0x249249249249)):
        spread = (spread | spread << shift) & mask
    return spread[:, 0] | spread[:, 1] << 1 | spread[:, 2] << 2


def lod_scales(grid: MeshGrid, num_lods: int) -> tuple[float, ...]:
    """Return the size of what is seen at each level, in nm: the longest edge of a voxel, doubled at every level."""
    return tuple(max(grid.resolution_nm) * 2**lod for lod in range(num_lods))


def encode_manifest(manifest: Manifest, grid: MeshGrid, scales: Sequence[float]) -> bytes:
    """Return the bytes of a manifest, 28 + 20 * levels + 16 * fragments.

    Args:
        manifest: of `list_fragments`.
        grid: of the layer.
        scales: the size of what is seen at each level, in nm; not falling.

    Raises:
        VolumeError: if the scales are not one for each level, or fall.

    """
    num_lods = len(manifest.levels)
    if len(scales) != num_lods or list(scales) != sorted(scales):
        raise VolumeError(f"expected {num_lods} lod_scales from fine to coarse, came {tuple(scales)}")
    x, y, z = grid.nm(grid.start(0, manifest.first_cell))
    parts = [
        _HEADER.pack(*grid.nm(grid.cell), x, y, z, num_lods),
        np.array(scales, "<f4").tobytes(),
        bytes(12 * num_lods),
        np.array([len(level.sizes) for level in manifest.levels], "<u4").tobytes(),
    ]
    for level in manifest.levels:
        parts += [level.positions.astype("<u4").tobytes(order="F"), level.sizes.astype("<u4").tobytes()]
    return b"".join(parts)
