"""Where a proofreading volume is served, and what its `info` says of its chunk graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from beam_volumes.errors import OptionError, SourceError
from beam_volumes.geometry import Vec

Json = dict[str, Any]

_FORM = "graphene://https://HOST/segmentation/table/NAME"

_URL = re.compile(
    r"graphene://(?:middleauth\+)?(?P<scheme>https?)://(?P<host>[\w.-]+(?::\d+)?|\[[0-9A-Fa-f:.]+\](?::\d+)?)"
    r"(?P<prefix>(?:/[\w.-]+)*?)/segmentation/(?:api/v1/table|api/v1|table|1\.0)/(?P<name>[\w.-]+)/?",
    re.ASCII,
)

_LAYER_BITS = 8
"""Of an id, the highest: other graphs than those have none that this client could read."""


@dataclass(frozen=True)
class GrapheneTable:
    """A table of a proofreading server; holds no secret.

    Attributes:
        scheme: https, or http.
        host: lower case, with the port where one is given.
        prefix: what stands between the host and `/segmentation`; empty, or a path that begins with a slash.
        name: the table.

    """

    scheme: str
    host: str
    prefix: str
    name: str

    @classmethod
    def parse(cls, url: str) -> GrapheneTable:
        """Read a `graphene://` URL in any of the forms that CloudVolume and Neuroglancer take.

        Raises:
            OptionError: it is no such URL, or holds what could be a secret.

        """
        if "@" in url:
            raise OptionError(
                f"--src: expected {_FORM}, came a URL with an @, not shown here as it may hold a password: name the "
                "token in --token_env instead"
            )
        shown = re.split(r"[?#]", url, maxsplit=1)[0]
        if shown != url:
            raise OptionError(
                f"--src: expected {_FORM}, came {shown} and a query or fragment, not shown here as it may hold a "
                "token: leave it out, and name the token in --token_env"
            )
        match = _URL.fullmatch(url)
        if not match:
            raise OptionError(f"--src: expected {_FORM}, came {url}")
        return cls(match["scheme"], match["host"].lower(), match["prefix"], match["name"])

    @property
    def origin(self) -> str:
        """Scheme and host, as `https://HOST`."""
        return f"{self.scheme}://{self.host}"

    @property
    def info_url(self) -> str:
        """Where the volume's `info` is."""
        return f"{self.origin}{self.prefix}/segmentation/table/{self.name}/info"

    def api_url(self, name: str) -> str:
        """Return where requests of this name go."""
        return f"{self.origin}{self.prefix}/segmentation/api/v1/table/{self.name}/{name}"

    def __str__(self) -> str:
        """Return the URL in its usual form."""
        return f"graphene://{self.origin}{self.prefix}/segmentation/table/{self.name}"


@dataclass(frozen=True)
class GraphInfo:
    """The chunk graph of a proofreading volume; picklable.

    The highest 8 bits of a node id are its layer: 1 that of supervoxels, `n_layers` that of roots.

    Attributes:
        data_dir: where the supervoxels are, a Precomputed volume.
        chunk_size: shape of a graph chunk, XYZ voxels at `cv_mip`.
        chunk_origin: a corner of the grid of graph chunks, XYZ voxels at `cv_mip`.
        info: the whole JSON.

    """

    data_dir: str
    chunk_size: Vec
    n_layers: int
    cv_mip: int
    chunk_origin: Vec
    info: Json

    @classmethod
    def from_info(cls, info: Any, where: str) -> GraphInfo:
        """Check and take up what the server says; `where` is for messages.

        Raises:
            SourceError: a field is missing, or holds something else.

        """
        fields = _Fields(info, where)
        n_layers = fields.whole("graph.n_layers", least=2)
        layer_bits = fields.whole("graph.n_bits_for_layer_id", least=1, default=_LAYER_BITS)
        if layer_bits != _LAYER_BITS:
            raise SourceError(f"{where}: expected graph.n_bits_for_layer_id = {_LAYER_BITS}, came {layer_bits}")
        cv_mip = fields.whole("graph.cv_mip", least=0)
        return cls(
            data_dir=fields.text("data_dir"),
            chunk_size=fields.vec("graph.chunk_size", least=1),
            n_layers=n_layers,
            cv_mip=cv_mip,
            chunk_origin=_chunk_origin(fields, cv_mip),
            info=info,
        )


def _chunk_origin(fields: _Fields, cv_mip: int) -> Vec:
    fields.numbers(f"scales.{cv_mip}.resolution")
    if not fields.get("chunks_start_at_voxel_offset", default=False):
        return (0, 0, 0)
    return fields.vec(f"scales.{cv_mip}.voxel_offset", default=[0, 0, 0])


class _Fields:
    """Fields of a JSON document by their dotted paths; wrong ones are named."""

    def __init__(self, document: Any, where: str) -> None:
        self._document, self._where = document, where

    def get(self, path: str, default: Any = None) -> Any:
        value = self._document
        for key in path.split("."):
            if isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                return default
        return value

    def text(self, path: str) -> str:
        value = self.get(path)
        if not isinstance(value, str) or not value:
            raise self._wrong(path, "a text", value)
        return value

    def whole(self, path: str, least: int, default: int | None = None) -> int:
        value = self.get(path, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(path, f"a whole number of at least {least}", value)
        return value

    def numbers(self, path: str, default: list[int] | None = None) -> list[float]:
        value = self.get(path, default)
        if not isinstance(value, list) or len(value) != 3 or not all(type(v) in (int, float) for v in value):
            raise self._wrong(path, "three numbers", value)
        return value

    def vec(self, path: str, least: int | None = None, default: list[int] | None = None) -> Vec:
        value = self.numbers(path, default)
        if not all(float(v).is_integer() and (least is None or v >= least) for v in value):
            at_least = "" if least is None else f" of at least {least}"
            raise self._wrong(path, f"three whole numbers{at_least}", value)
        x, y, z = (int(v) for v in value)
        return (x, y, z)

    def _wrong(self, path: str, expected: str, value: Any) -> SourceError:
        came = "none" if value is None else repr(value)[:200]
        return SourceError(f"{self._where}: expected {expected} as {path} in the server's info, came {came}")
