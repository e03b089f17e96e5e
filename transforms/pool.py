"""Heavy work: on one machine in a pool of processes, because the local runner has one core; elsewhere by a direct call.

On Dataflow each vCPU has a process of its own, so the pool has size 1 there, and calls directly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.transforms.window import GlobalWindows

from beam_volumes.child_process import naming
from beam_volumes.process_pool import Task, acquire, release
from beam_volumes.progress import ProgressLog

_METRICS = "beam_volumes"
"""The namespace of all counters."""


@dataclass(frozen=True)
class Execution:
    """How heavy work is run.

    Attributes:
        processes: of the pool that all DoFns of one process share; 1 is a direct call.
        progress: path of the file in which a local launcher looks for progress; None for none.

    """

    processes: int
    progress: str | None


class PooledDoFn(beam.DoFn):
    """Makes a task of each element, and outputs of the task's result; works on several elements at a time.

    Outputs of an element may come while a later one is processed, or at the end of the bundle: all is in the global
    window. When an element fails the bundle does, with the element's label in the message; the other elements that were
    in flight are given up.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def task(self, element: Any) -> Task:
        """Return the work on one element."""
        raise NotImplementedError

    def outputs(self, task: Task, result: Any) -> Iterable[Any]:
        """Yield what comes of a task: values, and `beam.pvalue.TaggedOutput` for other outputs than the main one."""
        raise NotImplementedError

    def count(self, name: str, done: int) -> None:
        """Add to the counter `name`, and to the stage of that name in the local progress; called from `outputs`."""
        counter: Any = Metrics.counter(_METRICS, name)
        counter.inc(done)
        ProgressLog(self._execution.progress).add(name, done)

    def setup(self) -> None:
        """Open the pool."""
        self._pool = acquire(self._execution.processes)

    def start_bundle(self) -> None:
        """Drop what a bundle that failed has left behind; it is done again from the start, here or elsewhere."""
        self._pool.discard()

    def process(self, element: Any) -> Iterator[Any]:
        """Start on an element, and wait for others while there is too much in flight."""
        with _kept_by_beam():
            self._pool.submit(self.task(element))
        while self._pool.full:
            yield from self._next_outputs()

    def finish_bundle(self) -> Iterator[Any]:
        """Wait for the rest."""
        while self._pool.in_flight:
            for output in self._next_outputs():
                if isinstance(output, beam.pvalue.TaggedOutput):
                    yield beam.pvalue.TaggedOutput(output.tag, GlobalWindows.windowed_value(output.value))
                else:
                    yield GlobalWindows.windowed_value(output)

    def teardown(self) -> None:
        """Close the pool."""
        release(self._pool)

    def _next_outputs(self) -> Iterator[Any]:
        with _kept_by_beam():
            task, result = self._pool.next_result()
            with naming(task.label):
                yield from self.outputs(task, result)


@contextlib.contextmanager
def _kept_by_beam() -> Iterator[None]:
    """Give what is raised inside a form that is left of it when Beam raises its copy."""
    try:
        yield
    except KeyboardInterrupt:
        # Beam makes the copy from the first argument; without one it would be a RuntimeError.
        raise KeyboardInterrupt("interrupted") from None
    except Exception as error:
        _put_notes_in_text(error)
        raise


def _put_notes_in_text(error: Exception) -> None:
    """Move the notes, which name the element, to where Beam keeps them.

    Beam raises a copy made from the arguments with the step's name behind the first; where that fails, a RuntimeError
    with the last line of the error's text.
    """
    told = [note for note in getattr(error, "__notes__", []) if note.removeprefix("in ") not in str(error)]
    notes = "; ".join(told)
    if not notes:
        return
    if error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} ({notes})", *error.args[1:])
        del error.__notes__
    else:
        error.__notes__ = [f"{type(error).__name__}: {error} ({notes})"]
