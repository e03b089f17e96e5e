"""What a proofreading server is asked at a time, and what was asked of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from beam_volumes.errors import OptionError


@dataclass(frozen=True)
class Limits:
    """What one client may ask.

    Attributes:
        max_requests_in_flight: requests sent and not yet answered, all threads together.
        max_ids_per_second: None for no limit; ids that are asked again count again.
        ids_per_request: a longer list is split.
        connect_timeout: seconds.
        read_timeout: seconds without a byte.
        answer_timeout: seconds from the end of a request to the last byte of its answer, whatever comes how slowly.
        tries: how often a request that fails in passing is sent, the first time included.

    """

    max_requests_in_flight: int = 16
    max_ids_per_second: float | None = None
    ids_per_request: int = 10_000
    connect_timeout: float = 10.0
    read_timeout: float = 120.0
    answer_timeout: float = 600.0
    tries: int = 8

    def share(self, workers: int) -> Limits:
        """Return what each of `workers` clients may ask, which is at least one request, and one id a second.

        Raises:
            OptionError: there are more clients than that, so that together they would ask more than is allowed.

        """
        rate = self.max_ids_per_second
        for option, most in (("requests_in_flight", self.max_requests_in_flight), ("ids_per_second", rate)):
            if most is not None and most < workers:
                raise OptionError(
                    f"--max_{option}: expected at least the number of worker processes, {workers}, which share it, "
                    f"came {most}: raise it if the server can take that, or have fewer workers: --processes of a "
                    "local run; --max_num_workers times the vCPUs of --machine_type of a job on a cluster"
                )
        return replace(
            self,
            max_requests_in_flight=self.max_requests_in_flight // workers,
            max_ids_per_second=None if rate is None else rate / workers,
        )

    @property
    def batch(self) -> int:
        """Ids in one request: never more than a second's worth, so that a slow rate is not a rate of bursts."""
        if self.max_ids_per_second is None:
            return self.ids_per_request
        return max(min(self.ids_per_request, int(self.max_ids_per_second)), 1)


class RateLimit:
    """A token bucket that holds no more than what is taken from it at once: ids pass at a steady rate, without bursts.

    Args:
        per_second: None for no limit.
        clock: seconds that never run backwards.

    """

    def __init__(self, per_second: float | None, clock: Callable[[], float]) -> None:
        self._per_second, self._clock = per_second, clock
        self._lock = threading.Lock()
        self._free_at = clock()

    def reserve(self, count: int) -> float:
        """Take the next `count` ids' turn, and return the seconds until it comes."""
        if self._per_second is None:
            return 0.0
        with self._lock:
            now = self._clock()
            turn = max(now, self._free_at)
            self._free_at = turn + count / self._per_second
            return turn - now


class Statistics:
    """What one client has asked so far; may be read and counted up from any thread.

    Attributes:
        ids: ids that answers were wanted for, each time they were submitted; tries do not count.
        requests: HTTP requests sent, all kinds and tries together.
        retries: those of them that failed and were sent again, whole or in halves.

    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.ids = 0
        self.requests = 0
        self.retries = 0

    def count(self, *, ids: int = 0, requests: int = 0, retries: int = 0) -> None:
        """Count up."""
        with self._lock:
            self.ids += ids
            self.requests += requests
            self.retries += retries
