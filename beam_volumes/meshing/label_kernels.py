"""The loop that numbers the labels of a cell, compiled by numba; import it only where voxels are at hand."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")


@_kernel
def number_voxels(voxels: npt.NDArray[Any], labels: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint32]) -> None:
    """Write the place of each voxel's label in `labels`, from 1; 0 where it is not one of them.

    Args:
        voxels: flat, unsigned integers.
        labels: sorted, each once, without 0.
        numbers: as long as `voxels`, to write to.

    """
    before = np.uint64(0)
    number = np.uint32(0)
    for index in range(voxels.size):
        label = np.uint64(voxels[index])
        # Most voxels are like the one before.
        if label != before:
            place = np.searchsorted(labels, label)
            found = place < labels.size and labels[place] == label
            number = np.uint32(place + 1) if found else np.uint32(0)
            before = label
        numbers[index] = number
