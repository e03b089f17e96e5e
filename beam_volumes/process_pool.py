"""A pool of child processes for heavy work on one machine, where the runner gives one core only.

Each child is fed by a thread of its own: so it is known which task killed it, and it gets its next task while the
caller is busy with results.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from beam_volumes.child_process import SECONDS_TO_DIE, Answer, Child, ChildTraceback, naming, peak_memory_bytes
from beam_volumes.errors import WorkerDiedError
from beam_volumes.importing import without_collection

__all__ = ["ProcessPool", "Task", "acquire", "peak_memory_bytes", "release"]

_SECONDS_BETWEEN_SIGNALS = 0.5


class Task(NamedTuple):
    """A call for another process: a function of a module, not of `__main__`, and arguments that can be pickled.

    `label` names the element in errors, for example `region 0,0,0,256,256,64`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    label: str


class ProcessPool:
    """Runs tasks in `size` processes; 1 means this process, by a direct call, with no child at all.

    The caller submits until the pool is `full`, then takes results, in the order in which they come. Pools from
    `acquire` share their processes, but each gets the results of its own tasks only. Not for several threads at once.

    Attributes:
        size: processes.
        capacity: tasks that may be in flight: twice `size`, so that no process waits for its next one; 1 for size 1.

    """

    def __init__(self, size: int, *, shared: bool = False) -> None:
        if size < 1:
            raise ValueError(f"expected 1 process or more, came {size}")
        self.size = size
        self.capacity = 2 * size if size > 1 else 1
        self._crew = None if size == 1 else _Crew.of(size) if shared else _Crew(size)
        self._inbox: _Inbox = queue.SimpleQueue()
        self._direct: deque[Task] = deque()
        self._in_flight = 0
        self._closed = False
        if self._crew is not None:
            # Runs when the pool is collected and at exit, too; so it must not refer to the pool itself.
            self._leave = weakref.finalize(self, self._crew.leave, os.getpid())

    @property
    def in_flight(self) -> int:
        """Tasks submitted whose results have not been taken."""
        return self._in_flight

    @property
    def full(self) -> bool:
        """Whether a result must be taken before the next task can be submitted."""
        return self._in_flight >= self.capacity

    def start(self, modules: Sequence[str]) -> None:
        """Let all processes start and import `modules`, which their tasks will need; returns at once.

        What goes wrong here goes wrong again in a task, and is told there. The pool takes no tasks of its own then.
        """
        for number in range(self.size if self._crew is not None else 0):
            self.submit(Task(import_modules, tuple(modules), f"start of process {number}"))

    def submit(self, task: Task) -> None:
        """Hand over a task; its errors come from `next_result`.

        Raises:
            ValueError: the pool is full or closed.
            pickle.PicklingError, TypeError, AttributeError: the task cannot be pickled.

        """
        if self._closed or self.full:
            raise ValueError(f"{task.label}: expected a pool that takes tasks, but it is {self._state()}")
        if self._crew is None:
            self._direct.append(task)
        else:
            with naming(task.label):
                call = pickle.dumps((task.function, task.args), pickle.HIGHEST_PROTOCOL)
            self._crew.put(_Job(task, call, self._inbox))
        self._in_flight += 1

    def next_result(self) -> tuple[Task, Any]:
        """Wait for the next task that ends, and return it with its result.

        Raises:
            ValueError: no task is in flight.
            WorkerDiedError: the process was killed, crashed, left or had no memory; the pool can be used further.
            Exception: what the task raised, with a note that names the element and the child's traceback as its cause;
                as a `VolumeError` with its text where it cannot be pickled.

        """
        if not self._in_flight:
            raise ValueError(f"expected a task in flight, but the pool is {self._state()}")
        task, reply = (self._direct.popleft(), b"") if self._crew is None else self._take()
        self._in_flight -= 1
        try:
            return task, self._result(task, reply)
        except MemoryError as error:
            # The sibling of a process that was killed because it took too much.
            what = str(error) or type(error).__name__
            raise WorkerDiedError(
                f"{task.label}: expected a result, but its process ran out of memory ({what}): "
                "give the same command again with fewer --processes"
            ) from error

    def _take(self) -> tuple[Task, bytes | Exception]:
        """Wait for an answer, with breaks: a signal that comes just before a wait is only seen when it ends."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=_SECONDS_BETWEEN_SIGNALS)

    def _result(self, task: Task, reply: bytes | Exception) -> Any:
        if isinstance(reply, Exception):
            raise reply
        with naming(task.label):
            if self._crew is None:
                return task.function(*task.args)
            answer: Answer = pickle.loads(reply)
            self._crew.peak = max(self._crew.peak, answer.peak_memory_bytes)
            if answer.error is not None:
                raise answer.error from ChildTraceback(answer.traceback)
            return answer.result

    def discard(self) -> None:
        """Forget what is in flight: tasks that wait never start, those that run are killed."""
        if self._crew is not None:
            self._crew.cancel(self._inbox)
        self._inbox = queue.SimpleQueue()
        self._direct.clear()
        self._in_flight = 0

    def peak_memory_bytes(self) -> int:
        """Return the most memory that one process has held, as of the last result; of this process for size 1."""
        return peak_memory_bytes() if self._crew is None else self._crew.peak

    def close(self) -> None:
        """End the processes at once, unless other pools share them; what is in flight is lost."""
        if not self._closed:
            self.discard()
            self._closed = True
            if self._crew is not None:
                self._leave()

    def _state(self) -> str:
        return "closed" if self._closed else f"at {self._in_flight} of {self.capacity} tasks"

    def __enter__(self) -> ProcessPool:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pool."""
        self.close()


