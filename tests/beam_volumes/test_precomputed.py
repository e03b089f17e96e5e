"""The shard format: numbers, golden bytes, and what other readers make of it."""

import gzip
import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import crc32c
import numpy as np
import pytest
import tensorstore
from cloudvolume import CloudVolume
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification, ShardReader
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beam_volumes.codecs import compress, encode_chunk
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.precomputed.info import Scale, chunk_name, volume_info
from beam_volumes.precomputed.morton import compressed_morton_code, position_of
from beam_volumes.precomputed.sharding import ShardGrid, ShardingSpec, plan_sharding
from beam_volumes.precomputed.shards import write_shard

SHAPES = st.tuples(*[st.integers(1, 40)] * 3)


def test_morton_codes_leave_out_bits_that_are_zero_everywhere() -> None:
    # Bits of (x, y, z) in a grid of 8 x 2 x 3 chunks: x0 y0 z0 x1 z1 x2, lowest first.
    assert compressed_morton_code((1, 0, 0), (8, 2, 3)) == 0b000001
    assert compressed_morton_code((0, 1, 0), (8, 2, 3)) == 0b000010
    assert compressed_morton_code((0, 0, 1), (8, 2, 3)) == 0b000100
    assert compressed_morton_code((2, 0, 0), (8, 2, 3)) == 0b001000
    assert compressed_morton_code((0, 0, 2), (8, 2, 3)) == 0b010000
    assert compressed_morton_code((4, 0, 0), (8, 2, 3)) == 0b100000
    assert compressed_morton_code((7, 1, 2), (8, 2, 3)) == 0b111011


@given(SHAPES, st.data())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_morton_codes_can_be_undone(shape: Vec, data: st.DataObject) -> None:
    x, y, z = (data.draw(st.integers(0, n - 1)) for n in shape)
    assert position_of(compressed_morton_code((x, y, z), shape), shape) == (x, y, z)


@given(SHAPES, st.integers(1, 10**6))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_shards_hold_every_chunk_once_and_are_boxes(shape: Vec, memory: int) -> None:
    assume(np.prod(shape) < 5000)
    spec = plan_sharding(shape, 1000, max(memory, 1000), "gzip")
    grid = ShardGrid(shape, spec)
    seen = set()
    for index, number in enumerate(grid.numbers()):
        positions = list(grid.chunk_positions(number))
        codes = [compressed_morton_code(p, shape) for p in positions]
        assert codes == sorted(codes)
        assert len(positions) == grid.chunk_count(number)
        assert len(positions) * 1000 <= max(memory, 1000)
        assert {grid.shard_of(p) for p in positions} == {number}
        assert (grid.index_of(number), grid.number(index)) == (index, number)
        assert [grid.position_of(c) for c in codes] == positions
        seen.update(positions)
    assert len(seen) == np.prod(shape)


def test_sharding_is_as_coarse_as_memory_allows_with_small_indices() -> None:
    # A million chunks of 4 MiB of voxels, 3.5 GB: 512 chunks in a shard.
    spec = plan_sharding((128, 128, 64), 2**22, 3_500_000_000, "gzip")
    assert spec.to_info() == {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": 4,
        "minishard_bits": 5,
        "shard_bits": 11,
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
    }
    assert spec.shard_name(0x2A) == "02a.shard"
    assert plan_sharding((1, 1, 1), 2**22, 2**22, "raw") == ShardingSpec(0, 0, 0, "gzip", "raw")


@pytest.mark.parametrize(("chunk_bytes", "bits"), [(1, 16), (16**3, 16), (53_405, 16), (53_407, 15), (2**30, 1)])
def test_a_shard_holds_65536_chunks_at_most_however_small_they_are(chunk_bytes: int, bits: int) -> None:
    spec = plan_sharding((1024, 1024, 1024), chunk_bytes, 3_500_000_000, "gzip")
    assert spec.preshift_bits + spec.minishard_bits == bits
    assert spec.shard_bits == 30 - bits
    grid = ShardGrid((1024, 1024, 1024), spec)
    assert (grid.chunk_count(0), len(grid)) == (2**bits, 2 ** (30 - bits))


def test_a_volume_of_one_shard_has_a_name_as_other_tools_write_it() -> None:
    specification = ShardingSpecification.from_dict(ShardingSpec(3, 2, 0).to_info())
    assert ShardReader(None, None, specification).get_filename(5) == ShardingSpec(3, 2, 0).shard_name(0)


def test_a_chunk_that_does_not_fit_the_memory_is_refused() -> None:
    with pytest.raises(OptionError, match=r"--chunk_size: expected chunks of at most 999 bytes.*came 1,000: make them"):
        plan_sharding((4, 4, 4), 1000, 999, "gzip")


