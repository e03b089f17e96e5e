from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.reading_plan import Lattice
from beam_volumes.subchunk_planning import plan_subchunks
from beam_volumes.subchunk_request import PostpadRequest
from tests.beam_volumes.subchunk_specs import BOX, CHUNKS, chunks, faults, plan


def test_the_guides_example_of_two_levels() -> None:
    made = plan(
        processing_chunk_sizes=[[1024, 1024, 1], [256, 256, 1]],
        processing_crop_pads=[[96, 96, 0], [24, 24, 0]],
        processing_blend_pads=[[32, 32, 0], [16, 16, 0]],
        processing_blend_modes=["linear", "quadratic"],
        max_reduction_chunk_size=[1024, 1024, 1],
    )
    assert made.bounds == BOX
    assert made.levels[0].whole == (1280, 1280, 1)
    assert [level.mode for level in made.levels] == ["linear", "quadratic"]
    assert made.strides == (25, 1)
    assert len(made) == len(made.owners) == 10


def test_one_pad_and_one_mode_hold_for_all_levels() -> None:
    made = plan(
        processing_chunk_sizes=[[1016, 1016, 10], [204, 204, 10]],
        processing_crop_pads=[1, 1, 0],
        processing_blend_pads=(1, 1, 0),
        processing_blend_modes="bump",
    )
    assert [(level.crop, level.blend, level.mode) for level in made.levels] == [((1, 1, 0), (1, 1, 0), "bump")] * 2


@pytest.mark.parametrize("size", [[512, 256, 3], [[512, 256, 3], [256, 256, 1]]])
def test_the_largest_output_box_may_be_said_for_the_top_or_for_each_level(size: Any) -> None:
    assert plan(max_reduction_chunk_size=size).owners.cell == (512, 256, 3)


