"""How each type of option is written as text: on the command line, in a template, in a record.

A field of a Config is `str`, `int`, `float`, `bool`, `Vec`, `Box`, a `Literal`, a whole number or a word
(`int | Literal["auto"]`), or a list of vectors, numbers, words or texts (`tuple[Vec, ...]`, written `2,2,1;2,2,2`);
or one of these `| None`.
"""

from __future__ import annotations

import functools
import operator
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin

from beam_volumes.geometry import Box, Vec

_INT = "-?[0-9]+"
_FLOAT = r"-?[0-9]+(?:\.[0-9]+)?"


@dataclass(frozen=True)
class ValueType:
    """One type of option, as text.

    `read` turns text into the value and raises ValueError for any other text, `write` turns the value into text;
    `expected` names what is read, with an example; `regex` matches the whole of every text that may be read, "" where
    that says nothing.
    """

    expected: str
    placeholder: str
    regex: str
    read: Callable[[str], Any]
    write: Callable[[Any], str]
    is_bool: bool = False
    repeats: bool = False
    """Whether the option may be given several times, each time for more items."""


def value_type(annotation: Any) -> ValueType:
    """Return how a field of this type is written; `X | None` is written as `X`.

    Raises TypeError for a type that no option can have.
    """
    annotation = without_none(annotation)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return _choice(arguments)
    if get_origin(annotation) is tuple and arguments[1:] == (...,) and _is_item(arguments[0]):
        return _list(arguments[0])
    if _is_union(annotation) and arguments[:1] == (int,) and get_origin(arguments[-1]) is Literal:
        return _number_or_word(get_args(arguments[-1]))
    raise TypeError(
        f"expected one of {[_name(t) for t in _SIMPLE]}, a Literal, int | Literal, or tuple[X, ...] of a vector, int, "
        f"float or Literal as the type of an option: {annotation}"
    )


def without_none(annotation: Any) -> Any:
    """Return `X` for `X | None`, and any other type as it is."""
    if not _is_union(annotation):
        return annotation
    return functools.reduce(operator.or_, (member for member in get_args(annotation) if member is not type(None)))


def plain(value: Any) -> Any:
    """Return the value in the types of JSON: tuples as lists, a box as its six numbers."""
    if isinstance(value, Box):
        return [*value.start, *value.stop]
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def numbers_in(value: Any) -> Iterator[float]:
    """Yield the numbers of a value: its own, or those of its items."""
    if isinstance(value, tuple):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, (int, float)):
        yield value


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_item(annotation: Any) -> bool:
    return annotation in _LISTS or get_origin(annotation) is Literal


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text_of_numbers(value: Any) -> str:
    return ",".join(str(n) for n in plain(value))


def _choice(choices: tuple[Any, ...]) -> ValueType:
    by_text = {_text(choice): choice for choice in choices}

    def read(text: str) -> Any:
        if text not in by_text:
            raise ValueError(text)
        return by_text[text]

    regex = "|".join(re.escape(text) for text in by_text)
    return ValueType(f"one of {', '.join(by_text)}", "|".join(by_text), regex, read, _text)


def _list(annotation: Any) -> ValueType:
    item = value_type(annotation)
    if annotation in _LISTS:
        expected, example = _LISTS[annotation]
    else:
        words = [_text(choice) for choice in get_args(annotation)]
        expected, example = f"one or several of {', '.join(words)}", ";".join((words * 2)[:2])

    def read(text: str) -> tuple[Any, ...]:
        # No texts are written as none: as a template gives a parameter that was left empty.
        return tuple(item.read(part) for part in text.split(";")) if text or annotation is not str else ()

    def write(value: Any) -> str:
        return ";".join(item.write(part) for part in value)

    # Whatever text may be.
    regex = f"(?:{item.regex})(?:;(?:{item.regex}))*" if item.regex else ""
    kind = ValueType(f"{expected}, such as {example}", f"{item.placeholder};...", regex, read, write)
    return replace(kind, repeats=annotation is str)


def _number_or_word(words: tuple[Any, ...]) -> ValueType:
    number, word = _SIMPLE[int], _choice(words)

    def read(text: str) -> Any:
        return number.read(text) if re.fullmatch(_INT, text) else word.read(text)

    names = word.placeholder.split("|")
    return ValueType(
        f"{number.expected} or {' or '.join(names)}",
        f"{number.placeholder}|{word.placeholder}",
        f"{number.regex}|{word.regex}",
        read,
        _text,
    )


def _read_bool(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _read_int(text: str) -> int:
    (value,) = _ints(1, text)
    return value


def _read_float(text: str) -> float:
    if not re.fullmatch(_FLOAT, text):
        raise ValueError(text)
    return float(text)


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
    str: ValueType("text", "TEXT", "", str, _text),
    int: ValueType("a whole number", "N", _INT, _read_int, _text),
    float: ValueType("a number", "X", _FLOAT, _read_float, lambda value: f"{value:.15g}"),
    bool: ValueType("true or false", "true|false", "[Tt]rue|[Ff]alse|0|1", _read_bool, _text, is_bool=True),
    Vec: ValueType("three whole numbers such as 128,128,32", "X,Y,Z", _list_of(3), _read_vec, _text_of_numbers),
    Box: ValueType(
        "six whole numbers x0,y0,z0,x1,y1,z1 such as 0,0,0,512,512,64",
        "X0,Y0,Z0,X1,Y1,Z1",
        _list_of(6),
        _read_box,
        _text_of_numbers,
    ),
}

_LISTS = {
    str: ("one or several texts", "a;b"),
    int: ("one or several whole numbers", "9;6"),
    float: ("one or several numbers", "2;4.5"),
    Vec: ("three whole numbers, once or several times", "2,2,1;2,2,2"),
}
"""What a list can be made of, besides words: what is expected, and an example."""
