import math
from typing import Any, Literal

import compressed_segmentation
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import segmentation_decoder_kernels as kernels
from beam_volumes.codecs import decode_chunk
from beam_volumes.errors import CorruptDataError
from beam_volumes.geometry import Vec
from beam_volumes.segmentation_decoder import decode, decode_into
from beam_volumes.segmentation_encoder import encode

Array = npt.NDArray[Any]

BLOCK = (8, 8, 8)
TYPES = ["uint32", "uint64"]


@st.composite
def chunks(draw: st.DrawFn) -> tuple[Array, Vec]:
    """XYZC voxels of any shape, from all equal to all different, with ids of all bits, and a size of blocks."""
    data_type = draw(st.sampled_from(TYPES))
    shape = draw(st.tuples(*[st.integers(1, 20)] * 3, st.integers(1, 3)))
    block = draw(st.sampled_from([BLOCK, BLOCK, (8, 8, 1), (3, 5, 2), (16, 4, 8), (1, 1, 1), (64, 64, 64)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_ids = draw(st.sampled_from([1, 2, 3, 5, 16, 17, 600]))
    ids = random.integers(0, np.iinfo(data_type).max, n_ids, data_type, endpoint=True)
    grain = draw(st.tuples(*[st.sampled_from([1, 2, 3, 7])] * 3))
    array = random.choice(ids, shape)
    for axis, n in enumerate(grain):
        array = np.repeat(array, n, axis)
    return np.asfortranarray(array[: shape[0], : shape[1], : shape[2]]), block


def encoded(array: Array, block: Vec, encoder: Literal["own", "library"]) -> bytes:
    # The library's encoder crashes with several channels.
    if encoder == "own" or array.shape[3] > 1:
        return encode(array, block)
    return bytes(compressed_segmentation.compress(array, block, order="F"))


@given(chunks(), st.sampled_from(["own", "library"]))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_every_voxel_comes_back(case: tuple[Array, Vec], encoder: Literal["own", "library"]) -> None:
    array, block = case
    data = encoded(array, block, encoder)
    found = decode(data, array.shape, array.dtype, block)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.flags.f_contiguous) == (array.dtype, True)
    expected = compressed_segmentation.decompress(data, array.shape, array.dtype, block, order="F")
    np.testing.assert_array_equal(found, expected)


@given(chunks(), st.tuples(*[st.integers(-22, 22)] * 3), st.tuples(*[st.integers(1, 24)] * 3))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_what_lies_in_an_array_is_written_to_it(case: tuple[Array, Vec], at: Vec, size: Vec) -> None:
    array, block = case
    out = np.full((*size, array.shape[3]), 77, array.dtype, order="F")
    expected = out.copy(order="F")
    begin, end = [max(0, a) for a in at], [max(0, a + n) for a, n in zip(at, array.shape, strict=False)]
    there = expected[tuple(slice(a, b) for a, b in zip(begin, end, strict=True))]
    inside = tuple(slice(b - a, b - a + n) for a, b, n in zip(at, begin, there.shape, strict=False))
    there[...] = array[inside]
    decode_into(encode(array, block), out, array.shape[:3], at, block)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 256, 257, 512])
def test_values_of_all_bits(data_type: str, n: int) -> None:
    array = (np.iinfo(data_type).max - np.arange(512, dtype=data_type) % n).reshape((8, 8, 8, 1), order="F")
    np.testing.assert_array_equal(decode(encode(array), array.shape, data_type), array)


@pytest.mark.parametrize("data_type", TYPES)
def test_a_block_of_more_than_65536_labels(data_type: str) -> None:
    array = np.arange(64 * 64 * 20, dtype=data_type)[::-1].reshape((64, 64, 20, 1), order="F")
    np.testing.assert_array_equal(decode(encode(array, (64, 64, 32)), array.shape, data_type, (64, 64, 32)), array)


@pytest.mark.parametrize("data_type", TYPES)
def test_bytes_of_any_kind_are_read_and_nothing_more_is_compiled(data_type: str) -> None:
    array = np.arange(9 * 9 * 9 * 2, dtype=data_type).reshape((9, 9, 9, 2), order="F") // 50
    data = encode(array)
    np.testing.assert_array_equal(decode(data, array.shape, data_type), array)
    before = list(kernels.decode_blocks.signatures)
    for other in (bytearray(data), memoryview(b"x" + data)[1:], data + b"xyz"):
        found = decode_chunk(other, "compressed_segmentation", array.shape, data_type)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, array)
    assert list(kernels.decode_blocks.signatures) == before


# What is damaged


def whole(label_words: int = 1) -> list[int]:
    """A chunk of one block and two labels: channel, header, table, values."""
    table = [5] + [0] * (label_words - 1)
    return [1, 2 | (1 << 24), 2 + 2 * label_words, *table, *table, *[2**32 - 1] * 16]


