import gzip
import zlib
from typing import Literal

import numpy as np
import pytest
from cloudvolume import chunks as cloudvolume_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.codecs import (
    BLOCK_SIZE,
    DATA_TYPES,
    ENCODINGS,
    check_chunk,
    check_encoding,
    check_encoding_level,
    compress,
    compression_of,
    decompress,
    default_encoding,
    encode_chunk,
    encoding_levels,
)
from beam_volumes.errors import CorruptDataError, OptionError
from beam_volumes.geometry import Vec

LOSSLESS = [e for e in ENCODINGS if e != "jpeg"]


def decoded_as(data: bytes, encoding: str, like: np.ndarray) -> np.ndarray:
    """Decode as CloudVolume does."""
    decode = cloudvolume_chunks.decode
    return np.asarray(decode(data, encoding, shape=like.shape, dtype=like.dtype, block_size=BLOCK_SIZE))


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
    decoded = decoded_as(encode_chunk(array, encoding), encoding, array)
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
    decoded = decoded_as(encode_chunk(array, "jpeg"), "jpeg", array)
    assert np.abs(decoded.astype(int) - array.astype(int)).max() <= 8


@pytest.mark.parametrize(
    ("encoding", "largest", "longer", "message"),
    [
        (
            "jpeg",
            (65_500, 2, 2),
            (65_501, 1, 1),
            r"x by y\*z pixels, each side 65,500 at most, for jpeg, came 65,501 x 1",
        ),
        (
            "jpeg",
            (2, 655, 100),
            (2, 655, 101),
            "65,500 at most, for jpeg, came 2 x 66,155: make the chunks smaller, or",
        ),
        ("png", (1, 1000, 1000), (1, 1000, 1001), "each side 1,000,000 at most, for png, came 1 x 1,001,000"),
        ("compresso", (65_535, 1, 1), (65_536, 1, 1), "each side 65,535 at most, for compresso, came 65,536 x 1 x 1"),
        ("compresso", (1, 1, 65_535), (1, 1, 65_536), "each side 65,535 at most, for compresso, came 1 x 1 x 65,536"),
    ],
)
def test_chunks_longer_than_an_encoding_holds_are_refused(
    encoding: str, largest: Vec, longer: Vec, message: str
) -> None:
    check_chunk(encoding, largest)
    array = np.ones((*largest, 1), "uint8", order="F")
    np.testing.assert_array_equal(decoded_as(encode_chunk(array, encoding), encoding, array), array)
    with pytest.raises(OptionError, match=f"--chunk_size: expected chunks .*{message}"):
        check_chunk(encoding, longer)


def test_chunks_of_more_blocks_than_can_be_numbered_are_refused() -> None:
    check_chunk("compressed_segmentation", (8, 8, 8 * (2**23 - 1)))
    with pytest.raises(OptionError, match=r"of 8,388,607 blocks of 8 x 8 x 8 at most, .* came 8,388,608 blocks: make"):
        check_chunk("compressed_segmentation", (8, 8, 8 * (2**23 - 1) + 1))
    for encoding in ("raw", "crackle"):
        check_chunk(encoding, (2**20, 2**20, 2**20))


def test_voxels_too_varied_for_an_encoding_are_named() -> None:
    array = np.arange(256 * 256 * 128, dtype=np.uint64).reshape((256, 256, 128, 1), order="F")
    message = (
        r"--chunk_size: .*compressed_segmentation can hold, came a chunk of 256 x 256 x 128 .*\(.*too large and var"
    )
    with pytest.raises(OptionError, match=rf"{message}.*\): choose smaller chunks, or another --encoding$"):
        encode_chunk(array, "compressed_segmentation")


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


CONTENT = bytes(5_000) + np.random.default_rng(7).bytes(5_000)
ENDS_IN_ZEROS = CONTENT[::-1]


