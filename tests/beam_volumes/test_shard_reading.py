"""Sharded scales, read chunk by chunk: as CloudVolume reads them, with few requests, whoever wrote them."""

import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pytest
from cloudvolume import CloudVolume
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification
from hypothesis import example, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from beam_volumes import sources, volume_reading
from beam_volumes.codecs import compress, encode_chunk
from beam_volumes.errors import SourceError
from beam_volumes.geometry import Box, Vec
from beam_volumes.precomputed import shard_reading
from beam_volumes.precomputed.info import Scale, volume_info
from beam_volumes.precomputed.morton import compressed_morton_code
from beam_volumes.precomputed.sharded_scale import ScaleVoxels, ShardedVoxels, find_shard_files
from beam_volumes.precomputed.sharding import ShardingSpec
from beam_volumes.precomputed.shards import write_shard
from beam_volumes.sources import Source, describe_source, open_reader
from beam_volumes.storage import Folder, gcs, https, s3

Voxels = npt.NDArray[Any]

BOX = Box((-7, 5, 100), (70, 50, 131))
CHUNK: Vec = (16, 16, 8)
SPEC = ShardingSpec(2, 3, 3)


@dataclass
class Volume:
    """A volume on the disk, its voxels, and its scale."""

    folder: Path
    voxels: Voxels
    scale: Scale

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    @property
    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "info").read_text())["scales"][0]
        return found

    def number(self, voxel: Vec) -> int:
        """The id of the chunk that holds a voxel."""
        (position,) = self.scale.chunks.positions_meeting(Box.of_shape((1, 1, 1), voxel))
        return compressed_morton_code(position, self.scale.chunks.shape)

    def shard(self, voxel: Vec) -> Path:
        assert self.scale.sharding
        return (
            self.folder
            / self.scale.key
            / self.scale.sharding.shard_name(self.scale.sharding.shard_number(self.number(voxel)))
        )

    def reader(self, fill_missing: bool = False) -> ShardedVoxels:
        scale, entry = self.scale, self.entry
        files = find_shard_files(self.url, entry)
        assert files
        block_size = entry.get("compressed_segmentation_block_size")
        voxels = ScaleVoxels(
            f"{self.url}, mip 0", scale.chunks, scale.encoding, scale.data_type, scale.num_channels, block_size
        )
        return ShardedVoxels(files, voxels, fill_missing=fill_missing)

    def with_cloudvolume(self) -> Voxels:
        return np.asarray(CloudVolume(self.url, progress=False)[:])


