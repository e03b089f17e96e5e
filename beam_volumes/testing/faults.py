"""What a proofreading server can be told to do wrong, and what it counts of the requests it got."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from beam_volumes.testing.node_ids import Ids

Wrong = Literal["", "zeros", "too_few", "ignores_timestamp", "wrong_layer"]
Fate = Literal["answer", "fail", "drop", "truncate"]


@dataclass(frozen=True)
class Faults:
    """Faults of the requests of `kinds`; the n-th of a kind always meets the same fate, whoever sends it.

    Fractions are of requests, from 0 to 1, and add up: a request that fails is neither dropped nor truncated.
    """

    seed: int = 0
    rate: float = 0.0
    """The fraction answered with `status`."""
    status: int = 503
    retry_after: int | None = None
    """Seconds told with `status`, in Retry-After."""
    dropped: float = 0.0
    """The fraction whose connection is closed without an answer."""
    truncated: float = 0.0
    """The fraction whose body is cut short of its Content-Length."""
    fail_first: int = 0
    """The first so many requests of each kind are answered with `status`."""
    slow_seconds: float = 0.0
    """How long each request waits before it is answered."""
    max_ids: int | None = None
    """A roots_binary request for more ids than that is answered with 413."""
    wrong: Wrong = ""
    """What is wrong in a roots_binary answer that says 200."""
    kinds: frozenset[str] = frozenset({"roots_binary"})

    def fate(self, number: int) -> Fate:
        """Return what becomes of the request that came as `number`, counted from 0."""
        if number < self.fail_first:
            return "fail"
        draw = float(np.random.default_rng((self.seed, number)).random())
        fates: tuple[tuple[float, Fate], ...] = (
            (self.rate, "fail"),
            (self.dropped, "drop"),
            (self.truncated, "truncate"),
        )
        for fraction, fate in fates:
            if draw < fraction:
                return fate
            draw -= fraction
        return "answer"


@dataclass
class Statistics:
    """What the server saw since it started; may be read at any time. Never holds a token."""

    requests: Counter[str] = field(default_factory=Counter)
    """Requests by kind: info, roots_binary, roots, l2_chunk_children_binary, leaves, ..., other."""
    statuses: Counter[int] = field(default_factory=Counter)
    """Answers by status; a dropped connection has none."""
    ids_asked: int = 0
    """Ids in the bodies of roots_binary, each time they were sent, less requests made to fail or refused a token."""
    authorized: int = 0
    """Requests that had an Authorization header."""
    concurrent: int = 0
    max_concurrent: int = 0
    """The most requests in flight at one moment."""
    _bodies: list[Ids] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def unique_ids(self) -> Ids:
        """The ids asked of roots_binary, sorted, each once."""
        with self._lock:
            self._bodies = [np.unique(np.concatenate([*self._bodies, np.zeros(0, np.uint64)]))]
            return self._bodies[0]

    @contextmanager
    def request(self, kind: str, authorized: bool) -> Iterator[int]:
        """Count one request while it is in flight; yields how many of its kind came before it."""
        with self._lock:
            number = self.requests[kind]
            self.requests[kind] += 1
            self.authorized += authorized
            self.concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            yield number
        finally:
            with self._lock:
                self.concurrent -= 1

    def answered(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self.statuses[status] += 1

    def asked(self, ids: Ids) -> None:
        """Count the ids of one body."""
        with self._lock:
            self.ids_asked += len(ids)
            self._bodies.append(ids)
