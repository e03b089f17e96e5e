"""How what an element has made, which is a region or a cell, travels to its owners, who take it from many elements.

What one element has for one owner is a *parcel*: a table of *pieces*, whose bytes stand in a pack file in scratch or,
where small, in the parcel itself. The pieces of an owner stand side by side in a pack, in the order in which it takes
them: from afar that is one request.

Owners are told apart by two numbers, and an owner's pieces by a third one, and a box. What these are:

    pieces                              stream, number             chunk                 box
    encoded chunks, or parts of one     mip, shard                 its id in the scale   its voxels
    tiles of a pyramid                  -level, cell of the level  0                     its voxels, of mip 0
    labels of a cell of a mesh          0, part of the labels      the cell              voxels of the cell
    those of them that are meshed       0, cell                    part of the labels    voxels of the cell
    all labels that are meshed          1, 0                       part of the labels    all voxels
    fragments of a mesh                 0, shard                   label                 cells of the finest level
    surfaces that are joined            -level, part of the level  label                 cells of the finest level
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
"""`stream` and `number` are the piece's owner, `chunk`, `start` and `stop` (XYZ) the piece's own: see the module.
`offset` and `length` are where its bytes stand."""

HELD_BYTES = 2**24
"""Of the pieces of an element; then they go to the pack, sorted. With more an owner has several ranges in a pack."""

_UNPACKED_BYTES = 2**20
"""An element that makes more writes a pack, which a later run takes up, even if all of it travels inline."""

_ROWS = 2**12
"""Of a table that are objects."""

_READ_BYTES = 2**25
_READ_COST = 2**9
"""From afar so much is read at a time, where a piece counts for its bytes and these."""

PIECE_COMPRESSION, PIECE_LEVEL = "gzip", 1
"""Around the voxels of a part of a chunk, or of a tile; read once, soon."""


class Owner(NamedTuple):
    """Who takes a parcel: a shard, a cell, a part of a table; see the module."""

    stream: int
    number: int


class Parcel(NamedTuple):
    """One element's pieces for one owner: a table of `PIECE`, and the pack they are in, or the bytes themselves."""

    table: bytes
    pack: str
    data: bytes

    @property
    def pieces(self) -> Pieces:
        """The table."""
        return np.frombuffer(self.table, PIECE)


@dataclass(frozen=True, eq=False)
class Parcels:
    """The parcels of an element: iterate for owners and parcels, which are made one by one.

    Attributes:
        table: of all pieces, by owner, chunk and place.
        pack: that they are in; empty where there is none.
        data: all their bytes, in the order of the table; empty where they are in the pack only.
        inline_bytes: what an owner may have to get it inline although there is a pack.

    """

    table: Pieces
    pack: str
    data: bytes
    inline_bytes: int

    def __iter__(self) -> Iterator[tuple[Owner, Parcel]]:
        """Yield each owner and its parcel."""
        for first, last in itertools.pairwise(_ends(self.table)):
            stream, number = self.table["stream"][first], self.table["number"][first]
            yield Owner(int(stream), int(number)), self._parcel(self.table[first:last])

    def _parcel(self, rows: Pieces) -> Parcel:
        size = int(rows["length"].sum())
        if self.pack and not (self.data and size <= self.inline_bytes):
            return Parcel(rows.tobytes(), self.pack, b"")
        start = int(rows["offset"][0])
        rows = rows.copy()
        rows["offset"] -= np.uint64(start)
        return Parcel(rows.tobytes(), "", self.data[start : start + size])


