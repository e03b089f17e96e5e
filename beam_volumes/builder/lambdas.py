"""Functions that specs write out: `{"@type": "lambda", "lambda_str": "lambda src: src"}`."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from beam_volumes.builder.registry import register
from beam_volumes.errors import OptionError

_MODULES = {"math": "math", "np": "numpy", "torch": "torch"}
"""What a lambda may name; imported when one does."""


@register("lambda", runs_code=True)
class Lambda:
    """A function from its text; pickled, it is the text, so that it runs in any worker.

    The text may name `np`, `torch` and `math`.

    Args:
        lambda_str: `lambda src: src * 2`.
        name: what the function is called in reports and messages.

    Raises:
        OptionError: the text is not one lambda.

    """

    def __init__(self, lambda_str: str, name: str = "lambda") -> None:
        self.lambda_str = lambda_str
        self.name = self.__name__ = name
        self._function = _compiled(lambda_str)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        """Return its name; its text is the spec's."""
        return f"Lambda({self.name!r})"

    def __eq__(self, other: object) -> bool:
        """Whether the other is a lambda of the same text and name."""
        return isinstance(other, Lambda) and (other.lambda_str, other.name) == (self.lambda_str, self.name)

    def __hash__(self) -> int:
        """Return a hash of the text and the name."""
        return hash((self.lambda_str, self.name))

    @property
    def __signature__(self) -> inspect.Signature:
        """What it takes."""
        return inspect.signature(self._function)

    def __reduce__(self) -> tuple[type[Lambda], tuple[str, str]]:
        """Return how to make it again elsewhere."""
        return Lambda, (self.lambda_str, self.name)


def _compiled(text: str) -> Callable[..., Any]:
    try:
        tree = ast.parse(text.strip(), mode="eval") if isinstance(text, str) else None
    except (SyntaxError, ValueError) as error:
        where = f", at its character {error.offset}" if isinstance(error, SyntaxError) else ""
        raise OptionError(f"lambda_str: expected `lambda src: ...`, came no Python{where}: correct it") from None
    if tree is None or not isinstance(tree.body, ast.Lambda):
        raise OptionError("lambda_str: expected `lambda src: ...`, came something else: write one lambda as text")
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & _MODULES.keys()
    modules = {name: importlib.import_module(_MODULES[name]) for name in named}
    return eval(compile(tree, "lambda_str", "eval"), modules)
