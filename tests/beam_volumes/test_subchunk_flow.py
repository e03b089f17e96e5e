import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_volumes.blending import MODES, WEIGHTED
from beam_volumes.errors import ConservationError, FunctionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.subchunk_flow import (
    Piece,
    Result,
    is_shared,
    one_by_one,
    piece_boxes,
    pieces_of,
    process_chunks,
    process_volume,
    reduce_pieces,
)
from beam_volumes.subchunks import BottomChunk, SubchunkPlan, VoxelKind, grown
from tests.beam_volumes.subchunk_plans import (
    Values,
    covered,
    make_plan,
    plain_volume,
    plans,
    process_chunk,
    reach,
    reading,
)

budget = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

DATA_TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32"]


def noise(shape: tuple[int, ...], data_type: str, seed: int = 0) -> Values:
    """Return voxels of all sizes that can be blended."""
    random = np.random.default_rng(seed)
    if data_type == "float32":
        return random.normal(0, 100, shape).astype(np.float32)
    limits = np.iinfo(data_type)
    return random.integers(max(limits.min, -(2**46)), min(limits.max, 2**46), shape, dtype=data_type, endpoint=True)


def whole(plan: SubchunkPlan, source: Values) -> Values:
    """Return what of a source lies in the bounds, and not in gaps."""
    inside = source[(slice(None), *plan.bounds.slices(reach(plan).start))]
    return np.where(covered(plan), inside, 0).astype(source.dtype)


def neighbourhood(radius: Vec) -> Any:
    """Return a function that mixes all voxels within a radius; near the edges of what it is given it is wrong."""

    def function(values: Values) -> Values:
        total = np.zeros(values.shape, np.int64)
        for number, offset in enumerate(np.ndindex(*(2 * r + 1 for r in radius)), 1):
            shift = [o - r for o, r in zip(offset, radius, strict=True)]
            # The edges wrap around.
            total += (number * 7 + 3) * np.roll(values.astype(np.int64), shift, axis=(1, 2, 3))
        return (total % 251).astype(values.dtype)

    return function


def patchy(box: Box) -> Values:
    """Return other values for each box: what is blended differs from chunk to chunk."""
    seed = [abs(n) * 2 + (n < 0) for n in (*box.start, *box.stop)]
    return np.random.default_rng(seed).integers(-100, 100, (2, *box.shape)).astype(np.float32)


@budget
@given(plans(), st.sampled_from(DATA_TYPES), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_a_copy_is_the_source(plan: SubchunkPlan, data_type: str, channels: int, seed: int) -> None:
    source = noise((channels, *reach(plan).shape), data_type, seed)
    kept = source.copy()
    result = process_volume(plan, reading(source, plan, lambda values: values), VoxelKind(channels, data_type))
    assert result.dtype == source.dtype
    if data_type == "float32":
        np.testing.assert_allclose(result, whole(plan, source), rtol=2e-6)
    else:
        np.testing.assert_array_equal(result, whole(plan, source))
    # What the function returns is not written to.
    np.testing.assert_array_equal(source, kept)


@pytest.mark.parametrize("data_type", DATA_TYPES)
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "defer"])
def test_a_copy_is_the_source_at_every_mode(mode: str, data_type: str) -> None:
    bounds = Box.of_shape((32, 24, 6), (-7, 5, 1000))
    plan = make_plan(bounds, [(16, 12, 3), (12, 6, 5)], [(3, 0, 1), (1, 2, 3)], [(1, 3, 0), (6, 2, 2)], mode)
    source = noise((2, *reach(plan).shape), data_type)
    result = process_volume(plan, reading(source, plan, lambda values: values), VoxelKind(2, data_type))
    np.testing.assert_allclose(result, whole(plan, source), rtol=2e-6 if data_type == "float32" else 0)


@pytest.mark.parametrize("data_type", ["uint64", "int64"])
def test_ids_of_any_size_are_copied_where_nothing_is_weighted(data_type: str) -> None:
    plan = make_plan(
        Box.of_shape((8, 8, 4)), [(8, 8, 2), (2, 4, 2)], [(0, 0, 1), (1, 0, 0)], [(0, 0, 0), (1, 1, 1)], "max"
    )
    source = noise((1, *reach(plan).shape), data_type)
    source.flat[::3] = np.iinfo(data_type).max
    source.flat[::7] = np.iinfo(data_type).min
    result = process_volume(plan, reading(source, plan, lambda values: values), VoxelKind(1, data_type))
    np.testing.assert_array_equal(result, whole(plan, source))


