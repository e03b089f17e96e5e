"""Errors and deaths in the pool of processes: each is told with its task, and the pool goes on."""

import importlib
import operator
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from beam_volumes import child_process
from beam_volumes.errors import SourceError, VolumeError, WorkerDiedError
from beam_volumes.process_pool import ProcessPool, Task

pytestmark = pytest.mark.usefixtures("never_hangs")

Children = Callable[[ProcessPool], set[int]]


def one(pool: ProcessPool, function: Callable[..., Any], *args: Any) -> Any:
    """Run one task and return its result."""
    pool.submit(Task(function, args, "region 7"))
    return pool.next_result()[1]


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
@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (SourceError, ("no such file",)),
        (KeyError, ("mip",)),
        (FileNotFoundError, (2, "No such file", "x")),
        (OSError, ()),
    ],
)
def test_errors_keep_their_type_and_name_the_element(
    size: int, kind: type[Exception], args: tuple[Any, ...], tasks: Any
) -> None:
    with ProcessPool(size) as pool:
        pool.submit(Task(tasks.fail, (kind, *args), "region 0,0,0,8,8,8"))
        with pytest.raises(kind) as caught:
            pool.next_result()
        assert type(caught.value) is kind
        assert str(caught.value) == str(kind(*args))
        assert caught.value.__notes__ == ["in region 0,0,0,8,8,8"]
        assert (pool.in_flight, one(pool, abs, -1)) == (0, 1)


def test_errors_of_tasks_keep_what_they_are_made_of(pool: ProcessPool, tasks: Any) -> None:
    with pytest.raises(tasks.FramedError) as caught:
        one(pool, tasks.fail, tasks.FramedError, "bad", {"frame": 3})
    assert caught.value.args == ("bad", {"frame": 3})
    with pytest.raises(ValueError, match="bad") as noted:
        one(pool, tasks.fail_with_note)
    assert noted.value.__notes__ == ["a note", "in region 7"]


def test_errors_show_the_traceback_of_the_child(pool: ProcessPool, tasks: Any) -> None:
    with pytest.raises(ValueError, match=r"^bad\nin region 7$") as caught:
        one(pool, tasks.fail, ValueError, "bad")
    told = str(caught.value.__cause__)
    assert f'File "{tasks.__file__}"' in told
    assert "raise kind(*args)" in told
    assert told.rstrip('\n"').endswith("ValueError: bad")


def test_errors_that_cannot_travel_come_as_their_text(pool: ProcessPool, tasks: Any) -> None:
    with pytest.raises(VolumeError, match=r"^pool_tasks\.OddError: 3: torn\nin region 7$") as caught:
        one(pool, tasks.fail, tasks.OddError, 3, "torn")
    assert caught.value.__notes__ == ["in region 7"]
    assert "pool_tasks.OddError: 3: torn" in str(caught.value.__cause__)
    with pytest.raises(VolumeError, match=r"^pool_tasks\.HolderError: a file\nin region 7$"):
        one(pool, tasks.fail, tasks.HolderError, "a file")
    with pytest.raises(VolumeError, match=r"^pool_tasks\.MuteError: <exception str\(\) failed>\nin region 7$"):
        one(pool, tasks.fail, tasks.MuteError)


