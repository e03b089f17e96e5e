"""Which labels are meshed: their voxels are counted cell by cell, added up over the volume, and told to the cells.

Dust is what is small as a whole: a cell cannot know. So each cell sends its counts to where those of the same labels
meet, spread evenly by a hash, and hears from there which of its labels are meshed. No one holds more than the labels of
a cell, or a part of the labels of all.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from beam_volumes.meshing.cell_fragments import labels_of_fragments
from beam_volumes.meshing.elements import CellReading, Made, Work, element
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.shared_planes import SharedPlanes
from beam_volumes.parcels import Owner, Parcel, ParcelReader
from beam_volumes.precomputed.murmur import murmurhash3
from beam_volumes.receipts import record_holes
from beam_volumes.voxel_counts import LabelCounter, Table, add_up

LABEL_ROW = np.dtype([("label", "<u8"), ("voxels", "<u8")])
"""A label and its voxels: in one cell, or in the volume."""

ALL_LABELS = 1
"""The stream of pieces for the table of all labels; those of stream 0 are for cells."""

LabelRows = npt.NDArray[np.void]


@dataclass(frozen=True)
class LabelChoice:
    """Which labels are meshed.

    Attributes:
        dust_threshold: the fewest voxels of a label, in the whole volume.
        labels: no others than these, sorted; None for all.
        exclude: all but these, sorted.

    """

    dust_threshold: int
    labels: npt.NDArray[np.uint64] | None
    exclude: npt.NDArray[np.uint64]

    def listed(self, labels: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return which of `labels` may be meshed, whatever their size."""
        among = np.ones(len(labels), bool) if self.labels is None else np.isin(labels, self.labels)
        return among & ~np.isin(labels, self.exclude)


def count_cell(plan: MeshPlan, cell: int) -> Made:
    """Count the labels of a cell, and send each to the part of the labels that it belongs to.

    Parcels: (0, part). Memory: `plan.table_bytes`, and blocks that wait for the server.

    Raises:
        SourceError, ServerError: voxels cannot be read, or roots not be had.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    with element(plan, f"labels-{cell}.pack") as work:
        if work.taken:
            return work.taken
        heard, counts = _labels_of_fragments(plan, cell) if plan.fragments else _labels_of_voxels(plan, cell, work)
        box = plan.own_voxels(cell)
        for there, rows in heard.items():
            parts = murmurhash3(rows["label"]) % np.uint64(plan.label_parts)
            # A cell without labels is heard of, too: every cell has its element in all steps.
            for part in np.unique(parts).tolist() or [0] * (there == cell):
                work.out.add(Owner(0, part), there, box, rows[parts == part].tobytes())
        pairs = sum(len(rows) for rows in heard.values())
        return work.made(replace(counts, counted=1, empty=int(not len(heard[cell])), pairs=pairs))


def _labels_of_voxels(plan: MeshPlan, cell: int, work: Work) -> tuple[dict[int, LabelRows], MeshCounts]:
    """Return the labels of a cell and their voxels; and for the next cells those in common planes, of no voxels."""
    full = list[Table]()
    counter = LabelCounter(plan.table_bytes, full.append, with_boxes=False)
    reading, shared = CellReading(plan, cell, work), SharedPlanes(plan, cell)
    for block, values in reading.blocks(plan.own_voxels(cell)):
        counter.add(values, block.start)
        shared.add(block, values)
        work.clock.lap("count")
    table = add_up([*full, counter.take()])
    rows = {cell: _rows(table["label"], table["voxels"])}
    rows |= {there: _rows(labels, np.zeros(len(labels), np.uint64)) for there, labels in shared.labels()}
    return rows, reading.counted(MeshCounts())


def _labels_of_fragments(plan: MeshPlan, cell: int) -> tuple[dict[int, LabelRows], MeshCounts]:
    """Return the labels that have a fragment in a cell; of how many voxels nobody knows."""
    assert plan.fragments is not None, "fragments are merged"
    keys = labels_of_fragments(plan.fragments, cell, fill_missing=plan.fill_missing)
    if keys is None:
        record_holes(plan.claim, cell, [plan.fragments.box(cell)])
        keys = np.empty(0, np.uint64)
    return {cell: _rows(keys, np.zeros(len(keys), np.uint64))}, MeshCounts()


def _rows(labels: npt.NDArray[np.uint64], voxels: npt.NDArray[np.uint64]) -> LabelRows:
    """Return rows of labels, without background."""
    rows = np.empty(len(labels), LABEL_ROW)
    rows["label"], rows["voxels"] = labels, voxels
    return rows[rows["label"] != 0]


def choose_labels(plan: MeshPlan, choice: LabelChoice, part: int, parcels: Sequence[Parcel]) -> Made:
    """Add up the counts of a part of the labels, and tell each cell which of its labels are meshed, with their counts.

    Parcels: (0, cell), also to cells none of whose labels are meshed; (1, 0) with all chosen labels of the part.
    Memory: twice the rows of the part.

    Raises:
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    with element(plan, f"choice-{part}.pack") as work:
        if work.taken:
            return work.taken
        with ParcelReader(plan.claim.scratch, list(parcels)) as reader:
            cells = reader.pieces["chunk"].tolist()
            tables = [np.frombuffer(data, LABEL_ROW) for _, data in reader.tiles()]
        rows = np.concatenate(tables)
        labels, places = np.unique(rows["label"], return_inverse=True)
        voxels = np.zeros(len(labels), np.uint64)
        np.add.at(voxels, places, rows["voxels"])
        listed = choice.listed(labels)
        chosen = listed & (voxels >= np.uint64(choice.dust_threshold))
        pairs, first = 0, 0
        # Pieces come by cell: its own, and what others tell of the planes that they have in common with it.
        for cell, group in itertools.groupby(zip(cells, tables, strict=True), operator.itemgetter(0)):
            last = first + sum(len(table) for _, table in group)
            if not plan.makes(cell):
                first = last
                continue
            mine = np.unique(places[first:last])
            told = _rows(labels[mine[chosen[mine]]], voxels[mine[chosen[mine]]])
            work.out.add(Owner(0, cell), part, plan.own_voxels(cell), told.tobytes())
            pairs, first = pairs + len(told), last
        if plan.segment_properties:
            table = _rows(labels[chosen], voxels[chosen])
            work.out.add(Owner(ALL_LABELS, 0), part, plan.bounds, table.tobytes())
        counts = MeshCounts(
            pairs_added=len(rows),
            pairs_chosen=pairs,
            labels=int(chosen.sum()),
            dust=int((listed & ~chosen).sum()),
            excluded=int((~listed).sum()),
        )
        return work.made(counts)


def chosen_labels(plan: MeshPlan, parcels: Sequence[Parcel]) -> LabelRows:
    """Return the labels of a cell that are meshed, sorted, with their voxels in the volume."""
    with ParcelReader(plan.claim.scratch, list(parcels)) as reader:
        rows = np.concatenate([np.frombuffer(data, LABEL_ROW) for _, data in reader.tiles()])
    return rows[np.argsort(rows["label"])]
