"""Modules of users, which register types of their own."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

from beam_volumes.errors import OptionError, fault_report


def import_modules(names: Iterable[str]) -> list[ModuleType]:
    """Import modules by name, such as `my_package.my_ops`, for what they register.

    Raises:
        OptionError: there is no such module on the path of Python, or it has failed; all such modules are told.

    """
    found = []
    faults = []
    causes: list[Exception] = []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except Exception as error:  # noqa: BLE001 - raised below, when all modules have been tried
            faults.append(f"{name}: {_fault(name, error)}")
            causes.append(error)
    if faults:
        raise OptionError(fault_report(faults, "--import")) from causes[0]
    return found


def _fault(name: str, error: Exception) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        return "expected the name of a module, such as my_package.my_ops, came another text"
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return (
            f"expected a module that can be imported here, came none of the name {error.name}: install its package, or "
            "start where it lies"
        )
    return f"expected a module that can be imported, came an error in it: {type(error).__name__}: {error}"
