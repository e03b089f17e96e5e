import math
from pathlib import Path
from typing import Any, Literal

import compressed_segmentation
import numpy as np
import numpy.typing as npt
import pytest
import tensorstore as ts
from cloudvolume import chunks as cloudvolume_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.geometry import Vec
from beam_volumes.segmentation_encoder import encode

Array = npt.NDArray[Any]

BLOCK = (8, 8, 8)
TYPES = ["uint32", "uint64"]


def decoded(data: bytes, shape: tuple[int, ...], data_type: Any, block: Vec = BLOCK) -> Array:
    """Decode one channel as CloudVolume does."""
    decode = cloudvolume_chunks.decode
    return np.asarray(decode(data, "compressed_segmentation", shape=shape, dtype=np.dtype(data_type), block_size=block))


def headers(data: bytes, shape: Vec, block: Vec = BLOCK) -> list[tuple[int, int, int]]:
    """Return offset of the table, bits and offset of the values of each block of the only channel."""
    blocks = math.prod(-(-n // b) for n, b in zip(shape, block, strict=True))
    words = np.frombuffer(data, "<u4")[1 : 1 + 2 * blocks].tolist()
    return [(a & 0xFFFFFF, a >> 24, b) for a, b in zip(words[::2], words[1::2], strict=True)]


@st.composite
def chunks(draw: st.DrawFn) -> tuple[Array, Vec]:
    """Voxels of any shape, from all equal to all different, with ids of all bits, and a size of blocks."""
    data_type = draw(st.sampled_from(TYPES))
    shape = draw(st.tuples(*[st.integers(1, 20)] * 3, st.just(1)))
    block = draw(st.sampled_from([BLOCK, BLOCK, (8, 8, 1), (3, 5, 2), (16, 4, 8), (1, 1, 1)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = random.integers(0, np.iinfo(data_type).max, draw(st.integers(1, 600)), data_type, endpoint=True)
    grain = draw(st.tuples(*[st.sampled_from([1, 2, 3, 7])] * 3))
    array = random.choice(ids, shape)
    for axis, n in enumerate(grain):
        array = np.repeat(array, n, axis)
    array = array[: shape[0], : shape[1], : shape[2]]
    order: Literal["C", "F", "A"] = draw(st.sampled_from(["C", "F", "A"]))
    return np.array(array, order=order), block


@given(chunks())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_every_voxel_comes_back(case: tuple[Array, Vec]) -> None:
    array, block = case
    data = encode(array, block)
    np.testing.assert_array_equal(decoded(data, array.shape, array.dtype, block), array)
    # Nothing but the voxels counts: neither their order in memory, nor whether they can be written to.
    other = np.array(array, order="C")
    other.flags.writeable = False
    assert encode(other, block) == data
    padded = np.zeros(tuple(n + 2 for n in array.shape), array.dtype)[1:-1, 1:-1, 1:-1, 1:-1]
    padded[...] = array
    assert encode(padded, block) == data


@given(chunks())
@settings(derandomize=True, deadline=None, max_examples=50)
def test_tables_are_sorted_and_stand_once(case: tuple[Array, Vec]) -> None:
    array, block = case
    data = encode(array, block)
    found = headers(data, array.shape[:3], block)
    words = np.frombuffer(data, "<u4")[1:]
    first_value = min([offset for _, bits, offset in found if bits], default=len(words))
    table_words = {start for start, _, _ in found}
    ends = dict(zip(sorted(table_words), [*sorted(table_words)[1:], first_value], strict=True))
    tables = [tuple(words[start : ends[start]].view(array.dtype).tolist()) for start in sorted(table_words)]
    assert len(set(tables)) == len(tables)
    grid = [range(0, n, b) for n, b in zip(array.shape[:3], block, strict=True)]
    corners = [(x, y, z) for z in grid[2] for y in grid[1] for x in grid[0]]
    for (start, bits, _), (x, y, z) in zip(found, corners, strict=True):
        voxels = array[x : x + block[0], y : y + block[1], z : z + block[2]]
        labels = np.unique(voxels).tolist()
        assert words[start : ends[start]].view(array.dtype).tolist() == labels
        assert bits == next(b for b in (0, 1, 2, 4, 8, 16, 32) if len(labels) <= 2**b)


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize(("n", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8), (257, 16)])
def test_bits_of_a_block(data_type: str, n: int, bits: int) -> None:
    top = np.iinfo(data_type).max
    array = (top - np.arange(512, dtype=data_type) % n).reshape((8, 8, 8, 1), order="F")
    data = encode(array)
    label_words = array.itemsize // 4
    assert headers(data, (8, 8, 8)) == [(2, bits, 2 + n * label_words if bits else 0)]
    assert len(data) == 4 * (1 + 2 + n * label_words + 16 * bits)
    np.testing.assert_array_equal(decoded(data, array.shape, data_type), array)


def test_one_voxel() -> None:
    array = np.full((1, 1, 1, 1), 2**63 + 5, np.uint64)
    expected = [1, 2, 0, 5, 2**31]
    assert encode(array) == np.array(expected, "<u4").tobytes()


@pytest.mark.parametrize("data_type", TYPES)
def test_a_block_of_more_than_65536_labels(data_type: str) -> None:
    array = np.arange(64 * 64 * 20, dtype=data_type)[::-1].reshape((64, 64, 20, 1), order="F")
    words = np.frombuffer(encode(array, (64, 64, 32)), "<u4")[1:]
    # CloudVolume's decoder returns zeros here.
    table, bits, values = words[0] & 0xFFFFFF, words[0] >> 24, words[1]
    assert (table, bits, len(words)) == (2, 32, values + 64 * 64 * 32)
    voxels = words[table:values].view(data_type)[words[values:][: array.size]]
    np.testing.assert_array_equal(voxels, array.reshape(-1, order="F"))


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_tensorstore_reads_it(data_type: str, channels: int, tmp_path: Path) -> None:
    shape = (21, 16, 9, channels)
    array = np.random.default_rng(1).integers(0, np.iinfo(data_type).max, 40, data_type)[
        np.arange(math.prod(shape)) % 40
    ]
    array = array.reshape(shape) // np.array([1, 2, 3], data_type)[:channels]
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": str(tmp_path)},
        "multiscale_metadata": {"type": "segmentation", "data_type": data_type, "num_channels": channels},
        "scale_metadata": {
            "key": "1",
            "size": shape[:3],
            "chunk_size": shape[:3],
            "resolution": [1, 1, 1],
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": BLOCK,
        },
    }
    store = ts.open(spec, create=True).result()
    (tmp_path / "1").mkdir(exist_ok=True)
    (tmp_path / "1" / "0-21_0-16_0-9").write_bytes(encode(array))
    np.testing.assert_array_equal(store.read().result(), array)


@pytest.mark.parametrize("data_type", TYPES)
def test_the_library_finds_and_changes_labels_without_decoding(data_type: str) -> None:
    array = np.repeat(np.random.default_rng(2).integers(0, 9, (20, 3, 17, 1)).astype(data_type), 5, 1)
    data = encode(array)
    shape = array.shape[:3]
    np.testing.assert_array_equal(compressed_segmentation.labels(data, shape, array.dtype, BLOCK), range(9))
    mapping = {n: 3 * n + 1 for n in range(9)}
    changed = compressed_segmentation.remap(data, shape, array.dtype, mapping, block_size=BLOCK)
    np.testing.assert_array_equal(decoded(bytes(changed), array.shape, data_type), 3 * array + 1)


@pytest.mark.parametrize(("data_type", "blocks"), [("uint64", 16353), ("uint32", 32641)])
def test_the_last_table_that_an_offset_reaches(data_type: str, blocks: int) -> None:
    array = np.arange(blocks * 512, dtype=data_type).reshape((8, 8, -1, 1), order="F")
    # Headers, and the tables of all blocks but the last.
    words = 512 * np.dtype(data_type).itemsize // 4
    assert 2 * blocks + (blocks - 1) * words < 2**24 <= 2 * (blocks + 1) + blocks * words
    last = headers(encode(array), array.shape[:3])[-1]
    assert last == (2 * blocks + (blocks - 1) * words, 16, 2 * blocks + blocks * words + (blocks - 1) * 256)
    more = np.concatenate([array, array[:, :, :8] + array.size], axis=2)
    with pytest.raises(OverflowError, match="too large and varied and generated a table offset larger than 24-bits"):
        encode(np.asfortranarray(more))


def test_what_cannot_be_encoded_is_named() -> None:
    with pytest.raises(ValueError, match=r"XYZC voxels of uint32 or uint64, came int64 of shape \(1, 1, 1, 1\)"):
        encode(np.ones((1, 1, 1, 1), np.int64))
    with pytest.raises(ValueError, match=r"came uint64 of shape \(0, 1, 1, 1\)"):
        encode(np.ones((0, 1, 1, 1), np.uint64))
