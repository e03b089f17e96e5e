"""The plan of a count: regions, and the tree in which their counts are merged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.provenance import Launch
from beam_volumes.reading_plan import Lattice, ReadingPlan
from beam_volumes.runs import Claim
from beam_volumes.size_histogram import Subject
from beam_volumes.sources import Source
from beam_volumes.voxel_count_runs import FAN_IN
from beam_volumes.voxel_counts import table_type

FOLDER = "stats"
"""The folder of the files, below that of the scale."""


class RunKey(NamedTuple):
    """What a run counts: a region (level 0), or a cell of a level of the merge tree, by its index in the grid."""

    level: int
    cell: int


@dataclass(frozen=True)
class CountPlan:
    """Everything that a worker needs to know of a count; picklable, and the same in every worker.

    Attributes:
        scale_key: the scale's folder, below the volume.
        reading: how the volume is cut.
        with_boxes: whether labels get their boxes.
        table_bytes: of memory for the labels of one region.
        window_bytes: of memory for what a merge has read.
        launch: who launched it, with which versions.

    """

    claim: Claim
    source: Source
    scale_key: str
    reading: ReadingPlan
    with_boxes: bool
    fill_missing: bool
    table_bytes: int
    window_bytes: int
    launch: Launch

    @property
    def row(self) -> np.dtype[np.void]:
        """The type of the rows of all tables."""
        return table_type(with_boxes=self.with_boxes)

    @property
    def folder(self) -> str:
        """Where the files are written, below the volume; ends with a slash."""
        return f"{self.scale_key}/{FOLDER}/"

    @property
    def subject(self) -> Subject:
        """What is counted."""
        x, y, z = self.source.resolution_nm
        return Subject(f"{self.source.url}, scale {self.scale_key}", x * y * z)

    @cached_property
    def levels(self) -> list[Grid]:
        """The grids of the merge tree: of regions first, last of at most 512 boxes; each box holds up to 512 below."""
        grids = [self.reading.regions]
        while len(grids[-1]) > FAN_IN:
            fine = grids[-1]
            most_voxels = FAN_IN * math.prod(fine.cell)
            boxes = Lattice(fine.cell, fine.origin).grown(fine.bounds, partial(_holds, most_voxels))
            grids.append(Grid(fine.bounds, boxes.cell, boxes.origin))
        return grids

    def box(self, key: RunKey) -> Box:
        """Return the voxels that a run counts."""
        grid = self.levels[key.level]
        return grid.box(grid.position(key.cell))

    def parent(self, key: RunKey) -> RunKey:
        """Return the box, one level up, that a run is merged into; above the last level the volume is the only one."""
        if key.level + 1 == len(self.levels):
            return RunKey(key.level + 1, 0)
        grid = self.levels[key.level + 1]
        return RunKey(key.level + 1, grid.index(next(grid.positions_meeting(self.box(key)))))

    def children(self, key: RunKey) -> int:
        """Return how many runs are merged into a box."""
        return sum(1 for _ in self.levels[key.level - 1].positions_meeting(self.box(key)))

    def needs_region(self, region: int) -> bool:
        """Whether a region is to be counted: all are, and the packs of an interrupted run are taken up."""
        return 0 <= region < len(self.reading.regions)

    @cached_property
    def planned(self) -> dict[str, int]:
        """What there is to do: regions to count, merges (the last one too), voxels."""
        merges = sum(len(grid) for grid in self.levels[1:]) + 1
        return {"regions": len(self.reading.regions), "merges": merges, "voxels": self.reading.regions.bounds.voxels}


def _holds(most_voxels: int, shape: Vec) -> bool:
    return math.prod(shape) <= most_voxels
