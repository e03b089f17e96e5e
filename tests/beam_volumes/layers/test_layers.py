"""Layers over stored volumes, against numpy, CloudVolume and tensorstore."""

import gzip
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cloudvolume import CloudVolume
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import (
    CorruptDataError,
    DestinationError,
    FunctionError,
    OptionError,
    SourceError,
)
from beam_volumes.geometry import BBox3D, Box, Vec3D, VolumetricIndex
from beam_volumes.layers import build_cv_layer, build_ts_layer, tensor_type
from tests.beam_volumes.layers.layer_volumes import (
    RESOLUTION,
    by_cloudvolume,
    by_tensorstore,
    new_arguments,
    new_layer,
    random_voxels,
    stored_layer,
    window,
)
from tests.beam_volumes.test_sources import SHAPE as STORED_SHAPE
from tests.beam_volumes.test_sources import write_n5, write_zarr2

BUDGET = settings(derandomize=True, deadline=None, max_examples=20)
OFFSET = (-5, 3, 7)
BOUNDS = Box.of_shape((37, 21, 11), OFFSET)
SHAPE = BOUNDS.shape


def boxes(low: int, high: int, most: int) -> st.SearchStrategy[Box]:
    starts, sizes = st.tuples(*[st.integers(low, high)] * 3), st.tuples(*[st.integers(0, most)] * 3)
    return st.builds(Box.of_shape, sizes, starts)


@pytest.mark.parametrize(
    ("data_type", "channels", "encoding", "compress"),
    [
        ("uint8", 1, "raw", "gzip"),
        ("uint8", 3, "raw", "br"),
        ("uint16", 1, "raw", None),
        ("uint32", 1, "compressed_segmentation", "gzip"),
        ("uint64", 1, "compressed_segmentation", False),
        ("int8", 2, "raw", "none"),
        ("int16", 1, "raw", "gzip"),
        ("int32", 1, "raw", "gzip"),
        ("float32", 2, "raw", "gzip"),
        ("uint8", 1, "png", "gzip"),
    ],
)
def test_others_read_what_is_written(
    tmp_path: Path, data_type: str, channels: int, encoding: str, compress: Any
) -> None:
    voxels = random_voxels((channels, *SHAPE), data_type)
    if encoding == "compressed_segmentation":
        voxels //= np.iinfo(data_type).max // 50
    layer = stored_layer(tmp_path, voxels, OFFSET, info_encoding=encoding, cv_kwargs={"compress": compress})
    np.testing.assert_array_equal(by_cloudvolume(tmp_path), voxels)
    if compress in (False, "none"):
        np.testing.assert_array_equal(by_tensorstore(tmp_path), voxels)
    read = layer[BOUNDS.slices()]
    assert str(read.dtype) == f"torch.{tensor_type(data_type)}"
    np.testing.assert_array_equal(read.numpy(), voxels)
    np.testing.assert_array_equal(layer.backend.read(layer.frontend.convert(BOUNDS.slices())), voxels)


@pytest.mark.parametrize("data_type", ["uint8", "uint64", "float32"])
def test_what_others_write_is_read(tmp_path: Path, data_type: str) -> None:
    voxels = random_voxels((1, *SHAPE), data_type)
    info = CloudVolume.create_new_info(1, "image", data_type, "raw", RESOLUTION, OFFSET, SHAPE, chunk_size=(16, 16, 8))
    volume = CloudVolume(f"file://{tmp_path}", info=info, progress=False)
    volume.commit_info()
    volume[volume.bounds] = np.moveaxis(voxels, 0, 3)
    layer = build_cv_layer(str(tmp_path), default_desired_resolution=RESOLUTION)
    np.testing.assert_array_equal(layer[BOUNDS.slices()].numpy(), voxels)
    other = build_ts_layer(str(tmp_path / "ts"), **_described(data_type))
    other[BOUNDS.slices()] = voxels
    np.testing.assert_array_equal(build_cv_layer(str(tmp_path / "ts"))[RESOLUTION, _box_nm()].numpy(), voxels)


