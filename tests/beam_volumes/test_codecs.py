from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.codecs import (
    DATA_TYPES,
    ENCODINGS,
    check_encoding,
    compress,
    compression_of,
    decode_chunk,
    decompress,
    default_encoding,
    encode_chunk,
)
from beam_volumes.errors import CorruptDataError, OptionError

LOSSLESS = [e for e in ENCODINGS if e != "jpeg"]


@st.composite
def voxels(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    """An encoding and an array that it must hold: any type, channels and odd shape."""
    encoding = draw(st.sampled_from(LOSSLESS))
    data_type = draw(st.sampled_from(DATA_TYPES))
    channels = draw(st.integers(1, 4))
    try:
        check_encoding(encoding, "segmentation", data_type, channels)
    except OptionError:
        data_type, channels = ("uint64", 1) if encoding != "png" else ("uint8", 1)
    shape = draw(st.tuples(*[st.integers(1, 21)] * 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = draw(st.sampled_from([2, 40, 250]))
    array = random.integers(0, min(top, np.iinfo(data_type).max if data_type != "float32" else top), (*shape, channels))
    order: Literal["C", "F"] = draw(st.sampled_from(["C", "F"]))
    return encoding, np.asarray(array.astype(data_type), order=order)


@given(voxels())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_lossless_encodings_give_back_every_voxel(case: tuple[str, np.ndarray]) -> None:
    encoding, array = case
    decoded = decode_chunk(encode_chunk(array, encoding), encoding, array.shape, str(array.dtype))
    np.testing.assert_array_equal(decoded, array)
    assert decoded.dtype == array.dtype


def test_a_part_of_a_larger_array_encodes_like_a_copy_of_it() -> None:
    whole = np.asfortranarray(np.random.default_rng(0).integers(0, 9, (40, 40, 40, 1)).astype(np.uint64))
    part = whole[3:20, 5:37, 7:15]
    for encoding in ("raw", "compressed_segmentation", "compresso", "crackle"):
        assert encode_chunk(part, encoding) == encode_chunk(part.copy(order="F"), encoding)


def test_jpeg_is_near_for_smooth_images() -> None:
    x = np.linspace(0, 255, 64).astype(np.uint8)
    array = np.broadcast_to(x[:, None, None, None], (64, 64, 4, 1))
    decoded = decode_chunk(encode_chunk(array, "jpeg"), "jpeg", array.shape, "uint8")
    assert np.abs(decoded.astype(int) - array.astype(int)).max() <= 8


@pytest.mark.parametrize("compression", ["gzip", "br", "none"])
def test_compression_round_trip_is_deterministic(compression: str) -> None:
    data = b"voxels " * 1000
    assert compress(data, compression) == compress(data, compression)
    assert decompress(compress(data, compression), compression) == data


def test_gzip_holds_no_time() -> None:
    assert compress(b"x", "gzip")[4:8] == bytes(4)


@pytest.mark.parametrize("compression", ["gzip", "br"])
def test_damaged_bytes_are_named(compression: str) -> None:
    data = compress(bytes(range(256)) * 20, compression)
    with pytest.raises(CorruptDataError, match=f"expected {compression} data"):
        decompress(data[: len(data) // 2], compression)


@pytest.mark.parametrize(
    ("encoding", "layer_type", "data_type", "channels", "fitting"),
    [
        ("compressed_segmentation", "image", "uint8", 1, "raw, compresso, crackle, png, jpeg"),
        ("compresso", "segmentation", "uint64", 2, "(raw)"),
        ("jpeg", "segmentation", "uint8", 1, "raw, compresso, crackle, png"),
        ("png", "image", "float32", 1, "(raw)"),
        ("jpeg", "image", "uint8", 2, "(raw)"),
    ],
)
def test_an_encoding_that_does_not_fit_is_refused_with_those_that_do(
    encoding: str, layer_type: str, data_type: str, channels: int, fitting: str
) -> None:
    with pytest.raises(OptionError, match=f"--encoding: expected .*{fitting.strip('()')}.*came {encoding}"):
        check_encoding(encoding, layer_type, data_type, channels)


def test_a_type_that_precomputed_cannot_hold_is_refused() -> None:
    with pytest.raises(OptionError, match="came float64"):
        check_encoding("raw", "image", "float64", 1)


def test_defaults_are_read_by_every_reader() -> None:
    assert default_encoding("segmentation", "uint64", 1) == "compressed_segmentation"
    assert default_encoding("segmentation", "uint16", 1) == "raw"
    assert default_encoding("image", "uint8", 1) == "raw"


def test_what_is_compressed_is_not_compressed_again() -> None:
    assert compression_of("jpeg", "gzip") == "none"
    assert compression_of("crackle", "gzip") == "gzip"
