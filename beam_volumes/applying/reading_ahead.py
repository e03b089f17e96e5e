"""Reading for the next chunks while the function has the ones before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(make: Callable[[T], R], items: Iterable[T], *, ahead: bool) -> Iterator[tuple[T, R]]:
    """Yield items in order, each with what `make` returns for it.

    Args:
        make: called for one item at a time.
        items: taken as they are needed.
        ahead: make that of the next item meanwhile, in a thread; an error is raised in its turn.

    """
    if not ahead:
        yield from ((item, make(item)) for item in items)
        return
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(1, "reading-ahead") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(make, item)))
                if len(waiting) > 1:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _next(waiting: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    item, future = waiting.popleft()
    return item, future.result()