def _described(data_type: str = "uint8", **others: Any) -> dict[str, Any]:
    arguments = new_arguments("", BOUNDS, data_type, **others)
    del arguments["path"]
    return arguments


def _box_nm() -> BBox3D:
    return BBox3D.from_coords(BOUNDS.start, BOUNDS.stop, RESOLUTION)


@pytest.mark.parametrize("cache", [None, 3000, 10**6])
def test_any_box_is_read(tmp_path: Path, cache: int | None) -> None:
    voxels = random_voxels((2, *SHAPE), "int16")
    layer = stored_layer(tmp_path, voxels, OFFSET, cache_bytes_limit=cache)

    @BUDGET
    @given(boxes(-12, 40, 20))
    def check(box: Box) -> None:
        read = layer[(RESOLUTION, *box.slices())]
        np.testing.assert_array_equal(read.numpy(), window(voxels, OFFSET, box))
        read += 1

    check()


@pytest.mark.parametrize("build", [build_cv_layer, build_ts_layer])
@pytest.mark.parametrize("cache", [None, 10**6])
def test_any_box_is_written_and_the_rest_stays(tmp_path: Path, build: Any, cache: int | None) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    layer = build(str(tmp_path), **_described(cache_bytes_limit=cache))
    layer[BOUNDS.slices()] = torch.from_numpy(voxels)

    @BUDGET
    @given(boxes(-8, 30, 20), st.sampled_from([0, 7, None]))
    def check(box: Box, number: int | None) -> None:
        box = box.intersection(BOUNDS)
        if not box.voxels:
            return
        values = random_voxels((1, *box.shape), "uint8", seed=box.voxels)
        layer[box.slices()] = torch.from_numpy(values) if number is None else number
        voxels[(slice(None), *box.slices(OFFSET))] = values if number is None else number
        np.testing.assert_array_equal(layer[BOUNDS.slices()].numpy(), voxels)

    check()
    np.testing.assert_array_equal(by_cloudvolume(tmp_path, fill_missing=True), voxels)


def test_zeros_take_the_place_of_what_stood_there(tmp_path: Path) -> None:
    for name, kwargs in (("stored", None), ("deleted", {"delete_black_uploads": True})):
        layer = stored_layer(tmp_path / name, np.ones((1, *SHAPE), "uint8"), OFFSET, cv_kwargs=kwargs)
        layer[BOUNDS.slices()] = 0
        chunks = list((tmp_path / name / "4_4_40").iterdir())
        assert len(chunks) == (12 if name == "stored" else 0)
        assert not by_cloudvolume(tmp_path / name, fill_missing=name == "deleted").any()
        assert not layer[BOUNDS.slices()].any()


def test_one_chunk_has_one_file(tmp_path: Path) -> None:
    bounds = Box.of_shape((16, 16, 8))
    for compress, suffix in (("gzip", ".gz"), ("br", ".br"), (None, ".gz"), (False, "")):
        new_layer(tmp_path, bounds, cv_kwargs={"compress": compress})[bounds.slices()] = 5
        assert os.listdir(tmp_path / "4_4_40") == [f"0-16_0-16_0-8{suffix}"]
        assert (by_cloudvolume(tmp_path) == 5).all()


def test_missing_chunks_are_zeros_unless_that_is_not_wanted(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, BOUNDS)
    layer[0:1, 3:4, 7:8] = 9
    expected = np.zeros((1, *SHAPE), "uint8")
    expected[0, 5, 0, 0] = 9
    np.testing.assert_array_equal(layer[BOUNDS.slices()].numpy(), expected)
    strict = build_cv_layer(str(tmp_path), {"fill_missing": False}, default_desired_resolution=RESOLUTION)
    assert strict[0:1, 3:4, 7:8].item() == 9
    with pytest.raises(SourceError, match=r"expected a chunk, but it is missing: restore it, or .* with fill_missing"):
        strict[BOUNDS.slices()]


