"""Folders in Cloud Storage, against a server in this process with the part of its JSON API that they need."""

import base64
import json
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import crc32c
import pytest

from beam_volumes.errors import DestinationError, OptionError, SourceError
from beam_volumes.storage import Folder, gcs

pytest.importorskip("google.cloud.storage", reason="needs the extra gcp")

PAGE = 3
"""Names in one answer to a listing: few, so that lists have pages."""


class FakeGcs(ThreadingHTTPServer):
    """The bucket `bucket`; another one does not exist.

    Attributes:
        objects: the stored bytes and their metadata, by name.
        failures: statuses to answer the next requests with.
        lose_answers: how many uploads succeed with an answer that is an error.

    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self.sessions: list[tuple[dict[str, Any], dict[str, str], bytearray]] = []
        self.failures: list[int] = []
        self.lose_answers = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_gcs() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    @property
    def fake(self) -> FakeGcs:
        return cast(FakeGcs, self.server)

    def do_GET(self) -> None:
        self._dispatch(self._get)

    def do_POST(self) -> None:
        self._dispatch(self._post)

    def do_PUT(self) -> None:
        self._dispatch(self._put)

    def do_DELETE(self) -> None:
        self._dispatch(self._delete)

    def _dispatch(self, handle: Any) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = re.fullmatch(r"(?:/upload|/download)?/storage/v1/b/([^/]+)/o(?:/(.*))?", parts.path)
        bucket, self.name = (found[1], unquote(found[2] or "")) if found else ("", "")
        # The client asks for the bucket too, on its own, at any time: that is not the request that is to fail.
        if found and self.fake.failures:
            self._send(self.fake.failures.pop(0), b"{}")
        elif bucket != "bucket":
            self._send(404, b"{}")
        else:
            handle()

    def _get(self) -> None:
        if not self.name:
            return self._list()
        if self.name not in self.fake.objects:
            return self._send(404, b"{}")
        data, metadata = self.fake.objects[self.name]
        if self.query.get("alt") != "media":
            return self._send_json(metadata)
        headers = {"X-Goog-Hash": f"crc32c={metadata['crc32c']}"}
        if metadata.get("contentEncoding"):
            headers["Content-Encoding"] = metadata["contentEncoding"]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self._send(200, data, headers)
        start = int(asked[1])
        part = data[start : int(asked[2]) + 1 if asked[2] else None]
        if not part:
            return self._send(416, b"")
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return self._send(206, part, headers)

    def _facts(self, name: str) -> dict[str, str]:
        data, _ = self.fake.objects[name]
        return {"size": str(len(data)), "crc32c": base64.b64encode(crc32c.crc32c(data).to_bytes(4, "big")).decode()}

    def _list(self) -> None:
        start, prefix = self.query.get("pageToken", ""), self.query.get("prefix", "")
        names = sorted(name for name in [*self.fake.objects] if name.startswith(prefix) and name > start)
        items = [{"name": name, **self._facts(name)} for name in names[:PAGE]]
        answer: dict[str, Any] = {"items": items}
        if len(names) > PAGE:
            answer["nextPageToken"] = names[PAGE - 1]
        self._send_json(answer)

    def _post(self) -> None:
        if self.query["uploadType"] == "resumable":
            self.fake.sessions.append((json.loads(self.body), self.query, bytearray()))
            place = f"{self.fake.url}/upload/storage/v1/b/bucket/o?session={len(self.fake.sessions) - 1}"
            return self._send(200, b"", {"Location": place})
        boundary = self.body[: self.body.index(b"\r\n")]
        description, media = (part.partition(b"\r\n\r\n")[2] for part in self.body.split(boundary)[1:3])
        return self._store(json.loads(description), self.query, media.removesuffix(b"\r\n"))

    def _put(self) -> None:
        metadata, query, data = self.fake.sessions[int(self.query["session"])]
        data += self.body
        total = self.headers["Content-Range"].partition("/")[2]
        if total == "*" or len(data) < int(total):
            return self._send(308, b"", {"Range": f"bytes=0-{len(data) - 1}"})
        return self._store(metadata, query, bytes(data))

    def _store(self, metadata: dict[str, Any], query: dict[str, str], data: bytes) -> None:
        name = metadata.get("name") or query["name"]
        checksum = base64.b64encode(crc32c.crc32c(data).to_bytes(4, "big")).decode()
        if metadata.get("crc32c", checksum) != checksum:
            return self._send(400, b'{"error": {"message": "crc32c"}}')
        with self.fake.lock:
            if query.get("ifGenerationMatch") == "0" and name in self.fake.objects:
                return self._send(412, b"{}")
            facts = {"name": name, "bucket": "bucket", "size": str(len(data)), "crc32c": checksum}
            self.fake.objects[name] = (data, {**metadata, **facts})
        if self.fake.lose_answers:
            self.fake.lose_answers -= 1
            return self._send(503, b"{}")
        return self._send_json(self.fake.objects[name][1])

    def _delete(self) -> None:
        found = self.fake.objects.pop(self.name, None)
        self._send(204 if found else 404, b"" if found else b"{}")

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/octet-stream", **(headers or {})}.items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with fake_gcs() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        gcs._client_of_process.cache_clear()
        yield server
        gcs._client().close()
    gcs._client_of_process.cache_clear()


@pytest.fixture
def folder(server: FakeGcs) -> Folder:
    return Folder("gs://bucket/volume")


def test_files_are_read_as_they_were_written(server: FakeGcs, folder: Folder) -> None:
    folder.write("a/b", b"first")
    folder.write("a/b", b"0123456789", content_type="application/json")
    folder.write_compressed("chunk", b"not really gzip", "gzip")
    again = pickle.loads(pickle.dumps(folder))
    assert again.read("a/b") == b"0123456789"
    assert again.read("chunk") == b"not really gzip"
    assert [folder.read_range("a/b", 2, n) for n in (3, 100, 0)] == [b"234", b"23456789", b""]
    assert folder.read_range("a/b", 10, 5) == b""
    assert [folder.size(name) for name in ("a/b", "none")] == [10, None]
    assert list(folder.entries("a/")) == [("a/b", 10, crc32c.crc32c(folder.read("a/b") or b""))]
    assert [folder.exists(name) for name in ("a/b", "a")] == [True, False]
    found = {name: metadata for name, (_, metadata) in server.objects.items()}
    assert found["volume/a/b"]["cacheControl"] == "no-cache"
    assert found["volume/chunk"]["contentEncoding"] == "gzip"


def test_absent_files_are_none(folder: Folder) -> None:
    assert folder.read("x") is None
    assert folder.read_range("x", 0, 5) is None
    assert folder.read_json("x") is None
    assert list(folder.list()) == []
    folder.delete(["x"])
    folder.delete_folder("")


def test_listings_have_pages(server: FakeGcs, folder: Folder) -> None:
    names = [f"8_8_8/{n}" for n in range(2 * PAGE + 1)]
    for name in [*names, "8_8_80/0", "info"]:
        folder.write(name, b"")
    Folder("gs://bucket/volume2").write("info", b"")
    assert list(folder.list("8_8_8/")) == names
    folder.delete_folder("8_8_8")
    assert list(folder.list()) == ["8_8_80/0", "info"]
    folder.delete_folder("")
    assert [*server.objects] == ["volume2/info"]


@pytest.mark.parametrize("size", [10, (1 << 19) * 5 + 7, 9 << 20])
def test_a_stream_is_uploaded_when_it_is_whole(
    server: FakeGcs, folder: Folder, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "_PART_BYTES", 1 << 20)
    body = bytes(range(256)) * (size // 256 + 1)
    with folder.write_stream("shard") as out:
        out.write(bytes(4))
        out.write(body)
        out.seek(0)
        out.write(b"head")
        assert not server.objects
    assert server.objects["volume/shard"][0] == b"head" + body


def test_an_interrupted_stream_uploads_nothing(server: FakeGcs, folder: Folder) -> None:
    def interrupted() -> None:
        with folder.write_stream("shard") as out:
            out.write(b"half")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        interrupted()
    assert not server.objects


def test_a_file_is_created_once(server: FakeGcs, folder: Folder) -> None:
    assert folder.create("claim.json", b"first")
    assert not folder.create("claim.json", b"first")
    assert server.objects["volume/claim.json"][0] == b"first"


def test_a_creator_whose_answer_was_lost_knows_its_own_file(server: FakeGcs, folder: Folder) -> None:
    server.lose_answers = 1
    assert folder.create("claim.json", b"first")


def test_the_client_tries_again_after_errors_of_the_server(server: FakeGcs, folder: Folder) -> None:
    server.failures = [503]
    folder.write("a", b"x")
    server.failures = [503]
    assert folder.read("a") == b"x"


def test_refusals_are_told_without_secrets(server: FakeGcs, folder: Folder) -> None:
    with pytest.raises(
        DestinationError,
        match=r"gs://other/a: expected to write 1 bytes, came HTTP 404 NotFound: check that the bucket exists",
    ):
        Folder("gs://other").write("a", b"x")
    server.failures = [403]
    with pytest.raises(SourceError, match=r"gs://bucket/volume/a: expected to read, came HTTP 403 Forbidden: give"):
        folder.read("a")
    server.failures = [401]
    with (
        pytest.raises(DestinationError, match=r"came no valid credentials \(InvalidOperation\): sign in") as caught,
        folder.write_stream("a") as f,
    ):
        f.write(bytes(9 << 20))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    server.failures = [403]
    with pytest.raises(DestinationError, match=r"expected to delete, came HTTP 403"):
        folder.delete(["a"])


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gcs._client_of_process.cache_clear()
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(OptionError, match=r"pip install 'beam-volumes\[gcp\]'"):
        Folder("gs://bucket").read("info")
