"""Resolutions and arguments of layers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.errors import GeometryError, OptionError, SourceError
from beam_volumes.geometry import Box, Vec, Vec3D
from beam_volumes.layers import VolumetricLayer, build_cv_layer, build_ts_layer
from tests.beam_volumes.layers.layer_volumes import (
    RESOLUTION,
    by_cloudvolume,
    new_layer,
    random_voxels,
    stored_layer,
    window,
)

BOUNDS = Box.of_shape((37, 21, 11), (-5, 3, 7))
SHAPE = BOUNDS.shape
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