def test_ids_too_large_for_sums_are_refused_at_every_level() -> None:
    for blends in ([(1, 0, 0), (0, 0, 0)], [(0, 0, 0), (1, 0, 0)]):
        sizes = [(8, 8, 4), (2, 4, 2)]
        plan = make_plan(Box.of_shape((16, 8, 4)), sizes, (0, 0, 0), blends)
        source = np.full((1, *reach(plan).shape), 2**60, np.uint64)
        with pytest.raises(FunctionError, match=f"came {2**60}: blend ids and other large numbers with mode max"):
            process_volume(plan, reading(source, plan, lambda values: values), VoxelKind(1, "uint64"))


@budget
@given(st.data(), st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)), st.integers(0, 2**32 - 1))
def test_with_enough_crop_chunks_do_not_show(data: st.DataObject, radius: Vec, seed: int) -> None:
    plan = data.draw(plans(least_crop=radius))
    source = noise((2, *reach(plan).shape), "uint8", seed)
    function = neighbourhood(radius)
    result = process_volume(plan, reading(source, plan, function), VoxelKind(2, "uint8"))
    np.testing.assert_array_equal(result, whole(plan, function(source)))


def test_crop_along_z_of_chunks_of_more_than_one_slice() -> None:
    bounds = Box.of_shape((16, 8, 8), (3, 3, 3))
    plan = make_plan(bounds, [(8, 8, 4), (6, 6, 3)], [(2, 2, 1), (1, 1, 2)], [(0, 0, 0), (1, 0, 1)], "linear")
    source = noise((1, *reach(plan).shape), "uint16")
    function = neighbourhood((1, 1, 2))
    result = process_volume(plan, reading(source, plan, function), VoxelKind(1, "uint16"))
    np.testing.assert_array_equal(result, whole(plan, function(source)))


def test_without_crop_chunks_show() -> None:
    plan = make_plan(Box.of_shape((16, 8, 4)), [(8, 8, 4), (4, 4, 2)])
    source = noise((1, *reach(plan).shape), "uint8")
    function = neighbourhood((1, 1, 1))
    result = process_volume(plan, reading(source, plan, function), VoxelKind(1, "uint8"))
    assert (result != whole(plan, function(source))).any()


@budget
@given(plans())
def test_chunks_that_differ_are_blended_as_the_formulas_say(plan: SubchunkPlan) -> None:
    result = process_volume(plan, one_by_one(lambda box: box, patchy), VoxelKind(2, "float32"))
    expected = np.where(covered(plan), plain_volume(plan, patchy, 2), 0)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


@budget
@given(plans())
def test_integers_are_rounded_once_at_the_end(plan: SubchunkPlan) -> None:
    result = process_volume(
        plan, one_by_one(lambda box: box, lambda box: patchy(box).astype(np.int32)), VoxelKind(2, "int32")
    )
    exact = np.where(covered(plan), plain_volume(plan, patchy, 2), 0)
    # Which way a sum goes that is all but a half is up to the order of sums.
    clear = abs(exact - np.floor(exact) - 0.5) > 1e-6
    np.testing.assert_array_equal(result[clear], np.rint(exact)[clear])
    np.testing.assert_allclose(result, exact, atol=0.5 + 1e-6)


def test_the_largest_negative_value_is_the_maximum() -> None:
    def negative(box: Box) -> Values:
        return patchy(box) - 1000

    plan = make_plan(Box.of_shape((16, 4, 2)), [(8, 4, 2), (2, 2, 2)], (0, 0, 0), [(2, 1, 1), (1, 1, 1)], "max")
    result = process_volume(plan, one_by_one(lambda box: box, negative), VoxelKind(2, "float32"))
    np.testing.assert_array_equal(result, plain_volume(plan, negative, 2))
    assert result.max() < -900


def test_gaps_stay_untouched_and_chunks_whole() -> None:
    for chunks in ([(4, 3, 2)], [(4, 3, 2), (2, 3, 1)]):
        plan = make_plan(Box.of_shape((14, 3, 5), (1, 2, 3)), chunks, (1, 0, 0), processing_gap=(1, 4, 1))
        assert plan.shape == (3, 1, 2)
        source = noise((1, *reach(plan).shape), "uint8") | 1
        result = process_volume(plan, reading(source, plan, lambda values: values), VoxelKind(1, "uint8"))
        assert [x for x in range(14) if not result[0, x].any()] == [4, 9]
        assert [z for z in range(5) if not result[0, :, :, z].any()] == [2]
        np.testing.assert_array_equal(result, whole(plan, source))