def test_output_boxes_are_whole_chunks_of_the_destination() -> None:
    """Each is written once: none shares a chunk with another."""
    box = Box.of_shape((400, 256, 32), (70, 64, 5))
    made = plan(box, CHUNKS, processing_chunk_sizes=[[200, 100, 8]], expand_bbox_processing=True)
    assert made.owners.cell == (192, 64, 16)
    assert made.owners.origin == (64, 64, 0)
    stops = {made.owner_box(owner).stop[0] for owner in range(len(made.owners))}
    assert stops == {256, 448, 470}
    aligned = plan(BOX, Lattice((512, 256, 1), (0, 0, 0)))
    assert [aligned.owner_box(i) for i in range(10)] == [aligned.top_chunk(i).box for i in range(10)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_auto_divisibility_fits_and_keeps_the_bottom(data: st.DataObject) -> None:
    bottom = data.draw(st.tuples(*[st.integers(1, 20)] * 3))
    levels = data.draw(st.integers(1, 2))
    # Far larger than the level below: what is rounded away must leave twice the blend.
    sizes = [data.draw(st.tuples(*[st.integers(n * 9**i, n * 9**i * 4) for n in bottom])) for i in range(levels, 0, -1)]
    crops = [data.draw(st.tuples(*[st.integers(0, 9)] * 3)) for _ in range(levels + 1)]
    blends = [data.draw(st.tuples(*[st.integers(0, n // 2) for n in bottom])) for _ in range(levels + 1)]
    made = plan(
        processing_chunk_sizes=[*sizes, bottom],
        processing_crop_pads=crops,
        processing_blend_pads=blends,
        auto_divisibility=True,
    )
    assert chunks(made)[-1] == bottom
    for given_size, upper, lower in zip(sizes, made.levels[:-1], made.levels[1:], strict=True):
        for axis in range(3):
            assert upper.chunk[axis] <= given_size[axis] < upper.chunk[axis] + lower.chunk[axis]
            assert upper.whole[axis] % lower.chunk[axis] == 0
    assert all(n % c == 0 for n, c in zip(made.bounds.shape, made.top.chunk, strict=True))
    assert made.bounds.start == BOX.start
    assert made.bounds.contains(BOX)


def test_a_bounding_box_grows_to_whole_chunks_from_its_start() -> None:
    made = plan(Box.of_shape((1025, 1, 10), (5, 6, 7)))
    assert made.bounds == Box.of_shape((2048, 1024, 10), (5, 6, 7))


def test_a_bounding_box_grows_to_the_destinations_chunks() -> None:
    box = Box((-10, 65, 5), (100, 129, 8))
    made = plan(
        box,
        Lattice((64, 64, 16), (3, 1, 0)),
        processing_chunk_sizes=[[64, 64, 16]],
        expand_bbox_backend=True,
        expand_bbox_processing=False,
    )
    assert made.bounds == Box((-61, 65, 0), (131, 129, 16))
    assert made.owners.cell == (64, 64, 16)


def test_a_bounding_box_grows_to_whole_voxels() -> None:
    bounds = ((Fraction(1, 3), 0, Fraction(-1, 2)), (Fraction(7, 2), 4, Fraction(4)))
    made = plan(bounds, processing_chunk_sizes=[[2, 2, 1]], expand_bbox_resolution=True)
    assert made.bounds == Box((0, 0, -1), (4, 4, 4))
    assert faults(bounds, processing_chunk_sizes=[[2, 2, 1]]) == [
        "bbox: expected whole voxels at dst_resolution, came (0.333333, 0, -0.5) - (3.5, 4, 4): use [0, 0, -1] - "
        "[4, 4, 4], or set expand_bbox_resolution: true, which makes it that"
    ]


def test_coordinates_of_any_size_are_exact() -> None:
    start = 2**60 + 1
    made = plan(((start, 0, 0), (start + 2, 1, 1)), processing_chunk_sizes=[[2, 1, 1]])
    assert made.bounds.start[0] == 2**60 + 1


def test_the_top_chunk_shrinks_to_the_bounding_box() -> None:
    made = plan(
        Box.of_shape((512, 4096, 3)),
        processing_chunk_sizes=[[1024, 1024, 8], [256, 256, 1]],
        shrink_processing_chunk=True,
        expand_bbox_processing=False,
    )
    assert chunks(made) == [(512, 1024, 3), (256, 256, 1)]
    assert made.shape == (1, 4, 1)


def test_a_gap_grows_the_bounding_box_to_whole_chunks_only() -> None:
    options: dict[str, Any] = {"processing_chunk_sizes": [[4, 4, 1]], "processing_gap": [2, 2, 0]}
    made = plan(Box.of_shape((11, 5, 2)), **options)
    assert (made.bounds.shape, made.shape) == ((10, 4, 2), (2, 1, 2))
    assert plan(Box.of_shape((13, 3, 1)), **options).bounds.shape == (16, 4, 1)
    assert plan(Box.of_shape((12, 4, 1)), expand_bbox_processing=False, **options).bounds.shape == (10, 4, 1)
    assert faults(Box.of_shape((13, 4, 1)), expand_bbox_processing=False, **options) == [
        "processing_chunk_sizes[0]: expected sizes that divide the bounding box of [13, 4, 1] voxels with gaps of "
        "[2, 2, 0], came [4, 4, 1]: use the bounding box [0, 0, 0] - [16, 4, 1], or set expand_bbox_processing: true, "
        "which makes it that"
    ]


def test_the_top_chunk_must_divide_the_bounding_box() -> None:
    box = Box.of_shape((1000, 1024, 10), (1, 2, 3))
    assert faults(box, expand_bbox_processing=False, processing_chunk_sizes=[[300, 1024, 4]]) == [
        "processing_chunk_sizes[0]: expected sizes that divide the bounding box of [1000, 1024, 10] voxels, came "
        "[300, 1024, 4]: use [250, 1024, 2] or [500, 1024, 5], or use the bounding box [1, 2, 3] - [1201, 1026, 15], "
        "or set expand_bbox_processing: true, which makes it that"
    ]


def test_each_chunk_must_divide_the_one_above_with_its_pads() -> None:
    found = faults(
        processing_chunk_sizes=[[1024, 1024, 1], [250, 256, 1], [128, 128, 1]],
        processing_crop_pads=[[96, 96, 0], [0, 0, 0], [0, 0, 0]],
        processing_blend_pads=[[32, 32, 0], [0, 0, 0], [16, 16, 0]],
    )
    assert found[:1] == [
        "processing_chunk_sizes[1]: expected sizes that divide [1280, 1280, 1], the chunk [1024, 1024, 1] of the level "
        "above with twice its crop_pad [96, 96, 0] and blend_pad [32, 32, 0], came [250, 256, 1]: use [160, 256, 1] or "
        "[256, 256, 1]"
    ]
    assert found[1:] == [
        "processing_chunk_sizes[2]: expected sizes that divide [250, 256, 1], the chunk [250, 256, 1] of the level "
        "above with twice its crop_pad [0, 0, 0] and blend_pad [0, 0, 0], came [128, 128, 1]: use [125, 128, 1] or "
        "[250, 128, 1]; or keep the smallest chunks: with auto_divisibility: true processing_chunk_sizes become "
        "[[1024, 1024, 1], [128, 256, 1], [128, 128, 1]]"
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.tuples(*[st.integers(1, 60)] * 3), st.tuples(*[st.integers(1, 60)] * 3), st.data())
def test_the_sizes_to_use_instead_work(upper: Vec, lower: Vec, data: st.DataObject) -> None:
    crop = data.draw(st.tuples(*[st.integers(0, 9)] * 3))
    blend = data.draw(st.tuples(*[st.integers(0, n // 2) for n in lower]))
    options: dict[str, Any] = {
        "processing_crop_pads": [crop, (0, 0, 0)],
        "processing_blend_pads": [(0, 0, 0), blend],
    }
    whole = [u + 2 * c for u, c in zip(upper, crop, strict=True)]
    if any(2 * b > w for b, w in zip(blend, whole, strict=True)):
        # No size of a chunk that it is cut into is twice the blend.
        return
    if all(w % n == 0 for w, n in zip(whole, lower, strict=True)):
        plan(processing_chunk_sizes=[upper, lower], **options)
        return
    (fault,) = faults(processing_chunk_sizes=[upper, lower], **options)
    use = fault.split(": use ")[1].split(";")[0]
    for text in use.split(" or "):
        plan(processing_chunk_sizes=[upper, [int(n) for n in text.strip("[]").split(", ")]], **options)
    if "become " in fault:
        sizes = fault.split("become ")[1]
        wanted = [[int(n) for n in size.split(", ")] for size in sizes.strip("[]").split("], [")]
        made = plan(processing_chunk_sizes=[upper, lower], auto_divisibility=True, **options)
        assert chunks(made) == [tuple(size) for size in wanted]
        plan(processing_chunk_sizes=wanted, **options)


def test_a_blend_is_at_most_half_of_the_chunk() -> None:
    assert faults(
        processing_chunk_sizes=[[1024, 1024, 1], [10, 7, 3]],
        processing_blend_pads=[[3, 512, 1], [5, 4, 2]],
        processing_crop_pads=[[0, 2, 0], [99, 99, 99]],
    ) == [
        "processing_blend_pads[0]: expected at most half of the chunk [1024, 1024, 1], came [3, 512, 1]: use "
        "[3, 512, 0]",
        "processing_blend_pads[1]: expected at most half of the chunk [10, 7, 3], came [5, 4, 2]: use [5, 3, 1]",
        "processing_chunk_sizes[1]: expected sizes that divide [1030, 2052, 3], the chunk [1024, 1024, 1] of the level "
        "above with twice its crop_pad [0, 2, 0] and blend_pad [3, 512, 1], came [10, 7, 3]: use [10, 6, 3] or "
        "[10, 9, 3]",
    ]


def test_with_auto_divisibility_the_largest_blend_is_that_of_the_chunk_it_makes() -> None:
    options: dict[str, Any] = {"processing_chunk_sizes": [[14, 16, 1], [16, 8, 1]], "auto_divisibility": True}
    assert faults(processing_blend_pads=[[7, 4, 0], [0, 0, 0]], **options) == [
        "processing_blend_pads[0]: expected at most half of the chunk [2, 16, 1], made of [14, 16, 1] by "
        "auto_divisibility, came [7, 4, 0]: use [4, 4, 0]"
    ]
    assert chunks(plan(processing_blend_pads=[[4, 4, 0], [0, 0, 0]], **options))[0] == (8, 16, 1)


def test_auto_divisibility_says_how_large_a_chunk_must_be() -> None:
    options: dict[str, Any] = {
        "processing_crop_pads": [[3, 0, 0], [0, 0, 0]],
        "processing_blend_pads": [[2, 0, 0], [0, 0, 0]],
        "auto_divisibility": True,
    }
    assert faults(processing_chunk_sizes=[[5, 300, 1], [16, 256, 1]], **options) == [
        "processing_chunk_sizes[0], auto_divisibility: expected sizes that hold, with twice their crop_pad and "
        "blend_pad, whole chunks [16, 256, 1] of the level below, came [5, 300, 1]: use at least [6, 300, 1]"
    ]
    assert chunks(plan(processing_chunk_sizes=[[6, 300, 1], [16, 256, 1]], **options))[0] == (6, 256, 1)
    # Twice the blend, too.
    options["processing_crop_pads"], options["processing_blend_pads"] = [0, 0, 0], [[5, 0, 0], [0, 0, 0]]
    (fault,) = faults(processing_chunk_sizes=[[1, 1, 1], [12, 1, 1]], **options)
    assert fault.endswith("use at least [14, 1, 1]")
    assert chunks(plan(processing_chunk_sizes=[[14, 1, 1], [12, 1, 1]], **options))[0] == (14, 1, 1)


def test_sizes_with_pads_are_made_sizes_without() -> None:
    request = PostpadRequest([[820, 938, 1], [234, 192, 1]], [3, 5, 0], [7, 11, 0], "linear", [1024, 1024, 1]).request()
    assert request.processing_chunk_sizes == [(806, 916, 1), (214, 160, 1)]
    made = plan_subchunks(request, BOX)
    assert [(level.chunk, level.crop, level.blend, level.mode) for level in made.levels] == [
        ((628, 778, 1), (0, 0, 0), (7, 11, 0), "linear"),
        ((214, 160, 1), (3, 5, 0), (7, 11, 0), "linear"),
    ]
    assert made.bounds == Box.of_shape((1256, 1556, 10), BOX.start)
    assert made.owners.cell == (1024, 1024, 1)


def test_sizes_that_the_pads_fill_are_refused() -> None:
    with pytest.raises(OptionError) as caught:
        PostpadRequest([[8, 64, 1], [16, 16, 1]], [4, 0, 0], [4, 0, 0]).request()
    assert str(caught.value) == (
        "the spec has 2 faults:\n"
        "1. processing_input_sizes[0]: expected sizes larger than the pads that they hold, twice (4, 0, 0) and twice "
        "(0, 0, 0), came [8, 64, 1]: use at least [9, 1, 1]\n"
        "2. processing_input_sizes[1]: expected sizes larger than the pads that they hold, twice (4, 0, 0) and twice "
        "(4, 0, 0), came [16, 16, 1]: use at least [17, 1, 1]"
    )
    with pytest.raises(
        OptionError, match=r"^processing_crop: expected three whole numbers, each at least 0, came \[1\]$"
    ):
        PostpadRequest([[8, 64, 1]], [1]).request()
