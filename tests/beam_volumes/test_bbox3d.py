"""BBox3D: boxes in space whose coordinates do not drift."""

import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import GeometryError, VolumeError
from beam_volumes.geometry import BBox3D, Vec3D
from tests.beam_volumes.geometry_strategies import COORDINATES, RESOLUTIONS, SMALL, boxes, triples

BUDGET = settings(derandomize=True, deadline=None, max_examples=50)
BOX = BBox3D(((-2, 2), (-4, 4), (-6, 6)))
NOWHERE = BBox3D(((0, 0), (0, 0), (0, 0)))
PADS = st.tuples(*[SMALL.map(abs) | st.tuples(SMALL.map(abs), SMALL.map(abs))] * 3)
SIZES = triples(st.sampled_from([1, 3, 0.1, 0.7, 4.5]))


def volume(box: BBox3D) -> Fraction:
    (ax, bx), (ay, by), (az, bz) = box.sides
    return Fraction((bx - ax) * (by - ay) * (bz - az))


@BUDGET
@given(boxes(), PADS, RESOLUTIONS)
def test_cropping_undoes_padding(box: BBox3D, pad: Any, resolution: Any) -> None:
    padded = box.padded(pad, resolution)
    assert box.contained_in(padded)
    assert padded.cropped(pad, resolution) == box


@BUDGET
@given(boxes(), triples(st.integers(1, 4)))
def test_parts_cover_the_box_and_do_not_overlap(box: BBox3D, counts: Vec3D[int]) -> None:
    parts = box.split(counts)
    assert len(parts) == counts.x * counts.y * counts.z
    assert {volume(part) for part in parts} == {volume(box) / len(parts)}
    assert not any(a.intersects(b) for a, b in combinations(parts, 2))
    whole = NOWHERE
    for part in parts:
        whole = whole.supremum(part)
    assert whole == box
    assert parts == sorted(parts, key=lambda part: [a for a, _ in part.sides])


@BUDGET
@given(boxes(), triples(SMALL), SIZES)
def test_snapped_boxes_hold_or_are_held(box: BBox3D, offset: Vec3D[int], size: Vec3D[float]) -> None:
    grown, shrunk, down = (box.snapped(offset, size, mode) for mode in ("expand", "shrink", "floor"))
    assert shrunk.contained_in(box)
    assert box.contained_in(grown)
    for found in (grown, shrunk, down):
        if found != NOWHERE:
            found.translated(-offset).to_slices(size)
            assert found.snapped(offset, size, "shrink") == found.snapped(offset, size, "expand") == found
    # The smallest box of whole cells, and the largest: one cell more or less would be wrong.
    for axis, ((a, b), (c, d), step) in enumerate(zip(box.sides, grown.sides, size, strict=True)):
        assert a - c < Fraction(str(step)), axis
        assert d - b < Fraction(str(step)), axis
    assert [a for a, _ in down.bounds] == [a for a, _ in grown.bounds]
    if shrunk != NOWHERE:
        assert [b for _, b in down.bounds] == [b for _, b in shrunk.bounds]


@BUDGET
@given(boxes(), triples(COORDINATES), RESOLUTIONS)
def test_what_is_moved_there_and_back_is_where_it_was(box: BBox3D, offset: Vec3D[int], resolution: Any) -> None:
    moved = box.translated(offset, resolution)
    assert moved.translated(-offset, resolution) == box
    assert volume(moved) == volume(box)
    step = abs(offset)
    both = box.translated_end(step, resolution).translated_start(step, resolution)
    assert both == box.translated(step, resolution)
    assert box.translated_start(-step, resolution).with_start(box.start) == box.with_start(box.start)


