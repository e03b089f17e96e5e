"""The pool of processes: every task ends once, as if called here; no child is left."""

import gc
import importlib
import logging
import operator
import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from beam_volumes import child_process
from beam_volumes.process_pool import ProcessPool, Task, acquire, peak_memory_bytes, release

pytestmark = pytest.mark.usefixtures("never_hangs")

Children = Callable[[ProcessPool], set[int]]


def one(pool: ProcessPool, function: Callable[..., Any], *args: Any) -> Any:
    """Run one task and return its result."""
    pool.submit(Task(function, args, "region 7"))
    return pool.next_result()[1]


def run_all(pool: ProcessPool, tasks: list[Task]) -> list[tuple[Task, Any]]:
    """Run tasks as a DoFn does."""
    results = []
    for task in tasks:
        pool.submit(task)
        while pool.full:
            results.append(pool.next_result())
    while pool.in_flight:
        results.append(pool.next_result())
    return results


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def began(path: Path) -> int:
    """Wait for a task `begin` and return its process id."""
    until(path.exists)
    return int(path.read_text())


def gone(pid: int) -> bool:
    """Whether a process has ended, and has been waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("size", [1, 2])
def test_results_are_those_of_a_direct_call(size: int) -> None:
    todo = [Task(operator.mul, (i, f"<{i}>"), f"region {i}") for i in range(50)]
    with ProcessPool(size) as pool:
        results = run_all(pool, todo)
    assert {task.label: result for task, result in results} == {t.label: t.function(*t.args) for t in todo}
    assert sorted(results) == sorted((task, task.function(*task.args)) for task in todo)


def test_size_1_is_a_call_in_this_process_in_order() -> None:
    with ProcessPool(1) as pool:
        assert run_all(pool, [Task(os.getpid, (), str(i)) for i in range(3)]) == [
            (Task(os.getpid, (), str(i)), os.getpid()) for i in range(3)
        ]


def test_size_2_is_two_other_processes(pool: ProcessPool, children: Children) -> None:
    pids = children(pool)
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert children(pool) == pids


def test_results_come_in_the_order_in_which_tasks_end(pool: ProcessPool, tasks: Any, tmp_path: Path) -> None:
    path = tmp_path / "sign"
    pool.submit(Task(tasks.read_once_there, (str(path),), "slow"))
    for i in range(3):
        pool.submit(Task(operator.neg, (i,), f"quick {i}"))
    assert [pool.next_result()[1] for _ in range(3)] == [0, -1, -2]
    tasks.write_whole(path, "at last")
    assert pool.next_result() == (Task(tasks.read_once_there, (str(path),), "slow"), "at last")


def test_arguments_and_results_may_be_large(pool: ProcessPool) -> None:
    block = random.Random(0).randbytes(30_000_000)
    assert one(pool, operator.add, block, b"end") == block + b"end"


def test_a_child_imports_what_its_tasks_need_and_no_more(pool: ProcessPool, tasks: Any) -> None:
    assert one(pool, tasks.knows, "pool_tasks") is True
    assert one(pool, tasks.knows, "beam_volumes.errors") is True
    for heavy in ("apache_beam", "numpy", "rich", "pytest"):
        assert one(pool, tasks.knows, heavy) is False


def test_a_child_computes_in_one_thread(pool: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert one(pool, os.getenv, "OMP_NUM_THREADS") == "1"
    assert one(pool, os.getenv, "OPENBLAS_NUM_THREADS") == "1"


def test_what_a_child_prints_goes_to_standard_error(
    pool: ProcessPool, tasks: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    try:
        one(pool, tasks.say, "said")
    finally:
        logging.getLogger().setLevel(before)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "said\nINFO a library: told\n"


def test_peak_memory_is_the_most_that_one_child_has_held(pool: ProcessPool, tasks: Any) -> None:
    ballast = bytearray(300_000_000)
    assert pool.peak_memory_bytes() == 0
    one(pool, abs, -1)
    # Not the parent's.
    assert 1_000_000 < pool.peak_memory_bytes() < 200_000_000
    assert one(pool, tasks.allocate, 250_000_000) == 250_000_000
    assert 250_000_000 < pool.peak_memory_bytes() < 290_000_000
    one(pool, abs, -1)
    assert 250_000_000 < pool.peak_memory_bytes() < 290_000_000
    # Size 1 is this process.
    assert ProcessPool(1).peak_memory_bytes() == peak_memory_bytes() > len(ballast)


def test_peak_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = peak_memory_bytes()
    monkeypatch.setattr(child_process, "Path", lambda _: Path("/nowhere"))
    assert 0.5 * exact < peak_memory_bytes() < 2 * exact


@pytest.mark.parametrize(("size", "capacity"), [(1, 1), (2, 4), (3, 6)])
def test_a_pool_takes_tasks_until_it_is_full(size: int, capacity: int) -> None:
    with ProcessPool(size) as pool:
        assert (pool.size, pool.capacity) == (size, capacity)
        for i in range(capacity):
            assert (pool.in_flight, pool.full) == (i, False)
            pool.submit(Task(abs, (-i,), f"region {i}"))
        assert (pool.in_flight, pool.full) == (capacity, True)
        with pytest.raises(ValueError, match=f"region 9: .* takes tasks, but it is at {capacity} of {capacity} tasks"):
            pool.submit(Task(abs, (-9,), "region 9"))
        assert sorted(pool.next_result()[1] for _ in range(capacity)) == list(range(capacity))
        assert (pool.in_flight, pool.full) == (0, False)
        with pytest.raises(ValueError, match=f"expected a task in flight, but the pool is at 0 of {capacity} tasks"):
            pool.next_result()


@pytest.mark.parametrize("size", [0, -1])
def test_a_pool_of_no_process_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 process or more, came {size}"):
        ProcessPool(size)


@pytest.mark.parametrize("size", [1, 2])
def test_a_closed_pool_takes_nothing(size: int) -> None:
    pool = ProcessPool(size)
    pool.submit(Task(abs, (-1,), "region 1"))
    pool.close()
    pool.close()
    assert pool.in_flight == 0
    with pytest.raises(ValueError, match="region 2: expected a pool that takes tasks, but it is closed"):
        pool.submit(Task(abs, (-2,), "region 2"))
    with pytest.raises(ValueError, match="expected a task in flight, but the pool is closed"):
        pool.next_result()


def test_discard_kills_what_runs_and_drops_what_waits(
    pool: ProcessPool, tasks: Any, tmp_path: Path, children: Children
) -> None:
    for i in range(4):
        pool.submit(Task(tasks.begin, (str(tmp_path / str(i)),), f"task {i}"))
    running = [began(tmp_path / "0"), began(tmp_path / "1")]
    pool.discard()
    assert (pool.in_flight, pool.full) == (0, False)
    assert one(pool, operator.add, 2, 3) == 5
    for pid in running:
        until(partial(gone, pid))
    assert not children(pool) & set(running)
    assert not (tmp_path / "2").exists()
    assert not (tmp_path / "3").exists()


def test_discard_while_a_process_is_made_ends_it(
    tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: Children
) -> None:
    """What is cancelled before its process exists must not hold a worker for minutes."""
    in_between, go_on = threading.Event(), threading.Event()
    worker = importlib.import_module("beam_volumes.process_pool")._Worker
    living_child = worker._living_child

    def slow(self: Any) -> child_process.Child:
        in_between.set()
        assert go_on.wait(10)
        child: child_process.Child = living_child(self)
        return child

    monkeypatch.setattr(worker, "_living_child", slow)
    with ProcessPool(2) as pool:
        for i in range(4):
            pool.submit(Task(tasks.begin, (str(tmp_path / str(i)),), f"task {i}"))
        assert in_between.wait(10)
        pool.discard()
        go_on.set()
        assert len(children(pool)) == 2
    assert not any((tmp_path / str(i)).exists() for i in range(4))


def test_discard_leaves_children_at_rest_alone(pool: ProcessPool, children: Children) -> None:
    pids = children(pool)
    for _ in range(300):
        assert one(pool, os.getpid) in pids
        pool.discard()
    assert children(pool) == pids


def test_size_1_forgets_what_is_discarded(tmp_path: Path) -> None:
    pool = ProcessPool(1)
    pool.submit(Task(os.mkdir, (str(tmp_path / "made"),), "never"))
    pool.discard()
    assert one(pool, abs, -3) == 3
    assert not (tmp_path / "made").exists()


def test_acquired_pools_share_processes_and_nothing_else(children: Children) -> None:
    first, second = acquire(2), acquire(2)
    pids = children(first)
    assert children(second) == pids
    for i in range(4):
        first.submit(Task(operator.neg, (i,), f"first {i}"))
        second.submit(Task(operator.neg, (i + 100,), f"second {i}"))
    assert (first.in_flight, second.in_flight) == (4, 4)
    assert sorted(second.next_result()[1] for _ in range(4)) == [-103, -102, -101, -100]
    assert sorted(first.next_result()[1] for _ in range(4)) == [-3, -2, -1, 0]
    release(first)
    assert children(second) == pids
    release(second)
    assert all(map(gone, pids))
    with ProcessPool(2, shared=True) as third:
        assert not children(third) & pids


def test_pools_of_another_size_or_of_ones_own_do_not_share(children: Children) -> None:
    with ProcessPool(2, shared=True) as shared, ProcessPool(2) as own, ProcessPool(3, shared=True) as other:
        found = [children(pool) for pool in (shared, own, other)]
    assert len(set.union(*found)) == 7


def test_what_one_pool_discards_is_not_lost_to_another(tasks: Any, tmp_path: Path) -> None:
    with ProcessPool(2, shared=True) as first, ProcessPool(2, shared=True) as second:
        first.submit(Task(tasks.begin, (str(tmp_path / "long"),), "long"))
        began(tmp_path / "long")
        second.submit(Task(tasks.read_once_there, (str(tmp_path / "sign"),), "runs"))
        second.submit(Task(abs, (-1,), "waits"))
        first.submit(Task(tasks.begin, (str(tmp_path / "never"),), "waits too"))
        first.discard()
        assert second.next_result()[1] == 1
        tasks.write_whole(tmp_path / "sign", "on")
        assert second.next_result()[1] == "on"
        assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("shared", [False, True])
def test_close_ends_processes_at_once(shared: bool, tasks: Any, tmp_path: Path) -> None:
    pool = ProcessPool(2, shared=shared)
    pool.submit(Task(tasks.begin, (str(tmp_path / "one"),), "long"))
    pool.submit(Task(tasks.begin, (str(tmp_path / "two"),), "long"))
    pids = [began(tmp_path / "one"), began(tmp_path / "two")]
    at = time.monotonic()
    pool.close()
    assert time.monotonic() - at < 1
    assert all(map(gone, pids))
    assert "process-pool" not in {thread.name for thread in threading.enumerate()}


def test_close_while_processes_are_made_leaves_none(tasks: Any, tmp_path: Path) -> None:
    made: list[child_process.Child] = []

    class Recorded(child_process.Child):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beam_volumes.process_pool.Child", Recorded)
        for i in range(30):
            with ProcessPool(2) as pool:
                for _ in range(3):
                    pool.submit(Task(time.sleep, (60,), "long"))
                time.sleep(i / 5000)
    assert made
    assert [child for child in made if child.process.returncode is None] == []


def test_a_pool_that_is_forgotten_ends_its_processes(children: Children) -> None:
    pool = ProcessPool(2)
    pids = children(pool)
    del pool
    gc.collect()
    assert all(map(gone, pids))


def test_processes_start_before_there_are_tasks(tasks: Any) -> None:
    early, pool = acquire(2), acquire(2)
    try:
        early.start(["colorsys", "no_such_module"])
        for _ in range(2):
            with pytest.raises(ModuleNotFoundError, match="no_such_module"):
                early.next_result()
        assert one(pool, tasks.knows, "colorsys") is True
    finally:
        release(early)
        release(pool)


def test_a_pool_that_calls_directly_has_nothing_to_start() -> None:
    with ProcessPool(1) as pool:
        pool.start(["no_such_module"])
        assert pool.in_flight == 0
