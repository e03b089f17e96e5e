"""Running a job: options in, exit status out; the same for every pipeline.

Exit status: 0 done; 1 failed when something may have been written or removed (the same command again goes on);
2 refused before that; 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_volumes.errors import DestinationError, VolumeError
from beam_volumes.places import check_for_workers
from beam_volumes.process_pool import acquire, release
from beam_volumes.runs import Claim, is_committed, take
from beam_volumes.storage import Folder, join
from pipelines import interrupts_are_raised
from pipelines.beam_options import beam_options, is_local, with_defaults, workers_at_most
from pipelines.options import parse
from pipelines.progress_bar import ProgressBar
from pipelines.tables import print_rows, report_rows
from transforms.pool import Execution

_INLINE_BYTES = 2**11
"""On a cluster smaller payloads go through the shuffle; a local shuffle is memory, and lost with the process.

All of them that one owner takes are in memory there: 2 GB at most of a million, whose tables take 0.5 GB.
"""


_COLOUR = r"\x1b\[[0-9;]*m"
_STEP = r" \[while running '[^']*'\]"
_FAULT = re.compile(r"\n(?=[0-9]+\. )")
"""Between faults, as `beam_volumes.errors.fault_report` tells them."""


@dataclass(frozen=True)
class Setting:
    """What a plan may know of how the job will run.

    Attributes:
        local: whether the workers are processes of this machine, which have its files and environment variables.
        workers: worker processes; they share what is limited over the whole run. None where it is not known.
        inline_bytes: up to how many bytes an element may send to one owner without a pack.

    """

    local: bool
    workers: int | None
    inline_bytes: int

    def check_reachable(self, places: Sequence[tuple[str, str | None]], token_env: str | None) -> None:
        """Refuse places (by option) and tokens that the workers cannot reach; see `check_for_workers`."""
        if not self.local:
            check_for_workers(places, token_env)


@dataclass(frozen=True)
class Job:
    """A planned job.

    Attributes:
        claim: on the destination, not yet taken.
        summary: what `--plan` prints, row by row; made only then, as it may have to read samples.
        stages: elements planned by stage, for the progress bars; None where that is not known beforehand.
        build: wires the graph.
        processes: of a local run; at most as many as the plan was told of.
        modules: what its tasks import.
        settle: makes sure that a complete volume stands as it was written, and removes what its run kept.
        warnings: what the user should know before it starts.
        beam_defaults: options of Apache Beam, for where the command line gives none; not for a local run.

    """

    claim: Claim
    summary: Callable[[], list[tuple[str, str]]]
    stages: Mapping[str, int | None]
    build: Callable[[beam.Pipeline, Execution], None]
    settle: Callable[[], None]
    processes: int
    modules: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    beam_defaults: Mapping[str, Any] = field(default_factory=dict)


def run(config_class: type[Any], plan: Callable[[Any, Setting], Job], argv: Sequence[str]) -> int:
    """Run the command that `config_class` and `plan` make; return its exit status."""
    try:
        interrupts_are_raised()
        return _run(config_class, plan, argv)
    except KeyboardInterrupt:
        _say("stopped: give the same command again to go on where it stopped")
        return 130


def _run(config_class: type[Any], plan: Callable[[Any, Setting], Job], argv: Sequence[str]) -> int:
    try:
        config, rest = parse(config_class, argv)
        options = beam_options(rest)
        processes = config.processes or os.cpu_count() or 1
        local = is_local(options)
        workers = processes if local else workers_at_most(options)
        job = plan(config, Setting(local, workers, 0 if local else _INLINE_BYTES))
        for warning in job.warnings:
            _say(f"warning: {warning}")
        if config.plan:
            print_rows("plan", job.summary())
            return 0
    except VolumeError as error:
        return _fail(error, 2)
    try:
        if job.claim.state == "complete":
            _say(
                "nothing to do: the same command has been here before; whether voxels have changed since is not looked "
                "at, --overwrite does all anew"
            )
            # It may have been killed just after its report.
            job.settle()
            return _show_report(job.claim)
        take(job.claim)
        return _run_locally(job, options) if local else _launch(job, options)
    except VolumeError as error:
        return _fail(error, 1)


def _run_locally(job: Job, options: PipelineOptions) -> int:
    """Run in this process, heavy work in a pool of processes; Beam's other local engines lose elements."""
    with tempfile.TemporaryDirectory(prefix="beam-volumes-") as folder:
        log = str(Path(folder) / "progress")
        try:
            with ProgressBar(job.stages, log), _told_once(), _interrupted_in_words(), _workers_starting(job):
                pipeline = beam.Pipeline(runner=FnApiRunner(), options=options)
                job.build(pipeline, Execution(job.processes, log))
                pipeline.run().wait_until_finish()
        except VolumeError as error:
            if not _is_complete(job):
                return _fail(error, 1)
            _say("another run of the same command, at the same time, has completed the volume")
    return _show_report(job.claim)


