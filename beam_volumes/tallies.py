"""Adding up what workers have counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

TallyT = TypeVar("TallyT", bound=Any)


def add_up_tallies(zero: TallyT, parts: Iterable[TallyT]) -> TallyT:
    """Return one tally of many; of peaks the largest counts.

    Args:
        zero: the tally of nothing, a NamedTuple of numbers with a field `peak_memory_bytes`.
        parts: others of its type.

    """
    merged = [zero, *parts]
    peak = max(tally.peak_memory_bytes for tally in merged)
    sums = (sum(values) for values in zip(*merged, strict=True))
    return type(zero)(*sums)._replace(peak_memory_bytes=peak)
