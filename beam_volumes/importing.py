"""Importing without looks for garbage: there is none, and to look through all that was imported takes long."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pause the collection of garbage; what was imported is not looked at again afterwards, either.

    To look takes a third of the time that the imports of a command take, and a sixth of those of a worker.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
