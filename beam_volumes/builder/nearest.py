"""Which known names are near to one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST = 3


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return at most three of `known` that look like `name`, the most alike first; case does not count."""
    by_lower = {other.lower(): other for other in sorted(known, reverse=True)}
    lowers = get_close_matches(name.lower(), by_lower, n=_MOST)
    parts = [other for other in by_lower if name and name.lower() in other and other not in lowers]
    return [by_lower[lower] for lower in [*lowers, *sorted(parts)][:_MOST]]


def question(name: str, known: Iterable[str]) -> str:
    """Return what to do about an unknown name: `did you mean 'a' or 'b'?`, or "" where nothing is near."""
    near = [repr(other) for other in nearest(name, known)]
    return f"did you mean {' or '.join(near)}?" if near else ""
