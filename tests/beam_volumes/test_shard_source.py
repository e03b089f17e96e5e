import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cloudvolume import CloudVolume
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import sources
from beam_volumes.codecs import compress, encode_chunk
from beam_volumes.errors import CorruptDataError, SourceError
from beam_volumes.geometry import Box, Vec
from beam_volumes.precomputed.info import Scale, volume_info
from beam_volumes.precomputed.morton import compressed_morton_code
from beam_volumes.precomputed.sharding import ShardingSpec
from beam_volumes.precomputed.shards import write_shard
from beam_volumes.shard_source import ShardedScale, sharding_of
from beam_volumes.sources import describe_source, is_read_by_chunk, open_reader

Labels = npt.NDArray[np.generic]
BOX = Box((-7, 5, 100), (90, 58, 131))


def write_volume(
    folder: Path, encoding: str = "compressed_segmentation", data_encoding: str = "gzip", missing: tuple[int, ...] = ()
) -> Labels:
    """Write a sharded volume of several shards and minishards, without the chunks of these ids; return its voxels."""
    spec = ShardingSpec(1, 2, 3, data_encoding, data_encoding)
    kind = "uint8" if encoding in ("png", "jpeg") else "uint32"
    scale = Scale((4, 4, 40), BOX, (32, 16, 16), encoding, kind, 1, spec)
    voxels = np.random.default_rng(0).integers(0, 200, (12, 8, 4), dtype=kind).repeat(9, 0).repeat(8, 1).repeat(8, 2)
    voxels = np.asfortranarray(voxels[: BOX.shape[0], : BOX.shape[1], : BOX.shape[2], np.newaxis])
    path = folder / "4_4_40"
    path.mkdir(parents=True)
    (folder / "info").write_text(json.dumps(volume_info({}, "segmentation", [scale], clean=True)))
    shards: dict[int, list[tuple[int, bytes]]] = {}
    for index in range(len(scale.chunks)):
        position = scale.chunks.position(index)
        number = compressed_morton_code(position, scale.chunks.shape)
        data = encode_chunk(voxels[scale.chunks.box(position).slices(BOX.start)], encoding)
        data = compress(data, "gzip") if data_encoding == "gzip" else data
        if number not in missing:
            shards.setdefault(spec.shard_number(number), []).append((number, data))
    for shard, chunks in shards.items():
        with (path / spec.shard_name(shard)).open("w+b") as file:
            write_shard(file, spec, sorted(chunks))
    assert len(shards) > 2
    return voxels


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Labels]:
    folder = tmp_path_factory.mktemp("sharded")
    voxels = write_volume(folder)
    return f"file://{folder}", voxels


@given(
    starts=st.tuples(*[st.integers(a, b - 1) for a, b in zip(*BOX, strict=True)]),
    shape=st.tuples(*[st.integers(1, 80)] * 3),
)
@settings(derandomize=True, deadline=None)
def test_any_box_is_read(volume: tuple[str, Labels], starts: Vec, shape: Vec) -> None:
    url, voxels = volume
    reader = open_reader(describe_source(url, 0), fill_missing=False)
    assert isinstance(reader, ShardedScale)
    box = Box.of_shape(shape, starts).intersection(BOX)
    came, holes = reader.read(box)
    np.testing.assert_array_equal(came, voxels[box.slices(BOX.start)], strict=True)
    assert came.flags.f_contiguous
    assert came.flags.writeable
    assert holes == []


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation", "compresso", "crackle", "png", "jpeg"])
@pytest.mark.parametrize("data_encoding", ["raw", "gzip"])
def test_voxels_are_those_that_cloudvolume_reads(tmp_path: Path, encoding: str, data_encoding: str) -> None:
    voxels = write_volume(tmp_path, encoding, data_encoding)
    url = f"precomputed://file://{tmp_path}"
    source = describe_source(url, 0)
    assert is_read_by_chunk(source)
    came, _ = open_reader(source, fill_missing=False).read(BOX)
    np.testing.assert_array_equal(came, np.asarray(CloudVolume(url, progress=False)[:]), strict=True)
    chunk = Box(BOX.start, (25, 21, 116))
    one, _ = open_reader(source, fill_missing=False).read(chunk)
    np.testing.assert_array_equal(one, came[chunk.slices(BOX.start)], strict=True)
    assert one.flags.writeable
    if encoding != "jpeg":
        np.testing.assert_array_equal(came, voxels)


