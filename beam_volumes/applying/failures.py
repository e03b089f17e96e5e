"""What is told when code of the user fails: functions, operations, processors."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from beam_volumes.errors import FunctionError, VolumeError
from beam_volumes.storage.urls import redacted


@contextlib.contextmanager
def failures_told(what: str, where: str) -> Iterator[None]:
    """Tell which code has failed, for which voxels, and at which line; errors of this project go through.

    Raises:
        FunctionError: it has failed.

    """
    try:
        yield
    except (VolumeError, MemoryError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise FunctionError(
            f"{what} has failed for {where}: {type(error).__name__}: {redacted(str(error))} ({last.filename}, line "
            f"{last.lineno}, in {last.name}): correct {what}, or what it is given"
        ) from error
