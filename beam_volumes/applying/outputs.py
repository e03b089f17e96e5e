"""The layers that a run writes: what each of them takes, which boxes of it are one object, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import crc32c
import numpy as np

from beam_volumes.applying.failures import failures_told
from beam_volumes.applying.index_maps import IndexMap, index_map
from beam_volumes.blending import Voxels
from beam_volumes.errors import DestinationError, FunctionError, GeometryError, OptionError
from beam_volumes.geometry import Box, Grid, Vec3D, VolumetricIndex
from beam_volumes.layers import JointIndexDataProcessor, VolumetricLayer, VolumetricLayerSet
from beam_volumes.layers.indexing import as_vec
from beam_volumes.layers.processors import Processor, to_write
from beam_volumes.precomputed.info import Json
from beam_volumes.precomputed.morton import bits_per_axis
from beam_volumes.precomputed.sharding import ShardGrid, ShardingSpec
from beam_volumes.reading_plan import Lattice
from beam_volumes.subchunks import VoxelKind

Destination = VolumetricLayer | VolumetricLayerSet | None
"""What a spec may have as `dst`."""


class Written(NamedTuple):
    """What was written of a box: voxels of the output, and the bytes that were stored of them, before encoding.

    `crc32c` is that of these bytes: x fastest, then y, z and the channel, little endian.
    """

    voxels: int
    bytes: int
    crc32c: int


@dataclass(frozen=True)
class Output:
    """One layer that a run writes; boxes and cells are in voxels of `resolution`, XYZ.

    Attributes:
        name: in the layer set; "" for a layer alone.
        layer: with the processors of its set, if it is in one.
        resolution: nm per voxel of what is written.
        kind: of the values that are written.
        cells: boxes that the volume stores as one object: chunks, or shards. Where a shard is no box, it is what
            encloses it: all of the scale.
        bounds: of the dataset; what is written beyond is dropped.
        chunk_procs: of the layer's `write_procs`, those that leave the index: for each chunk that the function yields.
        writer: the layer with the rest of them, which are joint: for what is written.
        scale: the key of the scale that is written.
        stored_cells: `cells`, in voxels of that scale.
        stored_bounds: of the dataset, in voxels of that scale.
        index_map: from voxels of `resolution` to those of that scale.

    """

    name: str
    layer: VolumetricLayer
    resolution: Vec3D[float]
    kind: VoxelKind
    cells: Lattice
    bounds: Box
    chunk_procs: tuple[Processor, ...]
    writer: VolumetricLayer
    scale: str
    stored_cells: Lattice
    stored_bounds: Box
    index_map: IndexMap

    @property
    def url(self) -> str:
        """The volume."""
        return self.layer.name

    @property
    def is_segmentation(self) -> bool:
        """Whether its values are ids."""
        return self.layer.backend.layer_type == "segmentation"

    def check_box(self, box: Box) -> None:
        """Refuse a box of the run that is not of whole stored voxels.

        Raises:
            OptionError: with the box to use instead.

        """
        inside = box.intersection(self.bounds)
        if not inside.voxels or self._index(inside).allow_slice_rounding or self.index_map.is_whole(inside):
            return
        grain = self.index_map.cells(Lattice((1, 1, 1), (0, 0, 0)))
        whole = Grid(inside, grain.cell, grain.origin) if grain else None
        use = f"use {_covering(whole)}, " if whole else ""
        raise OptionError(
            f"dst, {self.url}: expected a box of whole voxels at {self.index_map.resolution} nm, in which it is "
            f"stored, came {box} at {self.resolution} nm: {use}or set allow_slice_rounding: true"
        )

    def stored_box(self, box: Box) -> Box:
        """Return what of a box is written, in voxels of the scale; of no voxels where it lies beyond the bounds."""
        return self.index_map.stored(box.intersection(self.bounds)).intersection(self.stored_bounds)

    def processed(self, box: Box, data: Any) -> Any:
        """Return what `chunk_procs` make of the data, CXYZ, of a box: as they come from the function, uncropped."""
        return to_write(self._index(box), data, (), self.chunk_procs)[1]

    def write(self, box: Box, values: Voxels) -> Written:
        """Write a box; the rest of the chunks that it has a part of stays as it is.

        Zeros are written too, or the chunk is deleted where the layer does that: nothing of what stood there survives.
        The same values give the same bytes.

        Args:
            box: what lies beyond the bounds is dropped.
            values: CXYZ of `kind`.

        Raises:
            FunctionError: the values have another shape or type, or a processor has failed.
            DestinationError: they cannot be written.

        """
        if values.shape != (self.kind.channels, *box.shape) or values.dtype != np.dtype(self.kind.data_type):
            raise FunctionError(
                f"{self.url}: expected {(self.kind.channels, *box.shape)} of {self.kind.data_type} (C, x, y, z) for "
                f"box {box}, came {values.shape} of {values.dtype}: give an array of that shape and type"
            )
        inside = box.intersection(self.bounds)
        if not inside.voxels:
            return Written(0, 0, 0)
        part = values[(slice(None), *inside.slices(box.start))]
        with failures_told("one of the processors of dst", f"box {inside}"):
            idx, stored = self.writer.to_be_written(self._index(inside), part)
        kept = idx.box.intersection(self.stored_bounds)
        stored = stored[(slice(None), *kept.slices(idx.box.start))]
        self.writer.backend.write(VolumetricIndex.from_coords(kept.start, kept.stop, idx.resolution), stored)
        return Written(inside.voxels, stored.nbytes, checksum(stored))

    def _index(self, box: Box) -> VolumetricIndex:
        return self.layer.frontend.convert(VolumetricIndex.from_coords(box.start, box.stop, self.resolution))


def outputs_of(dst: Destination, resolution: Sequence[float]) -> tuple[Output, ...]:
    """Return the layers that a run writes, sorted by name; none for a run without a destination.

    Args:
        dst: a layer, or a set of layers.
        resolution: nm per voxel of what is written.

    Raises:
        OptionError: a layer cannot be written, at this resolution or with its processors.

    """
    if dst is None:
        return ()
    wanted = as_vec(resolution, "dst_resolution")
    found = tuple(_output(name, layer, wanted) for name, layer in sorted(_layers(dst).items()))
    for i, one in enumerate(found):
        for other in found[:i]:
            _check_apart(one, other)
    return found


def shared_procs(dst: Destination) -> tuple[Callable[..., Any], ...]:
    """Return what is to be done, before each output's own `chunk_procs`, to the results of a chunk, by name.

    Raises:
        OptionError: one of them is a joint processor.

    """
    if not isinstance(dst, VolumetricLayerSet):
        return ()
    found = tuple(proc for proc in dst.write_procs if not isinstance(proc, JointIndexDataProcessor))
    if len(found) != len(dst.write_procs):
        raise OptionError(
            "dst: expected write_procs of a layer set that are functions of its data, came a joint processor, which "
            "changes the index: give it to the layers of the set"
        )
    return found


def infos_of(outputs: Sequence[Output]) -> dict[str, Json]:
    """Return the `info` that each volume has, or is to have, by location."""
    return {output.url: output.layer.backend.volume.info for output in outputs}


def settle(dst: Destination, infos: Mapping[str, Json]) -> None:
    """Let the layers of a worker take the `info` of its run's plan as the one that stands: no worker writes any.

    To be called before `outputs_of`.
    """
    for layer in _layers(dst).values() if dst is not None else ():
        layer.backend.settle(infos[layer.name])


def _layers(dst: VolumetricLayer | VolumetricLayerSet) -> dict[str, VolumetricLayer]:
    """Return the layers to write by name, each with what its set does to an index."""
    if isinstance(dst, VolumetricLayer):
        return {"": dst}
    found = {}
    for name, layer in dst.layers.items():
        if not isinstance(layer, VolumetricLayer):
            raise OptionError(f"dst: expected a layer as {name} of the set, came another set: put its layers into dst")
        frontend = layer.frontend
        if dst.frontend is not None and dst.frontend.allow_slice_rounding:
            frontend = replace(frontend, allow_slice_rounding=True)
        found[name] = layer.with_changes(
            frontend=frontend,
            readonly=layer.readonly or dst.readonly,
            index_procs=(*dst.index_procs, *layer.index_procs),
        )
    return found


def _output(name: str, layer: VolumetricLayer, resolution: Vec3D[float]) -> Output:
    where, backend = f"dst, {layer.name}", layer.backend
    if layer.readonly:
        raise OptionError(f"{where}: expected a layer to write to, came a read-only one: build it with readonly: false")
    try:
        found = index_map(layer, resolution)
        mip = backend.volume.mip(found.resolution)
        backend.check_writable(found.resolution)
    except (DestinationError, GeometryError, OptionError) as error:
        text = str(error).removeprefix("dst, ").removeprefix(f"{layer.name}: ")
        raise OptionError(f"{where}: {text}") from error
    procs = tuple(layer.write_procs)
    chunk_procs, rest = procs[: found.first_changing], procs[found.first_changing :]
    if not all(isinstance(proc, JointIndexDataProcessor) for proc in rest):
        raise OptionError(
            f"{where}: expected write_procs with those that change the index, such as {type(rest[0]).__name__}, behind "
            f"those that change data alone, came {', '.join(type(proc).__name__ for proc in procs)}: put the latter "
            "first"
        )
    grid = backend.volume.grid(mip)
    stored = _stored_cells(grid, backend.volume.scale(mip).get("sharding"))
    grain, cells = found.cells(Lattice((1, 1, 1), (0, 0, 0))), found.cells(stored)
    if grain is None or cells is None:
        raise OptionError(
            f"{where}: expected a volume whose chunks begin between whole voxels of dst_resolution {resolution}, came "
            f"chunks of {stored.cell} voxels of {found.resolution} nm from {stored.origin} on, with index_procs "
            f"{[type(proc).__name__ for proc in layer.index_procs]}: choose another voxel_offset, or another "
            "dst_resolution"
        )
    writer = layer.with_changes(write_procs=rest)
    kind = VoxelKind(backend.num_channels, backend.data_type)
    bounds = found.covering(grid.bounds, grain)
    scale = str(backend.volume.scale(mip)["key"])
    output = Output(
        name, layer, resolution, kind, cells, bounds, chunk_procs, writer, scale, stored, grid.bounds, found
    )
    _check_processors(output, grain)
    return output


def _check_processors(output: Output, grain: Lattice) -> None:
    """Try with zeros, on a copy of the processors, whether what is written fits where it goes."""
    x, y, z = grain.cell
    box = Box.of_shape((2 * x, 2 * y, 2 * z), grain.origin)
    zeros = np.zeros((output.kind.channels, *box.shape), output.kind.data_type)
    try:
        output.writer.to_be_written(output._index(box), zeros)
    except (FunctionError, GeometryError) as error:
        raise OptionError(
            f"dst, {output.url}: expected index_procs and write_procs that fit its scale {output.scale}, but: {error}"
        ) from error


def _check_apart(one: Output, other: Output) -> None:
    if one.url != other.url:
        return
    if one.scale == other.scale:
        raise OptionError(
            f"dst: expected another scale for each layer of a set, came {other.name} and {one.name}, which both write "
            f"to {one.scale} of {one.url}: give one of them another path"
        )
    if one.layer.backend.volume.info != other.layer.backend.volume.info:
        raise OptionError(
            f"dst: expected one info of the layers {other.name} and {one.name}, which both write to {one.url}, came "
            "two: describe the scales of both in each of them"
        )


def _stored_cells(grid: Grid, sharding: Any) -> Lattice:
    """Return the boxes that a scale stores as one object: chunks, or shards."""
    if sharding is None:
        return Lattice(grid.cell, grid.origin)
    spec = ShardingSpec.from_info(sharding)
    chunks = grid.shape
    if spec is not None and spec.preshift_bits + spec.minishard_bits + spec.shard_bits >= sum(bits_per_axis(chunks)):
        chunks = ShardGrid(chunks, spec).shard_chunks
    # Else shards hold chunks from here and there.
    x, y, z = (n * c for n, c in zip(chunks, grid.cell, strict=True))
    return Lattice((x, y, z), grid.origin)


def _covering(grid: Grid) -> Box:
    """Return the whole cells that meet the bounds of a grid."""
    x, y, z = (f + n * c for f, n, c in zip(grid.first, grid.shape, grid.cell, strict=True))
    return Box(grid.first, (x, y, z))


def checksum(values: Voxels) -> int:
    """Return the crc32c of CXYZ values: x fastest, then y, z and the channel, little endian."""
    crc = 0
    ordered = values.astype(values.dtype.newbyteorder("<"), copy=False)
    for channel in ordered:
        for z in range(channel.shape[2]):
            crc = crc32c.crc32c(np.ascontiguousarray(channel[:, :, z].T).data, crc)
    return crc
