"""Which labels are meshed: their voxels are counted cell by cell, added up over the volume, and told to the cells.

Dust is what is small as a whole: a cell cannot know. So each cell sends its counts to where those of the same labels
meet, spread evenly by a hash, and hears from there which of its labels are meshed. No one holds more than the labels of
a cell, or a part of the labels of all. One part is the home of a cell: it always hears from the cell, and tells it
something, so that a cell without labels has its element in the next steps, too. Homes are spread over the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes.meshing.cell_input import input_of_cell
from beam_volumes.meshing.elements import ElementOutput, working_on
from beam_volumes.meshing.label_rows import LABEL_ROW, LabelRows, label_rows
from beam_volumes.meshing.mesh_counts import MeshCounts
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.number_lists import NumberList
from beam_volumes.parcels import Owner, Parcel, ParcelReader
from beam_volumes.precomputed.murmur import murmurhash3

ALL_LABELS = 1
"""The stream of pieces for the table of all labels; those of stream 0 are for cells."""


@dataclass(frozen=True)
class LabelChoice:
    """Which labels are meshed.

    Attributes:
        dust_threshold: the fewest voxels of a label, in the whole volume.
        labels: no others than these; None for all.
        exclude: all but these.

    """

    dust_threshold: int
    labels: NumberList | None
    exclude: NumberList

    def listed(self, labels: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return which of `labels` may be meshed, whatever their size."""
        among = np.ones(len(labels), bool) if self.labels is None else np.isin(labels, self.labels.array)
        return among & ~np.isin(labels, self.exclude.array)

    def kept(self, url: str) -> LabelChoice:
        """Return the choice with long lists of labels in files; see `NumberList`.

        Raises:
            DestinationError: they cannot be written.

        """
        labels = self.labels and self.labels.kept(url, "labels.list")
        return replace(self, labels=labels, exclude=self.exclude.kept(url, "exclude.list"))


def count_cell(plan: MeshPlan, cell: int) -> ElementOutput:
    """Count the labels of a cell, and send each to the part of the labels that it belongs to.

    Parcels: (0, part). Memory: a share of voxels, see `VoxelInput`, and blocks that wait for the server.

    Raises:
        SourceError, ServerError: voxels cannot be read, or roots not be had.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    with working_on(plan, f"labels-{cell}.pack") as work:
        if work.taken:
            return work.taken
        read = input_of_cell(plan, cell, work)
        heard = read.labels()
        box = plan.own_voxels(cell)
        work.out.add(Owner(0, _home(plan, cell)), cell, box, b"")
        for there, rows in heard.items():
            for part, told in _parted(rows, plan.label_parts):
                work.out.add(Owner(0, part), there, box, told.tobytes())
        pairs = sum(len(rows) for rows in heard.values())
        return work.output(read.counted(MeshCounts(counted=1, empty=int(not len(heard[cell])), pairs=pairs)))


def _home(plan: MeshPlan, cell: int) -> int:
    """Return the part of the labels that a cell always hears from."""
    return cell % plan.label_parts


def _parted(rows: LabelRows, parts: int) -> Iterator[tuple[int, LabelRows]]:
    """Yield the parts that labels belong to, and the rows of each."""
    part_of = murmurhash3(rows["label"]) % np.uint64(parts)
    order = np.argsort(part_of, kind="stable")
    found, starts = np.unique(part_of[order], return_index=True)
    return zip(found.tolist(), np.split(rows[order], starts)[1:], strict=True)


def choose_labels(plan: MeshPlan, choice: LabelChoice, part: int, parcels: Sequence[Parcel]) -> ElementOutput:
    """Add up the counts of a part of the labels, and tell each cell which of its labels are meshed, with their counts.

    Parcels: (0, cell), to those whose home the part is even if none of their labels are meshed; (1, 0) with all chosen
    labels of the part. Memory, beside the parcels that come: 500 bytes for each, and 80 for each of their rows.

    Raises:
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    with working_on(plan, f"choice-{part}.pack") as work:
        if work.taken:
            return work.taken
        heard = _heard(plan, parcels)
        totals = heard.totals
        listed = choice.listed(totals["label"])
        chosen = listed & (totals["voxels"] >= np.uint64(choice.dust_threshold))
        made = np.fromiter(map(plan.makes, heard.cells.tolist()), bool, len(heard.cells))
        pairs = _distinct(heard.pairs[chosen[heard.pairs["label"]] & made[heard.pairs["cell"]]])
        ends = np.searchsorted(pairs["cell"], np.arange(len(heard.cells) + 1)).tolist()
        for cell, is_made, first, last in zip(heard.cells.tolist(), made, ends[:-1], ends[1:], strict=True):
            if last > first or (is_made and part == _home(plan, cell)):
                told = totals[pairs["label"][first:last]]
                work.out.add(Owner(0, cell), part, plan.own_voxels(cell), told.tobytes())
        if plan.output.segment_properties:
            work.out.add(Owner(ALL_LABELS, 0), part, plan.bounds, totals[chosen].tobytes())
        counts = MeshCounts(
            pairs_added=len(heard.pairs),
            pairs_chosen=len(pairs),
            labels=int(chosen.sum()),
            dust=int((listed & ~chosen).sum()),
            excluded=int((~listed).sum()),
        )
        return work.output(counts)


_PAIR = np.dtype([("cell", "<i4"), ("label", "<i4")])
"""The places of a cell and of a label that is in it, each in a table."""


class _Heard(NamedTuple):
    """What a part of the labels hears.

    Attributes:
        cells: that told of its labels, sorted.
        totals: all its labels, sorted, with their voxels.
        pairs: of `_PAIR`, by cell; more than once where several cells told of one.

    """

    cells: npt.NDArray[np.uint64]
    totals: LabelRows
    pairs: npt.NDArray[np.void]


def _heard(plan: MeshPlan, parcels: Sequence[Parcel]) -> _Heard:
    """Add up what cells tell: of their own voxels, and of the planes that others have in common with them."""
    with ParcelReader(plan.claim.scratch, parcels) as reader:
        rows = reader.table(LABEL_ROW)
        cells, numbers = np.unique(reader.pieces["chunk"], return_inverse=True)
        counts = reader.pieces["length"] // np.uint64(LABEL_ROW.itemsize)
    pairs = np.empty(len(rows), _PAIR)
    pairs["cell"] = np.repeat(numbers, counts.astype(np.int64))
    labels, pairs["label"] = np.unique(rows["label"], return_inverse=True)
    totals = label_rows(labels, 0)
    np.add.at(totals["voxels"], pairs["label"], rows["voxels"])
    return _Heard(cells, totals, pairs)


def _distinct(pairs: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return pairs each once, by cell, then label."""
    pairs = pairs[np.lexsort((pairs["label"], pairs["cell"]))]
    is_first = np.ones(len(pairs), bool)
    is_first[1:] = pairs[1:] != pairs[:-1]
    return pairs[is_first]


def chosen_labels(plan: MeshPlan, parcels: Sequence[Parcel]) -> LabelRows:
    """Return the labels of a cell that are meshed, sorted, with their voxels in the volume."""
    with ParcelReader(plan.claim.scratch, parcels) as reader:
        rows = reader.table(LABEL_ROW)
    return rows[np.argsort(rows["label"])]
