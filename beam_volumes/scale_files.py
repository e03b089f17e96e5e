"""The files that a scale consists of, and whether they are all that stands in its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from beam_volumes.errors import ConservationError
from beam_volumes.geometry import Box
from beam_volumes.precomputed.info import chunk_name
from beam_volumes.precomputed.sharding import ShardingSpec
from beam_volumes.runs import Receipt
from beam_volumes.storage import Folder, stored_name
from beam_volumes.targets import Target

_CHUNK = re.compile(r"(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)(\.\w+)?")
_NAMES_SHOWN = 5


def shard_file(target: Target, spec: ShardingSpec, shard: int) -> str:
    """Return the name of a shard, below the destination."""
    return f"{target.scale.key}/{spec.shard_name(shard)}"


def chunk_files(target: Target, shard: int) -> Iterator[str]:
    """Yield the names, below the destination, of the chunks of a shard that are files of their own."""
    return (_chunk_file(target, target.chunks.box(p)) for p in target.shards.chunk_positions(shard))


def check_files(target: Target, receipts: Iterable[Receipt]) -> None:
    """Make sure that a scale's folder holds what `receipts` tell of and nothing else.

    A run that has lost its destination may still put one late file in place. Shards are compared by name and size,
    chunks that are files of their own by name. Memory: a name for each shard; none for each chunk, unless one is wrong.

    Raises:
        ConservationError: with the files that are too many, missing, or of another size.

    """
    folder = Folder(target.url)
    present = folder.list(f"{target.scale.key}/")
    wrong = (
        _wrong_shards(folder, target, target.scale.sharding, present, receipts)
        if target.scale.sharding
        else _wrong_chunks(folder, target, present)
    )
    told = [f"{what}: {', '.join(names[:_NAMES_SHOWN])} ({len(names)} in all)" for what, names in wrong if names]
    if told:
        raise ConservationError(
            f"{target.url}, scale {target.scale.key}: expected the files that this run has written and no others, "
            f"came {'; '.join(told)}: remove what is not this run's, and give the same command again"
        )


Wrong = list[tuple[str, list[str]]]


def _wrong_shards(
    folder: Folder, target: Target, spec: ShardingSpec, present: Iterator[str], receipts: Iterable[Receipt]
) -> Wrong:
    expected = {shard_file(target, spec, r.shard): r.bytes for r in receipts}
    strays = [name for name in present if name not in expected]
    sizes = folder.sizes(expected)
    return [
        ("not this run's", strays),
        ("missing", [name for name in expected if sizes[name] is None]),
        (
            "of another size",
            [f"{n} ({sizes[n]} bytes, not {size})" for n, size in expected.items() if sizes[n] not in (None, size)],
        ),
    ]


def _wrong_chunks(folder: Folder, target: Target, present: Iterator[str]) -> Wrong:
    strays, count = [], 0
    for name in present:
        if _is_chunk(target, name):
            count += 1
        else:
            strays.append(name)
    missing: list[str] = []
    if count != len(target.chunks):
        there = set(folder.list(f"{target.scale.key}/"))
        missing = [n for shard in target.shards.numbers() for n in chunk_files(target, shard) if n not in there]
    return [("not this run's", strays), ("missing", missing)]


def _is_chunk(target: Target, name: str) -> bool:
    found = _CHUNK.fullmatch(name.removeprefix(f"{target.scale.key}/"))
    if not found:
        return False
    x0, x1, y0, y1, z0, z1 = map(int, found.groups()[:6])
    box = Box((x0, y0, z0), (x1, y1, z1))
    if not target.scale.box.contains(box):
        return False
    chunk = next(target.chunks.positions_meeting(box), None)
    return chunk is not None and _chunk_file(target, target.chunks.box(chunk)) == name


def _chunk_file(target: Target, box: Box) -> str:
    return stored_name(target.url, f"{target.scale.key}/{chunk_name(box)}", target.compression)
