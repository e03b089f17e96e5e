"""The ids of a chunk graph, and the cutting of labels into the supervoxels that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fastremap
import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Box, Grid, Vec

Ids = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
"""Chunk positions, shape (n, 3), XYZ."""

LAYER_BITS = 8


@dataclass(frozen=True)
class IdLayout:
    """How a graph over `chunks` chunks (XYZ) of `chunk_size` voxels writes its ids.

    From the highest bit on: 8 bits of layer, then x, y and z of the chunk on that layer, then the segment. Layer 1 is a
    supervoxel and 2 the nodes inside one chunk; each layer above halves the grid, up to one chunk on the root layer.
    Chunk (0, 0, 0) starts at voxel `origin`. Source: PyChunkGraph, `graph/meta.py` and `graph/chunks/utils.py`.
    """

    chunk_size: Vec
    chunks: Vec
    origin: Vec = (0, 0, 0)

    @classmethod
    def of_box(cls, box: Box, chunk_size: Vec, origin: Vec = (0, 0, 0)) -> IdLayout:
        """Return the layout that covers the voxels of `box`, its chunks starting at `origin`.

        Raises:
            ValueError: the box starts before the first chunk.

        """
        if any(s < o for s, o in zip(box.start, origin, strict=True)):
            raise ValueError(f"box {box} starts before the first chunk, at {origin}")
        x, y, z = (-((o - e) // c) for o, e, c in zip(origin, box.stop, chunk_size, strict=True))
        return cls(chunk_size, (x, y, z), origin)

    @cached_property
    def n_layers(self) -> int:
        """The root layer: the first, from 3 on, whose grid is one chunk."""
        return max(3, 2 + (max(self.chunks) - 1).bit_length())

    def chunk_bits(self, layer: int) -> int:
        """Return the bits of each of x, y and z on `layer`: what its grid needs, but 8 at least for supervoxels."""
        needed = max(1, self.n_layers - max(layer, 2))
        return max(8, needed) if layer == 1 else needed

    def segment_bits(self, layer: int) -> int:
        """Return the bits of the segment on `layer`."""
        return 64 - LAYER_BITS - 3 * self.chunk_bits(layer)

    def chunk_ids(self, layer: int, positions: Positions) -> Ids:
        """Return the ids of these chunks of `layer`: node ids whose segment is 0."""
        bits, low = self.chunk_bits(layer), self.segment_bits(layer)
        x, y, z = positions.astype(np.uint64).T
        packed = (x << np.uint64(2 * bits)) | (y << np.uint64(bits)) | z
        ids: Ids = np.uint64(layer << (64 - LAYER_BITS)) | (packed << np.uint64(low))
        return ids

    def positions(self, layer: int, ids: Ids) -> Positions:
        """Return the chunk positions of `ids`, all of `layer`."""
        bits, low = self.chunk_bits(layer), self.segment_bits(layer)
        mask = np.uint64((1 << bits) - 1)
        axes = [(ids >> np.uint64(low + shift * bits)) & mask for shift in (2, 1, 0)]
        return np.stack(axes, axis=-1).astype(np.int64)

    def graph_info(self, mip: int = 0) -> dict[str, Any]:
        """Return the `graph` field of the info file."""
        masks = {str(layer): self.chunk_bits(layer) for layer in range(1, self.n_layers + 1)}
        return {
            "chunk_size": list(self.chunk_size),
            "n_layers": self.n_layers,
            "spatial_bit_masks": masks,
            "n_bits_for_layer_id": LAYER_BITS,
            "cv_mip": mip,
        }


def layers(ids: Ids) -> npt.NDArray[np.int64]:
    """Return the layer of each id; 0 for background."""
    return (ids >> np.uint64(64 - LAYER_BITS)).astype(np.int64)


def cut_into_supervoxels(
    labels: npt.NDArray[np.unsignedinteger[Any]], chunk_size: Vec, offset: Vec = (0, 0, 0), block: Vec = (32, 32, 32)
) -> Ids:
    """Cut labels at the chunks, and at blocks inside them, into supervoxels with ids of layer 1.

    Args:
        labels: XYZ, any unsigned type; 0 is background and stays 0.
        chunk_size: voxels of a graph chunk.
        offset: the first voxel of `labels`, counted from the first voxel of chunk (0, 0, 0).
        block: what a label covers in one block of a chunk is one supervoxel, so that a chunk holds several of one
            label, and edits can cut through a chunk. Blocks are counted from the start of the chunk.

    Returns:
        uint64 XYZ, Fortran order, the shape of `labels`. Same input, same ids.

    """
    x, y, z = labels.shape
    box = Box.of_shape((x, y, z), offset)
    layout = IdLayout.of_box(box, chunk_size)
    grid = Grid(box, chunk_size, (0, 0, 0))
    supervoxels = np.zeros(labels.shape, np.uint64, order="F")
    for index in range(len(grid)):
        cell = grid.position(index)
        part = grid.box(cell)
        corner = grid.whole_box(cell).start
        (base,) = layout.chunk_ids(1, np.array([corner], np.int64) // np.array(chunk_size))
        segments = _segments(labels[part.slices(offset)], part.translated((-corner[0], -corner[1], -corner[2])), block)
        supervoxels[part.slices(offset)] = np.where(segments, base | segments, np.uint64(0))
    return supervoxels


def _segments(labels: npt.NDArray[np.unsignedinteger[Any]], box: Box, block: Vec) -> Ids:
    """Return numbers from 1 of the (label, block) pairs of a chunk; `box` is where `labels` lie in it."""
    small, _ = fastremap.renumber(np.asfortranarray(labels), preserve_zero=True)
    grid = Grid(box, block, (0, 0, 0))
    nx, ny, _ = grid.shape
    x, y, z = (np.arange(s, e) // b - f // b for s, e, b, f in zip(box.start, box.stop, block, grid.first, strict=True))
    cell = x[:, None, None] + nx * (y[None, :, None] + ny * z[None, None, :])
    keys = np.where(small, small.astype(np.uint64) * np.uint64(len(grid)) + cell.astype(np.uint64), np.uint64(0))
    segments, _ = fastremap.renumber(np.asfortranarray(keys), preserve_zero=True)
    return np.asarray(segments, np.uint64)