@contextlib.contextmanager
def _workers_starting(job: Job) -> Iterator[None]:
    """Let the workers start, and import what their tasks need, while the job is still being built."""
    pool = acquire(job.processes)
    try:
        pool.start(job.modules)
        yield
    finally:
        release(pool)


def _is_complete(job: Job) -> bool:
    """Whether another run of the same command has committed the volume; if so, what it cannot know of is removed."""
    if job.claim.state == "incomplete":
        # It was committed before, and tells nothing of what is made anew.
        return False
    try:
        complete = is_committed(job.claim)
        if complete:
            job.settle()
    except VolumeError:
        return False
    return complete


@contextlib.contextmanager
def _interrupted_in_words() -> Iterator[None]:
    """Make Ctrl-C raise an error with a text: Beam raises a copy made from it, and without it a RuntimeError."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler and _is_main_thread()
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt("interrupted")


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """Keep Beam from logging, with a traceback, the errors that it raises and that are told in one line."""
    logger = logging.getLogger("apache_beam.runners.common")
    logger.addFilter(_is_unexpected)
    try:
        yield
    finally:
        logger.removeFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Whether a log record is of something else than an error that a user can mend, or Ctrl-C."""
    return not (record.exc_info and isinstance(record.exc_info[1], (VolumeError, KeyboardInterrupt)))


def _launch(job: Job, options: PipelineOptions) -> int:
    """Hand the job to another runner; it commits its own report, so nothing is waited for."""
    pipeline = beam.Pipeline(options=with_defaults(options, job.beam_defaults))
    job.build(pipeline, Execution(1, None))
    result = pipeline.run()
    claim = job.claim
    _say(f"launched: {claim.place} is complete when {claim.report} stands in {claim.url}; state now: {result.state}")
    return 0


def _show_report(claim: Claim) -> int:
    """Print the summary of what stands in the destination."""
    folder = Folder(claim.url)
    report = folder.read_json(claim.report)
    if report is None:
        raise DestinationError(
            f"{claim.url}: expected {claim.report} at the end of the run, but it is gone: somebody has removed what "
            "was written, or begun to replace it"
        )
    rows = report_rows(report)
    # Not every run has something that can be drawn.
    if report.get("picture") and folder.exists(
        picture := posixpath.join(posixpath.dirname(claim.report), report["picture"])
    ):
        rows.append(("picture", join(claim.url, picture)))
    print_rows("done", rows)
    print(f"{claim.place} is complete")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _fail(error: VolumeError, status: int) -> int:
    # Without colours, which libraries put into the messages that ours quote, and without Beam's step. In one line, but
    # for several faults, each of which has its own.
    text = re.sub(rf"{_COLOUR}|{_STEP}", "", str(error))
    first, *others = (" ".join(part.split()) for part in _FAULT.split(text))
    _say("\n  ".join([f"error: {first}", *others]))
    return status
