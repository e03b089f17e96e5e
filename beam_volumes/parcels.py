"""How voxels travel from the region, or the cell of a pyramid, that made them to their owner.

An owner is a shard, whose *pieces* are encoded: the part of one chunk that lies in the region, nearly always all of it;
or it is a cell of the level above, whose pieces are tiles. What one region or cell has for one owner is a *parcel*: a
table of its pieces, whose bytes stand in a pack file in scratch or, where small, in the parcel itself.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import crc32c
import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Box, Vec
from beam_volumes.payloads import PackReader, PackWriter, Payload, read_pack_index
from beam_volumes.storage import Folder

Pieces = npt.NDArray[np.void]

PIECE = np.dtype(
    [
        ("stream", "<i4"),
        ("number", "<u8"),
        ("chunk", "<u8"),
        ("start", "<i8", 3),
        ("stop", "<i8", 3),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("crc32c", "<u4"),
    ]
)
"""`stream` and `number` are the piece's owner, `chunk` its chunk's id; 0 in a tile. `start` and `stop` are its voxels
(absolute, XYZ; of a tile those of mip 0), `offset` and `length` where its bytes stand."""

PIECE_COMPRESSION, PIECE_LEVEL = "gzip", 1
"""Around the voxels of a piece that is not a whole chunk, or of a tile; read once, soon."""


class Owner(NamedTuple):
    """Who takes a parcel: shard `number` of mip `stream`; or, where `stream` is -L, cell `number` of level L."""

    stream: int
    number: int


class Parcel(NamedTuple):
    """One region's pieces for one owner: a table of `PIECE`, and the pack they are in, or the bytes themselves."""

    table: bytes
    pack: str
    data: bytes

    @property
    def pieces(self) -> Pieces:
        """The table."""
        return np.frombuffer(self.table, PIECE)


