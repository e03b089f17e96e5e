"""Where a box starts and ends along each axis: padding, snapping, and how it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from beam_volumes.errors import GeometryError
from beam_volumes.geometry.exact import AXES, Exact, Number, decimal, exact, exacts, kept, positives, text, three

Side = tuple[Exact, Exact]
"""The start and the end along one axis, as they are calculated with."""

Bounds = tuple[tuple[Number, Number], tuple[Number, Number], tuple[Number, Number]]
SnapMode = Literal["shrink", "expand", "floor"]

NOWHERE: Bounds = ((0, 0), (0, 0), (0, 0))


def checked(bounds: Iterable[object], unit: str) -> Bounds:
    """Return the bounds in Python's numbers; a GeometryError where they are not three pairs (start, end) in order."""
    pairs = []
    for axis, pair in zip(AXES, three(bounds, "bounds"), strict=True):
        found = tuple(pair) if isinstance(pair, Iterable) else ()
        if len(found) != 2:
            raise GeometryError(f"expected a start and an end as the bounds along {axis}, got {pair!r}")
        start, end = exact(found[0]), exact(found[1])
        if end < start:
            raise GeometryError(
                f"expected a box that ends behind its start, got {text(start)} to {text(end)} {unit} along {axis}:"
                f" give the lower coordinate first, and crop or move a side by no more than the size"
            )
        pairs.append((kept(found[0]), kept(found[1])))
    x, y, z = pairs
    return (x, y, z)


def kept_sides(sides: Iterable[Side]) -> Bounds:
    """Return the bounds of a box that has been made from another: floats wherever they are exact."""
    x, y, z = ((decimal(exact(a)), decimal(exact(b))) for a, b in sides)
    return (x, y, z)


def both_sides(pad: Iterable[object], what: str) -> list[Side]:
    """Return the pad at the start and at the end of each axis, of three numbers or pairs of numbers."""
    pairs = []
    for value in three(pad, what):
        low, high = value if isinstance(value, Sequence) and len(value) == 2 else (value, value)
        pairs.append((exact(low), exact(high)))
    return pairs


def check_axes(*dims: int) -> None:
    """Refuse what is no axis."""
    if any(dim not in (0, 1, 2) for dim in dims):
        raise GeometryError(f"expected 0, 1 or 2 (x, y, z) as an axis, got {', '.join(map(str, dims))}")


def _down(number: Exact, offset: Exact, size: Exact) -> Exact:
    return offset + (number - offset) // size * size


def _up(number: Exact, offset: Exact, size: Exact) -> Exact:
    return offset - (offset - number) // size * size


_Snap = Callable[[Exact, Exact, Exact], Exact]
_SNAPS: dict[str, tuple[_Snap, _Snap]] = {"shrink": (_up, _down), "expand": (_down, _up), "floor": (_down, _down)}


def snapped_sides(
    sides: Iterable[Side], grid_offset: Sequence[Number], grid_size: Sequence[Number], mode: str
) -> Bounds:
    """Return the sides on a grid of cells of `grid_size` through `grid_offset`; NOWHERE where no cell is left."""
    if mode not in _SNAPS:
        raise GeometryError(f"expected one of {', '.join(_SNAPS)} as mode, got {mode!r}")
    low, high = _SNAPS[mode]
    axes = zip(sides, exacts(grid_offset, "grid_offset"), positives(grid_size, "grid_size"), strict=True)
    found = [(low(a, o, s), high(b, o, s)) for (a, b), o, s in axes]
    return NOWHERE if any(b < a for a, b in found) else kept_sides(found)
