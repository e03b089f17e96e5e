"""The loops of the encoder of compressed_segmentation, compiled by numba; import it only where voxels are at hand.

Blocks are encoded row by row of them, along x. A block is taken as the runs of equal voxels in it, x fastest: they are
found without branches, each is looked up once, and each is written as a pattern of bits, so that little is done voxel
by voxel. Each step goes over the whole row of blocks, as numba counts references at every call, which costs more than
the work on most blocks.

Nothing is compiled at import, see `beam_volumes.downsampling_kernels`; as there, indices are unsigned in the innermost
loops. For little-endian machines.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Vec

Narrow = npt.NDArray[np.uint32]
Labels = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]
Ends = tuple[Index, Index]
"""Of each block in a row: where its runs, and where its labels, end among those of the row."""
Runs = tuple[Index, Labels, Index]
"""Where each run starts in its block, its label, and the place of the label in the table of the block."""
Numbers = tuple[Index, Index, Index]
"""A hash table for the labels of a block, and room for two numbers of each."""
Tables = tuple[Index, Index]
"""A hash table for tables, and where each starts among the labels of all."""

# 2^64 divided by the golden ratio: the high bits of the product depend on all bits of a label (Knuth, volume 3, 6.4).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ALL, _HALF, _ONE = np.uint64(2**64 - 1), np.uint64(32), np.uint64(1)

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")
_step = numba.njit(nogil=True, error_model="numpy")


@_kernel
def encode_blocks(
    voxels: tuple[Narrow, Labels],
    shape: Vec,
    steps: tuple[int, int],
    block: Vec,
    headers: Narrow,
    tables: Labels,
    values: Labels,
) -> tuple[int, int]:
    """Encode the blocks of one channel; its tables follow upon the headers, in the order of the blocks they came with.

    Args:
        voxels: flat, as uint32 and as uint64; one of the two is empty. (One compilation serves both types.)
        shape: of the channel, XYZ.
        steps: how far neighbours along y and z are apart in `voxels`; along x they stand side by side.
        block: size of a block, XYZ.
        headers: (blocks, 2), to write to. The second word is the offset in the values: where there are any (the bits of
            the first word are not 0), the words before the values are to be added.
        tables: to write the labels of all tables to, with room for all, or for 2^24 and those of a row of blocks.
        values: to write to, with room for all, in words of 64 bits.

    Returns:
        How many labels and how many words are written; (-1, -1) where the offset of a table needs more than 24 bits.

    """
    size = block[0] * block[1] * block[2]
    blocks = (shape[0] + block[0] - 1) // block[0]
    label_words = 2 if voxels[1].size else 1
    slab, mixed = np.empty(blocks * size, np.uint64), np.empty(blocks * block[0], np.uint64)
    runs = (np.empty(slab.size + 1, np.int64), np.empty(slab.size + 1, np.uint64), np.empty(slab.size, np.int64))
    ends = (np.empty(blocks, np.int64), np.empty(blocks, np.int64))
    labels = np.empty(slab.size, np.uint64)
    numbers = (np.full(_power_of_two(2 * size), -1, np.int64), np.empty(size, np.int64), np.empty(size, np.int64))
    known = (np.full(_power_of_two(2 * headers.shape[0]), -1, np.int64), np.zeros(headers.shape[0] + 1, np.int64))
    # No literals: numba compiles functions that they are passed to once more.
    n_tables: Any = np.int64(0)
    n_words: Any = np.int64(0)
    number: Any = np.int64(0)
    for z in range(0, shape[2], block[2]):
        for y in range(0, shape[1], block[1]):
            rows = (min(block[1], shape[1] - y), min(block[2], shape[2] - z))
            _read_slab(voxels, y * steps[0] + z * steps[1], steps, (shape[0], *rows), slab, mixed)
            _find_runs(slab, mixed, block, rows, runs, ends[0])
            _number_runs(runs, ends, labels, numbers, number * size, size)
            n_tables = _find_tables(labels, ends[1], known, n_tables, tables, (headers, number, label_words))
            if headers.size + known[1][n_tables - 1] * label_words >= 2**24:
                return -1, -1
            n_words = _write_runs(runs, ends[0], size, values, n_words, (headers, number))
            number += blocks
    return known[1][n_tables], n_words


@_step
def _power_of_two(least: int) -> int:
    power = 2
    while power < least:
        power *= 2
    return power


@_step
def _read_slab(
    voxels: tuple[Narrow, Labels],
    first: int,
    steps: tuple[int, int],
    shape: Vec,
    slab: Labels,
    mixed: Labels,
) -> None:
    """Copy the voxels of a row of blocks, and write at which places along x there are several labels (not 0, there).

    Rows of voxels are read from end to end: block by block they would come from memory in pieces, several times as
    slowly. They are filled up with their last voxel.
    """
    narrow, wide = voxels
    used, length = np.uint64(shape[0]), np.uint64(mixed.size)
    to = np.uint64(0)
    for z in range(shape[2]):
        for y in range(shape[1]):
            at = np.uint64(first + y * steps[0] + z * steps[1])
            if wide.size:
                for x in range(used):
                    slab[to + x] = wide[at + x]
            else:
                for x in range(used):
                    slab[to + x] = narrow[at + x]
            for x in range(used, length):
                slab[to + x] = slab[to + used - _ONE]
            to += length
    mixed[:] = 0
    for row in range(1, shape[1] * shape[2]):
        at = np.uint64(row) * length
        for x in range(length):
            mixed[x] |= slab[at + x] ^ slab[x]


@_step
def _find_runs(slab: Labels, mixed: Labels, block: Vec, rows: tuple[int, int], runs: Runs, ends: Index) -> None:
    """Write the runs of a row of blocks; a short block is filled up with the run before."""
    starts, labels, _ = runs
    length, width = np.uint64(mixed.size), np.uint64(block[0])
    n = first = np.uint64(0)
    for i in range(ends.size):
        last = slab[first]
        starts[n], labels[n] = 0, last
        n += _ONE
        other = np.uint64(0)
        for x in range(first, first + width):
            other |= mixed[x] | (slab[x] ^ last)
        if other:
            for z in range(rows[1]):
                for y in range(rows[0]):
                    at = first + length * np.uint64(y + rows[0] * z)
                    start = width * np.uint64(y + block[1] * z)
                    for x in range(width):
                        label = slab[at + x]
                        # Always written, sometimes kept: whether a label is the one before can hardly be foretold.
                        starts[n], labels[n] = start + x, label
                        n += np.uint64(label != last)
                        last = label
        ends[i] = n
        first += width


@_step
def _number_runs(runs: Runs, ends: Ends, labels: Labels, numbers: Numbers, base: int, size: int) -> None:
    """Write the tables of a row of blocks, each in ascending order, and the place of each run's label in its table.

    A slot that is less than `base` is empty: it is of an earlier block.
    """
    _, found, places = runs
    slots, came, ranks = numbers
    mask = np.uint64(slots.size - 1)
    first: Any = np.int64(0)
    run = 0
    for i in range(ends[0].size):
        n: Any = np.int64(0)
        for j in range(run, ends[0][i]):
            label = found[j]
            slot = ((label * _GOLDEN) >> _HALF) & mask
            while slots[slot] >= base and labels[first + slots[slot] - base] != label:
                slot = (slot + _ONE) & mask
            if slots[slot] < base:
                slots[slot] = base + n
                labels[first + n], came[n] = label, n
                n += 1
            places[j] = slots[slot] - base
        if n > 1:
            _sort(labels, first, came, n)
            for j in range(n):
                ranks[came[j]] = j
            for j in range(run, ends[0][i]):
                places[j] = ranks[places[j]]
        run = ends[0][i]
        first += n
        ends[1][i] = first
        base += size


@_step
def _sort(keys: Labels, first: int, items: Index, n: int) -> None:
    # Shell's sort: of few labels, as they mostly are, it is a sort by insertion. The gaps are Ciura's.
    for gap in (132, 57, 23, 10, 4, 1):
        for i in range(gap, n):
            key, item = keys[first + i], items[i]
            j = i
            while j >= gap and keys[first + j - gap] > key:
                keys[first + j], items[j] = keys[first + j - gap], items[j - gap]
                j -= gap
            keys[first + j], items[j] = key, item


@_step
def _find_tables(
    labels: Labels, ends: Index, known: Tables, n_tables: int, tables: Labels, to: tuple[Narrow, int, int]
) -> int:
    """Write the first words of the headers of a row of blocks, and return the number of tables there are then.

    Tables that are not among those of earlier blocks are added to them.
    """
    slots, starts = known
    headers, number, label_words = to
    mask = np.uint64(slots.size - 1)
    first: Any = np.int64(0)
    for i in range(ends.size):
        n = ends[i] - first
        code = np.uint64(n)
        for j in range(first, ends[i]):
            code = (code ^ labels[j]) * _GOLDEN
            code ^= code >> _HALF
        slot = code & mask
        while slots[slot] >= 0 and not _is_at(tables, starts[slots[slot]], starts[slots[slot] + 1], labels, first, n):
            slot = (slot + _ONE) & mask
        if slots[slot] < 0:
            slots[slot] = n_tables
            for j in range(n):
                tables[starts[n_tables] + j] = labels[first + j]
            starts[n_tables + 1] = starts[n_tables] + n
            n_tables += 1
        offset = headers.size + starts[slots[slot]] * label_words
        headers[number + i, 0] = offset | (_bits(n) << 24)
        first = ends[i]
    return n_tables


@_step
def _is_at(tables: Labels, start: int, end: int, labels: Labels, first: int, n: int) -> bool:
    alike = end - start == n
    i = 0
    while alike and i < n:
        alike = tables[start + i] == labels[first + i]
        i += 1
    return alike


@_step
def _bits(n: int) -> int:
    """Return the bits of each voxel in a block of n labels."""
    if n <= 2:
        return n - 1
    bits = 2
    while n > 1 << bits:
        bits *= 2
    return bits


@_step
def _write_runs(runs: Runs, ends: Index, size: int, values: Labels, n_words: int, to: tuple[Narrow, int]) -> int:
    """Write the values and the second words of the headers of a row of blocks; return the number of words there are."""
    starts, _, places = runs
    headers, number = to
    run: Any = 0
    for i in range(ends.size):
        bits: Any = np.int64(headers[number + i, 0] >> 24)
        headers[number + i, 1] = n_words * 2 if bits else 0
        if bits:
            # A one in the lowest bit of each value.
            ones = _ALL // ((_ONE << np.uint64(bits)) - _ONE)
            word, at = np.uint64(0), n_words << 6
            end: Any = at
            for j in range(run, ends[i]):
                begin, end = end, at + bits * (starts[j + 1] if j + 1 < ends[i] else size)
                pattern = np.uint64(places[j]) * ones
                before = (_ONE << np.uint64(begin & 63)) - _ONE
                word = (word & before) | (pattern & ~before)
                values[begin >> 6] = word
                for k in range((begin >> 6) + 1, end >> 6):
                    values[k] = pattern
                word = word if begin >> 6 == end >> 6 else pattern
            if end & 63:
                values[end >> 6] = word
            n_words += (size * bits + 63) >> 6
        run = ends[i]
    return n_words