def as_bytes(words: list[int]) -> bytes:
    return np.array(words, "<u4").tobytes()


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({0: 2**32 - 1}, "there are to be 1 in each of 1 channel"),
        ({0: 22}, "there are to be 1 in each of 1 channel"),
        ({1: 2 | (3 << 24)}, "a value has a number of bits that is none of 0, 1, 2, 4, 8, 16 and 32"),
        ({1: 2 | (64 << 24)}, "a value has a number of bits that is none of"),
        ({1: 2**24 - 1}, "a table begins beyond the end"),
        ({1: (2**24 - 1) | (1 << 24)}, "a table begins beyond the end"),
        ({2: 2**32 - 1}, "values end beyond the end"),
        ({2: 7}, "values end beyond the end"),
        ({1: 2 | (2 << 24)}, "values end beyond the end"),
    ],
)
def test_what_is_damaged_is_told(data_type: str, change: dict[int, int], why: str) -> None:
    words = whole(np.dtype(data_type).itemsize // 4)
    np.testing.assert_array_equal(decode(as_bytes(words), (8, 8, 8, 1), data_type), np.full((8, 8, 8, 1), 5))
    for at, word in change.items():
        words[at] = word
    with pytest.raises(CorruptDataError, match=rf"^its blocks do not lie in its {4 * len(words)} bytes: {why}"):
        decode(as_bytes(words), (8, 8, 8, 1), data_type)


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32])
def test_a_value_that_points_beyond_the_end_is_told(data_type: str, bits: int) -> None:
    label_words = np.dtype(data_type).itemsize // 4
    n = 16 * bits
    # The values stand before the table, which has one label.
    data = as_bytes([1, (2 + n) | (bits << 24), 2, *[0] * n, *[9] * label_words])
    assert np.unique(decode(data, (8, 8, 8, 1), data_type)).size == 1
    bad = bytearray(data)
    # The last voxel of the block.
    bad[4 * (3 + n) - 1] |= 1 << 7 if bits == 1 else 1 << (8 - min(bits, 8))
    out = np.zeros((8, 8, 8, 1), data_type, order="F")
    with pytest.raises(CorruptDataError, match=r"do not lie in its \d+ bytes: a value points beyond"):
        decode_into(bytes(bad), out, (8, 8, 8), (0, 0, 0))
    # What is not wanted is not looked at.
    decode_into(bytes(bad), out[:, :, :7], (8, 8, 8), (0, 0, 0))
    assert np.unique(out[:, :, :7]).size == 1
    assert not out[:, :, 7].any()


@given(chunks(), st.data())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_damaged_bytes_are_told_or_read_and_nothing_else_is_written(
    case: tuple[Array, Vec], draw: st.DataObject
) -> None:
    array, block = case
    data = bytearray(encode(array, block))
    for _ in range(draw.draw(st.integers(1, 4))):
        # Mostly headers, and tables.
        span = min(len(data), draw.draw(st.sampled_from([4, 40, 400, len(data)])))
        data[draw.draw(st.integers(0, span - 1))] = draw.draw(st.integers(0, 255))
    del data[draw.draw(st.sampled_from([len(data), len(data), len(data) // 2, 7])) :]
    items = math.prod(array.shape)
    # Voxels before and behind it would be overwritten first.
    memory = np.full(items + 4096, 77, array.dtype)
    out = memory[2048 : 2048 + items].reshape(array.shape, order="F")
    try:
        decode_into(bytes(data), out, array.shape[:3], (0, 0, 0), block)
    except CorruptDataError:
        damaged = True
    else:
        damaged = False
    if not damaged:
        known = np.frombuffer(bytes(data), "<u4", len(data) // 4)
        assert np.isin(memory[2048 : 2048 + items].view(np.uint32), known).all()
    assert (memory[:2048] == 77).all()
    assert (memory[2048 + items :] == 77).all()


def test_what_cannot_be_decoded_is_named() -> None:
    data = encode(np.ones((8, 8, 8, 1), np.uint32))
    with pytest.raises(ValueError, match=r"XYZC voxels of uint32 or uint64, came uint16 of shape \(8, 8, 8, 1\)"):
        decode(data, (8, 8, 8, 1), np.uint16)
    with pytest.raises(ValueError, match=r"expected blocks of 1 to \d+ voxels, came \(0, 8, 8\)"):
        decode(data, (8, 8, 8, 1), np.uint32, (0, 8, 8))
    with pytest.raises(ValueError, match=r"expected blocks of 1 to \d+ voxels, came \(8, 8, 17592186044416\)"):
        decode(data, (8, 8, 8, 1), np.uint32, (8, 8, 2**44))
    with pytest.raises(ValueError, match="expected an array in Fortran order that can be written to"):
        decode_into(data, np.ones((8, 8, 8, 1), np.uint32), (8, 8, 8), (0, 0, 0))
    out = np.ones((8, 8, 8, 1), np.uint32, order="F")
    out.flags.writeable = False
    with pytest.raises(ValueError, match="expected an array in Fortran order that can be written to"):
        decode_into(data, out, (8, 8, 8), (0, 0, 0))
    # As many headers as there are bytes for: no room is made before that is known.
    with pytest.raises(CorruptDataError, match=r"there are to be \d+ in each of 1 channel"):
        decode(data, (2**20, 2**20, 2**20, 1), np.uint32)
