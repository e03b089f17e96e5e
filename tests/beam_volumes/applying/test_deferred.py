"""What mode defer leaves, blended by a user with CloudVolume and numpy."""

import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
from cloudvolume import CloudVolume
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.applying.deferred import DeferredLayers
from beam_volumes.applying.outputs import Written
from beam_volumes.blending import axis_weights, rounded
from beam_volumes.errors import FunctionError, OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.subchunk_flow import Process, one_by_one, process_volume
from beam_volumes.subchunks import SubchunkPlan, VoxelKind
from tests.beam_volumes.subchunk_plans import Values, make_plan, process_chunk

BUDGET = settings(derandomize=True, deadline=None, max_examples=15)
RESOLUTION = (8, 8, 40)
BOUNDS = Box.of_shape((24, 18, 8), (-7, 5, 100))
SIZES: dict[str, Any] = {"chunks": [(8, 6, 4), (6, 4, 2)], "crops": [(0, 0, 0), (1, 0, 1)]}
BLEND = (2, 3, 1)


def patches(kind: VoxelKind) -> Process:
    """Return a process whose chunks have other values each: it shows how they are blended."""

    def patch(box: Box) -> Values:
        seed = [abs(n) * 2 + (n < 0) for n in (*box.start, *box.stop)]
        return np.random.default_rng(seed).integers(0, 100, (kind.channels, *box.shape)).astype(kind.data_type)

    return one_by_one(lambda box: box, patch)


def left(folder: Path, plan: SubchunkPlan, kind: VoxelKind) -> DeferredLayers:
    """Run a plan with mode defer."""
    layers = DeferredLayers.planned(plan, kind, RESOLUTION, str(folder))
    layers.write_infos()
    for top in range(len(plan)):
        yielded = process_chunk(plan, top, patches(kind), kind)
        layers.write(top, yielded.box, rounded(yielded.values, kind.data_type))
    return layers


