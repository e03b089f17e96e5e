"""Writing a shard from the parcels of the regions that it meets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import crc32c
import numpy as np

from beam_volumes.codecs import compress, decompress, encode_chunk
from beam_volumes.errors import ConservationError
from beam_volumes.geometry import Box
from beam_volumes.parcels import PIECE_COMPRESSION, Parcel, ParcelReader
from beam_volumes.precomputed.info import chunk_name
from beam_volumes.precomputed.shards import write_shard
from beam_volumes.process_pool import peak_memory_bytes
from beam_volumes.receipts import Receipt, receipts, record
from beam_volumes.runs import Claim, check_claim, telling_of_replacement, while_claimed
from beam_volumes.scale_files import shard_file, tally
from beam_volumes.storage import Folder
from beam_volumes.targets import ShardKey, Target


class WrittenShard(NamedTuple):
    """A shard that this run has written, of how many pieces, in how long, by a process that held how much at most."""

    receipt: Receipt
    pieces: int
    seconds: float
    peak_memory_bytes: int


def assemble_shard(claim: Claim, target: Target, shard: int, parcels: Iterable[Parcel]) -> WrittenShard:
    """Write shard number `shard` of `target`, whole, and its receipt.

    The bytes written depend on the voxels alone, not on the regions that made them, nor on their order. Memory: the
    encoded bytes of one chunk, but for a chunk in pieces, which is decoded and encoded anew.

    Raises:
        ConservationError: a chunk, or a part of one, is missing or came twice.
        DestinationError: the shard cannot be written, or the destination has been taken over.

    """
    started = time.perf_counter()
    with telling_of_replacement(claim), ParcelReader(claim.scratch, list(parcels)) as reader:
        _check_complete(target, shard, reader)
        chunks = while_claimed(claim, _encoded_chunks(target, reader))
        folder = Folder(target.url)
        if target.scale.sharding:
            spec = target.scale.sharding
            with folder.write_stream(shard_file(target, spec, shard)) as out:
                summary = write_shard(out, spec, chunks)
                check_claim(claim)
            receipt = Receipt(target.mip, shard, summary.chunks, summary.bytes, summary.crc32c)
        else:
            receipt = _write_files(folder, target, shard, chunks)
            check_claim(claim)
        record(claim, receipt)
    return WrittenShard(receipt, len(reader.pieces), time.perf_counter() - started, peak_memory_bytes())


def finished_shards(claim: Claim, targets: Sequence[Target]) -> list[ShardKey]:
    """Return the shards that an interrupted run has written, and that a listing shows to stand as they were written."""
    if claim.state != "resumed":
        return []
    written, found = receipts(claim), list[ShardKey]()
    for target in targets:
        tallies, _ = tally(target)
        sharded = target.scale.sharding is not None
        mine = (r for r in written if r.mip == target.mip and r.shard in tallies)
        found += [ShardKey(r.mip, r.shard) for r in mine if tallies[r.shard].is_of(r, sharded=sharded)]
    return found


def _encoded_chunks(target: Target, reader: ParcelReader) -> Iterator[tuple[int, bytes]]:
    positions = target.shards
    for chunk, pieces in reader.chunks():
        box = target.chunks.box(positions.position_of(chunk))
        if len(pieces) == 1 and pieces[0][0] == box:
            yield chunk, pieces[0][1]
        else:
            yield chunk, _join(target, box, pieces)


def _join(target: Target, box: Box, pieces: list[tuple[Box, bytes]]) -> bytes:
    """Make a chunk of pieces, which hold raw voxels."""
    scale = target.scale
    array = np.zeros((*box.shape, scale.num_channels), scale.data_type, order="F")
    for part, data in pieces:
        voxels = np.frombuffer(decompress(data, PIECE_COMPRESSION), scale.data_type)
        array[part.slices(box.start)] = voxels.reshape((*part.shape, scale.num_channels), order="F")
    return compress(encode_chunk(array, scale.encoding, scale.encoding_level), target.compression)


def _write_files(folder: Folder, target: Target, shard: int, chunks: Iterator[tuple[int, bytes]]) -> Receipt:
    """Write each chunk as a file of its own; the receipt's checksum is that of all of them, xor'ed: in any order."""
    count, size, crc = 0, 0, 0
    for chunk, data in chunks:
        box = target.chunks.box(target.shards.position_of(chunk))
        folder.write_compressed(f"{target.scale.key}/{chunk_name(box)}", data, target.compression)
        count, size, crc = count + 1, size + len(data), crc ^ crc32c.crc32c(data)
    return Receipt(target.mip, shard, count, size, crc)


def _check_complete(target: Target, shard: int, reader: ParcelReader) -> None:
    """Make sure that the pieces are the shard's chunks, each voxel once.

    Pieces are cut on one grid of boxes, so two of them are the same or share no voxel: it is enough that no piece comes
    twice and that their voxels add up.
    """
    pieces = reader.pieces
    # They come by chunk and place, so that those of one place stand side by side.
    before, after = pieces[:-1], pieces[1:]
    twice = (before["chunk"] == after["chunk"]) & (before["start"] == after["start"]).all(axis=1)
    voxels = np.prod(pieces["stop"] - pieces["start"], axis=1, dtype=np.int64)
    chunks, first = np.unique(pieces["chunk"], return_index=True)
    found = dict(zip(chunks.tolist(), np.add.reduceat(voxels, first).tolist(), strict=True)) if len(chunks) else {}
    expected = {target.chunk_id(p): target.chunks.box(p) for p in target.shards.chunk_positions(shard)}
    missing = [str(box) for chunk, box in expected.items() if found.get(chunk, 0) != box.voxels]
    if missing or twice.any() or found.keys() - expected.keys():
        raise ConservationError(
            f"{target.url}, scale {target.scale.key}, shard {shard}: expected every voxel of {len(expected)} chunks "
            f"once, came {len(pieces)} pieces with {sum(found.values())} voxels; "
            f"chunks that are not whole: {'; '.join(missing[:5]) or 'none'} ({len(missing)} in all): "
            "give the same command again"
        )
