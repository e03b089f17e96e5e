import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.codecs import DATA_TYPES, Array
from beam_volumes.downsampling import METHODS, Downsampler, Tile, coarse_box, downsample
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec

FACTORS: list[Vec] = [(2, 2, 1), (2, 2, 2), (2, 1, 1), (1, 2, 2), (2, 3, 1), (4, 2, 1), (3, 1, 2), (1, 1, 1)]


def join(tiles: list[Tile], base: Box) -> Tile:
    """Return tiles of one mip as one."""
    whole = coarse_box(base, tiles[0].factor)
    state = np.empty((*whole.shape, tiles[0].state.shape[3]), tiles[0].state.dtype, order="F")
    for tile in tiles:
        state[tile.box.slices(whole.start)] = tile.state
    return Tile(base, tiles[0].factor, state)


def plain(voxels: Array, offset: Vec, factor: Vec, method: str, sparse: bool = False) -> Array:
    """Return the coarse voxels, one by one."""
    fine = Box.of_shape((voxels.shape[0], voxels.shape[1], voxels.shape[2]), offset)
    coarse = coarse_box(fine, factor)
    out = np.empty((*coarse.shape, voxels.shape[3]), voxels.dtype)
    for place in np.ndindex(out.shape[:3]):
        start = [(s + i) * f for s, i, f in zip(coarse.start, place, factor, strict=True)]
        x, y, z = ((s, s + f) for s, f in zip(start, factor, strict=True))
        block = Box((x[0], y[0], z[0]), (x[1], y[1], z[1])).intersection(fine)
        for c in range(out.shape[3]):
            # x fastest
            out[(*place, c)] = plain_block(voxels[(*block.slices(offset), c)].ravel(order="F"), method, sparse)
    return out


def plain_block(values: npt.NDArray[Any], method: str, sparse: bool) -> Any:
    if method == "stride":
        return values[0]
    if method in ("min", "max"):
        return getattr(np, method)(values)
    if method == "average":
        return plain_average(values)
    counts: dict[bytes, int] = {}
    background = values.dtype.type(0).tobytes()
    for value in values:
        if not (sparse and value.tobytes() == background):
            counts[value.tobytes()] = counts.get(value.tobytes(), 0) + 1
    # The first key of the largest counts: dicts keep the order of first voxels.
    best = max(counts, key=lambda key: counts[key], default=background)
    return np.frombuffer(best, values.dtype)[0]


def plain_average(values: npt.NDArray[Any]) -> Any:
    if values.dtype.kind != "f":
        return values.dtype.type(round(Fraction(sum(int(v) for v in values), len(values))))
    total = 0.0
    for value in values:
        total += float(value)
    return np.float32(total / len(values))


