"""What all tests stand on."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_volumes.builder import CueMissingError
from beam_volumes.builder.cue import evaluate
from beam_volumes.testing.mariadb_server import MariaDbServer, ServerMissingError, running_server


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


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDbServer]:
    """A MariaDB server that offers TLS; a test takes a database of its own."""
    yield from _mariadb(tls=True)


@pytest.fixture(scope="session")
def mariadb_without_tls() -> Iterator[MariaDbServer]:
    yield from _mariadb(tls=False)


def _mariadb(*, tls: bool) -> Iterator[MariaDbServer]:
    try:
        with running_server("--innodb-flush-log-at-trx-commit=0", tls=tls) as server:
            yield server
    except ServerMissingError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cue_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Something here reads CUE."""
    file: Path = tmp_path_factory.mktemp("cue") / "spec.cue"
    file.write_text("a: 1")
    try:
        evaluate(file)
    except CueMissingError as error:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{error} (make cue installs it)")