def some_voxels(box: Box, data_type: str, channels: int) -> Voxels:
    """No chunk is all background; values come in patches."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(1, 200, [-(-n // 5) for n in box.shape] + [channels]).astype(data_type)
    if np.dtype(data_type).kind == "u" and np.dtype(data_type).itemsize == 8:
        coarse <<= np.uint64(40)
    fine = coarse.repeat(5, 0).repeat(5, 1).repeat(5, 2)
    x, y, z = box.shape
    return np.asfortranarray(fine[:x, :y, :z])


def write_volume(
    folder: Path,
    spec: ShardingSpec = SPEC,
    encoding: str = "compressed_segmentation",
    *,
    data_type: str = "uint64",
    channels: int = 1,
    box: Box = BOX,
    missing: tuple[int, ...] = (),
    ours: bool = True,
) -> Volume:
    scale = Scale((4, 4, 40), box, CHUNK, encoding, data_type, channels, spec)
    voxels = some_voxels(box, data_type, channels)
    path = folder / scale.key
    path.mkdir(parents=True)
    kind = "segmentation" if encoding in ("compressed_segmentation", "compresso", "crackle") else "image"
    (folder / "info").write_text(json.dumps(volume_info({}, kind, [scale], clean=True)))
    chunks = {}
    for index in range(len(scale.chunks)):
        position = scale.chunks.position(index)
        number = compressed_morton_code(position, scale.chunks.shape)
        data = encode_chunk(voxels[scale.chunks.box(position).slices(box.start)], encoding)
        if number not in missing:
            chunks[number] = data
    for name, content in (_with_ours if ours else _with_cloudvolume)(spec, chunks, folder):
        (path / name).write_bytes(content)
    return Volume(folder, voxels, scale)


def _with_ours(spec: ShardingSpec, chunks: dict[int, bytes], folder: Path) -> Iterator[tuple[str, bytes]]:
    shards: dict[int, list[tuple[int, bytes]]] = {}
    for number, data in sorted(chunks.items()):
        stored = compress(data, "gzip") if spec.data_encoding == "gzip" else data
        shards.setdefault(spec.shard_number(number), []).append((number, stored))
    for shard, members in shards.items():
        with (folder / "pending").open("w+b") as file:
            write_shard(file, spec, members)
        yield spec.shard_name(shard), (folder / "pending").read_bytes()


def _with_cloudvolume(spec: ShardingSpec, chunks: dict[int, bytes], folder: Path) -> Iterator[tuple[str, bytes]]:
    yield from ShardingSpecification.from_dict(spec.to_info()).synthesize_shards(chunks).items()


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return write_volume(tmp_path_factory.mktemp("sharded"))


def assert_equal(found: Voxels, expected: Voxels) -> None:
    np.testing.assert_array_equal(found, expected, strict=True)
    assert found.flags.f_contiguous
    assert found.flags.writeable


def boxes_in(box: Box) -> st.SearchStrategy[Box]:
    sides = [
        st.tuples(st.integers(a, b), st.integers(a, b)).filter(lambda s: s[0] != s[1])
        for a, b in zip(*box, strict=True)
    ]
    return st.tuples(*sides).map(lambda s: Box((min(s[0]), min(s[1]), min(s[2])), (max(s[0]), max(s[1]), max(s[2]))))


@given(box=boxes_in(BOX))
@example(box=Box.of_shape(CHUNK, BOX.start))
@example(box=Box.of_shape((1, 1, 1), BOX.start))
@settings(derandomize=True, deadline=None)
def test_any_box_is_read(volume: Volume, box: Box) -> None:
    found, holes = volume.reader().read(box)
    assert_equal(found, volume.voxels[box.slices(BOX.start)])
    assert holes == []


ENCODINGS = {
    "raw": ("float32", 2),
    "compressed_segmentation": ("uint64", 1),
    "compresso": ("uint32", 1),
    "crackle": ("uint64", 1),
    "png": ("uint8", 1),
    "jpeg": ("uint8", 1),
}


@given(
    encoding=st.sampled_from(sorted(ENCODINGS)),
    bits=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    encodings=st.tuples(*[st.sampled_from(["raw", "gzip"])] * 2),
    start=st.tuples(*[st.integers(-40, 40)] * 3),
    shape=st.tuples(*[st.integers(1, 50)] * 3),
    ours=st.booleans(),
)
@example("raw", (0, 0, 2), ("raw", "raw"), (0, 0, 0), (50, 50, 20), False)
@example("jpeg", (2, 3, 4), ("gzip", "raw"), (-3, 4, 5), (33, 17, 9), True)
@settings(derandomize=True, deadline=None, max_examples=12)
def test_voxels_are_those_that_cloudvolume_reads(
    tmp_path_factory: pytest.TempPathFactory,
    encoding: str,
    bits: Vec,
    encodings: tuple[str, str],
    start: Vec,
    shape: Vec,
    ours: bool,
) -> None:
    data_type, channels = ENCODINGS[encoding]
    box = Box.of_shape((shape[0] + 1, shape[1], shape[2]), start)
    # This project's own shards are of ids by order, all of one range.
    spec = ShardingSpec(bits[0], bits[1], max(bits[2], 8) if ours else bits[2], *encodings)
    volume = write_volume(
        tmp_path_factory.mktemp("v"), spec, encoding, data_type=data_type, channels=channels, box=box, ours=ours
    )
    try:
        found, holes = volume.reader().read(box)
        assert_equal(found, volume.with_cloudvolume())
        if encoding != "jpeg":
            np.testing.assert_array_equal(found, volume.voxels)
        assert holes == []
    finally:
        shutil.rmtree(volume.folder)


def test_a_chunk_alone_can_be_changed_in_memory(tmp_path: Path) -> None:
    volume = write_volume(tmp_path, replace(SPEC, data_encoding="raw"), "raw")
    box = Box.of_shape(CHUNK, BOX.start)
    assert_equal(volume.reader().read(box)[0], volume.voxels[box.slices(BOX.start)])


# What is missing


@pytest.mark.parametrize("whole_shard", [True, False])
def test_missing_chunks_are_errors_or_holes(whole_shard: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = write_volume(tmp_path, missing=() if whole_shard else (3, 40))
    if whole_shard:
        os.unlink(volume.shard((9, 21, 116)))
    name = volume.shard((9, 21, 116)).name if whole_shard else "[0-9a-f]+.shard"
    with pytest.raises(
        SourceError,
        match=rf"{volume.url}, mip 0: expected every chunk of {BOX}, but one is missing \(.* in .*{name}\): restore",
    ):
        volume.reader().read(BOX)
    source = describe_source(volume.url, 0)
    expected, expected_holes = volume_reading.VolumeReader(source, True).read(BOX)
    assert len(expected_holes) > 1
    found, holes = volume.reader(fill_missing=True).read(BOX)
    assert_equal(found, expected)
    assert holes == expected_holes
    part = holes[0].translated((3, 0, 2)).intersection(BOX)
    found, holes = volume.reader(fill_missing=True).read(part)
    assert holes[0] == part.intersection(expected_holes[0])
    assert_equal(found, expected[part.slices(BOX.start)])


def test_an_empty_minishard_and_an_empty_chunk_are_holes(tmp_path: Path) -> None:
    volume = write_volume(tmp_path, ShardingSpec(0, 2, 8, "raw", "raw"), "raw")
    chunk, other = Box.of_shape(CHUNK, BOX.start), Box.of_shape(CHUNK, BOX.start).translated((16, 0, 0))
    with volume.shard(BOX.start).open("r+b") as file:
        rows = np.frombuffer(file.read(64), "<u8").reshape(4, 2).copy()
        # The first chunk's minishard index says that it has no bytes; the second's minishard has no index.
        index = int(rows[volume.number(chunk.start), 0]) + 64
        file.seek(index + 16)
        file.write(bytes(8))
        rows[volume.number(other.start)] = 0
        file.seek(0)
        file.write(rows.tobytes())
    found, holes = volume.reader(fill_missing=True).read(BOX)
    assert holes == [chunk, other]
    expected = volume.voxels.copy()
    for hole in holes:
        expected[hole.slices(BOX.start)] = 0
    assert_equal(found, expected)


def test_what_is_mended_is_read(tmp_path: Path) -> None:
    volume = write_volume(tmp_path)
    shard = volume.shard(BOX.start)
    whole = shard.read_bytes()
    reader = volume.reader()
    for damaged in (whole[:-40], whole[:90], b""):
        shard.write_bytes(damaged)
        with pytest.raises(SourceError, match=f"{shard}, chunk .*: cannot read: "):
            reader.read(BOX)
    os.unlink(shard)
    with pytest.raises(SourceError, match="but one is missing"):
        reader.read(BOX)
    shard.write_bytes(whole)
    assert_equal(reader.read(BOX)[0], volume.voxels)


def test_a_box_beyond_the_volume_is_refused(volume: Volume) -> None:
    with pytest.raises(SourceError, match=rf"{volume.url}, mip 0: expected a box in {BOX}, came -8,5,100,70,50,131"):
        volume.reader().read(Box((-8, 5, 100), BOX.stop))


# What is damaged


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        (0, "expected 128 bytes at 0, came 0: the file is truncated, or its index is damaged: restore it"),
        (100, "expected 128 bytes at 0, came 100: the file is truncated"),
        (400, r"expected \d+ bytes at \d+, came 0: the file is truncated"),
    ],
)
@pytest.mark.parametrize("fill_missing", [True, False])
def test_a_truncated_shard_is_no_hole(keep: int, why: str, fill_missing: bool, tmp_path: Path) -> None:
    volume = write_volume(tmp_path)
    shard = volume.shard((9, 21, 116))
    os.truncate(shard, keep)
    with pytest.raises(SourceError, match=rf"^file://{shard}, chunk (-?\d+,){{5}}-?\d+: cannot read: {why}"):
        volume.reader(fill_missing).read(BOX)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ((2**61, 2**62), rf"expected {2**61} bytes at {2**61 + 128}, came 0: the file is truncated, or its index"),
        ((2**62, 2**63), f"an index places {2**62} bytes at {2**62 + 128}, where a shard has none: restore it"),
        ((2**63, 2**63 + 24), f"an index places 24 bytes at {2**63 + 128}, where a shard has none"),
        ((2**64 - 24, 2**64 - 1), f"an index places 23 bytes at {2**64 + 104}, where a shard has none"),
        ((900, 800), "its index ends at 800, before its start at 900"),
        ((0, 40), "expected gzip data, came 40 bytes that are not"),
    ],
)
def test_a_damaged_shard_index_is_told(row: tuple[int, int], why: str, tmp_path: Path) -> None:
    volume = write_volume(tmp_path)
    shard = volume.shard(BOX.start)
    with shard.open("r+b") as file:
        file.write(np.array(row, "<u8").tobytes())
    with pytest.raises(SourceError, match=rf"{shard}, chunk {Box.of_shape(CHUNK, BOX.start)}: cannot read: {why}"):
        volume.reader(True).read(BOX)


@pytest.mark.parametrize(
    ("start", "length", "stands_at"),
    [
        (2**63, 5, 2**63 + 64),
        (2**63 - 70, 6, 2**63 - 6),
        # Before the end of the shard index, modulo 2^64: its bytes are no chunk.
        (2**64 - 8, 16 * 16 * 8 * 8, 56),
        (0, 2**64 - 20, 64),
    ],
)
def test_a_chunk_where_no_chunk_can_stand_is_told(start: int, length: int, stands_at: int, tmp_path: Path) -> None:
    volume = write_volume(tmp_path, ShardingSpec(0, 2, 8, "raw", "raw"), "raw")
    shard, first = volume.shard(BOX.start), Box.of_shape(CHUNK, BOX.start)
    whole = shard.read_bytes()
    rows = np.frombuffer(whole[:64], "<u8").reshape(4, 2)
    row = int(rows[volume.number(BOX.start), 0]) + 64 + 8
    shard.write_bytes(whole[:row] + np.array((start, length), "<u8").tobytes() + whole[row + 16 :])
    reader = volume.reader(True)
    why = f"an index places {length} bytes at {stands_at}, where a shard has none: restore it"
    with pytest.raises(SourceError, match=f"^file://{shard}, chunk {first}: cannot read: {why}"):
        reader.read(first)
    # The damaged index is not kept.
    shard.write_bytes(whole)
    assert_equal(reader.read(first)[0], volume.voxels[first.slices(BOX.start)])


def test_a_minishard_index_of_a_wrong_size_is_told(tmp_path: Path) -> None:
    volume = write_volume(tmp_path, replace(SPEC, minishard_index_encoding="raw"))
    with volume.shard(BOX.start).open("r+b") as file:
        file.write(np.array((0, 23), "<u8").tobytes())
    with pytest.raises(SourceError, match="cannot read: 23 bytes are no minishard index: restore it"):
        volume.reader().read(BOX)


@pytest.mark.parametrize("encoding", ["raw", "compresso", "crackle", "png", "jpeg"])
def test_bytes_that_are_no_chunk_are_told(encoding: str, tmp_path: Path) -> None:
    volume = write_volume(tmp_path, replace(SPEC, data_encoding="raw"), encoding, data_type="uint8")
    path = volume.shard(BOX.start)
    first = Box.of_shape(CHUNK, BOX.start)
    # The first chunk now has eleven bytes, none of them its own.
    spec = ShardingSpec(SPEC.preshift_bits, SPEC.minishard_bits, SPEC.shard_bits, "gzip", "raw")
    with path.open("w+b") as file:
        write_shard(file, spec, [(volume.number(BOX.start), b"not a chunk")])
    with pytest.raises(SourceError, match=rf"{path}, chunk {first}: cannot read its {encoding}: \w+Error.*restore it"):
        volume.reader(True).read(first)


@pytest.mark.parametrize("damage", ["short", "random", "half", "end", "empty header", "bits"])
def test_blocks_beyond_the_end_of_a_chunk_are_told(damage: str, tmp_path: Path) -> None:
    # The decoder itself crashes on these, or makes voxels of whatever lies behind them.
    volume = write_volume(tmp_path, replace(SPEC, data_encoding="raw"))
    first = Box.of_shape(CHUNK, BOX.start)
    good = encode_chunk(volume.voxels[first.slices(BOX.start)], "compressed_segmentation")
    stored = {
        "short": b"not a chunk",
        "random": np.random.default_rng(1).bytes(len(good)),
        "half": good[: len(good) // 2],
        "end": good[:-4],
        "empty header": good[:4],
        "bits": good[:7] + b"\x03" + good[8:],
    }[damage]
    path = volume.shard(BOX.start)
    with path.open("w+b") as file:
        write_shard(file, replace(SPEC, data_encoding="raw"), [(volume.number(BOX.start), stored)])
    with pytest.raises(SourceError, match=rf"{path}, chunk {first}: .*: its blocks do not lie in its {len(stored)} b"):
        volume.reader(True).read(first)


@pytest.mark.parametrize("encoding", ["compresso", "crackle"])
def test_a_chunk_of_another_type_is_told(encoding: str, tmp_path: Path) -> None:
    volume = write_volume(tmp_path, encoding=encoding, data_type="uint64")
    info = (
        (tmp_path / "info").read_text().replace("uint64", "uint8").replace("neuroglancer_uint8", "neuroglancer_uint64")
    )
    (tmp_path / "info").write_text(info)
    smaller = Volume(volume.folder, volume.voxels, replace(volume.scale, data_type="uint8"))
    with pytest.raises(SourceError, match=r"expected \(16, 16, 8, 1\) of uint8, came \(16, 16, 8, 1\) of uint64"):
        smaller.reader().read(BOX)


# How it is read


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What is asked of shard files: name, start, length."""
    asked: list[tuple[str, int, int]] = []
    read_range = Folder.read_range

    def noted(folder: Folder, name: str, start: int, length: int) -> bytes | None:
        asked.append((name, start, length))
        return read_range(folder, name, start, length)

    monkeypatch.setattr(Folder, "read_range", noted)
    return asked


