"""Counting voxels by label: tables of counts, and the counter that makes them of blocks of voxels.

A table has one row per label, sorted by label. Counts are uint64 and never rounded; the sum over all labels is the
number of voxels that were counted, label 0 (background) among them.

How tables become the counts of a volume of any size, with any number of labels (`voxel_count_runs` merges them):

- a region is counted into one table, pre-summed over its blocks. A hash table holds as many labels as the memory target
  allows; what it held when it was full is set aside as one sorted table of several, which are merged;
- tables are sorted, and stay in files. Up to 512 of them are merged at a time as streams, a window of each in memory;
- more regions than that are merged as a tree: the tables of a box of 8 x 8 x 8 neighbours become one, and so on.
  Neighbours share labels, so tables grow much slower than the volume they stand for, and every level but the last works
  on many boxes at once;
- the last merge is written to the final files as it goes.

Labels are not dealt out to buckets. The final files are sorted and each is one file, so that one worker reads all rows
in the end whatever comes before. Buckets by hash would be merged there just like the boxes are, and would have cost one
small read for each region and bucket; buckets by range need splitters that suit labels 1 to n as well as root ids,
whose high bits are a layer and a place. Nothing here depends on how labels are distributed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_volumes.codecs import Array
from beam_volumes.geometry import Vec

Table = npt.NDArray[np.void]

COUNTS = np.dtype([("label", "<u8"), ("voxels", "<u8")])
BOXED_COUNTS = np.dtype([*COUNTS.descr, ("start", "<i8", 3), ("stop", "<i8", 3)])
"""`start` and `stop` are the box of a label's voxels, half open, absolute, XYZ."""

_FIRST_SLOTS = 2**12


def table_type(*, with_boxes: bool) -> np.dtype[np.void]:
    """Return the type of a table's rows."""
    return BOXED_COUNTS if with_boxes else COUNTS


def add_up(tables: Iterable[Table]) -> Table:
    """Return the table of all voxels of `tables`, one or more, of which each may have its rows in any order."""
    rows = np.concatenate(list(tables))
    rows = rows[np.argsort(rows["label"], kind="stable")]
    label = rows["label"]
    is_first = np.ones(len(rows), bool)
    np.not_equal(label[1:], label[:-1], out=is_first[1:])
    if is_first.all():
        return rows
    firsts = np.flatnonzero(is_first)
    summed = np.empty(len(firsts), rows.dtype)
    summed["label"] = label[firsts]
    summed["voxels"] = np.add.reduceat(rows["voxels"], firsts)
    if rows.dtype == BOXED_COUNTS:
        summed["start"] = np.minimum.reduceat(rows["start"], firsts)
        summed["stop"] = np.maximum.reduceat(rows["stop"], firsts)
    return summed


class LabelCounter:
    """Counts blocks of voxels, within a bounded memory.

    Args:
        most_bytes: of memory, roughly; more where not even the labels of a few rows of voxels fit.
        with_boxes: find the box of each label too.
        full: takes a sorted table whenever the memory is full; counting then begins anew.

    """

    def __init__(self, most_bytes: int, full: Callable[[Table], None], *, with_boxes: bool) -> None:
        self._type = table_type(with_boxes=with_boxes)
        self._full = full
        # Half of the slots are taken at most, and taking the rows out needs as many bytes again.
        self._most_slots = 2 ** max(1, (most_bytes // (2 * self._type.itemsize)).bit_length() - 1)
        self._used = 0
        self._clear(min(_FIRST_SLOTS, self._most_slots))

    def add(self, voxels: Array, origin: Vec) -> None:
        """Count the voxels of a block.

        Args:
            voxels: XYZ or XYZC with one channel, of an unsigned integer type; best in Fortran order.
            origin: the place of the first.

        """
        from beam_volumes import voxel_count_kernels as kernels

        if voxels.dtype.kind != "u" or voxels.ndim not in (3, 4) or voxels.shape[3:] not in ((), (1,)):
            raise ValueError(f"expected labels of an unsigned type, XYZ, came {voxels.dtype} of shape {voxels.shape}")
        x_size, y_size = voxels.shape[:2]
        rows = np.ascontiguousarray(voxels.reshape(voxels.shape[:3]).T).reshape(-1, x_size)
        # Some arrays cannot be written, and numba would compile once for these and once for others.
        rows.flags.writeable = False
        place, row = np.array(origin, np.int64), 0
        self._reserve(x_size)
        while True:
            row, self._used = kernels.count_rows(rows, (row, y_size), place, self._slots, self._boxes, self._used)
            if row == len(rows):
                return
            if len(self._slots) < self._most_slots:
                self._grow(2 * len(self._slots))
            else:
                self._full(self.take())

    def take(self) -> Table:
        """Return what was counted since the last `take`, and forget it."""
        taken = np.flatnonzero(self._slots[:, 1])
        taken = taken[np.argsort(self._slots[taken, 0])]
        table = np.empty(len(taken), self._type)
        table["label"], table["voxels"] = self._slots[taken].T
        if len(self._boxes):
            boxes = self._boxes[taken]
            table["start"], table["stop"] = boxes[:, :3], boxes[:, 3:]
        self._clear(len(self._slots))
        return table

    def _reserve(self, row_length: int) -> None:
        """Make sure that a row fits an empty table."""
        least = 2 ** (2 * row_length).bit_length()
        self._most_slots = max(self._most_slots, least)
        if len(self._slots) < least:
            self._grow(least)

    def _grow(self, slots: int) -> None:
        from beam_volumes import voxel_count_kernels as kernels

        before, used = (self._slots, self._boxes), self._used
        self._clear(slots)
        kernels.move_slots(*before, self._slots, self._boxes)
        self._used = used

    def _clear(self, slots: int) -> None:
        self._slots: npt.NDArray[Any] = np.zeros((slots, 2), np.uint64)
        self._boxes = np.empty((slots if self._type == BOXED_COUNTS else 0, 6), np.int64)
        self._used = 0
