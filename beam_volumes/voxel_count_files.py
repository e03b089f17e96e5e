"""The files of counts: a table for data frames, a map for other tools, and a picture; written as streams."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from beam_volumes.int_map import MOST_ENTRIES, IntMapWriter
from beam_volumes.size_histogram import SizeHistogram, Subject, draw
from beam_volumes.storage import Folder
from beam_volumes.voxel_counts import BOXED_COUNTS, Table

if TYPE_CHECKING:
    import pyarrow as pa

MAP = "voxel_counts.im"
TABLE = "voxel_counts.parquet"
PICTURE = "voxel_counts.png"
FILES = (MAP, TABLE, PICTURE)
REPORT = "voxel_counts.json"

GROUP_ROWS = 2**18
"""In a row group of the table: what is in memory at a time."""


class CountTotals(NamedTuple):
    """What was written; `bytes` are sizes of files by name. Objects are labels other than 0."""

    labels: int
    objects: int
    voxels: int
    background_voxels: int
    median_voxels: int
    bytes: dict[str, int]


def write_count_files(folder: Folder, prefix: str, tables: Iterable[Table], subject: Subject) -> CountTotals:
    """Write the three files of a volume's counts below `prefix`; the same bytes for the same counts.

    The table has the columns label, voxels (uint64), volume_nm3 (float64), background (bool: label 0) and, of tables
    with boxes, x0, y0, z0, x1, y1, z1 (int64, half open, voxels); sorted by label. The map has every label, 0 too, and
    is left out where there are more of them than its format can hold, 2^32 - 1.

    Memory: a row group. Disk: 16 bytes per label in the temporary folder (TMPDIR), and there too the files themselves
    on their way to a bucket.

    Args:
        folder: where to write.
        prefix: of the names; ends with a slash.
        tables: the parts of one sorted table, in order.
        subject: what was counted.

    """
    histogram, labels, voxels, background = SizeHistogram(), 0, 0, 0
    with tempfile.TemporaryFile() as counts:
        with folder.write_stream(prefix + TABLE) as out:
            writer = _ParquetWriter(out, subject.voxel_nm3)
            for rows in regrouped(tables, GROUP_ROWS):
                is_background = rows["label"] == 0
                labels += len(rows)
                voxels += int(rows["voxels"].sum())
                background += int(rows["voxels"][is_background].sum())
                histogram.add(rows["voxels"][~is_background])
                np.stack([rows["label"], rows["voxels"]], axis=1).tofile(counts)
                writer.write(rows)
            writer.close()
        names = [TABLE, PICTURE]
        if labels <= MOST_ENTRIES:
            names.append(MAP)
            with folder.write_stream(prefix + MAP) as out:
                _write_map(out, labels, counts)
        else:
            folder.delete([prefix + MAP])
    folder.write(prefix + PICTURE, draw(histogram, subject), content_type="image/png")
    sizes = {name: folder.size(prefix + name) or 0 for name in sorted(names)}
    objects = int(histogram.objects.sum())
    return CountTotals(labels, objects, voxels, background, histogram.median, sizes)


def regrouped(tables: Iterable[Table], rows: int) -> Iterator[Table]:
    """Yield the same rows in tables of exactly `rows` rows, but for the last, whatever parts they come in."""
    held: list[Table] = []
    for table in tables:
        start, have = 0, sum(map(len, held))
        while have + len(table) - start >= rows:
            stop = start + rows - have
            yield np.concatenate([*held, table[start:stop]])
            held, start, have = [], stop, 0
        if start < len(table):
            held.append(table[start:])
    if held:
        yield np.concatenate(held)


def _write_map(out: BinaryIO, labels: int, counts: IO[bytes]) -> None:
    counts.flush()
    counts.seek(0)
    writer = IntMapWriter(out, labels)
    while data := counts.read(16 * GROUP_ROWS):
        writer.write(np.frombuffer(data, np.uint64).reshape(-1, 2))
    writer.finish()


class _ParquetWriter:
    """Writes tables as row groups; what pyarrow needs is loaded here."""

    def __init__(self, out: BinaryIO, voxel_nm3: float) -> None:
        self._out, self._voxel_nm3 = out, voxel_nm3
        self._writer: Any = None

    def write(self, rows: Table) -> None:
        """Write one row group."""
        import pyarrow as pa

        columns = count_columns(rows, self._voxel_nm3)
        group = pa.table(columns)
        if self._writer is None:
            self._open(group.schema)
        self._writer.write_table(group, row_group_size=GROUP_ROWS)

    def close(self) -> None:
        """Write the end of the file."""
        if self._writer is None:
            self.write(np.empty(0, BOXED_COUNTS))
        self._writer.close()

    def _open(self, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        # Sorted labels are close to each other: their differences take few bits.
        encoding = {"label": "DELTA_BINARY_PACKED"}
        self._writer = pq.ParquetWriter(
            cast(Any, self._out), schema, compression="zstd", use_dictionary=False, column_encoding=encoding
        )


def count_columns(rows: Table, voxel_nm3: float) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of the table of counts."""
    columns = {
        "label": rows["label"],
        "voxels": rows["voxels"],
        "volume_nm3": rows["voxels"] * voxel_nm3,
        "background": rows["label"] == 0,
    }
    if rows.dtype == BOXED_COUNTS:
        for corner, number in (("start", 0), ("stop", 1)):
            for axis, name in enumerate("xyz"):
                columns[f"{name}{number}"] = rows[corner][:, axis]
    return {name: np.ascontiguousarray(column) for name, column in columns.items()}