def test_requests_are_few(volume: Volume, requests: list[tuple[str, int, int]]) -> None:
    reader = volume.reader()
    reader.read(BOX)
    shards = {name for name, _, _ in requests}
    assert shards == {path.name for path in (volume.folder / "4_4_40").iterdir()}
    assert len(volume.scale.chunks) == 60
    # The index, all the minishard indices, which stand side by side, and all the chunks.
    assert len(requests) == 3 * len(shards)
    requests.clear()
    reader.read(BOX)
    assert len(requests) == len(shards)


def test_a_request_is_bounded(
    volume: Volume, requests: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_reading, "REQUEST_BYTES", 1000)
    monkeypatch.setattr(shard_reading, "_GAP_BYTES", 0)
    assert_equal(volume.reader().read(BOX)[0], volume.voxels)
    largest = max(length for _, _, length in requests)
    assert len(requests) > 3 * len({name for name, _, _ in requests})
    assert largest <= 1000


def test_indices_are_kept_within_bounds(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reading, "_INDEX_BYTES", 300)
    reader = volume.reader()
    assert_equal(reader.read(BOX)[0], volume.voxels)
    for kept in (reader._files._indices, reader._files._minishards):
        sizes = [sum(words.nbytes for words in item) for item in kept._items.values()]
        assert 0 < sum(sizes) <= 300
        assert kept._bytes == sum(sizes)


