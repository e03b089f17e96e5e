"""The `info` that the arguments of a layer describe.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from beam_volumes.codecs import BLOCK_SIZE, DATA_TYPES, check_encoding, default_encoding
from beam_volumes.errors import OptionError
from beam_volumes.geometry import BBox3D
from beam_volumes.geometry.exact import exact, positives, quotient, three
from beam_volumes.layers.info_request import InfoRequest
from beam_volumes.precomputed.info import Json
from beam_volumes.precomputed.sharding import SHARDING_TYPE

LAYER_TYPES = ("image", "segmentation")

_KEPT = ("@type", "type", "data_type", "num_channels")
"""Of a reference: what else it has tells of its meshes, its skeletons, its chunk graph."""


def build_info(request: InfoRequest, pattern: Json | None, *, sharded: bool) -> Json:
    """Return the `info` that is asked for.

    Args:
        request: the arguments.
        pattern: the `info` of the reference, or the one that stands there; None where there is none.
        sharded: whether scales may be sharded, as those of the pattern are.

    Raises:
        OptionError: something is missing, or does not fit.

    """
    info: Json = {"@type": "neuroglancer_multiscale_volume", "scales": []}
    if request.info_scales is None:
        info.update(
            copy.deepcopy({name: value for name, value in (pattern or {}).items() if name in (*_KEPT, "scales")})
        )
        info.update(copy.deepcopy(dict(request.info_field_overrides or {})))
    elif request.info_inherit_all_params:
        info.update({name: value for name, value in (pattern or {}).items() if name in _KEPT})
    _set(info, "type", request.info_type)
    _set(info, "data_type", request.info_data_type)
    _set(info, "num_channels", request.info_num_channels)
    info.setdefault("type", "image")
    info.setdefault("num_channels", 1)
    if not sharded:
        for scale in info["scales"]:
            scale.pop("sharding", None)
    if request.info_scales is None:
        info["scales"] = _earlier_scales(request, info)
    else:
        info["scales"] = _later_scales(request, pattern or {})
    _finish(info, request)
    return info


def _earlier_scales(request: InfoRequest, info: Json) -> list[Json]:
    scales = info["scales"]
    if request.info_add_scales is not None:
        reference = _reference_scale(request.info_add_scales_ref, scales)
        added = [_added(entry, reference, request.info_add_scales_exclude_fields) for entry in request.info_add_scales]
        if request.info_add_scales_mode == "replace":
            scales = []
        known = [_key(scale) for scale in added]
        scales = sorted([s for s in scales if _key(s) not in known] + added, key=lambda s: positives(*_named(s)))
    for scale in scales:
        _change(scale, request)
    if request.info_only_retain_scales is not None:
        kept = {_text(resolution) for resolution in request.info_only_retain_scales}
        if unknown := kept - {_key(scale) for scale in scales}:
            raise OptionError(
                f"info_only_retain_scales: expected of {', '.join(_key(s) for s in scales)}, came "
                f"{', '.join(sorted(unknown))}: name resolutions of these scales"
            )
        scales = [scale for scale in scales if _key(scale) in kept]
    return scales


def _reference_scale(asked: str | Json | None, scales: Sequence[Json]) -> Json:
    if isinstance(asked, Mapping):
        return dict(asked)
    if not scales:
        raise OptionError(
            "info_add_scales: expected a scale to make others after, came none: give info_reference_path, or a scale "
            "as info_add_scales_ref"
        )
    if asked is None:
        return scales[0]
    found = [scale for scale in scales if asked in (scale.get("key"), _key(scale))]
    if not found:
        raise OptionError(
            f"info_add_scales_ref: expected one of {', '.join(_key(s) for s in scales)}, came {asked!r}: choose one"
        )
    return found[0]


def _added(entry: Sequence[float] | Json, reference: Json, excluded: Sequence[str]) -> Json:
    """Return a scale at another resolution than the reference's, over the same box."""
    given = dict(entry) if isinstance(entry, Mapping) else {"resolution": list(entry)}
    if "resolution" not in given or "resolution" not in reference:
        raise OptionError(f"info_add_scales: expected a scale with a resolution, came {entry!r}: give one")
    resolution = _plain(given["resolution"])
    scale = {name: copy.deepcopy(value) for name, value in reference.items() if name not in excluded}
    if "size" in reference:
        offset = reference.get("voxel_offset", (0, 0, 0))
        stop = [o + s for o, s in zip(offset, reference["size"], strict=True)]
        bbox = BBox3D.from_coords(offset, stop, reference["resolution"])
        scale.update(_voxels(bbox, resolution))
    scale.update(copy.deepcopy(given))
    scale["resolution"] = resolution
    if "key" not in given:
        scale["key"] = _text(resolution)
    return scale


def _change(scale: Json, request: InfoRequest) -> None:
    """Change a scale as it is asked of all of them, or of this one."""
    key = _key(scale)
    for field, of_all, of_one in (
        ("chunk_sizes", request.info_chunk_size, request.info_chunk_size_map),
        ("size", request.info_dataset_size, request.info_dataset_size_map),
        ("voxel_offset", request.info_voxel_offset, request.info_voxel_offset_map),
        ("encoding", request.info_encoding, request.info_encoding_map),
    ):
        value = (of_one or {}).get(key, of_all)
        if value is not None:
            scale[field] = [list(value)] if field == "chunk_sizes" else value if field == "encoding" else list(value)


