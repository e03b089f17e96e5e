"""Layers from their arguments, under the names by which specs know them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from inspect import Parameter, Signature
from typing import Any, TypeVar

from beam_volumes.builder import register
from beam_volumes.builder.arguments import unknown_arguments
from beam_volumes.errors import OptionError
from beam_volumes.layers.backend import VolumetricBackend
from beam_volumes.layers.chunked_backend import AccessOptions, ChunkedBackend
from beam_volumes.layers.data_processors import DataResolutionInterpolator
from beam_volumes.layers.indexing import VolumetricFrontend
from beam_volumes.layers.info_building import build_info
from beam_volumes.layers.info_request import InfoRequest
from beam_volumes.layers.info_settling import settled_info
from beam_volumes.layers.interpolation import check_mode
from beam_volumes.layers.layer import PROCS, VolumetricLayer
from beam_volumes.layers.processors import IndexProcessor, Processor, checked_procs
from beam_volumes.layers.tensorstore_backend import TensorstoreBackend
from beam_volumes.layers.volume import LayerVolume, normalized, read_info
from beam_volumes.precomputed.info import Json

_Built = TypeVar("_Built", bound=Callable[..., Any])


@dataclass(frozen=True)
class LayerRequest:
    """The arguments of a layer; resolutions are nm per voxel along x, y and z.

    Attributes:
        default_desired_resolution: of what is read and written, where the index has none.
        index_resolution: of slices in an index; None for that in the index, or else the desired one.
        data_resolution: of the scale that is read and written; None for the desired one.
        interpolation_mode: how data come from one resolution to the other: img, field, mask or segmentation.
        mask_value_thr: what averages must be above, in masks.
        readonly: whether writing is refused.
        allow_slice_rounding: whether an index need not be of whole voxels; each side then goes to the nearest.
        index_procs: functions of a `VolumetricIndex`, which change it before anything is read or written.
        read_procs: functions of a tensor, or joint processors, which change what was read.
        write_procs: the same, for what is to be written.
        cache_bytes_limit: bytes of decoded chunks that each process may keep; None for none.

    """

    default_desired_resolution: Sequence[float] | None = None
    index_resolution: Sequence[float] | None = None
    data_resolution: Sequence[float] | None = None
    interpolation_mode: str | None = None
    mask_value_thr: float = 0.0
    readonly: bool = False
    allow_slice_rounding: bool = False
    index_procs: Iterable[IndexProcessor] = ()
    read_procs: Iterable[Processor] = ()
    write_procs: Iterable[Processor] = ()
    cache_bytes_limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.interpolation_mode is not None:
            check_mode(self.interpolation_mode)
        elif self.data_resolution is not None:
            raise OptionError(
                "interpolation_mode: expected one with data_resolution, came none: choose img, field, mask or "
                "segmentation"
            )
        limit = self.cache_bytes_limit
        if limit is not None and (type(limit) is not int or limit < 0):
            raise OptionError(f"cache_bytes_limit: expected a number of bytes, from 0, came {limit!r}: give one")
        for name in PROCS:
            object.__setattr__(self, name, checked_procs(getattr(self, name), name))

    def layer(self, backend: VolumetricBackend) -> VolumetricLayer:
        """Return the layer over a volume."""
        read, write = tuple(self.read_procs), tuple(self.write_procs)
        if self.data_resolution is not None and self.interpolation_mode is not None:
            interpolator = DataResolutionInterpolator(
                self.data_resolution, self.interpolation_mode, self.allow_slice_rounding, self.mask_value_thr
            )
            # Nearest to the volume, on both ways.
            read, write = (interpolator, *read), (*write, interpolator)
        return VolumetricLayer(
            backend=backend,
            frontend=VolumetricFrontend(
                self.index_resolution, self.default_desired_resolution, self.allow_slice_rounding
            ),
            readonly=self.readonly,
            index_procs=tuple(self.index_procs),
            read_procs=read,
            write_procs=write,
        )


def taking(*requests: type[Any]) -> Callable[[_Built], _Built]:
    """Let a function say that it takes, besides its own, the fields of `requests` as arguments by name."""

    def decorate(function: _Built) -> _Built:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        more = [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=_default(field), annotation=field.type)
            for request in requests
            for field in fields(request)
        ]
        function.__signature__ = Signature([*own, *more])  # type: ignore[attr-defined]
        return function

    return decorate


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is MISSING else field.default


@register("build_cv_layer")
@taking(LayerRequest, InfoRequest)
def build_cv_layer(path: str, cv_kwargs: Mapping[str, Any] | None = None, **arguments: Any) -> VolumetricLayer:
    """Return the layer of a volume in any format that this project or CloudVolume reads.

    Precomputed that is not sharded can be written, too. Nothing is written yet: a new `info` is with the first voxels,
    or when `layer.backend.write_info()` is called.

    >>> import tempfile, torch
    >>> from beam_volumes.geometry import BBox3D, Vec3D, VolumetricIndex
    >>> folder = tempfile.TemporaryDirectory()
    >>> cvl = build_cv_layer(
    ...     path=f"file://{folder.name}/img",
    ...     info_scales=[[64, 64, 40]],
    ...     info_data_type="float32",
    ...     info_encoding="raw",
    ...     info_chunk_size=[64, 64, 1],
    ...     info_bbox=BBox3D.from_coords((0, 0, 0), (300, 300, 8), resolution=(64, 64, 40)),
    ... )
    >>> cvl[Vec3D(64, 64, 40), 0:300, 0:300, 0:8] = torch.arange(8.0).repeat(1, 300, 300, 1)
    >>> data = cvl[Vec3D(64, 64, 40), 130:230, 40:140, 2:3]
    >>> data.shape # channel, x, y, z
    torch.Size([1, 100, 100, 1])
    >>> data.unique()
    tensor([2.])

    What is read, what indexes it and what is stored need not be of one resolution:

    >>> cvl = build_cv_layer(
    ...     path=f"file://{folder.name}/img",
    ...     default_desired_resolution=Vec3D(192, 192, 80),
    ...     index_resolution=Vec3D(4, 4, 40),
    ...     data_resolution=Vec3D(64, 64, 40),
    ...     interpolation_mode="img",
    ... )
    >>> data = cvl[0:4800, 0:4800, 2:4] # (4, 4, 40) indexing
    >>> data.shape # channel, x, y, z at (192, 192, 80) resolution
    torch.Size([1, 100, 100, 1])
    >>> data.unique()
    tensor([2.5000])

    An index knows its resolution:

    >>> idx = VolumetricIndex.from_coords((130, 40, 3), (230, 140, 5), resolution=Vec3D(64, 64, 40))
    >>> build_cv_layer(path=f"file://{folder.name}/img")[idx].shape
    torch.Size([1, 100, 100, 2])
    >>> cvl.backend.get_bounds(Vec3D(64, 64, 40))  # doctest: +NORMALIZE_WHITESPACE
    VolumetricIndex(resolution=Vec3D(64, 64, 40), bbox=BBox3D(bounds=((0, 19200), (0, 19200), (0, 320)), unit='nm',
    pprint_px_resolution=(1, 1, 1)), allow_slice_rounding=False)
    >>> folder.cleanup()

    Args:
        path: where the volume is: a local path, file://, gs://, s3://, https://, or what else CloudVolume reads.
        cv_kwargs: of CloudVolume's arguments `fill_missing` (by default true: chunks that are missing are read as 0),
            `delete_black_uploads` (by default false: chunks of nothing but 0 are stored), `compress`, and for a
            proofreading volume `agglomerate` (by default true: roots, not supervoxels) and `timestamp`.
        arguments: see `LayerRequest`, and `InfoRequest` for those about `info`.

    Raises:
        OptionError: arguments contradict each other, or there is no volume and none is described.
        SourceError: the volume cannot be read.

    """
    _check_names("build_cv_layer", build_cv_layer, arguments)
    layer, info = _requests(arguments)
    options = AccessOptions.of_cloudvolume(cv_kwargs)
    volume, unwritten = _volume(path, info, sharded=False)
    return layer.layer(ChunkedBackend(volume, unwritten, options, layer.cache_bytes_limit or 0))


@register("build_ts_layer")
@taking(LayerRequest, InfoRequest)
def build_ts_layer(path: str, **arguments: Any) -> VolumetricLayer:
    """Return the layer of a Precomputed volume that tensorstore reads and writes, sharded or not.

    It is as `build_cv_layer` has it, but that chunks of nothing but 0 are not stored.

    Args:
        path: where the volume is: a local path, file://, gs://, s3:// or https://.
        arguments: see `LayerRequest`, and `InfoRequest` for those about `info`.

    Raises:
        OptionError: arguments contradict each other, there is no volume and none is described, or tensorstore is not
            installed.
        SourceError: the volume cannot be read.

    """
    _check_names("build_ts_layer", build_ts_layer, arguments)
    layer, info = _requests(arguments)
    volume, unwritten = _volume(path, info, sharded=True)
    return layer.layer(TensorstoreBackend(volume, unwritten, layer.cache_bytes_limit or 0))


def _check_names(name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    if faults := unknown_arguments(name, function, arguments):
        raise OptionError("; ".join(f"{argument}: {fault}" for argument, fault in faults.items()))


def _requests(arguments: Mapping[str, Any]) -> tuple[LayerRequest, InfoRequest]:
    of_layer = {field.name for field in fields(LayerRequest)}
    layer = LayerRequest(**{name: value for name, value in arguments.items() if name in of_layer})
    return layer, InfoRequest(**{name: value for name, value in arguments.items() if name not in of_layer})


def _volume(path: str, request: InfoRequest, *, sharded: bool) -> tuple[LayerVolume, Json | None]:
    """Return the volume with the `info` that it is to have, and that `info` again where it does not stand yet."""
    path = normalized(path)
    standing = read_info(path)
    if not request.asks:
        if standing is None:
            raise OptionError(
                f"{path}: expected a volume, came a place without an info: correct the path, or describe a new volume "
                "with info_reference_path or info_scales"
            )
        return LayerVolume(path, standing), None
    pattern = standing if request.info_extend_if_exists else None
    if request.info_reference_path is not None:
        pattern = read_info(normalized(request.info_reference_path))
        if pattern is None:
            raise OptionError(
                f"info_reference_path: expected a volume, came {request.info_reference_path}, which has no info: "
                "correct the path"
            )
    info = settled_info(path, standing, build_info(request, pattern, sharded=sharded), request)
    return LayerVolume(path, info), None if info == standing else info