def test_a_chunk_that_has_shrunk_below_its_blend_has_no_neighbours() -> None:
    bounds = Box.of_shape((5, 16, 2), (1, 1, 1))
    plan = make_plan(bounds, [(8, 8, 2), (1, 4, 2)], (0, 0, 0), [(4, 4, 1), (0, 2, 1)], shrink_processing_chunk=True)
    assert plan.top.chunk == (5, 8, 2)
    source = noise((1, *reach(plan).shape), "int16")
    result = process_volume(plan, reading(source, plan, lambda values: values), VoxelKind(1, "int16"))
    np.testing.assert_array_equal(result, whole(plan, source))


@budget
@given(plans(), st.randoms(use_true_random=False))
def test_reruns_in_any_order_give_the_same_bits(plan: SubchunkPlan, random: Any) -> None:
    kind = VoxelKind(2, "float32")
    process = one_by_one(lambda box: box, patchy)
    pieces: dict[int, list[Piece]] = {}
    for top in random.sample(range(len(plan)), len(plan)):
        for piece in pieces_of(plan, process_chunk(plan, top, process, kind), kind):
            pieces.setdefault(piece.owner, []).append(pickle.loads(pickle.dumps(piece)))
    expected = process_volume(plan, process, kind)
    seen = np.zeros(plan.bounds.shape, int)
    for owner in range(len(plan.owners)):
        mine = pieces.pop(owner, [])
        random.shuffle(mine)
        for box, values in reduce_pieces(plan, owner, mine, kind):
            assert plan.owner_box(owner).contains(box)
            inside = box.slices(plan.bounds.start)
            assert values.tobytes() == expected[(slice(None), *inside)].tobytes()
            seen[inside] += 1
    assert not pieces
    np.testing.assert_array_equal(seen, covered(plan).astype(int))


def test_only_the_wanted_pieces_are_made() -> None:
    plan = make_plan(Box.of_shape((8, 4, 2)), [(4, 4, 2)], (0, 0, 0), (1, 0, 0), max_reduction_chunk_size=(2, 4, 2))
    yielded = process_chunk(plan, 0, one_by_one(lambda box: box, patchy), VoxelKind(2, "float32"))
    kind = VoxelKind(2, "float32")
    assert [piece.owner for piece in pieces_of(plan, yielded, kind)] == [0, 1, 1, 2]
    pieces = list(pieces_of(plan, yielded, kind, {1, 3}))
    assert [(piece.owner, piece.top, piece.box) for piece in pieces] == [
        (1, 0, Box((2, 0, 0), (3, 4, 2))),
        (1, 0, Box((3, 0, 0), (4, 4, 2))),
    ]


def test_voxels_that_no_other_chunk_reaches_travel_in_the_destinations_type() -> None:
    plan = make_plan(Box.of_shape((12, 8, 2)), [(6, 4, 2)], (0, 0, 0), (1, 1, 0), max_reduction_chunk_size=(5, 8, 2))
    source = noise((1, *reach(plan).shape), "uint8")
    kind = VoxelKind(1, "uint8")
    yielded = process_chunk(plan, 0, reading(source, plan, lambda values: values), kind)
    pieces = list(pieces_of(plan, yielded, kind))
    assert [(piece.owner, piece.box, piece.values.dtype.name) for piece in pieces] == [
        (0, Box((0, 0, 0), (5, 3, 2)), "uint8"),
        (0, Box((0, 3, 0), (5, 5, 2)), "float32"),
        (1, Box((5, 0, 0), (7, 5, 2)), "float32"),
    ]
    assert not np.shares_memory(pieces[0].values, source)


@budget
@given(plans((*WEIGHTED, "max")))
def test_the_pieces_of_a_chunk_are_its_voxels_once_and_apart_where_others_reach(plan: SubchunkPlan) -> None:
    reached = np.zeros((len(plan), *plan.bounds.shape), bool)
    for top in range(len(plan)):
        reached[(top, *plan.top_chunk(top).wanted.slices(plan.bounds.start))] = True
    alone = reached.sum(0) == 1
    for top in range(len(plan)):
        seen = np.zeros(plan.bounds.shape, int)
        for owner in plan.owners_of(top):
            for box in piece_boxes(plan, top, owner):
                inside = box.slices(plan.bounds.start)
                seen[inside] += 1
                if plan.top.is_weighted:
                    assert np.unique(alone[inside]).tolist() == [not is_shared(plan, plan.top_chunk(top).box, box)]
        np.testing.assert_array_equal(seen, reached[top])


