"""Making objects from specs: first all of a spec is checked, then it is built, from the inside out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_volumes.builder.arguments import call, missing_arguments, unknown_arguments
from beam_volumes.builder.names import Named, resolve
from beam_volumes.builder.nearest import question
from beam_volumes.builder.partials import Partial
from beam_volumes.builder.paths import ROOT, items, raise_faults, step
from beam_volumes.builder.registry import check_version
from beam_volumes.errors import OptionError, VolumeError
from beam_volumes.storage.urls import redacted

SPECIAL = ("@type", "@mode", "@version")
_MODES = ("regular", "partial")


def build(spec: object, *, allow_code: bool = True) -> Any:
    """Return what a spec describes.

    A dictionary with `@type` becomes what that function or class returns for the other keys as arguments, themselves
    built first; other dictionaries, lists and tuples are built part by part, and every other value is itself. With
    `"@mode": "partial"` the function is not called: what comes is a picklable function that lacks the arguments that
    are not given. `@version` says which registration of a name is meant, also for all parts below that have none. The
    spec is left as it is.

    Args:
        spec: dictionaries, lists and plain values; objects that stand in it stay what they are.
        allow_code: whether the spec may hold code: `lambda`, and functions of numpy and torch that do more than
            calculate. For specs that someone else may have written: False.

    Raises:
        OptionError: the spec has faults, all of which are told, each with its path, such as `spec.target.dst`; nothing
            has been built then. Or a function has refused its arguments.
        VolumeError: a function has failed. What it raises of this kind is raised as it is, with the path before it.

    """
    return _made(_checked(spec, allow_code=allow_code))


def check(spec: object, *, allow_code: bool = True) -> None:
    """Raise what `build` would raise before it builds anything.

    Raises:
        OptionError: the spec has faults, all of which are told.

    """
    _checked(spec, allow_code=allow_code)


def code_in(spec: object) -> dict[str, str]:
    """Return the types in a spec that run code, as far as they are known now, by their paths."""
    checker = _Checker(allow_code=True)
    checker.checked(spec, ROOT, None)
    return checker.code


@dataclass
class _Node:
    """A typed part of a spec, whose name is resolved; its arguments are values and nodes."""

    path: str
    named: Named
    partial: bool
    arguments: dict[str, Any] = field(default_factory=dict)


class _Checker:
    def __init__(self, *, allow_code: bool) -> None:
        self.allow_code = allow_code
        self.faults: list[str] = []
        self.code: dict[str, str] = {}

    def checked(self, value: object, path: str, version: str | None) -> Any:
        """Return a part of a spec with nodes in place of what is typed; note its faults."""
        if isinstance(value, dict):
            if any(isinstance(key, str) and key.startswith("@") for key in value):
                return self._node(value, path, version)
            return {key: self.checked(inner, step(path, key), version) for key, inner in value.items()}
        if isinstance(value, list) or type(value) is tuple:
            parts = [self.checked(inner, step(path, at), version) for at, inner in items(value)]
            return parts if isinstance(value, list) else tuple(parts)
        return value

    def _node(self, value: Mapping[Any, object], path: str, version: str | None) -> _Node | None:
        before = len(self.faults)
        for key in value:
            if not isinstance(key, str):
                self._note(step(path, key), "expected an argument's name, came a key that is no text: name it")
            elif key.startswith("@") and key not in SPECIAL:
                self._note(step(path, key), question(key, SPECIAL) or f"expected {', '.join(SPECIAL)}, came another")
        if "@version" in value:
            version = self._version(value["@version"], path) or version
        mode = value.get("@mode", "regular")
        if mode not in _MODES:
            todo = question(str(mode), _MODES) or f"expected {' or '.join(_MODES)}, came another"
            self._note(step(path, "@mode"), todo)
        named = self._named(value, path, version)
        node = _Node(path, named, mode == "partial") if named else None
        given = {key: inner for key, inner in value.items() if isinstance(key, str) and not key.startswith("@")}
        if node:
            self._fit(node, given)
        arguments = {key: self.checked(inner, step(path, key), version) for key, inner in given.items()}
        if node is None or len(self.faults) > before:
            return None
        node.arguments = arguments
        return node

    def _version(self, version: object, path: str) -> str | None:
        try:
            return check_version(version)
        except OptionError as error:
            self._note(step(path, "@version"), str(error))
            return None

    def _named(self, value: Mapping[Any, object], path: str, version: str | None) -> Named | None:
        name = value.get("@type")
        if not isinstance(name, str):
            came = "none" if "@type" not in value else "one that is no text"
            self._note(path, f'expected a "@type", came {came}: name a registered type')
            return None
        try:
            named = resolve(name, version)
        except OptionError as error:
            self._note(path, str(error))
            return None
        if named.runs_code:
            self.code[path] = name
            if not self.allow_code:
                self._note(path, code_refused(name))
        return named

    def _fit(self, node: _Node, given: Mapping[str, object]) -> None:
        name, function = node.named.name, node.named.function
        if not callable(function):
            if given or node.partial:
                self._note(node.path, f'{name} is a value, which takes no arguments: give its "@type" alone')
            return
        for argument, fault in unknown_arguments(name, function, given).items():
            self._note(step(node.path, argument), fault)
        if not node.partial and (fault := missing_arguments(name, function, given)):
            self._note(node.path, fault)

    def _note(self, path: str, fault: str) -> None:
        self.faults.append(f"{path}: {fault}")


def code_refused(name: str) -> str:
    """Return why a type that runs code is refused in a spec that may have been written by someone else."""
    return (
        f"{name} runs code or touches files, which a spec from elsewhere, or that of a template, may not do unless it "
        "is allowed: read the spec, then allow it (--allow_code), or start it from a local file of your own"
    )


def _checked(spec: object, *, allow_code: bool) -> Any:
    checker = _Checker(allow_code=allow_code)
    found = checker.checked(spec, ROOT, None)
    raise_faults(checker.faults)
    return found


def _made(value: Any) -> Any:
    # The first failure ends it: what comes after might write already.
    if isinstance(value, _Node):
        return _called(value, {key: _made(inner) for key, inner in value.arguments.items()})
    if isinstance(value, dict):
        return {key: _made(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_made(inner) for inner in value]
    if type(value) is tuple:
        return tuple(_made(inner) for inner in value)
    return value


def _called(node: _Node, arguments: dict[str, Any]) -> Any:
    name, function = node.named.name, node.named.function
    if not callable(function):
        return function
    if node.partial:
        return Partial(name, function, arguments)
    try:
        return call(function, arguments)
    except VolumeError as error:
        error.args = (f"{node.path}: {error}",)
        raise
    except (TypeError, ValueError) as error:
        raise OptionError(f"{node.path}: {name} has refused its arguments: {_told(error)}") from error
    except Exception as error:
        raise VolumeError(f"{node.path}: {name} has failed: {_told(error)}") from error


def _told(error: Exception) -> str:
    return f"{redacted(str(error))} ({type(error).__name__})" if str(error) else type(error).__name__
