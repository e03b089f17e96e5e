"""The files of counts: a table for data frames, a map for other tools, and a picture; written as streams."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import crc32c
import numpy as np
import numpy.typing as npt

from beam_volumes import runs
from beam_volumes.errors import DestinationError
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


SPOOLED_BYTES = 16
"""In the temporary folder, of each label."""

_READ_BYTES = 2**22


class CountTotals(NamedTuple):
    """What was written; `bytes` are sizes of files by name, `crc32c` checksums. Objects are labels other than 0."""

    labels: int
    objects: int
    voxels: int
    background_voxels: int
    median_voxels: int
    bytes: dict[str, int]
    crc32c: dict[str, int]


def write_count_files(claim: runs.Claim, prefix: str, tables: Iterable[Table], subject: Subject) -> CountTotals:
    """Write the three files of a volume's counts below `prefix`; the same bytes for the same counts.

    The table has the columns label, voxels (uint64), volume_nm3 (float64), background (bool: label 0) and, of tables
    with boxes, x0, y0, z0, x1, y1, z1 (int64, half open, voxels); sorted by label. The map has every label, 0 too, and
    is left out where there are more of them than its format can hold, 2^32 - 1.

    Memory: a row group. Disk: 16 bytes per label in the temporary folder (TMPDIR), and there too the files themselves
    on their way to a bucket.

    Args:
        claim: on the volume; looked at all along, and before each file takes its place.
        prefix: of the names in the volume; ends with a slash.
        tables: the parts of one sorted table, in order.
        subject: what was counted.

    Raises:
        DestinationError: a file cannot be written, the temporary folder is full, or the volume has been taken over.

    """
    folder, histogram, checksums = Folder(claim.url), SizeHistogram(), dict[str, int]()
    voxels = background = 0
    with _Spool() as spool:
        with folder.write_stream(prefix + TABLE) as out:
            writer = _ParquetWriter(out, subject.voxel_nm3)
            for rows in runs.while_claimed(claim, regrouped(tables, GROUP_ROWS)):
                is_background = rows["label"] == 0
                voxels += int(rows["voxels"].sum())
                background += int(rows["voxels"][is_background].sum())
                histogram.add(rows["voxels"][~is_background])
                spool.add(rows)
                writer.write(rows)
            writer.close()
            checksums[TABLE] = _checksum(out)
            runs.check_claim(claim)
        if spool.labels <= MOST_ENTRIES:
            with folder.write_stream(prefix + MAP) as out:
                _write_map(out, spool.labels, runs.while_claimed(claim, spool.entries()))
                checksums[MAP] = _checksum(out)
                runs.check_claim(claim)
        else:
            runs.check_claim(claim)
            folder.delete([prefix + MAP])
    picture = draw(histogram, subject)
    checksums[PICTURE] = crc32c.crc32c(picture)
    runs.check_claim(claim)
    folder.write(prefix + PICTURE, picture, content_type="image/png")
    sizes = {name: folder.size(prefix + name) or 0 for name in sorted(checksums)}
    objects = int(histogram.objects.sum())
    return CountTotals(spool.labels, objects, voxels, background, histogram.median, sizes, checksums)


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


class _Spool:
    """Labels and their voxels in the temporary folder, in a file without a name: nothing of it stays.

    It is written without a buffer, which would be written again, and fail again, when a full disk's file is closed.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.labels = 0

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, rows: Table) -> None:
        """Write rows after those that are there.

        Raises:
            DestinationError: there is no place for them.

        """
        self.labels += len(rows)
        rest = memoryview(np.stack([rows["label"], rows["voxels"]], axis=1).tobytes())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            raise DestinationError(
                f"{tempfile.gettempdir()}: expected to write {SPOOLED_BYTES * self.labels:,} bytes or more to the "
                f"temporary folder ({SPOOLED_BYTES} of each label), came {reason}: set TMPDIR, or give the workers a "
                "larger disk, then give the same command again"
            ) from error

    def entries(self) -> Iterator[npt.NDArray[np.uint64]]:
        """Yield what was added, (n, 2)."""
        self._file.seek(0)
        while len(numbers := np.fromfile(self._file, np.uint64, 2 * GROUP_ROWS)):
            yield numbers.reshape(-1, 2)


def _checksum(file: BinaryIO) -> int:
    """Return the crc32c of a whole file."""
    file.seek(0)
    crc = 0
    while block := file.read(_READ_BYTES):
        crc = crc32c.crc32c(block, crc)
    return int(crc)


def _write_map(out: BinaryIO, labels: int, entries: Iterable[npt.NDArray[np.uint64]]) -> None:
    writer = IntMapWriter(out, labels)
    for some in entries:
        writer.write(some)
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
