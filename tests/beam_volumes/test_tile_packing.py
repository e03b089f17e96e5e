import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import tile_packing
from beam_volumes.codecs import DATA_TYPES
from beam_volumes.downsampling import METHODS, Downsampler, Tile
from beam_volumes.errors import CorruptDataError, OptionError
from beam_volumes.geometry import Box


def tile_of(data_type: str, top: int, method: str = "mode", shape: tuple[int, int, int, int] = (19, 16, 9, 1)) -> Tile:
    voxels = np.random.default_rng(7).integers(0, top, shape).astype(data_type)
    downsampler = Downsampler(method, data_type)
    return downsampler.coarser(downsampler.tile(voxels, (-3, 5, 0)), (2, 2, 1))[0]


@given(
    st.sampled_from(DATA_TYPES),
    st.sampled_from([2, 100]),
    st.sampled_from(METHODS),
    st.tuples(*[st.integers(1, 20)] * 3, st.integers(1, 3)),
)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_a_tile_comes_back(data_type: str, top: int, method: str, shape: tuple[int, int, int, int]) -> None:
    tile = tile_of(data_type, top, method, shape)
    came = tile_packing.unpack(Downsampler(method, data_type), tile.base, tile.factor, tile_packing.pack(tile))
    assert (came.base, came.factor) == (tile.base, tile.factor)
    np.testing.assert_array_equal(came.state, tile.state, strict=True)
    assert came.state.flags.f_contiguous


def test_labels_that_the_encoding_cannot_hold_are_packed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tile = tile_of("uint64", 1000)

    def refuse(*_: object) -> bytes:
        raise OptionError("too varied")

    assert tile_packing.pack(tile)[:1] == b"L"
    monkeypatch.setattr(tile_packing, "encode_chunk", refuse)
    data = tile_packing.pack(tile)
    assert data[:1] == b"R"
    came = tile_packing.unpack(Downsampler("mode", "uint64"), tile.base, tile.factor, data)
    np.testing.assert_array_equal(came.state, tile.state)


def test_labels_take_fewer_bytes_than_with_gzip_alone() -> None:
    labels = np.repeat(np.arange(64, dtype=np.uint64) * 12345, 4096).reshape(64, 64, 64, 1)
    tile = Tile(Box.of_shape((64, 64, 64)), (1, 1, 1), np.asfortranarray(labels))
    encoded, raw = tile_packing.pack(tile), tile_packing.pack(tile._replace(state=labels.astype(np.int64)))
    assert (encoded[:1], raw[:1]) == (b"L", b"R")
    assert len(encoded) < len(raw)


def test_other_bytes_are_refused() -> None:
    downsampler, box = Downsampler("mode", "uint64"), Box.of_shape((2, 2, 2))
    with pytest.raises(CorruptDataError, match=r"expected a packed tile, came 5 bytes that begin with b'x'"):
        tile_packing.unpack(downsampler, box, (1, 1, 1), b"xyzzy")
    with pytest.raises(CorruptDataError, match="expected gzip data"):
        tile_packing.unpack(downsampler, box, (1, 1, 1), b"R1234")
