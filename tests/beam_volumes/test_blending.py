import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.blending import (
    WEIGHTED,
    Accumulator,
    accumulation_type,
    axis_weights,
    edges_of,
    rounded,
    side_weights,
    to_be_weighted,
    weigh,
)
from beam_volumes.errors import FunctionError
from beam_volumes.geometry import Box


def plain_weight(mode: str, chunk: int, pad: int, i: int) -> float:
    """Return the weight of position `i`, 1 to 2 * pad, from the outer edge."""
    if mode == "linear":
        return i / (2 * pad + 1)
    if mode == "quadratic":
        x = i / (pad + 0.5)
        return x * x / 2 if i <= pad else 1 - (2 - x) ** 2 / 2
    size = chunk + 2 * pad
    stride = size - 2 * pad

    def bump(j: int) -> float:
        t = 2 * (j + 1) / (size + 1) - 1
        return math.exp(-1 / (1 - t * t))

    return bump(i - 1) / (bump(i - 1) + bump(i - 1 + stride))


@pytest.mark.parametrize("mode", WEIGHTED)
@pytest.mark.parametrize(("chunk", "pad"), [(2, 1), (6, 3), (7, 3), (40, 5), (64, 32), (5, 0)])
def test_side_weights_follow_the_formulas(mode: str, chunk: int, pad: int) -> None:
    expected = [plain_weight(mode, chunk, pad, i) for i in range(1, 2 * pad + 1)]
    np.testing.assert_allclose(side_weights(mode, chunk, pad), expected, rtol=1e-12)


