"""The client against a server that does what each test tells it to."""

import contextlib
import gc
import json
import logging
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest

from beam_volumes.errors import AuthorizationError, ServerError, SourceError
from beam_volumes.graphene import GrapheneTable, Limits, RootClient, RootQuestion, Token
from beam_volumes.graphene.connection import Connection, Request, Timing

N_LAYERS = 5
QUESTION = RootQuestion(timestamp=1_700_000_000, stop_layer=None, n_layers=N_LAYERS)
SECRET = "0123456789abcdef0123456789abcdef"
TOKEN = Token(SECRET, "a test")
NOW = 1_800_000_000.0
WAIT = 10.0
"""Seconds after which a test that hangs fails."""


def supervoxels(*numbers: int) -> np.ndarray:
    return np.array([(1 << 56) + n for n in numbers], np.uint64)


def roots_of(ids: np.ndarray, layer: int = N_LAYERS) -> np.ndarray:
    return ids + np.uint64((layer - 1) << 56)


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def ids(self) -> np.ndarray:
        return np.frombuffer(self.body, "<u8")


@dataclass(frozen=True)
class Reply:
    """What to send; `cut` breaks the body off after so many bytes, -1 drops the connection before any.

    With a `drip`, the answer comes byte by byte: of all that comes before `drip` at once, then slowly.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    drip: bytes | None = None


def good(asked: Asked) -> Reply:
    """Answer as a healthy server does."""
    if asked.path.endswith("/roots_binary"):
        return Reply(body=roots_of(asked.ids, int(asked.query.get("stop_layer", N_LAYERS))).tobytes())
    return Reply(404)


Script = list[Reply | Callable[[Asked], Reply]]


class FakeServer:
    """Gives the replies of `script`, one each, then those of `then`."""

    def __init__(self) -> None:
        self.script: Script = []
        self.then: Callable[[Asked], Reply] = good
        self.asked: list[Asked] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            _headers_buffer: list[bytes]

            def setup(self) -> None:
                super().setup()
                fake.connections += 1

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(self.command, url.path, dict(parse_qsl(url.query)), dict(self.headers), body)
                reply = fake.reply(asked)
                if reply.cut != -1:
                    self.send_response(reply.status)
                    for name, value in ({"Content-Length": str(len(reply.body))} | reply.headers).items():
                        self.send_header(name, value)
                    self._headers_buffer.append(b"\r\n" + reply.body[: reply.cut])
                    if reply.drip is not None:
                        self._drip(reply.drip)
                    self.flush_headers()
                self.close_connection = reply.cut is not None

            do_POST = do_GET  # noqa: N815 - the name that http.server looks for

            def _drip(self, start: bytes) -> None:
                answer = b"".join(self._headers_buffer)
                self._headers_buffer = []
                at_once, _, slowly = answer.partition(start)
                self.wfile.write(at_once + start)
                with contextlib.suppress(ConnectionError):
                    for byte in slowly:
                        self.wfile.write(bytes([byte]))
                        fake.stopping.wait(0.02)

            def log_message(self, *_: Any) -> None:
                pass

        class Threads(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._http = Threads(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.host = f"127.0.0.1:{self._http.server_port}"
        self.table = GrapheneTable("http", self.host, "", "demo")

    def reply(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
            what = self.script.pop(0) if self.script else self.then
        return what if isinstance(what, Reply) else what(asked)

    def stop(self) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class FakeTime:
    """A clock that runs only while someone sleeps."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.elapsed += seconds

    def timing(self, jitter: float = 0.0) -> Timing:
        return Timing(
            clock=lambda: self.elapsed, now=lambda: NOW + self.elapsed, sleep=self.sleep, jitter=lambda: jitter
        )


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CLOUD_VOLUME_DIR", str(tmp_path))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def ask(client: RootClient, ids: np.ndarray, question: RootQuestion = QUESTION) -> np.ndarray:
    return client.submit(ids, question, "region 0,0,0,8,8,8").result(WAIT)


ONE = Limits(max_requests_in_flight=1)