@BUDGET
@given(boxes(), boxes(), boxes())
def test_intersection_and_supremum_make_a_lattice(a: BBox3D, b: BBox3D, c: BBox3D) -> None:
    for operation in (BBox3D.intersection, BBox3D.supremum):
        assert operation(a, a) == a
        assert operation(a, b) == operation(b, a)
        assert operation(operation(a, b), c) == operation(a, operation(b, c))
    common, hull = a.intersection(b), a.supremum(b)
    assert a.supremum(common) == a.intersection(hull) == a
    assert common.contained_in(a)
    assert a.contained_in(hull)
    assert a.intersects(b) == (common != NOWHERE) == (volume(common) > 0)
    assert a.contained_in(b) == (common == a) == (hull == b)


@BUDGET
@given(boxes())
def test_what_is_printed_and_pickled_comes_back(box: BBox3D) -> None:
    for copy in (eval(repr(box), {"BBox3D": BBox3D, "Fraction": Fraction}), pickle.loads(pickle.dumps(box))):
        assert (copy, repr(copy), hash(copy)) == (box, repr(box), hash(box))


@BUDGET
@given(triples(COORDINATES), triples(st.integers(0, 10**9)), RESOLUTIONS)
def test_voxels_come_back_from_space(start: Vec3D[int], shape: Vec3D[int], resolution: Any) -> None:
    box = BBox3D.from_coords(start, start + shape, resolution)
    assert [(s.start, s.stop) for s in box.to_slices(resolution)] == list(zip(start, start + shape, strict=True))
    assert BBox3D.from_slices(box.to_slices(resolution), resolution) == box
    assert box.contains(start, resolution) == (shape > 0)
    assert not box.contains(start + shape, resolution)


def test_a_million_steps_of_a_tenth_end_on_a_whole_number() -> None:
    box = BBox3D.from_coords((0, 0, 0), (1, 1, 1), (0.1, 4.5, 0.3))
    for _ in range(100):
        box = box.translated((10_000, 10_000, 10_000), (0.1, 4.5, 0.3))
    assert box.start == Vec3D(100_000, 4_500_000, 300_000)
    assert box.end == Vec3D(100_000.1, 4_500_004.5, 300_000.3)
    assert box.shape == Vec3D(0.1, 4.5, 0.3)


def test_thirds_are_kept_and_printed_as_such() -> None:
    part = BBox3D.from_coords((0, 0, 0), (10, 3, 3)).split((3, 1, 1))[1]
    assert part.bounds[0] == (Fraction(10, 3), Fraction(20, 3))
    assert part.start == Vec3D(3.3333333333333335, 0, 0)
    assert part * 3 == BBox3D(((10, 20), (0, 9), (0, 9)))
    assert part.pformat() == "(3.3333333333, 0.0, 0.0) - (6.6666666667, 3.0, 3.0)"


def test_sides_of_different_pads() -> None:
    box = BOX.padded((1, (2, 0), (0, 3)), (10, 10, 1))
    assert box == BBox3D(((-12, 12), (-24, 4), (-6, 9)))
    assert box.cropped((1, (2, 0), (0, 3)), (10, 10, 1)) == BOX
    assert BOX.with_start((0, 0, 0)) == BBox3D(((0, 2), (0, 4), (0, 6)))
    assert BOX.with_end((1, 3, 0), (2, 2, 2)) == BBox3D(((-2, 2), (-4, 6), (-6, 0)))
    assert BOX.translated_start((1, 0, -1)) == BBox3D(((-1, 2), (-4, 4), (-7, 6)))
    assert BOX.translated_end((1, 0, -1), (2, 2, 2)) == BBox3D(((-2, 4), (-4, 4), (-6, 4)))


def test_shapes_and_scales() -> None:
    assert (repr(BOX.shape), BOX.ndim) == ("Vec3D(4, 8, 12)", 3)
    assert BOX * 2 == 2 * BOX == BBox3D(((-4, 4), (-8, 8), (-12, 12)))
    assert BOX * Vec3D(1, 2, 0.5) == Vec3D(1, 2, 0.5) * BOX == BBox3D(((-2, 2), (-8, 8), (-3, 3)))
    assert BOX / Vec3D(1, 4, 8) == BBox3D(((-2, 2), (-1, 1), (-0.75, 0.75)))
    assert (BOX / 3) * 3 == BOX


