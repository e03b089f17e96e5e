"""A chunk graph with a history of edits, which answers as PyChunkGraph does: right ones, and its traps.

    supervoxels = cut_into_supervoxels(labels, chunk_size)
    graph = make_demo_graph(labels, chunk_size, supervoxels=supervoxels)
    segmentation = graph.roots(supervoxels, DEMO_TIMES[1])

Source of the behaviour: PyChunkGraph, `graph/chunkedgraph.py` (`get_roots`, `get_subgraph_nodes`, `is_latest_roots`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import Any

import fastremap
import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Box, Vec
from beam_volumes.testing.node_ids import IdLayout, Ids, cut_into_supervoxels, layers
from beam_volumes.testing.parent_table import LAST_TIME, ParentTable, Seconds

__all__ = ["DEMO_EDITS", "DEMO_TIMES", "INGESTED", "ChunkGraph", "IdLayout", "cut_into_supervoxels", "make_demo_graph"]

INGESTED = 1_700_000_000
DEMO_EDITS = (1_705_000_000, 1_710_000_000)
"""When the two rounds of edits of `make_demo_graph` begin; each takes less than a day."""
DEMO_TIMES = (1_702_000_000, 1_707_000_000, 1_712_000_000)
"""Times before, between and after them."""

Flags = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.integer[Any]]
Ranks = npt.NDArray[np.int64]


class ChunkGraph:
    """Nodes over supervoxels: one of layer 2 per chunk, above that one per object and chunk, up to its root.

    A node that would have one child only is not made, except on layer 2 and the root layer. Times are Unix seconds;
    `None` is after the last edit. Look-ups may run in many threads, also while an edit is made.

    Args:
        layout: how ids are written.
        supervoxels: uint64, unique, of layer 1.
        objects: the object of each supervoxel at ingest, any integers.
        ingested: when ingest was done: the oldest time with whole answers.
        ingest_seconds: how long it took: layer after layer, so that a time inside it finds nodes without roots.

    """

    def __init__(
        self,
        layout: IdLayout,
        supervoxels: Ids,
        objects: Objects,
        ingested: int = INGESTED,
        ingest_seconds: int = 0,
    ) -> None:
        self.layout = layout
        self.oldest_timestamp = ingested
        self.supervoxels = supervoxels
        self.edit_times: list[int] = []
        self._lock = threading.Lock()
        self._segments: dict[int, int] = {}
        self._table = ParentTable.empty()
        chunks = layout.chunk_ids(2, layout.positions(1, self.supervoxels))
        nodes, first, member = self._grouped(chunks, objects, 2)
        steps = layout.n_layers - 2
        times = [ingested - ingest_seconds * (steps - step) // steps for step in range(steps + 1)]
        table = self._table.with_rows(self.supervoxels, nodes[member], times[0])
        self._table = self._with_ancestors(table, nodes, objects[first], times).prepare()

    @classmethod
    def of_labels(
        cls, labels: npt.NDArray[np.unsignedinteger[Any]], supervoxels: Ids, layout: IdLayout, **options: int
    ) -> ChunkGraph:
        """Return the graph whose objects are `labels`; `supervoxels` is of the same shape, cut from them."""
        found = fastremap.component_map(supervoxels, labels)
        found.pop(0, None)
        ids = np.fromiter(found.keys(), np.uint64, len(found))
        objects = np.fromiter(found.values(), np.uint64, len(found))
        order = np.argsort(ids)
        return cls(layout, ids[order], objects[order], **options)

    def roots(self, ids: npt.ArrayLike, timestamp: float | None = None, stop_layer: int | None = None) -> Ids:
        """Return the ancestor of each id at or above `stop_layer` (default: the root) at `timestamp`.

        Args:
            ids: uint64, any shape; 0 stays 0, and ids of that layer or higher stay as they are.
            timestamp: when the graph is looked at.
            stop_layer: 2 always answers layer 2; above it a node may be missing, and a higher one answers.

        Returns:
            uint64 of the same shape. 0 for an id that has no parent while others asked with it have one. Where none
            of them has one (before ingest, or all unknown) ids come back as far as they got: unchanged.

        """
        asked = np.asarray(ids, np.uint64)
        unique, inverse = np.unique(asked, return_inverse=True)
        return self._climb(unique, _whole(timestamp), stop_layer or self.layout.n_layers)[inverse].reshape(asked.shape)

    def _climb(self, ids: Ids, time: int, stop_layer: int) -> Ids:
        table, found = self._table, ids.copy()
        while True:
            below = np.flatnonzero((found != 0) & (layers(found) < stop_layer))
            parents = table.parents_at(found[below], time)
            if not parents.any():
                return found
            found[below] = parents

    def is_latest_roots(self, ids: npt.ArrayLike, timestamp: float | None = None) -> Flags:
        """Return, for each id, whether it is a root at `timestamp`: made by then, and not replaced."""
        asked = np.asarray(ids, np.uint64)
        roots = (layers(asked) == self.layout.n_layers) & (self._table.created(asked) <= _whole(timestamp))
        # A replaced root's own leaves lead to the roots that replaced it.
        leaf = asked[roots]
        while (above := layers(leaf) > 1).any():
            leaf[above] = self._table.first_children(leaf[above])
        latest = np.zeros(asked.shape, np.bool_)
        latest[roots] = self.roots(leaf, timestamp) == asked[roots]
        return latest

    def root_timestamps(self, ids: npt.ArrayLike) -> Seconds:
        """Return when each node was made.

        Raises:
            KeyError: an id is no node of the graph, or a supervoxel.

        """
        asked = np.asarray(ids, np.uint64)
        if len(unknown := asked[self._table.child_counts(asked) == 0]):
            raise KeyError(f"no node {unknown[0]}")
        return self._table.created(asked)

    def delta_roots(self, past: float, future: float | None = None) -> tuple[Ids, Ids]:
        """Return the roots at `past` that are replaced by `future`, and those at `future` that were not there then."""
        nodes = self._table.parents
        nodes = nodes[layers(nodes) == self.layout.n_layers]
        then, now = self.is_latest_roots(nodes, past), self.is_latest_roots(nodes, future)
        return nodes[then & ~now], nodes[now & ~then]

    def leaves(self, node: int, bounds: Box | None = None, stop_layer: int = 1) -> Ids:
        """Return the nodes of `stop_layer` below a node, of any time, sorted.

        With `bounds`, in voxels, only those in chunks that it meets. Above layer 2, nodes that were never made, because
        they would have had one child, are missing from the answer; so it is in PyChunkGraph.
        """
        found = self._below(np.array([node], np.uint64), stop_layer)
        if bounds is not None:
            scale = 1 << max(stop_layer - 2, 0)
            size = np.array(self.layout.chunk_size) * scale
            start = self.layout.positions(stop_layer, found) * size + np.array(self.layout.origin)
            meets = (start < np.array(bounds.stop)) & (start + size > np.array(bounds.start))
            found = found[meets.all(axis=1)]
        return np.sort(found)

    def _below(self, nodes: Ids, stop_layer: int) -> Ids:
        done: list[Ids] = []
        while len(nodes):
            level = layers(nodes)
            done.append(nodes[level == stop_layer])
            nodes = self._table.children(nodes[level > stop_layer])
        return np.unique(np.concatenate(done)) if done else nodes

    def l2_chunk_children(self, chunk: int, timestamp: float | None = None) -> Ids:
        """Return pairs (layer 2 id, supervoxel), shape (n, 2), of a chunk id of layer 2.

        As PyChunkGraph does, it lists every node made by then: also those that an edit has replaced since.
        """
        nodes = self._table.parents
        mask = ~np.uint64((1 << self.layout.segment_bits(2)) - 1)
        mine = nodes[(nodes & mask == np.uint64(chunk)) & (self._table.created(nodes) <= _whole(timestamp))]
        owners = np.repeat(mine, self._table.child_counts(mine))
        return np.stack([owners, self._table.children(mine)], axis=1)

    def merge(self, timestamp: int, a: int, b: int) -> int:
        """Join the objects of two supervoxels from `timestamp` on; returns the new root.

        Raises:
            ValueError: they are of one object already, unknown, or the time is not after the last edit.

        """
        ends = np.array([a, b], np.uint64)
        with self._lock:
            roots = self._roots_to_edit(ends, timestamp)
            if roots[0] == roots[1]:
                raise ValueError(f"supervoxels {a} and {b} are both of root {roots[0]}")
            touched = np.unique(self.roots(ends, stop_layer=2))
            members = self._table.children(touched)
            # The two ends come to share a node of layer 2 only where they share a chunk.
            chunks = self.layout.chunk_ids(2, self.layout.positions(1, members))
            nodes, table = self._remade(chunks, members, np.zeros(len(members), np.int64), timestamp)
            nodes = np.concatenate([np.setdiff1d(self._below(roots, 2), touched), nodes])
            self._finish(table, nodes, np.zeros(len(nodes), np.int64), timestamp)
        return int(self.roots(ends[:1])[0])

    def split(self, timestamp: int, ids_a: Iterable[int], ids_b: Iterable[int]) -> tuple[int, int]:
        """Part `ids_b` from the object that they and `ids_a` share; returns the new roots of a and b.

        Supervoxels of the object that are in neither stay with `ids_a`.

        Raises:
            ValueError: the sets meet, one is empty, they are not of one object, or the time is not after the last edit.

        """
        side_a, side_b = (np.unique(np.array([int(n) for n in ids], np.uint64)) for ids in (ids_a, ids_b))
        with self._lock:
            roots = np.unique(self._roots_to_edit(np.concatenate([side_a, side_b]), timestamp))
            if not len(side_a) or not len(side_b) or len(roots) != 1 or len(np.intersect1d(side_a, side_b)):
                raise ValueError(
                    f"expected two sets of supervoxels of one root, none in both; got {len(side_a)} and "
                    f"{len(side_b)} supervoxels of {len(roots)} roots"
                )
            touched = np.unique(self.roots(side_b, stop_layer=2))
            members, owners = self._table.children(touched), np.repeat(touched, self._table.child_counts(touched))
            moved = np.isin(members, side_b)
            # A node that goes over whole keeps its id; one that is cut gives two new ones.
            cut = np.isin(owners, owners[~moved])
            chunks = self.layout.chunk_ids(2, self.layout.positions(1, members[cut]))
            # Two cut nodes of one chunk stay apart: the object of a member is its node and its side.
            _, owner = np.unique(owners[cut], return_inverse=True)
            nodes, table = self._remade(chunks, members[cut], owner * 2 + moved[cut], timestamp)
            nodes = np.concatenate([np.setdiff1d(self._below(roots, 2), owners[cut]), nodes])
            self._finish(table, nodes, np.isin(table.first_children(nodes), side_b).astype(np.int64), timestamp)
        a, b = self.roots(np.array([side_a[0], side_b[0]]))
        return int(a), int(b)

    def _roots_to_edit(self, supervoxels: Ids, timestamp: int) -> Ids:
        """Return the roots of now; raises ValueError for an id that is no supervoxel here, or a time that is past."""
        last = self.edit_times[-1] if self.edit_times else self.oldest_timestamp
        if timestamp <= last:
            raise ValueError(f"the last edit was at {last}: expected a later time, got {timestamp}")
        if len(unknown := np.setdiff1d(supervoxels, self.supervoxels)):
            raise ValueError(f"{unknown[0]} is no supervoxel of this graph")
        return self.roots(supervoxels)

    def _remade(self, chunks: Ids, members: Ids, objects: Objects, timestamp: int) -> tuple[Ids, ParentTable]:
        """Make new nodes of layer 2 over `members`, one per chunk and object; returns them, and the table with them."""
        nodes, _, member = self._grouped(chunks, objects, 2)
        return nodes, self._table.with_rows(members, nodes[member], timestamp)

    def _finish(self, table: ParentTable, nodes: Ids, objects: Objects, timestamp: int) -> None:
        """Put ancestors over all nodes of layer 2 of the edited objects, and take the table for the graph's own."""
        self._table = self._with_ancestors(table, nodes, objects, [timestamp] * (self.layout.n_layers - 1)).prepare()
        self.edit_times.append(timestamp)

    def _with_ancestors(self, table: ParentTable, nodes: Ids, objects: Objects, times: list[int]) -> ParentTable:
        """Add a node per chunk and object on each layer above 2, over `nodes`; `times` has one time a layer, from 2 on.

        A node of the present graph that already has just these children is taken instead of a new one.
        """
        present, top = self._table, self.layout.n_layers
        positions = self.layout.positions(2, nodes)
        for layer in range(3, top + 1):
            positions //= 2
            chunks = self.layout.chunk_ids(layer, positions)
            first, group, counts = _groups(chunks, objects)
            parents = present.parents_at(nodes, LAST_TIME)
            old = parents[first]
            agreeing = np.bincount(group, weights=parents == old[group])
            kept = (layers(old) == layer) & (agreeing == counts) & (present.child_counts(old) == counts)
            made = ~kept & ((counts > 1) | (layer == top))
            ancestors = np.where(kept, old, nodes[first])
            ancestors[made] = self._new_ids(layer, chunks[first[made]])
            below = made[group]
            table = table.with_rows(nodes[below], ancestors[group[below]], times[layer - 2])
            nodes, objects, positions = ancestors, objects[first], positions[first]
        return table

    def _grouped(self, chunks: Ids, objects: Objects, layer: int) -> tuple[Ids, Ranks, Ranks]:
        """Make a node per (chunk, object); returns them, a member of each, and the group of each member."""
        first, group, _ = _groups(chunks, objects)
        return self._new_ids(layer, chunks[first]), first, group

    def _new_ids(self, layer: int, chunks: Ids) -> Ids:
        """Return a new id in each of these chunks (ids of `layer`, sorted); segments count from 1 in each chunk."""
        unique, start, counts = np.unique(chunks, return_index=True, return_counts=True)
        used = np.array([self._segments.get(int(chunk), 0) for chunk in unique], np.int64)
        self._segments.update(zip(unique.tolist(), (used + counts).tolist(), strict=True))
        segments = np.arange(len(chunks)) - np.repeat(start - used, counts) + 1
        if len(segments) and int(segments.max()) >> self.layout.segment_bits(layer):
            raise ValueError(f"a chunk of layer {layer} has room for 2**{self.layout.segment_bits(layer)} segments")
        return chunks | segments.astype(np.uint64)


