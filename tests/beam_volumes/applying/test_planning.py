"""The few chunks whose positions tell of all."""

import math

from hypothesis import given, settings

from beam_volumes.applying.planning import _steps
from beam_volumes.geometry import Box
from beam_volumes.subchunks import SubchunkPlan
from tests.beam_volumes.subchunk_plans import make_plan, plans


@settings(max_examples=60, derandomize=True, deadline=None)
@given(plans())
def test_chunks_are_as_far_from_the_first_as_steps_together(plan: SubchunkPlan) -> None:
    boxes = [chunk.box for top in range(len(plan)) for chunk in plan.bottom_chunks(top)]
    for axis in range(3):
        far = {box.start[axis] - boxes[0].start[axis] for box in boxes}
        steps = _steps(plan, axis)
        assert set(steps) <= far
        assert math.gcd(*steps) == math.gcd(*far)


def test_steps_are_few() -> None:
    plan = make_plan(
        Box.of_shape((4096, 4096, 96)),
        [(1024, 1024, 24), (64, 32, 6)],
        [(0, 0, 0), (4, 4, 1)],
        [(32, 32, 0), (8, 8, 0)],
    )
    assert [_steps(plan, axis) for axis in range(3)] == [[64], [32], [6]]