@pytest.mark.parametrize(
    "data",
    [
        compress(CONTENT, "gzip"),
        compress(b"", "gzip"),
        compress(bytes(10**6), "gzip", 12),
        # Several members, of which libdeflate sees one; padding; a name in the header.
        compress(CONTENT, "gzip") * 2,
        compress(CONTENT[:100], "gzip") + compress(CONTENT[100:], "gzip"),
        compress(CONTENT, "gzip") + compress(b"", "gzip"),
        compress(CONTENT, "gzip") + bytes(8),
        b"\x1f\x8b\x08\x08" + bytes(6) + b"name\0" + compress(CONTENT, "gzip")[10:],
        # A member's mark within the bytes of one that is stored as it is.
        compress(b"\x1f\x8b\x08" * 3, "gzip", 0),
    ],
)
def test_gzip_is_read_as_python_reads_it(data: bytes) -> None:
    assert decompress(data, "gzip") == gzip.decompress(data)


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_damaged_gzip_is_never_taken_for_whole(draw: st.DataObject) -> None:
    data = bytearray(compress(ENDS_IN_ZEROS, "gzip", draw.draw(st.sampled_from([0, 6]))))
    kind = draw.draw(st.sampled_from(["cut", "end", "byte", "added"]))
    if kind == "cut":
        del data[draw.draw(st.integers(0, len(data) - 1)) :]
    elif kind == "end":
        data[-8:] = draw.draw(st.binary(min_size=8, max_size=8) | st.just(bytes(8)) | st.just(b"\xff" * 8))
    elif kind == "byte":
        # After the header, some of whose bytes mean nothing.
        data[draw.draw(st.integers(10, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    else:
        data += draw.draw(st.binary(min_size=1, max_size=20).filter(lambda added: added[0] != 0))
    try:
        expected = gzip.decompress(data or b"nothing")
    except (OSError, EOFError, ValueError, zlib.error):
        with pytest.raises(CorruptDataError, match=f"expected gzip data, came {len(data)} bytes"):
            decompress(bytes(data), "gzip")
    else:
        assert decompress(bytes(data), "gzip") == expected


def test_no_room_is_made_for_what_cannot_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    data = compress(CONTENT, "gzip")
    monkeypatch.setattr("beam_volumes.codecs.deflate.gzip_decompress", None)
    with pytest.raises(CorruptDataError, match="expected gzip data"):
        decompress(data[:-4] + b"\xff" * 4, "gzip")


@pytest.mark.parametrize(
    ("encoding", "layer_type", "data_type", "channels", "fitting"),
    [
        ("compressed_segmentation", "image", "uint8", 1, "raw, compresso, crackle, png, jpeg"),
        ("compresso", "segmentation", "uint64", 2, "(raw)"),
        ("jpeg", "segmentation", "uint8", 1, "raw, compresso, crackle, png"),
        ("png", "image", "float32", 1, "(raw)"),
        ("jpeg", "image", "uint8", 3, "(raw)"),
        ("png", "image", "uint8", 3, "(raw)"),
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


def test_levels_decide_size_and_loss() -> None:
    x = np.linspace(0, 12, 64)
    smooth = (np.sin(x)[:, None, None, None] * 60 + np.cos(x)[:, None, None] * 60 + 128).astype(np.uint8)
    array = np.asfortranarray(np.broadcast_to(smooth, (64, 64, 4, 1)))
    sizes = {level: len(encode_chunk(array, "png", level)) for level in (0, 1, 9, None)}
    assert sizes[0] > array.size > sizes[1] > sizes[9] == sizes[None]
    sizes = {level: len(encode_chunk(array, "jpeg", level)) for level in (0, 50, 85, 100, None)}
    assert sizes[0] < sizes[50] < sizes[85] < sizes[100]
    assert sizes[85] == sizes[None]
    for level in range(10):
        np.testing.assert_array_equal(decoded_as(encode_chunk(array, "png", level), "png", array), array)
    finest = decoded_as(encode_chunk(array, "jpeg", 100), "jpeg", array)
    assert np.abs(finest.astype(int) - array.astype(int)).max() <= 2


@pytest.mark.parametrize(
    ("encoding", "level", "message"),
    [
        ("png", 10, "expected a number from 0 to 9 for png, came 10: choose one of these, or leave it out"),
        ("jpeg", 101, "expected a number from 0 to 100 for jpeg, came 101: choose"),
        ("jpeg", -1, "expected a number from 0 to 100 for jpeg, came -1: choose"),
        ("raw", 0, "expected none for raw, came 0: leave it out; png and jpeg have levels"),
    ],
)
def test_levels_that_an_encoding_does_not_have_are_refused(encoding: str, level: int, message: str) -> None:
    with pytest.raises(OptionError, match=f"^--encoding_level: {message}"):
        check_encoding_level(encoding, level)
    check_encoding_level(encoding, None)


def test_the_last_level_goes_on_where_there_are_levels() -> None:
    assert encoding_levels(["png", "png", "raw", "png"], [6, 9]) == [6, 9, None, 9]
    assert encoding_levels(["jpeg", "png"], [85, 9]) == [85, 9]
    assert encoding_levels(["raw", "auto"], None) == [None, None]


@pytest.mark.parametrize(
    ("encodings", "levels", "message"),
    [
        (["jpeg", "png"], [85], "expected a number from 0 to 9 for png, came 85"),
        (["png", "raw"], [9, 9], "expected none for raw, came 9"),
        (["png"], [9, 9], r"expected at most one for each mip that is written \(1\), came 2: leave the rest out"),
        (
            ["png", "auto"],
            [9],
            "expected none with --encoding=auto, came 9: leave it out, or name the encoding of each",
        ),
    ],
)
def test_levels_that_mips_do_not_have_are_refused(encodings: list[str], levels: list[int], message: str) -> None:
    with pytest.raises(OptionError, match=f"^--encoding_level: {message}"):
        encoding_levels(encodings, levels)
