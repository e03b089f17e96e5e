"""A box cut into chunks at regular distances."""

import itertools
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import GeometryError
from beam_volumes.geometry import BBox3D, BBoxStrider
from tests.beam_volumes.geometry_strategies import RESOLUTIONS

BUDGET = settings(derandomize=True, deadline=None, max_examples=80)
SMALL = st.integers(1, 9)
Interval = tuple[int, int]


def along_x(size: int, start: int, chunk: int, stride: int | None = None, **others: Any) -> list[Interval]:
    """Return the chunks along x of a box of that many voxels."""
    bbox = BBox3D.from_coords((start, 0, 0), (start + size, 1, 1))
    strider = BBoxStrider(bbox, (1, 1, 1), (chunk, 1, 1), (stride or chunk, 1, 1), **others)
    assert strider.num_chunks == strider.shape[0]
    sides = [box.bounds[0] for box in strider.get_all_chunk_bboxes()]
    return [(int(a), int(b)) for a, b in sides]


def grid(offset: int, step: int) -> list[int]:
    """Return where chunks may begin, all over the place."""
    return [offset + step * n for n in range(-100, 100)]


@BUDGET
@given(st.integers(0, 30), st.integers(-9, 9), SMALL, SMALL, st.integers(-20, 20))
def test_chunks_that_fit_on_a_grid(size: int, start: int, chunk: int, stride: int, offset: int) -> None:
    found = along_x(size, start, chunk, stride, mode="shrink", stride_start_offset_in_unit=(offset, 0, 0))
    assert found == [(a, a + chunk) for a in grid(offset, stride) if start <= a and a + chunk <= start + size]


@BUDGET
@given(st.integers(1, 30), st.integers(-9, 9), SMALL, SMALL, st.integers(-20, 20))
def test_chunks_that_cover_on_a_grid(size: int, start: int, chunk: int, stride: int, offset: int) -> None:
    found = along_x(size, start, chunk, stride, mode="expand", stride_start_offset_in_unit=(offset, 0, 0))
    places = grid(offset, stride)
    first = max(a for a in places if a <= start)
    last = min(a for a in places if a >= first and a + chunk >= start + size)
    assert found == [(a, a + chunk) for a in places if first <= a <= last]


@BUDGET
@given(st.integers(0, 30), st.integers(-9, 9), SMALL, st.integers(-20, 20))
def test_chunks_cut_off_at_both_ends(size: int, start: int, chunk: int, offset: int) -> None:
    found = along_x(size, start, chunk, mode="exact", stride_start_offset_in_unit=(offset, 0, 0))
    cut = [(max(a, start), min(a + chunk, start + size)) for a in grid(offset, chunk)]
    assert found == [(a, b) for a, b in cut if a < b]


@BUDGET
@given(st.integers(1, 40), SMALL, st.integers(0, 30), st.integers(-20, 20), st.sampled_from(["shrink", "expand"]))
def test_chunks_are_joined(size: int, chunk: int, more: int, offset: int, mode: str) -> None:
    options: dict[str, Any] = {"mode": mode, "stride_start_offset_in_unit": (offset, 0, 0)}
    single = along_x(size, 3, chunk, **options)
    joined = along_x(size, 3, chunk, max_superchunk_size=(chunk + more, 1, 1), **options)
    count = (chunk + more) // chunk
    groups = [single[n : n + count] for n in range(0, len(single), count)]
    assert joined == [(group[0][0], group[-1][1]) for group in groups]


@BUDGET
@given(st.integers(1, 40), SMALL, st.integers(0, 30), st.integers(-20, 20))
def test_whole_chunks_are_joined_and_those_cut_off_stay(size: int, chunk: int, more: int, offset: int) -> None:
    options: dict[str, Any] = {"mode": "exact", "stride_start_offset_in_unit": (offset, 0, 0)}
    single = along_x(size, 3, chunk, **options)
    joined = along_x(size, 3, chunk, max_superchunk_size=(chunk + more, 1, 1), **options)
    begins_cut = (3 - offset) % chunk != 0
    rest = single[1:] if begins_cut else single
    count = (chunk + more) // chunk
    groups = [single[:1]] * begins_cut + [rest[n : n + count] for n in range(0, len(rest), count)]
    assert joined == [(group[0][0], group[-1][1]) for group in groups]


