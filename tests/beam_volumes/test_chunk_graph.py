"""The embedded chunk graph against plain Python: dictionaries of labels, walked one id at a time."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.geometry import Box, Vec
from beam_volumes.testing.chunk_graph import (
    DEMO_EDITS,
    DEMO_TIMES,
    INGESTED,
    ChunkGraph,
    IdLayout,
    cut_into_supervoxels,
    make_demo_graph,
)
from beam_volumes.testing.node_ids import layers

CHUNK = (16, 16, 8)
Labels = npt.NDArray[np.uint32]


def blobs(shape: Vec = (70, 50, 40), seed: int = 0, count: int = 12) -> Labels:
    """The nearest of `count` random points, with holes of background."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, shape, (count, 3))
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    labels = np.argmin(((grid[..., None, :] - points) ** 2).sum(-1), axis=-1).astype(np.uint32) * 7 + 3
    labels[rng.random(shape) < 0.05] = 0
    return np.asfortranarray(labels)


LABELS = blobs()
SUPERVOXELS = cut_into_supervoxels(LABELS, CHUNK, block=(8, 8, 8))
LAYOUT = IdLayout.of_box(Box.of_shape((70, 50, 40)), CHUNK)


def graph(**options: int) -> ChunkGraph:
    return ChunkGraph.of_labels(LABELS, SUPERVOXELS, LAYOUT, **options)


def partition(ids: npt.ArrayLike, groups: npt.ArrayLike) -> set[frozenset[int]]:
    """The sets of `ids` that share a group."""
    found: dict[int, set[int]] = {}
    for key, member in zip(np.ravel(groups).tolist(), np.ravel(ids).tolist(), strict=True):
        found.setdefault(key, set()).add(member)
    return {frozenset(members) for members in found.values()}


@pytest.mark.parametrize(
    ("chunks", "n_layers", "bits"),
    [
        ((1, 1, 1), 3, {1: 8, 2: 1, 3: 1}),
        ((2, 1, 1), 3, {1: 8, 2: 1, 3: 1}),
        ((3, 4, 1), 4, {1: 8, 2: 2, 3: 1, 4: 1}),
        ((5, 4, 1), 5, {1: 8, 2: 3, 3: 2, 4: 1, 5: 1}),
        ((300, 1, 1), 11, {1: 9, 2: 9, 3: 8, 11: 1}),
    ],
)
def test_layers_halve_the_grid_until_one_chunk_is_left(chunks: Vec, n_layers: int, bits: dict[int, int]) -> None:
    layout = IdLayout(CHUNK, chunks)
    assert layout.n_layers == n_layers
    assert {layer: layout.chunk_bits(layer) for layer in bits} == bits
    assert layout.graph_info()["spatial_bit_masks"]["1"] == bits[1]


def test_an_id_is_layer_then_chunk_then_segment() -> None:
    layout = IdLayout(CHUNK, (5, 4, 3))
    (chunk,) = layout.chunk_ids(2, np.array([[4, 3, 2]]))
    assert int(chunk) == (2 << 56) | (0b100_011_010 << 47)
    assert layout.positions(2, np.array([chunk | np.uint64(77)])).tolist() == [[4, 3, 2]]