@pytest.mark.parametrize("whole_shard", [True, False])
def test_missing_chunks_are_errors_or_holes(tmp_path: Path, whole_shard: bool) -> None:
    # Chunks 8 to 15 are shard 1.
    missing = tuple(range(8, 16)) if whole_shard else (9,)
    voxels = write_volume(tmp_path, missing=missing)
    source = describe_source(f"file://{tmp_path}", 0)
    with pytest.raises(
        SourceError, match=r"expected every chunk of -7,5,100,90,58,131, but one is missing \(.*\): restore"
    ):
        open_reader(source, fill_missing=False).read(BOX)
    came, holes = open_reader(source, fill_missing=True).read(BOX)
    assert len(holes) == len(missing)
    for hole in holes:
        assert not came[hole.slices(BOX.start)].any()
        came[hole.slices(BOX.start)] = voxels[hole.slices(BOX.start)]
    np.testing.assert_array_equal(came, voxels)
    alone, same = open_reader(source, fill_missing=True).read(holes[0])
    assert not alone.any()
    assert same == holes[:1]


def test_holes_are_those_that_cloudvolume_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(tmp_path, missing=(3, 20))
    source = describe_source(f"file://{tmp_path}", 0)
    box = Box((0, 10, 104), (80, 50, 125))
    came, holes = open_reader(source, fill_missing=True).read(box)
    monkeypatch.setattr(sources, "sharding_of", lambda scale: None)
    expected, same = open_reader(source, fill_missing=True).read(box)
    np.testing.assert_array_equal(came, expected)
    assert holes == same


@pytest.mark.parametrize("keep", [10, 200])
def test_a_truncated_shard_is_told_of(tmp_path: Path, keep: int) -> None:
    write_volume(tmp_path)
    with (tmp_path / "4_4_40/1.shard").open("r+b") as file:
        file.truncate(keep)
    reader = open_reader(describe_source(f"file://{tmp_path}", 0), fill_missing=True)
    with pytest.raises(
        CorruptDataError, match=r"1.shard: expected \d+ bytes at \d+, came fewer: the shard is truncated"
    ):
        reader.read(BOX)


def test_bytes_that_are_not_compressed_are_told_of(tmp_path: Path) -> None:
    write_volume(tmp_path)
    with (tmp_path / "4_4_40/1.shard").open("r+b") as file:
        file.seek(64)
        file.write(b"\x00" * 30)
    reader = open_reader(describe_source(f"file://{tmp_path}", 0), fill_missing=True)
    with pytest.raises(CorruptDataError, match=r"4_4_40/1.shard: expected gzip data, came \d+ bytes that are not"):
        reader.read(BOX)


def test_chunks_that_cannot_be_decoded_are_told_of_with_their_box(tmp_path: Path) -> None:
    write_volume(tmp_path, data_encoding="raw", encoding="crackle")
    with (tmp_path / "4_4_40/1.shard").open("r+b") as file:
        file.seek(64)
        file.write(b"\x00" * 30)
    reader = open_reader(describe_source(f"file://{tmp_path}", 0), fill_missing=True)
    with pytest.raises(SourceError, match=r"4_4_40, chunk [\d,-]+: cannot read: "):
        reader.read(BOX)


def test_only_a_few_indices_are_kept(volume: tuple[str, Labels], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_volumes.shard_source._INDICES", 2)
    url, voxels = volume
    reader = open_reader(describe_source(url, 0), fill_missing=False)
    assert isinstance(reader, ShardedScale)
    np.testing.assert_array_equal(reader.read(BOX)[0], voxels)
    assert len(reader._indices) == 2


_SPEC = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 1,
    "minishard_bits": 2,
    "shard_bits": 3,
}


def test_shardings_of_other_tools_are_read_where_they_are_known() -> None:
    scale = {"encoding": "raw", "sharding": _SPEC}
    assert sharding_of(scale) == ShardingSpec(1, 2, 3, "raw", "raw")
    assert sharding_of({**scale, "sharding": {**_SPEC, "hash": "murmurhash3_x86_128"}}) is None
    assert sharding_of({**scale, "sharding": {**_SPEC, "data_encoding": "zstd"}}) is None
    assert sharding_of({**scale, "encoding": "zfpc"}) is None
    assert sharding_of({"encoding": "raw"}) is None
    assert sharding_of({"encoding": "raw", "sharding": None}) is None


def test_other_sources_are_read_otherwise(tmp_path: Path) -> None:
    assert not is_read_by_chunk(describe_source("made://neurons?size=64,64,64", 0))
    info = CloudVolume.create_new_info(1, "segmentation", "uint32", "raw", (4, 4, 40), (0, 0, 0), (64, 64, 64))
    CloudVolume(f"file://{tmp_path}", info=info, progress=False).commit_info()
    assert not is_read_by_chunk(describe_source(f"file://{tmp_path}", 0))
