"""Operations: what reads its layers for a chunk by itself, calculates, and writes into the destination.

An operation is any object with `get_input_resolution`, `with_added_crop_pad` and a call with an index, the destination
and `op_kwargs`. A function alone becomes one by `CallableOperation`. In a run the destination that an operation gets is
a stand-in: what it writes there is kept, to be blended with what the chunks around yield.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Protocol

from beam_volumes.applying.inputs import read_kwargs
from beam_volumes.builder import register
from beam_volumes.errors import FunctionError, OptionError
from beam_volumes.geometry import Vec3D, VolumetricIndex
from beam_volumes.geometry.exact import exact, text
from beam_volumes.layers import VolumetricLayer, VolumetricLayerSet
from beam_volumes.layers.indexing import as_vec
from beam_volumes.layers.tensors import filled, is_number

_METHODS = ("get_input_resolution", "with_added_crop_pad", "__call__")
_NOT_CHANGED = ("backend", "index_procs", "write_procs")


class Operation(Protocol):
    """What `op` of a spec may be."""

    def get_input_resolution(self, dst_resolution: Vec3D[float]) -> Vec3D[float]:
        """Return the resolution, nm per voxel, at which it takes data to write at `dst_resolution`."""

    def with_added_crop_pad(self, crop_pad: Vec3D[int]) -> Operation:
        """Return an operation that reads by so many voxels of the destination more at each side, and crops them."""

    def __call__(self, idx: VolumetricIndex, dst: Any, **op_kwargs: Any) -> None:
        """Write to `dst` what it makes of its layers for an index; what it writes none of is 0."""


@register("VolumetricCallableOperation")
@dataclass(frozen=True)
class CallableOperation:
    """A function as an operation: with a crop, and data at another resolution.

    Attributes:
        fn: takes `op_kwargs`, in which tensors (CXYZ) stand for layers; returns a tensor of the x, y and z of the index
            with twice the crop, or for a layer set a dictionary of such.
        crop_pad: by how many voxels of the destination more is read at each side than is written.
        res_change_mult: how many voxels of the input there are along each axis for one of the destination.
        operation_name: ignored; runs are named by their specs.
        fn_semaphores: ignored; workers share no locks.

    """

    fn: Callable[..., Any]
    crop_pad: Sequence[int] = (0, 0, 0)
    res_change_mult: Sequence[float] = (1, 1, 1)
    operation_name: str | None = None
    fn_semaphores: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not callable(self.fn):
            raise OptionError(
                f"fn: expected a function, came {self.fn!r}: name one that is registered as '@type', with "
                "'@mode': 'partial' where it has arguments of its own"
            )
        object.__setattr__(self, "crop_pad", _checked_pad(self.crop_pad))
        object.__setattr__(self, "res_change_mult", as_vec(self.res_change_mult, "res_change_mult"))
        for crop, factor in zip(self.crop_pad, self.res_change_mult, strict=True):
            if (whole := exact(factor) * crop) != int(whole):
                step = exact(factor).denominator
                raise OptionError(
                    f"crop_pad: expected whole voxels of the input, {text(factor)} of which make one of the "
                    f"destination, came {crop}, which are {text(whole)}: choose a multiple of {step}"
                )

    @property
    def ignored(self) -> tuple[str, ...]:
        """The names of arguments that are given and have no meaning here."""
        return tuple(name for name in ("operation_name", "fn_semaphores") if getattr(self, name) is not None)

    def get_input_resolution(self, dst_resolution: Vec3D[float]) -> Vec3D[float]:
        """Return the resolution, nm per voxel, at which the function takes data."""
        return dst_resolution / Vec3D(*self.res_change_mult)

    def with_added_crop_pad(self, crop_pad: Sequence[int]) -> CallableOperation:
        """Return an operation that crops more.

        Raises:
            OptionError: these are no whole voxels of the input.

        """
        x, y, z = (a + b for a, b in zip(self.crop_pad, _checked_pad(crop_pad), strict=True))
        return replace(self, crop_pad=(x, y, z))

    def result_index(self, idx: VolumetricIndex) -> VolumetricIndex:
        """Return the voxels of the function's result for an index: with the crop."""
        return idx.padded(self.crop_pad)

    def input_index(self, idx: VolumetricIndex) -> VolumetricIndex:
        """Return the voxels for which the function takes data: the same box as its result, at its own resolution."""
        return replace(self.result_index(idx), resolution=self.get_input_resolution(idx.resolution))

    def read(self, idx: VolumetricIndex, op_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the function takes for an index; see `read_kwargs`."""
        return read_kwargs(op_kwargs, self.input_index(idx))

    def __call__(self, idx: VolumetricIndex, dst: Any, **op_kwargs: Any) -> None:
        """Write to a layer, or to a layer set, what the function makes for an index, cropped; to None nothing.

        Raises:
            FunctionError: the function's result has another shape.

        """
        result = self.fn(**self.read(idx, op_kwargs))
        if dst is None:
            return
        if isinstance(result, Mapping):
            dst[idx] = {name: self._cropped(values, idx) for name, values in result.items()}
        else:
            dst[idx] = self._cropped(result, idx)

    def _cropped(self, result: Any, idx: VolumetricIndex) -> Any:
        if is_number(result):
            return result
        expected = tuple(self.result_index(idx).shape)
        _check_shape(result, expected, f"the function's result for {idx.pformat()}")
        x, y, z = (slice(crop, n - crop) for crop, n in zip(self.crop_pad, expected, strict=True))
        return result[:, x, y, z]


def operation_of(fn: Callable[..., Any] | None, op: Any) -> Any:
    """Return the operation that a spec asks for by `fn` or by `op`.

    Raises:
        OptionError: both are given, or none; or it is no function, or no operation.

    """
    if (fn is None) == (op is None):
        came = "none" if fn is None else "both"
        raise OptionError(f"fn, op: expected one of them, came {came}: give a function, or an operation")
    if fn is not None:
        return CallableOperation(fn)
    lacking = [name for name in _METHODS if not callable(getattr(op, name, None))]
    if lacking or isinstance(op, type):
        without = f"without {', '.join(lacking)}" if lacking else "that is a class, not an object of it"
        raise OptionError(
            f"op: expected an operation, with {', '.join(_METHODS)}, came {op!r} {without}: give one, or a function as "
            "fn"
        )
    return op


def results(op: Operation, idx: VolumetricIndex, dst: Any, op_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an operation writes for an index: by name of the layer in `dst`, "" for a layer alone.

    The data are tensors or arrays, CXYZ of the index, as the operation gives them: no processor of `dst` has seen them.
    A layer to which it has written nothing is not among them: there, 0 is meant.

    Args:
        op: the operation.
        idx: what is to be written, at the resolution of the destination.
        dst: a layer or a layer set, which is read where the operation reads it, and not written; None where there is
            nothing to write to, which the operation gets then.
        op_kwargs: what the operation takes besides.

    Raises:
        FunctionError: the operation writes elsewhere, at another resolution, or data of another shape.

    """
    collected: dict[str, Any] = {}
    op(idx, _collecting(dst, idx, collected), **op_kwargs)
    return collected


def _collecting(dst: Any, idx: VolumetricIndex, collected: dict[str, Any]) -> Any:
    if dst is None:
        return None
    if isinstance(dst, VolumetricLayer):
        return _layer(dst, idx, collected, "")
    layers = {name: _layer(layer, idx, collected, name) for name, layer in dst.layers.items()}
    target = VolumetricLayerSet(layers, dst.frontend)
    return _CollectingSet(layers, dst.frontend, False, dst.index_procs, dst.read_procs, dst.write_procs, target=target)


def _layer(layer: VolumetricLayer, idx: VolumetricIndex, collected: dict[str, Any], key: str) -> _CollectingLayer:
    return _CollectingLayer(
        layer.backend,
        layer.frontend,
        False,
        layer.index_procs,
        layer.read_procs,
        layer.write_procs,
        chunk=idx,
        collected=collected,
        key=key,
    )


@dataclass(frozen=True)
class _CollectingLayer(VolumetricLayer):
    """A layer that keeps in `collected`, as `key`, what is written for a chunk; it is read as the layer is."""

    chunk: VolumetricIndex = field(kw_only=True)
    collected: dict[str, Any] = field(kw_only=True, compare=False)
    key: str = field(kw_only=True)

    def write_with_procs(self, idx: VolumetricIndex, data: Any) -> None:
        """Keep what is written.

        Raises:
            FunctionError: it is not for all of the chunk, at its resolution, or of another shape.

        """
        where = f"{self.name}, what the operation writes for {self.chunk.pformat()}"
        if idx.resolution != self.chunk.resolution:
            raise FunctionError(
                f"{where}: expected data at the resolution {self.chunk.resolution}, came data at {idx.resolution}: "
                "write by the index that the operation gets"
            )
        box, chunk = idx.box, self.chunk.box
        if not box.contains(chunk):
            raise FunctionError(
                f"{where}: expected data for all of it, came data for {idx.pformat()}: write the whole chunk at once"
            )
        if is_number(data):
            data = filled(data, (self.backend.num_channels, *box.shape), self.backend.data_type)
        _check_shape(data, tuple(box.shape), where)
        self.collected[self.key] = data[(slice(None), *chunk.slices(box.start))]

    def with_changes(self, **changes: Any) -> VolumetricLayer:
        """Return a layer with other attributes, whose writes are kept in the same place.

        Raises:
            FunctionError: it would be written otherwise; a run does that when all chunks are blended.

        """
        refused = [name for name in _NOT_CHANGED if name in changes]
        if refused:
            raise FunctionError(
                f"{self.name}: expected a destination with the {refused[0]} of its spec, came others by which an "
                "operation would write: change the spec"
            )
        return replace(self, **changes)

    with_procs = with_changes


@dataclass(frozen=True)
class _CollectingSet(VolumetricLayerSet):
    """Such layers; `target` is the set by which they are written, without processors."""

    target: VolumetricLayerSet = field(kw_only=True)

    def _write(self, index: Any, data: Mapping[str, Any]) -> None:
        self.target.write_with_procs(index, data)


def _check_shape(data: Any, shape: tuple[int, ...], where: str) -> None:
    came = getattr(data, "shape", None)
    if came is None:
        raise FunctionError(f"{where}: expected a tensor, came {type(data).__name__}: return one, CXYZ")
    if len(came) != 4 or tuple(came[1:]) != shape:
        raise FunctionError(
            f"{where}: expected the shape (channels, {', '.join(map(str, shape))}), came {tuple(came)}: return data of "
            "that shape"
        )


def _checked_pad(pad: Any) -> tuple[int, int, int]:
    values = tuple(pad) if isinstance(pad, Sequence) and not isinstance(pad, str) else ()
    if len(values) != 3 or any(isinstance(n, bool) or not isinstance(n, Integral) or int(n) < 0 for n in values):
        raise OptionError(f"crop_pad: expected three numbers of voxels, from 0, came {pad!r}: give [16, 16, 0], say")
    x, y, z = (int(n) for n in values)
    return (x, y, z)
