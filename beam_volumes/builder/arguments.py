"""Whether arguments fit a function, and calling it with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from typing import Any

from beam_volumes.builder.nearest import question
from beam_volumes.errors import OptionError

_NAMED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter] | None:
    """Return the parameters of a function or class by name, or None where it does not tell (much of torch)."""
    try:
        return dict(inspect.signature(function).parameters)
    except (ValueError, TypeError):
        return None


def names_of(parameters: Mapping[str, Parameter]) -> list[str]:
    """Return the names of the parameters that can be given by name."""
    return [name for name, parameter in parameters.items() if parameter.kind in _NAMED]


def unknown_arguments(name: str, function: Callable[..., Any], given: Iterable[str]) -> dict[str, str]:
    """Return what is wrong with each given argument that a function does not take."""
    parameters = parameters_of(function)
    if parameters is None or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        return {}
    known = names_of(parameters)
    takes = f"it takes {', '.join(known)}" if known else "it takes none"
    return {
        argument: f"{name} takes no argument of this name: {question(argument, known) or takes}"
        for argument in given
        if argument not in known
    }


def missing_arguments(name: str, function: Callable[..., Any], given: Iterable[str]) -> str:
    """Return what is wrong where arguments are not given that a function needs, else ""."""
    parameters = parameters_of(function) or {}
    needed = [n for n in names_of(parameters) if parameters[n].default is Parameter.empty]
    missing = [n for n in needed if n not in given]
    if not missing:
        return ""
    return f"{name} needs {' and '.join(missing)}, not given: add {'it' if len(missing) == 1 else 'them'}"


def call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function with arguments by name; those that Python takes by place only (of numpy) go there.

    Raises:
        OptionError: an argument by place is given, one before it is not.

    """
    parameters = parameters_of(function) or {}
    by_place = [n for n, parameter in parameters.items() if parameter.kind is Parameter.POSITIONAL_ONLY]
    places = [n for n in by_place if n in arguments]
    if places != by_place[: len(places)]:
        lacking = next(n for n in by_place if n not in arguments)
        raise OptionError(f"expected {lacking} before {places[-1]}, which is taken by place: give {lacking}, too")
    by_name = {n: value for n, value in arguments.items() if n not in places}
    return function(*(arguments[n] for n in places), **by_name)