def _groups(chunks: Ids, objects: Objects) -> tuple[Ranks, Ranks, Ranks]:
    """Group by (chunk, object), in that order; returns a member of each group, the group of each member, and sizes."""
    _, chunk = np.unique(chunks, return_inverse=True)
    values, code = np.unique(objects, return_inverse=True)
    _, first, group, counts = np.unique(
        chunk * len(values) + code, return_index=True, return_inverse=True, return_counts=True
    )
    return first, group, counts


def _whole(timestamp: float | None) -> int:
    """Return a time as the table takes it; `None` is after all edits."""
    return LAST_TIME if timestamp is None else math.floor(min(timestamp, LAST_TIME))


def make_demo_graph(
    labels: npt.NDArray[np.unsignedinteger[Any]],
    chunk_size: Vec,
    ingested: int = INGESTED,
    supervoxels: Ids | None = None,
    layout: IdLayout | None = None,
) -> ChunkGraph:
    """Return a graph of `labels` (XYZ) with two rounds of merges and splits, always the same ones.

    Rounds begin 5,000,000 and 10,000,000 seconds after `ingested`: `DEMO_EDITS`, and `DEMO_TIMES` around them. A volume
    of few objects gets those edits that it has objects for.

    Args:
        labels: any unsigned type; 0 is background.
        chunk_size: voxels of a graph chunk.
        ingested: when ingest was done.
        supervoxels: what `cut_into_supervoxels` made of the labels; made here by default.
        layout: how ids are written; by default, that of chunks which start at the first voxel.

    """
    x, y, z = labels.shape
    layout = layout or IdLayout.of_box(Box.of_shape((x, y, z)), chunk_size)
    cut = cut_into_supervoxels(labels, chunk_size) if supervoxels is None else supervoxels
    graph = ChunkGraph.of_labels(labels, cut, layout, ingested=ingested)
    roots, sizes = np.unique(graph.roots(graph.supervoxels), return_counts=True)
    largest = [graph.leaves(int(root)) for root in roots[np.lexsort((roots, -sizes))][:8]]
    first, second = (ingested + edit - INGESTED for edit in DEMO_EDITS)
    _merge_pairs(graph, largest[:4], first)
    _split_in_two(graph, largest[4:6], first + 10_000)
    _split_in_two(graph, largest[0:4:2], second)
    _merge_pairs(graph, largest[5:7], second + 10_000)
    _split_in_two(graph, largest[7:8], second + 20_000)
    return graph


def _merge_pairs(graph: ChunkGraph, objects: list[Ids], start: int) -> None:
    """Merge the first object with the second, the third with the fourth, and so on, in one chunk where they meet."""
    for n, (a, b) in enumerate(zip(objects[::2], objects[1::2], strict=False)):
        chunk_a, chunk_b = (graph.layout.chunk_ids(1, graph.layout.positions(1, ids)) for ids in (a, b))
        _, in_a, in_b = np.intersect1d(chunk_a, chunk_b, return_indices=True)
        ends = (in_a[0], in_b[0]) if len(in_a) else (0, 0)
        graph.merge(start + 1000 * n, int(a[ends[0]]), int(b[ends[1]]))


def _split_in_two(graph: ChunkGraph, objects: list[Ids], start: int) -> None:
    """Part the later half of each object from its root: most of it by whole chunks, and a cut through one chunk."""
    for n, ids in enumerate(objects):
        if len(ids) > 1:
            graph.split(start + 1000 * n, ids[: len(ids) // 2].tolist(), ids[len(ids) // 2 :].tolist())