def test_axes_are_exchanged() -> None:
    box = BBox3D(((1, 3), (30, 35), (-8, 9)))
    assert box.transposed(0, 2) == box.transposed(2, 0) == BBox3D(((-8, 9), (30, 35), (1, 3)))
    assert box.transposed(1, 2, local=True) == BBox3D(((1, 3), (30, 47), (-8, -3)))
    assert box.transposed(1, 1) == box


def test_sides_in_common() -> None:
    other = BBox3D(((-2, 5), (-4, 4), (-7, 6)))
    assert BOX.aligned(other) == (True, False, True, True, False, True)


def test_boxes_that_touch_do_not_intersect() -> None:
    beside = BOX.translated((4, 0, 0))
    assert not BOX.intersects(beside)
    assert BOX.intersection(beside) == NOWHERE
    assert BOX.supremum(NOWHERE) == NOWHERE.supremum(BOX) == BOX
    assert NOWHERE.contained_in(beside)
    assert BBox3D(((1, 2), (0, 9), (0, 9))).snapped((0, 0, 0), (4, 4, 4), "shrink") == NOWHERE


def test_points_make_a_box() -> None:
    points = [(7, 0, 2), (-1, 9, 2), (3, 3, 20)]
    assert BBox3D.from_points(points) == BBox3D(((-1, 7.0001), (0, 9.0001), (2, 20.0001)))
    box = BBox3D.from_points(points, (4, 4, 40))
    assert all(box.contains(point, (4, 4, 40)) for point in points)
    assert BBox3D.from_points(points, epsilon=0).end == Vec3D(7, 9, 20)


def test_unit_and_printing_are_kept() -> None:
    box = BBox3D(((0, 2), (0, 2), (0, 2)), unit="um", pprint_px_resolution=[2, 1, 0.5])
    moved = box.padded((1, 1, 1)).intersection(box).translated((2, 0, 0))
    assert (moved.unit, moved.pprint_px_resolution) == ("um", (2, 1, 0.5))
    assert moved.pformat() == "(1.0, 0.0, 0.0) - (2.0, 2.0, 4.0)"
    assert box == BBox3D(box.bounds, unit="um")
    assert box != BBox3D(box.bounds)


def test_lists_and_numbers_of_numpy_are_taken() -> None:
    box = BBox3D([[np.int64(0), np.float32(0.1)], [0, 1], [0, np.uint8(2)]])  # type: ignore[arg-type]
    assert repr(box.bounds) == "((0, 0.1), (0, 1), (0, 2))"
    assert BBox3D.from_coords(np.zeros(3, int), np.ones(3, int), np.array([4, 4, 40])).shape == Vec3D(4, 4, 40)  # type: ignore[arg-type]


