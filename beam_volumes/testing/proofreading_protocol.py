"""What a proofreading server answers: PyChunkGraph's requests, apart from HTTP.

Source: PyChunkGraph, `app/segmentation/v1/routes.py` and `common.py`; CloudVolume, `frontends/graphene.py`.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from beam_volumes.geometry import Box
from beam_volumes.testing.chunk_graph import ChunkGraph
from beam_volumes.testing.faults import Wrong
from beam_volumes.testing.node_ids import Ids, layers

_PATH = re.compile(r"/segmentation/(?:api/v1/table|api/v1|table|1\.0)/([^/]+)/(.+)")
_REQUESTS = re.compile(
    r"(info|roots_binary|roots|oldest_timestamp|root_timestamps|is_latest_roots|delta_roots|l2_chunk_children_binary)"
    r"(?:/(\d+))?|node/(\d+)/(leaves)"
)
_POSTED = frozenset({"roots_binary", "roots", "root_timestamps", "is_latest_roots"})
_BINARY = "application/octet-stream"


class RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Target(NamedTuple):
    """What a path asks for; `kind` is "other", and `table` may be "", where it is no request of this protocol."""

    table: str
    kind: str
    node: int | None

    @classmethod
    def of_path(cls, path: str) -> Target:
        """Return what `path`, without its query, asks for."""
        if (place := _PATH.fullmatch(path)) and (request := _REQUESTS.fullmatch(place[2])):
            node = request[2] or request[3]
            return cls(place[1], request[1] or request[4], int(node) if node else None)
        return cls(place[1] if place else "", "other", None)


@dataclass(frozen=True)
class Question:
    """A request; `body` is already decompressed."""

    method: str
    target: Target
    query: Mapping[str, str]
    body: bytes = b""

    def time(self, name: str = "timestamp") -> float:
        """Return a query parameter in Unix seconds; now where it is missing."""
        try:
            value = float(self.query.get(name, time.time()))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RefusedError(400, f"Timestamp parameter {name} is not a valid unix timestamp")
        return value

    @property
    def stop_layer(self) -> int | None:
        """The query parameter of that name."""
        return int(self.query["stop_layer"]) if "stop_layer" in self.query else None

    @property
    def posted_ids(self) -> Ids:
        """The ids of a JSON body."""
        return np.array(json.loads(self.body)["node_ids"], np.uint64)


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, content: Any, status: int = 200) -> Answer:
        """Return `content` as JSON."""
        return cls(status, json.dumps(content).encode())

    @classmethod
    def of_ids(cls, ids: Ids) -> Answer:
        """Return `ids` as little-endian uint64, row by row."""
        return cls(200, ids.astype("<u8").tobytes("C"), _BINARY)


class Table:
    """One table of the server: a graph over a watershed, which answers questions.

    Args:
        graph: answers for ids.
        watershed_info: the info file of the supervoxels; all of it goes into the table's.
        watershed_url: where they are, as CloudVolume takes it.
        wrong: what is wrong in answers to roots_binary.

    Raises:
        ValueError: the graph's chunks start neither at voxel 0 nor at the volume's first voxel.

    """

    def __init__(
        self, graph: ChunkGraph, watershed_info: Mapping[str, Any], watershed_url: str, wrong: Wrong = ""
    ) -> None:
        self.graph = graph
        self.wrong: Wrong = wrong
        self.info = table_info(graph, watershed_info, watershed_url)
        self._answers: dict[str, Callable[[Question], Answer]] = {
            "info": lambda _: Answer.of_json(self.info),
            "roots_binary": self._roots_binary,
            "roots": lambda q: Answer.of_json({"root_ids": self._roots(q, q.posted_ids).tolist()}),
            "l2_chunk_children_binary": self._l2_chunk_children,
            "leaves": self._leaves,
            "oldest_timestamp": lambda _: self._oldest_timestamp(),
            "root_timestamps": self._root_timestamps,
            "is_latest_roots": self._is_latest_roots,
            "delta_roots": self._delta_roots,
        }

    def answer(self, question: Question) -> Answer:
        """Return the answer, an error of the server's (500) included.

        Raises:
            RefusedError: the request is answered with another error status.

        """
        kind = question.target.kind
        if kind not in self._answers:
            raise RefusedError(404, "no such request")
        if question.method != ("POST" if kind in _POSTED else "GET"):
            raise RefusedError(405, f"{question.method} is not allowed for {kind}")
        try:
            return self._answers[kind](question)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RefusedError(500, f"{type(error).__name__}: {error}") from error

    def _roots_binary(self, question: Question) -> Answer:
        roots = self._roots(question, np.frombuffer(question.body, "<u8").astype(np.uint64))
        if self.wrong == "zeros":
            roots = np.zeros_like(roots)
        elif self.wrong == "too_few":
            roots = roots[:-1]
        return Answer.of_ids(roots)

    def _roots(self, question: Question, ids: Ids) -> Ids:
        top = self.graph.layout.n_layers
        stop_layer = question.stop_layer or top
        timestamp: float | None = question.time()
        if stop_layer > top:
            raise ValueError(f"stop_layer {stop_layer} is above the root layer, {top}")
        if self.wrong == "ignores_timestamp":
            timestamp = None
        if self.wrong == "wrong_layer":
            stop_layer = 2 if stop_layer == top else top
        roots = self.graph.roots(ids, timestamp, stop_layer)
        # Any text is true, "0" and "False" included; the root layer alone is checked.
        if question.query.get("assert_roots") and stop_layer == top and (layers(roots) < top).any():
            raise RefusedError(500, "AssertionError: roots not found for some IDs")
        return roots

    def _l2_chunk_children(self, question: Question) -> Answer:
        if "as_array" not in question.query:
            raise RefusedError(501, "without as_array=True the answer would be a pickle, which this server never sends")
        chunk = _node(question)
        if chunk >> 56 != 2:
            raise RefusedError(400, f"This function only accepts level 2 chunks, not level {chunk >> 56}")
        return Answer.of_ids(self.graph.l2_chunk_children(chunk, question.time()))

    def _leaves(self, question: Question) -> Answer:
        bounds = None
        if "bounds" in question.query:
            (x0, x1), (y0, y1), (z0, z1) = (
                (int(a), int(b)) for a, b in (axis.split("-") for axis in question.query["bounds"].split("_"))
            )
            bounds = Box((x0, y0, z0), (x1, y1, z1))
        leaves = self.graph.leaves(_node(question), bounds, question.stop_layer or 1)
        return Answer.of_json({"leaf_ids": leaves.tolist()})

    def _oldest_timestamp(self) -> Answer:
        oldest = self.graph.oldest_timestamp
        iso = datetime.fromtimestamp(oldest, UTC).isoformat(" ")
        return Answer.of_json({"iso": iso, "epoch": float(oldest)})

    def _root_timestamps(self, question: Question) -> Answer:
        return Answer.of_json({"timestamp": self.graph.root_timestamps(question.posted_ids).astype(float).tolist()})

    def _is_latest_roots(self, question: Question) -> Answer:
        latest = self.graph.is_latest_roots(question.posted_ids, question.time())
        return Answer.of_json({"is_latest": latest.tolist()})

    def _delta_roots(self, question: Question) -> Answer:
        if "timestamp_past" not in question.query:
            raise RefusedError(400, "Timestamp parameter timestamp_past is mandatory")
        old, new = self.graph.delta_roots(question.time("timestamp_past"), question.time("timestamp_future"))
        return Answer.of_json({"old_roots": old.tolist(), "new_roots": new.tolist()})


def _node(question: Question) -> int:
    if question.target.node is None:
        raise RefusedError(404, "the path names no node")
    return question.target.node


def table_info(graph: ChunkGraph, watershed_info: Mapping[str, Any], watershed_url: str) -> dict[str, Any]:
    """Return the info file of a table: the watershed's, and what clients of the graph need.

    Raises:
        ValueError: the graph's chunks start neither at voxel 0 nor at the volume's first voxel.

    """
    start, origin = tuple(watershed_info["scales"][0]["voxel_offset"]), graph.layout.origin
    if origin not in (start, (0, 0, 0)):
        raise ValueError(f"graph chunks start at {origin}: expected voxel 0, or the volume's first voxel {start}")
    return {
        **watershed_info,
        "data_dir": watershed_url,
        "graph": graph.layout.graph_info(),
        "chunks_start_at_voxel_offset": origin == start,
        "app": {"supported_api_versions": [0, 1]},
        "mesh": "graphene_meshes",
        "mesh_dir": "graphene_meshes",
        "mesh_metadata": {"uniform_draco_grid_size": 21, "unsharded_mesh_dir": "dynamic"},
        "sharded_mesh": True,
        "verify_mesh": False,
    }
