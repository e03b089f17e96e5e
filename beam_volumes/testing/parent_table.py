"""Which node has which parent since when: the rows of a chunk graph, all of its history."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from beam_volumes.testing.node_ids import Ids

Seconds = npt.NDArray[np.int64]
"""Unix times, whole seconds."""

NEVER = np.iinfo(np.int64).max
_TIME_BITS = 36
LAST_TIME = (1 << _TIME_BITS) - 1
"""The latest time a table can hold (year 4147)."""


@dataclass(frozen=True)
class ParentTable:
    """Immutable rows (child, parent, time): from `time` on, until a later row of that child, `parent` is its parent.

    A node's children never change: an edit makes new nodes. A node that an edit replaced keeps its last parent, as it
    does in PyChunkGraph, so an old node asked for at a new time answers an expired root.
    """

    child: Ids
    parent: Ids
    time: Seconds

    @classmethod
    def empty(cls) -> ParentTable:
        """Return the table of a graph before ingest."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))

    def with_rows(self, child: Ids, parent: Ids, time: int) -> ParentTable:
        """Return a table of these rows, and of new ones, all of `time`."""
        return ParentTable(
            np.concatenate([self.child, child]),
            np.concatenate([self.parent, parent]),
            np.concatenate([self.time, np.full(len(child), time, np.int64)]),
        )

    @cached_property
    def _by_child(self) -> tuple[Ids, npt.NDArray[np.int64], Ids]:
        """The unique children; a key (rank of the child, time) a row, sorted; the parents in that order."""
        nodes, rank = np.unique(self.child, return_inverse=True)
        keys = (rank.astype(np.int64) << _TIME_BITS) | self.time
        order = np.argsort(keys, kind="stable")
        return nodes, keys[order], self.parent[order]

    @cached_property
    def _by_parent(self) -> tuple[Ids, npt.NDArray[np.int64], npt.NDArray[np.int64], Ids, Seconds]:
        """The unique parents; where each one's rows start, and how many they are; their children; their times."""
        # A parent that a child kept across edits has one row for it; the sort keeps the order of time inside a parent.
        order = np.argsort(self.parent, kind="stable")
        nodes, starts, counts = np.unique(self.parent[order], return_index=True, return_counts=True)
        created = np.minimum.reduceat(self.time[order], starts) if len(nodes) else np.zeros(0, np.int64)
        return nodes, starts, counts, self.child[order], created

    def prepare(self) -> ParentTable:
        """Sort now what look-ups need, so that threads that share the table only read it."""
        _, _ = self._by_child, self._by_parent
        return self

    @property
    def parents(self) -> Ids:
        """All nodes that ever were a parent, sorted."""
        return self._by_parent[0]

    def parents_at(self, ids: Ids, time: int) -> Ids:
        """Return the parent of each id at `time`; 0 where it has none."""
        nodes, keys, parents = self._by_child
        if not len(nodes) or time < 0:
            return np.zeros(len(ids), np.uint64)
        rank = np.minimum(np.searchsorted(nodes, ids), len(nodes) - 1)
        row = np.searchsorted(keys, (rank << _TIME_BITS) | min(time, LAST_TIME), side="right") - 1
        row = np.maximum(row, 0)
        found = (nodes[rank] == ids) & (keys[row] >> _TIME_BITS == rank) & (keys[row] & LAST_TIME <= time)
        return np.where(found, parents[row], np.uint64(0))

    def children(self, ids: Ids) -> Ids:
        """Return the children of all `ids`, one after another; a node without any gives none."""
        _, starts, _, children, _ = self._by_parent
        where, counts = self._find(ids)
        where, counts = where[counts > 0], counts[counts > 0]
        first = np.repeat(starts[where], counts)
        step = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        below: Ids = children[first + step]
        return below

    def first_children(self, ids: Ids) -> Ids:
        """Return one child of each id; all of them must have one."""
        _, starts, _, children, _ = self._by_parent
        return children[starts[self._find(ids)[0]]]

    def child_counts(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Return how many children each id has."""
        return self._find(ids)[1]

    def created(self, ids: Ids) -> Seconds:
        """Return when each id became a node; NEVER for one that is no parent."""
        where, counts = self._find(ids)
        created = self._by_parent[4]
        return np.where(counts > 0, created[where], NEVER) if len(created) else np.full(len(ids), NEVER)

    def _find(self, ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where each id stands among the parents, and how many rows it has (0 where it is none of them)."""
        nodes, _, counts, _, _ = self._by_parent
        if not len(nodes):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        where = np.minimum(np.searchsorted(nodes, ids), len(nodes) - 1)
        return where, np.where(nodes[where] == ids, counts[where], 0)
