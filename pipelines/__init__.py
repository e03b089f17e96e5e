"""Commands: one module each, with its Config, how its job is wired, and a `main`."""

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from beam_volumes.importing import without_collection


def interrupts_are_raised() -> None:
    """Let Ctrl-C raise KeyboardInterrupt: from here on there is somebody to catch it."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End at once; what libraries make of a KeyboardInterrupt while they are imported varies."""
    os.write(2, b"stopped: nothing has begun\n")
    os._exit(130)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log record is something else than Beam's note, when it is imported, that BigQuery could not be used."""
    return not str(record.msg).startswith("apitools not found")


logging.getLogger().addFilter(_is_news)

# So Python is called while it looks for the module of `python -m`, whose imports take seconds.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _stop)

with without_collection():
    import apache_beam  # noqa: F401 - nothing else takes as long to import
