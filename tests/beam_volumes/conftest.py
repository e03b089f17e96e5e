"""What the tests of the pool of processes share."""

import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from beam_volumes.process_pool import ProcessPool, Task


@pytest.fixture(scope="module")
def tasks() -> Iterator[Any]:
    """The module `pool_tasks`, where children find it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield importlib.import_module("pool_tasks")
    del sys.modules["pool_tasks"]


@pytest.fixture
def never_hangs() -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the test has taken too long")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    with ProcessPool(2) as pool:
        yield pool


Children = Callable[[ProcessPool], set[int]]


@pytest.fixture
def children(tasks: Any, tmp_path: Path) -> Children:
    """Return the ids of all processes of a pool that is at rest."""

    def meet(pool: ProcessPool) -> set[int]:
        folder = tmp_path / f"meeting {time.monotonic_ns()}"
        folder.mkdir()
        for _ in range(pool.size):
            pool.submit(Task(tasks.meet, (str(folder), pool.size), "a meeting"))
        return {pool.next_result()[1] for _ in range(pool.size)}

    return meet