def blended_by_a_user(folder: Path, bounds: Box, chunk: Vec, blend: Vec, mode: str) -> Values:
    """Return what there is in the bounds of a run, CXYZ float64: of the spec's own numbers, and its folder."""
    counts = [-(-n // c) for n, c in zip(bounds.shape, chunk, strict=True)]
    total: Any = None
    for place in itertools.product(*map(range, counts)):
        parity = "_".join(str(n % 2 if b else 0) for n, b in zip(place, blend, strict=True))
        volume = CloudVolume(f"file://{folder}/deferred_{parity}", progress=False)
        x, y, z = (s + n * c - b for s, n, c, b in zip(bounds.start, place, chunk, blend, strict=True))
        box = Box.of_shape((chunk[0] + 2 * blend[0], chunk[1] + 2 * blend[1], chunk[2] + 2 * blend[2]), (x, y, z))
        values = np.moveaxis(np.asarray(volume[box.slices()]), 3, 0).astype(np.float64)
        for axis in range(3):
            edges = (place[axis] == 0, place[axis] == counts[axis] - 1)
            shape = [1] * 4
            shape[axis + 1] = -1
            values *= axis_weights(mode, chunk[axis], blend[axis], edges).reshape(shape)
        inside = box.intersection(bounds)
        total = np.zeros((values.shape[0], *bounds.shape)) if total is None else total
        total[(slice(None), *inside.slices(bounds.start))] += values[(slice(None), *inside.slices(box.start))]
    return np.asarray(total)


@pytest.mark.parametrize("mode", ["quadratic", "linear", "bump"])
@pytest.mark.parametrize("data_type", ["uint8", "int32", "float32"])
@pytest.mark.parametrize("blend", [BLEND, (4, 0, 0), (0, 0, 2), (0, 0, 0)])
def test_a_user_blends_what_is_left(tmp_path: Path, mode: str, data_type: str, blend: Vec) -> None:
    kind = VoxelKind(2, data_type)
    left(tmp_path, _plan("defer", blend), kind)
    found = blended_by_a_user(tmp_path, BOUNDS, SIZES["chunks"][0], blend, mode)
    expected = process_volume(_plan(mode, blend), patches(kind), kind)
    if data_type == "float32":
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    else:
        # float32 sums, rounded; halves may come to either side.
        assert (abs(found - expected) <= 0.5 + 1e-4).all()


def _plan(mode: str, blend: Vec = BLEND, **others: Any) -> SubchunkPlan:
    chunks = [(8, 6, 4), (8 + 2 * blend[0], 6 + 2 * blend[1], 4 + 2 * blend[2])]
    return make_plan(BOUNDS, chunks, [(0, 0, 0), (1, 0, 1)], [blend, (0, 0, 0)], [mode, "linear"], **others)


def test_levels_below_are_blended_and_rounded(tmp_path: Path) -> None:
    kind = VoxelKind(1, "uint8")
    chunks, crops, blends = [(8, 8, 4), (6, 6, 4)], (0, 0, 0), [(2, 2, 0), (1, 1, 0)]
    bounds = Box.of_shape((16, 24, 4), (3, -5, 0))
    left(tmp_path, make_plan(bounds, chunks, crops, blends, ["defer", "linear"]), kind)
    found = blended_by_a_user(tmp_path, bounds, (8, 8, 4), (2, 2, 0), "quadratic")
    expected = process_volume(make_plan(bounds, chunks, crops, blends, ["quadratic", "linear"]), patches(kind), kind)
    # Rounded twice, where a run rounds once.
    assert (abs(found - expected) <= 1 + 1e-4).all()
    assert {path.name for path in tmp_path.iterdir()} == {f"deferred_{x}_{y}_0" for x in (0, 1) for y in (0, 1)}


@BUDGET
@given(
    st.tuples(*[st.integers(1, 13)] * 3),
    st.tuples(*[st.integers(0, 6)] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(-30, 30)] * 3),
    st.tuples(*[st.integers(0, 2)] * 3),
)
def test_each_file_is_of_one_chunk(
    tmp_path_factory: pytest.TempPathFactory, chunk: Vec, pad: Vec, counts: Vec, offset: Vec, gap: Vec
) -> None:
    blend = tuple(min(p, c // 2) for p, c in zip(pad, chunk, strict=True))
    gap = (0, 0, 0) if any(blend) else gap
    shape = [n * (c + g) - g for n, c, g in zip(counts, chunk, gap, strict=True)]
    bounds = Box.of_shape((shape[0], shape[1], shape[2]), offset)
    plan = make_plan(bounds, [chunk], (0, 0, 0), [blend], "defer", processing_gap=gap)  # type: ignore[list-item]
    folder = tmp_path_factory.mktemp("deferred")
    layers = DeferredLayers.planned(plan, VoxelKind(1, "uint8"), RESOLUTION, str(folder))
    layers.write_infos()
    seen: set[Path] = set()
    tops = [*range(len(plan))][:: max(len(plan) // 4, 1)]
    for top in tops:
        box = plan.top_chunk(top).wanted
        assert layers.write(top, box, np.full((1, *box.shape), top % 255 + 1, "uint8")).voxels == box.voxels
        files = set(folder.glob("*/8_8_40/*")) - seen
        assert 1 <= len(files) <= math.prod(-(-b // max(c // 4, 1)) for b, c in zip(box.shape, chunk, strict=True))
        seen |= files
    for top in tops:
        box = plan.top_chunk(top).wanted
        parity = [n % 2 if b else 0 for n, b in zip(_place(plan, top), blend, strict=True)]
        volume = CloudVolume(f"file://{folder}/deferred_{'_'.join(map(str, parity))}", progress=False)
        assert (np.asarray(volume[box.slices()]) == top % 255 + 1).all()


def _place(plan: SubchunkPlan, top: int) -> tuple[int, int, int]:
    nx, ny, _ = plan.shape
    return top % nx, top // nx % ny, top // nx // ny


def test_what_was_written_is_told_and_bytes_are_the_same_again(tmp_path: Path) -> None:
    plan, kind = _plan("defer"), VoxelKind(2, "int16")
    layers = pickle.loads(pickle.dumps(left(tmp_path, plan, kind)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(layers.infos) == 8
    yielded = process_chunk(plan, 4, patches(kind), kind)
    values = rounded(yielded.values, "int16")
    raw = np.moveaxis(values, 0, 3).tobytes(order="F")
    assert layers.write(4, yielded.box, values) == Written(12 * 12 * 6, len(raw), crc32c.crc32c(raw))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    layers.write(4, yielded.box, np.zeros_like(values))
    volume = CloudVolume(f"file://{tmp_path}/deferred_1_1_0", progress=False)
    assert not np.asarray(volume[yielded.box.slices()]).any()


def test_other_chunks_are_refused(tmp_path: Path) -> None:
    plan, kind = _plan("defer"), VoxelKind(1, "uint8")
    layers = DeferredLayers.planned(plan, kind, RESOLUTION, str(tmp_path))
    box = plan.top_chunk(1).wanted
    assert list(tmp_path.iterdir()) == []
    for where, shape, data_type in ((box, (1, 1, 1, 1), "uint8"), (box, (1, *box.shape), "int8")):
        with pytest.raises(FunctionError, match=r"expected \(1, 12, 12, 6\) of uint8 \(C, x, y, z\) for box .* came"):
            layers.write(1, where, np.zeros(shape, data_type))
    with pytest.raises(FunctionError, match=r"of chunk 1, came .* for -9,2,99,3,14,105"):
        layers.write(1, plan.top_chunk(0).wanted, np.zeros((1, *box.shape), "uint8"))


def test_a_folder_with_chunks_of_other_sizes_is_refused(tmp_path: Path) -> None:
    kind = VoxelKind(1, "uint8")
    left(tmp_path, _plan("defer"), kind)
    assert DeferredLayers.planned(_plan("defer"), kind, RESOLUTION, str(tmp_path)).infos
    with pytest.raises(
        OptionError, match=r"expected a folder without deferred chunks of other sizes .* another folder"
    ):
        DeferredLayers.planned(_plan("defer", (1, 1, 1)), kind, RESOLUTION, str(tmp_path))
