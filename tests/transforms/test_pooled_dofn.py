"""Heavy DoFns in real pipelines: each element comes out once, or the run fails at once with its name."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_volumes.errors import SourceError, VolumeError, WorkerDiedError
from beam_volumes.process_pool import Task
from beam_volumes.progress import ProgressReader
from transforms.pool import Execution, PooledDoFn

TASKS = '''
import os, signal, time
from beam_volumes.errors import SourceError

class TwoPartsError(Exception):
    """Beam cannot copy it."""
    def __init__(self, text, part):
        super().__init__(text)
        self.part = part

def square(n):
    return n * n

def slow_if_even(n):
    time.sleep(0.002 * (n % 2 == 0))
    return n * n

def fail_at_7(n, kind, *args):
    if n == 7:
        raise kind(*args)
    return n * n

def die_at_7(n):
    if n == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n

def hang_unless_7(n):
    if n == 7:
        raise SourceError("torn")
    time.sleep(60)
'''

PROGRAM = """
import sys, time
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from beam_volumes.process_pool import Task
from transforms.pool import Execution, PooledDoFn

class Sleep(PooledDoFn):
    def task(self, element):
        # With two processes both are at work by now.
        if element == 2 * (self._execution.processes - 1):
            print("ready", flush=True)
        return Task(time.sleep, (60,), f"region {element}")

pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([]))
pipeline | beam.Create(range(9)) | beam.ParDo(Sleep(Execution(int(sys.argv[1]), None)))
try:
    pipeline.run()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A module of functions where children look too; they cannot import the tests."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "dofn_tasks.py").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("dofn_tasks")
    del sys.modules["dofn_tasks"]


@pytest.fixture(autouse=True)
def never_hangs() -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the test has taken too long")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 30)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Run(PooledDoFn):
    """Calls a function with each element; pairs out, and multiples of 10 besides."""

    def __init__(self, execution: Execution, function: Any, *args: Any) -> None:
        super().__init__(execution)
        self._function, self._args = function, args

    def task(self, element: int) -> Task:
        return Task(self._function, (element, *self._args), f"region {element}")

    def outputs(self, task: Task, result: int) -> Iterator[Any]:
        element = task.args[0]
        self.count("regions", 1)
        self.count("voxels", 100)
        yield element, result
        if element % 10 == 0:
            yield beam.pvalue.TaggedOutput("tens", element)


def pipeline_of(*options: str) -> beam.Pipeline:
    return beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(options)))


def run(elements: Iterable[int], fn: PooledDoFn, *options: str) -> Any:
    """Run `fn` in a pipeline that checks that each element comes out once; return the result."""
    pipeline = pipeline_of(*options)
    inputs = pipeline | beam.Create(list(elements), reshuffle=False)
    done = inputs | "Run" >> beam.ParDo(fn).with_outputs("tens", main="pairs")
    assert_that(done.pairs, equal_to([(n, n * n) for n in elements]), label="Pairs")
    assert_that(done.tens, equal_to([n for n in elements if n % 10 == 0]), label="Tens")
    return pipeline.run()


def no_pool_is_left() -> bool:
    """Whether all pools of this program have ended, and their processes with them."""
    return "process-pool" not in {thread.name for thread in threading.enumerate()}


def counters(result: Any) -> dict[str, int]:
    metrics = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("beam_volumes"))
    return {counter.key.metric.name: counter.committed for counter in metrics["counters"]}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 5, 500])
def test_each_element_comes_out_once(processes: int, n: int, tasks: Any, tmp_path: Path) -> None:
    log = str(tmp_path / "progress")
    result = run(range(n), Run(Execution(processes, log), tasks.square))
    expected = {"regions": n, "voxels": 100 * n} if n else {}
    assert counters(result) == expected
    assert no_pool_is_left()
    assert ProgressReader(log).totals() == expected


def test_elements_that_end_out_of_order_keep_their_results(tasks: Any) -> None:
    run(range(100), Run(Execution(2, None), tasks.slow_if_even))


@pytest.mark.parametrize("processes", [1, 2])
def test_bundles_that_are_done_twice_come_out_once(processes: int, tasks: Any) -> None:
    run(range(50), Run(Execution(processes, None), tasks.square), "--direct_runner_bundle_repeat=2")