@st.composite
def volumes(draw: st.DrawFn, largest: int = 19) -> Array:
    data_type = draw(st.sampled_from(DATA_TYPES))
    shape = draw(st.tuples(*[st.integers(1, largest)] * 2, st.integers(1, 6), st.integers(1, 3)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    few = draw(st.sampled_from([2, 3, 5, None]))
    if few:
        array = random.integers(0, few, shape).astype(data_type)
    else:
        array = np.frombuffer(random.bytes(math.prod(shape) * np.dtype(data_type).itemsize), data_type).reshape(shape)
        # Of noise in all bits, floats are mostly out of the range of any image.
        array = random.normal(0, 1e3, shape).astype(data_type) if data_type == "float32" else array
    order: Literal["C", "F"] = draw(st.sampled_from(["C", "F"]))
    return np.array(array, order=order)


offsets = st.tuples(*[st.integers(-9, 40)] * 3)


@given(volumes(), offsets, st.sampled_from(FACTORS), st.sampled_from(METHODS), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=250)
def test_a_mip_equals_a_plain_reference(voxels: Array, offset: Vec, factor: Vec, method: str, sparse: bool) -> None:
    sparse = sparse and method == "mode"
    got = downsample(voxels, offset, factor, method, sparse)
    expected = plain(voxels, offset, factor, method, sparse)
    assert got.tobytes("F") == expected.tobytes("F")
    assert (got.dtype, got.shape, got.flags.f_contiguous) == (voxels.dtype, expected.shape, True)


@pytest.mark.parametrize("data_type", ["uint8", "uint16", "uint64"])
@pytest.mark.parametrize("factor", [(2, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("shape", [(32, 6, 4, 2), (32, 5, 3, 1), (33, 5, 3, 1)])
def test_the_fast_paths_equal_a_plain_reference(data_type: str, factor: Vec, shape: Sequence[int]) -> None:
    random = np.random.default_rng(7)
    for top in (2, 3, 256):
        voxels = random.integers(0, top, shape).astype(data_type)
        for offset in ((0, 0, 0), (8, 3, 5), (3, 2, 1)):
            for method, sparse in (("average", False), ("mode", False), ("mode", True), ("max", False)):
                got = downsample(voxels, offset, factor, method, sparse)
                np.testing.assert_array_equal(got, plain(voxels, offset, factor, method, sparse))


def test_every_block_of_eight_with_few_labels_is_counted_right() -> None:
    # All 3**8 blocks, side by side along x, background among them.
    digits = np.array(list(np.ndindex((3,) * 8)), np.uint8)
    voxels = digits.reshape(-1, 2, 2, 2).transpose(3, 0, 2, 1).reshape(2, -1, 2, 2)
    blocks = np.concatenate([voxels[:, i] for i in range(voxels.shape[1])], axis=0)[..., None]
    for sparse in (False, True):
        got = downsample(blocks, (0, 0, 0), (2, 2, 2), "mode", sparse)
        np.testing.assert_array_equal(got, plain(blocks, (0, 0, 0), (2, 2, 2), "mode", sparse))
        # 2 x 2 x 1 takes the first four.
        got = downsample(blocks[:, :, :1], (0, 0, 0), (2, 2, 1), "mode", sparse)
        np.testing.assert_array_equal(got, plain(blocks[:, :, :1], (0, 0, 0), (2, 2, 1), "mode", sparse))


@pytest.mark.parametrize(
    ("block", "sparse", "expected"),
    [
        ([[5, 7], [7, 5]], False, 5),
        ([[7, 5], [5, 7]], False, 7),
        ([[1, 2], [3, 4]], False, 1),
        # [x][y]: the voxel at x = 1 comes before the one at y = 1.
        ([[9, 1], [2, 1]], False, 1),
        ([[9, 1], [2, 3]], False, 9),
        ([[0, 0], [2, 1]], True, 2),
        ([[0, 0], [0, 1]], True, 1),
        ([[0, 0], [0, 0]], True, 0),
        ([[0, 1], [0, 2]], False, 0),
    ],
)
def test_ties_go_to_the_first_voxel(block: list[list[int]], sparse: bool, expected: int) -> None:
    voxels = np.array(block, np.uint32)[:, :, None, None]
    assert downsample(voxels, (0, 0, 0), (2, 2, 1), "mode", sparse).tolist() == [[[[expected]]]]


def split(box: Box, cell: Vec) -> list[Box]:
    """Cut a box at multiples of `cell` in the absolute grid."""
    cells = coarse_box(box, cell)
    corners = [
        tuple((s + i) * c for s, i, c in zip(cells.start, p, cell, strict=True)) for p in np.ndindex(cells.shape)
    ]
    return [Box.of_shape(cell, (x, y, z)).intersection(box) for x, y, z in corners]


@given(
    volumes(largest=30),
    offsets,
    st.lists(st.sampled_from(FACTORS[:5]), min_size=1, max_size=3),
    st.sampled_from(METHODS),
)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_pieces_give_the_same_mips_as_the_whole(voxels: Array, offset: Vec, factors: list[Vec], method: str) -> None:
    downsampler = Downsampler(method, voxels.dtype.name)
    whole = downsampler.tile(voxels, offset)
    expected = list(downsampler.mips(whole, [*factors, (2, 2, 2)]))
    fx, fy, fz = np.prod(factors, axis=0).tolist()
    ends = []
    for box in split(whole.base, (fx, fy, fz)):
        piece = downsampler.tile(voxels[box.slices(offset)], box.start)
        for (tile, got), (of_whole, wanted) in zip(downsampler.mips(piece, factors), expected, strict=False):
            assert got.tobytes("F") == wanted[tile.box.slices(of_whole.box.start)].tobytes("F")
        ends.append(Tile(*tile))
    # A parent takes them in any order, and goes on.
    joined = join(ends[::-1], whole.base)
    assert joined.state.tobytes("F") == expected[-2][0].state.tobytes("F")
    top, got = downsampler.coarser(joined, (2, 2, 2))
    assert top.box == expected[-1][0].box
    assert got.tobytes("F") == expected[-1][1].tobytes("F")


@given(volumes(), offsets, st.lists(st.sampled_from(FACTORS), min_size=1, max_size=4))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_averages_are_those_of_mip_0_at_every_mip(voxels: Array, offset: Vec, factors: list[Vec]) -> None:
    if voxels.dtype == np.float32:
        # Sums of integers are exact in any order.
        voxels = np.floor(voxels.astype(np.float32))
    downsampler = Downsampler("average", voxels.dtype.name)
    for tile, got in downsampler.mips(downsampler.tile(voxels, offset), factors):
        np.testing.assert_array_equal(got, plain(voxels, offset, tile.factor, "average"))
        assert tile.state.dtype == downsampler.state_type(tile.factor)
        assert tile.state.nbytes == tile.box.voxels * voxels.shape[3] * downsampler.state_bytes(tile.factor)


@pytest.mark.parametrize("data_type", [t for t in DATA_TYPES if t != "float32"])
def test_averages_are_exact_at_the_ends_of_the_range(data_type: str) -> None:
    low, high = int(np.iinfo(data_type).min), int(np.iinfo(data_type).max)
    blocks = [[low] * 4, [high] * 4, [high, high, high, high - 1], [high, high, high - 1, high - 1]]
    blocks += [[low, low, low + 1, low + 1], [low, low, low, low + 1], [low, high, low, high], [low, low, low, high]]
    voxels = np.array(blocks, dtype=data_type).reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1, 2, 1)[:, ::-1]
    for factor in ((2, 1, 2), (2, 3, 2), (2, 8, 2)):
        got = downsample(voxels, (0, 0, 0), factor, "average")
        np.testing.assert_array_equal(got, plain(voxels, (0, 0, 0), factor, "average"))
    downsampler = Downsampler("average", data_type)
    full = np.full((64, 64, 32, 1), high, data_type)
    for _, got in downsampler.mips(downsampler.tile(full, (0, 0, 0)), [(2, 2, 2)] * 5 + [(2, 2, 1)]):
        assert np.unique(got).tolist() == [high]


def test_an_average_does_not_drift() -> None:
    downsampler = Downsampler("average", "uint8")
    voxels = np.array([1, 2, 1, 2, 1, 2, 1, 1], np.uint8).reshape(8, 1, 1, 1)
    got = [mip.ravel().tolist() for _, mip in downsampler.mips(downsampler.tile(voxels, (0, 0, 0)), [(2, 1, 1)] * 3)]
    # 1.5, 1.5, 1.5, 1; 1.5, 1.25; 1.375. Rounded values taken further give 2 at the top (of 2 and 1.5, made 2).
    assert got == [[2, 2, 2, 1], [2, 1], [1]]


def test_nan_and_infinity() -> None:
    nan, inf = np.nan, np.inf
    values = [1, nan, 2, 3, inf, -inf, 1, inf, -0.0, 0.0, 0.0, -0.0, nan, nan, 1, 1]
    voxels = np.array(values, np.float32).reshape(16, 1, 1, 1)
    expected = {
        "average": [nan, 2.5, nan, inf, 0.0, 0.0, nan, 1],
        "min": [nan, 2, -inf, 1, -0.0, 0.0, nan, 1],
        "max": [nan, 3, inf, inf, -0.0, 0.0, nan, 1],
        "stride": [1, 2, inf, 1, -0.0, 0.0, nan, 1],
        "mode": [1, 2, inf, 1, -0.0, 0.0, nan, 1],
    }
    for method, wanted in expected.items():
        got = downsample(voxels, (0, 0, 0), (2, 1, 1), method)
        assert got.tobytes() == np.array(wanted, np.float32).tobytes(), method
    # Negative zero is no background.
    assert str(downsample(voxels[8:10], (0, 0, 0), (2, 1, 1), "mode", sparse=True).item()) == "-0.0"


@pytest.mark.parametrize("method", METHODS)
def test_any_memory_will_do(method: str) -> None:
    random = np.random.default_rng(1)
    whole = random.integers(0, 9, (40, 20, 12, 2)).astype(np.uint16)
    parts = [whole[3:36:2, ::-1, 1:9], np.asfortranarray(whole)[5:37, 2:19], whole.astype(">u2"), whole.copy()]
    parts[-1].flags.writeable = False
    for part in parts:
        got = downsample(part, (4, 6, 2), (2, 2, 2), method)
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, plain(part.astype(np.uint16), (4, 6, 2), (2, 2, 2), method))


@pytest.mark.parametrize(
    ("box", "factor", "expected"),
    [
        (Box((0, 0, 0), (8, 8, 8)), (2, 2, 1), Box((0, 0, 0), (4, 4, 8))),
        (Box((3, 5, 7), (9, 9, 9)), (2, 2, 2), Box((1, 2, 3), (5, 5, 5))),
        (Box((-3, -4, -1), (1, 5, 0)), (2, 2, 2), Box((-2, -2, -1), (1, 3, 0))),
        (Box((0, 0, 2**70 + 1), (1, 1, 2**70 + 4)), (1, 3, 4), Box((0, 0, 2**68), (1, 1, 2**68 + 1))),
    ],
)
def test_a_coarse_box_holds_every_voxel_at_its_place(box: Box, factor: Vec, expected: Box) -> None:
    assert coarse_box(box, factor) == expected


def test_what_does_not_fit_is_refused() -> None:
    voxels = np.zeros((4, 4, 4, 1), np.uint8)
    with pytest.raises(OptionError, match=r"--method: expected one of mode, average, .*came median"):
        downsample(voxels, (0, 0, 0), (2, 2, 1), "median")
    with pytest.raises(OptionError, match="came float64"):
        downsample(voxels.astype(np.float64), (0, 0, 0), (2, 2, 1), "mode")
    with pytest.raises(OptionError, match="--sparse: expected --method=mode, came average"):
        downsample(voxels, (0, 0, 0), (2, 2, 1), "average", sparse=True)
    with pytest.raises(OptionError, match=r"--factor: expected numbers from 1, came \(2, 0, 1\)"):
        downsample(voxels, (0, 0, 0), (2, 0, 1), "mode")
    with pytest.raises(OptionError, match=r"at most 2,147,483,648 voxels of mip 0, came \(65536, 65536, 1\)"):
        downsample(voxels, (0, 0, 0), (65536, 65536, 1), "average")
    with pytest.raises(ValueError, match="at least one"):
        downsample(voxels[:0], (0, 0, 0), (2, 2, 1), "mode")
    with pytest.raises(ValueError, match=r"expected voxels of the shape of 0,0,0,2,2,2.*came \(4, 4, 4, 1\)"):
        Downsampler("mode", "uint8").coarser(Tile(Box.of_shape((2, 2, 2)), (1, 1, 1), voxels), (2, 2, 1))