def test_golden_bytes_of_a_shard() -> None:
    spec = ShardingSpec(1, 1, 1, "raw", "raw")
    file = io.BytesIO()
    # Chunk ids: lowest bit within the minishard, next bit minishard, next bit shard.
    summary = write_shard(file, spec, [(4, b"four"), (5, b"fives"), (7, b"7")])
    first = struct.pack("<6Q", 4, 1, 0, 0, 4, 5)
    second = struct.pack("<3Q", 7, 9, 1)
    head = struct.pack("<4Q", 10, 10 + len(first), 10 + len(first), 10 + len(first) + len(second))
    expected = head + b"four" + b"fives" + b"7" + first + second
    assert file.getvalue() == expected
    assert summary == (len(expected), 3, crc32c.crc32c(expected))


def test_minishards_without_chunks_are_empty_and_indices_are_gzip() -> None:
    file = io.BytesIO()
    write_shard(file, ShardingSpec(0, 2, 0, "gzip", "raw"), [(2, b"two")])
    data = file.getvalue()
    head = struct.unpack("<8Q", data[:64])
    assert head[:4] == (0, 0, 0, 0)
    assert head[6:] == (0, 0)
    assert gzip.decompress(data[64 + head[4] : 64 + head[5]]) == struct.pack("<3Q", 2, 0, 3)


@pytest.mark.parametrize("chunks", [[(1, b""), (0, b"")], [(1, b""), (1, b"")], [(1, b""), (4, b"")], []])
def test_chunks_out_of_place_are_refused(chunks: list[tuple[int, bytes]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        write_shard(io.BytesIO(), ShardingSpec(1, 1, 1), chunks)


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=40)
def test_cloudvolume_and_tensorstore_read_any_sharding(data: st.DataObject) -> None:
    chunk: Vec = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    shape: Vec = data.draw(st.tuples(*[st.integers(1, 25)] * 3))
    offset: Vec = data.draw(st.tuples(*[st.integers(-20, 20)] * 3))
    bits = [data.draw(st.integers(0, 3)) for _ in range(2)]
    encodings = [data.draw(st.sampled_from(["raw", "gzip"])) for _ in range(2)]
    scale = Scale((8.0, 8.0, 33.5), Box.of_shape(shape, offset), chunk, "raw", "uint16", 1, None)
    total = sum((n - 1).bit_length() for n in scale.chunks.shape)
    scale = replace(scale, sharding=ShardingSpec(bits[0], bits[1], max(total - sum(bits), 0), *encodings))
    array = np.asfortranarray(np.arange(np.prod(shape), dtype=np.uint16).reshape((*shape, 1), order="F"))
    with TemporaryDirectory() as folder:
        Path(folder, "info").write_text(json.dumps(volume_info({}, "image", [scale], clean=True)))
        Path(folder, scale.key).mkdir()
        _write_shards(Path(folder, scale.key), scale, array)
        np.testing.assert_array_equal(np.asarray(CloudVolume(f"file://{folder}", progress=False)[:]), array)
        spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/"}
        np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), array)


def _write_shards(folder: Path, scale: Scale, array: np.ndarray) -> None:
    assert scale.sharding is not None
    compression = "gzip" if scale.sharding.data_encoding == "gzip" else "none"
    grid, chunks = ShardGrid(scale.chunks.shape, scale.sharding), scale.chunks
    for number in grid.numbers():
        with open(folder / scale.sharding.shard_name(number), "w+b") as out:
            encoded = (
                (
                    compressed_morton_code(p, chunks.shape),
                    compress(encode_chunk(array[chunks.box(p).slices(scale.box.start)], "raw"), compression),
                )
                for p in grid.chunk_positions(number)
            )
            write_shard(out, scale.sharding, encoded)


def test_names_and_keys_are_those_of_other_tools() -> None:
    scale = Scale((4.0, 4.0, 40.0), Box((1, -2, 3), (9, 8, 7)), (4, 4, 4), "raw", "uint8", 1, None)
    assert scale.key == "4_4_40"
    assert replace(scale, resolution_nm=(4.5, 4.0, 40.0)).key == "4.5_4_40"
    assert chunk_name(scale.chunks.box((0, 0, 0))) == "1-5_-2-2_3-7"


@pytest.mark.parametrize(
    ("encoding", "level", "field"),
    [("png", 0, {"png_level": 0}), ("jpeg", 70, {"jpeg_quality": 70}), ("png", None, {}), ("raw", None, {})],
)
def test_the_level_stands_in_info_where_readers_look_for_it(
    encoding: str, level: int | None, field: dict[str, int], tmp_path: Path
) -> None:
    scale = Scale((4.0, 4.0, 40.0), Box((0, 0, 0), (9, 8, 7)), (4, 4, 4), encoding, "uint8", 1, None, level)
    assert {k: v for k, v in scale.to_info().items() if k in ("png_level", "jpeg_quality")} == field
    info = volume_info({}, "image", [scale], clean=True)
    volume = CloudVolume(f"file://{tmp_path}", info=info)
    volume.commit_info()
    assert volume.meta.compression_params(0).get("level") == level
    # A reader that is strict about what it does not know.
    opened = tensorstore.open(
        {"driver": "neuroglancer_precomputed", "kvstore": f"file://{tmp_path}"}, read=True, open=True
    ).result()
    assert opened.shape == (9, 8, 7, 1)
