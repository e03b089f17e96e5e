"""The plan of a run that meshes: a grid of cells, and levels of detail that join 2 x 2 x 2 of them at a time.

Marching cubes looks at cubes of 2 x 2 x 2 voxels, so a cell is a box of such cubes, named by their lowest voxels: the
cubes [a, b) along an axis take the voxels a to b, the plane of voxels b belongs to two cells, and the surfaces of both
meet on it. Objects are closed where they meet the volume's faces: there the cubes reach one voxel beyond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.meshing.mesh import UNITS
from beam_volumes.meshing.mesh_grid import MeshGrid
from beam_volumes.meshing.mesh_input import FragmentFiles, MeshInput, VoxelInput
from beam_volumes.meshing.mesh_output import MeshOutput, MultiresMeshes
from beam_volumes.number_lists import NumberList
from beam_volumes.precomputed.sharding import ShardingSpec, sharding_of_labels
from beam_volumes.provenance import Launch
from beam_volumes.runs import Claim
from beam_volumes.sources import Source
from beam_volumes.spatial_index.files import IndexFiles
from beam_volumes.volume_plan import Server

_LEAST_ELEMENTS = 16
"""At each level, where there is work for so many: a level may have one cell, and a machine many cores."""

_CELLS_PER_LABEL_PART = 128

KindT = TypeVar("KindT")


class PartKey(NamedTuple):
    """An element of a level: some of the labels in one cell."""

    level: int
    number: int


class Cells(NamedTuple):
    """The cells of the finest level, as the regions that are read."""

    regions: Grid


class Remade(NamedTuple):
    """What of complete fragments is made anew.

    Attributes:
        cells: whose files are missing.
        counted: whose labels are counted for it; None for all.

    """

    cells: NumberList
    counted: NumberList | None


@dataclass(frozen=True)
class MeshPlan:
    """Everything that a worker needs to know of a run; picklable, and the same in every worker.

    Attributes:
        server: None where voxels are taken as they are.
        bounds: the voxels that are meshed.
        cells: of the finest level, in cubes: see the module.
        input: what is read of cells.
        output: what is written.
        max_error_nm: how far the finest level may be off; each coarser one twice as far.
        fill_holes: whether cavities are dropped.
        folder: of the meshes, below the volume.
        index: the files that tell which labels are in which cell; None where none are written.
        picture: whether some meshes are drawn.
        listed: how many labels are asked for; None where all are.
        inline_bytes: what an element may send to one owner without a pack.
        launch: who launched it, with which versions.
        remade: the cells of a run that makes no others; None for all.

    """

    claim: Claim
    source: Source
    server: Server | None
    bounds: Box
    cells: Grid
    input: MeshInput
    output: MeshOutput
    max_error_nm: float
    fill_holes: bool
    folder: str
    index: IndexFiles | None
    picture: bool
    fill_missing: bool
    listed: int | None
    inline_bytes: int
    launch: Launch
    remade: Remade | None = None

    @property
    def voxels(self) -> VoxelInput:
        """What is read, for those who read voxels."""
        return _known(self.input, VoxelInput)

    @property
    def fragments(self) -> FragmentFiles:
        """What is read, for those who merge fragments."""
        return _known(self.input, FragmentFiles)

    @property
    def multires(self) -> MultiresMeshes:
        """What is written, for those who make levels of detail."""
        return _known(self.output, MultiresMeshes)

    @property
    def num_lods(self) -> int:
        """Levels of detail; 1 is the finest alone."""
        return self.output.num_lods

    @property
    def lookahead_bytes(self) -> int:
        """How many bytes of voxels may wait for the server in one worker."""
        return self.voxels.share_bytes

    def max_error_at(self, lod: int) -> float:
        """Return how far a level of detail may be off, nm."""
        return self.max_error_nm * 2**lod

    @property
    def reading(self) -> Cells:
        """The cells as regions, as `ListRegions` takes them."""
        return Cells(self.cells)

    def needs_region(self, region: int) -> bool:
        """Whether a cell is to be looked at; the packs of an interrupted run are taken up."""
        counted = self._counted
        return 0 <= region < len(self.cells) if counted is None else region in counted

    def makes(self, cell: int) -> bool:
        """Whether a cell that is told of labels is to be meshed."""
        return self.remade is None or cell in self.remade.cells

    @property
    def _counted(self) -> NumberList | None:
        """The cells that are looked at first; None for all."""
        if self.remade is not None:
            return self.remade.counted
        return self.input.wanted

    @property
    def grid(self) -> MeshGrid:
        """The cells in the coordinates of meshes; their corners are centers of voxels."""
        x, y, z = (n * UNITS + UNITS // 2 for n in self.cells.first)
        return MeshGrid.of_voxels((x, y, z), self.cells.cell, self.source.resolution_nm, self.multires.bits)

    def level(self, level: int) -> Grid:
        """Return the cells of a level of detail, in cubes."""
        return self._levels[level]

    @cached_property
    def _levels(self) -> list[Grid]:
        fine = self.cells
        return [Grid(fine.bounds, _scaled(fine.cell, 2**k), fine.first) for k in range(self.num_lods)]

    def own_voxels(self, cell: int) -> Box:
        """Return the voxels that are counted in a cell: each voxel belongs to one."""
        whole = self.cells.whole_box(self.cells.position(cell))
        return whole.translated((1, 1, 1)).intersection(self.bounds)

    def mesh_voxels(self, cell: int) -> Box:
        """Return the voxels that the cubes of a cell take; they may reach beyond the bounds by one, where all is 0."""
        box = self.cells.box(self.cells.position(cell))
        x, y, z = box.stop
        return Box(box.start, (x + 1, y + 1, z + 1))

    @property
    def label_parts(self) -> int:
        """In how many parts the labels of all cells are added up: one for each 128 cells.

        So a part has on average as many pairs of a cell and a label in it as 128 cells have, however large the volume.
        A pair takes under 1 kB of memory: at most 300 bytes as a parcel of its own, and 600 in `choose_labels`. That is
        256 MB where a cell has 2,000 labels; and 1 MB more for each 1,000 cells that a label of the part reaches.
        """
        return max(len(self.cells) // _CELLS_PER_LABEL_PART, 1)

    def parts(self, level: int) -> int:
        """Return in how many parts the labels of a cell are joined at a level.

        A cell of the next level has 8 / `factor_of` as many triangles: with twice the parts for each level, an
        element is as much work as one before, or less.
        """
        return max(2**level, math.ceil(_LEAST_ELEMENTS / len(self.level(level))))

    def part_of(self, level: int, position: Vec, hashed: int) -> PartKey:
        """Return the element of `level` that takes a label from the cell at `position` of the level below."""
        x, y, z = position
        parts = self.parts(level)
        return PartKey(level, self.level(level).index((x // 2, y // 2, z // 2)) * parts + hashed % parts)

    def position(self, key: PartKey) -> Vec:
        """Return the position of an element's cell."""
        return self.level(key.level).position(key.number // self.parts(key.level))

    def sharding(self, labels: int) -> ShardingSpec:
        """Return the sharding of so many labels; without shards, who writes which files."""
        return sharding_of_labels(labels)

    def kept(self) -> MeshPlan:
        """Return the plan with its long lists in scratch; see `NumberList`.

        Raises:
            DestinationError: they cannot be written.

        """
        remade, scratch = self.remade, self.claim.scratch
        if remade:
            counted = remade.counted and remade.counted.kept(scratch, "counted.list")
            remade = Remade(remade.cells.kept(scratch, "cells.list"), counted)
        return replace(self, input=self.input.kept(scratch), remade=remade)

    @cached_property
    def planned(self) -> dict[str, int]:
        """What there is to do, as far as it is known without a look at the labels."""
        counted = len(self.cells) if self._counted is None else len(self._counted)
        return {"counted": counted, "cells": counted if self.remade is None else len(self.remade.cells)}


def _known(value: object, kind: type[KindT]) -> KindT:
    if not isinstance(value, kind):
        raise TypeError(f"expected a run of {kind.__name__}, came one of {type(value).__name__}")
    return value


def _scaled(vec: Vec, factor: int) -> Vec:
    x, y, z = vec
    return (x * factor, y * factor, z * factor)