def import_modules(*names: str) -> None:
    """Import modules by name."""
    with without_collection():
        for name in names:
            importlib.import_module(name)


def acquire(size: int) -> ProcessPool:
    """Return a pool on the processes that all pools of this size share in this process; `release` it after use."""
    return ProcessPool(size, shared=True)


def release(pool: ProcessPool) -> None:
    """Close a pool; the shared processes end with the last one."""
    pool.close()


class _Job(NamedTuple):
    task: Task
    call: bytes
    inbox: _Inbox


_Inbox = queue.SimpleQueue[tuple[Task, bytes | Exception]]
"""Where one pool finds its pickled answers, or why there is none."""


class _Crew:
    """The workers, and the jobs that wait for one; several pools may use it."""

    _shared: ClassVar[dict[int, _Crew]] = {}
    # Re-entrant: the finalizer of a forgotten pool may run in the middle of anything.
    _shared_lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, size: int) -> None:
        self.peak = 0
        self.changed = threading.Condition(threading.RLock())
        self.closed = False
        self._users = 1
        self._waiting: deque[_Job] = deque()
        self._workers = [_Worker(self) for _ in range(size)]

    @classmethod
    def of(cls, size: int) -> _Crew:
        """Join the shared crew of this size."""
        with cls._shared_lock:
            if size in cls._shared:
                cls._shared[size]._users += 1
            else:
                cls._shared[size] = cls(size)
            return cls._shared[size]

    def leave(self, creator: int) -> None:
        """Leave the crew; the last user ends it. Does nothing in a fork of the process that has the children."""
        if os.getpid() != creator:
            return
        with self._shared_lock:
            self._users -= 1
            if self._users:
                return
            for size in [size for size, crew in self._shared.items() if crew is self]:
                del self._shared[size]
        self._end()

    def put(self, job: _Job) -> None:
        """Queue a job."""
        with self.changed:
            self._waiting.append(job)
            self.changed.notify()

    def take(self) -> _Job | None:
        """Wait for a job; None when there will be no more. Call it with `changed` held."""
        while not self._waiting and not self.closed:
            self.changed.wait()
        return None if self.closed else self._waiting.popleft()

    def cancel(self, inbox: _Inbox) -> None:
        """Drop the waiting jobs of one pool, and kill the processes that run its other ones."""
        with self.changed:
            self._waiting = deque(job for job in self._waiting if job.inbox is not inbox)
            for worker in self._workers:
                if worker.job is not None and worker.job.inbox is inbox:
                    worker.condemn()

    def _end(self) -> None:
        with self.changed:
            self.closed = True
            self._waiting.clear()
            self.changed.notify_all()
            children = [worker.child for worker in self._workers if worker.child is not None]
            for child in children:
                child.process.terminate()
        deadline = time.monotonic() + SECONDS_TO_DIE
        for child in children:
            child.wait(deadline)
        for worker in self._workers:
            worker.join()


class _Worker:
    """A thread, and the child process that it feeds; the child is made when there is work, and anew after its death.

    Attributes:
        child: None where there is none.
        job: what runs now.
        condemned: whether the job has been cancelled. All three are changed with `crew.changed` held.

    """

    def __init__(self, crew: _Crew) -> None:
        self.child: Child | None = None
        self.job: _Job | None = None
        self.condemned = False
        self._crew = crew
        self._thread = threading.Thread(target=self._work, name="process-pool", daemon=True)
        self._thread.start()

    def condemn(self) -> None:
        """Kill the child in the middle of its job, or when it comes to life."""
        self.condemned = True
        if self.child is not None:
            self.child.process.kill()

    def join(self) -> None:
        """Wait for the thread, unless it is the one that asks."""
        if self._thread is not threading.current_thread():
            self._thread.join(SECONDS_TO_DIE)

    def _work(self) -> None:
        # Children inherit the mask: Ctrl-C reaches none of them before it can ignore it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while (job := self._next_job()) is not None:
            reply: bytes | Exception
            try:
                reply = self._call(job)
            except Exception as error:  # noqa: BLE001 - raised again by next_result, in the caller's thread
                reply = error
            # Before the answer is known: who has it may discard at once, and that must not cost a child at rest.
            self._finish_job()
            job.inbox.put((job.task, reply))
        self._end_child()

    def _next_job(self) -> _Job | None:
        with self._crew.changed:
            self.job = self._crew.take()
            return self.job

    def _finish_job(self) -> None:
        with self._crew.changed:
            self.job = None
            condemned, self.condemned = self.condemned, False
        if condemned:
            self._end_child()

    def _end_child(self) -> None:
        with self._crew.changed:
            child, self.child = self.child, None
        if child is not None:
            child.end()

    def _call(self, job: _Job) -> bytes:
        with naming(job.task.label):
            child = self._living_child()
        try:
            return child.call(job.call)
        except (EOFError, OSError):
            how = child.end()
            raise WorkerDiedError(f"{job.task.label}: expected a result, but its worker process {how}") from None
        except Exception:
            # Half an answer may have been read: the next one would begin in its midst.
            child.end()
            raise

    def _living_child(self) -> Child:
        if self.child is not None and not self.child.alive():
            self._end_child()
        with self._crew.changed:
            if self.child is None:
                self.child = Child()
                if self._crew.closed or self.condemned:
                    self.child.process.kill()
            return self.child
