"""What benchmarks share: a volume, and commands run in turn, each measured as a whole (wall clock, CPU, memory)."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from pipelines import export

IGNEOUS = str(Path(sys.executable).with_name("igneous"))
"""Its command, of the environment that runs the benchmark."""

_POLL_SECONDS = 0.1


class Measurement(NamedTuple):
    """One run of a command; memory is the largest single process, and the largest sum over the tree.

    CPU is that of all processes of the tree, also of those that nobody waited for.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_process_bytes: int
    peak_tree_bytes: int


_RATIOS: dict[str, Callable[[Measurement], float]] = {
    "wall ratio": lambda m: m.wall_seconds,
    "CPU ratio": lambda m: m.cpu_seconds,
    "memory ratio": lambda m: m.peak_tree_bytes,
}
"""Of each contender to the last one; memory is that of all processes."""


class Contender(NamedTuple):
    """A command to measure; `prepare` runs before each measurement, outside of it."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], None]


def volume_options(description: str) -> argparse.ArgumentParser:
    """Return the options of a benchmark that makes a volume and handles it: their names mean the same in all."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", default="1024,1024,1024", help="voxels of the volume, x,y,z")
    parser.add_argument("--encoding", default="compressed_segmentation")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--memory_target", type=int, default=3_500_000_000)
    parser.add_argument("--folder", help="where to work; by default a temporary folder")
    return parser


def make_neurons(url: str, size: str, *options: str) -> None:
    """Write a uint64 segmentation; `options` are those of pipelines.export.

    Raises:
        RuntimeError: it could not be written.

    """
    status = export.main([f"--src=made://neurons?size={size}", f"--dst={url}", *options])
    if status:
        raise RuntimeError(f"the source could not be made: exit status {status}")


def measure(contender: Contender) -> Measurement:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with the end of what it printed.

    """
    contender.prepare()
    before = os.times()
    started = time.perf_counter()
    process = subprocess.Popen(contender.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peaks, seconds = [0, 0], dict[int, float]()
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks, seconds), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    wall = time.perf_counter() - started
    after = os.times()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{contender.name}: exit status {process.returncode}\n{output[-4000:]}")
    waited_for = after.children_user + after.children_system - before.children_user - before.children_system
    return Measurement(wall, max(waited_for, sum(seconds.values())), peaks[0], peaks[1])


def compare(title: str, contenders: Sequence[Contender], rounds: int) -> dict[str, list[Measurement]]:
    """Measure contenders in turn (A B A B ...), print medians and the ratio of each to the last contender."""
    runs: dict[str, list[Measurement]] = {c.name: [] for c in contenders}
    for round_number in range(rounds):
        for contender in contenders:
            result = measure(contender)
            runs[contender.name].append(result)
            print(
                f"{title} {round_number + 1}/{rounds} {contender.name}: wall {result.wall_seconds:.1f} s, "
                f"CPU {result.cpu_seconds:.1f} s, tree {result.peak_tree_bytes / 1e6:.0f} MB",
                file=sys.stderr,
            )
    show(title, runs)
    return runs


def show(title: str, runs: dict[str, list[Measurement]]) -> None:
    """Print medians and the ratio of each contender to the last one; all were measured as often."""
    base = list(runs.values())[-1]
    table = Table(title=f"{title}: medians of {len(base)} rounds, in turn")
    for column in ("", "wall s", "CPU s", "largest process MB", "all processes MB", *_RATIOS):
        table.add_column(column, justify="right")
    for name, mine in runs.items():
        table.add_row(
            name,
            f"{_median(m.wall_seconds for m in mine):.1f}",
            f"{_median(m.cpu_seconds for m in mine):.1f}",
            f"{_median(m.peak_process_bytes for m in mine) / 1e6:.0f}",
            f"{_median(m.peak_tree_bytes for m in mine) / 1e6:.0f}",
            *(f"{_median(of(a) / of(b) for a, b in zip(mine, base, strict=True)):.2f}" for of in _RATIOS.values()),
        )
    Console(width=120).print(table)


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def _watch(pid: int, peaks: list[int], seconds: dict[int, float]) -> None:
    """Keep the largest sizes, and the seconds of CPU that each process had when it was last seen, until all are gone.

    A pool that ends its processes leaves nobody to wait for them, and their CPU is in no sum of the system's.
    """
    while True:
        try:
            root = psutil.Process(pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        sizes = [_size(p) for p in tree]
        if not any(sizes):
            return
        seconds.update((p.pid, spent) for p in tree if (spent := _seconds(p)))
        peaks[0] = max(peaks[0], *sizes)
        peaks[1] = max(peaks[1], sum(sizes))
        time.sleep(_POLL_SECONDS)


def _size(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0.0
