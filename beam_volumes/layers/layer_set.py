"""Several layers that are read and written at once, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_volumes.builder import register
from beam_volumes.errors import DestinationError, FunctionError, OptionError
from beam_volumes.layers.indexing import UserIndex, VolumetricFrontend
from beam_volumes.layers.layer import PROCS, VolumetricLayer
from beam_volumes.layers.processors import (
    IndexProcessor,
    JointIndexDataProcessor,
    Processor,
    checked_procs,
    read_through,
    to_write,
)


@dataclass(frozen=True)
class VolumetricLayerSet:
    """Layers by name, which give and take dictionaries of their data.

    An index may have a name, or a list of names, before it: then these layers alone are read or written.

    Attributes:
        layers: by name; a layer may be a set itself.
        frontend: what an index means, for all of them; None where each layer decides for itself.
        readonly: whether writing is refused.
        index_procs: change the index, before any layer's own.
        read_procs: change the dictionary of what was read.
        write_procs: change the dictionary of what is to be written.

    """

    layers: Mapping[str, Any]
    frontend: VolumetricFrontend | None = None
    readonly: bool = False
    index_procs: Sequence[IndexProcessor] = ()
    read_procs: Sequence[Processor] = ()
    write_procs: Sequence[Processor] = ()

    def __post_init__(self) -> None:
        """Check layers and processors."""
        if not isinstance(self.layers, Mapping) or not self.layers:
            raise OptionError(f"layers: expected layers by name, came {self.layers!r}: give at least one")
        for name, layer in self.layers.items():
            if not isinstance(layer, (VolumetricLayer, VolumetricLayerSet)):
                raise OptionError(f"layers: expected a layer as {name}, came {layer!r}: build one, with build_cv_layer")
        object.__setattr__(self, "layers", dict(self.layers))
        for name in PROCS:
            object.__setattr__(self, name, checked_procs(getattr(self, name), name))

    @property
    def name(self) -> str:
        """The names and locations of the layers."""
        return ", ".join(f"{name}: {layer.name}" for name, layer in self.layers.items())

    def __getitem__(self, index: UserIndex) -> Any:
        """Return what the layers have for an index, a dictionary by name, as `read_procs` leave it."""
        names, index = self._names_and_index(index)
        return self._read(names, self._converted(index, self.read_procs))

    def __setitem__(self, index: UserIndex, data: Mapping[str, Any]) -> None:
        """Write the data of layers, by name; layers that are not named stay as they are."""
        names, index = self._names_and_index(index)
        if isinstance(data, Mapping) and (others := [name for name in data if name not in names]):
            raise FunctionError(
                f"layer set: expected data for {', '.join(names)}, came data for {', '.join(map(str, others))}, too: "
                "leave them out"
            )
        self._write(self._converted(index, self.write_procs), data)

    def read_with_procs(self, idx: Any) -> Any:
        """Return what the layers have for an index, a dictionary by name, as `read_procs` leave it."""
        return self._read(list(self.layers), idx)

    def write_with_procs(self, idx: Any, data: Mapping[str, Any]) -> None:
        """Write the data of layers, by name, as `write_procs` leave them.

        Raises:
            DestinationError: the set is read-only.
            FunctionError: the data are of no layer of this set.

        """
        self._write(idx, data)

    def with_changes(self, **changes: Any) -> VolumetricLayerSet:
        """Return a set with other attributes."""
        return replace(self, **changes)

    def _read(self, names: Iterable[str], index: Any) -> Any:
        def read(changed: Any) -> dict[str, Any]:
            return {name: self.layers[name][changed] for name in names}

        return read_through(index, read, self.index_procs, self.read_procs)

    def _write(self, index: Any, data: Mapping[str, Any]) -> None:
        if self.readonly:
            raise DestinationError("layer set: expected no writes, since it is read-only: build it with readonly=False")
        index, data = to_write(index, data, self.index_procs, self.write_procs)
        if not isinstance(data, Mapping) or not data or data.keys() - self.layers.keys():
            came = ", ".join(map(str, data)) or "none" if isinstance(data, Mapping) else repr(type(data).__name__)
            raise FunctionError(
                f"layer set: expected a dictionary with data for {', '.join(self.layers)}, came {came}: name layers of "
                "the set"
            )
        for name, values in data.items():
            self.layers[name][index] = values

    def _converted(self, index: UserIndex, procs: Sequence[Processor]) -> Any:
        """Return an index as processors take it; as it came, for each layer to convert, where there are none."""
        if self.frontend is not None:
            return self.frontend.convert(index)
        is_changed = bool(self.index_procs) or any(isinstance(proc, JointIndexDataProcessor) for proc in procs)
        return VolumetricFrontend().convert(index) if is_changed else index

    def _names_and_index(self, index: UserIndex) -> tuple[list[str], UserIndex]:
        names = [index[0]] if isinstance(index, tuple) and index and isinstance(index[0], str) else None
        if isinstance(index, tuple) and index and isinstance(index[0], (list, tuple)):
            chosen = list(index[0])
            names = chosen if all(isinstance(name, str) for name in chosen) else None
        if not names:
            return list(self.layers), index
        if unknown := [name for name in names if name not in self.layers]:
            raise OptionError(
                f"layer set: expected names among {', '.join(self.layers)}, came {', '.join(unknown)}: name layers of "
                "the set"
            )
        rest = index[1:]
        return names, rest[0] if len(rest) == 1 else rest


@register("build_layer_set")
def build_layer_set(
    layers: Mapping[str, Any],
    readonly: bool = False,
    index_procs: Iterable[IndexProcessor] = (),
    read_procs: Iterable[Processor] = (),
    write_procs: Iterable[Processor] = (),
) -> VolumetricLayerSet:
    """Return layers as a set, each of which takes an index as it would alone.

    Args:
        layers: by name.
        readonly: whether writing is refused.
        index_procs: change the index, before any layer's own.
        read_procs: change the dictionary of what was read.
        write_procs: change the dictionary of what is to be written.

    Raises:
        OptionError: there are no layers, or a processor is none.

    """
    return VolumetricLayerSet(layers, None, readonly, tuple(index_procs), tuple(read_procs), tuple(write_procs))


@register("build_volumetric_layer_set")
def build_volumetric_layer_set(  # noqa: PLR0913 - the names of the specs that it is built by.
    layers: Mapping[str, Any],
    readonly: bool = False,
    default_desired_resolution: Sequence[float] | None = None,
    index_resolution: Sequence[float] | None = None,
    allow_slice_rounding: bool = False,
    index_procs: Iterable[IndexProcessor] = (),
    read_procs: Iterable[Processor] = (),
    write_procs: Iterable[Processor] = (),
) -> VolumetricLayerSet:
    """Return layers as a set whose resolutions count for all of them.

    Args:
        layers: by name.
        readonly: whether writing is refused.
        default_desired_resolution: nm per voxel of what is read or written, where the index has none.
        index_resolution: of slices in an index.
        allow_slice_rounding: whether an index need not be of whole voxels.
        index_procs: change the index, before any layer's own.
        read_procs: change the dictionary of what was read.
        write_procs: change the dictionary of what is to be written.

    Raises:
        OptionError: there are no layers, or a processor is none.

    """
    frontend = VolumetricFrontend(index_resolution, default_desired_resolution, allow_slice_rounding)
    return VolumetricLayerSet(layers, frontend, readonly, tuple(index_procs), tuple(read_procs), tuple(write_procs))
