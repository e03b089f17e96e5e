"""Values from text, JSON or YAML 1.2, which mean the same in both: no dates, no `yes`, no octal `010`."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from beam_volumes.builder.paths import ROOT, items, step
from beam_volumes.errors import OptionError

_MOST_DEEP = 100
_TAG = "tag:yaml.org,2002:"
_NOT_PLAIN = "expected text, numbers, true, false, null, lists and dictionaries, came something else"


class _Loader(yaml.SafeLoader):
    """YAML by the core schema of https://yaml.org/spec/1.2.2; keys that stand twice are refused."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a dictionary."""
        scalars = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        keys = [key.value for key in scalars if not key.tag.endswith(":merge")]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})$"), list(_first))
_Loader.add_constructor(f"{_TAG}int", _integer)
_Loader.add_constructor(f"{_TAG}float", _number)


def from_json(text: str) -> object:
    """Return the value of a JSON text.

    Raises:
        OptionError: it is no JSON, with the line of the fault, or a key stands twice.

    """
    try:
        return plain(json.loads(text, object_pairs_hook=_without_doubles))
    except json.JSONDecodeError as error:
        raise OptionError(f"expected JSON, came another text: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise OptionError(_too_deep(ROOT)) from None


def from_yaml(text: str) -> object:
    """Return the value of a YAML text of one document.

    Raises:
        OptionError: it is no YAML, with the line of the fault; or it has keys that are no text or stand twice, dates or
            other values that JSON does not know.

    """
    try:
        # A subclass of SafeLoader makes plain values only.
        return plain(yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        what = " ".join(filter(None, (error.context, error.problem)))
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise OptionError(f"expected YAML, came another text: {line}{what}") from None
    except yaml.YAMLError as error:
        raise OptionError(f"expected YAML, came another text ({type(error).__name__})") from None
    except RecursionError:
        raise OptionError(_too_deep(ROOT)) from None


def from_argument(text: str) -> object:
    """Return the value of a text on a command line: JSON, or YAML's `true`, `1e-3`, `[1, a]`; what is neither is text.

    Raises:
        OptionError: it begins as a list, dictionary or quotation, and is none.

    """
    try:
        return from_json(text)
    except OptionError:
        pass
    if text.lstrip()[:1] in ("[", "{", "'", '"'):
        return from_yaml(text)
    loader: Any = _Loader("")
    node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text.strip(), (True, False)), text.strip())
    return text if node.tag.endswith((":str", ":merge")) else loader.construct_object(node)


def plain(value: object, path: str = ROOT, depth: int = 0) -> object:
    """Return a copy of a value as JSON knows them, in which no part stands at two places.

    Raises:
        OptionError: it holds another value, a key that is no text, or too many levels, such as one that holds itself.

    """
    if depth > _MOST_DEEP:
        raise OptionError(_too_deep(ROOT))
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise OptionError(f"{step(path, key)}: expected a key that is text, came another: quote it")
        return {key: plain(inner, step(path, key), depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, step(path, at), depth + 1) for at, inner in items(value)]
    if value is None or isinstance(value, str | int | float):
        return value
    raise OptionError(f"{path}: {_NOT_PLAIN}: quote it")


def _too_deep(path: str) -> str:
    return f"{path}: expected at most {_MOST_DEEP} levels, came more: see whether a part of it holds itself"


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise OptionError(f"the key {key!r} stands twice: keep one")
        found[key] = value
    return found