def test_a_question_is_one_post_of_little_endian_ids(server: FakeServer) -> None:
    ids = supervoxels(3, 1, 2)
    with RootClient(server.table, TOKEN, Limits()) as client:
        roots = ask(client, ids)
        ask(client, ids, RootQuestion(7, 3, N_LAYERS))
    assert roots.tolist() == roots_of(ids).tolist()
    first, second = server.asked
    assert (first.method, first.path) == ("POST", "/segmentation/api/v1/table/demo/roots_binary")
    assert first.query == {"timestamp": "1700000000"}
    assert second.query == {"timestamp": "7", "stop_layer": "3"}
    assert first.body == ids.astype("<u8").tobytes()
    assert first.headers["Authorization"] == f"Bearer {SECRET}"
    assert first.headers["User-Agent"] == "beam-volumes"


def test_nothing_is_asked_about_nothing(server: FakeServer) -> None:
    with RootClient(server.table, None, Limits()) as client:
        roots = ask(client, supervoxels())
    assert roots.tolist() == []
    assert roots.dtype == np.uint64
    assert server.asked == []


def test_a_long_list_is_split_and_put_together_in_order(server: FakeServer) -> None:
    ids = supervoxels(*np.random.default_rng(0).permutation(25).tolist())
    with RootClient(server.table, None, Limits(ids_per_request=4)) as client:
        assert ask(client, ids).tolist() == roots_of(ids).tolist()
        counted = client.statistics
    assert sorted(len(a.ids) for a in server.asked) == [1, 4, 4, 4, 4, 4, 4]
    assert (counted.ids, counted.requests, counted.retries) == (25, 7, 0)


def test_as_many_requests_are_in_flight_as_the_limit_says(server: FakeServer) -> None:
    together, lock, now, most = threading.Barrier(3), threading.Lock(), [0], [0]

    def meet(asked: Asked) -> Reply:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(WAIT)  # breaks unless three are there at once
        with lock:
            now[0] -= 1
        return good(asked)

    server.then = meet
    ids = supervoxels(*range(1, 13))
    with RootClient(server.table, None, Limits(max_requests_in_flight=3, ids_per_request=1)) as client:
        assert ask(client, ids).tolist() == roots_of(ids).tolist()
    assert most == [3]


@pytest.mark.parametrize(
    "trouble",
    [Reply(status) for status in (429, 500, 502, 503, 504)]
    + [Reply(cut=-1), Reply(body=bytes(8), cut=3), Reply(body=bytes(8), cut=0)],
)
def test_what_passes_is_tried_again(server: FakeServer, time: FakeTime, trouble: Reply) -> None:
    server.script = [trouble] * 3
    with RootClient(server.table, TOKEN, ONE, time.timing()) as client:
        assert ask(client, supervoxels(1)).tolist() == roots_of(supervoxels(1)).tolist()
        counted = client.statistics
    assert time.slept == [0.5, 1.0, 2.0]
    assert (counted.ids, counted.requests, counted.retries) == (1, 4, 3)
    assert len({a.body for a in server.asked}) == 1


def test_a_silent_server_is_given_up_on_and_asked_again(server: FakeServer, time: FakeTime) -> None:
    wake = threading.Event()

    def silent(asked: Asked) -> Reply:
        wake.wait(WAIT)
        return good(asked)

    server.script = [silent]
    with RootClient(server.table, None, Limits(read_timeout=0.1, tries=2), time.timing()) as client:
        assert ask(client, supervoxels(1)).tolist() == roots_of(supervoxels(1)).tolist()
        server.script = [silent, silent]
        with pytest.raises(ServerError, match=r"no good answer in 2 tries, the last time: nothing came for 0\.1 s"):
            ask(client, supervoxels(1))
    wake.set()