def test_deferred_chunks_are_left_whole_and_unweighted() -> None:
    plan = make_plan(
        Box.of_shape((8, 4, 2)), [(4, 4, 2), (3, 2, 2)], (0, 0, 0), [(1, 0, 0), (1, 1, 1)], ["defer", "linear"]
    )
    kind = VoxelKind(2, "float32")
    yielded = process_chunk(plan, 1, one_by_one(lambda box: box, patchy), kind)
    assert yielded.box == Box((3, 0, 0), (9, 4, 2))
    alone = make_plan(yielded.box, [(3, 2, 2)], (0, 0, 0), (1, 1, 1), "linear")
    np.testing.assert_allclose(yielded.values, plain_volume(alone, patchy, 2), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="expected a mode that is reduced, came defer"):
        next(pieces_of(plan, yielded, kind))


@budget
@given(plans((*WEIGHTED, "max")))
def test_the_function_sees_each_bottom_chunk_once_in_order(plan: SubchunkPlan) -> None:
    ids: list[int] = []

    def process(chunks: Iterable[BottomChunk]) -> Iterator[Result]:
        for chunk in chunks:
            ids.append(chunk.id)
            assert chunk.box.shape == tuple(
                c + 2 * b for c, b in zip(plan.bottom.chunk, plan.bottom.blend, strict=True)
            )
            assert chunk.read_box == grown(chunk.box, plan.bottom.crop)
            yield Result(chunk.read_box, [patchy(chunk.read_box)])

    for top in range(len(plan)):
        before = len(ids)
        process_chunk(plan, top, process, VoxelKind(2, "float32"))
        assert len(ids) - before == plan.count_bottom_chunks(top)
        assert all(i // plan.strides[0] == top for i in ids[before:])
    assert ids == sorted(set(ids))
    assert len(ids) == plan.count_bottom_chunks()


def test_chunks_may_be_taken_in_batches() -> None:
    plan = make_plan(
        Box.of_shape((16, 8, 2)), [(16, 8, 2), (6, 4, 2), (2, 2, 1)], (1, 0, 0), [(0, 0, 0), (1, 0, 0), (1, 1, 0)]
    )
    one = process_volume(plan, one_by_one(lambda box: box, patchy), VoxelKind(2, "float32"))

    def process(chunks: Iterable[BottomChunk]) -> Iterator[Result]:
        batch = list(chunks)
        yield from [Result(chunk.read_box, [patchy(chunk.read_box)]) for chunk in batch]

    assert process_volume(plan, process, VoxelKind(2, "float32")).tobytes() == one.tobytes()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((1, 4, 4, 2), "uint8"), r"chunk 1 \(3,-1,0,9,5,2\): expected the shape \(2, 6, 6, 2\), 2 channels"),
        (np.zeros((6, 6, 2), "uint8"), r"came \(6, 6, 2\): return that, uncropped"),
        (np.zeros((2, 6, 6, 2), "float32"), "expected the destination's type uint8, came float32: round, clip and"),
        (np.full((2, 6, 6, 2), 256), "values that the destination's uint8 holds, came values from 256 to 256: clip"),
        (np.full((2, 6, 6, 2), -1, "int8"), "came values from -1 to -1"),
    ],
)
def test_results_that_do_not_fit_are_refused(result: Values, message: str) -> None:
    plan = make_plan(Box.of_shape((12, 4, 2)), [(4, 4, 2)], (1, 1, 0))

    def process(chunks: Iterable[BottomChunk]) -> Iterator[Result]:
        for chunk in chunks:
            yield Result(chunk.read_box, [result])

    with pytest.raises(FunctionError, match=message):
        process_chunk(plan, 1, process, VoxelKind(2, "uint8"))


@pytest.mark.parametrize(
    ("result", "data_type", "expected"),
    [
        (np.array([0, 255]), "uint8", [0, 255]),
        (np.array([True, False]), "uint8", [1, 0]),
        (np.array([1, 2], "uint8"), "float32", [1, 2]),
        (np.array([0.1, 2], "float64"), "float32", [np.float32(0.1), 2]),
        (np.array([0, 2**63 - 1]), "uint64", [0, 2**63 - 1]),
    ],
)
def test_results_of_other_types_that_fit_are_taken(result: Values, data_type: str, expected: list[float]) -> None:
    plan = make_plan(Box.of_shape((2, 1, 1)), [(2, 1, 1)])
    process = one_by_one(lambda box: box, lambda _: result.reshape(1, 2, 1, 1))
    volume = process_volume(plan, process, VoxelKind(1, data_type))
    assert (volume.dtype, volume.ravel().tolist()) == (np.dtype(data_type), expected)


