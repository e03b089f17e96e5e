"""A source in memory."""

from __future__ import annotations

from beam_volumes.codecs import Array
from beam_volumes.geometry import Box, Vec
from beam_volumes.sources import Source


class ArrayReader:
    """Reads an array as if it were a volume, and counts the voxels that are read.

    Args:
        array: XYZC voxels.
        offset: the place of the first one.

    """

    def __init__(self, array: Array, offset: Vec) -> None:
        self.array, self.offset, self.voxels_read = array, offset, 0

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        """Return a copy of the voxels of `box`; none is missing."""
        self.voxels_read += box.voxels
        return self.array[box.slices(self.offset)].copy(order="F"), []


def source_of(array: Array, offset: Vec, chunk: Vec) -> Source:
    """Return what would be known of an array (XYZC) if it were stored in chunks, the first of which begins with it."""
    x, y, z, channels = array.shape
    return Source(
        url="array://",
        voxels_url="array://",
        mip=0,
        box=Box.of_shape((x, y, z), offset),
        resolution_nm=(16.0, 16.0, 40.0),
        data_type=str(array.dtype),
        num_channels=channels,
        layer_type="segmentation",
        chunk=chunk,
        chunk_origin=offset,
        info={"mesh": "mesh", "data_dir": "elsewhere"},
    )
