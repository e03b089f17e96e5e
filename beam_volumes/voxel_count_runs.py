"""Sorted tables of counts in files, and the merge of any number of them as streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from beam_volumes.payloads import PackReader, PackWriter, Payload
from beam_volumes.voxel_counts import Table, add_up

FAN_IN = 512
"""The most runs that one merge reads."""

_LEAST_WINDOW_ROWS = 64


class Run(NamedTuple):
    """A sorted table in a pack in scratch."""

    pack: str
    payload: Payload


def append_run(pack: PackWriter, tables: Iterable[Table]) -> Payload:
    """Add a run to a pack; `tables` are its parts, in order."""
    return pack.append_stream(table.tobytes() for table in tables)


class RunMerge:
    """The sum of sorted tables, as one sorted table in parts: iterate once.

    A window of each run is in memory. Of all windows the rows up to the smallest last label are complete: rows that
    have not been read have larger labels. They are added up, and at least one window is used up and read again.

    Memory: four times `window_bytes` at most (windows, a concatenation, its sorted copy, the sums), or 64 rows of each
    run if that is more.

    Args:
        packs: where the runs are.
        runs: of rows of type `row`.
        window_bytes: of all windows together.

    Attributes:
        rows_in: that were read; rows_out: that were yielded; most_rows_held: in all windows at any time.

    """

    def __init__(self, packs: PackReader, runs: Sequence[Run], row: np.dtype[np.void], window_bytes: int) -> None:
        self._row = row
        self._window_rows = max(window_bytes // (row.itemsize * max(len(runs), 1)), _LEAST_WINDOW_ROWS)
        piece_bytes = self._window_rows * row.itemsize
        self._streams = [packs.stream(run.pack, run.payload, piece_bytes) for run in runs]
        self._windows = [np.empty(0, row) for _ in runs]
        self.rows_in = self.rows_out = self.most_rows_held = 0

    def __iter__(self) -> Iterator[Table]:
        """Yield the parts.

        Raises:
            CorruptDataError: a run is not what was written; its pack is removed.
            SourceError: a pack is gone or cannot be read.

        """
        while self._refill():
            # Streams that have ended have no window any more.
            cut = min(window["label"][-1] for window in self._windows)
            parts = []
            for i, window in enumerate(self._windows):
                stop = int(np.searchsorted(window["label"], cut, side="right"))
                if stop:
                    parts.append(window[:stop])
                    self._windows[i] = window[stop:]
            table = add_up(parts) if len(parts) > 1 else parts[0]
            self.rows_out += len(table)
            yield table

    def _refill(self) -> bool:
        """Read the next window of each run whose window is used up; return whether there is any window."""
        ended = []
        for i, window in enumerate(self._windows):
            if len(window):
                continue
            piece = next(self._streams[i], None)
            if piece is None:
                ended.append(i)
                continue
            self._windows[i] = np.frombuffer(piece, self._row)
            self.rows_in += len(self._windows[i])
        for i in reversed(ended):
            del self._windows[i], self._streams[i]
        self.most_rows_held = max(self.most_rows_held, sum(map(len, self._windows)))
        return bool(self._windows)