def test_sides_between_voxels_are_refused_or_rounded() -> None:
    box = BBox3D(((3, 10), (0, 4), (0, 1)))
    with pytest.raises(GeometryError) as caught:
        box.to_slices((4, 4, 1))
    assert str(caught.value) == (
        "expected whole voxels along x at resolution (4, 4, 1), got 0.75 to 2.5: use 0 to 3 (`snapped` to the"
        " resolution with mode 'expand'), or allow_slice_rounding=True, which takes 1 to 2"
    )
    assert box.to_slices((4, 4, 1), allow_slice_rounding=True) == (slice(1, 2), slice(0, 1), slice(0, 1))
    assert box.snapped((0, 0, 0), (4, 4, 1), "expand").get_slice(0, (4, 4, 1)) == slice(0, 3)
    # No nearness counts as whole.
    assert BBox3D(((0, 1.0000001), (0, 1), (0, 1))).get_slice(1, (1, 1, 1)) == slice(0, 1)
    with pytest.raises(GeometryError, match=r"got 0 to 1\.0000001: use 0 to 2"):
        BBox3D(((0, 1.0000001), (0, 1), (0, 1))).to_slices((1, 1, 1))


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: BBox3D(((0, 1), (5, 4.5), (0, 1))), "got 5 to 4.5 nm along y: give the lower coordinate first"),
    (lambda: BOX.cropped((3, 0, 0)), "got 1 to -1 nm along x"),
    (lambda: BBox3D(((0, 1), (0, 1))), r"expected three numbers \(x, y, z\) as bounds"),  # type: ignore[arg-type]
    (lambda: BBox3D(((0, 1), (0, 1), (0,))), r"a start and an end as the bounds along z, got \(0,\)"),  # type: ignore[arg-type]
    (lambda: BBox3D(((0, 1), (0, 1), 2)), "a start and an end as the bounds along z, got 2"),  # type: ignore[arg-type]
    (lambda: BBox3D(((0, 1), (0, float("inf")), (0, 1))), "expected a finite number, got inf"),
    (lambda: BBox3D(BOX.bounds, pprint_px_resolution=(0, 1, 1)), "above 0 as pprint_px_resolution"),
    (lambda: BBox3D.from_coords((0, 0), (1, 1, 1)), r"as start_coord, got \(0, 0\)"),
    (lambda: BBox3D.from_coords((0, 0, 0), "abc"), "as end_coord, got 'abc'"),  # type: ignore[arg-type]
    (lambda: BBox3D.from_coords((0, 0, 0), (1, 1, 1), (4, 4, 0)), r"above 0 as resolution, got \(4, 4, 0\)"),
    (lambda: BBox3D.from_slices((slice(0, 1), slice(None, 1), slice(0, 1))), "a slice along y with a start, a stop"),
    (lambda: BBox3D.from_slices((slice(0, 1), slice(0, 1), slice(0, 4, 2))), "along z with .* no step"),
    (lambda: BBox3D.from_slices((slice(0, 1), slice(0, 1), 3)), "a slice along z"),  # type: ignore[arg-type]
    (lambda: BBox3D.from_points([]), "at least one point"),
    (lambda: BBox3D.from_points([(1, 2)]), r"as a point, got \(1, 2\)"),
    (lambda: BOX.padded((1, 2)), "as pad"),
    (lambda: BOX.cropped((1, 2, "a")), "expected a number, got 'a'"),  # type: ignore[arg-type]
    (lambda: BOX.split((1, 0, 1)), "above 0 as num_splits"),
    (lambda: BOX.split((1, 1.5, 1)), "whole numbers as num_splits"),  # type: ignore[arg-type]
    (lambda: BOX.snapped((0, 0, 0), (1, 1, 1), "round"), "one of shrink, expand, floor as mode, got 'round'"),  # type: ignore[arg-type]
    (lambda: BOX.snapped((0, 0, 0), (1, -1, 1), "expand"), "above 0 as grid_size"),
    (lambda: BOX.transposed(0, 3), r"expected 0, 1 or 2 \(x, y, z\) as an axis, got 0, 3"),
    (lambda: BOX.get_slice(-1, (1, 1, 1)), "as an axis, got -1"),
    (lambda: BOX.contains((1, 2, 3, 4)), "as point"),
    (lambda: BOX / 0, "above 0 as divisor"),
    (lambda: BOX * (1, 2, 3), "a number, got .1, 2, 3., which is a tuple"),  # type: ignore[operator]
    (lambda: BOX.intersection(BBox3D(BOX.bounds, unit="um")), "two boxes of one unit, got nm and um"),
    (lambda: BOX.supremum(BBox3D(BOX.bounds, unit="um")), "two boxes of one unit"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_no_box_can_be_made_of_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(GeometryError, match=message) as caught:
        make()
    assert isinstance(caught.value, VolumeError)
    assert isinstance(caught.value, ValueError)


def test_a_box_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        BOX.unit = "um"  # type: ignore[misc]
