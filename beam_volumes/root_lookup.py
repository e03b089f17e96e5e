"""The roots of one region's supervoxels, each asked for once."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from beam_volumes.graphene import RootClient, RootQuestion

Ids = npt.NDArray[np.uint64]

_PARTS_OF_A_BATCH = 10
"""While the server has nothing else to do, such a part of a batch is worth a request."""


class RootLookup:
    """Asks for ids as they are met, in batches, and answers from what has come; arrays are sorted, unique uint64.

    Background (0) is its own root and never asked for.
    """

    def __init__(self, client: RootClient, question: RootQuestion, where: str) -> None:
        self._client, self._question, self._where = client, question, where
        self._batch = client.limits.ids_per_request
        self._asked: Ids = np.zeros(1, np.uint64)
        self._queued: list[Ids] = []
        self._sent: deque[tuple[Ids, Future[Ids]]] = deque()
        self._ids: Ids = np.zeros(1, np.uint64)
        self._roots: Ids = np.zeros(1, np.uint64)

    @property
    def answered(self) -> tuple[Ids, Ids]:
        """The ids answered so far, sorted, and the root of each; without background."""
        return self._ids[1:], self._roots[1:]

    def ask(self, ids: Ids) -> None:
        """Ask for those of `ids` that have not been asked for; returns at once, sends when it pays."""
        new = np.setdiff1d(ids, self._asked, assume_unique=True)
        if not len(new):
            return
        self._asked = np.sort(np.concatenate([self._asked, new]), kind="stable")
        self._queued.append(new)
        queued = sum(map(len, self._queued))
        idle = all(future.done() for _, future in self._sent)
        if queued >= self._batch or (idle and queued >= self._batch // _PARTS_OF_A_BATCH):
            self.send()

    def send(self) -> None:
        """Send what is queued."""
        if self._queued:
            ids = np.sort(np.concatenate(self._queued))
            self._queued = []
            self._sent.append((ids, self._client.submit(ids, self._question, self._where)))

    def answer(self, ids: Ids) -> Ids:
        """Return the root of each of `ids`, all of which have been asked for; waits for them.

        Raises:
            ServerError: the server failed, or answered wrongly.

        """
        while len(missing := np.setdiff1d(ids, self._ids, assume_unique=True)):
            if self._queued and np.isin(missing, np.concatenate(self._queued)).any():
                self.send()
            self._absorb()
        return self._roots[np.searchsorted(self._ids, ids)]

    def _absorb(self) -> None:
        """Wait for the oldest batch."""
        ids, future = self._sent.popleft()
        merged = np.concatenate([self._ids, ids])
        order = np.argsort(merged, kind="stable")
        self._ids = merged[order]
        self._roots = np.concatenate([self._roots, future.result()])[order]
