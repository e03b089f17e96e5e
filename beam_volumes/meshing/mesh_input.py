"""What a meshing run reads: voxels, or fragments that stand in files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from beam_volumes.geometry import Box, Grid
from beam_volumes.meshing.legacy import frags_name
from beam_volumes.number_lists import NumberList
from beam_volumes.reading_plan import Lattice
from beam_volumes.sources import Source
from beam_volumes.spatial_index.files import IndexFiles


@dataclass(frozen=True)
class VoxelInput:
    """Voxels, of which surfaces are made.

    Attributes:
        block: how a cell is read.
        simplification_factor: triangles of marching cubes for each that is left at the finest level.
        share_bytes: of memory, for each of three: voxels that wait for the server in one worker, the surfaces that
            marching cubes makes at a time, and the labels of a cell.

    """

    block: Lattice
    simplification_factor: float
    share_bytes: int

    surfaces_of: ClassVar[str] = "marching_cubes"
    wanted: ClassVar[NumberList | None] = None

    def kept(self, scratch: str) -> VoxelInput:
        """Return the same: there are no lists."""
        return self

    def holes(self, source: Source, recorded: list[Box]) -> list[Box]:
        """Return the chunks that are missing; each cell has recorded its own part of one."""
        chunks = Grid(source.box, source.chunk, source.chunk_origin)
        return sorted({chunks.box(position) for hole in recorded for position in chunks.positions_meeting(hole)})


@dataclass(frozen=True)
class FragmentFiles:
    """Files of fragments, one for each cell.

    Attributes:
        url: their folder.
        tasks: the boxes that they are named by, voxels; one for each cell, in the same order.
        index: the files that tell which labels are in which box; None where there are none.
        wanted: the cells that are read; None for all.

    """

    url: str
    tasks: Grid
    index: IndexFiles | None
    wanted: NumberList | None

    surfaces_of: ClassVar[str] = "fragments"

    def box(self, cell: int) -> Box:
        """Return the box that the file of a cell is named by."""
        return self.tasks.box(self.tasks.position(cell))

    def name(self, cell: int) -> str:
        """Return the file of a cell."""
        return frags_name(self.box(cell))

    def kept(self, scratch: str) -> FragmentFiles:
        """Return the same with its list in scratch, if it is long; see `NumberList`."""
        return replace(self, wanted=self.wanted and self.wanted.kept(scratch, "wanted.list"))

    def holes(self, source: Source, recorded: list[Box]) -> list[Box]:
        """Return the boxes whose files are missing."""
        return recorded


MeshInput = VoxelInput | FragmentFiles
