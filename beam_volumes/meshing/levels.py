"""Levels of detail, bottom-up: a cell's surfaces become fragments of its level, and pieces of the next coarser one.

Level 0 are the cells that are forged. A cell of level k joins its 2 x 2 x 2 children label by label: it welds them
where they meet, and simplifies what it has got, but for the outer border, which its neighbours have, too. So the
surfaces of a level fit together without anybody having seen more than one cell, however large the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from beam_volumes.errors import VolumeError
from beam_volumes.geometry import Box, Vec
from beam_volumes.meshing.elements import CellReading, Made, Work, element
from beam_volumes.meshing.forging import forge
from beam_volumes.meshing.labels import chosen_labels
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_plan import MeshPlan, PartKey
from beam_volumes.meshing.multires import encode_fragment
from beam_volumes.meshing.simplification import simplify
from beam_volumes.meshing.topology import weld, without_cavities
from beam_volumes.parcels import Owner, Parcel, ParcelReader
from beam_volumes.precomputed.murmur import murmurhash3
from beam_volumes.precomputed.sharding import ShardingSpec

SHARDS = 0
"""The stream of pieces whose owners are shards; those whose owners are elements of level k have stream -k."""


def forge_cell(plan: MeshPlan, labels: int, cell: int, parcels: Sequence[Parcel]) -> Made:
    """Make the surfaces of a cell, or take up what an interrupted run has made of it.

    Parcels: fragments of level 0 for shards, and pieces for the elements of level 1. Memory: see `forge`.

    Args:
        plan: of the run.
        labels: how many are meshed in all.
        cell: its index.
        parcels: the labels that are meshed in it, from all parts of the labels.

    Raises:
        SourceError, ServerError: voxels cannot be read, or roots not be had.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    with element(plan, f"cell-{cell}.pack") as work:
        if work.taken:
            return work.taken
        chosen = chosen_labels(plan, parcels)
        out = _Output(plan, work, plan.sharding(labels), 0, plan.cells.position(cell))
        reading, counts = CellReading(plan, cell, work), MeshCounts(cells=1, pairs_meshed=len(chosen))
        for surface in forge(plan, cell, chosen, reading, work.clock):
            counts = _counting(counts, surface.fell_back, surface.crowded, surface.raw_faces)
            out.add(surface.label, surface.mesh)
        return work.made(out.counted(reading.counted(counts)))


def join_cells(plan: MeshPlan, labels: int, key: PartKey, parcels: Sequence[Parcel]) -> Made:
    """Make the surfaces of a part of the labels in a cell of level 1 or above, of those in the cells below it.

    Parcels: fragments of this level for shards, and pieces for the elements of the next one. Memory: the surface of one
    label in the cell, several times.

    Raises:
        ConservationError: a piece is missing on the way.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    with element(plan, f"level-{key.level}-{key.number}.pack") as work:
        if work.taken:
            return work.taken
        out = _Output(plan, work, plan.sharding(labels), key.level, plan.position(key))
        counts = MeshCounts(parts=1)
        with ParcelReader(plan.claim.scratch, list(parcels)) as reader:
            for label, pieces in reader.chunks():
                work.clock.lap("read")
                joined = weld([Mesh.from_bytes(data) for _, data in pieces], out.inner_planes())
                joined = without_cavities(joined) if plan.fill_holes else joined
                work.clock.lap("weld")
                how = plan.simplification
                target, error = round(len(joined.faces) / how.lod_factor), how.max_error_at(key.level)
                done = simplify(joined, plan.source.resolution_nm, target, error)
                work.clock.lap("simplify")
                counts = _counting(counts, done.fell_back, done.crowded, 0)
                out.add(label, done.mesh)
            counts = replace(counts, joined=len(reader.pieces))
        return work.made(out.counted(counts))


def piece_box(lod: int, position: Vec) -> Box:
    """Return a cell of a level in cells of level 0, which is how the table of pieces tells level and position."""
    x, y, z = (n << lod for n in position)
    return Box.of_shape((1 << lod, 1 << lod, 1 << lod), (x, y, z))


class CellPlace(NamedTuple):
    """Which cell a piece is of."""

    lod: int
    position: Vec


def place_of(box: Box) -> CellPlace:
    """Return the cell that `piece_box` has told of."""
    lod = box.shape[0].bit_length() - 1
    x, y, z = (n >> lod for n in box.start)
    return CellPlace(lod, (x, y, z))


class _Output:
    """Takes the surfaces of a cell, and sends them where they belong."""

    def __init__(self, plan: MeshPlan, work: Work, sharding: ShardingSpec, level: int, position: Vec) -> None:
        self._plan, self._work, self._sharding = plan, work, sharding
        self._level, self._position = level, position
        self._faces = self._fragments = self._pieces = self._clamped = 0
        self._failures: list[str] = []

    def inner_planes(self) -> list[tuple[int, int]]:
        """Return the planes in which the children of the cell meet: axis, and coordinate."""
        grid, lod = self._plan.grid, self._level
        x, y, z = self._position
        middle = grid.start(lod - 1, (2 * x + 1, 2 * y + 1, 2 * z + 1))
        return list(enumerate(middle))

    def add(self, label: int, mesh: Mesh) -> None:
        """Send the surface of a label as a fragment to its shard, and as a piece to the level above."""
        plan, level, position = self._plan, self._level, self._position
        box, out = piece_box(level, position), self._work.out
        self._faces += len(mesh.faces)
        data = self._encoded(label, mesh)
        self._work.clock.lap("encode")
        self._fragments += 1
        out.add(Owner(SHARDS, self._sharding.shard_number(label)), label, box, data)
        if level + 1 < plan.num_lods:
            hashed = int(murmurhash3(np.array([label], np.uint64))[0])
            key = plan.part_of(level + 1, position, hashed)
            out.add(Owner(-key.level, key.number), label, box, mesh.to_bytes())
            self._pieces += 1

    def counted(self, counts: MeshCounts) -> MeshCounts:
        """Return `counts` with what was sent."""
        zeros = (0,) * self._level
        return replace(
            counts,
            faces=(*zeros, self._faces),
            fragments=(*zeros, self._fragments),
            pieces=self._pieces,
            clamped=self._clamped,
            failures=tuple(self._failures),
        )

    def _encoded(self, label: int, mesh: Mesh) -> bytes:
        """Return the fragment; nothing, and a note of it, where that cannot be had."""
        if self._plan.mesh_format == "legacy":
            return mesh.to_bytes()
        try:
            fragment = encode_fragment(mesh, self._plan.grid, self._level, self._position)
        except VolumeError as error:
            self._failures.append(f"label {label}, level of detail {self._level}, cell {self._position}: {error}")
            return b""
        self._clamped += fragment.clamped
        return fragment.data


def _counting(counts: MeshCounts, fell_back: bool, crowded: int, raw_faces: int) -> MeshCounts:
    return replace(
        counts,
        fell_back=counts.fell_back + fell_back,
        crowded=counts.crowded + crowded,
        raw_faces=counts.raw_faces + raw_faces,
    )
