"""Progress of a local run: bars on a terminal, a line now and then where the output is a file."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from beam_volumes.progress import ProgressReader

_SECONDS_BETWEEN_LOOKS = 0.25
_SECONDS_BETWEEN_LINES = 30.0


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """Shows on standard error what workers log at `path`.

    Args:
        stages: elements planned, by stage; None where that is not known beforehand.
        path: where a `ProgressLog` adds to.

    """

    def __init__(self, stages: Mapping[str, int | None], path: str) -> None:
        self._stages = stages
        self._reader = ProgressReader(path)
        self._ended = threading.Event()
        self._console = Console(stderr=True)
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def __enter__(self) -> ProgressBar:
        """Begin to show."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show where it ended."""
        self._ended.set()
        self._thread.join()

    def _show(self) -> None:
        if self._console.is_terminal:
            self._show_bars()
        else:
            self._show_lines()

    def _show_bars(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as bars:
            tasks: dict[str, TaskID] = {name: bars.add_task(name, total=total) for name, total in self._stages.items()}
            last = False
            while not last:
                last = self._ended.wait(_SECONDS_BETWEEN_LOOKS)
                totals = self._reader.totals()
                for name, task in tasks.items():
                    done = totals.get(name, 0)
                    # Nothing more will come: what was done is all that there was.
                    bars.update(task, completed=done, total=done if last and self._stages[name] is None else None)

    def _show_lines(self) -> None:
        last, printed_at = False, time.monotonic()
        while not last:
            last = self._ended.wait(_SECONDS_BETWEEN_LOOKS)
            if last or time.monotonic() - printed_at > _SECONDS_BETWEEN_LINES:
                done = self._reader.totals()
                line = ", ".join(
                    f"{name} {done.get(name, 0)}{'' if n is None else f'/{n}'}" for name, n in self._stages.items()
                )
                # As it is: in a file there is no width to wrap at, and nothing to be coloured.
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
                printed_at = time.monotonic()