def test_writes_beyond_the_bounds_are_refused(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, BOUNDS)
    message = (
        r"expected a box to write in the bounds \(-5.0, 3.0, 7.0\) - \(32.0, 24.0, 18.0\), came \(0.0, 0.0, 7.0\) - "
        r"\(40.0, 8.0, 9.0\) at resolution Vec3D\(4, 4, 40\): cut it to \(0.0, 3.0, 7.0\) - \(32.0, 8.0, 9.0\)"
    )
    with pytest.raises(DestinationError, match=message):
        layer[0:40, 0:8, 7:9] = 1
    assert not (tmp_path / "info").exists()
    layer[0:0, 0:0, 0:0] = 1


def test_read_only(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="since the layer is read-only: build it with readonly=False"):
        new_layer(tmp_path, BOUNDS, readonly=True)[0:8, 3:8, 7:9] = 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.ones(1, 8, 8, 2), "expected values of type uint8, came float32: round, clip and convert them first"),
        (torch.full((1, 8, 8, 2), 256), "expected values that uint8 holds, came values from 256 to 256"),
        (np.full((1, 8, 8, 2), -1), "expected values that uint8 holds, came values from -1 to -1"),
        (1.5, "expected values of type uint8, came float64"),
        (300, "came values from 300 to 300"),
        (float("nan"), "expected values of type uint8, came float64"),
        (2**70, "expected a number that uint8 holds, came 1180591620717411303424: give another"),
        (torch.ones(8, 8, 2).byte(), r"expected data of shape \(1, 8, 8, 2\) \(C, x, y, z\) .* came \(8, 8, 2\)"),
        (torch.ones(1, 8, 8, 1).byte(), r"came \(1, 8, 8, 1\): give one number, or data of that shape"),
    ],
)
def test_data_that_do_not_fit_are_refused(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        new_layer(tmp_path, BOUNDS)[0:8, 3:11, 7:9] = data


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (torch.full((1, 8, 8, 2), 255), 255),
        (torch.ones(1, 8, 8, 2).bool(), 1),
        (np.ones((1, 8, 8, 2), "uint64"), 1),
        (True, 1),
        (7.0, 7),
        (np.uint64(9), 9),
    ],
)
def test_numbers_of_other_types_that_fit_are_written(tmp_path: Path, data: Any, stored: int) -> None:
    layer = new_layer(tmp_path, BOUNDS)
    layer[0:8, 3:11, 7:9] = data
    assert (layer[0:8, 3:11, 7:9] == stored).all()


def test_ids_beyond_int64(tmp_path: Path) -> None:
    layer = stored_layer(tmp_path, np.full((1, 4, 4, 4), 2**64 - 1, "uint64"))
    with pytest.raises(SourceError, match=r"ids up to 9223372036854775807, which are what torch's int64 holds"):
        layer[0:4, 0:4, 0:4]
    assert (layer.backend.read(layer.frontend.convert((slice(0, 4),) * 3)) == 2**64 - 1).all()
    layer[0:4, 0:4, 0:1] = 2**63
    assert by_cloudvolume(tmp_path)[0, 0, 0].tolist() == [2**63] + [2**64 - 1] * 3


def test_an_unknown_resolution_is_told_with_those_there_are(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, BOUNDS)
    message = r"expected one of its resolutions, \(4, 4, 40\), came \(8, 8, 40\): ask for one of these, or name the one"
    with pytest.raises(OptionError, match=message):
        layer[Vec3D(8, 8, 40), 0:8, 0:8, 7:9]
    with pytest.raises(OptionError, match=message):
        layer.backend.get_bounds((8, 8, 40))
    assert layer[Vec3D(4.0, 4.0, 40.0), 0:8, 3:8, 7:9].shape == (1, 8, 5, 2)