def test_known_weights() -> None:
    np.testing.assert_allclose(side_weights("linear", 8, 2), [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(side_weights("quadratic", 8, 2), [0.08, 0.32, 0.68, 0.92])


def test_bump_weights_hold_where_the_bump_itself_is_too_small_for_floats() -> None:
    weights = side_weights("bump", 100_000, 1)
    np.testing.assert_allclose(weights + weights[::-1], [1, 1])
    assert 0 <= weights[0] < weights[1] <= 1


def test_modes_without_weights_have_none() -> None:
    with pytest.raises(ValueError, match="expected a mode with weights, one of linear, quadratic, bump, came 'max'"):
        side_weights("max", 4, 1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(WEIGHTED), st.integers(1, 5), st.data())
def test_weights_along_an_axis_sum_to_1_everywhere(mode: str, count: int, data: st.DataObject) -> None:
    chunk = data.draw(st.integers(1, 200))
    pad = data.draw(st.integers(0, chunk // 2))
    total = np.zeros(count * chunk + 2 * pad)
    for i in range(count):
        weights = axis_weights(mode, chunk, pad, (i == 0, i == count - 1))
        assert weights.min() > 0
        total[i * chunk : i * chunk + chunk + 2 * pad] += weights
    # At the edges of the padded region, too.
    np.testing.assert_allclose(total, 1, rtol=1e-14)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(WEIGHTED), st.data())
def test_weights_of_voxels_are_products_and_sum_to_1(mode: str, data: st.DataObject) -> None:
    chunk = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    x, y, z = (data.draw(st.integers(0, n // 2)) for n in chunk)
    pad = (x, y, z)
    counts = data.draw(st.tuples(*[st.integers(1, 3)] * 3))
    origin = data.draw(st.tuples(*[st.integers(-9, 9)] * 3))
    region = Box.of_shape((counts[0] * chunk[0], counts[1] * chunk[1], counts[2] * chunk[2]), origin)
    whole = Box(
        (origin[0] - x, origin[1] - y, origin[2] - z), (region.stop[0] + x, region.stop[1] + y, region.stop[2] + z)
    )
    total = np.zeros((1, *whole.shape))
    for cell in np.ndindex(*counts):
        start = tuple(o + i * c for o, i, c in zip(origin, cell, chunk, strict=True))
        box = Box.of_shape(chunk, (start[0], start[1], start[2]))
        padded = Box(
            (box.start[0] - x, box.start[1] - y, box.start[2] - z),
            (box.stop[0] + x, box.stop[1] + y, box.stop[2] + z),
        )
        values = np.ones((1, *padded.shape))
        edges = edges_of(box, region)
        weigh(values, padded, box, pad, mode, edges)
        along = [axis_weights(mode, c, p, e) for c, p, e in zip(chunk, pad, edges, strict=True)]
        np.testing.assert_allclose(values[0], np.einsum("i,j,k->ijk", *along), rtol=1e-12)
        total[(slice(None), *padded.slices(whole.start))] += values
        # A part of a chunk gets the weights that it has in the whole.
        part = Box((padded.start[0] + (padded.shape[0] // 2), *padded.start[1:]), padded.stop)
        some = np.ones((1, *part.shape))
        weigh(some, part, box, pad, mode, edges)
        np.testing.assert_array_equal(some, values[(slice(None), *part.slices(padded.start))])
    np.testing.assert_allclose(total, 1, rtol=1e-13)


@pytest.mark.parametrize(
    ("data_type", "expected"),
    [
        *((f"{sign}int{bits}", "float32") for sign in ("", "u") for bits in (8, 16)),
        *((f"{sign}int{bits}", "float64") for sign in ("", "u") for bits in (32, 64)),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_types_of_sums(data_type: str, expected: str) -> None:
    assert accumulation_type(data_type) == np.dtype(expected)


@pytest.mark.parametrize("data_type", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
@pytest.mark.parametrize("mode", WEIGHTED)
def test_equal_integers_come_back_from_sums(data_type: str, mode: str) -> None:
    limits = np.iinfo(data_type)
    low, high = max(limits.min, -(2**46)), min(limits.max, 2**46)
    values = np.array([low, low + 1, high, high - 1, high // 3, 16_777_217 % (high + 1)], data_type).reshape(6, 1, 1, 1)
    for weight in side_weights(mode, 31, 15):
        kind = accumulation_type(data_type)
        total = np.zeros(values.shape, kind)
        for part in (weight, 1 - weight):
            total += to_be_weighted(values, data_type) * kind.type(part)
        np.testing.assert_array_equal(rounded(total, data_type), values)


@pytest.mark.parametrize(("data_type", "value"), [("int64", -(2**46) - 1), ("uint64", 2**64 - 1), ("int64", 2**60)])
def test_integers_that_sums_cannot_hold_are_refused(data_type: str, value: int) -> None:
    values = np.array([1, value], data_type).reshape(1, 2, 1, 1)
    with pytest.raises(FunctionError, match=f"of which sums round right, came {value}: .* mode max, or crop"):
        to_be_weighted(values, data_type)


def test_weighing_takes_a_copy_of_what_is_not_ones_own() -> None:
    values = np.ones((1, 2, 1, 1), np.float32)
    assert not np.shares_memory(to_be_weighted(values, "float32"), values)
    assert to_be_weighted(values, "float32", own=True) is values


def test_rounding_is_half_to_even() -> None:
    values = np.array([-1.5, -0.5, 0.5, 1.5, 2.5, 2.49, 254.5, 255.49])
    assert rounded(values[2:], "uint8").tolist() == [0, 2, 2, 2, 254, 255]
    assert rounded(values, "int16").tolist() == [-2, 0, 0, 2, 2, 2, 254, 255]
    assert rounded(values, "float32").tolist() == values.astype("float32").tolist()
    assert values[0] == -1.5


@pytest.mark.parametrize("data_type", ["int8", "int64", "float32", "uint64"])
def test_max_is_the_true_maximum(data_type: str) -> None:
    kind = np.dtype(data_type)
    first: Any = np.array([[-7, -3, 5]]) if kind.kind != "u" else np.array([[2**63, 3, 5]], "uint64")
    second: Any = np.array([[-9, -2, 6]]) if kind.kind != "u" else np.array([[2**64 - 1, 2, 6]], "uint64")
    total = Accumulator(Box((10, 0, 0), (13, 1, 1)), "max", kind)
    for values in (first, second):
        total.add(Box((10, 0, 0), (13, 1, 1)), values.astype(kind).reshape(1, 3, 1, 1))
    expected = [-7, -2, 6] if kind.kind != "u" else [2**64 - 1, 3, 6]
    assert total.result().ravel().tolist() == expected


def test_what_lies_beyond_the_box_is_dropped() -> None:
    box = Box((0, 0, 0), (2, 1, 1))
    total = Accumulator(box, "linear", np.dtype("float32"))
    total.add(Box((5, 0, 0), (6, 1, 1)), np.full((1, 1, 1, 1), 9, np.float32))
    with pytest.raises(ValueError, match=r"expected at least one chunk within 0,0,0,2,1,1 \(2 x 1 x 1 voxels\)"):
        total.result()
    total.add(Box((-1, 0, 0), (1, 1, 1)), np.array([3, 4], np.float32).reshape(1, 2, 1, 1))
    total.add(Box((0, 0, 0), (3, 1, 1)), np.array([10, 20, 30], np.float32).reshape(1, 3, 1, 1))
    assert total.result().ravel().tolist() == [14, 20]
