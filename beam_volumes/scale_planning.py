"""Which mips a run writes: their factors, encodings and scales. Nothing is written; for `auto` a little is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from beam_volumes.codecs import Array, check_chunk, check_encoding, compression_of, default_encoding, encoding_levels
from beam_volumes.downsampling import Downsampler, coarse_box
from beam_volumes.encoding_choice import Choice, SampledVolume, choose_encodings
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec, added
from beam_volumes.precomputed.info import Scale
from beam_volumes.precomputed.sharding import plan_sharding
from beam_volumes.pyramid import Pyramid, choose_factors, chunk_lattices, plan_pyramid, total_factors
from beam_volumes.reading_plan import Lattice, plan_reading
from beam_volumes.sources import Reader, Source, open_reader
from beam_volumes.targets import Target

_COORDINATES = 2**31
"""CloudVolume keeps positions in int32."""


@dataclass(frozen=True)
class MipOptions:
    """What the options say of mips.

    Attributes:
        chunk: shape of a chunk, XYZ voxels, at every mip.
        num_mips: how many coarser ones; None for as many as it takes until the volume fits one chunk.
        factors: mip by mip, the last one goes on; None for those that make voxels near to cubes.
        method: one of `downsampling.METHODS`, or "auto".
        sparse: background does not count; for `mode` only.
        encodings: of the mips that are written, one by one, the last one goes on; "auto" is chosen on samples; None for
            the one that every reader takes.
        encoding_levels: the same for the levels of encodings; None for the encoders' own.
        compress: what is put around chunks: gzip, br or none.
        sharded: whether shards are written, or single chunk files.
        memory_target: bytes that one worker may use.
        fill_missing: whether missing chunks of the source are read as 0.

    """

    chunk: Vec
    num_mips: int | None
    factors: tuple[Vec, ...] | None
    method: str
    sparse: bool
    encodings: tuple[str, ...] | None
    encoding_levels: tuple[int, ...] | None
    compress: str
    sharded: bool = True
    memory_target: int = 3_500_000_000
    fill_missing: bool = False


@dataclass(frozen=True)
class Mips:
    """The mips of a volume.

    Attributes:
        scales: of all mips, none sharded yet; the first is that of the voxels that are read.
        factors: of each mip but the first, from the one before it.
        choices: of the mips that are written, how their encodings were chosen.

    """

    scales: tuple[Scale, ...]
    factors: tuple[Vec, ...]
    downsampler: Downsampler
    choices: tuple[Choice, ...]

    @property
    def base_written(self) -> bool:
        """Whether the mip that is read is written, too."""
        return len(self.choices) == len(self.scales)

    def warnings(self, source: Source) -> list[str]:
        """Return what the user should know before these mips are made."""
        if source.layer_type != "segmentation" or self.downsampler.method != "average" or not self.factors:
            return []
        return [
            "--method=average: the volume is a segmentation, whose averages are labels of nothing; mode keeps labels"
        ]

    def targets(self, url: str, options: MipOptions, base_mip: int) -> tuple[Target, ...]:
        """Return the scales to write, `base_mip` being the destination's mip of the first of `scales`.

        Raises:
            OptionError: a chunk does not fit the memory.

        """
        first = len(self.scales) - len(self.choices)
        memory, sharded = options.memory_target, options.sharded
        return tuple(
            plan_target(url, scale, options.compress, sharded=sharded, memory_target=memory, mip=mip)
            for mip, scale in enumerate(self.scales[first:], base_mip + first)
        )

    def pyramid(self, source: Source, options: MipOptions, translate: Vec = (0, 0, 0)) -> Pyramid:
        """Return how the source is read, and the mips are made; see `plan_pyramid_of`."""
        memory, written = options.memory_target, self.base_written
        return plan_pyramid_of(source, self.scales, self.factors, self.downsampler, memory, translate, written)


def plan_mips(
    source: Source, box: Box, options: MipOptions, translate: Vec = (0, 0, 0), *, base_written: bool = True
) -> Mips:
    """Return the mips of `box`, destination voxels; where `base_written` is false, the first one stands already.

    Raises:
        OptionError: an option does not fit the voxels.
        SourceError: samples of the volume cannot be read.

    """
    kind = (source.layer_type, source.data_type, source.num_channels)
    if options.method != "auto":
        method = options.method
    else:
        method = "mode" if source.layer_type == "segmentation" else "average"
    downsampler = Downsampler(method, source.data_type, options.sparse)
    base = plan_scale(source, box, options.chunk, "raw")
    factors = choose_factors(base, options.num_mips, options.factors)
    totals = total_factors(factors)
    downsampler.check(totals[-1])
    steps = [(1, 1, 1), *factors] if base_written else list(factors)
    wanted = _mip_by_mip(options.encodings or (default_encoding(*kind),), len(steps))
    levels = encoding_levels(wanted, options.encoding_levels)
    reader = _SampleReader(source, translate, options.fill_missing)
    volume = SampledVolume(box, *kind)
    choices = choose_encodings(reader.read, volume, options.chunk, steps, downsampler, options.compress, wanted)
    made = zip(totals[len(totals) - len(steps) :], choices, levels, strict=True)
    scales = [plan_scale(source, box, options.chunk, choice.encoding, total, level) for total, choice, level in made]
    return Mips((*([] if base_written else [base]), *scales), factors, downsampler, tuple(choices))


def plan_scale(
    source: Source, box: Box, chunk: Vec, encoding: str | None, factor: Vec = (1, 1, 1), level: int | None = None
) -> Scale:
    """Return a scale, not yet sharded.

    Args:
        source: what is read.
        box: the voxels of mip 0, in the destination.
        chunk: shape of a chunk, XYZ voxels.
        encoding: of the chunks; None for the one that every reader takes.
        factor: from mip 0 to this mip.
        level: of the encoding; None for the encoder's own.

    Raises:
        OptionError: the encoding does not fit the voxels, or the chunks.

    """
    if max(abs(n) for n in (*box.start, *box.stop)) >= _COORDINATES:
        raise OptionError(
            f"--translate: expected a volume within {-_COORDINATES} and {_COORDINATES} voxels along each axis, which "
            f"readers can open, came {box}"
        )
    coarse = coarse_box(box, factor)
    kind = (source.layer_type, source.data_type, source.num_channels)
    encoding = encoding or default_encoding(*kind)
    check_encoding(encoding, *kind)
    check_chunk(encoding, _least(chunk, coarse.shape))
    x, y, z = (r * f for r, f in zip(source.resolution_nm, factor, strict=True))
    return Scale((x, y, z), coarse, chunk, encoding, source.data_type, source.num_channels, None, level)


def plan_target(url: str, scale: Scale, compress: str, *, sharded: bool, memory_target: int, mip: int = 0) -> Target:
    """Return the scale to write, the destination's mip `mip`, with the shards that own its chunks.

    Raises:
        OptionError: a chunk does not fit the memory.

    """
    data_encoding = "gzip" if compression_of(scale.encoding, compress) == "gzip" else "raw"
    ownership = plan_sharding(scale.chunks.shape, chunk_bytes(scale), memory_target, data_encoding)
    return Target(url, mip, replace(scale, sharding=ownership if sharded else None), compress, ownership)


def plan_pyramid_of(
    source: Source,
    scales: Sequence[Scale],
    factors: tuple[Vec, ...],
    downsampler: Downsampler,
    memory_target: int,
    translate: Vec = (0, 0, 0),
    base_written: bool = True,
) -> Pyramid:
    """Return how the source is cut for reading, and its mips are made; see `plan_reading` and `plan_pyramid`.

    Args:
        source: what is read.
        scales: of all mips, in destination voxels; the first is that of the voxels that are read.
        factors: of each mip from the one before it.
        downsampler: makes the mips.
        memory_target: bytes that one worker may use.
        translate: destination minus source, voxels.
        base_written: whether the first of `scales` is written, too.

    Raises:
        OptionError: a stored chunk, or one of the chunks to write, does not fit the memory.

    """
    base, (grain, grain_origin) = scales[0], source.grain
    chunks = chunk_lattices(scales, total_factors(factors))
    reading = plan_reading(
        base.box,
        Lattice(grain, added(grain_origin, translate)),
        Lattice(source.chunk, added(source.chunk_origin, translate)),
        chunks if base_written else chunks[1:],
        (_voxel_bytes(base), memory_target),
        looked_up=source.graph is not None,
    )
    return plan_pyramid(downsampler, reading, scales, factors, memory_target)


def chunk_bytes(scale: Scale) -> int:
    """Return the bytes of the voxels of one whole chunk."""
    return math.prod(scale.chunk) * _voxel_bytes(scale)


class _SampleReader:
    """Reads voxels of the destination from the source, which is opened when the first are read."""

    def __init__(self, source: Source, translate: Vec, fill_missing: bool) -> None:
        self._source, self._translate, self._fill_missing = source, translate, fill_missing

    @cached_property
    def _reader(self) -> Reader:
        return open_reader(self._source, fill_missing=self._fill_missing)

    def read(self, box: Box) -> Array:
        x, y, z = self._translate
        return self._reader.read(box.translated((-x, -y, -z)))[0]


def _mip_by_mip(given: Sequence[str], count: int) -> list[str]:
    """Return `count` encodings, of which the last given one goes on."""
    if len(given) > max(count, 1):
        raise OptionError(
            f"--encoding: expected at most one for each mip that is written ({count}), came {len(given)} "
            f"({';'.join(given)}): leave the rest out"
        )
    return [given[min(mip, len(given) - 1)] for mip in range(count)]


def _least(a: Vec, b: Vec) -> Vec:
    return (min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2]))


def _voxel_bytes(scale: Scale) -> int:
    return np.dtype(scale.data_type).itemsize * scale.num_channels