@pytest.mark.parametrize("body", [b"", bytes(5), bytes(8)])
def test_fewer_ids_than_asked_are_tried_three_times(server: FakeServer, time: FakeTime, body: bytes) -> None:
    server.script = [Reply(body=body)] * 2
    with RootClient(server.table, TOKEN, ONE, time.timing()) as client:
        assert ask(client, supervoxels(1, 2)).tolist() == roots_of(supervoxels(1, 2)).tolist()
        server.asked.clear()
        server.script = [Reply(body=body), Reply(503), Reply(body=body), Reply(body=body)]
        message = rf"no good answer in 4 tries, the last time: expected 16 bytes, 8 for each id, came {len(body)}$"
        with pytest.raises(ServerError, match=message):
            ask(client, supervoxels(1, 2))
        assert client.statistics.retries == 2 + 3
    assert len(server.asked) == 4
    assert time.slept == [0.5, 1.0, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("start", [b"HTTP", b"\r\n\r\n"], ids=["headers", "body"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_that_drips_is_given_up_on(server: FakeServer, time: FakeTime, start: bytes, chunked: bool) -> None:
    """It comes in more than 2 s, of which no 0.1 s pass without a byte."""
    ids = supervoxels(*range(20))
    body = roots_of(ids).tobytes()
    slow = Reply(body=body, drip=start)
    if chunked:
        pieces = b"".join(b"8\r\n%s\r\n" % body[n : n + 8] for n in range(0, 160, 8))
        slow = Reply(body=pieces + b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked"}, drip=start)
    server.script = [slow] * 2
    limits = Limits(max_requests_in_flight=1, read_timeout=5, answer_timeout=0.1)
    with RootClient(server.table, TOKEN, limits, time.timing()) as client:
        assert ask(client, ids).tolist() == roots_of(ids).tolist()
        server.script = [slow] * 3
        message = r"no good answer in 3 tries, the last time: the answer was not all there after 0\.1 s$"
        with pytest.raises(ServerError, match=message):
            ask(client, ids)
    assert (len(server.asked), time.slept) == (6, [0.5, 1.0, 0.5, 1.0])


def test_a_connection_is_kept_from_answer_to_answer(server: FakeServer) -> None:
    """Each answer has a time of its own."""
    limits = Limits(max_requests_in_flight=1, ids_per_request=1, answer_timeout=1)
    server.then = lambda asked: Reply(body=good(asked).body, drip=b"\r\n\r\n")
    with RootClient(server.table, TOKEN, limits) as client:
        ids = supervoxels(*range(8))
        assert ask(client, ids).tolist() == roots_of(ids).tolist()
        assert (client.statistics.requests, client.statistics.retries) == (8, 0)
    assert server.connections == 1


def test_waits_grow_to_a_minute_and_then_it_is_given_up(server: FakeServer, time: FakeTime) -> None:
    server.then = lambda _: Reply(503, b"<html><b>busy</b></html>")
    with RootClient(server.table, None, Limits(tries=10), time.timing(jitter=0.5)) as client:
        message = (
            rf"demo, region 0,0,0,8,8,8, 2 ids from {supervoxels(4)[0]}, timestamp 1700000000: "
            r"no good answer in 10 tries, the last time: status 503 \(busy\)"
        )
        with pytest.raises(ServerError, match=message):
            ask(client, supervoxels(4, 5))
    assert time.slept == [0.625, 1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert len(server.asked) == 10


def test_nobody_at_home_is_told_without_the_query(server: FakeServer, time: FakeTime) -> None:
    server.stop()
    with RootClient(server.table, TOKEN, Limits(), time.timing()) as client:
        with pytest.raises(ServerError, match=r"info: no good answer in 4 tries, .*[Rr]efused"):
            client.get_info()
        with pytest.raises(ServerError, match=r"in 8 tries, .*[Rr]efused") as error:
            ask(client, supervoxels(1))
    assert "?" not in str(error.value)
    assert SECRET not in str(error.value)
    assert len(time.slept) == 3 + 7


@pytest.mark.parametrize(
    ("value", "slept"),
    [
        ("30", 30.0),
        ("0", 0.5),
        ("2.5", 2.5),
        (formatdate(NOW + 45, usegmt=True), 45.0),
        (formatdate(NOW - 45, usegmt=True), 0.5),
        ("86400", 600.0),
        (formatdate(NOW + 86_400, usegmt=True), 600.0),
        ("soon", 0.5),
        ("", 0.5),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_how_long_to_wait(
    server: FakeServer, time: FakeTime, status: int, value: str, slept: float
) -> None:
    server.script = [Reply(status, headers={"Retry-After": value})]
    with RootClient(server.table, None, ONE, time.timing()) as client:
        ask(client, supervoxels(1))
    assert time.slept == [slept]


def test_one_answer_with_retry_after_holds_back_the_other_threads(server: FakeServer) -> None:
    asleep, wake, slept = threading.Semaphore(0), threading.Event(), list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        asleep.release()
        wake.wait(WAIT)

    server.script = [Reply(429, headers={"Retry-After": "30"})]
    timing = Timing(clock=lambda: 0.0, sleep=sleep, jitter=lambda: 0.0)
    with RootClient(server.table, None, Limits(max_requests_in_flight=2), timing) as client:
        first = client.submit(supervoxels(1), QUESTION, "here")
        assert asleep.acquire(timeout=WAIT)
        second = client.submit(supervoxels(2), QUESTION, "here")
        assert asleep.acquire(timeout=WAIT)
        assert len(server.asked) == 1
        wake.set()
        assert first.result(WAIT).tolist() == roots_of(supervoxels(1)).tolist()
        assert second.result(WAIT).tolist() == roots_of(supervoxels(2)).tolist()
    assert slept[:2] == [30.0, 30.0]


@pytest.mark.parametrize(("status", "waits"), [(413, []), (500, [0.5, 1.0, 2.0]), (504, [0.5])])
def test_what_is_too_much_is_halved(server: FakeServer, time: FakeTime, status: int, waits: list[float]) -> None:
    """A 500 may be about anything: the list is sent three times before it is halved."""
    server.then = lambda asked: Reply(status) if len(asked.ids) > 3 else good(asked)
    ids = supervoxels(*range(1, 11))
    with RootClient(server.table, None, ONE, time.timing()) as client:
        assert ask(client, ids).tolist() == roots_of(ids).tolist()
        counted = client.statistics
    whole = 3 if status == 500 else 1
    assert [len(a.ids) for a in server.asked] == [10] * whole + [5] * whole + [2, 3] + [5] * whole + [2, 3]
    assert time.slept == waits * 3
    assert (counted.ids, counted.requests, counted.retries) == (10, 4 + 3 * whole, 3 * whole)


def test_a_server_that_answers_500_for_a_while_is_not_sent_halves(server: FakeServer, time: FakeTime) -> None:
    server.script = [Reply(500), Reply(503), Reply(500)]
    with RootClient(server.table, None, ONE, time.timing()) as client:
        assert ask(client, supervoxels(*range(1, 11))).tolist() == roots_of(supervoxels(*range(1, 11))).tolist()
    assert [len(a.ids) for a in server.asked] == [10] * 4
    assert time.slept == [0.5, 1.0, 2.0]


def test_a_server_that_answers_500_for_good_is_given_as_long_as_with_503(server: FakeServer, time: FakeTime) -> None:
    server.then = lambda _: Reply(503)
    with RootClient(server.table, None, Limits(), time.timing()) as client:
        with pytest.raises(ServerError, match="in 8 tries, the last time: status 503"):
            ask(client, supervoxels(*range(10_000)))
        given, time.slept = sum(time.slept), []
        server.then = lambda _: Reply(500)
        with pytest.raises(ServerError, match="in 8 tries, the last time: status 500"):
            ask(client, supervoxels(*range(10_000)))
    assert given == 63.5
    assert sum(time.slept) == 63.5 + 13 * 3.5


def test_an_id_that_the_server_cannot_do_fails_after_its_tries(server: FakeServer, time: FakeTime) -> None:
    bad = int(supervoxels(6)[0])
    server.then = lambda asked: Reply(500, b"KeyError") if bad in asked.ids.tolist() else good(asked)
    message = rf" 1 ids from {bad}, .* in 3 tries, the last time: status 500 \(KeyEr"
    with (
        RootClient(server.table, None, Limits(tries=3), time.timing()) as client,
        pytest.raises(ServerError, match=message),
    ):
        ask(client, supervoxels(*range(1, 9)))
    assert [len(a.ids) for a in server.asked] == [8] * 3 + [4] * 4 + [2] * 3 + [1] * 4


def test_one_id_that_is_too_much_fails_at_once(server: FakeServer, time: FakeTime) -> None:
    server.then = lambda _: Reply(413)
    message = "expected an answer for one id, came status 413"
    with RootClient(server.table, None, ONE, time.timing()) as client, pytest.raises(ServerError, match=message):
        ask(client, supervoxels(1, 2))
    assert ([len(a.ids) for a in server.asked], time.slept) == ([2, 1], [])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(401, b"invalid token"), r"status 401 \(invalid token\)"),
        (Reply(403, b'{"message": "no group"}'), r'status 403 \(\{"message": "no group"\}\)'),
        (
            Reply(302, headers={"Location": f"https://me:x@login.org/login?token={SECRET}"}),
            r"status 302 \(redirected to https://login.org\)",
        ),
        (Reply(307, headers={"Location": "/login"}), r"status 307 \(redirected\)"),
    ],
)
def test_a_token_that_is_refused_stops_everything_at_once(
    server: FakeServer, time: FakeTime, tmp_path: Path, reply: Reply, said: str
) -> None:
    server.then = lambda _: reply
    with RootClient(server.table, TOKEN, ONE, time.timing()) as client:
        places = rf"{tmp_path}/secrets/{server.host}-cave-secret.json, then {tmp_path}/secrets/cave-secret.json"
        message = rf"^graphene://http://{server.host}/.*came {said}: the token sent was that of a test\..*--token_env.*"
        with pytest.raises(AuthorizationError, match=message + places) as error:
            ask(client, supervoxels(1, 2))
        with pytest.raises(AuthorizationError, match=message):
            ask(client, supervoxels(3))
        with pytest.raises(AuthorizationError, match=message):
            client.get_info()
    assert SECRET not in str(error.value)
    assert (len(server.asked), time.slept) == (1, [])


def test_no_token_is_told_apart_from_a_wrong_one(server: FakeServer) -> None:
    server.then = lambda _: Reply(401)
    with RootClient(server.table, None, ONE) as client, pytest.raises(AuthorizationError, match="no token was sent"):
        client.get_info()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(400, b"bad timestamp"), r"came status 400 \(bad timestamp\); is the name of the table right\?"),
        (Reply(404), "came status 404; is the name of the table right"),
        (Reply(405), "came status 405$"),
        (
            Reply(301, headers={"Location": "https://pcg.org/x?token=abc"}),
            r"came status 301 \(redirected to https://pcg.org\); name the server that it points to$",
        ),
    ],
)
def test_what_does_not_pass_fails_at_once(server: FakeServer, time: FakeTime, reply: Reply, message: str) -> None:
    server.then = lambda _: reply
    with RootClient(server.table, None, ONE, time.timing()) as client, pytest.raises(ServerError, match=message):
        ask(client, supervoxels(1, 2))
    assert (len(server.asked), time.slept) == (1, [])


def test_what_a_server_says_is_shown_short_and_without_the_token(server: FakeServer) -> None:
    server.then = lambda _: Reply(400, f"\x1b[31m{SECRET} at /x?token={SECRET[:8]}\n{'a ' * 500}".encode())
    with (
        RootClient(server.table, TOKEN, ONE) as client,
        pytest.raises(ServerError, match=r"\(\[31m\*\*\* at ") as error,
    ):
        ask(client, supervoxels(1))
    (said,) = re.findall(r"status 400 \((.*)\);", str(error.value))
    assert len(said) == 200
    assert SECRET[:8] not in said


def test_only_its_own_server_is_sent_the_token(server: FakeServer) -> None:
    other = FakeServer()
    connection = Connection(server.table, TOKEN, ONE, Timing())
    for fake in (server, other):
        fake.then = lambda _: Reply(body=b"x")
        assert connection.fetch(Request("GET", fake.table.info_url, "info")) == b"x"
    connection.close()
    other.stop()
    assert server.asked[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert "Authorization" not in other.asked[0].headers


def test_neither_netrc_nor_cookies_are_sent(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.then = lambda asked: Reply(body=good(asked).body, headers={"Set-Cookie": "a=b"})
    with RootClient(server.table, None, ONE) as client:
        ask(client, supervoxels(1))
        ask(client, supervoxels(1))
    for asked in server.asked:
        assert not {"Authorization", "Cookie"} & set(asked.headers)


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        ([roots_of(supervoxels(1))[0], 0], rf"came 0 for 1 of 2: {supervoxels(2)[0]} -> 0; "),
        (supervoxels(1, 2), "expected ids on layer 5, came 2 of 2 on layers 1: "),
        (roots_of(supervoxels(1, 2, 3)), "expected 16 bytes, .*, came 24"),
    ],
)
def test_wrong_answers_fail_without_another_try(server: FakeServer, time: FakeTime, roots: Any, message: str) -> None:
    server.then = lambda _: Reply(body=np.array(roots, "<u8").tobytes())
    with RootClient(server.table, None, ONE, time.timing()) as client:
        where = f"graphene://http://{server.host}/segmentation/table/demo, region 0,0,0,8,8,8, timestamp 1700000000: "
        with pytest.raises(ServerError, match=where + ".*" + message):
            ask(client, supervoxels(1, 2))
    assert len(server.asked) == 1


def test_one_wrong_batch_fails_the_list_and_drops_what_is_not_sent(server: FakeServer) -> None:
    submitted = threading.Event()

    def refuse(_: Asked) -> Reply:
        submitted.wait(WAIT)
        return Reply(400)

    server.script = [refuse]
    with RootClient(server.table, None, Limits(max_requests_in_flight=1, ids_per_request=1)) as client:
        future = client.submit(supervoxels(*range(1, 51)), QUESTION, "here")
        submitted.set()
        with pytest.raises(ServerError, match=rf"here, 1 ids from {supervoxels(1)[0]}, .* came status 400"):
            future.result(WAIT)
        assert ask(client, supervoxels(70)).tolist() == roots_of(supervoxels(70)).tolist()
    assert [a.ids.tolist() for a in server.asked] == [supervoxels(n).tolist() for n in (1, 70)]


def test_ids_per_second_are_kept(server: FakeServer, time: FakeTime) -> None:
    limits = Limits(max_requests_in_flight=1, max_ids_per_second=10)
    with RootClient(server.table, None, limits, time.timing()) as client:
        ask(client, supervoxels(*range(1, 36)))
    assert [len(a.ids) for a in server.asked] == [10, 10, 10, 5]
    assert time.slept == pytest.approx([1.0, 1.0, 1.0])


def graph_info() -> dict[str, Any]:
    graph = {"chunk_size": [64, 64, 32], "n_layers": N_LAYERS, "cv_mip": 0}
    graph["spatial_bit_masks"] = {str(layer): 8 for layer in range(1, N_LAYERS + 1)}
    return {"data_dir": "file:///ws", "graph": graph, "scales": [{"resolution": [8, 8, 40]}]}


def test_info_is_asked_for_and_checked(server: FakeServer, time: FakeTime) -> None:
    with RootClient(server.table, TOKEN, Limits(), time.timing()) as client:
        server.script = [Reply(503), Reply(body=json.dumps(graph_info()).encode())]
        assert client.get_info().info == graph_info()
        assert (server.asked[1].method, server.asked[1].path) == ("GET", "/segmentation/table/demo/info")
        server.script = [Reply(body=b"{}")]
        with pytest.raises(SourceError, match=r"graphene://http://127.*demo: expected .* graph.n_layers"):
            client.get_info()
        server.script = [Reply(body=b"<html>Log in</html>")]
        with pytest.raises(ServerError, match=r"demo, info: expected JSON, came <html>Log in</html>"):
            client.get_info()


def test_the_oldest_timestamp_is_a_unix_second(server: FakeServer) -> None:
    times = [b'{"iso": "2020-09-13 12:26:40.250000+00:00"}', b'{"iso": "2020-09-13T12:26:40.250000"}']
    server.script = [*(Reply(body=t) for t in times), Reply(404)]
    with RootClient(server.table, None, ONE) as client:
        assert [client.oldest_timestamp() for _ in range(3)] == [1_600_000_000.25, 1_600_000_000.25, None]
    assert server.asked[0].path == "/segmentation/api/v1/table/demo/oldest_timestamp"


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"iso": 3}', b'{"iso": "yesterday"}'])
def test_an_oldest_timestamp_that_is_none_is_refused(server: FakeServer, body: bytes) -> None:
    server.then = lambda _: Reply(body=body)
    message = r"oldest_timestamp: expected (JSON|.*iso.*), came"
    with RootClient(server.table, None, ONE) as client, pytest.raises(ServerError, match=message):
        client.oldest_timestamp()


