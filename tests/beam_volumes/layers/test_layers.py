"""Layers over stored volumes, against numpy, CloudVolume and tensorstore."""

import gzip
import os
import pickle
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
    GeometryError,
    OptionError,
    SourceError,
)
from beam_volumes.geometry import BBox3D, Box, Vec, Vec3D, VolumetricIndex
from beam_volumes.layers import VolumetricLayer, build_cv_layer, build_ts_layer, tensor_type
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


RATIOS: list[tuple[Vec, Vec]] = [((8, 8, 40), (18, 10, 11)), ((2, 2, 40), (74, 42, 11))]


@pytest.mark.parametrize("mode", ["img", "segmentation", "mask"])
@pytest.mark.parametrize(("desired", "shape"), RATIOS)
def test_index_desired_and_data_resolution_are_independent(tmp_path: Path, mode: str, desired: Vec, shape: Vec) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    offset = (-4, 4, 7)
    stored_layer(tmp_path, voxels, offset)
    layer = build_cv_layer(
        str(tmp_path),
        default_desired_resolution=desired,
        index_resolution=(1, 1, 40),
        data_resolution=RESOLUTION,
        interpolation_mode=mode,
        mask_value_thr=100,
    )
    wide = (-4, 4, 7), (32 if desired[0] == 8 else 33, 24 if desired[0] == 8 else 25, 18)
    box = Box(*wide)
    read = layer[4 * box.start[0] : 4 * box.stop[0], 4 * box.start[1] : 4 * box.stop[1], 7:18].numpy()
    data = window(voxels, offset, box)
    assert read.shape == (1, *shape)
    if desired == (8, 8, 40):
        pairs = data.reshape(1, 18, 2, 10, 2, 11)
        if mode == "img":
            expected = np.rint(pairs.mean(axis=(2, 4), dtype=float))
        elif mode == "mask":
            expected = pairs.mean(axis=(2, 4), dtype=float) > 100
        else:
            expected = np.zeros((1, *shape), "uint8")
            for at in np.ndindex(expected.shape):
                four = [int(pairs[0, at[1], x, at[2], y, at[3]]) for y in (0, 1) for x in (0, 1)]
                expected[at] = max(four, key=four.count)
    elif mode == "segmentation":
        expected = data.repeat(2, 1).repeat(2, 2)
    elif mode == "mask":
        expected = (data > 100).repeat(2, 1).repeat(2, 2)
    else:
        nearest = data.astype(float).repeat(2, 1).repeat(2, 2)
        for axis in (1, 2):
            size = nearest.shape[axis]
            other = np.clip(np.arange(size) + np.where(np.arange(size) % 2, 1, -1), 0, size - 1)
            nearest = 0.75 * nearest + 0.25 * nearest.take(other, axis)
        expected = np.rint(nearest)
    np.testing.assert_array_equal(read, expected)


def test_written_at_another_resolution(tmp_path: Path) -> None:
    new_layer(tmp_path, Box.of_shape((16, 16, 8)))
    layer = new_layer(
        tmp_path, Box.of_shape((16, 16, 8)), data_resolution=RESOLUTION, interpolation_mode="segmentation"
    )
    values = random_voxels((1, 8, 8, 8), "uint8")
    layer[Vec3D(8, 8, 40), 0:8, 0:8, 0:8] = values
    np.testing.assert_array_equal(by_cloudvolume(tmp_path), values.repeat(2, 1).repeat(2, 2))
    layer[Vec3D(8, 8, 40), 0:8, 0:8, 0:8] = 3
    assert (by_cloudvolume(tmp_path) == 3).all()


def test_voxels_that_are_not_whole(tmp_path: Path) -> None:
    stored_layer(tmp_path, random_voxels((1, 16, 16, 8), "uint8"))
    arguments: dict[str, Any] = {
        "default_desired_resolution": (6, 6, 40),
        "data_resolution": RESOLUTION,
        "interpolation_mode": "img",
    }
    layer = build_cv_layer(str(tmp_path), **arguments)
    assert layer[0:10, 0:10, 0:8].shape == (1, 10, 10, 8)
    with pytest.raises(GeometryError, match=r"expected whole voxels along x at resolution \(4, 4, 40\), got 0 to 7.5"):
        layer[0:5, 0:4, 0:8]
    rounding = build_cv_layer(str(tmp_path), **arguments, allow_slice_rounding=True)
    assert rounding[0:5, 0:4, 0:8].shape == (1, 5, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_resolution": (4, 4, 40)}, "interpolation_mode: expected one with data_resolution, came none"),
        ({"interpolation_mode": "nearest"}, "expected one of img, field, mask, segmentation, came 'nearest'"),
        ({"cache_bytes_limit": -1}, "cache_bytes_limit: expected a number of bytes, from 0, came -1"),
        ({"cv_kwargs": {"secrets": "a"}}, "cv_kwargs: expected of agglomerate, compress, .* came secrets"),
        ({"cv_kwargs": {"compress": "zip"}}, "cv_kwargs: expected compress of gzip, br, none, came 'zip'"),
        ({"data_resolutio": 5}, "build_cv_layer takes no argument of this name: did you mean 'data_resolution'"),
        ({"read_procs": print}, "read_procs: expected a list of processors, came <built-in function print>"),
        ({"index_procs": [5]}, "index_procs: expected functions, came 5"),
        ({}, "expected a volume, came a place without an info: correct the path, or describe a new volume"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_cv_layer(str(tmp_path), **arguments)


def test_tuning_of_cloudvolume_changes_nothing(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, BOUNDS, cv_kwargs={"cache": True, "parallel": 4, "progress": False})
    assert layer[BOUNDS.slices()].shape == (1, *SHAPE)


@pytest.mark.parametrize("path", ["", 5, "made://image?size=8,8,8", "zarr://file:///nowhere"])
def test_tensorstore_takes_precomputed_alone(path: Any) -> None:
    with pytest.raises((OptionError, SourceError), match="expected"):
        build_ts_layer(path)


def test_a_folder_of_something_else_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "info").write_text('{"@type": "neuroglancer_multilod_draco"}')
    with pytest.raises(OptionError, match="expected the info of a volume, came one without data_type, num_channels"):
        build_cv_layer(str(tmp_path))


def test_a_layer_is_a_value(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, BOUNDS)
    readonly = layer.with_changes(readonly=True)
    assert isinstance(readonly, VolumetricLayer)
    assert (readonly.readonly, layer.readonly, readonly.backend is layer.backend) == (True, False, True)
