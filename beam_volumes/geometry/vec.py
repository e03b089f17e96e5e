"""Three numbers, along x, y and z."""

from __future__ import annotations

Vec = tuple[int, int, int]
"""Three Python ints in XYZ order."""


def product(a: Vec, b: Vec) -> Vec:
    """Return the products of the components."""
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])


def added(a: Vec, b: Vec) -> Vec:
    """Return the sums of the components."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def shape_text(shape: Vec) -> str:
    """Return a shape as people write it, such as `64 x 64 x 32`."""
    return " x ".join(str(n) for n in shape)