def test_results_that_cannot_travel_are_errors(pool: ProcessPool, tasks: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object") as caught:
        one(pool, threading.Lock)
    assert caught.value.__notes__ == ["in region 7"]
    with pytest.raises(AttributeError, match=r"Can't pickle local object 'make_function.<locals>.<lambda>'"):
        one(pool, tasks.make_function)
    with pytest.raises(ValueError, match="invalid literal for int") as trapped:
        one(pool, tasks.make_trap)
    assert trapped.value.__notes__ == ["in region 7"]
    assert one(pool, abs, -1) == 1


def test_tasks_that_cannot_travel_are_refused(pool: ProcessPool) -> None:
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object") as caught:
        pool.submit(Task(id, (threading.Lock(),), "region 7"))
    assert caught.value.__notes__ == ["in region 7"]
    with pytest.raises((AttributeError, TypeError), match="lambda"):
        pool.submit(Task(lambda: None, (), "region 8"))
    assert pool.in_flight == 0


def test_a_task_that_the_child_cannot_import_is_an_error(pool: ProcessPool, tmp_path: Path) -> None:
    (tmp_path / "passing.py").write_text("def here(): return 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        here = importlib.import_module("passing").here
    one(pool, abs, -1)
    with pytest.raises(ModuleNotFoundError, match="No module named 'passing'"):
        one(pool, here)


@pytest.mark.parametrize("size", [1, 2])
def test_memory_that_is_refused_is_a_worker_that_died(size: int, tasks: Any) -> None:
    with ProcessPool(size) as pool:
        with pytest.raises(
            WorkerDiedError,
            match=r"^region 7: expected a result, but its process ran out of memory \(MemoryError\): "
            "give the same command again with fewer --processes$",
        ):
            one(pool, tasks.allocate, 2**62)
        with pytest.raises(WorkerDiedError, match=r"ran out of memory \(for a volume\)"):
            one(pool, tasks.fail, MemoryError, "for a volume")
        assert one(pool, abs, -1) == 1


ENDED = ": the code that it ran has ended it: mend that, and give the same command again"


@pytest.mark.parametrize(
    ("function", "args", "how"),
    [
        (os._exit, (3,), f"ended with exit status 3{ENDED}"),
        (os._exit, (0,), f"ended with exit status 0{ENDED}"),
        (sys.exit, (5,), f"ended with exit status 5{ENDED}"),
        (
            signal.raise_signal,
            (signal.SIGKILL,),
            r"was killed by SIGKILL \(probably out of memory: give the same command again with fewer --processes\)",
        ),
        (signal.raise_signal, (signal.SIGTERM,), "was killed by SIGTERM"),
        (
            signal.raise_signal,
            (signal.SIGSEGV,),
            "was killed by SIGSEGV: the code that it ran has crashed, at the line that is printed above: mend that, "
            "and give the same command again",
        ),
        (signal.raise_signal, (signal.SIGRTMIN + 1,), f"was killed by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_a_process_that_ends_fails_its_task_alone(
    pool: ProcessPool,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    how: str,
    tasks: Any,
    tmp_path: Path,
    children: Children,
) -> None:
    pool.submit(Task(tasks.read_once_there, (str(tmp_path / "sign"),), "neighbour"))
    pool.submit(Task(function, args, "region 7"))
    pool.submit(Task(abs, (-2,), "after"))
    with pytest.raises(WorkerDiedError, match=f"^region 7: expected a result, but its worker process {how}$"):
        pool.next_result()
    assert pool.next_result() == (Task(abs, (-2,), "after"), 2)
    tasks.write_whole(tmp_path / "sign", "on")
    assert pool.next_result()[1] == "on"
    assert len(children(pool)) == 2


def test_a_process_that_is_killed_from_outside_is_told_of_its_task(
    pool: ProcessPool, tasks: Any, tmp_path: Path
) -> None:
    for i in range(2):
        pool.submit(Task(tasks.begin, (str(tmp_path / str(i)),), f"task {i}"))
    for i in (1, 0):
        os.kill(began(tmp_path / str(i)), signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match=f"^task {i}: .* killed by SIGKILL"):
            pool.next_result()
    assert one(pool, abs, -1) == 1


def test_a_process_that_dies_at_rest_costs_no_task(pool: ProcessPool, children: Children) -> None:
    pids = children(pool)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not children(pool) & pids


def test_a_process_that_hangs_up_is_killed(pool: ProcessPool, tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "SECONDS_TO_DIE", 0.1)
    with pytest.raises(WorkerDiedError, match=r"^region 7: expected a result, but its worker process hung up$"):
        one(pool, tasks.hang_up)
    assert one(pool, abs, -1) == 1


def test_a_process_whose_fork_lives_on_has_ended(
    pool: ProcessPool, tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "_SECONDS_BETWEEN_LOOKS", 0.05)
    try:
        with pytest.raises(WorkerDiedError, match=r"^region 7: .* ended with exit status 4: the code that it ran"):
            one(pool, tasks.leave_a_fork, str(tmp_path / "fork"))
    finally:
        os.kill(began(tmp_path / "fork"), signal.SIGKILL)
    assert one(pool, abs, -1) == 1


def test_a_process_that_cannot_be_made_fails_the_task(pool: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(FileNotFoundError, match="/nowhere/python") as caught:
            one(pool, abs, -1)
    assert caught.value.__notes__ == ["in region 7"]
    assert one(pool, abs, -1) == 1


def test_an_answer_that_is_read_in_part_is_not_taken_for_the_next(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch, children: Children
) -> None:
    pids = children(pool)

    def no_memory(connection: Any) -> bytes:
        os.read(connection.fileno(), 4)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "recv_bytes", no_memory)
        with pytest.raises(WorkerDiedError, match=r"^region 7: .* ran out of memory"):
            one(pool, operator.mul, b"x", 1000)
    assert one(pool, operator.mul, b"y", 1000) == b"y" * 1000
    assert len(pids & children(pool)) == 1


def test_any_mixture_of_ends_is_told_task_by_task(pool: ProcessPool, tasks: Any) -> None:
    """Results, errors, deaths and discards in a random order: each task ends once, as it should."""
    dice = random.Random(0)
    ends: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
        *[(operator.add, (1, 2), "3")] * 6,
        *[(tasks.fail, (SourceError, "torn"), "SourceError")] * 2,
        (os._exit, (3,), "WorkerDiedError"),
    ]
    expected: dict[str, str] = {}
    in_flight: dict[str, str] = {}
    seen: dict[str, str] = {}

    def take() -> None:
        try:
            task, result = pool.next_result()
            label, end = task.label, str(result)
        except VolumeError as error:
            label = error.__notes__[0][3:] if type(error) is SourceError else str(error).split(": ")[0]
            end = type(error).__name__
        assert label not in seen
        seen[label] = end
        expected[label] = in_flight.pop(label)

    for i in range(150):
        function, args, end = dice.choice(ends)
        pool.submit(Task(function, args, f"task {i}"))
        in_flight[f"task {i}"] = end
        while pool.full:
            take()
        if dice.random() < 0.03:
            pool.discard()
            in_flight.clear()
    while pool.in_flight:
        take()
    assert in_flight == {}
    assert seen == expected
    assert len(seen) > 100
