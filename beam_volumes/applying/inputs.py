"""The layers among the arguments of a function: found, read for an index, and planned for.

`op_kwargs` holds layers, layer sets, dictionaries, lists and tuples of these, and plain values, nested in any way.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from beam_volumes.codecs import Array
from beam_volumes.errors import DestinationError, GeometryError, OptionError, VolumeError, fault_report
from beam_volumes.geometry import Box, Vec, VolumetricIndex
from beam_volumes.layers import (
    DataResolutionInterpolator,
    JointIndexDataProcessor,
    VolumetricBackend,
    VolumetricLayer,
    VolumetricLayerSet,
    tensor_type,
)
from beam_volumes.layers.chunk_cache import ChunkCache
from beam_volumes.layers.chunked_backend import ChunkedBackend
from beam_volumes.layers.interpolation import held_bytes, is_downsampled, scale_between
from beam_volumes.layers.tensorstore_backend import TensorstoreBackend
from beam_volumes.precomputed.info import Json
from beam_volumes.storage.urls import redacted
from beam_volumes.subchunk_memory import Input
from beam_volumes.subchunks import VoxelKind

Layer = VolumetricLayer | VolumetricLayerSet

_ARGUMENTS = "op_kwargs"


@dataclass(frozen=True)
class PlannedRead:
    """What is read of one volume for an index.

    Attributes:
        path: of the layer in the arguments, and in the sets it is in: `src`, `images.0`, `pair.left`.
        layer: the layer.
        taken: the voxels for which the function takes data.
        stored: the voxels that are read of the volume.

    """

    path: str
    layer: VolumetricLayer
    taken: VolumetricIndex
    stored: VolumetricIndex

    @property
    def kind(self) -> VoxelKind:
        """Channels and type of the tensor."""
        backend = self.layer.backend
        return VoxelKind(backend.num_channels, tensor_type(backend.data_type))

    @property
    def mip(self) -> int:
        """The scale that is read."""
        return self.layer.backend.volume.mip(self.stored.resolution)


def layers_in(op_kwargs: Mapping[str, Any]) -> dict[str, Layer]:
    """Return the layers and layer sets among arguments by their path, such as `src`, `images.0` or `masks.left`."""
    found: dict[str, Layer] = {}
    _replaced(op_kwargs, "", lambda path, layer: found.setdefault(path, layer))
    return found


def read_kwargs(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> dict[str, Any]:
    """Return the arguments with what each layer has for an index in its place: a CXYZ tensor, of a set a dictionary.

    All else stays as it is, and is not copied.

    Args:
        op_kwargs: the arguments.
        idx: at the resolution at which the function takes data.

    Raises:
        OptionError: a layer has no such resolution.
        GeometryError: the index has no whole voxels in one of them.
        SourceError: a volume cannot be read.

    """
    return dict(_replaced(op_kwargs, "", lambda _, layer: layer[idx]))


def blank_kwargs(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> dict[str, Any]:
    """Return what `read_kwargs` does where all stored voxels are 0: nothing is read, but all processors are called."""
    return read_kwargs(blanked(op_kwargs), idx)


def blanked(op_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with layers whose stored voxels are all 0, of which nothing is read."""
    return dict(_replaced(op_kwargs, "", lambda _, layer: _blank(layer)))


