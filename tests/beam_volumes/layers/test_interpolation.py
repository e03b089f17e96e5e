"""Data at another resolution, against the formulas in numpy."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import FunctionError, OptionError
from beam_volumes.layers.interpolation import Scale, interpolate, scale_between
from tests.beam_volumes.layers.layer_volumes import Voxels, random_voxels

BUDGET = settings(derandomize=True, deadline=None, max_examples=25)
FACTORS = st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 2), Fraction(1, 3), Fraction(3, 2), Fraction(1, 4)])
SIZES = st.tuples(*[st.integers(1, 4)] * 3)


def made(data: Voxels, size: tuple[int, ...], scale: Scale, mode: str, **others: float) -> Voxels:
    x, y, z = size
    result = interpolate(torch.from_numpy(data), (x, y, z), scale, mode, **others)
    assert result.dtype == torch.from_numpy(data).dtype
    return result.numpy()


def drawn_case(data: st.DataObject, scales: Any) -> tuple[Scale, tuple[int, ...], tuple[int, ...]]:
    """Return a scale, and whole numbers of voxels before and after."""
    scale = data.draw(scales)
    units = data.draw(SIZES)
    before = tuple(u * s.denominator for u, s in zip(units, scale, strict=True))
    return scale, before, tuple(u * s.numerator for u, s in zip(units, scale, strict=True))


def linear(data: Voxels, size: tuple[int, ...]) -> Voxels:
    """Interpolate between the centers of voxels, axis by axis; beyond the outermost centers their values go on."""
    out = data.astype(float)
    for axis, after in enumerate(size, start=1):
        before = out.shape[axis]
        at = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
        low = np.floor(at).astype(int)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        high = np.minimum(low + 1, before - 1)
        out = out.take(low, axis) * (1 - weight) + out.take(high, axis) * weight
    return out


def is_averaged(scale: Scale) -> bool:
    x, y, z = (1 / Fraction(s) for s in scale)
    return x == y and z in (1, x) and x in (2, 4, 8, 16)


def blocks(data: Voxels, factor: tuple[int, ...]) -> Voxels:
    """Return the voxels that make a new one along the last axis, x fastest."""
    channels, x, y, z = data.shape
    fx, fy, fz = factor
    cut = data.reshape(channels, x // fx, fx, y // fy, fy, z // fz, fz)
    return cut.transpose(0, 1, 3, 5, 6, 4, 2).reshape(channels, x // fx, y // fy, z // fz, -1)


@BUDGET
@given(st.data(), st.sampled_from(["uint8", "int8", "int32", "float32"]))
def test_images(data: st.DataObject, data_type: str) -> None:
    scale, before, after = drawn_case(data, st.tuples(FACTORS, FACTORS, FACTORS))
    values = random_voxels((2, *before), data_type, seed=sum(before))
    if data_type == "int32":
        values %= 2**20
    result = made(values, after, scale, "img")
    assert result.shape == (2, *after)
    if is_averaged(scale):
        expected = blocks(values, tuple(int(1 / s) for s in scale)).mean(axis=-1, dtype=float)
    else:
        expected = linear(values, after)
    if data_type == "float32":
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-3)
    else:
        assert np.abs(result - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("factor", [(2, 2, 1), (4, 4, 4), (16, 16, 1)])
def test_averages_are_rounded_half_to_even(factor: tuple[int, int, int]) -> None:
    values = random_voxels((1, 32, 32, 4), "uint8")
    scale = tuple(Fraction(1, f) for f in factor)
    after = tuple(n // f for n, f in zip((32, 32, 4), factor, strict=True))
    expected = np.rint(blocks(values, factor).mean(axis=-1, dtype=float)).astype("uint8")
    np.testing.assert_array_equal(made(values, after, scale, "img"), expected)  # type: ignore[arg-type]


def test_images_do_not_get_darker() -> None:
    values = np.full((1, 32, 32, 1), 99, "uint8")
    values[0, ::2] = 100
    half = (Fraction(1, 2), Fraction(1, 2), 1)
    for size in (16, 8, 4):
        values = made(values, (size, size, 1), half, "img")
    assert values.mean() == 100
    up = made(np.array([0, 3], "uint8").reshape(1, 2, 1, 1), (4, 1, 1), (2, 1, 1), "img")
    assert up.ravel().tolist() == [0, 1, 2, 3]


def test_wide_integers_stay_exact_where_nothing_changes_them() -> None:
    values = np.full((1, 3, 1, 1), 2**31 - 1, "int32")
    assert (made(values, (2, 1, 1), (Fraction(2, 3), 1, 1), "img") == 2**31 - 1).all()


@BUDGET
@given(st.data(), st.sampled_from(["float32", "int16"]))
def test_fields_scale_their_vectors(data: st.DataObject, data_type: str) -> None:
    scales = st.tuples(FACTORS, FACTORS).map(lambda pair: (pair[0], pair[0], pair[1]))
    scale, before, after = drawn_case(data, scales)
    values = (random_voxels((2, *before), "float32", seed=sum(before)) * 4).astype(data_type)
    result = made(values, after, scale, "field")
    expected = linear(values, after) * float(scale[0])
    if data_type == "float32":
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-3)
    else:
        assert np.abs(result - expected).max() <= 0.5 + 1e-2


def test_fields_of_other_forms_are_refused() -> None:
    with pytest.raises(FunctionError, match="expected a field of 2 channels, x and y, came 3"):
        made(np.zeros((3, 2, 2, 1), "float32"), (2, 2, 1), (1, 1, 1), "field")
    with pytest.raises(FunctionError, match="the same factor along x and y for a field, came 1/2 and 1"):
        made(np.zeros((2, 2, 2, 1), "float32"), (1, 2, 1), (Fraction(1, 2), 1, 1), "field")


@BUDGET
@given(st.data(), st.sampled_from(["uint8", "float32", "bool"]), st.sampled_from([0.0, 0.5, 0.25]))
def test_masks(data: st.DataObject, data_type: str, threshold: float) -> None:
    scale, before, after = drawn_case(data, st.tuples(FACTORS, FACTORS, FACTORS))
    values = (random_voxels((1, *before), "uint8", seed=sum(before)) % 2).astype(data_type)
    expected = np.zeros((1, *after), data_type)
    for at in np.ndindex(*after):
        covered = [
            slice(math.floor(i * b / a), math.ceil((i + 1) * b / a)) for i, b, a in zip(at, before, after, strict=True)
        ]
        expected[(0, *at)] = values[0][tuple(covered)].mean(dtype=float) > threshold
    np.testing.assert_array_equal(made(values, after, scale, "mask", mask_value_thr=threshold), expected)


@BUDGET
@given(st.data(), st.sampled_from(["uint8", "int64", "int32", "bool"]))
def test_segmentations(data: st.DataObject, data_type: str) -> None:
    scale, before, after = drawn_case(data, st.tuples(FACTORS, FACTORS, FACTORS))
    values = (random_voxels((2, *before), "uint8", seed=sum(before)) % 3).astype(data_type)
    if data_type == "int64":
        values += 2**62
    result = made(values, after, scale, "segmentation")
    if is_averaged(scale):
        cut = blocks(values, tuple(int(1 / s) for s in scale))
        for at in np.ndindex(result.shape):
            labels, first, counts = np.unique(cut[at], return_index=True, return_counts=True)
            best = min(range(len(labels)), key=lambda n: (-counts[n], first[n]))
            assert result[at] == labels[best]
        return
    for axis, (b, a) in enumerate(zip(before, after, strict=True), start=1):
        values = values.take([math.floor(Fraction(2 * i + 1, 2) * b / a) for i in range(a)], axis)
    np.testing.assert_array_equal(result, values)


def test_ids_above_what_floats_hold_stay_what_they_are() -> None:
    values = np.array([2**62 + 1, 2**62 + 3], "int64").reshape(1, 2, 1, 1)
    up = made(values, (6, 2, 1), (3, 2, 1), "segmentation")
    assert up[0, :, 0, 0].tolist() == [2**62 + 1] * 3 + [2**62 + 3] * 3


def test_nothing_changes_at_the_same_resolution_but_masks() -> None:
    values = torch.arange(8, dtype=torch.int32).reshape(2, 2, 2, 1)
    for mode in ("img", "segmentation", "field"):
        assert interpolate(values, (2, 2, 1), (1, 1, 1), mode) is values
    assert interpolate(values, (2, 2, 1), (1, 1, 1), "mask").flatten().tolist() == [0] + [1] * 7


def test_types_that_no_volume_has() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64).reshape(1, 2, 2, 1)
    half = (Fraction(1, 2), Fraction(1, 2), 1)
    assert interpolate(values, (1, 1, 1), half, "img").tolist() == [[[[4.0]]]]
    assert interpolate(values.half(), (1, 1, 1), half, "segmentation").tolist() == [[[[1.0]]]]


def test_scales_are_exact() -> None:
    assert scale_between((64, 64, 40), (192, 192, 80)) == (Fraction(1, 3), Fraction(1, 3), Fraction(1, 2))
    assert scale_between((4.5, 9, 0.1), (9, 4.5, 0.3)) == (Fraction(1, 2), 2, Fraction(1, 3))


@pytest.mark.parametrize("mode", ["image", "trilinear", "", None])
def test_other_modes_are_refused(mode: Any) -> None:
    with pytest.raises(OptionError, match="expected one of img, field, mask, segmentation, came"):
        interpolate(torch.zeros(1, 2, 2, 2), (1, 1, 1), (1, 1, 1), mode)


def test_data_without_channels_or_voxels_are_refused() -> None:
    with pytest.raises(FunctionError, match=r"four axes \(C, x, y, z\) to interpolate, came \(2, 2, 2\)"):
        interpolate(torch.zeros(2, 2, 2), (1, 1, 1), (1, 1, 1), "img")
    for mode in ("img", "mask", "segmentation"):
        with pytest.raises(FunctionError, match=r"at least one voxel before and after, came \(1, 1, 1\)"):
            interpolate(torch.zeros(1, 1, 1, 1), (0, 1, 1), (Fraction(1, 3), 1, 1), mode)
