"""Plans to test, and what they say done the plain way: the whole of each level in one array of float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from beam_volumes.blending import WEIGHTED
from beam_volumes.geometry import Box, Vec, added
from beam_volumes.subchunk_flow import Process, Yielded, one_by_one, process_chunks
from beam_volumes.subchunk_planning import plan_subchunks
from beam_volumes.subchunk_request import SubchunkRequest
from beam_volumes.subchunks import SubchunkPlan, VoxelKind, grown

Values = npt.NDArray[Any]


def make_plan(
    bounds: Box,
    chunks: list[Vec],
    crops: list[Vec] | Vec = (0, 0, 0),
    blends: list[Vec] | Vec = (0, 0, 0),
    modes: list[str] | str = "quadratic",
    **others: Any,
) -> SubchunkPlan:
    options = {"expand_bbox_processing": False, **others}
    return plan_subchunks(SubchunkRequest(chunks, crops, blends, modes, **options), bounds)


@st.composite
def _steps(draw: st.DrawFn, levels: int, largest: int, *, blend: bool) -> tuple[int, list[tuple[int, int, int]]]:
    """Return chunks of the top level along an axis; and, the largest first, (chunk, crop, blend) of each level."""
    lower = draw(st.integers(1, 4))
    steps = [(lower, draw(st.integers(0, 2)), draw(st.integers(0, lower // 2)) if blend else 0)]
    for _ in range(levels - 1):
        whole = lower * draw(st.integers(1, 3 if lower < largest // 3 else 2))
        pad = draw(st.integers(0, min((whole - 1) // 4, 3))) if blend else 0
        crop = draw(st.integers(0, min((whole - 4 * pad - 1) // 2, 2)))
        lower = whole - 2 * pad - 2 * crop
        steps.append((lower, crop, pad))
    return draw(st.integers(1, 3 if lower < largest // 2 else 2)), steps[::-1]


@st.composite
def plans(
    draw: st.DrawFn,
    modes: tuple[str, ...] = (*WEIGHTED, "max"),
    *,
    blend: bool = True,
    least_crop: Vec = (0, 0, 0),
) -> SubchunkPlan:
    """Return plans of one to three levels, that fit."""
    levels = draw(st.integers(1, 3))
    axes = [draw(_steps(levels, largest, blend=blend)) for largest in (12, 8, 4)]
    (nx, xs), (ny, ys), (nz, zs) = axes
    sizes = [[(x[i], y[i], z[i]) for x, y, z in zip(xs, ys, zs, strict=True)] for i in range(3)]
    sizes[1][-1] = added(sizes[1][-1], least_crop)
    offset = draw(st.tuples(*[st.integers(-20, 20)] * 3))
    gap: Vec = (0, 0, 0)
    if not any(sizes[2][0]) and draw(st.booleans()):
        gap = draw(st.tuples(*[st.integers(0, 3)] * 3))
    top = sizes[0][0]
    shape = [n * (c + g) - g for n, c, g in zip((nx, ny, nz), top, gap, strict=True)]
    return make_plan(
        Box.of_shape((shape[0], shape[1], shape[2]), offset),
        sizes[0],
        sizes[1],
        sizes[2],
        [draw(st.sampled_from(modes)) for _ in range(levels)],
        processing_gap=gap,
        max_reduction_chunk_size=draw(st.none() | st.tuples(*[st.integers(1, 9)] * 3)),
    )


def reach(plan: SubchunkPlan) -> Box:
    """Return the box that holds all that a plan reads."""
    box = plan.bounds
    for level in plan.levels:
        box = grown(box, added(level.blend, level.crop))
    return box


def process_chunk(plan: SubchunkPlan, top: int, process: Process, kind: VoxelKind) -> Yielded:
    """Return what one chunk of the top level yields for the one output."""
    ((yielded,),) = process_chunks(plan, [top], process, [kind])
    return yielded


def reading(source: Values, plan: SubchunkPlan, function: Callable[[Values], Values]) -> Process:
    """Return a process that reads `source`, CXYZ of the `reach` of a plan."""
    origin = reach(plan).start
    return one_by_one(lambda box: source[(slice(None), *box.slices(origin))], function)


def covered(plan: SubchunkPlan) -> npt.NDArray[np.bool_]:
    """Return where in the bounds there are chunks, and no gaps."""
    mask = np.zeros(plan.bounds.shape, bool)
    for top in range(len(plan)):
        mask[plan.top_chunk(top).box.slices(plan.bounds.start)] = True
    return mask


def plain_volume(plan: SubchunkPlan, function: Callable[[Box], Values], channels: int) -> Values:
    """Return what a plan makes of the bounds, CXYZ float64; the function takes the box that is read."""
    return _plain_region(plan, function, 0, plan.bounds, channels)[
        (slice(None), *plan.bounds.slices(grown(plan.bounds, plan.top.blend).start))
    ]


def _plain_region(
    plan: SubchunkPlan, function: Callable[[Box], Values], number: int, region: Box, channels: int
) -> Values:
    """Return a region, with the blend of the level that it is cut into."""
    level, gap = plan.levels[number], plan.gap if number == 0 else (0, 0, 0)
    whole = grown(region, level.blend)
    total = np.full((channels, *whole.shape), -np.inf if level.mode == "max" else 0.0)
    ranges = [range(s, e, c + g) for s, e, c, g in zip(region.start, region.stop, level.chunk, gap, strict=True)]
    for z in ranges[2]:
        for y in ranges[1]:
            for x in ranges[0]:
                box = grown(Box.of_shape(level.chunk, (x, y, z)), level.blend)
                padded = grown(box, level.crop)
                if number == len(plan.levels) - 1:
                    values = function(padded).astype(np.float64)
                    values = values[(slice(None), *box.slices(padded.start))]
                else:
                    inner = _plain_region(plan, function, number + 1, padded, channels)
                    values = inner[(slice(None), *box.slices(grown(padded, plan.levels[number + 1].blend).start))]
                place = (slice(None), *box.slices(whole.start))
                if level.mode == "max":
                    total[place] = np.maximum(total[place], values)
                else:
                    total[place] += values * _plain_weights(level, box, whole)
    return total


def _plain_weights(level: Any, box: Box, whole: Box) -> Values:
    """Return the weights of a chunk with its blend, which lies in a region with its blend."""
    axes = []
    for axis in range(3):
        size, pad = box.shape[axis], level.blend[axis]
        weights = np.ones(size)
        for i in range(1, 2 * pad + 1):
            weight = _plain_weight(level.mode, size, pad, i)
            if box.start[axis] > whole.start[axis]:
                weights[i - 1] = weight
            if box.stop[axis] < whole.stop[axis]:
                weights[size - i] = weight
        axes.append(weights)
    return np.einsum("i,j,k->ijk", *axes)


def _plain_weight(mode: str, size: int, pad: int, i: int) -> float:
    if mode == "linear":
        return i / (2 * pad + 1)
    if mode == "quadratic":
        return float((i / (pad + 0.5)) ** 2 / 2 if i <= pad else 1 - (2 - i / (pad + 0.5)) ** 2 / 2)
    mine, other = (
        float(np.exp(-1 / (1 - (2 * (j + 1) / (size + 1) - 1) ** 2))) for j in (i - 1, i - 1 + size - 2 * pad)
    )
    return mine / (mine + other)
