"""How each type of option is written as text: on the command line, in a template, in a record."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from beam_volumes.geometry import Box

_INT = "-?[0-9]+"


@dataclass(frozen=True)
class ValueType:
    """One type of option, as text.

    `read` turns text into the value and raises ValueError for any other text; `expected` names what it reads, with
    an example; `regex` matches the whole of every text that may be read, "" where that says nothing.
    """

    expected: str
    placeholder: str
    regex: str
    read: Callable[[str], Any]
    is_bool: bool = False


def value_type(annotation: Any) -> ValueType:
    """Return how a field of this type is written; `X | None` is written as `X`.

    Raises TypeError for a type that no option can have.
    """
    annotation = without_none(annotation)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if get_origin(annotation) is Literal:
        return _choice(get_args(annotation))
    raise TypeError(
        f"expected one of {[_name(t) for t in _SIMPLE]} or a Literal as the type of an option: {annotation}"
    )


def without_none(annotation: Any) -> Any:
    """Return `X` for `X | None`, and any other type as it is."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    members = [member for member in get_args(annotation) if member is not type(None)]
    return members[0] if len(members) == 1 else annotation


def text_of(value: Any) -> str:
    """Return the text that reads as this value; "none" for None."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(n) for n in plain(value))
    return str(value)


def plain(value: Any) -> Any:
    """Return the value in the types of JSON: tuples as lists, a box as its six numbers."""
    if isinstance(value, Box):
        return [*value.start, *value.stop]
    return list(value) if isinstance(value, tuple) else value


def _choice(choices: tuple[Any, ...]) -> ValueType:
    by_text = {text_of(choice): choice for choice in choices}

    def read(text: str) -> Any:
        if text not in by_text:
            raise ValueError(text)
        return by_text[text]

    regex = "|".join(re.escape(text) for text in by_text)
    return ValueType(f"one of {', '.join(by_text)}", "|".join(by_text), regex, read)


def _read_bool(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _read_int(text: str) -> int:
    (value,) = _ints(1, text)
    return value


def _read_vec(text: str) -> tuple[int, ...]:
    return _ints(3, text)


def _read_box(text: str) -> Box:
    x0, y0, z0, x1, y1, z1 = _ints(6, text)
    return Box((x0, y0, z0), (x1, y1, z1))


def _ints(count: int, text: str) -> tuple[int, ...]:
    # int() alone would also take " 1", "1_000" and digits of other scripts.
    if not re.fullmatch(_list_of(count), text):
        raise ValueError(text)
    return tuple(int(part) for part in text.split(","))


def _list_of(count: int) -> str:
    return ",".join([_INT] * count)


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


_SIMPLE: dict[Any, ValueType] = {
    str: ValueType("text", "TEXT", "", str),
    int: ValueType("a whole number", "N", _INT, _read_int),
    bool: ValueType("true or false", "true|false", "[Tt]rue|[Ff]alse|0|1", _read_bool, is_bool=True),
    tuple[int, int, int]: ValueType("three whole numbers such as 128,128,32", "X,Y,Z", _list_of(3), _read_vec),
    Box: ValueType(
        "six whole numbers x0,y0,z0,x1,y1,z1 such as 0,0,0,512,512,64", "X0,Y0,Z0,X1,Y1,Z1", _list_of(6), _read_box
    ),
}