class ParcelWriter:
    """Collects the pieces of an element; a context manager.

    An owner's pieces travel inline up to `inline_bytes`, and are in the pack file `name` from there on: so a shard's
    parcels, all in memory where it is written, hold no more than these for each pack that has something for it. The
    pack, its table and its note appear all at once or not at all, and hold everything, so that a later run can take
    them up with `read_parcels`. Memory: 16 MiB, twice; 88 bytes for each piece, three times.
    """

    def __init__(self, scratch: str, name: str, inline_bytes: int) -> None:
        self._folder, self._name, self._inline_bytes = Folder(scratch), name, inline_bytes
        self._held = _Held()
        self._written: list[Pieces] = []
        self._pack: PackWriter | None = None

    def __enter__(self) -> ParcelWriter:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Let the pack appear, or vanish after an exception."""
        if self._pack:
            self._pack.__exit__(kind, *rest)  # type: ignore[arg-type]

    def add(self, owner: Owner, chunk: int, box: Box, data: bytes | memoryview) -> None:
        """Add a piece; `chunk` and `box` tell its owner which."""
        self._held.add(owner, chunk, box, data)
        if len(self._held.data) > HELD_BYTES:
            self._write_held(self.keep(), self._held.take_table())

    def keep(self) -> PackWriter:
        """Let a pack appear however little is in it: for an element that has written files of its own."""
        if not self._pack:
            self._pack = PackWriter(self._folder, self._name)
            self._pack.__enter__()
        return self._pack

    def finish(self, note: dict[str, Any]) -> Parcels:
        """Return the parcels; `note` is kept in the pack for `read_parcels`."""
        table, data = self._held.take_table(), b""
        if self._inline_bytes and not self._written:
            data = b"".join(self._held.pieces(table))
        if len(self._held.data) > _UNPACKED_BYTES or _most_bytes(table) > self._inline_bytes:
            self.keep()
        if not self._pack:
            _place(table, 0)
            return Parcels(table, "", data, self._inline_bytes)
        self._write_held(self._pack, table)
        table = _in_order(self._written)
        self._pack.finish(json.dumps(note).encode() + b"\n" + table.tobytes())
        return Parcels(table, self._name, data, self._inline_bytes)

    def _write_held(self, pack: PackWriter, table: Pieces) -> None:
        _place(table, pack.append_stream(self._held.pieces(table)).offset)
        self._written.append(table)
        self._held = _Held()


class _Held:
    """Pieces in memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._rows: list[tuple[Any, ...]] = []
        self._tables: list[Pieces] = []

    def add(self, owner: Owner, chunk: int, box: Box, data: bytes | memoryview) -> None:
        self._rows.append((*owner, chunk, box.start, box.stop, len(self.data), len(data), crc32c.crc32c(data)))
        self.data += data
        if len(self._rows) == _ROWS:
            self._tables.append(np.array(self._rows, PIECE))
            self._rows = []

    def take_table(self) -> Pieces:
        """Return all pieces, sorted, with their places in `data`; once."""
        self._tables.append(np.array(self._rows, PIECE))
        self._rows = []
        return _in_order(self._tables)

    def pieces(self, table: Pieces) -> Iterator[memoryview]:
        """Yield the bytes of the pieces of a table."""
        data = memoryview(self.data)
        places = zip(table["offset"].tolist(), table["length"].tolist(), strict=True)
        return (data[start : start + length] for start, length in places)


def read_parcels(scratch: str, name: str) -> tuple[Parcels, dict[str, Any]] | None:
    """Return the parcels and the note of a pack that an earlier run finished, or None."""
    index = read_pack_index(Folder(scratch), name)
    if index is None:
        return None
    note, _, rows = index.partition(b"\n")
    return Parcels(_in_order([np.frombuffer(rows, PIECE)]), name, b"", 0), json.loads(note)