def ages(seconds: float) -> Callable[[Asked], Reply]:
    """Say of every root that it was made then."""
    return lambda asked: Reply(
        body=json.dumps({"timestamp": [seconds for _ in json.loads(asked.body)["node_ids"]]}).encode()
    )


def tens(ids: np.ndarray) -> np.ndarray:
    """Return the id with the last digit 0 of each ten."""
    return supervoxels(*(n // 10 * 10 for n in (ids - supervoxels(0)).tolist()))


def check_ages(client: RootClient, ids: np.ndarray, stop_layer: int | None = None) -> None:
    question = replace(QUESTION, stop_layer=stop_layer)
    client.check_ages(ids, roots_of(ids, stop_layer or N_LAYERS), question, "here")


def test_a_sample_of_roots_is_looked_at(server: FakeServer) -> None:
    ids = supervoxels(*range(1000, 0, -1))
    roots = roots_of(ids)
    server.then = ages(QUESTION.timestamp)
    with RootClient(server.table, None, ONE) as client:
        check_ages(client, ids)
        check_ages(client, ids[:3])
        check_ages(client, ids[:0])
        server.then = ages(QUESTION.timestamp + 5)
        with pytest.raises(ServerError, match=r"demo, here, timestamp 1700000000: .* 100 of 100 looked at were made"):
            check_ages(client, ids)
        assert client.statistics.ids == 0
    many, few, again = (json.loads(a.body)["node_ids"] for a in server.asked)
    assert (server.asked[0].method, server.asked[0].path) == (
        "POST",
        "/segmentation/api/v1/table/demo/root_timestamps",
    )
    assert many == again
    assert (len(set(many)), many[0], many[-1]) == (100, roots.min(), roots.max())
    assert few == sorted(roots[:3].tolist())


@pytest.mark.parametrize("count", [1, 30, 100, 1000])
@pytest.mark.parametrize("stop_layer", [2, 3])
def test_under_a_stop_layer_the_roots_of_a_sample_are_asked_for(
    server: FakeServer, count: int, stop_layer: int
) -> None:
    """Ten ids share an ancestor; of a hundred ancestors at most, one id each is asked for, once more."""
    ids = supervoxels(*range(10 * count))
    ancestors = roots_of(tens(ids), stop_layer)

    def answer(asked: Asked) -> Reply:
        return good(asked) if asked.path.endswith("/roots_binary") else ages(QUESTION.timestamp)(asked)

    server.then = answer
    question = replace(QUESTION, stop_layer=stop_layer)
    with RootClient(server.table, None, ONE) as client:
        for _ in range(2):
            client.check_ages(ids, ancestors, question, "here")
        server.then = lambda asked: good(asked) if "roots_binary" in asked.path else ages(QUESTION.timestamp + 5)(asked)
        with pytest.raises(ServerError, match=r"of \d+ looked at were made later: .* does not heed the timestamp$"):
            client.check_ages(ids, ancestors, question, "here")
        assert client.statistics.ids == 3 * min(count, 100)
    first, looked_at, again, _, _, _ = server.asked
    assert first.query == {"timestamp": "1700000000"}
    assert first.body == again.body
    assert len(np.unique(tens(first.ids))) == len(first.ids) == min(count, 100)
    assert json.loads(looked_at.body)["node_ids"] == sorted(roots_of(first.ids).tolist())


def test_a_server_that_does_not_tell_ages_is_warned_of_once(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with RootClient(server.table, None, ONE) as client, caplog.at_level(logging.WARNING):
        for stop_layer in (None, None, 2):
            check_ages(client, supervoxels(1), stop_layer)
    assert len(server.asked) == 1
    assert [r.getMessage() for r in caplog.records] == [
        f"{server.table} does not tell when roots were made: a server that does not heed the timestamp goes unnoticed"
    ]


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'{"timestamp": [1, 2]}', b'{"timestamp": ["x"]}'])
def test_ages_that_are_none_are_refused(server: FakeServer, body: bytes) -> None:
    server.then = lambda _: Reply(body=body)
    message = "here, root_timestamps: expected a time for each of 1 roots, came"
    with RootClient(server.table, None, ONE) as client, pytest.raises(ServerError, match=message):
        check_ages(client, supervoxels(1))


def test_closing_ends_waits_and_fails_what_was_not_sent(server: FakeServer) -> None:
    seen = threading.Event()

    def busy(_: Asked) -> Reply:
        seen.set()
        return Reply(503, headers={"Retry-After": "600"})

    server.then = busy
    client = RootClient(server.table, None, Limits(max_requests_in_flight=1, ids_per_request=1))
    waiting = client.submit(supervoxels(1), QUESTION, "here")
    queued = client.submit(supervoxels(2, 3), QUESTION, "here")
    assert seen.wait(WAIT)
    client.close()
    for future in (waiting, queued):
        with pytest.raises(ServerError, match="the client was closed before the question was sent"):
            future.result(WAIT)
    assert len(server.asked) == 1


def test_closing_does_not_wait_for_an_answer_that_does_not_come(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_volumes.graphene.threads._CLOSE_SECONDS", 0.1)
    seen, wake = threading.Semaphore(0), threading.Event()

    def silent(asked: Asked) -> Reply:
        seen.release()
        wake.wait(WAIT)
        return good(asked)

    server.then = silent
    before = set(threading.enumerate())
    client = RootClient(server.table, None, Limits(max_requests_in_flight=3, ids_per_request=1))
    threads = [t for t in set(threading.enumerate()) - before if t.name.endswith("(_work)")]
    future = client.submit(supervoxels(1, 2, 3), QUESTION, "here")
    for _ in range(3):
        assert seen.acquire(timeout=WAIT)
    started = monotonic()
    client.close()
    assert monotonic() - started < 1
    assert [t.is_alive() and t.daemon for t in threads] == [True] * 3
    wake.set()
    assert future.result(WAIT).tolist() == roots_of(supervoxels(1, 2, 3)).tolist()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_what_is_asked_of_a_closed_client_fails(server: FakeServer) -> None:
    client = RootClient(server.table, None, ONE)
    client.close()
    client.close()
    with pytest.raises(ServerError, match="the client was closed before the question was sent"):
        ask(client, supervoxels(1))


def test_the_end_of_the_program_does_not_wait_for_the_server(server: FakeServer) -> None:
    server.then = lambda _: Reply(503, headers={"Retry-After": "600"})
    program = """
import sys, time
import numpy as np
from beam_volumes.graphene import GrapheneTable, Limits, RootClient, RootQuestion
client = RootClient(GrapheneTable.parse(sys.argv[1]), None, Limits(ids_per_request=1))
future = client.submit(np.arange(1, 100, dtype=np.uint64), RootQuestion(1, None, 5), "here")
while not client.statistics.retries:
    time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", program, str(server.table)], timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_threads_of_a_client_that_is_dropped_end(server: FakeServer) -> None:
    before = set(threading.enumerate())
    client = RootClient(server.table, None, Limits(max_requests_in_flight=3))
    ask(client, supervoxels(1))
    threads = [t for t in set(threading.enumerate()) - before if t.name.endswith("(_work)")]
    assert len(threads) == 3
    del client
    gc.collect()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_a_client_does_not_travel(server: FakeServer) -> None:
    with RootClient(server.table, TOKEN, ONE) as client, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(client)


@pytest.mark.parametrize(
    ("url", "token", "warned"),
    [
        ("http://pcg.org", TOKEN, True),
        ("http://pcg.org", None, False),
        ("https://pcg.org", TOKEN, False),
        ("http://localhost:80", TOKEN, False),
        ("http://127.0.0.1", TOKEN, False),
        ("http://[::1]:80", TOKEN, False),
        ("http://[::1]", TOKEN, False),
    ],
)
def test_a_token_in_clear_text_is_warned_of(
    caplog: pytest.LogCaptureFixture, url: str, token: Token | None, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        RootClient(GrapheneTable.parse(f"graphene://{url}/segmentation/table/x"), token, ONE).close()
    assert ["in clear text" in r.getMessage() for r in caplog.records] == [True] * warned
