import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.downsampling import Downsampler, coarse_box
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.precomputed.info import Scale
from beam_volumes.pyramid import CellKey, Pyramid, choose_factors, chunk_lattices, plan_pyramid, total_factors
from beam_volumes.reading_plan import Lattice, plan_reading

GIGA = 3_500_000_000


def scale(box: Box, chunk: Vec = (128, 128, 32), resolution: tuple[float, float, float] = (4, 4, 40)) -> Scale:
    return Scale(resolution, box, chunk, "raw", "uint64", 1, None)


def scales(base: Scale, factors: tuple[Vec, ...]) -> list[Scale]:
    totals = total_factors(factors)
    return [scale(coarse_box(base.box, total), base.chunk) for total in totals]


def pyramid(base: Scale, factors: tuple[Vec, ...], memory: int, grain: Lattice | None = None) -> Pyramid:
    mips = scales(base, factors)
    chunks = chunk_lattices(mips, total_factors(factors))
    stored = Lattice(base.chunk, base.box.start)
    reading = plan_reading(base.box, grain or stored, stored, chunks, (8, memory))
    return plan_pyramid(Downsampler("mode", "uint64"), reading, mips, factors, memory)


def test_one_pass_from_blocks_to_the_top() -> None:
    plan = pyramid(scale(Box.of_shape((2**15, 2**15, 2**12))), ((2, 2, 1),) * 9, GIGA)
    assert (plan.block_mips, [(level.first, level.last) for level in plan.levels]) == (2, [(2, 4), (4, 6), (6, 9)])
    # Whole chunks of every mip that a level makes, but for the top, where one cell is the volume.
    assert [level.cells.cell[:2] for level in plan.levels] == [(2048, 2048), (8192, 8192), (2**16, 2**16)]
    for level in plan.levels:
        assert level.cells.cell[2] % 32 == 0


def test_a_small_volume_ends_in_one_cell() -> None:
    plan = pyramid(scale(Box.of_shape((300, 200, 90), (3, 5, 7))), ((2, 2, 2),) * 4, GIGA)
    assert [(level.first, level.last, len(level.cells)) for level in plan.levels] == [(plan.block_mips, 4, 1)]


vectors = st.tuples(*[st.integers(1, 3)] * 3).filter(lambda v: math.prod(v) > 1)


@given(
    st.tuples(*[st.integers(1, 70)] * 3),
    st.tuples(*[st.integers(-40, 40)] * 3),
    st.tuples(*[st.integers(2, 9)] * 3),
    st.lists(vectors, min_size=1, max_size=4).map(tuple),
    st.tuples(*[st.integers(-9, 9)] * 3),
    st.integers(650_000, 6_000_000),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_every_level_tiles_the_volume_between_coarse_voxels(
    shape: Vec, offset: Vec, chunk: Vec, factors: tuple[Vec, ...], origin: Vec, memory: int
) -> None:
    base = scale(Box.of_shape(shape, offset), chunk)
    plan = pyramid(base, factors, memory, Lattice((12, 10, 8), origin))
    mips = [0, plan.block_mips, *(level.last for level in plan.levels)]
    assert mips[-1] == len(factors)
    assert mips[1:] == sorted(set(mips[1:]))
    for number, level in enumerate(plan.levels, 1):
        assert (level.first, level.last) == plan.mips_of(number)
        seen = np.zeros(coarse_box(base.box, plan.totals[level.last]).shape, int)
        start = coarse_box(base.box, plan.totals[level.last]).start
        for cell in range(len(level.cells)):
            whole = plan.cell_box(CellKey(number, cell))
            seen[coarse_box(whole, plan.totals[level.last]).slices(start)] += 1
            tiles = list(plan.tile_boxes(CellKey(number, cell)))
            assert sum(t.voxels for t in tiles) == whole.voxels
            below = [coarse_box(t, plan.totals[level.first]) for t in tiles]
            assert sum(t.voxels for t in below) == coarse_box(whole, plan.totals[level.first]).voxels
            for tile in tiles:
                assert CellKey(number, cell) in plan.parents(number - 1, tile)
        assert (seen == 1).all()
    assert not list(plan.parents(len(plan.levels), base.box))


def test_cells_stay_within_the_memory() -> None:
    base = scale(Box.of_shape((50_000, 40_000, 7_000), (26385, 30308, 14850)))
    for memory in (GIGA, 400_000_000):
        plan = pyramid(base, ((2, 2, 1),) * 12, memory)
        for level in plan.levels:
            cell = [
                -(-min(c, b) // f)
                for c, b, f in zip(level.cells.cell, base.box.shape, plan.totals[level.first], strict=True)
            ]
            assert math.prod(cell) * 8 <= memory / 4


def test_blocks_that_cut_coarse_voxels_hand_up_what_they_read() -> None:
    # Graph chunks begin at an odd voxel, so that no coarse voxel fits them.
    base = scale(Box.of_shape((1024, 1024, 256), (26385, 30308, 14850)))
    plan = pyramid(base, ((2, 2, 1),) * 3, GIGA, Lattice((256, 256, 256), base.box.start))
    assert plan.block_mips == 0
    assert plan.levels[0].first == 0


def test_memory_for_less_than_a_coarse_chunk_is_refused() -> None:
    base = scale(Box.of_shape((4096, 4096, 256), (1, 1, 1)))
    with pytest.raises(
        OptionError, match=r"--memory_target: expected at least 67,108,864 bytes, 4 times.*came 50,000,000"
    ):
        pyramid(base, ((2, 2, 1),) * 2, 50_000_000)


@pytest.mark.parametrize(
    ("shape", "factors", "expected"),
    [
        ((1024, 1000, 512), [(2, 2, 1)], [(2, 2, 1)] * 3),
        ((1025, 1000, 512), [(2, 2, 1)], [(2, 2, 1)] * 4),
        ((100, 100, 30), [(2, 2, 1)], []),
        ((512, 512, 256), [(2, 2, 1), (2, 2, 2)], [(2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]),
        ((128, 128, 128), [(2, 2, 1), (2, 2, 2)], [(2, 2, 1), (2, 2, 2), (2, 2, 2)]),
    ],
)
def test_auto_goes_on_until_the_volume_fits_a_chunk(shape: Vec, factors: list[Vec], expected: list[Vec]) -> None:
    assert list(choose_factors(scale(Box.of_shape(shape)), None, factors)) == expected


def test_isotropic_factors_make_cubes() -> None:
    base = scale(Box.of_shape((8192, 8192, 1024)), resolution=(4, 4, 40))
    assert choose_factors(base, 5, None) == ((2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert choose_factors(scale(base.box, resolution=(8, 8, 8)), 2, None) == ((2, 2, 2),) * 2
    assert choose_factors(scale(base.box, resolution=(25, 25, 40)), 1, None) == ((2, 2, 1),)


def test_factors_that_do_not_fit_are_refused() -> None:
    base = scale(Box.of_shape((5, 4, 3)))
    with pytest.raises(OptionError, match=r"--num_mips: expected at most 3, after which a volume of 1 x 1 x 3 voxels"):
        choose_factors(base, 4, [(2, 2, 1)])
