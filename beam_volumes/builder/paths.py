"""Places in a spec as messages tell them: `spec.target.read_procs.0.threshold`."""

from __future__ import annotations

import re

from beam_volumes.errors import OptionError, fault_report

ROOT = "spec"


def step(path: str, key: object) -> str:
    """Return the path of what stands under a key of a dictionary, or at an index of a list."""
    text = str(key)
    return f"{path}.{text}" if re.fullmatch(r"@?\w+", text) else f'{path}["{text}"]'


def items(value: object) -> list[tuple[str | int, object]]:
    """Return what a part of a spec holds: by key of a dictionary, by index of a list or tuple."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list) or type(value) is tuple:
        return list(enumerate(value))
    return []


def raise_faults(faults: list[str], what: str = "the spec") -> None:
    """Raise one error that tells all faults, if there are any.

    Raises:
        OptionError: there are.

    """
    if faults:
        raise OptionError(fault_report(faults, what))
