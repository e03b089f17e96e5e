"""`--encoding=auto`: the smallest lossless encoding of each mip, found by encoding a sample of the volume.

Which one is smallest depends on the mip: a fine mip of a segmentation is large areas of one label, a coarse one comes
close to noise. So the coarser mips of the samples are made as those of the volume will be, and measured one by one.

What can be chosen is lossless, holds the voxels, and is read by Neuroglancer: raw, compressed_segmentation, compresso
and png. Not crackle, which CloudVolume alone reads, however small it is. tensorstore reads all of them but compresso.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from beam_volumes import codecs
from beam_volumes.codecs import Array
from beam_volumes.downsampling import Downsampler
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec

AUTO = "auto"

CANDIDATES = ("raw", "compressed_segmentation", "compresso", "png")
"""What can be chosen; of those that come out equal, the first."""

SAMPLES = 4
_PLACES = 16
"""Places that are looked at until `SAMPLES` hold something besides background."""

_PROBE: Vec = (64, 64, 8)
_MOST_VOXELS = 2**23
_LEAST_VOXELS = 4096
"""With fewer in all samples together, a mip is not measured."""

_STEP = 1024
_STEPS: Vec = (839, 687, 563)
"""Places lie so far apart, in 1/1024 of the volume's sides, from the centre on: 1/g, 1/g**2, 1/g**3 for g**4 = g + 1,
which spreads them evenly however many there are."""


_MOST_BLOCKS = 2**24 // (2 + 1024)
"""Blocks of compressed_segmentation that are certain to fit a chunk, however varied its voxels are: tables must begin
in the first 2**24 words of 32 bits, behind a header of 2 words for each block, and a table has 512 ids of 64 bits at
most. Samples cannot tell of the worst chunk."""


@dataclass(frozen=True)
class SampledVolume:
    """The volume whose mips are to be encoded; `box` in voxels of the mip that is read, in the grid that is written."""

    box: Box
    layer_type: str
    data_type: str
    num_channels: int


@dataclass(frozen=True)
class Choice:
    """The encoding of a mip; `bytes_by_encoding` tells what the samples took, empty where nothing was measured."""

    encoding: str
    bytes_by_encoding: dict[str, int] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        """Return the encoding and what it was measured against, smallest first, for a plan to print."""
        sizes = sorted(self.bytes_by_encoding.items(), key=lambda item: item[1])
        measured = ", ".join(f"{encoding} {size:,}" for encoding, size in sizes)
        return f"{self.encoding} (bytes of samples: {measured})" if measured else self.encoding


def candidates_for(volume: SampledVolume, chunk: Vec) -> list[str]:
    """Return the encodings of CANDIDATES that can hold any chunk of this volume, raw at least.

    Raises:
        OptionError: no encoding can hold voxels of this type.

    """
    codecs.check_encoding("raw", volume.layer_type, volume.data_type, volume.num_channels)
    blocks = math.prod(-(-n // b) for n, b in zip(chunk, codecs.BLOCK_SIZE, strict=True))
    found = []
    for encoding in CANDIDATES:
        try:
            codecs.check_encoding(encoding, volume.layer_type, volume.data_type, volume.num_channels)
            codecs.check_chunk(encoding, chunk)
        except OptionError:
            continue
        if encoding != "compressed_segmentation" or blocks <= _MOST_BLOCKS:
            found.append(encoding)
    return found


def smallest_encoding(samples: Sequence[Array], candidates: Sequence[str], compress: str) -> Choice:
    """Encode and compress samples with each candidate, and return the one that takes the fewest bytes in all.

    Args:
        samples: XYZC voxels, of one mip.
        candidates: of `codecs.ENCODINGS`; one that cannot hold a sample is left out. Of equal ones the first is taken.
        compress: what is put around chunks that are not compressed already, one of `codecs.COMPRESSIONS`.

    Raises:
        OptionError: no candidate can hold the samples.

    """
    sizes: dict[str, int] = {}
    for encoding in candidates:
        compression = codecs.compression_of(encoding, compress)
        try:
            sizes[encoding] = sum(
                len(codecs.compress(codecs.encode_chunk(sample, encoding), compression)) for sample in samples
            )
        except OptionError:
            continue
    if not sizes:
        raise OptionError(
            f"--encoding: expected one of {', '.join(candidates)} to hold the voxels, came none that can: make the "
            "chunks smaller (--chunk_size)"
        )
    return Choice(min(sizes, key=lambda encoding: sizes[encoding]), sizes)


def choose_encodings(
    read: Callable[[Box], Array],
    volume: SampledVolume,
    chunk: Vec,
    factors: Sequence[Vec],
    downsampler: Downsampler,
    compress: str,
    wanted: Sequence[str],
) -> list[Choice]:
    """Return the encoding of each mip that is written.

    Depends on the voxels and these arguments alone: a plan and the runs after it choose alike. Nothing is read where
    no mip is AUTO, or only one encoding can hold the volume; else up to 4 samples of 2**23 voxels or a little more, and
    small parts of up to 16 places.

    Args:
        read: returns the XYZC voxels of a box inside `volume.box`.
        volume: where the voxels are, and what.
        chunk: shape of a chunk, XYZ voxels, at every mip.
        factors: of each mip that is written from the one before it; (1, 1, 1) first where the mip that is read is
            written itself.
        downsampler: makes them.
        compress: what is put around chunks, one of `codecs.COMPRESSIONS`.
        wanted: for each of them an encoding, or AUTO. An AUTO mip too small to be measured is encoded as the AUTO mip
            before it.

    """
    candidates = candidates_for(volume, chunk)
    choices = [Choice(encoding) for encoding in wanted]
    open_mips = [mip for mip, encoding in enumerate(wanted) if encoding == AUTO]
    if len(candidates) == 1:
        return [Choice(candidates[0]) if choice.encoding == AUTO else choice for choice in choices]
    parts = _parts(read, volume.box, chunk, factors[: open_mips[-1] + 1], downsampler) if open_mips else []
    before: Choice | None = None
    for mip in open_mips:
        if before is None or sum(math.prod(part.shape[:3]) for part in parts[mip]) >= _LEAST_VOXELS:
            before = smallest_encoding(parts[mip], candidates, compress)
            choices[mip] = before
        else:
            choices[mip] = Choice(before.encoding)
    return choices


def _parts(
    read: Callable[[Box], Array], bounds: Box, chunk: Vec, factors: Sequence[Vec], downsampler: Downsampler
) -> list[list[Array]]:
    """Return for each mip the middle chunk of each sample: copies, as samples are large."""
    parts: list[list[Array]] = [[] for _ in factors]
    for box in sample_boxes(read, bounds, chunk, factors):
        tile = downsampler.tile(read(box), box.start)
        for found, (_, voxels) in zip(parts, downsampler.mips(tile, factors), strict=True):
            whole = Box.of_shape(voxels.shape[:3])
            found.append(voxels[_middle(whole, chunk).slices()].copy(order="F"))
    return parts


def sample_boxes(read: Callable[[Box], Array], bounds: Box, chunk: Vec, factors: Sequence[Vec]) -> list[Box]:
    """Return up to SAMPLES boxes spread over the volume, where there is a choice those with content.

    Background takes next to nothing in every encoding: it would leave the choice to what little else there is.
    """
    places = list(dict.fromkeys(_places(bounds, chunk, factors)))
    if len(places) <= SAMPLES:
        return places
    with_content: list[Box] = []
    for place in places:
        probe = read(_middle(place, _PROBE))
        if (probe != probe.flat[0]).any():
            with_content.append(place)
            if len(with_content) == SAMPLES:
                return with_content
    return [*with_content, *(place for place in places if place not in with_content)][:SAMPLES]


def _places(bounds: Box, chunk: Vec, factors: Sequence[Vec]) -> Iterator[Box]:
    """Yield boxes of the volume, of whole voxels of the coarsest mip that samples can measure.

    Each is what a chunk of that mip covers, or the part of it that has not too many voxels: a thin slice of a coarse
    mip is encoded otherwise than a chunk.
    """
    total = (1, 1, 1)
    for factor in factors:
        x, y, z = (a * b for a, b in zip(total, factor, strict=True))
        if x * y * z * _LEAST_VOXELS > SAMPLES * _MOST_VOXELS:
            break
        total = (x, y, z)
    counts = list(chunk)
    while math.prod(counts) * math.prod(total) > _MOST_VOXELS:
        longest = counts.index(max(counts))
        counts[longest] = -(-counts[longest] // 2)
    axes = list(zip(bounds.start, bounds.stop, counts, total, _STEPS, strict=True))
    for i in range(_PLACES):
        (x0, x1), (y0, y1), (z0, z1) = (
            _span(first, end, count * coarse, coarse, (_STEP // 2 + i * step) % _STEP)
            for first, end, count, coarse, step in axes
        )
        yield Box((x0, y0, z0), (x1, y1, z1))


def _span(first: int, end: int, length: int, coarse: int, fraction: int) -> tuple[int, int]:
    """Return `length` voxels between `first` and `end` that begin at a coarse voxel, at `fraction` of 1/1024.

    The whole side is returned where it is hardly longer.
    """
    slack = end - first - length
    if slack < coarse:
        return first, end
    start = (first + slack * fraction // _STEP) // coarse * coarse
    start += coarse if start < first else 0
    return start, start + length


def _middle(box: Box, shape: Vec) -> Box:
    """Return the middle of a box, `shape` voxels or what there is of them."""
    x, y, z = (min(n, m) for n, m in zip(box.shape, shape, strict=True))
    a, b, c = (s + (n - m) // 2 for s, n, m in zip(box.start, box.shape, (x, y, z), strict=True))
    return Box.of_shape((x, y, z), (a, b, c))