class ParcelReader(AbstractContextManager["ParcelReader"]):
    """Reads the pieces of one owner from all its parcels.

    Memory: some 200 bytes for each piece; of their bytes one piece, or 32 MiB from afar.
    """

    def __init__(self, scratch: str, parcels: Sequence[Parcel]) -> None:
        self._packs = PackReader(scratch)
        self._parcels = parcels
        pieces = np.frombuffer(b"".join(parcel.table for parcel in parcels), PIECE)
        order = _order(pieces)
        self.pieces = pieces[order]
        """All pieces, by chunk, then place."""
        self._from = np.repeat(
            np.arange(len(parcels), dtype=np.int32), [len(parcel.table) // PIECE.itemsize for parcel in parcels]
        )[order]

    def __exit__(self, *_: object) -> None:
        """Close packs."""
        self._packs.__exit__()

    def chunks(self) -> Iterator[tuple[int, list[tuple[Box, bytes]]]]:
        """Yield each chunk and its pieces; the bytes of one chunk are in memory at a time."""
        data = self.read(range(len(self.pieces)))
        for chunk, rows in self.groups():
            yield chunk, [(self.box(row), next(data)) for row in rows]

    def groups(self) -> Iterator[tuple[int, range]]:
        """Yield each chunk and the rows of its pieces."""
        starts = np.flatnonzero(np.diff(self.pieces["chunk"], prepend=~self.pieces["chunk"][:1]))
        for first, last in itertools.pairwise([*starts.tolist(), len(self.pieces)]):
            yield int(self.pieces["chunk"][first]), range(first, last)

    def boxes(self) -> Iterator[Box]:
        """Yield the box of each piece."""
        return (self.box(row) for row in range(len(self.pieces)))

    def tiles(self) -> Iterator[tuple[Box, bytes]]:
        """Yield each piece; one is in memory at a time."""
        return zip(self.boxes(), self.read(range(len(self.pieces))), strict=True)

    def table(self, kind: np.dtype[np.void]) -> npt.NDArray[np.void]:
        """Return all pieces as one table: their bytes are rows of type `kind`."""
        found = np.empty(int(self.pieces["length"].sum()) // kind.itemsize, kind)
        start = 0
        for data in self.read(range(len(self.pieces))):
            rows = np.frombuffer(data, kind)
            found[start : start + len(rows)] = rows
            start += len(rows)
        return found

    def box(self, row: int) -> Box:
        """Return the box of a piece."""
        piece = self.pieces[row]
        return Box(_vec(piece["start"]), _vec(piece["stop"]))

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        """Yield the bytes of pieces, in the order of `rows`, which are taken some time ahead."""
        for batch in self._batches(rows):
            payloads = [Payload(*place) for place in self.pieces[["offset", "length", "crc32c"]][batch].tolist()]
            parcels = [self._parcels[n] for n in self._from[batch].tolist()]
            together = list(zip(parcels, payloads, strict=True))
            packed = self._packs.read([(parcel.pack, payload) for parcel, payload in together if parcel.pack])
            for parcel, payload in together:
                if parcel.pack:
                    yield next(packed)
                else:
                    data = parcel.data[payload.offset : payload.offset + payload.length]
                    yield payload.checked(data, "a parcel that travelled inline")

    def _batches(self, rows: Iterable[int]) -> Iterator[list[int]]:
        """Yield rows together that are read together."""
        lengths, batch, size = self.pieces["length"], list[int](), 0
        for row in rows:
            batch.append(row)
            size += int(lengths[row]) + _READ_COST
            if size > _READ_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _in_order(tables: list[Pieces]) -> Pieces:
    """Return pieces by owner; those of one by chunk, then place. The list is empty then, for its memory."""
    table = np.concatenate(tables) if len(tables) > 1 else tables[0]
    tables.clear()
    return table[_order(table)]


def _order(table: Pieces) -> npt.NDArray[np.intp]:
    """Return the order of pieces by owner; those of one by chunk, then place."""
    x, y, z = table["start"].T
    return np.lexsort((x, y, z, table["chunk"], table["number"], table["stream"]))


def _place(table: Pieces, start: int) -> None:
    """Let the bytes of pieces stand one after another, from `start` on."""
    table["offset"] = start + np.cumsum(table["length"]) - table["length"]


def _ends(table: Pieces) -> list[int]:
    """Return where the pieces of an owner begin, which are sorted, and where the last ones end."""
    stream, number = table["stream"], table["number"]
    ends = np.flatnonzero((stream[:-1] != stream[1:]) | (number[:-1] != number[1:])) + 1
    return [0, *ends.tolist(), len(table)] if len(table) else []


def _most_bytes(table: Pieces) -> int:
    """Return the bytes of the owner with the most."""
    return int(np.add.reduceat(table["length"], _ends(table)[:-1]).max()) if len(table) else 0


def _vec(values: npt.NDArray[np.int64]) -> Vec:
    x, y, z = values.tolist()
    return (x, y, z)
