"""The HTTP session to a proofreading server: who is sent the token, how many connections, how long an answer takes."""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from beam_volumes.graphene.limits import Limits
from beam_volumes.graphene.table import GrapheneTable
from beam_volumes.graphene.tokens import Token


def open_session(table: GrapheneTable, token: Token | None, limits: Limits) -> requests.Session:
    """Return a session for any number of threads; one that finds no free connection waits for one.

    An answer that is not all there in time is given up, which `is_too_slow` tells of the error that is raised.
    """
    session = requests.Session()
    session.auth = _BearerAuth(table, token)
    session.headers.update({"User-Agent": "beam-volumes", "Accept-Encoding": "identity"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter(limits)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def is_too_slow(error: BaseException) -> bool:
    """Whether it was the time for a whole answer that an error came of."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, _TooSlowError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


class _BearerAuth(AuthBase):
    """Adds the token, to requests for its server alone; being there, it keeps requests from reading netrc."""

    def __init__(self, table: GrapheneTable, token: Token | None) -> None:
        self._origin, self._token = table.origin, token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        to = urlsplit(str(request.url))
        if self._token and f"{to.scheme}://{to.netloc}" == self._origin:
            request.headers["Authorization"] = f"Bearer {self._token.reveal()}"
        return request


class _Adapter(HTTPAdapter):
    """Opens as many connections as requests may be in flight, directly or through a proxy."""

    def __init__(self, limits: Limits) -> None:
        self._pool_classes = _pool_classes(limits.answer_timeout)
        super().__init__(pool_connections=1, pool_maxsize=limits.max_requests_in_flight, pool_block=True)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pool_classes
        return manager


def _pool_classes(seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """Return urllib3's classes by scheme, whose answers are read by `_TimedResponse`."""

    class Response(_TimedResponse):
        timeout = seconds

    class Connection(HTTPConnection):
        response_class = Response

    class SecureConnection(HTTPSConnection):
        response_class = Response

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}


class _TooSlowError(OSError):
    """An answer was not all there in time."""


class _TimedResponse(HTTPResponse):
    """An answer that must be all there, headers and body, within some seconds of when it was first waited for.

    The timeout of requests is for each read alone: it starts again with every byte that comes.
    """

    timeout: ClassVar[float]

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, self.timeout))


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline, whatever comes how slowly."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float) -> None:
        self._raw, self._socket = raw, sock
        self._deadline = time.monotonic() + seconds
        self._silence = sock.gettimeout() or seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left > 0:
            self._socket.settimeout(min(self._silence, left))
            try:
                return self._raw.readinto(buffer)
            except TimeoutError:
                if self._silence <= left:
                    raise
        raise _TooSlowError("the answer is not all there")

    def close(self) -> None:
        self._raw.close()
        super().close()
