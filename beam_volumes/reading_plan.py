"""How a volume is cut for reading: regions (units of work) and blocks (units of memory).

Pure arithmetic: the same for the same volume, destination and memory target on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Grid, Vec

_MOST_VOXELS = 2**26
"""In a region: seconds of work, so that little is lost with it."""


class _Sizes(NamedTuple):
    """How many regions a small volume is cut into, their fewest voxels, and the most bytes of a block."""

    regions: int
    fewest_voxels: int
    block_bytes: int


_STORED = _Sizes(64, 2**22, 2**26)
"""Regions keep the cores of one machine busy to the end; larger blocks gain nothing, smaller ones cost more calls."""

_LOOKED_UP = _Sizes(16, 2**24, 2**24)
"""A server answers while other blocks of the region are read and encoded: fewer regions, of more blocks."""

_BLOCKS_PER_TARGET = 16
"""At the peak a worker holds a few blocks, and as many again in temporaries of decoding, remapping and encoding."""


@dataclass(frozen=True)
class Lattice:
    """Cells of a shape, whose corners go through `origin`; voxels, XYZ."""

    cell: Vec
    origin: Vec

    @property
    def voxels(self) -> int:
        """Voxels in one cell."""
        return math.prod(self.cell)

    def common(self, other: Lattice) -> Lattice | None:
        """Return the smallest cells made of whole cells of both; None where their corners never meet on an axis."""
        cell, origin = [], []
        for a, p, b, q in zip(self.cell, self.origin, other.cell, other.origin, strict=True):
            meeting = next((p + i * a for i in range(b // math.gcd(a, b)) if (p + i * a - q) % b == 0), None)
            if meeting is None:
                return None
            cell.append(math.lcm(a, b))
            origin.append(meeting)
        return Lattice(_vec(cell), _vec(origin))

    def grown(self, bounds: Box, fits: Callable[[Vec], bool]) -> Lattice:
        """Return cells of as many of these as `fits` and `bounds` allow, near to cubes."""
        cell = self.cell
        while True:
            axes = [a for a in range(3) if cell[a] < bounds.shape[a] and fits(_doubled(cell, a))]
            if not axes:
                return Lattice(cell, self.origin)
            cell = _doubled(cell, min(axes, key=lambda a: (cell[a], -a)))


@dataclass(frozen=True)
class ReadingPlan:
    """The regions of a volume and the blocks of a region, in the destination's voxels."""

    regions: Grid
    block: Lattice

    def blocks(self, region: int) -> Grid:
        """Return the blocks of one region."""
        box = self.regions.box(self.regions.position(region))
        return Grid(box, self.block.cell, self.block.origin)


def plan_reading(
    bounds: Box,
    grain: Lattice,
    stored: Lattice,
    chunks: Sequence[Lattice],
    limits: tuple[int, int],
    *,
    looked_up: bool = False,
) -> ReadingPlan:
    """Cut `bounds` into regions and blocks.

    Regions hold whole cells of `grain`, so that nothing is asked or read twice; where it can be had they hold whole
    destination chunks too, so that no chunk is made of pieces. Blocks do the same for stored chunks.

    Args:
        bounds: the voxels to read.
        grain: graph chunks of a proofreading volume, else the stored chunks.
        stored: the source's stored chunks.
        chunks: the chunks to write, of one mip or several, the finest first; blocks hold those of as many mips as fit.
        limits: bytes of one voxel (all channels), and bytes of memory that one worker may use.
        looked_up: whether a server is asked for the ids of each region.

    Raises:
        OptionError: not even one stored chunk fits the memory.

    """
    voxel_bytes, memory_target = limits
    sizes = _LOOKED_UP if looked_up else _STORED
    most_bytes = sizes.block_bytes if len(chunks) == 1 else _STORED.block_bytes
    block_voxels = min(memory_target // _BLOCKS_PER_TARGET, most_bytes) // voxel_bytes
    block, mips = _of_whole(chunks, stored, block_voxels)
    if block.voxels * voxel_bytes * 4 > memory_target:
        raise OptionError(
            f"--memory_target: expected at least {block.voxels * voxel_bytes * 4:,} bytes, four times the source's "
            f"stored chunk of {block.cell} voxels, came {memory_target:,}: raise it"
        )
    base, _ = _of_whole(chunks[: max(mips, 1)], grain, _MOST_VOXELS)
    wanted = min(max(bounds.voxels // sizes.regions, sizes.fewest_voxels), _MOST_VOXELS)
    region = base.grown(bounds, lambda cell: math.prod(cell) <= wanted)
    whole = Box.of_shape(region.cell, region.origin)
    return ReadingPlan(
        Grid(bounds, region.cell, region.origin), block.grown(whole, lambda cell: math.prod(cell) <= block_voxels)
    )


def _of_whole(lattices: Sequence[Lattice], base: Lattice, most_voxels: int) -> tuple[Lattice, int]:
    """Return cells of whole cells of `base` and of the first of `lattices`, as many as fit, and how many those are.

    Lattices whose corners never meet those of the others are passed over.
    """
    for count in range(len(lattices), 0, -1):
        found = base
        for lattice in lattices[:count]:
            found = found.common(lattice) or found
        if found.voxels <= most_voxels:
            return found, count
    return base, 0


def _doubled(cell: Vec, axis: int) -> Vec:
    x, y, z = (n * 2 if a == axis else n for a, n in enumerate(cell))
    return (x, y, z)


def _vec(values: list[int]) -> Vec:
    x, y, z = values
    return (x, y, z)
