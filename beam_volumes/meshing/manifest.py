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

from beam_volumes.errors import CorruptDataError, VolumeError
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


class StoredManifest(NamedTuple):
    """What a manifest says.

    Attributes:
        chunk_shape: the extent of a cell of level 0 in nm, XYZ.
        grid_origin: where positions count from, in nm, XYZ.
        scales: the size of what is seen at each level, in nm.
        vertex_offsets: for each level, nm, XYZ.
        levels: for each level, the positions, uint32, (fragments, XYZ), and the sizes in bytes, uint32.

    """

    chunk_shape: tuple[float, float, float]
    grid_origin: tuple[float, float, float]
    scales: tuple[float, ...]
    vertex_offsets: tuple[tuple[float, float, float], ...]
    levels: tuple[tuple[Numbers, Numbers], ...]


def decode_manifest(data: bytes) -> StoredManifest:
    """Return what a manifest says.

    Raises:
        CorruptDataError: if its length is not what its numbers of levels and fragments make it.

    """
    num_lods = int.from_bytes(data[24:28], "little")
    start = 28 + 20 * num_lods
    counts = np.frombuffer(data[start - 4 * num_lods : start], "<u4").tolist() if len(data) >= start else []
    if len(data) < 28 or len(data) != start + 16 * sum(counts):
        raise CorruptDataError(
            f"expected a manifest of {start + 16 * sum(counts):,} bytes for {num_lods:,} levels of detail and "
            f"{sum(counts):,} fragments, came {len(data):,}: make the mesh anew"
        )
    cx, cy, cz, ox, oy, oz, _ = _HEADER.unpack_from(data)
    reals = np.frombuffer(data, "<f4", 4 * num_lods, 28)
    levels = []
    for count in counts:
        words = np.frombuffer(data, "<u4", 4 * count, start)
        levels.append((words[: 3 * count].reshape(3, count).T, words[3 * count :]))
        start += 16 * count
    offsets = tuple((float(x), float(y), float(z)) for x, y, z in reals[num_lods:].reshape(-1, 3))
    return StoredManifest((cx, cy, cz), (ox, oy, oz), tuple(reals[:num_lods].tolist()), offsets, tuple(levels))
