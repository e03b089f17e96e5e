"""Questions to a spatial index: which files hold a label, which labels lie in a box, what box a label has.

    index = SpatialIndex(find_index_files("gs://bucket/seg", "mesh"), parse_database_url("sqlite://index.db"))
    index.files_of_labels([5, 7])        # {5: ["0-1024_0-1024_0-2560.spatial"], ...}
    index.labels_in_box((0, 0, 0, 500, 500, 400))
    index.box_of_label(5)

Without a database all is found in the files. The database knows which label is in which file, but no boxes: of these
the files tell, and the database only which of them to read. The same questions to CloudVolume's `SpatialIndex`:

    files_of_labels      file_locations_per_label (as here a label without files is not in the answer)
    labels_in_box        query; but CloudVolume answers with all labels, not looking at their boxes, as soon as the box
                         meets every task at the border of the volume: here all are looked at, unless the box holds
                         the whole volume
    box_of_label         get_bbox; None for a label that is nowhere
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from beam_volumes.errors import OptionError
from beam_volumes.spatial_index.database import Cursor, open_database
from beam_volumes.spatial_index.files import IndexFiles, LabelBoxes, Labels, NmBox, decode_boxes, decode_labels
from beam_volumes.spatial_index.urls import DatabaseUrl

WholeBox = tuple[int, int, int, int, int, int]
"""x0, y0, z0, x1, y1, z1, nm, half open."""

_LABELS_PER_QUESTION = 1_000
_ROWS_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class SpatialIndex:
    """An index, asked through its database if one is given, else through its files.

    Attributes:
        fill_missing: whether a missing file counts as one without labels; else it is an error.

    Every method raises:
        SourceError: a file is missing or cannot be read.
        CorruptDataError: a file holds something else.
        DatabaseError: the database cannot be reached.

    """

    files: IndexFiles
    database: DatabaseUrl | None = None
    fill_missing: bool = False

    def files_of_labels(self, labels: Iterable[int] | None = None) -> dict[int, list[str]]:
        """Return the names of the files that hold each label, sorted; of all labels where none are given.

        A label that is in no file is left out.
        """
        wanted = None if labels is None else np.unique(np.fromiter(labels, np.uint64))
        lookups = self._lookups(wanted) if self.database is not None else self._read_lookups(wanted)
        found: dict[int, list[str]] = {}
        for label, name in lookups:
            found.setdefault(label, []).append(name)
        return {label: sorted(found[label]) for label in sorted(found)}

    def labels_in_box(self, box_nm: NmBox | None = None) -> Labels:
        """Return the labels whose boxes share space with a box, nm; all labels for None; sorted.

        Raises:
            OptionError: the box ends before it starts.

        """
        x0, y0, z0, x1, y1, z1 = (float(n) for n in self.files.grid.bounds_nm)
        low, high = (np.array(corner, float) for corner in ((x0, y0, z0), (x1, y1, z1)))
        if box_nm is None:
            return self._all_labels()
        if not np.less_equal(box_nm[:3], box_nm[3:]).all():
            raise OptionError(
                f"box_nm: expected x0, y0, z0, x1, y1, z1 in nm, the start of a box and then its end, came {box_nm}: "
                "put the lower corner first"
            )
        start, stop = np.maximum(box_nm[:3], low), np.minimum(box_nm[3:], high)
        if (start >= stop).any():
            return np.empty(0, np.uint64)
        if (start == low).all() and (stop == high).all():
            return self._all_labels()
        found = [np.empty(0, np.uint64)]
        cut: Any = tuple(float(n) for n in (*start, *stop))
        for name, data in self._contents(self.files.grid.tasks_meeting(cut)):
            labels, boxes = decode_boxes(data, name)
            found.append(labels[((boxes[:, :3] < stop) & (boxes[:, 3:] > start)).all(axis=1)])
        return np.unique(np.concatenate(found))

    def box_of_label(self, label: int) -> WholeBox | None:
        """Return the box that holds the whole of a label, or None where no file has it."""
        tasks = range(len(self.files)) if self.database is None else self._tasks_of(label)
        boxes = [box for found in self._boxes(tasks) for box in found.boxes[found.labels == label]]
        if not boxes:
            return None
        x0, y0, z0 = (int(n) for n in np.min(boxes, axis=0)[:3])
        x1, y1, z1 = (int(n) for n in np.max(boxes, axis=0)[3:])
        return (x0, y0, z0, x1, y1, z1)

    def _all_labels(self) -> Labels:
        if self.database is None:
            found = [decode_labels(data, name) for name, data in self._contents(range(len(self.files)))]
            return np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
        database = open_database(self.database)

        def work(cursor: Cursor) -> list[int]:
            cursor.execute("SELECT DISTINCT label FROM file_lookup")
            return [row[0] for rows in _portions(cursor) for row in rows]

        return np.sort(database.labels_of(database.read(work)))

    def _read_lookups(self, labels: Labels | None) -> Iterator[tuple[int, str]]:
        """Yield labels and names of files, from the files."""
        for name, data in self._contents(range(len(self.files))):
            here = decode_labels(data, name)
            wanted = here if labels is None else np.intersect1d(here, labels, assume_unique=True)
            yield from ((label, name.rpartition("/")[2]) for label in wanted.tolist())

    def _lookups(self, labels: Labels | None) -> Iterator[tuple[int, str]]:
        """Yield labels and names of files, in any order."""
        if self.database is None:
            return
        database = open_database(self.database)
        select = "SELECT label, filename FROM file_lookup JOIN index_files ON fid = id"
        steps = (
            [None]
            if labels is None
            else [labels[i : i + _LABELS_PER_QUESTION] for i in range(0, len(labels), _LABELS_PER_QUESTION)]
        )
        for step in steps:
            values = [] if step is None else database.values_of(step)
            among = f" WHERE label IN ({','.join([database.dialect.place] * len(values))})" if values else ""

            def work(cursor: Cursor, among: str = among, values: list[int] = values) -> list[tuple[int, str]]:
                cursor.execute(f"{select}{among}", values)
                return [row for rows in _portions(cursor) for row in rows]

            rows = database.read(work)
            plain = database.labels_of([row[0] for row in rows]).tolist()
            yield from zip(plain, (row[1] for row in rows), strict=True)

    def _tasks_of(self, label: int) -> list[int]:
        """Return the files that hold a label, by their indices in the grid."""
        return sorted(self.files.grid.task_of(name) for _, name in self._lookups(np.array([label], np.uint64)))

    def _boxes(self, tasks: Iterable[int]) -> Iterator[LabelBoxes]:
        return (decode_boxes(data, name) for name, data in self._contents(tasks))

    def _contents(self, tasks: Iterable[int]) -> Iterator[tuple[str, bytes]]:
        """Yield name and JSON of files, without those that may be missing."""
        tasks = list(tasks)
        for task, data in zip(tasks, self.files.read(tasks), strict=True):
            if data is not None:
                yield f"{self.files.url}/{self.files.grid.name(task)}", data
            elif not self.fill_missing:
                raise self.files.missing([task])


def _portions(cursor: Cursor) -> Iterator[Any]:
    while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
        yield rows
