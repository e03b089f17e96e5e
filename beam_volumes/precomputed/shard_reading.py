"""Reading chunks out of shard files, wherever they are: many at once, with few requests.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/sharded.md

A chunk takes three reads, each of which needs the one before: the shard index, a minishard index, the chunk. Indices
are kept; what stands side by side in a file is read at once; from afar several requests are on their way together.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from beam_volumes.codecs import decompress
from beam_volumes.errors import CorruptDataError, SourceError
from beam_volumes.geometry import Box
from beam_volumes.precomputed.sharding import ShardingSpec
from beam_volumes.storage import Folder, is_local
from beam_volumes.storage.remote import PARALLEL

T = TypeVar("T")
U = TypeVar("U")

REQUEST_BYTES = 8 << 20
"""The most that one request asks for, unless a chunk is larger; `PARALLEL` answers are held at once."""

_GAP_BYTES = 32 << 10
"""Bytes between two wanted ranges that are read, and let go, rather than asked around."""

_INDEX_BYTES = 32 << 20
"""Indices that are kept: a petascale volume has more than fit in memory."""

_CHECKED_BYTES = 1 << 30
"""Longer ranges are compared with the file's size first: a damaged index may ask for any number of bytes."""

_MOST_BYTES = 1 << 63
"""No file ends there or behind: offsets are signed."""

_WORD = 8

Words = npt.NDArray[np.uint64]


class _Range(NamedTuple):
    """A range of bytes in a shard file, for `owner`: a chunk's id, or a chunk that needs the minishard index here."""

    shard: int
    start: int
    length: int
    owner: int

    @property
    def stop(self) -> int:
        return self.start + self.length


class _Minishard(NamedTuple):
    """Chunks of a minishard: ids, ascending, and where their bytes stand in the shard file."""

    ids: Words
    starts: Words
    lengths: Words


class ShardFiles:
    """The shard files of a scale.

    Args:
        url: the scale's folder.
        spec: the sharding of the scale.

    """

    def __init__(self, url: str, spec: ShardingSpec) -> None:
        self._folder, self._spec = Folder(url), spec
        self._at_once = 1 if is_local(self._folder.url) else PARALLEL
        self._base = 2 * _WORD << spec.minishard_bits
        self._indices = _Kept(_INDEX_BYTES)
        self._minishards = _Kept(_INDEX_BYTES)

    def path_of(self, chunk: int) -> str:
        """Return the URL of the shard file in which a chunk belongs."""
        return self._path(self._spec.shard_number(chunk))

    def forget(self) -> None:
        """Let go of all indices, so that files that are mended are read anew."""
        self._indices.clear()
        self._minishards.clear()

    def read(self, chunks: Mapping[int, Box]) -> Generator[tuple[int, bytes | None], None, None]:
        """Yield the id and the encoded bytes of each chunk: first those that are missing, with None.

        Args:
            chunks: by id; the boxes are for messages.

        Raises:
            SourceError: a file cannot be read, is truncated, or is no shard.

        """
        places, absent = self._places(chunks)
        yield from ((chunk, None) for chunk in absent)
        with closing(self._read_ranges(places, chunks)) as parts:
            for place, data in parts:
                decoded = self._decompressed(data, self._spec.data_encoding, place, chunks)
                # No bytes are no chunk, as CloudVolume has it.
                yield place.owner, decoded or None

    def _places(self, chunks: Mapping[int, Box]) -> tuple[list[_Range], list[int]]:
        """Return where chunks stand, and the ids of those that do not."""
        groups: dict[tuple[int, int], list[int]] = {}
        for chunk in chunks:
            key = (self._spec.shard_number(chunk), self._spec.minishard_number(chunk))
            groups.setdefault(key, []).append(chunk)
        tables = self._tables(groups, chunks)
        places, absent = [], []
        for key, members in groups.items():
            for chunk in members:
                found = _find(tables[key], chunk) if key in tables else None
                if found is None or not found[1]:
                    absent.append(chunk)
                else:
                    places.append(self._checked(_Range(key[0], *found, chunk), chunks))
        return places, absent

    def _tables(
        self, groups: Mapping[tuple[int, int], list[int]], chunks: Mapping[int, Box]
    ) -> dict[tuple[int, int], _Minishard]:
        """Return the minishards that exist."""
        tables = {key: _Minishard(*kept) for key in groups if (kept := self._minishards.get(key)) is not None}
        owners: dict[int, int] = {}
        for key, members in groups.items():
            if key not in tables:
                owners.setdefault(key[0], members[0])
        indices = self._shard_indices(owners, chunks)
        places: dict[_Range, tuple[int, int]] = {}
        for key, members in groups.items():
            if key not in tables and key[0] in indices:
                start, stop = indices[key[0]][key[1]].tolist()
                place = _Range(key[0], self._base + start, stop - start, members[0])
                if place.length < 0:
                    raise self._damaged(place, chunks, f"its index ends at {stop}, before its start at {start}")
                if place.length:
                    places[self._checked(place, chunks)] = key
        for place, data in self._read_ranges(places, chunks):
            table = self._parsed(data, place, chunks)
            tables[places[place]] = table
            self._minishards.keep(places[place], table)
        return tables

    def _shard_indices(self, owners: Mapping[int, int], chunks: Mapping[int, Box]) -> dict[int, Words]:
        """Return the indices of those shards that exist: (start, stop) of each minishard index, behind the index."""
        found = {shard: kept[0] for shard in owners if (kept := self._indices.get(shard)) is not None}

        def read(place: _Range) -> tuple[_Range, bytes | None]:
            return place, self._folder.read_range(self._name(place.shard), place.start, place.length)

        places = [_Range(shard, 0, self._base, owner) for shard, owner in owners.items() if shard not in found]
        for place, data in _side_by_side(read, places, self._at_once):
            if data is None:
                # Not kept: it may be on its way.
                continue
            if len(data) != place.length:
                raise self._truncated(place, chunks, len(data))
            found[place.shard] = np.frombuffer(data, "<u8").reshape(-1, 2)
            self._indices.keep(place.shard, (found[place.shard],))
        return found

    def _parsed(self, data: bytes, place: _Range, chunks: Mapping[int, Box]) -> _Minishard:
        data = self._decompressed(data, self._spec.minishard_index_encoding, place, chunks)
        if len(data) % (3 * _WORD):
            raise self._damaged(place, chunks, f"{len(data)} bytes are no minishard index")
        ids, gaps, lengths = np.frombuffer(data, "<u8").reshape(3, -1)
        # A gap may be negative, modulo 2^64: chunks stand in any order.
        ids, stops = np.cumsum(ids, dtype=np.uint64), np.cumsum(gaps + lengths, dtype=np.uint64)
        starts = stops - lengths + np.uint64(self._base)
        order = np.argsort(ids, kind="stable")
        return _Minishard(ids[order], starts[order], lengths[order])

    def _read_ranges(
        self, places: Iterable[_Range], chunks: Mapping[int, Box]
    ) -> Generator[tuple[_Range, bytes], None, None]:
        """Yield ranges with their bytes, in the order of files."""

        def read(run: list[_Range]) -> tuple[list[_Range], bytes]:
            length = max(place.stop for place in run) - run[0].start
            return run, self._range(run[0]._replace(length=length), chunks)

        with closing(_side_by_side(read, _runs(places), self._at_once)) as answers:
            for run, data in answers:
                for place in run:
                    start = place.start - run[0].start
                    part = data[start : start + place.length]
                    if len(part) != place.length:
                        raise self._truncated(place, chunks, len(part))
                    yield place, part

    def _range(self, place: _Range, chunks: Mapping[int, Box]) -> bytes:
        """Return as many bytes of a range as there are."""
        name = self._name(place.shard)
        if place.length > _CHECKED_BYTES and place.stop > (self._folder.size(name) or 0):
            raise self._truncated(place, chunks, 0)
        data = self._folder.read_range(name, place.start, place.length)
        if data is None:
            raise self._damaged(place, chunks, "the file has gone since its index was read")
        return data

    def _decompressed(self, data: bytes, encoding: str, place: _Range, chunks: Mapping[int, Box]) -> bytes:
        try:
            return decompress(data, encoding)
        except CorruptDataError as error:
            raise self._damaged(place, chunks, str(error)) from error

    def _checked(self, place: _Range, chunks: Mapping[int, Box]) -> _Range:
        """Return a range that an index has told, which may stand in a file, behind its shard index."""
        if not self._base <= place.start <= place.stop < _MOST_BYTES:
            why = f"an index places {place.length} bytes at {place.start}, where a shard has none"
            raise self._damaged(place, chunks, why)
        return place

    def _truncated(self, place: _Range, chunks: Mapping[int, Box], came: int) -> SourceError:
        came_of = f"expected {place.length} bytes at {place.start}, came {came}: the file is truncated, or its index"
        return self._damaged(place, chunks, f"{came_of} is damaged")

    def _damaged(self, place: _Range, chunks: Mapping[int, Box], why: str) -> SourceError:
        return SourceError(f"{self._path(place.shard)}, chunk {chunks[place.owner]}: cannot read: {why}: restore it")

    def _path(self, shard: int) -> str:
        return f"{self._folder.url}/{self._name(shard)}"

    def _name(self, shard: int) -> str:
        return self._spec.shard_name(shard)


