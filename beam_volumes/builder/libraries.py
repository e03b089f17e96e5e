"""Functions of numpy and torch by their names: `np.mean`, `torch.nn.functional.relu`; torch is loaded when named."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from beam_volumes.builder.nearest import question
from beam_volumes.errors import OptionError

_MODULES = {"np": "numpy", "torch": "torch"}

_ARITHMETIC = {
    "np": frozenset({"np", "np.fft", "np.linalg"}),
    "torch": frozenset({"torch", "torch.fft", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.special"}),
}
"""Modules that calculate. Others, such as torch.hub and np.ctypeslib, can load code."""

_BESIDES = frozenset(
    {"from_file", "fromfile", "fromregex", "genfromtxt", "info", "memmap", "show_config", "show_runtime", "test"}
)
_BESIDES_PREFIXES = ("load", "save", "set")
"""What else stands in those modules: it reads and writes files, or changes the whole process."""


def is_library(name: str) -> bool:
    """Whether a type is one of numpy or torch."""
    return name.partition(".")[0] in _MODULES and "." in name


def library_function(name: str) -> Any:
    """Return what numpy or torch has under a name such as `np.add` or `torch.nn.Conv3d`; mostly a function or class.

    Raises:
        OptionError: there is none, or torch is not installed.

    """
    first, *names = name.split(".")
    found = _module(first)
    for at, part in enumerate(names):
        inner = getattr(found, part, None) if part and not part.startswith("_") else None
        if inner is None:
            of = ".".join([first, *names[:at]])
            todo = question(part, (n for n in dir(found) if not n.startswith("_"))) or f"see the names of {of}"
            raise OptionError(f"{of} has no {part!r}: {todo}")
        found = inner
    if isinstance(found, ModuleType):
        raise OptionError(f"{name} is a module: name a function or class in it")
    return found


def only_calculates(name: str, function: Any) -> bool:
    """Whether what numpy or torch has is a value, or does nothing but calculate: it runs no code, touches no file."""
    if not callable(function):
        return True
    module, _, last = name.rpartition(".")
    library = name.partition(".")[0]
    if module not in _ARITHMETIC[library] or last in _BESIDES or last.startswith(_BESIDES_PREFIXES):
        return False
    if library == "np":
        return last in _module(module).__all__
    torch: Any = _module("torch")
    if module == "torch":
        return hasattr(torch._C._VariableFunctions, last)
    if isinstance(function, type):
        return issubclass(function, torch.nn.Module)
    return True


def _module(name: str) -> ModuleType:
    first, dot, rest = name.partition(".")
    try:
        return importlib.import_module(f"{_MODULES[first]}{dot}{rest}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise OptionError("this needs torch, which is not installed: install it, as the extra `apply` does") from error
