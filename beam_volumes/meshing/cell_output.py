"""Where the surfaces of a cell go: to shards and to the level above, or into files; and into the spatial index."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes import map_buffer
from beam_volumes.errors import VolumeError
from beam_volumes.geometry import Box, Vec
from beam_volumes.meshing.elements import ElementWork
from beam_volumes.meshing.forging import Forged
from beam_volumes.meshing.legacy import encode_mesh, fragment_name, frags_name, write_fragment
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_output import FragmentPacks, LegacyMeshes, MultiresMeshes
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.multires import encode_fragment
from beam_volumes.parcels import Owner
from beam_volumes.precomputed.murmur import murmurhash3_of
from beam_volumes.runs import check_claim
from beam_volumes.spatial_index.files import LabelBoxes, whole_nm
from beam_volumes.storage import Folder, join

SHARDS = 0
"""The stream of pieces whose owners are shards; those whose owners are elements of level k have stream -k."""

_SECONDS_BETWEEN_CHECKS = 1.0

_COMPRESSION, _LEVEL = "gzip", 1
"""Around the fragments of a cell: five times as fast as brotli's level 5, and a sixth larger."""


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


class CellPieces:
    """Takes the surfaces of a cell: fragments for shards, and pieces for the level above."""

    def __init__(self, plan: MeshPlan, work: ElementWork, labels: int, level: int, position: Vec) -> None:
        self._plan, self._work, self._sharding = plan, work, plan.sharding(labels)
        self._level, self._position = level, position
        self._faces = self._fragments = self._pieces = self._clamped = self._stand_ins = 0
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
            key = plan.part_of(level + 1, position, murmurhash3_of(label))
            out.add(Owner(-key.level, key.number), label, box, mesh.to_bytes())
            self._pieces += 1

    def finish(self, counts: MeshCounts) -> MeshCounts:
        """Return `counts` with what was sent."""
        zeros = (0,) * self._level
        return replace(
            counts,
            faces=(*zeros, self._faces),
            fragments=(*zeros, self._fragments),
            pieces=self._pieces,
            clamped=self._clamped,
            stand_ins=self._stand_ins,
            failed=len(self._failures),
            failures=tuple(self._failures),
        )

    def _encoded(self, label: int, mesh: Mesh) -> bytes:
        """Return the fragment; nothing, and a note of it, where that cannot be had."""
        try:
            fragment = encode_fragment(mesh, self._plan.grid, self._level, self._position)
        except VolumeError as error:
            self._failures.append(f"label {label}, level of detail {self._level}, cell {self._position}: {error}")
            return b""
        self._clamped += fragment.clamped
        self._stand_ins += fragment.is_stand_in
        return fragment.data


class CellIndex:
    """Takes how far the labels of a cell reach, and writes its file of the spatial index; where there is one."""

    def __init__(self, plan: MeshPlan, cell: int) -> None:
        self._plan, self._cell = plan, cell
        self._labels: list[int] = []
        self._boxes: list[npt.NDArray[np.float64]] = []

    def add(self, surface: Forged) -> None:
        """Take a surface; simplification may have moved vertices outwards, too."""
        if self._plan.index is None or not len(surface.mesh.vertices):
            return
        reaches = [surface.mesh.reach_nm(self._plan.source.resolution_nm)]
        reaches += [] if surface.reach is None else [surface.reach]
        self._labels.append(surface.label)
        self._boxes.append(np.concatenate([np.min(reaches, axis=0)[0], np.max(reaches, axis=0)[1]]))

    def write(self) -> None:
        """Write the file, of a cell without labels, too.

        Raises:
            DestinationError: it cannot be written, or the destination has been taken over.

        """
        if index := self._plan.index:
            check_claim(self._plan.claim)
            boxes = whole_nm(np.array(self._boxes, np.float64).reshape(-1, 6))
            index.write(self._cell, LabelBoxes(np.array(self._labels, np.uint64), boxes))


class LegacyFiles:
    """Takes the surfaces of a cell, and writes each as a file, which the manifest of its label names."""

    def __init__(self, plan: MeshPlan, cell: int, work: ElementWork, labels: int) -> None:
        self._plan, self._work, self._box = plan, work, plan.own_voxels(cell)
        self._place, self._sharding = piece_box(0, plan.cells.position(cell)), plan.sharding(labels)
        self._folder = Folder(join(plan.claim.url, plan.folder))
        self._faces = self._files = self._bytes = 0
        self._checked = -math.inf

    def add(self, label: int, mesh: Mesh) -> None:
        """Write the surface of a label, and tell who writes its manifest."""
        self._check_claim()
        name = fragment_name(label, self._box)
        self._bytes += write_fragment(self._folder, name, mesh, self._plan.source.resolution_nm)
        self._work.out.add(Owner(SHARDS, self._sharding.shard_number(label)), label, self._place, b"")
        self._faces += len(mesh.faces)
        self._files += 1
        self._work.clock.lap("encode")

    def finish(self, counts: MeshCounts) -> MeshCounts:
        """Return `counts` with what was written."""
        self._work.out.keep()
        return replace(
            counts, faces=(self._faces,), fragments=(self._files,), files=self._files, file_bytes=self._bytes
        )

    def _check_claim(self) -> None:
        """Look whether the destination is still this run's; not for every label, as it may be a request."""
        if time.monotonic() - self._checked > _SECONDS_BETWEEN_CHECKS:
            check_claim(self._plan.claim)
            self._checked = time.monotonic()


class FragmentPack:
    """Takes the surfaces of a cell, and writes them as one file."""

    def __init__(self, plan: MeshPlan, cell: int, work: ElementWork) -> None:
        self._plan, self._work, self._name = plan, work, frags_name(plan.own_voxels(cell))
        self._packed: dict[int, bytes] = {}
        self._faces = 0

    def add(self, label: int, mesh: Mesh) -> None:
        """Take the surface of a label."""
        data = encode_mesh(mesh, self._plan.source.resolution_nm)
        self._packed[label] = map_buffer.pack_value(data, _COMPRESSION, _LEVEL)
        self._faces += len(mesh.faces)
        self._work.clock.lap("encode")

    def finish(self, counts: MeshCounts) -> MeshCounts:
        """Write the file, and return `counts` with what was written."""
        data = map_buffer.join_packed(self._packed, _COMPRESSION)
        check_claim(self._plan.claim)
        Folder(join(self._plan.claim.url, self._plan.folder)).write(self._name, data)
        self._work.out.keep()
        self._work.clock.lap("encode")
        return replace(counts, faces=(self._faces,), fragments=(len(self._packed),), files=1, file_bytes=len(data))


CellOutput = CellPieces | LegacyFiles | FragmentPack


def output_of_cell(plan: MeshPlan, cell: int, work: ElementWork, labels: int) -> CellOutput:
    """Return what takes the surfaces of a cell of the finest level, of `labels` labels that are meshed in all."""
    match plan.output:
        case MultiresMeshes():
            return CellPieces(plan, work, labels, 0, plan.cells.position(cell))
        case LegacyMeshes():
            return LegacyFiles(plan, cell, work, labels)
        case FragmentPacks():
            return FragmentPack(plan, cell, work)
