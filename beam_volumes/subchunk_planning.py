"""From what a spec asks to the plan of its chunks: sizes that fit, the bounding box, and all that does not fit at once.

Nothing is read. In order: auto_divisibility, expand_bbox_resolution, expand_bbox_backend, then shrink_processing_chunk
or else expand_bbox_processing, then the checks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from beam_volumes.errors import OptionError, fault_report
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.reading_plan import Lattice
from beam_volumes.subchunk_request import ReadRequest, SubchunkRequest, contradictions, read_request
from beam_volumes.subchunks import Level, SubchunkPlan

Corner = Sequence[int | Fraction]
"""Along x, y and z, in voxels of the destination; exact."""


def plan_subchunks(
    request: SubchunkRequest,
    bounds: tuple[Corner, Corner] | None,
    destination: Lattice | None = None,
    *,
    is_segmentation: bool = False,
    faults: Iterable[str] = (),
) -> SubchunkPlan:
    """Return how a run is cut into chunks.

    Args:
        request: what the spec asks.
        bounds: start and stop (a `Box` is one), voxels of the destination; None where `faults` says why there are none.
        destination: the boxes that it stores as one object, of which output boxes are made; None for none.
        is_segmentation: whether the destination holds ids.
        faults: what else is wrong with the spec, to be told along with the faults found here.

    Raises:
        OptionError: all that is wrong, each with the value to use instead.

    """
    found = list(faults)
    read = read_request(request, found)
    found += contradictions(request, read)
    if read is None:
        raise OptionError(fault_report(found))
    levels = read.levels
    if request.auto_divisibility:
        levels = _divisible(levels, found)
    found += _blend_faults(levels, read.levels, is_segmentation=is_segmentation)
    box = None if bounds is None else _integral(request, bounds, found)
    if box is not None:
        if request.expand_bbox_backend and destination is not None:
            box = _of_whole_cells(box, destination)
        if request.shrink_processing_chunk:
            levels = (_shrunk(levels[0], box), *levels[1:])
        elif request.expand_bbox_processing:
            box = _of_whole_chunks(box, levels[0].chunk, read.gap)
        box = _checked(box, levels[0], read.gap, found)
    found += _divisibility_faults(levels)
    if found or box is None:
        raise OptionError(fault_report(found or ["bbox: expected, but not given"]))
    return SubchunkPlan(box, levels, read.gap, _owners(box, replace(read, levels=levels), destination))


def _divisible(levels: Sequence[Level], faults: list[str]) -> tuple[Level, ...]:
    """Return the levels with the largest chunks, up to those given, that hold whole ones of the level below."""
    fitting = [levels[-1]]
    for i in range(len(levels) - 2, -1, -1):
        level, lower = levels[i], fitting[-1].chunk
        pads = [w - c for w, c in zip(level.whole, level.chunk, strict=True)]
        chunk = [(c + p) // n * n - p for c, p, n in zip(level.chunk, pads, lower, strict=True)]
        if min(chunk) < 1:
            least = [
                max(-(-(p + 2 * b) // n), p // n + 1) * n - p for p, b, n in zip(pads, level.blend, lower, strict=True)
            ]
            use = [n if c < 1 else g for c, g, n in zip(chunk, level.chunk, least, strict=True)]
            faults.append(
                f"processing_chunk_sizes[{i}], auto_divisibility: expected sizes that hold, with twice their crop_pad "
                f"and blend_pad, whole chunks {list(lower)} of the level below, came {list(level.chunk)}: use at least "
                f"{use}"
            )
            chunk = [n if c < 1 else c for c, n in zip(chunk, least, strict=True)]
        fitting.append(level._replace(chunk=_vec(chunk)))
    return tuple(reversed(fitting))


def _blend_faults(levels: Sequence[Level], asked: Sequence[Level], *, is_segmentation: bool) -> list[str]:
    """Return the faults of blends.

    Args:
        levels: as they are to be.
        asked: with the chunks that auto_divisibility has made those of `levels` of; otherwise the same.
        is_segmentation: whether the destination holds ids.

    """
    faults = []
    for i, level in enumerate(levels):
        if any(2 * b > c for b, c in zip(level.blend, level.chunk, strict=True)):
            made = level != asked[i]
            largest = _largest_blend(asked[i], levels[i + 1].chunk if made else None)
            faults.append(
                f"processing_blend_pads[{i}]: expected at most half of the chunk {list(level.chunk)}"
                f"{f', made of {list(asked[i].chunk)} by auto_divisibility' if made else ''}, came "
                f"{list(level.blend)}: use {largest}"
            )
        if is_segmentation and level.is_weighted:
            faults.append(
                f"processing_blend_pads[{i}]: expected no blend for a segmentation, whose values are ids, and the mean "
                f"of two ids is a third one, came {list(level.blend)} with mode {level.mode}: use [0, 0, 0] and a "
                f"larger crop_pad, or mode max"
            )
    return faults


def _largest_blend(level: Level, lower: Vec | None) -> list[int]:
    """Return the largest pads, up to those given, that are at most half of the chunk.

    With `lower`, of the chunk that auto_divisibility makes for the chunks of the level below: it depends on the pads.
    """
    if lower is None:
        return [min(b, c // 2) for b, c in zip(level.blend, level.chunk, strict=True)]
    largest = []
    for c, crop, blend, n in zip(level.chunk, level.crop, level.blend, lower, strict=True):
        fits = (b for b in range(blend, 0, -1) if (c + 2 * crop + 2 * b) // n * n - 2 * crop - 2 * b >= 2 * b)
        largest.append(next(fits, 0))
    return largest


def _integral(request: SubchunkRequest, bounds: tuple[Corner, Corner], faults: list[str]) -> Box | None:
    """Return the bounding box in whole voxels; None where it is not, and may not be made so."""
    start, stop = ([Fraction(n) for n in corner] for corner in bounds)
    box = Box(_vec([math.floor(n) for n in start]), _vec([math.ceil(n) for n in stop]))
    if any(n.denominator != 1 for n in (*start, *stop)) and not request.expand_bbox_resolution:
        came = " - ".join(f"({', '.join(f'{float(n):g}' for n in corner)})" for corner in (start, stop))
        faults.append(
            f"bbox: expected whole voxels at dst_resolution, came {came}: use {_text(box)}, or set "
            f"expand_bbox_resolution: true, which makes it that"
        )
        return None
    if min(a - b for a, b in zip(box.stop, box.start, strict=True)) < 1:
        faults.append(f"bbox: expected at least one voxel along each axis, came {_text(box)}")
        return None
    return box


def _of_whole_cells(box: Box, lattice: Lattice) -> Box:
    start = [o + (n - o) // c * c for n, c, o in zip(box.start, lattice.cell, lattice.origin, strict=True)]
    stop = [o - (o - n) // c * c for n, c, o in zip(box.stop, lattice.cell, lattice.origin, strict=True)]
    return Box(_vec(start), _vec(stop))


def _shrunk(level: Level, box: Box) -> Level:
    return level._replace(chunk=_vec([min(c, n) for c, n in zip(level.chunk, box.shape, strict=True)]))


def _of_whole_chunks(box: Box, chunk: Vec, gap: Vec) -> Box:
    """Return the box, grown at its end, or cut off within a gap, so that it holds whole chunks."""
    counts = [-(-n // (c + g)) for n, c, g in zip(box.shape, chunk, gap, strict=True)]
    return _of_chunks(box, counts, chunk, gap)


def _of_chunks(box: Box, counts: Sequence[int], chunk: Vec, gap: Vec) -> Box:
    return Box.of_shape(_vec([n * (c + g) - g for n, c, g in zip(counts, chunk, gap, strict=True)]), box.start)


def _checked(box: Box, level: Level, gap: Vec, faults: list[str]) -> Box:
    """Return the box, cut off within a gap; a fault is added if it does not hold whole chunks of the top level."""
    whole = _of_whole_chunks(box, level.chunk, gap)
    if all(w <= n for w, n in zip(whole.shape, box.shape, strict=True)):
        return whole
    sizes = ""
    if not any(gap):
        sizes = f"use {_nearest(level.chunk, box.shape, level.blend)}, or "
    faults.append(
        f"processing_chunk_sizes[0]: expected sizes that divide the bounding box of {list(box.shape)} voxels"
        f"{f' with gaps of {list(gap)}' if any(gap) else ''}, came {list(level.chunk)}: {sizes}use the bounding box "
        f"{_text(whole)}, or set expand_bbox_processing: true, which makes it that"
    )
    return whole


def _divisibility_faults(levels: Sequence[Level]) -> list[str]:
    faults = []
    for i, (upper, lower) in enumerate(itertools.pairwise(levels), 1):
        if any(w % c for w, c in zip(upper.whole, lower.chunk, strict=True)):
            faults.append(
                f"processing_chunk_sizes[{i}]: expected sizes that divide {list(upper.whole)}, the chunk "
                f"{list(upper.chunk)} of the level above with twice its crop_pad {list(upper.crop)} and blend_pad "
                f"{list(upper.blend)}, came {list(lower.chunk)}: use {_nearest(lower.chunk, upper.whole, lower.blend)}"
            )
    if not faults:
        return []
    ignored: list[str] = []
    fitting = _divisible(levels, ignored)
    if not ignored and not _blend_faults(fitting, fitting, is_segmentation=False):
        sizes = [list(level.chunk) for level in fitting]
        faults[-1] += (
            f"; or keep the smallest chunks: with auto_divisibility: true processing_chunk_sizes become {sizes}"
        )
    return faults


def _nearest(chunk: Vec, whole: Vec, blend: Vec) -> str:
    """Return the sizes nearest to `chunk`, below and above, that divide `whole`; at least twice the blend."""
    below, above = [], []
    for c, w, b in zip(chunk, whole, blend, strict=True):
        sizes = [n for n in _divisors(w) if n >= 2 * min(b, c // 2)]
        above.append(min([n for n in sizes if n >= c], default=w))
        below.append(max([n for n in sizes if n <= c], default=above[-1]))
    return f"{below}" if below == above else f"{below} or {above}"


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _owners(box: Box, read: ReadRequest, destination: Lattice | None) -> Grid:
    """Return the output boxes: whole cells of the destination, up to the largest that is asked for."""
    largest = read.reduction or read.levels[0].chunk
    if destination is None:
        return Grid(box, largest, box.start)
    # Never less than a cell: it is written once, whole.
    cell = [max(n // c, 1) * c for n, c in zip(largest, destination.cell, strict=True)]
    return Grid(box, _vec(cell), _of_whole_cells(box, destination).start)


def _vec(numbers: Sequence[int]) -> Vec:
    x, y, z = numbers
    return (x, y, z)


def _text(box: Box) -> str:
    return f"{list(box.start)} - {list(box.stop)}"