def test_several_dofns_of_a_stage_share_processes(tasks: Any) -> None:
    pipeline = pipeline_of()
    execution = Execution(2, None)
    done = (
        pipeline
        | beam.Create(range(40))
        | "First" >> beam.ParDo(Run(execution, tasks.square))
        | beam.Values()
        | "Second" >> beam.ParDo(Run(execution, tasks.square))
    )
    assert_that(done, equal_to([(n**2, n**4) for n in range(40)]))
    pipeline.run()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("kind", "args", "text"),
    [
        (SourceError, ("torn",), r"torn \(in region 7\) \[while running 'Run"),
        (KeyError, ("mip",), r"mip \(in region 7\) \[while running 'Run"),
        (MemoryError, (), r"^region 7: .* ran out of memory \(MemoryError\): .* \[while running 'Run"),
    ],
)
def test_an_error_fails_the_run_with_its_type_and_element(
    processes: int, kind: type[Exception], args: tuple[Any, ...], text: str, tasks: Any, tmp_path: Path
) -> None:
    log = str(tmp_path / "progress")
    expected = WorkerDiedError if kind is MemoryError else kind
    with pytest.raises(expected, match=text) as caught:
        run(range(20), Run(Execution(processes, log), tasks.fail_at_7, kind, *args))
    assert type(caught.value) is expected
    assert ProgressReader(log).totals()["regions"] < 20


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_that_beam_cannot_copy_keeps_its_text_and_element(processes: int, tasks: Any) -> None:
    with pytest.raises((RuntimeError, VolumeError), match=r"Error: torn.*in region 7.*while running 'Run"):
        run(range(20), Run(Execution(processes, None), tasks.fail_at_7, tasks.TwoPartsError, "torn", 3))
    with pytest.raises(RuntimeError, match=r"FileNotFoundError: \[Errno 2\] none: 'a' \(in region 7\) \[while running"):
        run(range(20), Run(Execution(processes, None), tasks.fail_at_7, FileNotFoundError, 2, "none", "a"))


def test_an_error_does_not_wait_for_other_elements(tasks: Any) -> None:
    at = time.monotonic()
    with pytest.raises(SourceError, match=r"torn \(in region 7\)"):
        run([1, 7, 2, 3, 4], Run(Execution(2, None), tasks.hang_unless_7))
    assert time.monotonic() - at < 5
    assert no_pool_is_left()


def test_a_worker_that_dies_fails_the_run_with_its_element(tasks: Any) -> None:
    at = time.monotonic()
    with pytest.raises(WorkerDiedError, match=r"^region 7: .* was killed by SIGKILL .* \[while running 'Run") as caught:
        run(range(20), Run(Execution(2, None), tasks.die_at_7))
    assert type(caught.value) is WorkerDiedError
    assert time.monotonic() - at < 5
    assert no_pool_is_left()
    # The next run in this program is not touched by it.
    run(range(20), Run(Execution(2, None), tasks.square))


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_making_outputs_names_its_element(processes: int, tasks: Any) -> None:
    class Choosy(Run):
        def outputs(self, task: Task, result: int) -> Iterator[Any]:
            if result == 49:
                raise VolumeError("expected anything but 49")
            return super().outputs(task, result)

    with pytest.raises(VolumeError, match=r"expected anything but 49 \(in region 7\) \[while running 'Run"):
        run(range(20), Choosy(Execution(processes, None), tasks.square))


def test_a_task_that_cannot_travel_names_its_element(tasks: Any) -> None:
    class Local(Run):
        def task(self, element: int) -> Task:
            return super().task(element)._replace(function=lambda n: n)

    with pytest.raises(Exception, match=r"lambda.* \(in region 0\) \[while running 'Run"):
        run(range(20), Local(Execution(2, None), tasks.square))


def bundle(fn: PooledDoFn, elements: Iterable[int]) -> list[Any]:
    """Run a bundle and return its main outputs."""
    fn.start_bundle()
    return [pair for n in elements for pair in values(fn.process(n))] + values(fn.finish_bundle())


def values(outputs: Iterable[Any]) -> list[Any]:
    """Return the main outputs, out of their windows at the end of a bundle."""
    found = []
    for output in outputs:
        if isinstance(output, beam.pvalue.TaggedOutput):
            continue
        if isinstance(output, WindowedValue):
            assert output.windows == (GlobalWindow(),)
            output = output.value
        found.append(output)
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bundle_that_is_done_again_after_a_failure_gives_each_element_once(processes: int, tasks: Any) -> None:
    fn = Run(Execution(processes, None), tasks.fail_at_7, SourceError, "torn")
    fn.setup()
    try:
        for _ in range(3):
            with pytest.raises(SourceError, match=r"torn \(in region 7\)"):
                bundle(fn, [7, 1, 2, 3])
            assert sorted(bundle(fn, range(6))) == [(n, n * n) for n in range(6)]
    finally:
        fn.teardown()


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_stops_a_run_at_once(processes: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(processes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # As a terminal does: to the program and its children.
        os.killpg(process.pid, signal.SIGINT)
    finally:
        # They all hold its standard error: this returns when all have ended.
        process.communicate(timeout=10)
    assert process.returncode == 130
