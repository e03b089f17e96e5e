import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box
from beam_volumes.reading_plan import Lattice, plan_reading

cells = st.tuples(*[st.integers(1, 48)] * 3)
origins = st.tuples(*[st.integers(-60, 60)] * 3)
lattices = st.builds(Lattice, cells, origins)


def corners(lattice: Lattice, axis: int, low: int, high: int) -> set[int]:
    cell, origin = lattice.cell[axis], lattice.origin[axis]
    return {n for n in range(low, high) if (n - origin) % cell == 0}


@given(lattices, lattices)
@settings(derandomize=True, deadline=None)
def test_common_cells_are_whole_cells_of_both(a: Lattice, b: Lattice) -> None:
    common = a.common(b)
    for axis in range(3):
        shared = corners(a, axis, -3000, 3000) & corners(b, axis, -3000, 3000)
        if common is not None:
            assert corners(common, axis, -3000, 3000) == shared
    if common is None:
        assert any(not (corners(a, x, -3000, 3000) & corners(b, x, -3000, 3000)) for x in range(3))


@given(cells, origins, st.tuples(*[st.integers(1, 90)] * 3), origins, st.integers(20_000, 400_000))
@settings(derandomize=True, deadline=None)
def test_regions_and_blocks_tile_the_bounds_on_the_grid(
    chunk: tuple[int, int, int],
    offset: tuple[int, int, int],
    shape: tuple[int, int, int],
    stored_origin: tuple[int, int, int],
    memory: int,
) -> None:
    bounds = Box.of_shape(shape, offset)
    grain, stored = Lattice((32, 24, 16), stored_origin), Lattice((8, 8, 8), stored_origin)
    plan = plan_reading(bounds, grain, stored, [Lattice(chunk, offset)], (1, memory))
    seen = np.zeros(shape, int)
    for region in range(len(plan.regions)):
        box = plan.regions.box(plan.regions.position(region))
        blocks = plan.blocks(region)
        for index in range(len(blocks)):
            block = blocks.box(blocks.position(index))
            assert box.contains(block)
            assert block.voxels * 4 <= max(memory, 4 * stored.voxels)
            seen[block.slices(offset)] += 1
    assert (seen == 1).all()
    for axis in range(3):
        inner = {plan.regions.whole_box(p).start[axis] for p in plan.regions.positions_meeting(bounds)}
        assert all((n - stored_origin[axis]) % grain.cell[axis] == 0 for n in inner)


def test_regions_hold_whole_graph_chunks_and_whole_destination_chunks_where_they_can() -> None:
    bounds = Box.of_shape((2048, 2048, 512))
    graph, stored, chunks = (Lattice(c, (0, 0, 0)) for c in ((256, 256, 512), (128, 128, 64), (128, 128, 32)))
    plan = plan_reading(bounds, graph, stored, [chunks], (8, 3_500_000_000))
    assert plan.regions.cell == (256, 256, 512)
    assert all(c % s == 0 for c, s in zip(plan.block.cell, stored.cell, strict=True))
    assert plan.block.voxels * 8 <= 64 * 2**20


def test_a_graph_chunk_larger_than_memory_is_read_in_blocks() -> None:
    bounds = Box.of_shape((4096, 4096, 1024))
    graph, stored, chunks = (Lattice(c, (0, 0, 0)) for c in ((1024, 1024, 1024), (128, 128, 64), (128, 128, 32)))
    plan = plan_reading(bounds, graph, stored, [chunks], (8, 500_000_000))
    assert plan.regions.cell == (1024, 1024, 1024)
    assert plan.block.voxels * 8 * 16 <= 500_000_000


def test_grids_that_never_meet_are_read_on_the_sources_grid() -> None:
    bounds = Box.of_shape((200, 200, 200), (1, 1, 1))
    stored = Lattice((64, 64, 64), (0, 0, 0))
    plan = plan_reading(bounds, stored, stored, [Lattice((64, 64, 64), (1, 1, 1))], (1, 10**9))
    assert plan.regions.origin == (0, 0, 0)
    assert all(c % 64 == 0 for c in plan.regions.cell)


def test_there_are_enough_regions_for_the_cores_and_not_too_many() -> None:
    chunks = Lattice((128, 128, 32), (0, 0, 0))
    for shape, least, most in (((1024, 1024, 1024), 32, 256), ((16384, 16384, 4096), 2**14, 2**15)):
        plan = plan_reading(Box.of_shape(shape), chunks, chunks, [chunks], (8, 3_500_000_000))
        assert least <= len(plan.regions) <= most


def test_memory_too_small_for_one_stored_chunk_is_refused() -> None:
    stored = Lattice((512, 512, 512), (0, 0, 0))
    with pytest.raises(OptionError, match=r"--memory_target: expected at least 4,294,967,296 bytes.*came 1,000"):
        plan_reading(Box.of_shape((1024,) * 3), stored, stored, [Lattice((64,) * 3, (0, 0, 0))], (8, 1000))


def test_the_plan_is_a_function_of_its_input_alone() -> None:
    stored = Lattice((96, 80, 64), (5, 6, 7))
    plans = [
        plan_reading(Box.of_shape((999, 777, 555)), stored, stored, [Lattice((64, 64, 32), (0, 0, 0))], (2, 10**8))
        for _ in range(2)
    ]
    assert plans[0] == plans[1]
    assert math.prod(plans[0].regions.shape) == len(list(itertools.product(*map(range, plans[0].regions.shape))))


def test_blocks_hold_chunks_of_as_many_mips_as_fit() -> None:
    stored = Lattice((128, 128, 32), (0, 0, 0))
    mips = [Lattice((128 * f, 128 * f, 32), (0, 0, 0)) for f in (1, 2, 4, 8, 16)]
    plan = plan_reading(Box.of_shape((4096, 4096, 1024)), stored, stored, mips, (8, 3_500_000_000))
    assert plan.block.cell == (512, 512, 32)
    assert all(r % b == 0 for r, b in zip(plan.regions.cell, plan.block.cell, strict=True))


def test_mips_whose_chunks_meet_no_others_are_passed_over() -> None:
    stored = Lattice((64, 64, 64), (1, 1, 1))
    mips = [stored, Lattice((128, 128, 64), (0, 0, 1)), Lattice((128, 128, 64), (1, 1, 1))]
    plan = plan_reading(Box.of_shape((512, 512, 512), (1, 1, 1)), stored, stored, mips, (1, 10**9))
    assert plan.block.cell[0] % 128 == 0
    assert plan.block.origin[0] % 64 == 1