@pytest.mark.parametrize(("count", "message"), [(1, "came none for chunk 1"), (3, "for each chunk, came more")])
def test_as_many_results_as_chunks(count: int, message: str) -> None:
    plan = make_plan(Box.of_shape((4, 1, 1)), [(4, 1, 1), (2, 1, 1)])
    results = [Result(Box.of_shape((2, 1, 1), (2 * i, 0, 0)), [np.zeros((1, 2, 1, 1), "uint8")]) for i in range(3)]
    with pytest.raises(ConservationError, match=message):
        process_chunk(plan, 0, lambda _: results[:count], VoxelKind(1, "uint8"))


def test_pieces_that_are_lost_or_made_twice_are_missed() -> None:
    plan = make_plan(Box.of_shape((8, 4, 2)), [(4, 4, 2)], (0, 0, 0), (1, 0, 0))
    kind = VoxelKind(2, "float32")
    made = [process_chunk(plan, top, one_by_one(lambda box: box, patchy), kind) for top in range(2)]
    pieces = [piece for each in made for piece in pieces_of(plan, each, kind)]
    assert [(piece.top, piece.owner) for piece in pieces] == [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1)]
    message = r"output box 0,0,0,4,4,2: expected 3 pieces of the chunks \[0, 1\], came"
    for wrong in (pieces[:2], [*pieces[:2], pieces[3], pieces[3]], pieces[:3]):
        with pytest.raises(ConservationError, match=message):
            reduce_pieces(plan, 0, wrong, kind)


@budget
@given(plans())
def test_several_outputs_at_once_are_as_each_alone(plan: SubchunkPlan) -> None:
    kinds = [VoxelKind(2, "float32"), VoxelKind(1, "int16")]

    def ints(box: Box) -> Values:
        return (100 * patchy(box)[:1]).astype("int16")

    def both(chunks: Iterable[BottomChunk]) -> Iterator[Result]:
        for chunk in chunks:
            yield Result(chunk.read_box, [patchy(chunk.read_box), ints(chunk.read_box)])

    alone = [one_by_one(lambda box: box, function) for function in (patchy, ints)]
    for top, (first, second) in enumerate(process_chunks(plan, range(len(plan)), both, kinds)):
        for found, process, kind in zip((first, second), alone, kinds, strict=True):
            expected = process_chunk(plan, top, process, kind)
            assert (found.top, found.box) == (top, expected.box)
            assert found.values.tobytes() == expected.values.tobytes()


def test_a_function_may_crop_itself() -> None:
    plan = make_plan(Box.of_shape((12, 4, 2)), [(6, 4, 2), (5, 6, 2)], [(2, 1, 0), (1, 2, 1)], (0, 0, 0))
    kind = VoxelKind(2, "float32")

    def cropped(chunks: Iterable[BottomChunk]) -> Iterator[Result]:
        for chunk in chunks:
            yield Result(chunk.box, [patchy(chunk.read_box)[:, 1:-1, 2:-2, 1:-1]])

    expected = process_volume(plan, one_by_one(lambda box: box, patchy), kind)
    np.testing.assert_array_equal(process_volume(plan, cropped, kind), expected)
    with pytest.raises(FunctionError, match=r"with twice its blend_pad, came \(1, 2, 1, 1\): return that$"):
        process_chunk(plan, 0, lambda chunks: (Result(c.box, [np.zeros((1, 2, 1, 1))]) for c in chunks), kind)


def test_results_that_nobody_looks_at() -> None:
    plan = make_plan(Box.of_shape((12, 4, 2)), [(6, 4, 2), (3, 4, 2)])
    seen: list[int] = []

    def process(chunks: Iterable[BottomChunk]) -> Iterator[Result]:
        for chunk in chunks:
            seen.append(chunk.id)
            yield Result(chunk.box, [])

    assert list(process_chunks(plan, [0, 1], process, [])) == [[], []]
    assert seen == [0, 1, 2, 3]


def test_integers_too_large_for_sums_stay_where_nothing_is_blended() -> None:
    plan = make_plan(
        Box.of_shape((32, 4, 4)), [(16, 4, 4)], (0, 0, 0), (2, 0, 0), "linear", max_reduction_chunk_size=(32, 4, 4)
    )
    source = np.ones((1, *reach(plan).shape), np.uint64)
    source[0, 5], source[0, 6] = 2**60 + 1, 2**53 + 1
    kind = VoxelKind(1, "uint64")
    np.testing.assert_array_equal(process_volume(plan, reading(source, plan, lambda v: v), kind), whole(plan, source))
    source[0, 17] = 2**60 + 1
    with pytest.raises(FunctionError, match="expected values of uint64 within"):
        process_volume(plan, reading(source, plan, lambda v: v), kind)
