"""What stores behind a network share: spooling, tries, and many requests at once."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import BinaryIO, TypeVar

from beam_volumes.storage.store import Failure, explain_os_error
from beam_volumes.storage.urls import redacted

T = TypeVar("T")
U = TypeVar("U")

TRIES = 3
PARALLEL = 8
"""Requests at once; the clients keep ten connections."""

CREATOR = "beam-volumes-creator"
"""The metadata that tells a creator whose answer was lost, and who asked again, that the file is its own."""

_FIRST_PAUSE_S = 0.5
_BATCH = 1000

_ADVICE = {
    400: "check the location",
    401: "sign in (gs: gcloud auth application-default login; s3: aws configure), or use an account with the right",
    403: "give this account the right to it, or use another account",
    404: "check that the bucket exists and its name is right",
    412: "somebody else writes there: find out who, then give the same command again",
    429: "too many requests: use fewer workers, or give the same command again later",
}
_LATER = "see to it, then give the same command again"


class RemotePending:
    """A file in the temporary folder that is uploaded when it is complete.

    It has no name there, so nothing of it stays when the process is killed.
    """

    def __init__(self, upload: Callable[[BinaryIO], None]) -> None:
        self.descriptor, path = tempfile.mkstemp(prefix="beam-volumes-")
        os.unlink(path)
        self._upload = upload

    def commit(self, file: BinaryIO) -> None:
        """Upload it."""
        file.seek(0)
        self._upload(file)
        file.close()

    def abort(self) -> None:
        """Nothing is left to remove."""


def retried(action: Callable[[], T], errors: tuple[type[Exception], ...]) -> T:
    """Do `action`, anew after `errors`, `TRIES` times in all with growing pauses."""
    for attempt in range(TRIES - 1):
        try:
            return action()
        except errors:
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
    return action()


def in_parallel(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Yield `function` of each item, in order, several at once; the items may be very many."""
    rest = iter(items)
    with ThreadPoolExecutor(PARALLEL) as pool:
        while batch := list(islice(rest, _BATCH)):
            yield from pool.map(function, batch)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def http_failure(status: int, reason: str) -> Failure:
    """Tell why a server refused."""
    return Failure(f"HTTP {status} {redacted(reason)}".strip(), _ADVICE.get(status, _LATER))


def credentials_failure(error: Exception) -> Failure:
    """Tell that there are no credentials, or that they are not accepted."""
    return Failure(f"no valid credentials ({type(error).__name__})", _ADVICE[401])


def local_failure(error: OSError) -> Failure:
    """Tell of the operating system's refusal, which is about the temporary folder unless it is about the network."""
    if error.errno is None or isinstance(error, ConnectionError):
        return network_failure(error)
    reason, advice = explain_os_error(error)
    return Failure(
        f"{reason} in the temporary folder {tempfile.gettempdir()}",
        f"{advice}; TMPDIR names another temporary folder",
    )


def network_failure(error: Exception) -> Failure:
    """Tell of any other error, without secrets."""
    return Failure(f"{type(error).__name__} ({redacted(str(error))[:300]})", _LATER)
