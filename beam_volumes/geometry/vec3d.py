"""Three numbers with arithmetic: sizes, offsets, resolutions, coordinates."""

# ruff: noqa: D105 - the class tells what the operators do.

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, TypeAlias, TypeVar, overload

from beam_volumes.geometry.exact import exact, kept, nearest

T_co = TypeVar("T_co", bound=float, covariant=True)
Operation = Callable[[Any, Any], Any]


def _applied(operation: Operation, a: object, b: object) -> float:
    if type(a) is int and type(b) is int:
        return operation(a, b)
    return float(operation(Fraction(exact(a)), exact(b)))


@dataclass(frozen=True, repr=False)
class Vec3D(Sequence[T_co]):
    """Three ints or floats in XYZ order, of any unit; immutable, hashable, equal where all of them are.

    Operators take another Vec3D, axis by axis, or one number for all axes; a tuple, list or array is a TypeError, since
    it may be of another order. Results are ints where both sides are ints and the operator is not `/`. Floats are
    reckoned with as the decimals that they are printed as, and the result is the float nearest to the exact one.

    >>> Vec3D(1, 2, 3) * Vec3D(2, 3, 4)
    Vec3D(2, 6, 12)
    >>> Vec3D(1, 2, 3) / Vec3D(3, 2, 1)
    Vec3D(0.3333333333333333, 1.0, 3.0)
    >>> Vec3D(1, 2, 3) // Vec3D(3, 2, 1)
    Vec3D(0, 1, 3)
    >>> Vec3D(1, 2, 3) % Vec3D(3, 2, 1)
    Vec3D(1, 0, 0)
    >>> Vec3D(0.1, 4.5, 40) * 3
    Vec3D(0.3, 13.5, 120)

    `<`, `<=`, `>` and `>=` hold where they hold on all axes: of two vectors, neither may be the smaller.

    >>> Vec3D(1, 2, 3) < Vec3D(2, 3, 4), Vec3D(1, 2, 3) < Vec3D(2, 2, 4), Vec3D(1, 2, 3) > 0
    (True, False, True)
    """

    x: T_co
    y: T_co
    z: T_co

    # numpy would take it apart, and return an array.
    __array_ufunc__ = None

    def __post_init__(self) -> None:
        for axis in ("x", "y", "z"):
            value = getattr(self, axis)
            if type(value) is not int:
                object.__setattr__(self, axis, nearest(kept(value)))

    def __repr__(self) -> str:
        return f"Vec3D({self.x!r}, {self.y!r}, {self.z!r})"

    def pformat(self) -> str:
        """Return the three as floats, to 10 digits behind the point.

        >>> Vec3D(1, 2, 3).pformat()
        '(1.0, 2.0, 3.0)'
        """
        x, y, z = (round(float(v), 10) for v in self)
        return f"({x}, {y}, {z})"

    def __iter__(self) -> Iterator[T_co]:
        yield from (self.x, self.y, self.z)

    def __len__(self) -> int:
        return 3

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T_co, ...]: ...
    def __getitem__(self, index: int | slice) -> T_co | tuple[T_co, ...]:
        return (self.x, self.y, self.z)[index]

    def _others(self, other: object) -> tuple[float, ...] | None:
        """Return the operand of each axis; None where `other` may know better what to do."""
        if isinstance(other, Vec3D):
            return (other.x, other.y, other.z)
        if isinstance(other, Real) and not isinstance(other, bool):
            number = nearest(kept(other))
            return (number, number, number)
        if isinstance(other, Sequence) or hasattr(other, "__array__"):
            raise TypeError(f"a Vec3D takes a Vec3D or a number as operand, not {other!r}: write Vec3D(x, y, z)")
        return None

    def _with(self, operation: Operation, other: object, *, swapped: bool = False) -> Any:
        others = self._others(other)
        if others is None:
            return NotImplemented
        left, right = (others, self) if swapped else (self, others)
        return Vec3D(*(_applied(operation, a, b) for a, b in zip(left, right, strict=True)))

    def _all(self, compare: Operation, other: object) -> Any:
        others = self._others(other)
        if others is None:
            return NotImplemented
        return all(compare(a, b) for a, b in zip(self, others, strict=True))

    @overload
    def __add__(self: Vec3D[int], other: Vec3D[int] | int) -> Vec3D[int]: ...
    @overload
    def __add__(self, other: Vec3D[float] | float) -> Vec3D[float]: ...
    def __add__(self, other: object) -> Any:
        return self._with(operator.add, other)

    @overload
    def __radd__(self: Vec3D[int], other: int) -> Vec3D[int]: ...
    @overload
    def __radd__(self, other: float) -> Vec3D[float]: ...
    def __radd__(self, other: object) -> Any:
        return self._with(operator.add, other, swapped=True)

    @overload
    def __sub__(self: Vec3D[int], other: Vec3D[int] | int) -> Vec3D[int]: ...
    @overload
    def __sub__(self, other: Vec3D[float] | float) -> Vec3D[float]: ...
    def __sub__(self, other: object) -> Any:
        return self._with(operator.sub, other)

    @overload
    def __rsub__(self: Vec3D[int], other: int) -> Vec3D[int]: ...
    @overload
    def __rsub__(self, other: float) -> Vec3D[float]: ...
    def __rsub__(self, other: object) -> Any:
        return self._with(operator.sub, other, swapped=True)

    @overload
    def __mul__(self: Vec3D[int], other: Vec3D[int] | int) -> Vec3D[int]: ...
    @overload
    def __mul__(self, other: Vec3D[float] | float) -> Vec3D[float]: ...
    def __mul__(self, other: object) -> Any:
        return self._with(operator.mul, other)

    @overload
    def __rmul__(self: Vec3D[int], other: int) -> Vec3D[int]: ...
    @overload
    def __rmul__(self, other: float) -> Vec3D[float]: ...
    def __rmul__(self, other: object) -> Any:
        return self._with(operator.mul, other, swapped=True)

    def __truediv__(self, other: Vec3D[float] | float) -> Vec3D[float]:
        return self._with(operator.truediv, other)

    def __rtruediv__(self, other: float) -> Vec3D[float]:
        return self._with(operator.truediv, other, swapped=True)

    @overload
    def __floordiv__(self: Vec3D[int], other: Vec3D[int] | int) -> Vec3D[int]: ...
    @overload
    def __floordiv__(self, other: Vec3D[float] | float) -> Vec3D[float]: ...
    def __floordiv__(self, other: object) -> Any:
        return self._with(operator.floordiv, other)

    @overload
    def __rfloordiv__(self: Vec3D[int], other: int) -> Vec3D[int]: ...
    @overload
    def __rfloordiv__(self, other: float) -> Vec3D[float]: ...
    def __rfloordiv__(self, other: object) -> Any:
        return self._with(operator.floordiv, other, swapped=True)

    @overload
    def __mod__(self: Vec3D[int], other: Vec3D[int] | int) -> Vec3D[int]: ...
    @overload
    def __mod__(self, other: Vec3D[float] | float) -> Vec3D[float]: ...
    def __mod__(self, other: object) -> Any:
        return self._with(operator.mod, other)

    @overload
    def __rmod__(self: Vec3D[int], other: int) -> Vec3D[int]: ...
    @overload
    def __rmod__(self, other: float) -> Vec3D[float]: ...
    def __rmod__(self, other: object) -> Any:
        return self._with(operator.mod, other, swapped=True)

    def __neg__(self) -> Vec3D[T_co]:
        return self._with(operator.mul, -1)

    def __pos__(self) -> Vec3D[T_co]:
        return self

    def __abs__(self) -> Vec3D[T_co]:
        return Vec3D(*(abs(v) for v in self))  # type: ignore[arg-type]

    def __floor__(self) -> Vec3D[int]:
        return Vec3D(*(math.floor(exact(v)) for v in self))

    def __ceil__(self) -> Vec3D[int]:
        return Vec3D(*(math.ceil(exact(v)) for v in self))

    @overload
    def __round__(self) -> Vec3D[int]: ...
    @overload
    def __round__(self, ndigits: int) -> Vec3D[T_co]: ...
    def __round__(self, ndigits: int | None = None) -> Any:
        return Vec3D(*(kept(round(v, ndigits)) if ndigits is not None else round(exact(v)) for v in self))

    def __lt__(self, other: Vec3D[float] | float) -> bool:
        return self._all(operator.lt, other)

    def __le__(self, other: Vec3D[float] | float) -> bool:
        return self._all(operator.le, other)

    def __gt__(self, other: Vec3D[float] | float) -> bool:
        return self._all(operator.gt, other)

    def __ge__(self, other: Vec3D[float] | float) -> bool:
        return self._all(operator.ge, other)

    def isclose(self, other: Vec3D[float], rtol: float = 1e-5, atol: float = 1e-8) -> tuple[bool, bool, bool]:
        """Whether each axis is as near to that of `other` as `atol + rtol * abs(other)`, as numpy has it."""
        x, y, z = (abs(a - b) <= atol + rtol * abs(b) for a, b in zip(self, other, strict=True))
        return (x, y, z)

    def allclose(self, other: Vec3D[float], rtol: float = 1e-5, atol: float = 1e-8) -> bool:
        """Whether all axes are near to those of `other`."""
        return all(self.isclose(other, rtol, atol))


IntVec3D: TypeAlias = Vec3D[int]
"""A Vec3D of ints, which does wherever floats do."""