def test_a_box_before_the_first_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match=r"starts before the first chunk, at \(5, 0, 0\)"):
        IdLayout.of_box(Box((4, 0, 0), (9, 9, 9)), CHUNK, (5, 0, 0))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 23)] * 3),
    offset=st.tuples(*[st.integers(0, 20)] * 3),
    block=st.tuples(*[st.integers(1, 12)] * 3),
    seed=st.integers(0, 9),
)
def test_supervoxels_are_what_a_label_has_in_one_block_of_one_chunk(
    shape: Vec, offset: Vec, block: Vec, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint16)
    chunk_size = (8, 7, 9)
    supervoxels = cut_into_supervoxels(labels, chunk_size, offset, block)
    layout = IdLayout.of_box(Box.of_shape(shape, offset), chunk_size)
    keys: dict[int, tuple[int, ...]] = {}
    for index, label in np.ndenumerate(labels):
        supervoxel = int(supervoxels[index])
        assert (supervoxel == 0) == (label == 0)
        if label:
            place = [i + o for i, o in zip(index, offset, strict=True)]
            chunk = [p // c for p, c in zip(place, chunk_size, strict=True)]
            blocks = [p % c // b for p, c, b in zip(place, chunk_size, block, strict=True)]
            key = (int(label), *chunk, *blocks)
            assert keys.setdefault(supervoxel, key) == key
            assert layout.positions(1, supervoxels[index][None]).tolist() == [chunk]
    assert len(set(keys.values())) == len(keys)
    assert set(layers(np.array(list(keys), np.uint64)).tolist()) <= {1}


def test_at_ingest_roots_are_the_labels() -> None:
    made = graph()
    roots = made.roots(SUPERVOXELS)
    assert np.array_equal(roots == 0, LABELS == 0)
    assert partition(SUPERVOXELS, roots) == partition(SUPERVOXELS, LABELS)
    assert set(layers(roots[roots != 0]).tolist()) == {made.layout.n_layers} == {5}


def test_layer_2_is_the_label_in_a_chunk() -> None:
    made = graph()
    ids = made.supervoxels
    l2 = made.roots(ids, stop_layer=2)
    assert set(layers(l2).tolist()) == {2}
    assert np.array_equal(made.layout.positions(2, l2), made.layout.positions(1, ids))
    labels = dict(zip(SUPERVOXELS.ravel().tolist(), LABELS.ravel().tolist(), strict=True))
    chunks = [tuple(p) for p in made.layout.positions(1, ids).tolist()]
    expected = {(labels[i], c) for i, c in zip(ids.tolist(), chunks, strict=True)}
    assert len(np.unique(l2)) == len(expected)
    assert np.array_equal(made.roots(l2), made.roots(ids))


def test_layers_between_have_no_node_with_one_child() -> None:
    made = graph()
    ids = made.supervoxels
    layer_3 = made.roots(ids, stop_layer=3)
    assert set(layers(layer_3).tolist()) == {3, 4, 5}
    for node in np.unique(layer_3[layers(layer_3) == 3]):
        below = made.leaves(int(node), stop_layer=2)
        assert len(below) > 1
        halves = made.layout.positions(2, below) // 2
        assert (halves == made.layout.positions(3, node[None])).all()
    assert np.array_equal(made.roots(layer_3), made.roots(ids))


def test_ids_nobody_knows_are_zero_among_known_ones_only() -> None:
    made = graph()
    known, unknown = int(made.supervoxels[0]), int(made.supervoxels[0]) + 100_000
    root = int(made.roots([known])[0])
    assert made.roots([known, unknown, 0, root]).tolist() == [root, 0, 0, root]
    assert made.roots([unknown, 0]).tolist() == [unknown, 0]
    assert made.roots(np.zeros((0,), np.uint64)).tolist() == []


def test_before_ingest_ids_come_back_and_inside_it_without_roots() -> None:
    made = graph(ingest_seconds=300)
    ids = made.supervoxels
    assert np.array_equal(made.roots(ids, INGESTED - 301), ids)
    assert np.array_equal(made.roots(ids, INGESTED - 300), made.roots(ids, stop_layer=2))
    assert np.array_equal(graph().roots(ids, INGESTED - 1), ids)
    between = made.roots(ids, INGESTED - 1)
    assert set(layers(between).tolist()) == {0, 4}
    assert np.array_equal(made.roots(ids, INGESTED), made.roots(ids))


def test_a_merge_joins_two_objects_from_its_time_on() -> None:
    made = graph()
    ids = made.supervoxels
    before, l2_before = made.roots(ids), made.roots(ids, stop_layer=2)
    a = ids[0]
    b = ids[before != before[0]][0]
    time = INGESTED + 50
    root = made.merge(time, int(a), int(b))
    after, l2_after = made.roots(ids), made.roots(ids, stop_layer=2)
    merged = np.isin(before, [before[0], before[ids == b][0]])
    assert (after[merged] == root).all()
    assert root not in before
    assert np.array_equal(after[~merged], before[~merged])
    # Only the two nodes that hold the ends are new on layer 2; they are one where they share a chunk.
    ends = np.isin(l2_before, [l2_before[0], l2_before[ids == b][0]])
    assert np.array_equal(l2_after != l2_before, ends)
    assert np.array_equal(made.roots(ids, time - 1), before)
    assert np.array_equal(made.roots(ids, time - 0.5), before)
    assert np.array_equal(made.roots(ids, time), after)
    assert np.array_equal(made.roots(ids, INGESTED, 2), l2_before)
    # A node that was replaced leads to a root that has expired.
    assert made.roots(l2_before[:1]).tolist() == before[:1].tolist()


def test_a_split_parts_some_supervoxels_from_the_rest() -> None:
    made = graph()
    before = made.roots(made.supervoxels)
    l2_before = made.roots(made.supervoxels, stop_layer=2)
    mine = made.leaves(int(before[0]))
    side_b = mine[1::3]
    root_a, root_b = made.split(INGESTED + 9, mine[:1].tolist(), side_b.tolist())
    assert made.leaves(root_b).tolist() == side_b.tolist()
    assert made.leaves(root_a).tolist() == np.setdiff1d(mine, side_b).tolist()
    assert made.leaves(int(before[0])).tolist() == mine.tolist()
    after, l2_after = made.roots(made.supervoxels), made.roots(made.supervoxels, stop_layer=2)
    assert partition(made.supervoxels, l2_after) == partition(
        made.supervoxels, [f"{l2} {root}" for l2, root in zip(l2_before, after, strict=True)]
    )
    kept = l2_after == l2_before
    assert kept.any()
    assert np.array_equal(made.roots(made.supervoxels, INGESTED + 8), before)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_any_history_agrees_with_dictionaries_at_every_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = blobs((33, 30, 20), seed % 3, 5)
    supervoxels = cut_into_supervoxels(labels, (8, 8, 8), block=(4, 4, 8))
    made = ChunkGraph.of_labels(labels, supervoxels, IdLayout.of_box(Box.of_shape((33, 30, 20)), (8, 8, 8)))
    ids = made.supervoxels
    owners = dict(zip(supervoxels.ravel().tolist(), labels.ravel().tolist(), strict=True))
    owner = np.array([owners[i] for i in ids.tolist()])
    history = [(INGESTED, owner)]
    for step in range(1, 7):
        owner = owner.copy()
        time = INGESTED + step * 10
        a, b = rng.choice(len(ids), 2)
        if owner[a] != owner[b]:
            made.merge(time, int(ids[a]), int(ids[b]))
            owner[owner == owner[b]] = owner[a]
        else:
            gone = (owner == owner[a]) & (rng.random(len(ids)) < 0.4)
            gone[[a, b]] = [False, True]
            if a == b:
                continue
            made.split(time, [int(ids[a])], ids[gone].tolist())
            owner[gone] = 1000 + step
        history.append((time, owner))
    for n, (time, owner) in enumerate(history):
        end = history[n + 1][0] - 1 if n + 1 < len(history) else time + 10**9
        roots = made.roots(ids, time)
        assert np.array_equal(roots, made.roots(ids, end))
        assert partition(ids, roots) == partition(ids, owner)
        assert made.is_latest_roots(np.unique(roots), time).all()
        assert (made.root_timestamps(np.unique(roots)) <= time).all()
        for layer in (2, 3, 4):
            nodes = made.roots(ids, time, layer)
            assert (layers(nodes) >= layer).all()
            assert np.array_equal(made.roots(nodes, time), roots)
            assert partition(ids, nodes) == partition(ids, [f"{r} {n}" for r, n in zip(roots, nodes, strict=True)])
        for root in np.unique(roots):
            assert made.leaves(int(root)).tolist() == ids[roots == root].tolist()


def test_which_roots_are_the_latest_changes_with_time() -> None:
    made = graph()
    ids = made.supervoxels
    old = made.roots(ids)
    b = ids[old != old[0]][0]
    new = made.merge(INGESTED + 10, int(ids[0]), int(b))
    replaced = np.unique(old[np.isin(ids, [ids[0], b])])
    asked = np.array([new, *replaced.tolist(), int(ids[0]), 12345], np.uint64)
    assert made.is_latest_roots(asked, INGESTED + 9).tolist() == [False, True, True, False, False]
    assert made.is_latest_roots(asked, INGESTED + 10).tolist() == [True, False, False, False, False]
    assert made.root_timestamps([new, int(replaced[0])]).tolist() == [INGESTED + 10, INGESTED]
    assert [r.tolist() for r in made.delta_roots(INGESTED, INGESTED + 10)] == [replaced.tolist(), [new]]
    assert [r.tolist() for r in made.delta_roots(INGESTED + 10, INGESTED + 11)] == [[], []]
    with pytest.raises(KeyError, match="no node 12345"):
        made.root_timestamps([12345])


def test_leaves_in_bounds_are_those_of_the_chunks_that_bounds_meet() -> None:
    layout = IdLayout.of_box(Box.of_shape((70, 50, 40), (5, 6, 7)), CHUNK, (5, 6, 7))
    made = ChunkGraph.of_labels(LABELS, SUPERVOXELS, layout)
    root = int(made.roots(SUPERVOXELS[LABELS != 0])[0])
    leaves = made.leaves(root)
    box = Box((5 + 15, 6, 7), (5 + 17, 6 + 16, 7 + 1))
    x, y, z = layout.positions(1, leaves).T
    expected = leaves[np.isin(x, [0, 1]) & (y == 0) & (z == 0)]
    assert len(expected) > 0
    assert made.leaves(root, box).tolist() == expected.tolist()
    assert made.leaves(root, box, 2).tolist() == np.unique(made.roots(expected, stop_layer=2)).tolist()


def test_chunk_children_list_replaced_nodes_too() -> None:
    made = graph()
    ids = made.supervoxels
    l2 = made.roots(ids, stop_layer=2)
    (chunk,) = LAYOUT.chunk_ids(2, LAYOUT.positions(2, l2[:1]))
    here = LAYOUT.chunk_ids(2, LAYOUT.positions(1, ids)) == chunk
    pairs = made.l2_chunk_children(int(chunk))
    assert sorted(map(tuple, pairs.tolist())) == sorted(zip(l2[here].tolist(), ids[here].tolist(), strict=True))
    roots = made.roots(ids)
    made.merge(INGESTED + 5, int(ids[0]), int(ids[roots != roots[0]][0]))
    again = made.l2_chunk_children(int(chunk))
    assert {tuple(p) for p in pairs.tolist()} < {tuple(p) for p in again.tolist()}
    assert made.l2_chunk_children(int(chunk), INGESTED + 4).tolist() == pairs.tolist()
    assert made.l2_chunk_children(int(chunk), INGESTED - 1).tolist() == []


def test_edits_that_make_no_sense_are_refused() -> None:
    made = graph()
    ids = made.supervoxels
    roots = made.roots(ids)
    a, c = ids[roots == roots[0]][:2].tolist()
    b = int(ids[roots != roots[0]][0])
    with pytest.raises(ValueError, match="are both of root"):
        made.merge(INGESTED + 1, a, c)
    with pytest.raises(ValueError, match="the last edit was at 1700000000: expected a later time"):
        made.merge(INGESTED, a, b)
    with pytest.raises(ValueError, match="77 is no supervoxel of this graph"):
        made.merge(INGESTED + 1, a, 77)
    with pytest.raises(ValueError, match="got 1 and 1 supervoxels of 2 roots"):
        made.split(INGESTED + 1, [a], [b])
    with pytest.raises(ValueError, match="got 2 and 1 supervoxels of 1 roots"):
        made.split(INGESTED + 1, [a, c], [c])
    assert np.array_equal(made.roots(ids), roots)


def test_the_demo_graph_differs_at_each_of_its_times_and_is_always_the_same() -> None:
    made, again = make_demo_graph(LABELS, CHUNK), make_demo_graph(LABELS, CHUNK)
    roots = [made.roots(made.supervoxels, time) for time in DEMO_TIMES]
    assert np.array_equal(roots[0], made.roots(made.supervoxels, INGESTED))
    assert [len(partition(made.supervoxels, r)) for r in roots] == [12, 12, 14]
    assert len({frozenset(partition(made.supervoxels, r)) for r in roots}) == 3
    assert [np.array_equal(r, again.roots(made.supervoxels, t)) for r, t in zip(roots, DEMO_TIMES, strict=True)] == [
        True
    ] * 3
    assert made.edit_times[0] == DEMO_EDITS[0]
    assert DEMO_EDITS[1] in made.edit_times
    later = make_demo_graph(LABELS, CHUNK, ingested=INGESTED + 7)
    assert later.edit_times == [time + 7 for time in made.edit_times]


@pytest.mark.parametrize("labels", [np.zeros((9, 9, 9), np.uint8), np.ones((9, 9, 9), np.uint8)])
def test_a_volume_of_one_object_or_none_makes_a_graph(labels: npt.NDArray[np.uint8]) -> None:
    made = make_demo_graph(labels, (16, 16, 16))
    assert made.edit_times == []
    assert len(np.unique(made.roots(made.supervoxels))) == int(labels.max())
