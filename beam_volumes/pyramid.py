"""How the coarser mips of a volume are made in one pass: levels of cells, each from the tiles of the level below.

Level 0 are the blocks that are read: each makes as many mips as its size allows, and hands the last of them up as a
tile. A cell of level 1 joins the tiles that lie in it, makes the next mips, hands its last one up, and so on to the
top; no one ever holds more than a block, or a cell's tiles.

Pure arithmetic: the same for the same volume and memory target on every machine. Mips are counted from the one that is
read, which is 0; boxes and cells are in voxels of mip 0, in the absolute grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from beam_volumes.downsampling import Downsampler, coarse_box
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Grid, Vec, product, shape_text
from beam_volumes.precomputed.info import Scale
from beam_volumes.reading_plan import Lattice, ReadingPlan

_CELLS_PER_TARGET = 16
"""A worker holds the joined tiles of a cell, its coarser mips (at most as much again), and what is encoded of them."""

_LEAST_CELLS_PER_TARGET = 4
"""Where a cell of one chunk of the next mip is larger than planned, so much of the memory may be taken by it."""


class CellKey(NamedTuple):
    """A cell: which level, from 1, and its index there."""

    level: int
    cell: int


@dataclass(frozen=True)
class Level:
    """Cells that take tiles of mip `first` and make the mips after it, up to `last`."""

    cells: Grid
    first: int
    last: int


@dataclass(frozen=True)
class Pyramid:
    """The mips to make, and the levels at which they are.

    Attributes:
        reading: the blocks, which are level 0.
        factors: of each mip from the one before it, the first is that of mip 1.
        block_mips: the last mip that a block makes.
        levels: from level 1 on.

    """

    downsampler: Downsampler
    reading: ReadingPlan
    factors: tuple[Vec, ...] = ()
    block_mips: int = 0
    levels: tuple[Level, ...] = ()

    @cached_property
    def totals(self) -> tuple[Vec, ...]:
        """The factor from mip 0 to each mip, which is (1, 1, 1) for mip 0 itself."""
        return total_factors(self.factors)

    def mips_of(self, level: int) -> tuple[int, int]:
        """Return the mip that a level starts from, and the last one that it makes."""
        return (self.levels[level - 1].first, self.levels[level - 1].last) if level else (0, self.block_mips)

    def cell_box(self, key: CellKey) -> Box:
        """Return the voxels of mip 0 that a cell covers."""
        cells = self.levels[key.level - 1].cells
        return cells.box(cells.position(key.cell))

    def cell_bytes(self, num_channels: int) -> int:
        """Return the most bytes that the joined tiles of a cell take; 0 where there are no cells."""
        return max((self._cell_bytes(level.first, level.cells.cell, num_channels) for level in self.levels), default=0)

    def _cell_bytes(self, first: int, cell: Vec, num_channels: int) -> int:
        total, bounds = self.totals[first], self.reading.regions.bounds
        axes = zip(cell, bounds.shape, total, strict=True)
        return math.prod(-(-min(c, b) // f) for c, b, f in axes) * num_channels * self.downsampler.state_bytes(total)

    def parents(self, level: int, box: Box) -> Iterator[CellKey]:
        """Yield the cells of the level above `level` that share voxels with `box`; none above the top."""
        if level < len(self.levels):
            cells = self.levels[level].cells
            for position in cells.positions_meeting(box):
                yield CellKey(level + 1, cells.index(position))

    def tile_boxes(self, key: CellKey) -> Iterator[Box]:
        """Yield what each tile that a cell takes must cover."""
        whole = self.cell_box(key)
        if key.level > 1:
            below = self.levels[key.level - 2].cells
            yield from (below.box(position).intersection(whole) for position in below.positions_meeting(whole))
            return
        regions = self.reading.regions
        for position in regions.positions_meeting(whole):
            blocks = self.reading.blocks(regions.index(position))
            yield from (blocks.box(p).intersection(whole) for p in blocks.positions_meeting(whole))


def total_factors(factors: Sequence[Vec]) -> tuple[Vec, ...]:
    """Return the factor from mip 0 to each mip, from mip 0 on."""
    totals = [(1, 1, 1)]
    for fx, fy, fz in factors:
        x, y, z = totals[-1]
        totals.append((x * fx, y * fy, z * fz))
    return tuple(totals)


def choose_factors(base: Scale, num_mips: int | None, factors: Sequence[Vec] | None) -> tuple[Vec, ...]:
    """Return the factor of each mip from the one before it.

    Args:
        base: mip 0, with the chunks that the mips will have.
        num_mips: how many; None for as many as it takes until the volume fits one chunk, as far as the factors can.
        factors: of the first mips, the last one goes on; None for those that make voxels near to cubes.

    Raises:
        OptionError: a mip would have as many voxels as the one before it.

    """
    chosen: list[Vec] = []
    box, resolution = base.box, base.resolution_nm
    while num_mips is None or len(chosen) < num_mips:
        left = factors[min(len(chosen), len(factors) - 1) :] if factors else [_towards_cubes(resolution), (2, 2, 2)]
        factor, most = left[0], map(max, zip(*left, strict=True))
        if num_mips is None and all(n <= c or f == 1 for n, c, f in zip(box.shape, base.chunk, most, strict=True)):
            break
        coarse = coarse_box(box, factor)
        if coarse.shape == box.shape:
            raise OptionError(
                f"--num_mips: expected at most {len(chosen)}, after which a volume of {shape_text(box.shape)} voxels "
                f"is left that {factor} makes no smaller, came {'auto' if num_mips is None else num_mips}"
            )
        chosen.append(factor)
        box = coarse
        x, y, z = (r * f for r, f in zip(resolution, factor, strict=True))
        resolution = (x, y, z)
    return tuple(chosen)


def plan_pyramid(
    downsampler: Downsampler, reading: ReadingPlan, scales: Sequence[Scale], factors: tuple[Vec, ...], memory: int
) -> Pyramid:
    """Cut the making of mips into levels.

    Args:
        downsampler: makes the mips.
        reading: of mip 0.
        scales: of all mips, from mip 0 on; their chunks are what cells are aligned with where that can be.
        factors: see `Pyramid`.
        memory: bytes that one worker may use.

    Raises:
        OptionError: not even the voxels of one coarse chunk fit the memory.

    """
    totals = total_factors(factors)
    chunks = chunk_lattices(scales, totals)
    bounds = scales[0].box
    blocks = [reading.regions, Grid(bounds, reading.block.cell, reading.block.origin)]
    last = _last_mip(blocks, 0, totals, chunks)
    pyramid = Pyramid(downsampler, reading, factors, last)
    levels = []
    while last < len(factors):
        cells = _cells(pyramid, last, chunks, (scales[0].num_channels, memory))
        levels.append(Level(cells, last, _last_mip([cells], last, totals, chunks)))
        last = levels[-1].last
    return Pyramid(downsampler, reading, factors, pyramid.block_mips, tuple(levels))


def chunk_lattices(scales: Sequence[Scale], totals: Sequence[Vec]) -> list[Lattice]:
    """Return the chunks of each mip as cells of mip 0."""
    return [Lattice(product(s.chunk, f), product(s.box.start, f)) for s, f in zip(scales, totals, strict=True)]


def _last_mip(cuts: list[Grid], first: int, totals: Sequence[Vec], chunks: Sequence[Lattice]) -> int:
    """Return the last mip to make of pieces of mip `first` that are cut along `cuts`.

    Cuts must go between coarse voxels. They should go between coarse chunks, too, or chunks come in pieces; but where
    they do not, one mip of pieces is less than to hand up what it is made of.
    """
    last = first
    for mip in range(first + 1, len(totals)):
        if not all(_fits(cut, Lattice(totals[mip], (0, 0, 0))) for cut in cuts):
            break
        if mip > first + 1 and not all(_fits(cut, chunks[mip]) for cut in cuts):
            break
        last = mip
    return last


def _fits(cut: Grid, lattice: Lattice) -> bool:
    """Whether no cell of `lattice` is cut, other than by the bounds."""
    axes = zip(cut.shape, cut.cell, cut.origin, lattice.cell, lattice.origin, strict=True)
    return all(n == 1 or (c % size == 0 and (o - start) % size == 0) for n, c, o, size, start in axes)


def _cells(pyramid: Pyramid, first: int, chunks: Sequence[Lattice], limits: tuple[int, int]) -> Grid:
    """Return the cells for tiles of mip `first`: whole chunks of the next mips, of as many as fit the memory."""
    (num_channels, memory), bounds = limits, pyramid.reading.regions.bounds

    def size(cell: Vec) -> int:
        return pyramid._cell_bytes(first, cell, num_channels)

    most = memory // _CELLS_PER_TARGET
    if size(bounds.shape) <= most:
        return Grid(bounds, bounds.shape, bounds.start)
    found = chunks[first + 1]
    if size(found.cell) * _LEAST_CELLS_PER_TARGET > memory:
        raise OptionError(
            f"--memory_target: expected at least {size(found.cell) * _LEAST_CELLS_PER_TARGET:,} bytes, "
            f"{_LEAST_CELLS_PER_TARGET} times what a chunk of mip {first + 1} is made of, came {memory:,}: raise it, "
            "or choose smaller chunks"
        )
    for lattice in chunks[first + 2 :]:
        both = found.common(lattice)
        if both is None or size(both.cell) > most:
            break
        found = both
    found = found.grown(bounds, lambda cell: size(cell) <= most)
    return Grid(bounds, found.cell, found.origin)


def _towards_cubes(resolution: tuple[float, float, float]) -> Vec:
    """Return the factor of 1 and 2 that makes voxels nearest to cubes; of several, the one that makes the fewest."""

    def elongation(factor: Vec) -> tuple[float, int]:
        sides = [r * f for r, f in zip(resolution, factor, strict=True)]
        return (max(sides) / min(sides), -math.prod(factor))

    options = [(x, y, z) for x in (1, 2) for y in (1, 2) for z in (1, 2) if x * y * z > 1]
    return min(options, key=elongation)
