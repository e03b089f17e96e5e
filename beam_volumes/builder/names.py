"""What a `@type` stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from beam_volumes.builder.libraries import is_library, library_function, only_calculates
from beam_volumes.builder.nearest import question
from beam_volumes.builder.registry import REGISTRY, RegistryEntry, entry_for
from beam_volumes.errors import OptionError


class Named(NamedTuple):
    """What a type stands for; `runs_code` where a spec from elsewhere may not use it unless that is allowed."""

    name: str
    function: Callable[..., Any]
    runs_code: bool


def resolve(name: str, version: str | None = None) -> Named:
    """Return what a type stands for: a registered name, a method of a registered class, a name of numpy or torch.

    Raises:
        OptionError: nothing is known under the name, or not for that version; the nearest known names are told.

    """
    if name in REGISTRY:
        entry = entry_for(name, version)
        return Named(name, entry.function, entry.runs_code)
    owner = _owner(name)
    if owner is not None:
        entry = entry_for(owner, version)
        return Named(name, _method(name, owner, entry), entry.runs_code)
    if is_library(name):
        function = library_function(name)
        return Named(name, function, not only_calculates(name, function))
    todo = question(name, REGISTRY) or "builder.REGISTRY has those that are known"
    raise OptionError(
        f"no type {name!r} is registered: {todo} (types of your own are known once their module is imported: --import)"
    )


def _owner(name: str) -> str | None:
    """Return the registered name that a name begins with: `BBox3D` of `BBox3D.from_coords`."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    return next((prefix for prefix in prefixes if prefix in REGISTRY), None)


def _method(name: str, owner: str, entry: RegistryEntry) -> Callable[..., Any]:
    found: Any = entry.function
    if not isinstance(found, type):
        raise OptionError(f"{owner!r} is a function: it has no {name.removeprefix(f'{owner}.')!r}; only classes have")
    for part in name.removeprefix(f"{owner}.").split("."):
        inner = None if part.startswith("_") else getattr(found, part, None)
        if not callable(inner):
            methods = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n))]
            todo = question(part, methods) or f"it has {', '.join(methods) or 'none'}"
            raise OptionError(f"{owner!r} has no method {part!r}: {todo}")
        found = inner
    return found
