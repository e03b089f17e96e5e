"""Values given besides a spec's file: `target.dst.path=file:///tmp/out`."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter
from typing import cast

from beam_volumes.builder.arguments import names_of, parameters_of
from beam_volumes.builder.building import SPECIAL
from beam_volumes.builder.names import resolve
from beam_volumes.builder.nearest import question
from beam_volumes.builder.paths import ROOT, raise_faults, step
from beam_volumes.builder.text import from_argument
from beam_volumes.errors import OptionError


def override(spec: dict[str, object], settings: Sequence[str]) -> dict[str, object]:
    """Return a copy of a spec with some values replaced.

    A setting is a path, `=`, and a value in JSON or YAML; what is neither is text: `bbox.end_coord.2=30`,
    `fn.name=blur`, `processing_chunk_sizes=[[64, 64, 8]]`. A path goes by the names in dictionaries and by the indices
    (from 0) in lists; it ends at something that is there, or at an argument that the type there takes. Names may have
    dots in them. Later settings count before earlier ones.

    Raises:
        OptionError: a setting is of another form, its path is not known (the nearest are told), or its value begins as
            a list, dictionary or quotation and is none. All such settings are told.

    """
    found: object = spec
    faults = []
    for setting in settings:
        path, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not path:
            faults.append(f"{path or '='}: expected a setting such as target.dst.path=VALUE, came less")
            continue
        try:
            found = _replaced(found, path.split("."), from_argument(value), ROOT)
        except OptionError as error:
            faults.append(f"{path}: {error}")
    raise_faults(faults, "what is set")
    return dict(cast("dict[str, object]", found))


def _replaced(value: object, parts: list[str], new: object, path: str) -> object:
    """Return a copy of a part of a spec in which `parts`, a path in it, leads to `new`."""
    if not parts:
        return new
    if isinstance(value, dict):
        key, rest = _key(value, parts, path)
        return {**value, key: _replaced(value.get(key), rest, new, step(path, key))}
    if isinstance(value, list) or type(value) is tuple:
        at = _index(parts[0], len(value), path)
        held = list(value)
        held[at] = _replaced(held[at], parts[1:], new, step(path, at))
        return held if isinstance(value, list) else tuple(held)
    raise OptionError(f"{path} is a single value: there is no {'.'.join(parts)!r} in it: end the path there")


def _key(value: dict[str, object], parts: list[str], path: str) -> tuple[str, list[str]]:
    """Return the key that a path begins with, and the rest of the path; the longest key, as they may have dots."""
    for n in range(len(parts), 0, -1):
        if (key := ".".join(parts[:n])) in value:
            return key, parts[n:]
    named, takes_any = _arguments(value)
    if len(parts) == 1 and parts[0] and (parts[0] in named or takes_any):
        return parts[0], []
    if parts[0] in named:
        raise OptionError(f"{path} has no value for {parts[0]!r} yet: set it as a whole")
    known = [*value, *named]
    asked = parts[0] if len(parts) > 1 and question(parts[0], known) else ".".join(parts)
    todo = question(asked, known) or f"there are {', '.join(known) or 'none'}"
    raise OptionError(f"{path} has no {asked!r}: {todo}")


def _arguments(value: dict[str, object]) -> tuple[list[str], bool]:
    """Return which arguments a typed part can have, and whether any others, too."""
    try:
        version = value.get("@version")
        function = resolve(str(value["@type"]), version if isinstance(version, str) else None).function
    except (KeyError, OptionError):
        return [], False
    parameters = parameters_of(function) or {}
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    return [*names_of(parameters), *SPECIAL], takes_any


def _index(part: str, length: int, path: str) -> int:
    if part.isascii() and part.isdigit() and int(part) < length:
        return int(part)
    raise OptionError(f"{path} has {length} items: expected an index from 0 to {length - 1}, came {part!r}")
