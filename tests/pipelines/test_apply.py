"""What a function applied in chunks yields, against the same computed of the whole volume in one piece."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from beam_volumes.geometry import Box, Vec
from beam_volumes.subchunks import SubchunkPlan
from tests.beam_volumes.layers.layer_volumes import random_voxels, window
from tests.beam_volumes.subchunk_plans import covered, plain_volume, plans
from tests.pipelines.apply_runs import (
    BOX,
    ONE_LEVEL,
    THREE_LEVELS,
    TWO_LEVELS,
    Spec,
    Voxels,
    applied,
    check_close,
    code,
    counting,
    expected,
    flow,
    layer,
    like,
    stored,
    uniform,
)

PATCHY = "lambda src: src * src.mean() + src.amax()"
"""Each chunk has another factor: so the result shows the weights of every voxel."""


def patchy(values: Voxels) -> Voxels:
    return values * values.mean(dtype=np.float64) + values.max()


def values_of(data_type: str, channels: int, mode: str | None) -> Voxels:
    """Return values as large as a mode can blend."""
    if data_type.startswith("float"):
        return uniform(channels).astype(data_type)
    voxels = random_voxels((channels, *BOX.shape), data_type)
    if mode in (None, "max") or voxels.itemsize < 8:
        return voxels
    return voxels % 2**46


@pytest.mark.parametrize(
    ("mode", "data_type", "channels"),
    [
        *(("linear", kind, 1) for kind in ("uint8", "int32", "int64")),
        *(("quadratic", kind, 3) for kind in ("uint16", "uint32", "float32")),
        *(("bump", kind, 1) for kind in ("int16", "uint64", "uint8")),
        *(("max", kind, 3) for kind in ("uint64", "int32", "float32")),
        *((None, kind, 1) for kind in ("uint16", "uint32", "uint64")),
    ],
)
def test_a_copy_is_the_source(mode: str | None, data_type: str, channels: int, tmp_path: Path) -> None:
    source = stored(tmp_path / "src", values_of(data_type, channels, mode))
    if source.itemsize >= 4 and not data_type.startswith("float"):
        # A sum in float32 would show.
        assert (source.astype(np.float32).astype(np.float64) != source).any()
    if mode is None:
        cut: dict[str, Any] = ONE_LEVEL
    else:
        cut = {**TWO_LEVELS, "processing_blend_modes": mode}
    result = applied(tmp_path, flow(tmp_path, **cut))
    assert result.dtype == source.dtype
    if data_type.startswith("float"):
        check_close(result, source)
    else:
        np.testing.assert_array_equal(result, source)


def test_ids_are_copied_with_crop(tmp_path: Path) -> None:
    ids = random_voxels((1, *BOX.shape), "uint64") // 1000 * 1000
    stored(tmp_path / "src", ids, info_type="segmentation")
    sizes: Spec = {
        "processing_chunk_sizes": [[20, 18, 5], [8, 6, 3]],
        "processing_crop_pads": [[6, 3, 2], [1, 2, 1]],
    }
    np.testing.assert_array_equal(applied(tmp_path, flow(tmp_path, **sizes)), ids)


@pytest.mark.parametrize(
    ("cut", "modes"),
    [
        *(({**ONE_LEVEL, "processing_blend_pads": [[10, 9, 2]]}, mode) for mode in ("linear", "quadratic", "bump")),
        (TWO_LEVELS, "linear"),
        (TWO_LEVELS, ["max", "bump"]),
        (THREE_LEVELS, ["bump", "linear", "quadratic"]),
        (THREE_LEVELS, ["quadratic", "bump", "max"]),
    ],
)
def test_chunks_that_differ_are_blended_as_in_one_piece(cut: Any, modes: Any, tmp_path: Path) -> None:
    source = stored(tmp_path / "src", uniform(2))
    target = flow(tmp_path, fn=code(PATCHY), **cut, processing_blend_modes=modes)
    check_close(applied(tmp_path, target), expected(target, patchy, source))


@pytest.mark.parametrize("mode", ["linear", "quadratic", "bump"])
def test_weights_sum_to_1_also_at_the_edges_of_the_region(mode: str, tmp_path: Path) -> None:
    """The box is smaller than the dataset, and ends within it on some sides, at its bounds on others."""
    stored(tmp_path / "src", uniform(1))
    box = Box(BOX.start, (7, 41, 2))
    target = flow(tmp_path, box, fn=code("lambda src: src * 0 + 1"), **TWO_LEVELS, processing_blend_modes=mode)
    inside = window(np.ones((1, *box.shape)), box.start, BOX)
    np.testing.assert_allclose(applied(tmp_path, target), inside, rtol=1e-6)


def test_integers_are_rounded_once_at_the_end(tmp_path: Path) -> None:
    """The weights are fifths at both levels, so that no sum is near the middle between two integers."""
    source = stored(tmp_path / "src", counting())
    target = flow(
        tmp_path,
        processing_chunk_sizes=[[20, 36, 10], [4, 4, 10]],
        processing_blend_pads=[[2, 0, 0], [2, 0, 0]],
        processing_blend_modes="linear",
        fn=code("lambda src: (src * 0 + src.float().mean().round()).to(torch.uint8)"),
    )
    sums = expected(target, lambda values: np.full(values.shape, np.rint(values.mean())), source)
    assert (abs(sums - np.rint(sums)) > 0.3).any()
    np.testing.assert_array_equal(applied(tmp_path, target), np.rint(sums))


CONVOLUTION = (
    "lambda src: torch.nn.functional.conv3d("
    "src, torch.sin(torch.arange(210.0)).reshape(2, 1, 7, 5, 3), padding=(3, 2, 1))"
)


def convolution(values: Voxels) -> Voxels:
    """Return what `CONVOLUTION` makes of all of a volume, which is 0 beyond."""
    weights = np.sin(np.arange(210.0)).reshape(2, 7, 5, 3)
    windows = sliding_window_view(np.pad(values[0], ((3, 3), (2, 2), (1, 1))), (7, 5, 3))
    return np.einsum("xyzijk,cijk->cxyz", windows, weights)


@pytest.mark.parametrize(
    "cut",
    [
        {"processing_chunk_sizes": [[20, 18, 5]], "processing_crop_pads": [[3, 2, 1]]},
        {
            "processing_chunk_sizes": [[20, 18, 5]],
            "processing_crop_pads": [[3, 2, 1]],
            "processing_blend_pads": [[5, 4, 2]],
            "processing_blend_modes": "bump",
        },
        {**TWO_LEVELS, "processing_crop_pads": [[2, 0, 1], [3, 2, 1]]},
        {**THREE_LEVELS, "processing_crop_pads": [[2, 0, 1], [1, 2, 0], [3, 2, 1]]},
        # Chunks of one slice, which read three.
        {"processing_chunk_sizes": [[20, 18, 1]], "processing_crop_pads": [[3, 2, 1]]},
        {
            "processing_chunk_sizes": [[20, 18, 1], [8, 6, 1]],
            "processing_crop_pads": [[2, 0, 1], [3, 2, 1]],
            "processing_blend_pads": [[4, 3, 0], [2, 1, 0]],
        },
    ],
)
def test_a_random_convolution_is_that_of_the_whole_volume(cut: Any, tmp_path: Path) -> None:
    source = stored(tmp_path / "src", uniform())
    dst = like(tmp_path / "dst", tmp_path / "src", info_num_channels=2)
    # Three levels are many chunks, of which two of the top level are enough.
    box = Box.of_shape((40, 18, 5), BOX.start) if len(cut["processing_chunk_sizes"]) == 3 else BOX
    result = applied(tmp_path, flow(tmp_path, box, fn=code(CONVOLUTION), dst=dst, **cut))
    part = (slice(None), *box.slices(BOX.start))
    check_close(result[part], convolution(source)[part])


def test_with_less_crop_than_the_function_sees_it_is_not(tmp_path: Path) -> None:
    source = stored(tmp_path / "src", uniform())
    dst = like(tmp_path / "dst", tmp_path / "src", info_num_channels=2)
    result = applied(tmp_path, flow(tmp_path, fn=code(CONVOLUTION), dst=dst, processing_crop_pads=[[2, 2, 1]]))
    assert abs(result - convolution(source)).max() > 0.01


@pytest.mark.parametrize("cut", [ONE_LEVEL, TWO_LEVELS])
def test_a_box_filter_of_bytes_is_that_of_the_whole_volume(cut: Any, tmp_path: Path) -> None:
    """To the last bit: what overlaps is the same, and stays so."""
    source = stored(tmp_path / "src", counting())
    fn = "lambda src: torch.nn.functional.avg_pool3d(src.float(), (5, 5, 3), 1, (2, 2, 1)).round().to(torch.uint8)"
    sides = ((2, 2), (2, 2), (1, 1))
    sums = sliding_window_view(np.pad(source[0], sides), (5, 5, 3)).sum((3, 4, 5), dtype=np.int64)
    # 75 voxels: no mean is halfway between integers.
    means = (2 * sums + 75) // 150
    crops = [[2, 2, 1]] if cut is ONE_LEVEL else [[2, 0, 1], [2, 2, 1]]
    result = applied(tmp_path, flow(tmp_path, fn=code(fn), **{**cut, "processing_crop_pads": crops}))
    np.testing.assert_array_equal(result[0], means)


@st.composite
def runs(draw: st.DrawFn) -> tuple[SubchunkPlan, Box, str, int, Vec]:
    """Return a plan; and of a dataset its bounds, which overlap those of the plan, type, channels and stored chunks."""
    plan = draw(plans())
    start, stop = plan.bounds
    low = tuple(draw(st.integers(a - 3, b - 1)) for a, b in zip(start, stop, strict=True))
    high = tuple(draw(st.integers(max(a, b, c - 3) + 1, c + 3)) for a, b, c in zip(low, start, stop, strict=True))
    types = st.sampled_from(["uint8", "int16", "uint16", "int32", "uint32", "float32"])
    bounds = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    # Of one voxel CloudVolume returns the axes in another order.
    assume(bounds.voxels > 1)
    return plan, bounds, draw(types), draw(st.integers(1, 3)), draw(st.tuples(*[st.integers(1, 9)] * 3))


@settings(max_examples=15, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(runs())
def test_any_sizes_pads_levels_modes_gaps_offsets_types_and_channels(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[SubchunkPlan, Box, str, int, Vec]
) -> None:
    plan, bounds, data_type, channels, chunk = drawn
    folder = tmp_path_factory.mktemp("run")
    is_float = data_type == "float32"
    shape = (channels, *bounds.shape)
    source = uniform(channels, bounds.shape) if is_float else random_voxels(shape, data_type)
    stored(folder / "src", source, bounds.start)
    stood = stored(folder / "dst", random_voxels(shape, data_type, seed=1), bounds.start, chunk=chunk)
    target = flow(
        folder,
        plan.bounds,
        processing_chunk_sizes=[level.chunk for level in plan.levels],
        processing_crop_pads=[level.crop for level in plan.levels],
        processing_blend_pads=[level.blend for level in plan.levels],
        processing_blend_modes=[level.mode for level in plan.levels],
        processing_gap=plan.gap,
        max_reduction_chunk_size=plan.owners.cell,
        dst=layer(folder / "dst"),
        fn=code(PATCHY if is_float else "lambda src: src"),
    )
    result = applied(folder, target)

    def function(read: Box) -> Voxels:
        values = window(source, bounds.start, read)
        return patchy(values) if is_float else values

    made = np.broadcast_to(covered(plan), (channels, *plan.bounds.shape))
    values = window(plain_volume(plan, function, channels), plan.bounds.start, bounds)
    wanted = np.where(window(made, plan.bounds.start, bounds), values, stood)
    if is_float:
        check_close(result, wanted)
    else:
        np.testing.assert_array_equal(result, np.rint(wanted))