# Which volumes are read so

_TOLD = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 1,
    "minishard_bits": 2,
    "shard_bits": 3,
}


def test_shardings_of_other_tools() -> None:
    assert ShardingSpec.from_info(_TOLD) == ShardingSpec(1, 2, 3, "raw", "raw")
    assert ShardingSpec.from_info(SPEC.to_info()) == SPEC


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        [],
        {**_TOLD, "hash": "murmurhash3_x86_128"},
        {**_TOLD, "data_encoding": "zstd"},
        {**_TOLD, "minishard_index_encoding": "br"},
        {**_TOLD, "@type": "neuroglancer_uint64_sharded_v2"},
        {**_TOLD, "more": 1},
        {**_TOLD, "minishard_bits": -1},
        {**_TOLD, "shard_bits": "3"},
        {**_TOLD, "minishard_bits": 40, "shard_bits": 0},
        {**_TOLD, "shard_bits": 63},
        {name: value for name, value in _TOLD.items() if name != "preshift_bits"},
    ],
)
def test_shardings_that_are_left_to_cloudvolume(entry: Any) -> None:
    assert ShardingSpec.from_info(entry) is None


def test_volumes_that_are_left_to_cloudvolume(volume: Volume) -> None:
    entry = volume.entry
    assert find_shard_files(volume.url, entry)
    assert find_shard_files(f"precomputed://{volume.folder}", entry)
    for url in ("s3://https://127.0.0.1:9/bucket/v", "middleauth+https://127.0.0.1:9/v", "matrix://v"):
        assert find_shard_files(url, entry) is None
    for key in ("../other", "/other", "gs://bucket/other"):
        assert find_shard_files(volume.url, {**entry, "key": key}) is None
    assert find_shard_files(volume.url, {**entry, "encoding": "npz"}) is None


