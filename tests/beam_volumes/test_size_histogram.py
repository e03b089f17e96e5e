import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_volumes.size_histogram import SizeHistogram, Subject, bin_of, draw, smallest_in

SUBJECT = Subject("file:///data/seg, scale 16_16_40", 16 * 16 * 40.0)


@given(st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=50))
@settings(derandomize=True, deadline=None)
def test_bins_hold_sizes_that_differ_by_a_thousandth(sizes: list[int]) -> None:
    array = np.array(sorted(sizes), np.uint64)
    bins = bin_of(array)
    smallest = smallest_in(bins).tolist()
    assert all(low <= size and (size - low) * 1_024 <= size for low, size in zip(smallest, array.tolist(), strict=True))
    assert (np.diff(bins) >= 0).all()
    np.testing.assert_array_equal(bin_of(smallest_in(bins)), bins)
    assert bins.max() < len(SizeHistogram().objects)


def test_small_sizes_and_powers_of_two_are_exact() -> None:
    sizes = np.array([*range(2_049), *(2**n for n in range(12, 64))], np.uint64)
    np.testing.assert_array_equal(smallest_in(bin_of(sizes)), sizes)


def test_counting_in_parts_is_counting_at_once() -> None:
    sizes = np.random.default_rng(0).integers(1, 10**9, 1_000).astype(np.uint64)
    whole, parts = SizeHistogram(), SizeHistogram()
    whole.add(sizes)
    for part in np.array_split(sizes, 7):
        parts.add(part)
    np.testing.assert_array_equal(whole.objects, parts.objects)
    np.testing.assert_array_equal(whole.voxels, parts.voxels)
    assert int(whole.objects.sum()) == 1_000
    assert int(whole.voxels.sum()) == int(sizes.sum())


def test_the_median_and_the_size_that_holds_half_of_the_volume() -> None:
    histogram = SizeHistogram()
    assert (histogram.median, histogram.n50) == (0, 0)
    histogram.add(np.array([1, 2, 3, 40, 60], np.uint64))
    assert (histogram.median, histogram.n50) == (3, 60)
    histogram.add(np.array([1], np.uint64))
    assert histogram.median == 2


def test_the_picture_shows_bars_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    histogram = SizeHistogram()
    histogram.add(np.round(np.exp(rng.normal(6, 2.5, 50_000))).astype(np.uint64) + np.uint64(1))
    data = draw(histogram, SUBJECT)
    assert data == draw(histogram, SUBJECT)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (1_200, 960)
        assert set(image.info) == {"dpi"}
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # Bars are blue and the curve of volumes orange; the median is left of the middle, and bars fall off to the right.
    blue, orange = pixels[..., 2] - pixels[..., 0] > 60, pixels[..., 0] - pixels[..., 2] > 120
    assert 0.1 < blue[:620].mean() < 0.5
    assert orange[630:880].sum() > 500
    assert orange[:620].sum() == 0


def test_pictures_of_nothing_and_of_one_object_can_be_drawn() -> None:
    one = SizeHistogram()
    one.add(np.array([2**63], np.uint64))
    for histogram in (SizeHistogram(), one):
        assert draw(histogram, SUBJECT).startswith(b"\x89PNG")