def test_a_damaged_chunk_is_told(tmp_path: Path) -> None:
    bounds = Box.of_shape((16, 16, 8))
    layer = new_layer(tmp_path, bounds)
    layer[bounds.slices()] = 1
    file = tmp_path / "4_4_40" / "0-16_0-16_0-8.gz"
    file.write_bytes(gzip.compress(b"short"))
    with pytest.raises(CorruptDataError, match=r"0-16_0-16_0-8.gz: cannot read its raw"):
        layer[bounds.slices()]
    file.write_bytes(b"no gzip")
    with pytest.raises(CorruptDataError, match=r"0-16_0-16_0-8.gz: expected gzip data"):
        layer[0:1, 0:1, 0:1] = 5
    layer[bounds.slices()] = 5
    assert (by_cloudvolume(tmp_path) == 5).all()


def test_shards_are_read_and_written_by_tensorstore(tmp_path: Path) -> None:
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": 1,
        "minishard_bits": 1,
        "shard_bits": 2,
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
    }
    voxels = random_voxels((1, *SHAPE), "uint16")
    layer = build_ts_layer(str(tmp_path), **_described("uint16", info_extra_scale_data={"sharding": sharding}))
    layer[BOUNDS.slices()] = voxels
    assert {file.suffix for file in (tmp_path / "4_4_40").iterdir()} == {".shard"}
    for cache in (0, 10**6):
        read = build_cv_layer(str(tmp_path), default_desired_resolution=RESOLUTION, cache_bytes_limit=cache)
        np.testing.assert_array_equal(read[BOUNDS.slices()].numpy(), voxels)
        assert read[BOUNDS.slices()].shape == (1, *SHAPE)
    with pytest.raises(DestinationError, match="a scale of Precomputed that is not sharded to write to, came another"):
        read[0:1, 3:4, 7:8] = 1
    layer[0:3, 3:4, 7:8] = 5
    voxels[0, 5:8, 0, 0] = 5
    np.testing.assert_array_equal(by_cloudvolume(tmp_path), voxels)


@pytest.mark.parametrize("write", [write_zarr2, write_n5])
def test_other_formats_are_read(tmp_path: Path, write: Any) -> None:
    x, y, z = STORED_SHAPE
    voxels = random_voxels((x, y, z, 1), "uint8")
    layer = build_cv_layer(write(tmp_path, voxels))
    fine, coarse = layer.backend.volume.resolutions
    expected = np.moveaxis(voxels, 3, 0)
    np.testing.assert_array_equal(layer[fine, 0:x, 0:y, 0:z].numpy(), expected)
    box = Box((-2, 3, 1), (20, 17, 4))
    found = layer[(coarse, *box.slices())].numpy()
    np.testing.assert_array_equal(found, window(expected[:, ::2, ::2], (0, 0, 0), box))
    with pytest.raises(DestinationError, match="expected a scale of Precomputed that is not sharded to write to"):
        layer[fine, 0:x, 0:y, 0:z] = 1


def test_threads_may_share_a_layer(tmp_path: Path) -> None:
    voxels = random_voxels((1, 64, 48, 16), "uint8")
    layer = stored_layer(tmp_path, np.zeros_like(voxels), cache_bytes_limit=3 * 16 * 16 * 8)
    columns = list(range(0, 64, 3))

    def write(x: int) -> None:
        layer[x : min(x + 3, 64), 0:48, 0:16] = voxels[:, x : x + 3]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, columns))
        read = list(pool.map(lambda x: layer[x : x + 3, 0:48, 0:16].numpy(), columns))
    for x, found in zip(columns, read, strict=True):
        np.testing.assert_array_equal(found[:, : min(3, 64 - x)], voxels[:, x : x + 3])


def test_computed_volumes_are_read() -> None:
    layer = build_cv_layer("made://image?size=40,30,20&offset=-3,0,5&resolution=8,8,40")
    whole = layer[Vec3D(8, 8, 40), -3:37, 0:30, 5:25]
    assert whole.dtype == torch.uint8
    assert len(whole.unique()) > 10
    part = layer[Vec3D(8, 8, 40), -5:7, 2:9, 6:7]
    assert torch.equal(part[:, 2:], whole[:, :10, 2:9, 1:2])
    assert not part[:, :2].any()
    with pytest.raises(DestinationError, match="expected a scale of Precomputed that is not sharded to write to"):
        layer[Vec3D(8, 8, 40), 0:7, 2:9, 6:7] = 1


