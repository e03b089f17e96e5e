"""Tables of labels and their voxels, as they travel between the elements of meshing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LABEL_ROW = np.dtype([("label", "<u8"), ("voxels", "<u8")])
"""A label and its voxels: in one cell, or in the volume."""

LabelRows = npt.NDArray[np.void]


def label_rows(labels: npt.NDArray[np.uint64], voxels: npt.NDArray[np.uint64] | int) -> LabelRows:
    """Return rows of `LABEL_ROW`, without background."""
    rows = np.empty(len(labels), LABEL_ROW)
    rows["label"], rows["voxels"] = labels, voxels
    return rows[rows["label"] != 0]