@BUDGET
@given(RESOLUTIONS, st.tuples(*[st.integers(-(10**9), 10**9)] * 3), st.integers(0, 10**18))
def test_chunks_never_drift(resolution: tuple[float, ...], start: tuple[int, ...], number: int) -> None:
    stop = [a + 7 * 10**6 for a in start]
    strider = BBoxStrider(BBox3D.from_coords(start, stop, resolution), resolution, (7, 7, 7), (7, 7, 7))
    assert strider.shape == (10**6,) * 3
    at = [number % 10**6, number // 10**6 % 10**6, number // 10**12]
    if number < strider.num_chunks:
        voxels = strider.get_nth_chunk_bbox(number).to_slices(resolution)
        assert [(s.start, s.stop) for s in voxels] == [
            (a + 7 * n, a + 7 * n + 7) for a, n in zip(start, at, strict=True)
        ]


def test_x_is_fastest() -> None:
    bbox = BBox3D.from_coords((0, 0, 0), (3, 4, 4), (4, 4, 40))
    strider = BBoxStrider(bbox, (4, 4, 40), (2, 2, 2), (2, 2, 2), mode="exact")
    starts = [box.to_slices((4, 4, 40)) for box in strider.get_all_chunk_bboxes()]
    expected = [(x, y, z) for z, y, x in itertools.product((0, 2), (0, 2), (0, 2))]
    assert [(x.start, y.start, z.start) for x, y, z in starts] == expected
    assert {x.stop for x, _, _ in starts} == {2, 3}


def test_a_box_of_another_unit_keeps_it() -> None:
    bbox = BBox3D(((0, 4), (0, 4), (0, 4)), unit="um", pprint_px_resolution=(2, 2, 2))
    strider = pickle.loads(pickle.dumps(BBoxStrider(bbox, (1, 1, 1), (2, 4, 4), (2, 4, 4))))
    last = strider.get_nth_chunk_bbox(1)
    assert last == BBox3D(((2, 4), (0, 4), (0, 4)), unit="um")
    assert last.pformat() == "(1.0, 0.0, 0.0) - (2.0, 2.0, 2.0)"


@pytest.mark.parametrize("number", [-1, 2])
def test_there_is_no_chunk_of_another_number(number: int) -> None:
    strider = BBoxStrider(BBox3D.from_coords((0, 0, 0), (2, 1, 1)), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    with pytest.raises(IndexError, match=f"expected the number of a chunk from 0 to 1, came {number}"):
        strider.get_nth_chunk_bbox(number)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "grow"}, "mode: expected one of shrink, expand, exact, came 'grow'"),
        ({"mode": "exact"}, "mode: expected a stride of chunk_size with exact, came"),
        ({"max_superchunk_size": (4, 4, 2)}, "expected a stride of chunk_size with max_superchunk_size, came"),
        ({"max_superchunk_size": (4, 1, 2)}, "max_superchunk_size: expected at least chunk_size, .*, came"),
        ({"chunk_size": (1.5, 1, 1)}, "expected whole voxels as chunk_size, came"),
        ({"stride": (0, 1, 1)}, "expected numbers above 0 as stride"),
        ({"resolution": (1, 1)}, "expected three numbers .* as resolution"),
        ({"stride_start_offset_in_unit": 5}, "expected three numbers .* as stride_start_offset_in_unit"),
    ],
)
def test_arguments_are_checked(changes: dict[str, Any], message: str) -> None:
    arguments = {
        "bbox": BBox3D.from_coords((0, 0, 0), (4, 4, 2)),
        "chunk_size": (2, 2, 1),
        "stride": (1, 1, 1),
        "resolution": (1, 1, 1),
    }
    with pytest.raises(GeometryError, match=message):
        BBoxStrider(**{**arguments, **changes})
