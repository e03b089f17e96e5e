import math
import pickle

import numpy as np
from hypothesis import given, settings

from beam_volumes.geometry import Box, Vec
from beam_volumes.subchunks import Level, SubchunkPlan, grown
from tests.beam_volumes.subchunk_plans import make_plan, plans

budget = settings(max_examples=60, deadline=None, derandomize=True)


def test_ids_count_bottom_chunks_x_fastest() -> None:
    plan = make_plan(Box.of_shape((16, 8, 4), (100, 0, -4)), [(8, 8, 4), (4, 4, 4), (2, 2, 2)])
    assert plan.strides == (32, 8, 1)
    assert [plan.top_chunk(i).id for i in range(len(plan))] == [0, 32]
    second = plan.top_chunk(1)
    assert [(chunk.id, chunk.box.start) for chunk in plan.chunks_below(second)] == [
        (32, (108, 0, -4)),
        (40, (112, 0, -4)),
        (48, (108, 4, -4)),
        (56, (112, 4, -4)),
    ]
    assert [(chunk.id, chunk.box.start) for chunk in plan.bottom_chunks(1)][8:12] == [
        (40, (112, 0, -4)),
        (41, (114, 0, -4)),
        (42, (112, 2, -4)),
        (43, (114, 2, -4)),
    ]


def test_boxes_of_chunks_with_pads() -> None:
    plan = make_plan(Box.of_shape((8, 8, 2)), [(8, 8, 2), (5, 4, 1)], [(0, 2, 0), (3, 0, 1)], [(1, 2, 1), (2, 1, 0)])
    assert plan.top.whole == (10, 16, 4)
    chunks = list(plan.bottom_chunks(0))
    # The first 8 lie before the first slice, in the blend, which nothing needs at the edge of the bounds.
    assert chunks[0].id == 8
    assert chunks[0].box == Box((-3, -5, 0), (6, 1, 1))
    assert chunks[0].read_box == Box((-6, -5, -1), (9, 1, 2))


def test_chunks_of_which_nothing_is_wanted_are_left_out() -> None:
    plan = make_plan(Box.of_shape((4, 4, 1)), [(4, 4, 1), (2, 2, 1)], [(4, 0, 0), (0, 0, 0)])
    assert plan.strides == (12, 1)
    assert [chunk.id for chunk in plan.bottom_chunks(0)] == [2, 3, 8, 9]
    assert plan.count_bottom_chunks() == 4


def test_gaps_lie_between_chunks() -> None:
    plan = make_plan(Box.of_shape((16, 4, 4), (1, 1, 1)), [(4, 4, 4)], processing_gap=(2, 1, 0))
    assert [plan.top_chunk(i).box.start for i in range(len(plan))] == [(1, 1, 1), (7, 1, 1), (13, 1, 1)]


def test_plans_of_petavoxels_are_made_and_asked_at_once() -> None:
    plan = make_plan(
        Box.of_shape((2**21, 2**21, 2**16)), [(1024, 1024, 64), (128, 128, 32)], (32, 32, 0), (32, 32, 0), "linear"
    )
    assert len(plan) == 2**11 * 2**11 * 2**10
    assert plan.top_chunk(len(plan) - 1).box.stop == (2**21, 2**21, 2**16)
    assert plan.owner_box(0) == Box.of_shape((1024, 1024, 64))
    assert plan.tops_of(1) == [0, 1, 2, 2048, 2049, 2050]
    assert plan.count_bottom_chunks() == (9 * 2**11) ** 2 * 2**11


def plain_owners(plan: SubchunkPlan, box: Box) -> list[int]:
    return [owner for owner in range(len(plan.owners)) if plan.owner_box(owner).intersection(box).voxels]


@budget
@given(plans())
def test_chunks_and_the_boxes_that_own_their_voxels_know_each_other(plan: SubchunkPlan) -> None:
    reached: dict[int, list[int]] = {owner: [] for owner in range(len(plan.owners))}
    for top in range(len(plan)):
        owners = plain_owners(plan, plan.top_chunk(top).wanted)
        assert list(plan.owners_of(top)) == owners
        for owner in owners:
            reached[owner].append(top)
    assert {owner: plan.tops_of(owner) for owner in reached} == reached
    assert plan.count_owners() == sum(tops != [] for tops in reached.values())
    assert sum(plan.owner_box(owner).voxels for owner in reached) == plan.bounds.voxels


@budget
@given(plans())
def test_bottom_chunks_cover_what_is_wanted_and_each_is_needed(plan: SubchunkPlan) -> None:
    for top in range(len(plan)):
        wanted = plan.top_chunk(top).wanted
        seen = np.zeros(wanted.shape, int)
        for chunk in plan.bottom_chunks(top):
            common = chunk.box.intersection(wanted)
            seen[common.slices(wanted.start)] += 1
            if len(plan.levels) <= 2:
                assert common.voxels
        assert seen.min() >= 1
        assert math.prod(plan.shape) == len(plan)


@budget
@given(plans())
def test_a_plan_travels_without_what_it_has_found_out(plan: SubchunkPlan) -> None:
    plan.tops_of(0)
    assert plan.shape
    copy = pickle.loads(pickle.dumps(plan))
    assert copy == plan
    assert set(vars(copy)) == {"bounds", "levels", "gap", "owners"}
    assert copy.strides == plan.strides


def test_levels_know_whether_they_are_weighted() -> None:
    pads: list[tuple[Vec, str, bool]] = [
        ((0, 0, 0), "linear", False),
        ((0, 0, 1), "bump", True),
        ((1, 0, 0), "max", False),
        ((1, 0, 0), "defer", False),
    ]
    for blend, mode, expected in pads:
        assert Level((4, 4, 4), (0, 0, 0), blend, mode).is_weighted is expected
    assert grown(Box.of_shape((2, 2, 2)), (1, 2, 3)) == Box((-1, -2, -3), (3, 4, 5))
