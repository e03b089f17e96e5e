"""Folders in S3, against moto's server, and behind a web server."""

import errno
import http.server
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from beam_volumes.errors import DestinationError, SourceError
from beam_volumes.storage import Folder, https, s3


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for key, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(key, value)
    s3._client_of_process.cache_clear()
    client = s3._client()
    client.create_bucket(Bucket="bucket")
    yield client
    Folder("s3://bucket").delete_folder("")
    client.close()
    s3._client_of_process.cache_clear()


@pytest.fixture
def folder(client: Any) -> Folder:
    return Folder("s3://bucket/volume")


def test_s3_files_are_read_as_they_were_written(client: Any, folder: Folder) -> None:
    folder.write("a/b", b"first")
    folder.write("a/b", b"0123456789", content_type="application/json")
    folder.write_compressed("chunk", b"packed", "gzip")
    again = pickle.loads(pickle.dumps(folder))
    assert again.read("a/b") == b"0123456789"
    assert again.read("chunk") == b"packed"
    assert [folder.read_range("a/b", 2, n) for n in (3, 100, 0)] == [b"234", b"23456789", b""]
    assert folder.read_range("a/b", 10, 5) == b""
    assert [folder.size(name) for name in ("a/b", "none")] == [10, None]
    assert list(folder.entries("a/")) == [("a/b", 10, None)]
    assert [folder.exists(name) for name in ("a/b", "a")] == [True, False]
    info = client.head_object(Bucket="bucket", Key="volume/a/b")
    assert (info["ContentType"], info["CacheControl"]) == ("application/json", "no-cache")
    assert client.head_object(Bucket="bucket", Key="volume/chunk")["ContentEncoding"] == "gzip"


def test_absent_s3_files_are_none(folder: Folder) -> None:
    assert folder.read("x") is None
    assert folder.read_range("x", 0, 5) is None
    assert folder.read_json("x") is None
    assert list(folder.list()) == []
    folder.delete(["x"])
    folder.delete_folder("")


def test_s3_names_are_sorted_and_deleted_by_folder(folder: Folder) -> None:
    names = ["8_8_8/0", "8_8_8/1/2", "8_8_80/0", "info"]
    for name in [*names, "8_8_8/.left.tmp"]:
        folder.write(name, b"")
    assert list(folder.list()) == names
    assert list(folder.list("8_8_8/")) == names[:2]
    folder.delete_folder("8_8_8")
    assert list(Folder("s3://bucket").list()) == ["volume/8_8_80/0", "volume/info"]


