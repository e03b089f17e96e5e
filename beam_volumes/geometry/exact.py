"""Numbers that do not drift: a float stands for the decimal that it is printed as, and is reckoned with as a fraction.

So 0.1 is one tenth, and a resolution of 4.5 nm times a billion voxels is exact. What has no end as a decimal (a third
of 10 nm) stays a fraction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real

from beam_volumes.errors import GeometryError

Exact = int | Fraction
"""What is calculated with: an int where the number is whole."""

Number = int | float | Fraction
"""What is kept and printed: a fraction only where no float is printed as that number."""

AXES = "xyz"


def exact(value: object) -> Exact:
    """Return the number that `value` (of Python or numpy) is printed as; a GeometryError where it is none."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise GeometryError(f"expected a number, got {value!r}, which is a {type(value).__name__}")
    if isinstance(value, Integral):
        return int(value)
    if not math.isfinite(value):
        raise GeometryError(f"expected a finite number, got {value}")
    # The text of a float32 is its shortest decimal too; its value as a float64 is not.
    fraction = Fraction(value) if isinstance(value, Fraction) else Fraction(str(value))
    return fraction.numerator if fraction.denominator == 1 else fraction


def kept(value: object) -> Number:
    """Return `value` as Python's int or float, in the form in which it came."""
    number = exact(value)
    return number if isinstance(value, Integral) else decimal(number)


def decimal(number: Exact) -> Number:
    """Return the float that is printed as `number`, or the number itself where there is none."""
    nearest = float(number)
    return nearest if exact(nearest) == number else number


def nearest(value: Number) -> int | float:
    """Return `value`, or the float nearest to it where it is a fraction."""
    return float(value) if isinstance(value, Fraction) else value


def quotient(a: Exact, b: Exact) -> Exact:
    """Return a / b."""
    fraction = Fraction(a) / b
    return fraction.numerator if fraction.denominator == 1 else fraction


def product(*values: object) -> Number:
    """Return the product in the form in which it is kept: an int where all of `values` are ints."""
    number: Exact = math.prod(exact(v) for v in values)
    whole = all(isinstance(v, Integral) for v in values)
    return exact(number) if whole else decimal(exact(number))


def difference(a: Number, b: Number) -> int | float:
    """Return a - b: an int where both are, or else the float nearest to it."""
    number = exact(a) - exact(b)
    return int(number) if isinstance(a, int) and isinstance(b, int) else float(number)


def three(values: Iterable[object], what: str) -> tuple[object, object, object]:
    """Return `values` (x, y, z) as a tuple; a GeometryError that names them as `what` where they are not three."""
    found = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else None
    if found is None or len(found) != 3:
        raise GeometryError(f"expected three numbers (x, y, z) as {what}, got {values!r}")
    return found


def exacts(values: Iterable[object], what: str) -> tuple[Exact, Exact, Exact]:
    """Return three numbers as what is calculated with."""
    x, y, z = three(values, what)
    return (exact(x), exact(y), exact(z))


def positives(values: Iterable[object], what: str) -> tuple[Exact, Exact, Exact]:
    """Return three numbers above 0, such as a resolution, as what is calculated with."""
    found = exacts(values, what)
    if min(found) <= 0:
        raise GeometryError(f"expected numbers above 0 as {what}, got {values!r}")
    return found


def text(number: Exact | float) -> str:
    """Return a number as people write it: 4 and 4.5; a float to 10 digits behind the point."""
    rounded = round(float(number), 10)
    return str(int(rounded)) if rounded.is_integer() else str(rounded)