def test_chunks_are_read_once_while_they_fit_the_cache(tmp_path: Path) -> None:
    voxels = random_voxels((1, 64, 16, 8), "uint8")
    layer = stored_layer(tmp_path, voxels, cache_bytes_limit=2 * 16 * 16 * 8)
    layer = pickle.loads(pickle.dumps(layer))
    backend: Any = layer.backend
    assert layer[0:32, 0:16, 0:8].numpy().tolist() == voxels[:, :32].tolist()
    for file in (tmp_path / "4_4_40").iterdir():
        file.unlink()
    np.testing.assert_array_equal(layer[10:20, 2:4, 0:8].numpy(), voxels[:, 10:20, 2:4])
    assert backend.cache.bytes == 2 * 16 * 16 * 8
    assert not layer[32:40, 0:1, 0:1].any()
    # One chunk had to go, which was not used last.
    np.testing.assert_array_equal(layer[16:32, 0:16, 0:8].numpy(), voxels[:, 16:32])
    assert not layer[0:16, 0:16, 0:8].any()
    assert backend.cache.bytes == 2 * 16 * 16 * 8
    backend.cache.clear()
    assert not layer[16:32, 0:16, 0:8].any()


def test_a_write_is_seen_through_the_cache(tmp_path: Path) -> None:
    layer = stored_layer(tmp_path, random_voxels((1, 32, 16, 8), "uint8"), cache_bytes_limit=10**6)
    before = layer[0:32, 0:16, 0:8]
    layer[4:20, 0:2, 0:1] = 3
    before[:, 4:20, 0:2, 0:1] = 3
    assert torch.equal(layer[0:32, 0:16, 0:8], before)


@pytest.mark.parametrize("build", [build_cv_layer, build_ts_layer])
def test_layers_travel(tmp_path: Path, build: Any) -> None:
    layer = build(str(tmp_path), **_described())
    sent = pickle.dumps(layer)
    pickle.loads(sent)[0:8, 3:11, 7:9] = 4
    assert layer[0:8, 3:11, 7:9].unique().tolist() == [4]
    again = pickle.loads(pickle.dumps(layer))
    assert again[0:9, 3:11, 7:9].unique().tolist() == [0, 4]


def test_nothing_is_written_before_the_first_voxels(tmp_path: Path) -> None:
    layer = new_layer(tmp_path / "new", BOUNDS)
    assert not layer[BOUNDS.slices()].any()
    assert not (tmp_path / "new").exists()
    layer.backend.write_info()
    assert os.listdir(tmp_path / "new") == ["info"]
    assert layer.backend.unwritten is None


def test_what_the_backend_tells(tmp_path: Path) -> None:
    backend = new_layer(tmp_path, BOUNDS, "float32", info_num_channels=2).backend
    assert backend.get_voxel_offset(RESOLUTION) == Vec3D(*OFFSET)
    assert backend.get_dataset_size(RESOLUTION) == Vec3D(*SHAPE)
    assert backend.get_chunk_size(RESOLUTION) == Vec3D(16, 16, 8)
    assert backend.get_bounds(RESOLUTION) == VolumetricIndex.from_coords(BOUNDS.start, BOUNDS.stop, RESOLUTION)
    assert (backend.data_type, backend.num_channels, backend.layer_type) == ("float32", 2, "image")
    assert backend.name == f"file://{tmp_path}"
    idx = VolumetricIndex.from_coords((0, 4, 8), (12, 21, 9), RESOLUTION)
    aligned = backend.get_chunk_aligned_index(idx, "expand")
    assert (aligned.start, aligned.stop) == (Vec3D(-5, 3, 7), Vec3D(27, 35, 15))


def test_half_floats_that_numpy_lacks_are_written(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, BOUNDS, "float32")
    layer[BOUNDS.slices()] = torch.full((1, *SHAPE), 1.5, dtype=torch.bfloat16)
    assert (by_cloudvolume(tmp_path) == 1.5).all()
