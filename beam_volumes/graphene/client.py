"""Questions to a proofreading server: many in flight at once, every answer checked."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from beam_volumes.errors import ServerError
from beam_volumes.graphene.checks import RootQuestion, check_ages, check_roots
from beam_volumes.graphene.connection import Connection, Request, Timing, TooMuchError
from beam_volumes.graphene.limits import Limits, Statistics
from beam_volumes.graphene.table import GrapheneTable, GraphInfo
from beam_volumes.graphene.threads import RequestThreads
from beam_volumes.graphene.tokens import Token

Ids = npt.NDArray[np.uint64]

_INFO_TRIES = 4
"""The first request of all: who misspelt the server's name shall not wait for a minute."""

_ROOTS_LOOKED_AT = 100

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

_log = logging.getLogger(__name__)


class RootClient:
    """Asks one table of a proofreading server; a context manager, usable from any thread, one for each process.

    Args:
        table: the server and its table.
        token: sent to that server alone; None sends none.
        limits: what this client may ask.
        timing: clocks, for tests.

    """

    def __init__(self, table: GrapheneTable, token: Token | None, limits: Limits, timing: Timing | None = None) -> None:
        self.limits = limits
        self._table = table
        self._connection = Connection(table, token, limits, timing or Timing())
        self._threads = RequestThreads[Ids](limits.max_requests_in_flight)
        self._tells_ages = True
        if token and table.scheme == "http" and urlsplit(table.origin).hostname not in _THIS_MACHINE:
            _log.warning("%s: the token is sent in clear text: write https:// if the server takes it", table)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Fail the questions that have not been sent, wait a few seconds for those in flight, and hang up."""
        self._connection.close()
        self._threads.close()

    @property
    def statistics(self) -> Statistics:
        """What has been asked so far."""
        return self._connection.statistics

    def get_info(self) -> GraphInfo:
        """Return what the server says of the table.

        Raises:
            AuthorizationError: it wants another token.
            ServerError: it did not answer, or has no such table.
            SourceError: a field is missing.

        """
        request = Request("GET", self._table.info_url, "info", tries=min(_INFO_TRIES, self.limits.tries))
        return GraphInfo.from_info(self._json(request), str(self._table))

    def oldest_timestamp(self) -> float | None:
        """Return the UNIX second from which on the graph is whole; None where the server does not tell.

        Raises:
            ServerError: the server did not answer, or with something else.

        """
        request = Request("GET", self._table.api_url("oldest_timestamp"), "oldest_timestamp", optional=True)
        answer = self._json(request)
        if answer is None:
            return None
        try:
            moment = datetime.fromisoformat(answer["iso"])
        except (KeyError, TypeError, ValueError):
            raise self._strange(request, '{"iso": DATE AND TIME}', answer) from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def submit(self, ids: Ids, question: RootQuestion, where: str) -> Future[Ids]:
        """Ask for the ancestors of ids; returns at once.

        Args:
            ids: uint64, not 0; unique, or the server is asked more than it need be.
            question: which ancestors.
            where: what the ids belong to, for messages.

        Returns:
            The ancestors, uint64, one for each id in their order; or a ServerError.

        """
        self.statistics.count(ids=len(ids))
        batch = self.limits.batch
        parts = [ids[start : start + batch] for start in range(0, len(ids), batch)]
        return _Gathering([self._threads.submit(partial(self._ask, part, question, where)) for part in parts]).whole

    def check_ages(self, ids: Ids, ancestors: Ids, question: RootQuestion, where: str) -> None:
        """Look at when a sample of roots was made: no later than the timestamp, if the server heeds it.

        Only of roots it is known when they were made. Under a stop layer they are asked for: those of one id each of
        a sample of the ancestors, so that up to 100 ids of a region are asked for twice. Nothing is looked at where the
        server does not tell.

        Args:
            ids: uint64, unique.
            ancestors: what the server has answered to each of them.
            question: which ancestors had been asked for.
            where: what the ids belong to, for messages.

        Raises:
            ServerError: a root is younger: the server does not heed the timestamp.

        """
        if not len(ids) or not self._tells_ages:
            return
        unique, first = np.unique(ancestors, return_index=True)
        chosen = np.unique(np.linspace(0, len(unique) - 1, min(len(unique), _ROOTS_LOOKED_AT)).astype(np.int64))
        if question.stop_layer is None:
            roots = unique[chosen]
        else:
            self.statistics.count(ids=len(chosen))
            roots = np.unique(self._ask(ids[first[chosen]], replace(question, stop_layer=None), where))
        self._check_roots(roots, question.timestamp, where)

    def _check_roots(self, sample: Ids, timestamp: int, where: str) -> None:
        request = Request(
            "POST",
            self._table.api_url("root_timestamps"),
            f"{where}, root_timestamps",
            body=json.dumps({"node_ids": sample.tolist()}).encode(),
            content_type="application/json",
            optional=True,
        )
        answer = self._json(request)
        if answer is None:
            self._tells_ages = False
            _log.warning(
                "%s does not tell when roots were made: a server that does not heed the timestamp goes unnoticed",
                self._table,
            )
            return
        created = _seconds(answer, len(sample))
        if created is None:
            raise self._strange(request, f"a time for each of {len(sample)} roots", answer)
        check_ages(sample, created, timestamp, f"{self._table}, {where}")

    def _ask(self, ids: Ids, question: RootQuestion, where: str) -> Ids:
        """Ask for one batch; one that is too much for the server is halved."""
        params = {"timestamp": question.timestamp}
        if question.stop_layer is not None:
            params["stop_layer"] = question.stop_layer
        request = Request(
            "POST",
            self._table.api_url("roots_binary"),
            f"{where}, {len(ids)} ids from {ids[0]}, timestamp {question.timestamp}",
            params=params,
            body=ids.astype("<u8").tobytes(),
            ids=len(ids),
            answer_bytes=8 * len(ids),
        )
        try:
            body = self._connection.fetch(request)
        except TooMuchError:
            body = None
        if body is not None:
            return check_roots(ids, body, question, f"{self._table}, {where}")
        half = len(ids) // 2
        return np.concatenate([self._ask(part, question, where) for part in (ids[:half], ids[half:])])

    def _json(self, request: Request) -> Any:
        """Return the JSON of an answer; None where an optional one is not there."""
        body = self._connection.fetch(request)
        if body is None:
            return None
        try:
            answer = json.loads(body)
        except ValueError:
            raise self._strange(request, "JSON", body.decode("utf-8", "replace")) from None
        if answer is None:
            raise self._strange(request, "JSON", "null")
        return answer

    def _strange(self, request: Request, expected: str, answer: Any) -> ServerError:
        came = self._connection.clean(str(answer))
        return ServerError(f"{self._table}, {request.where}: expected {expected}, came {came or 'nothing'}")


class _Gathering:
    """Makes one future of those of the parts of a list: all of their answers in order, or the first error."""

    def __init__(self, parts: Sequence[Future[Ids]]) -> None:
        self.whole: Future[Ids] = Future()
        self.whole.set_running_or_notify_cancel()
        self._parts, self._left, self._lock = parts, len(parts), threading.Lock()
        if not parts:
            self.whole.set_result(np.zeros(0, np.uint64))
        for part in parts:
            part.add_done_callback(self._done)

    def _done(self, part: Future[Ids]) -> None:
        closed = ServerError("the client was closed before the question was sent")
        error = closed if part.cancelled() else part.exception()
        with self._lock:
            if self._left <= 0:
                return
            self._left = 0 if error else self._left - 1
            if self._left:
                return
        if error is None:
            self.whole.set_result(np.concatenate([p.result() for p in self._parts]))
            return
        self.whole.set_exception(error)
        for other in self._parts:
            other.cancel()


def _seconds(answer: Any, count: int) -> npt.NDArray[np.float64] | None:
    """Return the times of an answer of `root_timestamps`, or None if it is not `count` of them."""
    times = answer.get("timestamp") if isinstance(answer, dict) else None
    if not isinstance(times, list) or len(times) != count or not all(type(t) in (int, float) for t in times):
        return None
    return np.array(times, np.float64)
