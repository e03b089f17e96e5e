"""Which `info` a volume gets where one stands: the same, one with more scales, or another."""

from __future__ import annotations

from typing import Any

from beam_volumes.destinations import as_read
from beam_volumes.errors import OptionError
from beam_volumes.geometry.exact import exact
from beam_volumes.layers.info_request import InfoRequest
from beam_volumes.precomputed.info import Json

_OF_VOLUME = ("type", "data_type", "num_channels")
_DEFAULTS: Json = {"voxel_offset": [0, 0, 0]}


def settled_info(path: str, standing: Json | None, asked: Json, request: InfoRequest) -> Json:
    """Return the `info` that a volume is to have.

    Args:
        path: the volume.
        standing: its `info` now; None where there is none.
        asked: the one that arguments describe.
        request: the arguments, which say what may become of the one that stands.

    Raises:
        OptionError: the arguments do not allow what would have to be changed.

    """
    asked = as_read(asked)
    if standing is None:
        return asked
    by_resolution = {_resolution(scale): scale for scale in standing["scales"]}
    wanted = {_resolution(scale): scale for scale in asked["scales"]}
    volume_differs = [f"{n}: {standing.get(n)!r}, not {asked[n]!r}" for n in _OF_VOLUME if standing.get(n) != asked[n]]
    changed = [
        f"{by_resolution[r].get('key')}: {difference}"
        for r, scale in wanted.items()
        if r in by_resolution
        for difference in _differences(by_resolution[r], scale)
    ]
    added = [scale["key"] for r, scale in wanted.items() if r not in by_resolution]
    rest = [scale for r, scale in by_resolution.items() if r not in wanted]
    _check(path, request, [*volume_differs, *changed], added, [str(scale.get("key")) for scale in rest])
    if volume_differs and request.keeps and rest:
        raise OptionError(
            f"{path}: expected the scales {', '.join(str(s.get('key')) for s in rest)}, which stay, to be of the new "
            f"volume's kind, came {'; '.join(volume_differs)}: let them go with info_keep_existing_scales=False"
        )
    if not volume_differs and not changed and not added and (request.keeps or not rest):
        return standing
    kept = rest if request.keeps else []
    # A scale that stays the same keeps whatever else stands in it.
    scales = [
        by_resolution[r] if r in by_resolution and not _differences(by_resolution[r], s) else s
        for r, s in wanted.items()
    ]
    return {**(standing if request.keeps else {}), **asked, "scales": sorted([*kept, *scales], key=_resolution)}


def _check(path: str, request: InfoRequest, changed: list[str], added: list[str], rest: list[str]) -> None:
    """Refuse what the arguments do not allow."""
    if request.on_info_exists == "expect_same":
        differences = [*changed, *(f"{key}: not there" for key in added), *(f"{key}: there" for key in rest)]
        todo = "ask for the same, or choose on_info_exists 'extend' or 'overwrite'"
    elif request.may_change:
        return
    else:
        differences = [*changed, *([] if request.keeps else [f"{key}: there" for key in rest])]
        todo = "ask for the same, or allow it to change with on_info_exists='overwrite' (info_overwrite=True)"
    if differences:
        raise OptionError(
            f"{path}: expected an info like the one that is asked for, came one that differs "
            f"({'; '.join(differences)}): {todo}"
        )


def _differences(standing: Json, asked: Json) -> list[str]:
    """Return what is said of a scale that stands otherwise than it is asked for."""
    found = []
    for name, value in asked.items():
        came = standing.get(name, _DEFAULTS.get(name))
        if name not in ("resolution", "key") and came != value:
            found.append(f"{name} {came!r}, not {value!r}")
    if "sharding" in standing and "sharding" not in asked:
        found.append("sharded, not unsharded")
    return found


def _resolution(scale: Json) -> tuple[Any, ...]:
    return tuple(exact(r) for r in scale["resolution"])
