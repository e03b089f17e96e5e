"""A proofreading server on this machine, which speaks PyChunkGraph's protocol: for tests, and to try an export on.

    python -m beam_volumes.testing.proofreading_server --folder=/tmp/demo

makes a volume of neurons in that folder, prints the graphene:// location to read it from, and two times to ask for.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import socket
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import numpy.typing as npt
from cloudfiles import CloudFiles
from cloudvolume import CloudVolume

from beam_volumes.geometry import Box, Vec
from beam_volumes.testing.chunk_graph import DEMO_TIMES, ChunkGraph, make_demo_graph
from beam_volumes.testing.faults import Faults, Statistics
from beam_volumes.testing.node_ids import IdLayout, Ids, cut_into_supervoxels
from beam_volumes.testing.proofreading_protocol import Answer, Question, RefusedError, Table, Target

_COMPRESSED_BYTES = 4096
"""Answers of that size or more are compressed for clients that take it, as a proxy before a real server does."""

_CLOSE_SECONDS = 10.0


@dataclass
class ProofreadingServer:
    """Serves one table while its `with` block runs; each connection is kept alive and has its own thread.

    Without a `token` everyone is let in, with or without an Authorization header.
    """

    graph: ChunkGraph
    watershed_url: str
    table: str = "demo"
    token: str | None = field(default=None, repr=False)
    """The bearer token that is let in."""
    forbidden: frozenset[str] = field(default=frozenset(), repr=False)
    """Tokens that are known, and answered 403."""
    faults: Faults = field(default_factory=Faults)
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one; once the server runs, the one it listens at."""
    statistics: Statistics = field(default_factory=Statistics)

    def __enter__(self) -> ProofreadingServer:
        """Start to serve."""
        info = CloudFiles(self.watershed_url).get_json("info")
        if info is None:
            raise FileNotFoundError(f"no info file at {self.watershed_url}")
        self.answers = Table(self.graph, info, self.watershed_url, self.faults.wrong)
        self._http = _HttpServer((self.host, self.port), _Handler)
        self._http.owner = self
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and close every connection."""
        self._http.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.close_connections()
        self._http.server_close()

    @property
    def http_url(self) -> str:
        """`http://HOST:PORT`."""
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The location that CloudVolume takes."""
        return f"graphene://{self.http_url}/segmentation/table/{self.table}"

    def answer(self, question: Question, token: str | None) -> Answer:
        """Return the answer to a request that came with this token.

        Raises:
            RefusedError: the request is answered with an error status.

        """
        if self.token is not None:
            if token is None:
                return Answer(302, b"", "text/html", {"Location": f"{self.http_url}/login"})
            if token in self.forbidden:
                raise RefusedError(403, "Requires view permission.")
            if token != self.token:
                raise RefusedError(401, "Invalid or expired token.")
        if question.target.table not in ("", self.table):
            raise RefusedError(400, f"table {question.target.table} does not exist")
        if question.target.kind == "roots_binary":
            self.statistics.asked(np.frombuffer(question.body[: len(question.body) // 8 * 8], np.uint64))
            if self.faults.max_ids is not None and len(question.body) > 8 * self.faults.max_ids:
                raise RefusedError(413, f"more than {self.faults.max_ids} ids")
        return self.answers.answer(question)


class _HttpServer(ThreadingHTTPServer):
    """Knows its open connections, so that it can close those which clients keep alive."""

    owner: ProofreadingServer
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def close_connections(self) -> None:
        with self._changed:
            for connection in self._connections:
                with _gone_is_fine():
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, _CLOSE_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """Ignore that the other side has closed the connection before."""
    try:
        yield
    except OSError:
        return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _HttpServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: a query string can hold a token."""

    def _serve(self) -> None:
        owner = self.server.owner
        place = urlsplit(self.path)
        target = Target.of_path(place.path)
        header = self.headers.get("Authorization")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with owner.statistics.request(target.kind, header is not None) as number:
            fate = owner.faults.fate(number) if target.kind in owner.faults.kinds else "answer"
            if target.kind in owner.faults.kinds:
                self.server.stopping.wait(owner.faults.slow_seconds)
            if fate == "drop":
                self.close_connection = True
                return
            if fate == "fail":
                answer = self._failure()
            elif place.path == "/login":
                answer = Answer(200, b"<html>Sign in</html>", "text/html")
            else:
                answer = self._answer(target, dict(parse_qsl(place.query)), header, body)
            # Counted before the client can have it, and so before the client asks for the count.
            owner.statistics.answered(answer.status)
        self._send(answer, cut_short=fate == "truncate")

    def _failure(self) -> Answer:
        faults = self.server.owner.faults
        headers = {} if faults.retry_after is None else {"Retry-After": str(faults.retry_after)}
        return Answer(faults.status, b"made to fail", "text/plain", headers)

    def _answer(self, target: Target, query: dict[str, str], header: str | None, body: bytes) -> Answer:
        token = query.get("middle_auth_token") if header is None else header.removeprefix("Bearer ")
        try:
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            return self.server.owner.answer(Question(self.command, target, query, body), token)
        except RefusedError as error:
            return Answer.of_json({"message": str(error)}, error.status)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return Answer.of_json({"message": f"the body is no gzip: {error}"}, 400)

    def _send(self, answer: Answer, cut_short: bool) -> None:
        body = answer.body
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.content_type)
        if len(body) >= _COMPRESSED_BYTES and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, compresslevel=1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut_short:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


def write_watershed(
    folder: str | os.PathLike[str],
    supervoxels: Ids,
    resolution: Vec = (16, 16, 40),
    voxel_offset: Vec = (0, 0, 0),
    chunk_size: Vec = (64, 64, 32),
    encoding: str = "compressed_segmentation",
) -> str:
    """Write supervoxels as an unsharded Precomputed volume of one scale.

    Args:
        folder: a path, or a location that CloudVolume takes.
        supervoxels: uint64 XYZ.
        resolution: nanometres a voxel.
        voxel_offset: the first voxel of the array in the volume.
        chunk_size: voxels of a file.
        encoding: `raw`, `compressed_segmentation`, or another lossless one.

    Returns:
        The location of the volume.

    """
    url = str(folder) if "://" in str(folder) else f"file://{os.path.abspath(folder)}"
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding=encoding,
        resolution=resolution,
        voxel_offset=voxel_offset,
        chunk_size=chunk_size,
        volume_size=supervoxels.shape,
    )
    volume = CloudVolume(url, info=info, progress=False)
    volume.commit_info()
    volume[volume.bounds] = np.asfortranarray(supervoxels)[..., np.newaxis]
    return url


@contextmanager
def demo_server(
    folder: str | os.PathLike[str],
    labels: npt.NDArray[np.unsignedinteger[Any]],
    chunk_size: Vec = (64, 64, 32),
    voxel_offset: Vec = (0, 0, 0),
    chunks_start_at_voxel_offset: bool = True,
    resolution: Vec = (16, 16, 40),
    **server: Any,
) -> Iterator[ProofreadingServer]:
    """Serve `labels` (XYZ) as a graph with the edits of `make_demo_graph`, over a watershed written into `folder`.

    `server` holds further fields of `ProofreadingServer`. What an export of all of it should be is
    `running.graph.roots(volume, timestamp)`, where `volume` is all voxels of `running.watershed_url`.
    """
    x, y, z = labels.shape
    origin = voxel_offset if chunks_start_at_voxel_offset else (0, 0, 0)
    layout = IdLayout.of_box(Box.of_shape((x, y, z), voxel_offset), chunk_size, origin)
    ox, oy, oz = (v - o for v, o in zip(voxel_offset, origin, strict=True))
    supervoxels = cut_into_supervoxels(labels, chunk_size, (ox, oy, oz))
    url = write_watershed(os.path.join(folder, "watershed"), supervoxels, resolution, voxel_offset)
    graph = make_demo_graph(labels, chunk_size, supervoxels=supervoxels, layout=layout)
    with ProofreadingServer(graph, url, **server) as running:
        yield running


def main(argv: Sequence[str] | None = None, stop: threading.Event | None = None) -> None:
    """Serve a made volume until Ctrl-C, or until `stop` is set."""
    from beam_volumes.testing.neurons import make_neurons

    parser = argparse.ArgumentParser(description="Serve a made volume of neurons as a proofreading server does.")
    parser.add_argument("--folder", required=True, help="where the watershed is written")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--size", type=_shape, default="256,256,128", help="voxels along x, y and z")
    options = parser.parse_args(argv)
    with socket.socket() as probe:
        # Before minutes of work, and in words.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", options.port))
        except OSError as error:
            parser.error(f"--port: expected one that is free, came {options.port} ({error.strerror})")
    with demo_server(options.folder, make_neurons(options.size), port=options.port) as server:
        first, _, last = DEMO_TIMES
        sys.stdout.write(
            f"{server.url}\n"
            f"ask for --timestamp={first}, before all edits, and --timestamp={last}, after them; Ctrl-C stops\n"
        )
        sys.stdout.flush()
        try:
            (stop or threading.Event()).wait()
        except KeyboardInterrupt:
            sys.stdout.write(f"{json.dumps(dict(server.statistics.requests))}\n")


def _shape(text: str) -> Vec:
    try:
        x, y, z = (int(n) for n in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected x,y,z in whole numbers, came {text}") from None
    if min(x, y, z) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, came {text}")
    return (x, y, z)


if __name__ == "__main__":
    main()
