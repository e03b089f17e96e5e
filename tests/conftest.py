"""What all tests stand on."""

import gc
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_counts() -> Iterator[None]:
    """A shell lets what it starts in the background ignore Ctrl-C, and all that is started from there, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def all_is_closed() -> Iterator[None]:
    """What a module has left open is told of there, not whenever the collector happens to run."""
    yield
    gc.collect()
