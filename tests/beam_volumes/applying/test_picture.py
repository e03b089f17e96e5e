"""Pictures of a slice of what was read and what was written."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_volumes.applying.picture import Panel, pictured_box, slice_picture
from beam_volumes.geometry import Box
from beam_volumes.meshing.picture import color_of

Pixels = npt.NDArray[np.int64]
HEAD, MARGIN = 66, 12
"""Pixels above the slice, and beside it."""


def panel(values: npt.NDArray[Any], title: str = "src", *, ids: bool = False) -> Panel:
    """Return a panel of (C, x, y) values."""
    _, x, y = values.shape
    return Panel(title, values[..., np.newaxis], Box((5, 6, 7), (5 + x, 6 + y, 8)), ids)


def rendered(*panels: Panel) -> Pixels:
    """Return the pixels: (rows, columns, RGB)."""
    with Image.open(io.BytesIO(slice_picture(panels))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(np.int64)


def drawn(values: npt.NDArray[Any], *, ids: bool = False) -> Pixels:
    """Return what a panel shows of 400 x 400 (C, x, y) values: (x, y, RGB)."""
    pixels = rendered(panel(values, ids=ids))
    assert pixels.shape == (400 + HEAD + MARGIN, 400 + 2 * MARGIN, 3)
    return pixels[HEAD:-MARGIN, MARGIN:-MARGIN].swapaxes(0, 1)


def random(shape: tuple[int, ...], data_type: str) -> npt.NDArray[Any]:
    return np.random.default_rng(0).integers(0, 100, shape).astype(data_type)


def test_bytes_of_an_image_are_shown_as_they_are() -> None:
    values = random((1, 400, 400), "uint8")
    np.testing.assert_array_equal(drawn(values), np.repeat(values[0, :, :, np.newaxis], 3, axis=2))


@pytest.mark.parametrize("data_type", ["uint8", "bool", "float32"])
def test_masks_are_black_and_white(data_type: str) -> None:
    values = (random((1, 400, 400), "uint8") > 50).astype(data_type)
    np.testing.assert_array_equal(drawn(values)[..., 1], 255 * (values[0] > 0))


@pytest.mark.parametrize("data_type", ["float32", "float64", "int16", "uint64"])
def test_other_values_are_stretched_between_percentiles(data_type: str) -> None:
    values = random((1, 400, 400), data_type)
    values[0, 0, :9] = 30_000
    low, high = np.percentile(values, (1, 99))
    expected = np.rint(255 * np.clip((values[0].astype(float) - low) / (high - low), 0, 1))
    np.testing.assert_array_equal(drawn(values)[..., 0], expected)


def test_what_is_not_finite_neither_stretches_nor_fails() -> None:
    values = random((1, 400, 400), "float32")
    spoilt = values.copy()
    spoilt[0, :2, 0] = np.nan, np.inf
    shown = drawn(spoilt)
    assert shown[1, 0].tolist() == [255] * 3
    np.testing.assert_allclose(shown[2:], drawn(values)[2:], atol=1)
    assert not drawn(np.full((1, 400, 400), np.nan, np.float32)).any()
    assert not drawn(np.full((1, 400, 400), 5.0, np.float32)).any()


def test_three_channels_are_colors_and_of_more_the_first_is_shown() -> None:
    values = random((5, 400, 400), "uint8")
    np.testing.assert_array_equal(drawn(values[:3]), np.moveaxis(values[:3], 0, 2))
    np.testing.assert_array_equal(drawn(values), drawn(values[:1]))


def test_directions_are_hues_and_lengths_brightness() -> None:
    field = np.zeros((2, 400, 400), np.float32)
    # Right, left (which is half a turn away), and right at half the length.
    field[0, :100], field[0, 100:200], field[0, 200:300] = 8, -8, 4
    shown = drawn(field)
    columns = [[255, 0, 0], [0, 255, 255], [128, 0, 0], [0, 0, 0]]
    assert [shown[100 * n + 50, 7].tolist() for n in range(4)] == columns
    assert not drawn(np.zeros((2, 400, 400), np.float32)).any()


def test_ids_have_the_colors_of_their_meshes_and_0_is_black() -> None:
    ids = np.zeros((1, 400, 400), np.uint64)
    ids[0, :200, :200], ids[0, 200:, :200] = 2**63 + 5, 3
    shown = drawn(ids, ids=True)
    assert not shown[:, 200:].any()
    for place, label in (((0, 0), 2**63 + 5), ((399, 199), 3)):
        part = shown[place] / 255
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        np.testing.assert_allclose(linear, color_of(label), atol=0.004)
    assert (shown[:200, :200] == shown[0, 0]).all()
    assert not drawn(np.zeros((1, 400, 400), np.int64), ids=True).any()


def test_small_slices_are_enlarged_and_large_ones_thinned_out() -> None:
    small = random((1, 100, 40), "uint8")
    shown = rendered(panel(small))
    assert shown.shape == (160 + HEAD + MARGIN, 400 + 2 * MARGIN, 3)
    np.testing.assert_array_equal(shown[HEAD:-MARGIN:4, MARGIN:-MARGIN:4, 0].T, small[0])
    large = random((1, 2100, 700), "uint8")
    shown = rendered(panel(large))
    assert shown.shape == (234 + HEAD + MARGIN, 700 + 2 * MARGIN, 3)
    np.testing.assert_array_equal(shown[HEAD:-MARGIN, MARGIN:-MARGIN, 0].T, large[0, ::3, ::3])


def test_panels_stand_side_by_side_with_their_captions() -> None:
    first, second = random((1, 400, 300), "uint8"), random((1, 400, 400), "uint8")
    shown = rendered(panel(first, "a"), panel(second, "b"))
    assert shown.shape == (400 + HEAD + MARGIN, 2 * 400 + 16 + 2 * MARGIN, 3)
    np.testing.assert_array_equal(shown[HEAD : HEAD + 300, MARGIN : MARGIN + 400, 0].T, first[0])
    np.testing.assert_array_equal(shown[HEAD:-MARGIN, -MARGIN - 400 : -MARGIN, 0].T, second[0])
    ink = shown[:HEAD].min(axis=2) < 120
    assert ink[:, : MARGIN + 400].any(axis=1).sum() > 25
    assert ink[:, -MARGIN - 400 :].any(axis=1).sum() > 25
    assert not ink[:, :8].any()
    assert not ink[:, MARGIN + 400 : MARGIN + 416].any()


def test_titles_of_any_length_stay_above_their_slices() -> None:
    values = random((1, 400, 400), "uint8")
    shown = rendered(panel(values, f"dst: gs://bucket/{'very/' * 40}$long^name$"), panel(values))
    assert not (shown[:HEAD, MARGIN + 400 : MARGIN + 416].min(axis=2) < 120).any()


def test_the_same_bytes_for_the_same_slices() -> None:
    panels = [panel(random((1, 30, 20), "float32"))]
    picture = slice_picture(panels)
    assert slice_picture(panels) == picture
    assert set(Image.open(io.BytesIO(picture)).info) == {"dpi"}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.tuples(*[st.integers(-50, 50)] * 3), st.tuples(*[st.integers(1, 40)] * 3), st.integers(1, 30))
def test_the_box_that_is_pictured(start: tuple[int, int, int], shape: tuple[int, int, int], most: int) -> None:
    bounds = Box.of_shape(shape, start)
    box = pictured_box(bounds, most)
    assert bounds.contains(box)
    assert box.shape == (min(shape[0], most), min(shape[1], most), 1)
    for axis in range(3):
        before, after = box.start[axis] - bounds.start[axis], bounds.stop[axis] - box.stop[axis]
        assert 0 <= after - before <= 1