def check_reads(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> None:
    """Refuse layers that cannot be read for an index; nothing is read.

    Raises:
        OptionError: a layer has no such resolution, or no whole voxels there; all that are so are told.

    """
    found = [read for path, layer in layers_in(op_kwargs).items() for read in _reads(path, layer, idx)]
    faults = [f"{_ARGUMENTS}.{path}: {error}" for path, error in found if isinstance(error, VolumeError)]
    if faults:
        raise OptionError(fault_report(faults, _ARGUMENTS))


def planned_reads(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> list[PlannedRead]:
    """Return what is read of each volume for an index; layers that `check_reads` would refuse are left out.

    Joint processors are asked on copies, so that they keep nothing.
    """
    found = [read for path, layer in layers_in(op_kwargs).items() for read in _reads(path, layer, idx)]
    return [read for _, read in found if isinstance(read, PlannedRead)]


def planned_inputs(op_kwargs: Mapping[str, Any], idx: VolumetricIndex, whole: Vec) -> list[Input]:
    """Return the tensors that the function takes for one chunk, as the memory plan has them; see `reading_bytes`.

    Types are those before `read_procs` that calculate.

    Args:
        op_kwargs: the arguments.
        idx: what the function takes data for, for one chunk.
        whole: voxels of the destination that this chunk has with its pads.

    """
    inputs = []
    for read in planned_reads(op_kwargs, idx):
        x, y, z = (Fraction(n, of) for n, of in zip(read.taken.shape, whole, strict=True))
        inputs.append(Input(read.kind, scale=(x, y, z)))
    return inputs


def reading_bytes(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> int:
    """Return the most bytes that reading one layer for an index holds besides the tensor that it returns, and caches.

    That is what is read before it is converted or interpolated. Layers are read one after another.
    """
    return max((_held_while_read(read) for read in planned_reads(op_kwargs, idx)), default=0)


def are_downsampled(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> bool:
    """Whether what is read of a layer for an index is averaged, or counted, for which libraries are loaded."""
    for read in planned_reads(op_kwargs, idx):
        before, after = read.stored, read.taken
        scale = scale_between(before.resolution, after.resolution)
        modes = [p.interpolation_mode for p in read.layer.read_procs if isinstance(p, DataResolutionInterpolator)]
        if any(is_downsampled(before.box.shape, after.box.shape, scale, mode) for mode in modes):
            return True
    return False


def versions(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> list[Json]:
    """Return what tells whether a run would read the same volumes: JSON values, in the order of the arguments.

    Each has a hash of the location, the type and channels, and what `info` says of the scale that is read; of all
    scales, where it is not known which one. Not the voxels, nor other scales, which may be added meanwhile.

    Args:
        op_kwargs: the arguments.
        idx: any at the resolution at which the function takes data.

    """
    mips = {read.path: read.mip for read in planned_reads(op_kwargs, idx)}
    found: list[Json] = []
    for path, layer in single_layers(op_kwargs).items():
        volume = layer.backend.volume
        scales = volume.info["scales"]
        facts = {
            "path": volume.path,
            "type": volume.layer_type,
            "data_type": volume.data_type,
            "num_channels": volume.num_channels,
            "scales": [scales[mips[path]]] if path in mips else scales,
        }
        # Of other formats CloudVolume makes an info in which numbers may be numpy's.
        text = json.dumps(facts, sort_keys=True, default=str)
        version = hashlib.sha256(text.encode()).hexdigest()[:16]
        found.append({"argument": path, "volume": redacted(volume.path), "version": version})
    return found


def single_layers(op_kwargs: Mapping[str, Any]) -> dict[str, VolumetricLayer]:
    """Return the layers among arguments by their path, with those in layer sets: `pair.left` of the set `pair`."""
    found: dict[str, VolumetricLayer] = {}
    for path, layer in layers_in(op_kwargs).items():
        found.update(_members(path, layer))
    return found


def cache_bytes(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> int:
    """Return how many bytes hold all the stored chunks that an index meets, of the layers that `with_caches` serves.

    Args:
        op_kwargs: the arguments.
        idx: all that is read before chunks may be forgotten: a chunk of the top level with its pads.

    """
    return sum(group.needed for group in _groups(op_kwargs, idx))


def with_caches(op_kwargs: Mapping[str, Any], idx: VolumetricIndex, limit: int) -> None:
    """Let the layers of this process keep stored chunks, so that what overlaps is read once; those that keep none yet.

    Layers of one volume share what they keep. Call it before anything is read.

    Args:
        op_kwargs: the arguments, whose layers are changed.
        idx: as for `cache_bytes`.
        limit: bytes for all of them, in the proportion of what each needs for `idx`; no more than it needs is given.

    """
    groups = _groups(op_kwargs, idx)
    needed = sum(group.needed for group in groups)
    for group in groups:
        share = min(group.needed, group.needed * limit // needed) if needed else 0
        cache = ChunkCache(share)
        for backend in group.backends:
            if isinstance(backend, TensorstoreBackend):
                backend.cache_bytes_limit = share
            elif isinstance(backend, ChunkedBackend):
                backend.cache = cache


@dataclass
class _Group:
    """Backends that read the same chunks."""

    backends: list[VolumetricBackend]
    needed: int


_ENTRY_BYTES = 1024
"""What tensorstore counts for a chunk that it keeps, besides its voxels; or somewhat more."""


def _groups(op_kwargs: Mapping[str, Any], idx: VolumetricIndex) -> list[_Group]:
    reads: dict[Any, list[PlannedRead]] = {}
    for read in planned_reads(op_kwargs, idx):
        backend = read.layer.backend
        if isinstance(backend, ChunkedBackend) and not backend.cache.limit:
            reads.setdefault((backend.name, backend.options, read.mip), []).append(read)
        elif isinstance(backend, TensorstoreBackend) and not backend.cache_bytes_limit:
            reads.setdefault(id(backend), []).append(read)
    by_volume: dict[Any, _Group] = {}
    for key, alike in reads.items():
        group = by_volume.setdefault(key[:2] if isinstance(key, tuple) else key, _Group([], 0))
        group.backends += [read.layer.backend for read in alike]
        group.needed += _chunk_bytes(
            alike, _ENTRY_BYTES if isinstance(alike[0].layer.backend, TensorstoreBackend) else 0
        )
    return list(by_volume.values())


def _chunk_bytes(reads: Sequence[PlannedRead], more: int = 0) -> int:
    """Return the bytes of the stored chunks of one scale that any of these meets, and `more` for each chunk.

    Where several meet the same chunks it may be more than that, but no more than if each were alone.
    """
    backend = reads[0].layer.backend
    grid = backend.volume.grid(reads[0].mip)
    boxes = [read.stored.box.intersection(grid.bounds) for read in reads]
    boxes = [box for box in boxes if box.voxels]
    if not boxes:
        return 0
    start, stop = zip(*boxes, strict=True)
    around = Box(_each(min, start), _each(max, stop))
    cells = [_cells(box, grid.first, grid.cell) for box in boxes]
    chunks = min(sum(cells), _cells(around, grid.first, grid.cell))
    return chunks * (math.prod(grid.cell) * backend.num_channels * np.dtype(backend.data_type).itemsize + more)


def _cells(box: Box, first: Vec, cell: Vec) -> int:
    sides = zip(box.start, box.stop, first, cell, strict=True)
    return math.prod((stop - 1 - f) // c - (start - f) // c + 1 for start, stop, f, c in sides)


def _each(choose: Callable[..., int], corners: Sequence[Vec]) -> Vec:
    x, y, z = (choose(along) for along in zip(*corners, strict=True))
    return (x, y, z)


def _held_while_read(read: PlannedRead) -> int:
    """Return the most that is held at once in reading a layer, less the tensor that is returned."""
    stored, tensor = np.dtype(read.layer.backend.data_type), np.dtype(read.kind.data_type)
    values, taken = (math.prod(idx.shape) * read.kind.channels for idx in (read.stored, read.taken))
    # Whole chunks are fetched; then there is the box, and the part of it in the bounds where it goes beyond them.
    box = read.stored.box
    inside = box.intersection(read.layer.backend.volume.grid(read.mip).bounds)
    beyond = inside.voxels * read.kind.channels if inside != box else 0
    held = [_chunk_bytes([read]), (values + beyond) * stored.itemsize]
    if stored != tensor:
        held.append(values * (stored.itemsize + tensor.itemsize))
    for proc in read.layer.read_procs:
        if isinstance(proc, DataResolutionInterpolator):
            scale = scale_between(read.stored.resolution, read.taken.resolution)
            before, after = read.stored.box.shape, read.taken.box.shape
            mode = proc.interpolation_mode
            held.append(read.kind.channels * held_bytes(before, after, scale, mode, read.kind.data_type))
    return max(0, max(held) - taken * tensor.itemsize)


def _replaced(value: Any, path: str, change: Callable[[str, Layer], Any]) -> Any:
    """Return a value with its layers changed; what holds none stays the same object."""
    if isinstance(value, (VolumetricLayer, VolumetricLayerSet)):
        return change(path, value)
    items: list[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        return value
    changed = [_replaced(item, f"{path}.{key}" if path else str(key), change) for key, item in items]
    if all(new is old for new, (_, old) in zip(changed, items, strict=True)):
        return value
    if isinstance(value, Mapping):
        return {key: new for (key, _), new in zip(items, changed, strict=True)}
    return _like(value, changed)


def _like(value: list[Any] | tuple[Any, ...], items: list[Any]) -> Any:
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def _members(path: str, layer: Layer) -> Iterator[tuple[str, VolumetricLayer]]:
    if isinstance(layer, VolumetricLayer):
        yield path, layer
        return
    for name, member in layer.layers.items():
        yield from _members(f"{path}.{name}", member)


def _reads(
    path: str, layer: Layer, idx: VolumetricIndex, taken: VolumetricIndex | None = None
) -> Iterator[tuple[str, PlannedRead | VolumeError]]:
    """Yield for each single layer its path, and what is read of it for an index, or why it cannot be.

    `taken` is for what voxels the function gets data, where a processor of a set above has seen to that already.
    """
    try:
        idx = layer.frontend.convert(idx) if layer.frontend is not None else idx
        for index_proc in layer.index_procs:
            idx = index_proc(idx)
        before = idx if taken is None else taken
        for proc in reversed(list(layer.read_procs)):
            if isinstance(proc, JointIndexDataProcessor):
                # It leaves the data as they belong to the index that it had.
                taken = before
                idx = copy.deepcopy(proc).process_index(idx, "read")
        if isinstance(layer, VolumetricLayerSet):
            for name, member in layer.layers.items():
                yield from _reads(f"{path}.{name}", member, idx, taken)
            return
        layer.backend.volume.mip(idx.resolution)
        before.to_slices()
        idx.to_slices()
        yield path, PlannedRead(path, layer, before, idx)
    except (OptionError, GeometryError) as error:
        yield path, error


def _blank(layer: Layer) -> Layer:
    if isinstance(layer, VolumetricLayer):
        return layer.with_changes(backend=_Blank(layer.backend.volume))
    return layer.with_changes(layers={name: _blank(member) for name, member in layer.layers.items()})


class _Blank(VolumetricBackend):
    """A volume that holds 0 everywhere."""

    def _check_writable(self, mip: int) -> None:
        raise DestinationError(f"{self.name}: expected no writes to what stands for it in a trial, came one")

    def _forget(self) -> None:
        """Do nothing: nothing is opened."""

    def _read(self, mip: int, box: Box) -> Array:
        return np.zeros((*box.shape, self.num_channels), self.data_type, order="F")

    def _write(self, mip: int, box: Box, values: Array) -> None:
        self._check_writable(mip)
