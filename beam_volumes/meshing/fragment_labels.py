"""Which labels have a fragment in a box; and what it means that a box has no file of fragments.

Every box has a file where this program has forged. Other tools write none for boxes without labels, but tell of them in
the spatial index: `{}`. What neither tells of may have been lost.
"""

from __future__ import annotations

import numpy as np

from beam_volumes.errors import SourceError
from beam_volumes.map_buffer import Words, read_keys
from beam_volumes.meshing.mesh_plan import FragmentFiles
from beam_volumes.spatial_index.files import decode_labels
from beam_volumes.storage import Folder, join


def labels_of_fragments(files: FragmentFiles, cell: int, *, fill_missing: bool) -> Words | None:
    """Return the labels in the file of a cell, sorted; None where there is no file, and that is accepted.

    Args:
        files: the fragments.
        cell: whose file it is.
        fill_missing: whether a file may be missing of which the spatial index does not say that it would be empty.

    Raises:
        SourceError: the file is missing, or cannot be read.
        CorruptDataError: it is not what was written.

    """
    folder, name = Folder(files.url), files.name(cell)
    try:
        return read_keys(folder, name)
    except SourceError as error:
        if folder.exists(name):
            raise
        known = _labels_of_index(files, cell)
        if known == 0:
            return np.empty(0, np.uint64)
        if fill_missing:
            return None
        says = "nothing tells that its box is empty" if known is None else f"{known:,} labels are in its box"
        raise SourceError(
            f"{join(files.url, name)}: expected the fragments of a box, but there is no such file, and {says}: forge "
            "that box again, or take it for empty with --fill_missing"
        ) from error


def _labels_of_index(files: FragmentFiles, cell: int) -> int | None:
    """Return how many labels the spatial index has in a cell; None where there is none, or it does not tell."""
    if files.index is None:
        return None
    data = next(files.index.read([cell]))
    return None if data is None else len(decode_labels(data, f"{files.index.url}/{files.index.grid.name(cell)}"))
