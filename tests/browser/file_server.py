"""A server of files on this machine that a browser may ask, with ranges of bytes, and a record of what was asked."""

import mimetypes
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

_EVENTS = "/events/"


class Request(NamedTuple):
    """A request that was answered: with these bytes of the file, all of them or the range that was asked for."""

    path: str
    status: int
    first: int
    stop: int


class FileServer:
    """Serves folders over HTTP while it is entered.

    A file that stands there as `name.gz` is served as `name`, as CloudVolume writes it and buckets serve it.

    Args:
        folders: by the path under which their files are served, "/data" for instance.

    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = folders
        self.requests: list[Request] = []

    def __enter__(self) -> "FileServer":
        """Start to serve, at a port that is free."""
        self._http = _HttpServer(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop when all requests are answered."""
        self._http.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def below(self, path: str) -> list[Request]:
        """Return the requests so far for files below a path."""
        return [request for request in self.requests if request.path.startswith(f"{path}/")]

    def file(self, path: str) -> Path | None:
        """Return the file that stands for a path, which may have `.gz` behind its name."""
        for prefix, folder in self.folders.items():
            if path.startswith(f"{prefix}/"):
                inside = path.removeprefix(f"{prefix}/") or "index.html"
                found = [folder / inside, folder / f"{inside}.gz"]
                return next((file for file in found if file.is_file()), None)
        return None


class _HttpServer(ThreadingHTTPServer):
    """Waits at its end for requests that are being answered."""

    owner: FileServer
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stopping = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    # HTTP/1.0: each connection ends with its answer, and none is left when the server stops.
    server: _HttpServer

    def do_OPTIONS(self) -> None:
        self._answer(204, {"Access-Control-Allow-Headers": "*", "Access-Control-Allow-Methods": "GET"})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(_EVENTS):
            # The client listens here for a Python program that drives it; there is none, and so nothing to tell.
            self._answer(200, {"Content-Type": "text/event-stream"})
            self.server.stopping.wait()
            return
        if path == "/favicon.ico":
            self._answer(204)
            return
        file = self.server.owner.file(path)
        if file is None:
            self._answer(404)
        else:
            self._answer_file(path, file)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the requests are kept."""

    def _answer_file(self, path: str, file: Path) -> None:
        headers = {"Content-Type": mimetypes.guess_type(file.name.removesuffix(".gz"))[0] or "application/octet-stream"}
        data = file.read_bytes()
        asked = self.headers.get("Range")
        if file.suffix == ".gz" and not path.endswith(".gz"):
            # Ranges of what is compressed are of no use: buckets send all of it, too.
            headers["Content-Encoding"] = "gzip"
            asked = None
        if asked is None:
            self._answer(200, headers, data)
            return
        first, stop = _range(asked, len(data))
        if first >= stop:
            self._answer(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
        self._answer(206, headers, data[first:stop], first)

    def _answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", first: int = 0) -> None:
        # Kept before the client can have it, and so before anybody looks.
        path = unquote(urlsplit(self.path).path)
        self.server.owner.requests.append(Request(path, status, first, first + len(body)))
        self.send_response(status)
        common = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Content-Range"}
        for name, value in (common | dict(headers or {})).items():
            self.send_header(name, value)
        if not self.path.startswith(_EVENTS):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _range(asked: str, size: int) -> tuple[int, int]:
    """Return where a range starts and stops in a file of `size` bytes; nothing where it is not in the file."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if found is None or found[0] == "bytes=-":
        return (0, 0)
    if not found[1]:
        return (max(size - int(found[2]), 0), size)
    return (int(found[1]), min(int(found[2]) + 1, size) if found[2] else size)