# Elsewhere


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Ranges of files, at their paths and as objects of a bucket in Cloud Storage; `/no/...` forbids."""

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0].removeprefix("/download/storage/v1/b/bucket/o")).lstrip("/")
        file = Path(self.directory, path)
        if path.startswith("no/"):
            return self.send_error(403)
        if not file.is_file():
            return self.send_error(404)
        data, status = file.read_bytes(), 200
        if asked := self.headers.get("Range"):
            start, end = (int(n) for n in asked.removeprefix("bytes=").split("-"))
            data, status = data[start : end + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None


@pytest.fixture
def server(volume: Volume) -> Iterator[str]:
    handler = partial(_Handler, directory=str(volume.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        https._session().close()
        server.shutdown()
        thread.join()


def elsewhere(volume: Volume, url: str) -> Source:
    return replace(describe_source(volume.url, 0), url=url, voxels_url=url)


def assert_read_here(volume: Volume, url: str) -> None:
    reader = open_reader(elsewhere(volume, url), fill_missing=False)
    assert isinstance(reader, ShardedVoxels)
    assert_equal(reader.read(BOX)[0], volume.voxels)
    part = Box((3, 7, 104), (40, 33, 120))
    assert_equal(reader.read(part)[0], volume.voxels[part.slices(BOX.start)])


def test_behind_a_web_server(volume: Volume, server: str, requests: list[tuple[str, int, int]]) -> None:
    source = describe_source(server, 0)
    reader = open_reader(source, fill_missing=False)
    assert isinstance(reader, ShardedVoxels)
    requests.clear()
    assert_equal(reader.read(BOX)[0], volume.voxels)
    assert len(requests) == 3 * len({name for name, _, _ in requests})
    expected, _ = volume_reading.VolumeReader(source, False).read(BOX)
    np.testing.assert_array_equal(expected, volume.voxels)


def test_an_answer_that_fails_ends_the_reading(volume: Volume, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_reader(describe_source(server, 0), fill_missing=True)
    read_range = Folder.read_range

    def failing(folder: Folder, name: str, start: int, length: int) -> bytes | None:
        if start > 128 and name == volume.shard((9, 21, 116)).name:
            raise SourceError("the server has gone")
        return read_range(folder, name, start, length)

    threads = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read_range", failing)
        with pytest.raises(SourceError, match="the server has gone"):
            reader.read(BOX)
    assert_equal(reader.read(BOX)[0], volume.voxels)
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
    assert threads > 1


def test_a_place_that_this_project_may_not_read_is_left_to_cloudvolume(
    volume: Volume, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_shard_files(f"{server}/no", volume.entry) is None
    assert find_shard_files(f"{server}/none", volume.entry) is None
    monkeypatch.setattr(sources, "find_shard_files", lambda url, scale: None)
    reader = open_reader(describe_source(server, 0), fill_missing=False)
    assert isinstance(reader, volume_reading.VolumeReader)


def test_in_cloud_storage_without_credentials(volume: Volume, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.cloud.storage", reason="needs the extra gcp")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    gcs._client_of_process.cache_clear()
    assert_read_here(volume, "gs://bucket")
    gcs._client().close()
    gcs._client_of_process.cache_clear()
    monkeypatch.setattr(gcs, "_is_installed", lambda: False)
    assert find_shard_files("gs://bucket", volume.entry) is None
    gcs._client_of_process.cache_clear()


@pytest.mark.parametrize("credentials", [True, False])
def test_in_s3(volume: Volume, credentials: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    s3._client_of_process.cache_clear()
    client = s3._client()
    client.create_bucket(Bucket="shards", ACL="public-read")
    for file in volume.folder.rglob("*"):
        if file.is_file():
            name = str(file.relative_to(volume.folder))
            client.put_object(Bucket="shards", Key=f"v/{name}", Body=file.read_bytes(), ACL="public-read")
    if not credentials:
        client.close()
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(key)
        s3._client_of_process.cache_clear()
    assert_read_here(volume, "s3://shards/v")
    assert find_shard_files("s3://shards/none", volume.entry) is None
    s3._client().close()
    s3._client_of_process.cache_clear()
    moto.stop()
