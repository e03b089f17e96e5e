"""Functions with some of their arguments, as `"@mode": "partial"` makes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from beam_volumes.builder.libraries import is_library, library_function


class Partial:
    """What a type stands for, with some arguments; the others are given when it is called, or given anew.

    Pickled, functions of numpy and torch go by their names: torch has some that cannot be pickled otherwise.

    Attributes:
        name: the type.
        function: what it stands for.
        arguments: by name.

    """

    def __init__(self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.name = name
        self.function = function
        self.arguments = dict(arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; what is given here counts before what was given when it was made."""
        return self.function(*args, **{**self.arguments, **kwargs})

    def __repr__(self) -> str:
        """Return the type and the names of the arguments, but no values."""
        return f"Partial({self.name}: {', '.join(self.arguments)})"

    @property
    def __signature__(self) -> inspect.Signature:
        """What it takes."""
        return inspect.signature(functools.partial(self.function, **self.arguments))

    def __reduce__(self) -> tuple[Callable[..., Partial], tuple[Any, ...]]:
        """Return how to make it again elsewhere."""
        if is_library(self.name) and library_function(self.name) is self.function:
            return _of_library, (self.name, self.arguments)
        return Partial, (self.name, self.function, self.arguments)


def _of_library(name: str, arguments: dict[str, Any]) -> Partial:
    return Partial(name, library_function(name), arguments)
