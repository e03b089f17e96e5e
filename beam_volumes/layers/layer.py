"""A volume that is read and written as tensors, at any resolution, with processors on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_volumes.codecs import Array
from beam_volumes.errors import DestinationError, FunctionError
from beam_volumes.geometry import VolumetricIndex
from beam_volumes.layers.backend import VolumetricBackend
from beam_volumes.layers.indexing import UserIndex, VolumetricFrontend
from beam_volumes.layers.processors import IndexProcessor, Processor, checked_procs, read_through, to_write
from beam_volumes.layers.tensors import filled, fitted, is_number, to_array, to_tensor

if TYPE_CHECKING:
    import torch

PROCS = ("index_procs", "read_procs", "write_procs")


@dataclass(frozen=True)
class VolumetricLayer:
    """A volume, indexed by boxes, that gives and takes CXYZ tensors; see `build_cv_layer`.

    A value: it can be pickled, as far as its processors can, and opens its files where it is used.

    >>> import tempfile, torch
    >>> from beam_volumes.geometry import BBox3D, Vec3D, VolumetricIndex
    >>> from beam_volumes.layers import build_cv_layer
    >>> folder = tempfile.TemporaryDirectory()
    >>> reference = build_cv_layer(
    ...    path=f"file://{folder.name}/img",
    ...    info_scales=[[8, 8, 40], [16, 16, 40]],
    ...    info_bbox=BBox3D.from_coords((0, 0, 0), (256, 256, 8), resolution=(8, 8, 40)),
    ...    info_data_type="float32", info_encoding="raw", info_chunk_size=[64, 64, 1],
    ... )
    >>> reference.backend.write_info()
    >>> cvl = build_cv_layer(
    ...    path=f"file://{folder.name}/temp",  # path for the volume
    ...    info_reference_path=f"file://{folder.name}/img", # path for the reference infofile
    ...    info_chunk_size_map={"8_8_40": (128, 128, 1)} # override chunk size
    ... )
    >>> cvl.backend.get_chunk_size((8, 8, 40)), cvl.backend.get_chunk_size((16, 16, 40))
    (Vec3D(128, 128, 1), Vec3D(64, 64, 1))
    >>> idx = VolumetricIndex.from_coords(
    ...    start_coord = Vec3D(0, 0, 0),
    ...    end_coord = Vec3D(128, 128, 1),
    ...    resolution = Vec3D(8, 8, 40)
    ... )
    >>> cvl[idx] = torch.ones((1, 128, 128, 1), dtype=torch.float32) # requires CXYZ
    >>> cvl[idx.padded((1, 1, 0))].sum()
    tensor(16384.)
    >>> folder.cleanup()

    Attributes:
        backend: where the voxels stand.
        frontend: what an index means.
        readonly: whether writing is refused.
        index_procs: change the index of what is read or written.
        read_procs: change what was read; see `processors` for the order.
        write_procs: change what is to be written.

    """

    backend: VolumetricBackend
    frontend: VolumetricFrontend = field(default_factory=VolumetricFrontend)
    readonly: bool = False
    index_procs: Sequence[IndexProcessor] = ()
    read_procs: Sequence[Processor] = ()
    write_procs: Sequence[Processor] = ()

    def __post_init__(self) -> None:
        """Check the processors."""
        for name in PROCS:
            object.__setattr__(self, name, checked_procs(getattr(self, name), name))

    @property
    def name(self) -> str:
        """The volume's location."""
        return self.backend.name

    def __getitem__(self, index: UserIndex) -> torch.Tensor:
        """Return what `index` means; see `VolumetricFrontend` for its forms."""
        return self.read_with_procs(self.frontend.convert(index))

    def __setitem__(self, index: UserIndex, data: torch.Tensor | Array | float) -> None:
        """Write what `index` means: a CXYZ tensor or array, or one number for all of it."""
        self.write_with_procs(self.frontend.convert(index), data)

    def read_with_procs(self, idx: VolumetricIndex) -> torch.Tensor:
        """Return the voxels of an index, CXYZ, as `read_procs` leave them; 0 beyond the bounds.

        Types are those of the volume, but int32 for uint16, and int64 for uint32 and uint64.

        Raises:
            OptionError: there is no such resolution.
            GeometryError: the index has no whole voxels.
            SourceError: the volume cannot be read.

        """
        data: torch.Tensor = read_through(idx, self._read, self.index_procs, self.read_procs)
        return data

    def write_with_procs(self, idx: VolumetricIndex, data: torch.Tensor | Array | float) -> None:
        """Write the voxels of an index, as `write_procs` leave them; the rest of their chunks stays as it is.

        Raises:
            OptionError: there is no such resolution.
            GeometryError: the index has no whole voxels.
            FunctionError: the data have another shape, or values that the volume cannot hold.
            DestinationError: the layer is read-only, the index goes beyond the bounds, or the volume cannot be written.

        """
        if self.readonly:
            raise DestinationError(
                f"{self.name}: expected no writes, since the layer is read-only: build it with readonly=False"
            )
        self.backend.write(*self.to_be_written(idx, data))

    def to_be_written(self, idx: VolumetricIndex, data: torch.Tensor | Array | float) -> tuple[VolumetricIndex, Array]:
        """Return the index, and the values of the volume's type (CXYZ), that processors make of what is to be written.

        Raises:
            GeometryError: the index has no whole voxels.
            FunctionError: the data have another shape, or values that the volume cannot hold.

        """
        values = self._values_for(idx, data)
        changed = to_tensor(np.array(values), self.name) if self.write_procs else values
        idx, changed = to_write(idx, changed, self.index_procs, self.write_procs)
        values = to_array(changed)
        self._check_shape(values, idx)
        where = f"{self.name}, to be written to {idx.pformat()}"
        return idx, fitted(values, self.backend.data_type, where)

    def with_changes(self, **changes: Any) -> VolumetricLayer:
        """Return a layer with other attributes."""
        return replace(self, **changes)

    def _read(self, idx: VolumetricIndex) -> torch.Tensor:
        return to_tensor(self.backend.read(idx), self.name)

    def _values_for(self, idx: VolumetricIndex, data: Any) -> Array:
        """Return data as an array; a number as one of the shape of an index, CXYZ, that holds it throughout."""
        if not is_number(data):
            return to_array(data)
        return filled(data, self._shape(idx), self.backend.data_type)

    def _shape(self, idx: VolumetricIndex) -> tuple[int, ...]:
        return (self.backend.num_channels, *idx.shape)

    def _check_shape(self, values: Array, idx: VolumetricIndex) -> None:
        if values.shape != self._shape(idx):
            raise FunctionError(
                f"{self.name}: expected data of shape {self._shape(idx)} (C, x, y, z) to write to {idx.pformat()} at "
                f"resolution {idx.resolution}, came {values.shape}: give one number, or data of that shape"
            )
