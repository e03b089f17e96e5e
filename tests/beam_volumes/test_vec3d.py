"""Vec3D: arithmetic on three numbers, which does not drift."""

import math
import operator
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import GeometryError
from beam_volumes.geometry import IntVec3D, Vec3D
from tests.beam_volumes.geometry_strategies import COORDINATES, triples

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod]
DECIMALS = st.decimals(-(10**6), 10**6, places=3, allow_nan=False).map(float)


@pytest.mark.parametrize("operation", OPERATORS)
def test_operators_work_axis_by_axis_and_with_a_number_on_either_side(operation: Callable[[Any, Any], Any]) -> None:
    a, b = Vec3D(7, -8, 9), Vec3D(2, 3, -4)
    assert operation(a, b) == Vec3D(operation(7, 2), operation(-8, 3), operation(9, -4))
    assert operation(a, 5) == Vec3D(operation(7, 5), operation(-8, 5), operation(9, 5))
    assert operation(5, a) == Vec3D(operation(5, 7), operation(5, -8), operation(5, 9))
    assert operation(np.float64(5), a) == operation(5, a)
    assert operation(a, np.int32(5)) == operation(a, 5)


def test_ints_stay_ints_and_floats_floats() -> None:
    assert repr(Vec3D(7, 8, 9) // 2) == "Vec3D(3, 4, 4)"
    assert repr(Vec3D(7, 8, 9) // 2.0) == "Vec3D(3.0, 4.0, 4.0)"
    assert repr(Vec3D(8, 8, 8) / 2) == "Vec3D(4.0, 4.0, 4.0)"
    assert repr(-Vec3D(1, 2.5, 0)) == "Vec3D(-1, -2.5, 0)"
    assert repr(abs(Vec3D(-1, 2.5, 0))) == "Vec3D(1, 2.5, 0)"
    assert repr(+IntVec3D(1, 2, 3)) == "Vec3D(1, 2, 3)"
    assert repr(Vec3D(2**70, 1, 1) * 3) == f"Vec3D({3 * 2**70}, 3, 3)"


def test_numbers_of_other_libraries_become_those_of_python() -> None:
    vec = Vec3D(np.int64(3), np.float32(0.1), Fraction(1, 4))  # type: ignore[type-var]
    assert repr(vec) == "Vec3D(3, 0.1, 0.25)"
    assert [type(v) for v in vec] == [int, float, float]
    assert Vec3D(Decimal("0.3"), 1, 1) == Vec3D(0.3, 1, 1)  # type: ignore[type-var]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(triples(DECIMALS), triples(DECIMALS))
def test_decimals_are_reckoned_with_as_decimals(a: Vec3D[float], b: Vec3D[float]) -> None:
    exactly = [[Decimal(str(v)) for v in vec] for vec in (a, b)]
    for operation in (operator.add, operator.sub, operator.mul):
        assert list(operation(a, b)) == [float(operation(x, y)) for x, y in zip(*exactly, strict=True)]


def test_no_tenth_is_lost() -> None:
    assert Vec3D(0.3, 0.7, 4.5) // 0.1 == Vec3D(3, 7, 45)
    assert Vec3D(0.3, 0.7, 4.5) % 0.1 == Vec3D(0, 0, 0)
    total = Vec3D(0.0, 0.0, 0.0)
    for _ in range(1000):
        total = total + 0.1
    assert total == Vec3D(100, 100, 100)


def test_order_is_that_of_all_axes() -> None:
    a, b = Vec3D(1, 5, 3), Vec3D(2, 5, 4)
    assert a <= b
    assert b >= a
    assert not a < b
    assert not b > a
    assert a < Vec3D(2, 6, 4)
    assert 0 < a <= 5
    assert not Vec3D(1, 2, 3) <= Vec3D(3, 2, 1)
    assert not Vec3D(1, 2, 3) >= Vec3D(3, 2, 1)


@pytest.mark.parametrize("other", [(1, 2, 3), [1, 2, 3], np.ones(3)])
@pytest.mark.parametrize("operation", [*OPERATORS, operator.lt, operator.ge])
def test_what_may_be_of_another_order_is_no_operand(operation: Callable[[Any, Any], Any], other: Any) -> None:
    for sides in ((Vec3D(1, 2, 3), other), (other, Vec3D(1, 2, 3))):
        with pytest.raises(TypeError, match="write Vec3D"):
            operation(*sides)


def test_what_is_no_number_is_no_operand_and_not_equal() -> None:
    with pytest.raises(TypeError, match="a number as operand, not '1'"):
        Vec3D(1, 2, 3) + "1"  # type: ignore[operator]
    with pytest.raises(TypeError, match="unsupported operand"):
        Vec3D(1, 2, 3) + {1, 2, 3}  # type: ignore[operator]
    with pytest.raises(TypeError, match="unsupported operand"):
        Vec3D(1, 2, 3) * None  # type: ignore[operator]
    assert Vec3D(1, 2, 3) not in [(1, 2, 3), [1, 2, 3], 1]


@pytest.mark.parametrize("value", ["1", None, True, (1,), 1j])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(GeometryError, match="expected a number, got "):
        Vec3D(1, value, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), Decimal("-Infinity")])
def test_what_is_not_finite_is_refused(value: Any) -> None:
    with pytest.raises(GeometryError, match="expected a finite number"):
        Vec3D(1, 2, value)


def test_rounding_to_whole_numbers() -> None:
    vec = Vec3D(-1.5, 2.5, 7)
    assert repr(math.floor(vec)) == "Vec3D(-2, 2, 7)"
    assert repr(math.ceil(vec)) == "Vec3D(-1, 3, 7)"
    assert repr(round(vec)) == "Vec3D(-2, 2, 7)"
    assert repr(round(Vec3D(1.26, 2, -0.04), 1)) == "Vec3D(1.3, 2, 0.0)"


def test_nearness() -> None:
    assert Vec3D(1.0, 2.0, 3.0).isclose(Vec3D(1.000001, 2.1, 3.0)) == (True, False, True)
    assert Vec3D(1.0, 2.0, 3.0).allclose(Vec3D(1.000001, 2, 3))
    assert not Vec3D(1.0, 2.0, 3.0).allclose(Vec3D(1.1, 2, 3))
    assert Vec3D(1.0, 2.0, 3.0).allclose(Vec3D(1.1, 2, 3), atol=0.2)


def test_it_is_a_sequence_that_cannot_be_changed() -> None:
    vec = Vec3D(1, 2.5, 3)
    assert (list(vec), len(vec), vec[1], vec[-1], vec[:2]) == ([1, 2.5, 3], 3, 2.5, 3, (1, 2.5))
    assert np.asarray(vec).tolist() == [1, 2.5, 3]
    with pytest.raises(AttributeError):
        vec.x = 5  # type: ignore[misc]
    assert {vec: "a"}[Vec3D(1.0, 2.5, 3.0)] == "a"
    assert "%s" % vec == "Vec3D(1, 2.5, 3)"  # noqa: UP031 - Vec3D has a % of its own.


@settings(derandomize=True, deadline=None, max_examples=50)
@given(triples(COORDINATES | st.floats(allow_nan=False, allow_infinity=False)))
def test_what_is_printed_and_pickled_comes_back(vec: Vec3D[float]) -> None:
    for copy in (eval(repr(vec)), pickle.loads(pickle.dumps(vec))):
        assert (copy, repr(copy), hash(copy)) == (vec, repr(vec), hash(vec))
