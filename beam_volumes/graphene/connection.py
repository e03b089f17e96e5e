"""Requests to a proofreading server: what is tried again, after how long, and what stops at once."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from beam_volumes.errors import AuthorizationError, ServerError
from beam_volumes.graphene.limits import Limits, RateLimit, Statistics
from beam_volumes.graphene.session import is_too_slow, open_session
from beam_volumes.graphene.table import GrapheneTable
from beam_volumes.graphene.tokens import Token, token_files

_PASSING = frozenset({429, 500, 502, 503, 504})
_WHOLE_TRIES = {413: 1, 500: 3, 504: 1}
"""By status that a long list may be what it is about: how often a list is sent whole before it is halved.

PyChunkGraph answers 500 to whatever it does not handle, but also while it is not well, when halves fare no better.
"""
_FEW_TRIES = 3
"""What waiting seldom mends is tried no more often than that."""
_LOGIN = frozenset({302, 303, 307})
"""Where to log in; PyChunkGraph answers so to a request without a token."""

_FIRST_BACKOFF, _LONGEST_BACKOFF, _LONGEST_RETRY_AFTER = 0.5, 60.0, 600.0
"""Seconds."""

_SHOWN = 200
"""Characters of what came that stand in a message."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Clocks, and how to wait; tests bring their own.

    Attributes:
        clock: seconds that never run backwards.
        now: UNIX time.
        sleep: waits for some seconds; None to wait, but no longer than until the connection is closed.
        jitter: 0 to 1.

    """

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], object] | None = None
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        where: what it is for, for messages.
        ids: how many ids it asks for.
        answer_bytes: length of the right answer; None where it is not known.
        tries: the first included; None for what the limits say.
        optional: whether 404 is a legal answer, None, to say that the server has no such thing.

    """

    method: str
    url: str
    where: str
    params: Mapping[str, int] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/octet-stream"
    ids: int = 0
    answer_bytes: int | None = None
    tries: int | None = None
    optional: bool = False


class TooMuchError(Exception):
    """The server may be able to answer a shorter list of ids; whoever asked it has waited already."""


@dataclass(frozen=True)
class _Failure:
    """Why a try failed; `retry_after` are seconds, `passing` whether waiting is likely to mend it."""

    reason: str
    status: int = 0
    retry_after: float | None = None
    passing: bool = True


