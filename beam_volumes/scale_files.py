"""The files that a scale consists of, and whether what stands in its folder is what was written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from beam_volumes.errors import ConservationError
from beam_volumes.geometry import Box
from beam_volumes.precomputed.info import chunk_name
from beam_volumes.precomputed.sharding import ShardingSpec
from beam_volumes.receipts import Receipt
from beam_volumes.storage import Folder, stored_name
from beam_volumes.targets import Target

_SHARD = re.compile(r"([0-9a-f]+)\.shard")
_CHUNK = re.compile(r"(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)(\.\w+)?")
_NAMES_SHOWN = 5


class Tally(NamedTuple):
    """The files of one shard in a listing; `crc32c` is that of all, xor'ed, or None where listings tell none."""

    files: int
    bytes: int
    crc32c: int | None

    def is_of(self, receipt: Receipt, *, sharded: bool) -> bool:
        """Whether these are the files that the receipt tells of, as far as a listing can show."""
        files = 1 if sharded else receipt.chunks
        return (self.files, self.bytes) == (files, receipt.bytes) and self.crc32c in (None, receipt.crc32c)


def shard_file(target: Target, spec: ShardingSpec, shard: int) -> str:
    """Return the name of a shard, below the destination."""
    return f"{target.scale.key}/{spec.shard_name(shard)}"


def tally(target: Target) -> tuple[dict[int, Tally], list[str]]:
    """Return what stands in a scale's folder, by shard, and the names of chunks and shards that are not of this scale.

    One listing; files that no reader takes for chunks or shards are passed over. Memory: a tally for each shard.
    """
    tallies: dict[int, Tally] = {}
    strays = []
    folder = f"{target.scale.key}/"
    for entry in Folder(target.url).entries(folder):
        name = entry.name.removeprefix(folder)
        if not (_SHARD.fullmatch(name) or _CHUNK.fullmatch(name)):
            continue
        shard = _owner(target, name)
        if shard is None:
            strays.append(entry.name)
            continue
        files, size, crc = tallies.get(shard, Tally(0, 0, 0))
        both = None if crc is None or entry.crc32c is None else crc ^ entry.crc32c
        tallies[shard] = Tally(files + 1, size + entry.bytes, both)
    return tallies, strays


def check_files(target: Target, receipts: Iterable[Receipt]) -> None:
    """Make sure that a scale's folder holds what `receipts`, among others, tell of it, and nothing else.

    A run that has lost its destination may still put one late file in place.

    Raises:
        ConservationError: with the files that are too many, missing, or not as they were written.

    """
    sharded = target.scale.sharding is not None
    tallies, strays = tally(target)
    expected = {r.shard: r for r in receipts if r.mip == target.mip}
    strays += [_some_file(target, shard) for shard in tallies.keys() - expected.keys()]
    missing, others = [], []
    for shard, receipt in expected.items():
        found = tallies.get(shard, Tally(0, 0, 0))
        if found.is_of(receipt, sharded=sharded):
            continue
        lacking = [name for name in _files(target, shard) if Folder(target.url).size(name) is None]
        missing += lacking
        if not lacking:
            size = f"{found.bytes} bytes, not {receipt.bytes}" if found.bytes != receipt.bytes else "of other bytes"
            others.append(f"{_some_file(target, shard)} ({size})")
    wrong = [("not this run's", strays), ("missing", missing), ("not as written", others)]
    told = [f"{what}: {', '.join(sorted(n)[:_NAMES_SHOWN])} ({len(n)} in all)" for what, n in wrong if n]
    if told:
        raise ConservationError(
            f"{target.url}, scale {target.scale.key}: expected the files that this run has written and no others, "
            f"came {'; '.join(told)}: remove what is not this run's, and give the same command again; over a volume "
            "that was complete, with --overwrite"
        )


def _owner(target: Target, name: str) -> int | None:
    """Return the number of the shard that a file is, or belongs to; None for one that is not of this scale."""
    if spec := target.scale.sharding:
        found = _SHARD.fullmatch(name)
        shard = int(found[1], 16) if found else -1
        known = 0 <= shard < 2**spec.shard_bits and spec.shard_name(shard) == name
        return shard if known and target.shards.chunk_count(shard) else None
    found = _CHUNK.fullmatch(name)
    if not found:
        return None
    x0, x1, y0, y1, z0, z1 = map(int, found.groups()[:6])
    position = next(target.chunks.positions_meeting(Box((x0, y0, z0), (x1, y1, z1))), None)
    if position is None or _chunk_file(target, target.chunks.box(position)) != f"{target.scale.key}/{name}":
        return None
    return target.shards.shard_of(position)


def _files(target: Target, shard: int) -> Iterator[str]:
    """Yield the names of the files of a shard, below the destination."""
    if spec := target.scale.sharding:
        return iter([shard_file(target, spec, shard)])
    return (_chunk_file(target, target.chunks.box(p)) for p in target.shards.chunk_positions(shard))


def _some_file(target: Target, shard: int) -> str:
    return next(_files(target, shard))


def _chunk_file(target: Target, box: Box) -> str:
    return stored_name(target.url, f"{target.scale.key}/{chunk_name(box)}", target.compression)
