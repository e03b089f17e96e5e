"""What specs can name: functions and classes, each under a name and for some versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from beam_volumes.errors import OptionError

DEFAULT_VERSION = "0.0.0"
"""What a spec without `@version` asks for, where a name has several entries."""

_Registered = TypeVar("_Registered", bound=Callable[..., Any])


@dataclass(frozen=True)
class RegistryEntry:
    """What a name stands for in some versions; `runs_code` where its arguments hold code."""

    function: Callable[..., Any]
    versions: SpecifierSet
    runs_code: bool = False

    @property
    def origin(self) -> str:
        """Where the function or class was defined."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


REGISTRY: dict[str, list[RegistryEntry]] = {}
"""All that specs can name now, besides what numpy and torch have."""


def register(name: str, *, versions: str = ">=0.0.0", runs_code: bool = False) -> Callable[[_Registered], _Registered]:
    """Let specs name the function or class below it as `name`; it is left as it is.

    Of a class, methods can be named, too: `BBox3D.from_coords` where `BBox3D` is registered. What is registered again
    from the same place for the same versions (a reloaded module, a cell of a notebook) replaces what it was.

    Args:
        name: what `@type` says.
        versions: for which values of `@version`, as Python packages write them: `>=0.4`, `==0.0.2`, `>=0.1,<0.3`.
        runs_code: its arguments hold code, so that specs from elsewhere may not use it unless that is allowed.

    Raises:
        OptionError: `versions` is not of that form, or `name` is empty.

    """
    if not name:
        raise OptionError("register: expected a name, came an empty one: give one, such as 'my_function'")
    try:
        specifiers = SpecifierSet(versions)
    except InvalidSpecifier:
        raise OptionError(
            f"register {name!r}: expected versions as in '>=0.4' or '>=0.1,<0.3', came {versions!r}"
        ) from None

    def decorate(function: _Registered) -> _Registered:
        entry = RegistryEntry(function, specifiers, runs_code)
        entries = REGISTRY.setdefault(name, [])
        kept = [e for e in entries if (e.origin, e.versions) != (entry.origin, entry.versions)]
        entries[:] = [*kept, entry]
        return function

    return decorate


def check_version(version: object) -> str:
    """Return the value of a spec's `@version`.

    Raises:
        OptionError: it is not text, or no version.

    """
    try:
        if isinstance(version, str):
            Version(version)
            return version
    except InvalidVersion:
        pass
    raise OptionError('expected a version as text, such as "0.0.2", came something else: correct it')


def entry_for(name: str, version: str | None) -> RegistryEntry:
    """Return what a registered name stands for in `version`.

    Without a version it is the only entry of the name, or the one for `DEFAULT_VERSION`.

    Raises:
        OptionError: no entry is for that version, or several are.

    """
    entries = REGISTRY[name]
    if version is None and len(entries) == 1:
        return entries[0]
    asked = version or DEFAULT_VERSION
    found = [entry for entry in entries if entry.versions.contains(asked, prereleases=True)]
    if len(found) == 1:
        return found[0]
    if not found:
        known = " and ".join(f"'{entry.versions}'" for entry in entries)
        raise OptionError(
            f"{name!r} is registered for versions {known}, not for {asked}: give '@version' of these, here or above"
        )
    raise OptionError(
        f"{name!r} is registered more than once for version {asked}: by {' and by '.join(e.origin for e in found)}: "
        "let one of them have other versions, or another name"
    )
