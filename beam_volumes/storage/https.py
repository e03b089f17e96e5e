"""Files behind a web server: for reading only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NoReturn

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from beam_volumes.errors import DestinationError, SourceError
from beam_volumes.storage.remote import TRIES, http_failure, local_failure, network_failure, retried
from beam_volumes.storage.store import Attributes, Entry, Failure, Pending

_TIMEOUT_S = 60
_BLOCK_BYTES = 1 << 20
_MISSING = (404, 410)
_TOO_FAR = 416
_PARTIAL = 206
_TRANSIENT = (429, 500, 502, 503, 504)


class HttpsStore:
    """The files below `url`, which cannot be listed."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        return self._get(name, 0, None)

    def read_range(self, name: str, start: int, length: int) -> bytes | None:
        """Return `length` bytes from `start`, fewer at the end, or None where there is no such file."""
        return self._get(name, start, length)

    def size(self, name: str) -> int | None:
        """Return a file's bytes."""
        with _session().head(self._at(name), timeout=_TIMEOUT_S, allow_redirects=True) as answer:
            if answer.status_code in _MISSING:
                return None
            answer.raise_for_status()
            if "Content-Length" not in answer.headers:
                raise SourceError(
                    f"{self._at(name)}: expected the server to tell the size, came none: use gs:// or s3://"
                )
            return int(answer.headers["Content-Length"])

    def names(self, prefix: str) -> Iterator[str]:
        """Refuse."""
        self._refuse_to_list(prefix)

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Refuse."""
        self._refuse_to_list(prefix)

    def write(self, name: str, data: bytes, attributes: Attributes) -> None:
        """Refuse."""
        self._refuse(name)

    def begin(self, name: str, attributes: Attributes) -> Pending:
        """Refuse."""
        self._refuse(name)

    def create(self, name: str, data: bytes) -> bool:
        """Refuse."""
        self._refuse(name)

    def delete(self, names: Iterable[str]) -> None:
        """Refuse."""
        self._refuse("")

    def delete_folder(self, prefix: str) -> None:
        """Refuse."""
        self._refuse(prefix)

    def delete_abandoned(self, prefix: str) -> None:
        """Refuse."""
        self._refuse(prefix)

    def prune(self, prefix: str) -> None:
        """Do nothing: a folder is but a part of names."""

    def explain(self, error: Exception) -> Failure | None:
        """Tell why the server, or the way to it, failed."""
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return http_failure(error.response.status_code, error.response.reason or "")
        if isinstance(error, requests.RequestException):
            return network_failure(error)
        return local_failure(error) if isinstance(error, OSError) else None

    def _at(self, name: str) -> str:
        return f"{self._url}/{name}" if name else self._url

    def _refuse_to_list(self, prefix: str) -> NoReturn:
        raise SourceError(
            f"{self._at(prefix)}: expected a place whose files can be listed, came a web server: use gs:// or s3://"
        )

    def _refuse(self, name: str) -> NoReturn:
        raise DestinationError(
            f"{self._at(name)}: expected a place to write to, came a web server, which is read only: "
            "choose a local path, gs:// or s3://"
        )

    def _get(self, name: str, start: int, length: int | None) -> bytes | None:
        # A range is one of stored bytes, so nothing may be compressed on the way.
        headers = {"Accept-Encoding": "identity"}
        if length is not None:
            headers["Range"] = f"bytes={start}-{start + length - 1}"

        def get() -> bytes | None:
            with _session().get(self._at(name), headers=headers, timeout=_TIMEOUT_S, stream=True) as answer:
                if answer.status_code in _MISSING:
                    return None
                if answer.status_code == _TOO_FAR:
                    return b""
                answer.raise_for_status()
                if answer.status_code == _PARTIAL or length is None:
                    return answer.content
                return _part(answer, start, length)

        # The session tries requests again, but not the reading of an answer.
        return retried(get, (requests.exceptions.ChunkedEncodingError,))


def _part(answer: requests.Response, start: int, length: int) -> bytes:
    """Return a part of the whole file, which a server without ranges sends."""
    found = bytearray()
    for block in answer.iter_content(_BLOCK_BYTES):
        found += block
        if len(found) >= start + length:
            break
    return bytes(found[start : start + length])


def _session() -> requests.Session:
    return _session_of_process(os.getpid())


@lru_cache(maxsize=1)
def _session_of_process(pid: int) -> requests.Session:
    """Return this process's session: after a fork the parent's connections must not be used."""
    retry = Retry(total=TRIES - 1, status_forcelist=_TRANSIENT, backoff_factor=0.5, raise_on_status=False)
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=16))
    return session
