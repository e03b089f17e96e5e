"""How workers on one machine tell a launcher what they have done: lines appended to one file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ProgressLog:
    """Adds to the file at `path`; any number of processes may do so at once. Does nothing where `path` is None."""

    path: str | None

    def add(self, stage: str, done: int) -> None:
        """Say that `done` more units of `stage` are done."""
        if self.path is None:
            return
        # One write to a file opened for appending is whole: the system moves to the end and writes in one step.
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, f"{done} {stage}\n".encode())
        finally:
            os.close(handle)


@dataclass
class ProgressReader:
    """Adds up the file at `path`, which need not exist yet."""

    path: str
    _offset: int = field(default=0, init=False)
    _totals: dict[str, int] = field(default_factory=dict, init=False)

    def totals(self) -> dict[str, int]:
        """Return units done by stage; reads only what has been added since the last call."""
        if Path(self.path).exists():
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                news = file.read()
            # The last line may still be on its way on a file system that does not write in one step.
            news = news[: news.rfind(b"\n") + 1]
            self._offset += len(news)
            for line in news.decode().splitlines():
                done, stage = line.split(" ", 1)
                self._totals[stage] = self._totals.get(stage, 0) + int(done)
        return dict(self._totals)
