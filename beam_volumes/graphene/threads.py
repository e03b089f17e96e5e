"""Threads for requests in flight."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

_CLOSE_SECONDS = 5.0
"""Longer than most answers take; a thread whose answer takes longer ends with it, and keeps nothing waiting."""


class _Job(NamedTuple):
    future: Future[Any]
    call: Callable[[], Any]


_Jobs = queue.SimpleQueue[_Job | None]


class RequestThreads(Generic[T]):
    """Runs calls, first come, first served, in `count` threads that the end of the program does not wait for.

    Those of `concurrent.futures` would keep it: Python runs all that is queued for them before any handler of its end,
    and a server may have asked to wait for ten minutes.
    """

    def __init__(self, count: int) -> None:
        self._jobs: _Jobs = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._threads = [threading.Thread(target=_work, args=(self._jobs,), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        # Threads know the queue alone, so that they end with whoever has dropped this object and not closed it.
        self._end = weakref.finalize(self, _end, self._jobs, count)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call; its future is cancelled when this is closed before its turn."""
        future: Future[T] = Future()
        with self._lock:
            if not self._closed:
                self._jobs.put(_Job(future, call))
                return future
        future.cancel()
        return future

    def close(self) -> None:
        """Cancel what is queued, and wait a few seconds for the calls that are running."""
        with self._lock:
            self._closed = True
        with contextlib.suppress(queue.Empty):
            while job := self._jobs.get_nowait():
                job.future.cancel()
        self._end()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))


def _work(jobs: _Jobs) -> None:
    while job := jobs.get():
        if job.future.set_running_or_notify_cancel():
            try:
                result = job.call()
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future raises it
                job.future.set_exception(error)
            else:
                job.future.set_result(result)
                del result
        del job


def _end(jobs: _Jobs, count: int) -> None:
    for _ in range(count):
        jobs.put(None)
