"""Levels of detail, bottom-up: a cell's surfaces become fragments of its level, and pieces of the next coarser one.

Level 0 are the cells that are forged. A cell of level k joins its 2 x 2 x 2 children label by label: it welds them
where they meet, and simplifies what it has got, but for the outer border, which its neighbours have, too. So the
surfaces of a level fit together without anybody having seen more than one cell, however large the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from beam_volumes.meshing.cell_input import input_of_cell
from beam_volumes.meshing.cell_output import CellIndex, CellPieces, output_of_cell
from beam_volumes.meshing.elements import ElementOutput, working_on
from beam_volumes.meshing.labels import chosen_labels
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_plan import MeshPlan, PartKey
from beam_volumes.meshing.simplification import Simplified, simplify
from beam_volumes.meshing.topology import count_edges, weld, without_cavities
from beam_volumes.parcels import Parcel, ParcelReader

_BYTES_PER_FACE = 2
"""In a fragment: 1.3 of a large one, more of a small one."""


def forge_cell(plan: MeshPlan, labels: int, cell: int, parcels: Sequence[Parcel]) -> ElementOutput:
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
    with working_on(plan, f"cell-{cell}.pack") as work:
        if work.taken:
            return work.taken
        chosen = chosen_labels(plan, parcels)
        read, counts = input_of_cell(plan, cell, work), MeshCounts(cells=1, pairs_meshed=len(chosen))
        out, index = output_of_cell(plan, cell, work, labels), CellIndex(plan, cell)
        for surface in read.surfaces(chosen) if len(chosen) else ():
            counts = _counting(counts, surface.fell_back, surface.crowded, surface.raw_faces)
            out.add(surface.label, surface.mesh)
            index.add(surface)
        index.write()
        work.clock.lap("encode")
        return work.output(out.finish(read.counted(counts)))


def join_cells(plan: MeshPlan, labels: int, key: PartKey, parcels: Sequence[Parcel]) -> ElementOutput:
    """Make the surfaces of a part of the labels in a cell of level 1 or above, of those in the cells below it.

    Parcels: fragments of this level for shards, and pieces for the elements of the next one. Memory: the surface of one
    label in the cell, several times.

    Raises:
        ConservationError: a piece is missing on the way.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    with working_on(plan, f"level-{key.level}-{key.number}.pack") as work:
        if work.taken:
            return work.taken
        out = CellPieces(plan, work, labels, key.level, plan.position(key))
        counts = MeshCounts(parts=1)
        with ParcelReader(plan.claim.scratch, list(parcels)) as reader:
            for label, pieces in reader.chunks():
                work.clock.lap("read")
                joined = weld([Mesh.from_bytes(data) for _, data in pieces], out.inner_planes())
                joined = without_cavities(joined) if plan.fill_holes else joined
                work.clock.lap("weld")
                done = coarser(plan, key.level, joined)
                work.clock.lap("simplify")
                counts = _counting(counts, done.fell_back, done.crowded, 0)
                out.add(label, done.mesh)
            counts = replace(counts, joined=len(reader.pieces))
        return work.output(out.finish(counts))


def coarser(plan: MeshPlan, lod: int, mesh: Mesh) -> Simplified:
    """Return the surface of a level of detail that is made of one of the level before."""
    # The outer border stays as it is, and so do the triangles on it.
    border = count_edges(mesh.faces, len(mesh.vertices)).open
    target = border + round(max(len(mesh.faces) - border, 0) / plan.multires.factor_of(lod))
    done = simplify(mesh, plan.source.resolution_nm, target, plan.max_error_at(lod), fit=True)
    # A fragment under its cap is also a piece of which the level above can hold eight: that comes first.
    most = max(border, plan.multires.max_fragment_bytes // _BYTES_PER_FACE)
    return done if len(done.mesh.faces) <= most else simplify(done.mesh, plan.source.resolution_nm, most, None)


def _counting(counts: MeshCounts, fell_back: bool, crowded: int, raw_faces: int) -> MeshCounts:
    return replace(
        counts,
        fell_back=counts.fell_back + fell_back,
        crowded=counts.crowded + crowded,
        raw_faces=counts.raw_faces + raw_faces,
    )