def _later_scales(request: InfoRequest, pattern: Json) -> list[Json]:
    known = {_key(scale): scale for scale in pattern.get("scales", [])}
    scales = []
    for asked in request.info_scales or ():
        resolution = _plain(asked)
        same = known.get(_text(resolution))
        model: Json = same or next(iter(known.values()), {})
        scale: Json = {"key": _text(resolution), "resolution": resolution}
        scale.update(_bounds(request.info_bbox, resolution, same, model))
        if request.info_inherit_all_params:
            names = ("chunk_sizes", "encoding", "compressed_segmentation_block_size")
            scale.update({name: copy.deepcopy(model[name]) for name in names if name in model})
        _change(scale, request)
        scale.update(copy.deepcopy(dict(request.info_extra_scale_data or {})))
        scales.append(scale)
    return scales


def _bounds(bbox: BBox3D | None, resolution: list[int | float], same: Json | None, model: Json) -> Json:
    if bbox is not None:
        return _voxels(bbox, resolution)
    if same is not None:
        return {"size": list(same["size"]), "voxel_offset": list(same.get("voxel_offset", (0, 0, 0)))}
    if not model:
        return {}
    offset = model.get("voxel_offset", (0, 0, 0))
    stop = [o + s for o, s in zip(offset, model["size"], strict=True)]
    return _voxels(BBox3D.from_coords(offset, stop, model["resolution"]), resolution)


def _voxels(bbox: BBox3D, resolution: Sequence[float]) -> Json:
    """Return size and offset of the voxels that cover a box."""
    pairs = list(zip(bbox.sides, positives(resolution, "resolution"), strict=True))
    start = [math.floor(quotient(a, r)) for (a, _), r in pairs]
    stop = [math.ceil(quotient(b, r)) for (_, b), r in pairs]
    return {"size": [b - a for a, b in zip(start, stop, strict=True)], "voxel_offset": start}


def _finish(info: Json, request: InfoRequest) -> None:
    """Check an `info`, and add what follows from the rest."""
    faults = _faults(info)
    if faults:
        raise OptionError(f"info of a volume: {'; '.join(faults)}")
    data_type, channels = info["data_type"], info["num_channels"]
    for scale in info["scales"]:
        scale.setdefault("key", _key(scale))
        scale.setdefault("voxel_offset", [0, 0, 0])
        if isinstance(scale.get("sharding"), Mapping):
            # In a spec `@type` would name what is to be built.
            scale["sharding"] = {"@type": SHARDING_TYPE, **scale["sharding"]}
        asked = (request.info_encoding_map or {}).get(_key(scale), request.info_encoding)
        if asked is None and not _fits(scale, info):
            scale["encoding"] = default_encoding(info["type"], data_type, channels)
        elif asked is not None:
            check_encoding(asked, info["type"], data_type, channels)
        if scale["encoding"] == "compressed_segmentation":
            scale.setdefault("compressed_segmentation_block_size", list(BLOCK_SIZE))
        else:
            scale.pop("compressed_segmentation_block_size", None)


def _fits(scale: Json, info: Json) -> bool:
    """Whether an encoding that was taken over holds the voxels."""
    try:
        check_encoding(scale["encoding"], info["type"], info["data_type"], info["num_channels"])
    except OptionError:
        return False
    return True


def _faults(info: Json) -> list[str]:
    faults = []
    if info["type"] not in LAYER_TYPES:
        faults.append(f"expected one of {', '.join(LAYER_TYPES)} as info_type, came {info['type']!r}")
    if info.get("data_type") not in DATA_TYPES:
        came = repr(info["data_type"]) if "data_type" in info else "none"
        faults.append(f"expected one of {', '.join(DATA_TYPES)} as info_data_type, came {came}")
    if type(info["num_channels"]) is not int or info["num_channels"] < 1:
        faults.append(f"expected 1 or more as info_num_channels, came {info['num_channels']!r}")
    if not info["scales"]:
        faults.append(
            "expected at least one scale, came none: give info_reference_path, info_scales or info_add_scales"
        )
    for scale in info["scales"]:
        faults += _faults_of_scale(scale)
    return faults


def _faults_of_scale(scale: Json) -> list[str]:
    key = _key(scale)
    faults = []
    for field, argument in (("size", "info_dataset_size or info_bbox"), ("chunk_sizes", "info_chunk_size")):
        values = scale.get(field)
        triple = values[0] if field == "chunk_sizes" and values else values
        if not _is_triple(triple, 1):
            came = "none" if field not in scale else repr(values)
            faults.append(f"scale {key}: expected three numbers from 1 as {argument}, came {came}")
    if not _is_triple(scale.get("voxel_offset", (0, 0, 0)), None):
        faults.append(f"scale {key}: expected three whole numbers as info_voxel_offset, came {scale['voxel_offset']!r}")
    if not isinstance(scale.get("encoding"), str):
        faults.append(f"scale {key}: expected an encoding as info_encoding, came {scale.get('encoding')!r}")
    return faults


def _is_triple(values: Any, least: int | None) -> bool:
    if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(type(n) is int for n in values):
        return False
    return least is None or min(values) >= least


def _set(info: Json, name: str, value: Any) -> None:
    if value is not None:
        info[name] = value


def _named(scale: Json) -> tuple[Any, str]:
    return scale["resolution"], "resolution"


def _plain(resolution: Sequence[float]) -> list[int | float]:
    """Return a resolution as it stands in JSON: whole numbers as ints."""
    positives(resolution, "resolution")
    return [float(n) if n != int(n) else int(n) for n in (exact(r) for r in three(resolution, "resolution"))]


def _text(resolution: Sequence[float]) -> str:
    """Return a resolution as keys have it: `8_8_40`."""
    return "_".join(str(n) for n in _plain(resolution))


def _key(scale: Json) -> str:
    return _text(scale["resolution"])