@pytest.mark.parametrize("size", [10, (16 << 20) + 7])
def test_an_s3_stream_is_uploaded_when_it_is_whole(folder: Folder, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    with folder.write_stream("shard") as out:
        out.write(bytes(4))
        out.write(body)
        out.seek(0)
        out.write(b"head")
        out.seek(0)
        assert out.read(5) == b"head\0"
        assert not folder.exists("shard")
    assert folder.read("shard") == b"head" + body


def test_an_interrupted_s3_stream_uploads_nothing(folder: Folder) -> None:
    def interrupted() -> None:
        with folder.write_stream("shard") as out:
            out.write(b"half")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        interrupted()
    assert list(folder.list()) == []


def test_of_many_threads_one_creates_in_s3(folder: Folder) -> None:
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda n: folder.create("claim.json", b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert folder.read("claim.json") == b"%d" % won.index(True)


def test_a_creator_whose_answer_was_lost_knows_its_own_file(
    client: Any, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Repeating:
        """Puts everything twice, as a client does that has lost the first answer."""

        def put_object(self, **arguments: Any) -> Any:
            client.put_object(**arguments)
            return client.put_object(**arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

    monkeypatch.setattr(s3, "_client", Repeating)
    assert folder.create("claim.json", b"first")
    monkeypatch.setattr(s3, "_client", lambda: client)
    assert not folder.create("claim.json", b"first")


def test_unfinished_s3_uploads_are_ended(client: Any, folder: Folder) -> None:
    for key in ("volume/8_8_8/a.shard", "other"):
        client.create_multipart_upload(Bucket="bucket", Key=key)
    folder.delete_abandoned("8_8_8")
    left = client.list_multipart_uploads(Bucket="bucket")["Uploads"]
    assert [upload["Key"] for upload in left] == ["other"]
    client.abort_multipart_upload(Bucket="bucket", Key="other", UploadId=left[0]["UploadId"])


def test_refusals_of_s3_are_told(client: Any) -> None:
    with pytest.raises(DestinationError, match=r"s3://none/a: .* came HTTP 404 NoSuchBucket \(PutObject\): check that"):
        Folder("s3://none").write("a", b"x")
    with pytest.raises(SourceError, match=r"s3://none/a: expected to read, came HTTP 404 NoSuchBucket"):
        Folder("s3://none").read("a")
    with (
        pytest.raises(DestinationError, match=r"s3://none/a: .*NoSuchBucket"),
        Folder("s3://none").write_stream("a") as f,
    ):
        f.write(bytes(9 << 20))


def test_an_s3_server_out_of_reach_is_told(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
        patch.setattr("beam_volumes.storage.remote._FIRST_PAUSE_S", 0)
        s3._client_of_process.cache_clear()
        with pytest.raises(SourceError, match=r"s3://bucket/a: expected to read, came EndpointConnectionError \(.*127"):
            Folder("s3://bucket").read("a")
        s3._client_of_process.cache_clear()


def test_a_full_temporary_folder_is_named(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(tempfile, "mkstemp", fail)
    expected = (
        rf"came No space left on device \(ENOSPC\) in the temporary folder {tempfile.gettempdir()}: free .*TMPDIR"
    )
    with pytest.raises(DestinationError, match=expected), folder.write_stream("shard"):
        pass


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files, with ranges below `ranges/`; `busy` answers once that it is; `no` forbids."""

    busy = 0

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        if self.path == "/no":
            return self.send_error(403)
        if self.path == "/busy" and not type(self).busy:
            type(self).busy += 1
            return self.send_error(503)
        asked = self.headers.get("Range")
        if not asked or not self.path.startswith("/ranges"):
            return super().do_GET()
        data = Path(self.directory, self.path[1:]).read_bytes()
        start, end = (int(n) for n in asked.removeprefix("bytes=").split("-"))
        if start >= len(data):
            return self.send_error(416)
        part = data[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        return None


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Folder]:
    for name in ("plain", "ranges/file", "busy"):
        Folder(str(tmp_path)).write(name, b"0123456789")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Folder(f"http://127.0.0.1:{server.server_port}")
        https._session().close()
        server.shutdown()
        thread.join()


def test_files_behind_a_web_server_are_read(web: Folder) -> None:
    assert web.read("plain") == b"0123456789"
    assert web.read("none") is None
    assert web.read("busy") == b"0123456789"
    for name in ("plain", "ranges/file"):
        assert [web.read_range(name, 2, n) for n in (3, 100, 0)] == [b"234", b"23456789", b""]
        assert web.read_range(name, 10, 5) == b""
    assert web.read_range("none", 0, 5) is None
    assert [web.size(name) for name in ("plain", "none")] == [10, None]
    with pytest.raises(SourceError, match="expected a place whose files can be listed"):
        list(web.entries())
    assert web.exists("plain")


def test_a_web_server_is_not_written_to_nor_listed(web: Folder) -> None:
    for write in (web.write, web.create):
        with pytest.raises(
            DestinationError, match=r"/a: expected a place to write to, came a web server, .* read only"
        ):
            write("a", b"x")
    with pytest.raises(DestinationError, match="read only"), web.write_stream("a"):
        pass
    for delete in (web.delete_folder, web.delete_abandoned, web.delete):
        with pytest.raises(DestinationError, match="read only"):
            delete("a")
    with pytest.raises(SourceError, match="expected a place whose files can be listed"):
        list(web.list())


def test_refusals_of_a_web_server_are_told(web: Folder) -> None:
    with pytest.raises(SourceError, match=r"/no: expected to read, came HTTP 403 Forbidden: give this account"):
        web.read("no")
    with pytest.raises(SourceError, match=r"http://127.0.0.1:9/a: expected to read, came ConnectionError \("):
        Folder("http://127.0.0.1:9").read("a")