class _Kept:
    """Indices that were used last, of so many bytes in all."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._items: OrderedDict[object, tuple[Words, ...]] = OrderedDict()

    def get(self, key: object) -> tuple[Words, ...] | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]

    def keep(self, key: object, item: tuple[Words, ...]) -> None:
        self._items[key] = item
        self._bytes += _bytes_of(item)
        while self._bytes > self._most and len(self._items) > 1:
            self._bytes -= _bytes_of(self._items.popitem(last=False)[1])

    def clear(self) -> None:
        self._items.clear()
        self._bytes = 0


def _bytes_of(item: tuple[Words, ...]) -> int:
    return sum(words.nbytes for words in item)


def _find(table: _Minishard, chunk: int) -> tuple[int, int] | None:
    row = int(np.searchsorted(table.ids, np.uint64(chunk)))
    if row == len(table.ids) or table.ids[row] != chunk:
        return None
    return int(table.starts[row]), int(table.lengths[row])


def _runs(places: Iterable[_Range]) -> Iterator[list[_Range]]:
    """Yield lists of ranges of one file, near enough to each other to be read at once."""
    run: list[_Range] = []
    stop = 0
    for place in sorted(places):
        far = run and (
            place.shard != run[0].shard or place.start > stop + _GAP_BYTES or place.stop > run[0].start + REQUEST_BYTES
        )
        if far:
            yield run
            run = []
        stop = max(stop, place.stop) if run else place.stop
        run.append(place)
    if run:
        yield run


def _side_by_side(function: Callable[[T], U], items: Iterable[T], at_once: int) -> Generator[U, None, None]:
    """Yield `function` of each item, in order; at most `at_once` of them are under way or wait to be taken."""
    todo = list(items)
    if at_once == 1 or len(todo) < 2:
        yield from map(function, todo)
        return
    waiting: deque[Future[U]] = deque()
    pool = ThreadPoolExecutor(min(at_once, len(todo)))
    try:
        for item in todo:
            waiting.append(pool.submit(function, item))
            if len(waiting) == at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