class ParcelWriter:
    """Collects a region's pieces; a context manager.

    Pieces are held in memory up to `inline_bytes`, and go to the pack file `name` from there on. The pack, its table
    and its note appear all at once or not at all, so a later run can take them up with `read_parcels`.
    """

    def __init__(self, scratch: str, name: str, inline_bytes: int) -> None:
        self._folder, self._name, self._inline_bytes = Folder(scratch), name, inline_bytes
        self._rows: list[tuple[Any, ...]] = []
        self._held: list[bytes] = []
        self._bytes = 0
        self._pack: PackWriter | None = None

    def __enter__(self) -> ParcelWriter:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Let the pack appear, or vanish after an exception."""
        if self._pack:
            self._pack.__exit__(kind, *rest)  # type: ignore[arg-type]

    def add(self, owner: Owner, chunk: int, box: Box, data: bytes) -> None:
        """Add the voxels of `box`: a part of chunk number `chunk`, or a tile."""
        if self._pack:
            payload = self._pack.append(data)
        else:
            payload = Payload(self._bytes, len(data), crc32c.crc32c(data))
            self._held.append(data)
        self._bytes += len(data)
        self._rows.append((*owner, chunk, box.start, box.stop, *payload))
        if not self._pack and self._bytes > self._inline_bytes:
            self._open_pack()

    def keep(self) -> None:
        """Let a pack appear however little is in it: for an element that has written files of its own."""
        if not self._pack:
            self._open_pack()

    def finish(self, note: dict[str, Any]) -> dict[Owner, Parcel]:
        """Return the parcels by owner; `note` is kept in the pack for `read_parcels`."""
        table = np.array(self._rows, PIECE)
        if self._pack:
            self._pack.finish(json.dumps(note).encode() + b"\n" + table.tobytes())
        return _by_owner(table, self._name if self._pack else "", b"".join(self._held))

    def _open_pack(self) -> None:
        self._pack = PackWriter(self._folder, self._name)
        self._pack.__enter__()
        for data in self._held:
            self._pack.append(data)
        self._held = []


def read_parcels(scratch: str, name: str) -> tuple[dict[Owner, Parcel], dict[str, Any]] | None:
    """Return the parcels and the note of a pack that an earlier run finished, or None."""
    index = read_pack_index(Folder(scratch), name)
    if index is None:
        return None
    note, _, table = index.partition(b"\n")
    return _by_owner(np.frombuffer(table, PIECE), name, b""), json.loads(note)


class ParcelReader(AbstractContextManager["ParcelReader"]):
    """Reads the pieces of one owner from all its parcels."""

    def __init__(self, scratch: str, parcels: list[Parcel]) -> None:
        self._packs = PackReader(scratch)
        self._parcels = parcels
        tables = [p.pieces for p in parcels]
        pieces = np.concatenate(tables) if tables else np.zeros(0, PIECE)
        owners = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
        x, y, z = pieces["start"].T
        order = np.lexsort((x, y, z, pieces["chunk"]))
        self.pieces = pieces[order]
        """All pieces, by chunk id, then place."""
        self._owners = owners[order]

    def __exit__(self, *_: object) -> None:
        """Close packs."""
        self._packs.__exit__()

    def chunks(self) -> Iterator[tuple[int, list[tuple[Box, bytes]]]]:
        """Yield each chunk's id and its pieces; one chunk's bytes are in memory at a time."""
        for chunk, rows in self.groups():
            yield chunk, [(self.box(row), self.read(row)) for row in rows]

    def groups(self) -> Iterator[tuple[int, range]]:
        """Yield each chunk's id and the rows of its pieces."""
        starts = np.flatnonzero(np.diff(self.pieces["chunk"], prepend=~self.pieces["chunk"][:1]))
        for first, last in itertools.pairwise([*starts.tolist(), len(self.pieces)]):
            yield int(self.pieces["chunk"][first]), range(first, last)

    def boxes(self) -> Iterator[Box]:
        """Yield what each piece covers."""
        return (self.box(row) for row in range(len(self.pieces)))

    def tiles(self) -> Iterator[tuple[Box, bytes]]:
        """Yield each piece; one is in memory at a time."""
        return ((self.box(row), self.read(row)) for row in range(len(self.pieces)))

    def box(self, row: int) -> Box:
        """Return what a piece covers."""
        piece = self.pieces[row]
        return Box(_vec(piece["start"]), _vec(piece["stop"]))

    def read(self, row: int) -> bytes:
        """Return the bytes of a piece."""
        piece, parcel = self.pieces[row], self._parcels[self._owners[row]]
        payload = Payload(int(piece["offset"]), int(piece["length"]), int(piece["crc32c"]))
        if parcel.pack:
            return self._packs.read(parcel.pack, payload)
        data = parcel.data[payload.offset : payload.offset + payload.length]
        return payload.checked(data, "a parcel that travelled inline")


def _by_owner(table: Pieces, pack: str, data: bytes) -> dict[Owner, Parcel]:
    """Return the parcels of a table, whose bytes are in `pack`, or in `data` where there is none."""
    parcels = {}
    table = table[np.lexsort((table["number"], table["stream"]))]
    before, after = table[:-1], table[1:]
    ends = np.flatnonzero((before["stream"] != after["stream"]) | (before["number"] != after["number"])) + 1
    for first, last in itertools.pairwise([0, *ends.tolist(), len(table)] if len(table) else []):
        rows = table[first:last].copy()
        owner = Owner(int(rows["stream"][0]), int(rows["number"][0]))
        if pack:
            parcels[owner] = Parcel(rows.tobytes(), pack, b"")
            continue
        own = b"".join(data[o : o + n] for o, n in zip(rows["offset"].tolist(), rows["length"].tolist(), strict=True))
        rows["offset"] = np.cumsum(rows["length"]) - rows["length"]
        parcels[owner] = Parcel(rows.tobytes(), "", own)
    return parcels


def _vec(values: npt.NDArray[np.int64]) -> Vec:
    x, y, z = values.tolist()
    return (x, y, z)