class Connection:
    """Sends requests from any number of threads over one session.

    Args:
        table: the server.
        token: for that server alone; None sends none.
        limits: of which the requests in flight are held by waiting for a free connection.
        timing: clocks.

    """

    def __init__(self, table: GrapheneTable, token: Token | None, limits: Limits, timing: Timing) -> None:
        self.statistics = Statistics()
        self._table, self._token, self._limits, self._timing = table, token, limits, timing
        self._rate = RateLimit(limits.max_ids_per_second, timing.clock)
        self._session = open_session(table, token, limits)
        self._closing = threading.Event()
        self._refusal: str | None = None
        # One answer with Retry-After holds back every thread. Threads race to set it: any of their times will do.
        self._paused_until = timing.clock()

    def close(self) -> None:
        """End waits, fail what has not been sent, and let connections go."""
        self._closing.set()
        self._session.close()

    def fetch(self, request: Request) -> bytes | None:
        """Return the body of a good answer; tries again what fails in passing.

        Raises:
            TooMuchError: a request for several ids failed, and fewer may do.
            AuthorizationError: the server wants another token; from then on nothing is sent.
            ServerError: it did not answer, or refused.

        """
        tries = request.tries or self._limits.tries
        failures: list[_Failure] = []
        while len(failures) < tries and sum(not f.passing for f in failures) < _FEW_TRIES:
            if failures:
                self._give_time(request, failures, f"try {len(failures)} of {tries} failed")
            answer = self._try(request)
            if not isinstance(answer, _Failure):
                return answer
            failures.append(answer)
            if request.ids > 1 and _is_too_much(failures, tries):
                self._give_time(request, failures, "halved")
                raise TooMuchError
            if answer.status == 413:
                raise ServerError(f"{self._at(request)}: expected an answer for one id, came {answer.reason}")
        raise ServerError(
            f"{self._at(request)}: no good answer in {len(failures)} tries, the last time: {failures[-1].reason}"
        )

    def _try(self, request: Request) -> bytes | _Failure | None:
        """Send a request once; fatal answers are raised, those that may pass returned."""
        self._wait(self._paused_until - self._timing.clock())
        self._wait(self._rate.reserve(request.ids))
        if self._refusal:
            raise AuthorizationError(self._refusal)
        self.statistics.count(requests=1)
        try:
            response = self._session.request(
                request.method,
                request.url,
                params=request.params,
                data=request.body,
                headers={"Content-Type": request.content_type} if request.body is not None else None,
                timeout=(self._limits.connect_timeout, self._limits.read_timeout),
                allow_redirects=False,
            )
        except requests.exceptions.RequestException as error:
            failure = self._failure_of(error)
            if isinstance(failure, str):
                # Not chained: such errors show URLs and headers.
                raise ServerError(f"{self._at(request)}: {failure}") from None
            return failure
        return self._judge(request, response)

    def _failure_of(self, error: requests.exceptions.RequestException) -> _Failure | str:
        """Return why no answer came; as a text if that does not pass."""
        limits, shown = self._limits, self.clean(str(_cause(error)))
        if is_too_slow(error):
            return _Failure(f"the answer was not all there after {limits.answer_timeout:g} s", passing=False)
        match error:
            case requests.exceptions.SSLError():
                # A certificate does not mend itself; a broken handshake may.
                return shown if "CERTIFICATE" in str(error).upper() else _Failure(f"TLS failed ({shown})")
            case requests.exceptions.ConnectTimeout():
                return _Failure(f"no connection within {limits.connect_timeout:g} s")
            case requests.exceptions.Timeout():
                return _Failure(f"nothing came for {limits.read_timeout:g} s")
            case requests.exceptions.ConnectionError() | requests.exceptions.ChunkedEncodingError():
                return _Failure(f"the connection failed ({shown})")
        return f"the request failed: {type(error).__name__}"

    def _judge(self, request: Request, response: requests.Response) -> bytes | _Failure | None:
        status, body = response.status_code, response.content
        if status == 200:
            if request.answer_bytes is not None and len(body) < request.answer_bytes:
                expected = f"expected {request.answer_bytes} bytes, 8 for each id"
                return _Failure(f"{expected}, came {len(body)}", passing=False)
            return body
        reason = f"status {status}{self._said(response)}"
        if status in _LOGIN or status in (401, 403):
            self._refusal = self._missing_token(request, reason)
            raise AuthorizationError(self._refusal)
        if status == 404 and request.optional:
            return None
        if status in _PASSING or (status == 413 and request.ids):
            return _Failure(reason, status, self._retry_after(response))
        advice = "; is the name of the table right?" if status in (400, 404) else ""
        if 300 <= status < 400:
            advice = "; name the server that it points to"
        raise ServerError(f"{self._at(request)}: expected an answer, came {reason}{advice}")

    def _missing_token(self, request: Request, reason: str) -> str:
        places = ", then ".join(str(path) for path in token_files(self._table))
        sent = "no token was sent" if self._token is None else f"the token sent was that of {self._token.source}"
        return (
            f"{self._at(request)}: expected to be let in, came {reason}: {sent}. Name an environment variable with a "
            f"token that may read this table, or a secret projects/P/secrets/S, in --token_env; without it the token "
            f"is looked for in {places}"
        )

    def _said(self, response: requests.Response) -> str:
        """Return what a bad answer says, in short, or the host that it points to."""
        if location := response.headers.get("Location"):
            to = urlsplit(location)
            return f" (redirected to {to.scheme}://{to.hostname})" if to.hostname else " (redirected)"
        text = self.clean(re.sub(r"<[^>]*>", " ", response.content[:4000].decode("utf-8", "replace")))
        return f" ({text})" if text else ""

    def clean(self, text: str) -> str:
        """Return what someone else wrote without the token, queries and line ends, and short."""
        if self._token:
            text = self._token.masked(text)
        text = re.sub(r"\?\S*", "?...", text)
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."

    def _at(self, request: Request) -> str:
        return f"{self._table}, {request.where}"

    def _retry_after(self, response: requests.Response) -> float | None:
        """Return the seconds that the server asks for, see RFC 9110, section 10.2.3."""
        value = response.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d*)?", value):
            seconds = float(value)
        else:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - self._timing.now()
            except ValueError:
                return None
        return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)

    def _give_time(self, request: Request, failures: list[_Failure], what: str) -> None:
        """Count and log that something will be sent again, and wait until then."""
        failure, attempt = failures[-1], len(failures) - 1
        self.statistics.count(retries=1)
        level = logging.WARNING if attempt >= 2 else logging.INFO
        _log.log(level, "%s: %s; %s", self._at(request), failure.reason, what)
        self._wait_after(failure, None if failure.status == 413 else attempt)

    def _wait_after(self, failure: _Failure, attempt: int | None) -> None:
        """Wait as long as the server asked for, else longer from try to try, and never the same time for all threads.

        Args:
            failure: what went wrong.
            attempt: from 0; None for no wait but the one that the server asks for.

        """
        jitter = 1 + self._timing.jitter() / 2
        if failure.retry_after is not None:
            self._paused_until = max(self._paused_until, self._timing.clock() + failure.retry_after)
        if attempt is not None:
            backoff = min(_FIRST_BACKOFF * 2**attempt * jitter, _LONGEST_BACKOFF)
            self._wait(max(backoff, failure.retry_after or 0.0))

    def _wait(self, seconds: float) -> None:
        """Wait, unless the connection is closed.

        Raises:
            ServerError: it is.

        """
        if seconds > 0 and self._timing.sleep:
            self._timing.sleep(seconds)
            seconds = 0.0
        if self._closing.wait(max(seconds, 0.0)):
            raise ServerError(f"{self._table}: the client was closed before the question was sent")


def _is_too_much(failures: list[_Failure], tries: int) -> bool:
    """Whether a list has been sent whole often enough; only the last failure tells whether fewer ids may do."""
    status = failures[-1].status
    count = sum(f.status == status for f in failures)
    return status in _WHOLE_TRIES and (count >= _WHOLE_TRIES[status] or len(failures) >= tries)


def _cause(error: requests.exceptions.RequestException) -> Any:
    """Return what lies under an error of requests, whose own text shows the URL."""
    inner = error.args[0] if error.args else error
    return getattr(inner, "reason", None) or inner
