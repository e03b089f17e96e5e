"""Where the voxels of a layer stand: what is the same whatever stores them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from beam_volumes.codecs import Array
from beam_volumes.destinations import write_json
from beam_volumes.errors import DestinationError, FunctionError
from beam_volumes.geometry import Box, Grid, Vec3D, VolumetricIndex
from beam_volumes.geometry.sides import SnapMode
from beam_volumes.layers.indexing import as_vec
from beam_volumes.layers.volume import LayerVolume
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder


class VolumetricBackend(ABC):
    """A volume that is read and written as arrays: CXYZ, of the type in which it is stored.

    It can be pickled, before and after it is used; files are opened where it is read or written.

    Attributes:
        volume: its `info` and scales.
        unwritten: the `info`, if it is not the one that stands there: `write_info` writes it, and so does the first
            write of voxels. A plan that is only looked at so writes nothing.

    """

    def __init__(self, volume: LayerVolume, unwritten: Json | None = None) -> None:
        self.volume, self.unwritten = volume, unwritten

    @property
    def name(self) -> str:
        """The volume's location."""
        return self.volume.path

    @property
    def data_type(self) -> str:
        """In which values are stored, as numpy names it."""
        return self.volume.data_type

    @property
    def num_channels(self) -> int:
        """Values for each voxel."""
        return self.volume.num_channels

    @property
    def layer_type(self) -> str:
        """`image` or `segmentation`."""
        return self.volume.layer_type

    def get_bounds(self, resolution: Sequence[float]) -> VolumetricIndex:
        """Return all voxels of the scale of a resolution."""
        bounds = self._grid(resolution).bounds
        return VolumetricIndex.from_coords(bounds.start, bounds.stop, as_vec(resolution, "resolution"))

    def get_chunk_size(self, resolution: Sequence[float]) -> Vec3D[int]:
        """Return the voxels of a stored chunk along x, y and z."""
        return Vec3D(*self._grid(resolution).cell)

    def get_voxel_offset(self, resolution: Sequence[float]) -> Vec3D[int]:
        """Return the first voxel, where the grid of chunks begins."""
        return Vec3D(*self._grid(resolution).bounds.start)

    def get_dataset_size(self, resolution: Sequence[float]) -> Vec3D[int]:
        """Return the number of voxels along x, y and z."""
        return Vec3D(*self._grid(resolution).bounds.shape)

    def get_chunk_aligned_index(self, idx: VolumetricIndex, mode: SnapMode) -> VolumetricIndex:
        """Return an index with its sides on the grid of chunks; see `BBox3D.snapped` for the modes.

        With `expand` it may go beyond the bounds, where the last chunks are cut off.
        """
        return idx.snapped(self.get_voxel_offset(idx.resolution), self.get_chunk_size(idx.resolution), mode)

    def read(self, idx: VolumetricIndex) -> Array:
        """Return the voxels of an index, CXYZ; 0 beyond the bounds. The array is the caller's own.

        Raises:
            OptionError: there is no such resolution.
            GeometryError: the index has no whole voxels.
            SourceError: they cannot be read.

        """
        mip, box = self.volume.mip(idx.resolution), idx.box
        inside = box.intersection(self.volume.grid(mip).bounds)
        if inside == box and box.voxels:
            return np.moveaxis(self._read(mip, box), 3, 0)
        array = np.zeros((*box.shape, self.num_channels), self.data_type, order="F")
        if inside.voxels:
            array[inside.slices(box.start)] = self._read(mip, inside)
        return np.moveaxis(array, 3, 0)

    def write(self, idx: VolumetricIndex, values: Array) -> None:
        """Write voxels, CXYZ of the type of the volume; the rest of the chunks that they are in stays as it is.

        Two processes that write into one chunk at the same time may lose what one of them has written, unless each
        writes whole chunks.

        Raises:
            OptionError: there is no such resolution.
            GeometryError: the index has no whole voxels.
            FunctionError: the values have another shape or type.
            DestinationError: some of them lie beyond the bounds, or they cannot be written.

        """
        mip, box = self.volume.mip(idx.resolution), idx.box
        expected = (self.num_channels, *box.shape)
        if values.shape != expected or values.dtype != np.dtype(self.data_type):
            raise FunctionError(
                f"{self.name}: expected {expected} of {self.data_type} (C, x, y, z) for {idx.pformat()}, came "
                f"{values.shape} of {values.dtype}: give an array of that shape and type"
            )
        bounds = self.volume.grid(mip).bounds
        if not box.voxels:
            return
        if not bounds.contains(box):
            within = self.get_bounds(idx.resolution)
            raise DestinationError(
                f"{self.name}: expected a box to write in the bounds {within.pformat()}, came {idx.pformat()} at "
                f"resolution {idx.resolution}: cut it to {idx.intersection(within).pformat()}, or give the volume "
                "larger bounds"
            )
        self.write_info()
        self._write(mip, box, np.moveaxis(values, 0, 3))

    def write_info(self) -> None:
        """Write the `info` that does not stand there yet, if there is one.

        Raises:
            DestinationError: it cannot be written.

        """
        if self.unwritten is not None:
            write_json(Folder(self.name), "info", self.unwritten)
            self.unwritten = None

    def settle(self, info: Json) -> None:
        """Take `info` as the one that stands there: another process has written it.

        All processes of a run so write by one `info`, whatever each of them would have made of what stands there now.
        """
        self.volume, self.unwritten = LayerVolume(self.name, info), None

    def check_writable(self, resolution: Sequence[float]) -> None:
        """Refuse a scale that cannot be written, before anything is.

        Raises:
            OptionError: there is no such resolution.
            DestinationError: it cannot be written.

        """
        self.volume.mip(resolution)

    def _grid(self, resolution: Sequence[float]) -> Grid:
        return self.volume.grid(self.volume.mip(resolution))

    @abstractmethod
    def _read(self, mip: int, box: Box) -> Array:
        """Return the XYZC voxels of a box, at least one, in the bounds; the array is the caller's own."""

    @abstractmethod
    def _write(self, mip: int, box: Box, values: Array) -> None:
        """Write the XYZC voxels of a box, at least one, in the bounds."""
