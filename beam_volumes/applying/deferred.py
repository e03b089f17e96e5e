"""What mode `defer` leaves: the chunks of the top level with their pads, for the user to blend.

Chunks that overlap are in different volumes: `deferred_0_1_0` holds those at an even place along x, an odd one along y
and an even one along z; along axes without blend all places count as even. Each volume is Precomputed, unsharded and
raw, in the voxels of the destination. A chunk stands where it belongs, with its pads, also where they reach beyond the
box that was processed; between chunks nothing is stored, so read it with `fill_missing`.

To blend as mode quadratic, linear or bump would: multiply each chunk by `blending.axis_weights` along each axis, add up
the volumes, and round integers. Values have been rounded to the destination's type before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from beam_volumes.applying.outputs import Written, checksum
from beam_volumes.blending import Voxels
from beam_volumes.destinations import as_read, write_json
from beam_volumes.errors import FunctionError, OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.layers.chunk_files import ChunkFiles, ChunkForm
from beam_volumes.layers.indexing import as_vec
from beam_volumes.precomputed.info import Json, Scale, volume_info
from beam_volumes.storage import Folder, join, normalize
from beam_volumes.subchunks import SubchunkPlan, VoxelKind

_CELLS_PER_CHUNK = 4
"""Along an axis, at most, without pads: what is encoded at once is small beside the chunk that is left."""


@dataclass(frozen=True)
class DeferredLayers:
    """The volumes of one output of a run.

    Attributes:
        folder: of the volumes.
        plan: how the run is cut.
        kind: channels and type of the output.
        resolution: nm per voxel.

    """

    folder: str
    plan: SubchunkPlan
    kind: VoxelKind
    resolution: tuple[float, float, float]

    @classmethod
    def planned(cls, plan: SubchunkPlan, kind: VoxelKind, resolution: Sequence[float], folder: str) -> DeferredLayers:
        """Return the volumes of a run whose top level has mode defer; nothing is written.

        Raises:
            OptionError: the folder is no place that can be written, or holds the volumes of another run.

        """
        x, y, z = as_vec(resolution, "dst_resolution")
        found = cls(normalize(folder), plan, kind, (x, y, z))
        for name, info in found.infos.items():
            standing = Folder(join(found.folder, name)).read_json("info")
            if standing not in (None, info):
                raise OptionError(
                    f"level_intermediaries_dirs: expected a folder without deferred chunks of other sizes or places, "
                    f"came {found.folder}, whose {name} holds such: name another folder, or remove {name}"
                )
        return found

    @cached_property
    def infos(self) -> dict[str, Json]:
        """The `info` of each volume, by name."""
        return {_name(p): as_read(volume_info({}, "image", [self._scale(p)], clean=True)) for p in self._parities()}

    def write_infos(self) -> None:
        """Write the `info` of each volume.

        Raises:
            DestinationError: one cannot be written.

        """
        for name, info in self.infos.items():
            folder = Folder(join(self.folder, name))
            if folder.read_json("info") != info:
                write_json(folder, "info", info)

    def write(self, top: int, box: Box, values: Voxels) -> Written:
        """Write what a chunk of the top level yields; zeros, too. The same values give the same bytes.

        Memory: a quarter of the chunk along each axis, decoded and encoded.

        Args:
            top: index of the chunk.
            box: the chunk with its blend.
            values: CXYZ of the output's type.

        Raises:
            FunctionError: the values have another shape or type, or the box is not that of the chunk.
            DestinationError: they cannot be written.

        """
        expected = (self.kind.channels, *self.plan.top_chunk(top).wanted.shape)
        if box != self.plan.top_chunk(top).wanted or values.shape != expected or values.dtype != self.kind.data_type:
            raise FunctionError(
                f"{self.folder}: expected {expected} of {self.kind.data_type} (C, x, y, z) for box "
                f"{self.plan.top_chunk(top).wanted} of chunk {top}, came {values.shape} of {values.dtype} for {box}"
            )
        parity = self._parity(top)
        scale = self._scale(parity)
        info = self.infos[_name(parity)]
        form = ChunkForm.of_scale(info, info["scales"][0], scale.chunks)
        files = ChunkFiles(join(self.folder, _name(parity)), scale.key, form, fill_missing=False)
        voxels = np.moveaxis(values, 0, 3)
        for position in scale.chunks.positions_meeting(box):
            cell = scale.chunks.box(position)
            part = cell.intersection(box)
            array = np.zeros((*cell.shape, self.kind.channels), self.kind.data_type, order="F")
            array[part.slices(cell.start)] = voxels[part.slices(box.start)]
            files.write(position, array, "gzip")
        return Written(box.voxels, values.nbytes, checksum(values))

    def _parity(self, top: int) -> Vec:
        rest, x = divmod(top, self.plan.shape[0])
        z, y = divmod(rest, self.plan.shape[1])
        a, b, c = (n % period for n, period in zip((x, y, z), self._periods, strict=True))
        return (a, b, c)

    @property
    def _periods(self) -> Vec:
        """After how many chunks along each axis the next one is in the same volume."""
        x, y, z = (2 if blend else 1 for blend in self.plan.top.blend)
        return (x, y, z)

    def _parities(self) -> Iterator[Vec]:
        yield from itertools.product(*(range(min(p, n)) for p, n in zip(self._periods, self.plan.shape, strict=True)))

    def _scale(self, parity: Vec) -> Scale:
        """Return the one scale of a volume, from its first chunk to its last one."""
        plan, top = self.plan, self.plan.top
        start, stop, cell = [], [], []
        for axis, (place, period, count) in enumerate(zip(parity, self._periods, plan.shape, strict=True)):
            step, blend = top.chunk[axis] + plan.gap[axis], top.blend[axis]
            last = (count - 1 - place) // period * period + place
            start.append(plan.bounds.start[axis] + place * step - blend)
            stop.append(plan.bounds.start[axis] + last * step + top.chunk[axis] + blend)
            cell.append(_cell(period * step, top.chunk[axis]))
        box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        chunk = (cell[0], cell[1], cell[2])
        return Scale(self.resolution, box, chunk, "raw", self.kind.data_type, self.kind.channels, None)


def _cell(period: int, chunk: int) -> int:
    """Return the voxels of a stored chunk along an axis: of whole ones, so that each is of one chunk of the plan."""
    least = -(-chunk // _CELLS_PER_CHUNK)
    return min(n for count in range(1, period // least + 1) if period % count == 0 and (n := period // count) >= least)


def _name(parity: Vec) -> str:
    return f"deferred_{'_'.join(str(n) for n in parity)}"
