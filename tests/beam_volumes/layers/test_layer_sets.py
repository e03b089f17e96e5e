"""Several layers at once."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beam_volumes.builder import Lambda
from beam_volumes.errors import DestinationError, FunctionError, OptionError
from beam_volumes.geometry import Box, Vec3D, VolumetricIndex
from beam_volumes.layers import (
    VolumetricIndexTranslator,
    VolumetricLayerSet,
    build_cv_layer,
    build_layer_set,
    build_volumetric_layer_set,
)
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, Voxels, random_voxels, stored_layer

IDX = VolumetricIndex.from_coords((2, 3, 1), (10, 7, 3), RESOLUTION)
INSIDE = (slice(None), slice(2, 10), slice(3, 7), slice(1, 3))


@pytest.fixture
def voxels(tmp_path: Path) -> dict[str, Voxels]:
    found = {"img": random_voxels((1, 16, 12, 4), "uint8"), "field": random_voxels((2, 16, 12, 4), "float32")}
    for name, values in found.items():
        stored_layer(tmp_path / name, values)
    return found


def layers(tmp_path: Path, **arguments: Any) -> dict[str, Any]:
    return {name: build_cv_layer(str(tmp_path / name), **arguments) for name in ("img", "field")}


def test_reads(tmp_path: Path, voxels: dict[str, Voxels]) -> None:
    lset = build_layer_set(layers=layers(tmp_path))
    for index in (IDX, (Vec3D(*RESOLUTION), slice(2, 10), slice(3, 7), slice(1, 3)), (RESOLUTION, IDX.bbox)):
        found = lset[index]
        assert list(found) == ["img", "field"]
        for name, values in found.items():
            np.testing.assert_array_equal(values.numpy(), voxels[name][INSIDE])
    assert list(lset["field", IDX]) == ["field"]
    assert list(lset[["img"], RESOLUTION, 2:10, 3:7, 1:3]) == ["img"]
    with pytest.raises(OptionError, match="layer set: expected names among img, field, came imgs"):
        lset["imgs", IDX]


def test_each_layer_has_resolutions_of_its_own(tmp_path: Path, voxels: dict[str, Voxels]) -> None:
    img = build_cv_layer(
        str(tmp_path / "img"),
        default_desired_resolution=(8, 8, 40),
        index_resolution=(4, 4, 40),
        data_resolution=RESOLUTION,
        interpolation_mode="segmentation",
    )
    field = build_cv_layer(str(tmp_path / "field"), default_desired_resolution=RESOLUTION)
    found = build_layer_set({"img": img, "field": field})[0:16, 0:12, 0:4]
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "img": (1, 8, 6, 4),
        "field": (2, 16, 12, 4),
    }


def test_resolutions_of_the_set(tmp_path: Path, voxels: dict[str, Voxels]) -> None:
    lset = build_volumetric_layer_set(layers(tmp_path), False, RESOLUTION, (8, 8, 40))
    np.testing.assert_array_equal(lset[1:5, 2:4, 1:3]["img"].numpy(), voxels["img"][:, 2:10, 4:8, 1:3])
    with pytest.raises(OptionError, match="expected a resolution for what is read or written, came none"):
        build_volumetric_layer_set(layers(tmp_path))[1:5, 2:4, 1:3]


def test_writes(tmp_path: Path, voxels: dict[str, Voxels]) -> None:
    lset = build_layer_set(layers(tmp_path))
    lset[IDX] = {"img": 5, "field": torch.full((2, 8, 4, 2), 0.5)}
    lset[IDX.translated((0, 4, 0))] = {"img": 6}
    voxels["img"][INSIDE] = 5
    voxels["field"][INSIDE] = 0.5
    voxels["img"][:, 2:10, 7:11, 1:3] = 6
    for name, values in lset[RESOLUTION, 0:16, 0:12, 0:4].items():
        np.testing.assert_array_equal(values.numpy(), voxels[name])
    with pytest.raises(FunctionError, match="expected data for img, field, came data for seg, too"):
        lset[IDX] = {"img": 1, "seg": 1}
    with pytest.raises(FunctionError, match="expected a dictionary with data for img, field, came 'Tensor'"):
        lset[IDX] = torch.ones(1, 8, 4, 2)  # type: ignore[assignment]
    with pytest.raises(FunctionError, match="came none: name layers of the set"):
        lset.write_with_procs(IDX, {})
    with pytest.raises(DestinationError, match="layer set: expected no writes, since it is read-only"):
        lset.with_changes(readonly=True)[IDX] = {"img": 1}


def test_processors(tmp_path: Path, voxels: dict[str, Voxels]) -> None:
    moved = VolumetricIndexTranslator((1, 0, 0), RESOLUTION)
    lset = build_layer_set(
        layers(tmp_path),
        index_procs=[moved],
        read_procs=[Lambda("lambda data: data['img'] + data['field'][:1]")],
        write_procs=[Lambda("lambda data: {'img': data.byte()}")],
    )
    expected = (voxels["img"] + voxels["field"][:1])[:, 3:11, 3:7, 1:3]
    np.testing.assert_allclose(lset[RESOLUTION, 2:10, 3:7, 1:3], expected, rtol=1e-6)
    lset[IDX] = torch.full((1, 8, 4, 2), 9.0)  # type: ignore[assignment]
    assert build_cv_layer(str(tmp_path / "img"))[IDX.translated((1, 0, 0))].unique().tolist() == [9]


def test_sets_of_sets_travel(tmp_path: Path, voxels: dict[str, Voxels]) -> None:
    inner = build_layer_set(layers(tmp_path))
    outer = pickle.loads(pickle.dumps(build_layer_set({"both": inner, "img": inner.layers["img"]})))
    assert isinstance(outer, VolumetricLayerSet)
    found = outer[IDX]
    np.testing.assert_array_equal(found["both"]["field"].numpy(), voxels["field"][INSIDE])
    np.testing.assert_array_equal(found["img"].numpy(), voxels["img"][INSIDE])
    assert outer.name == f"both: img: file://{tmp_path}/img, field: file://{tmp_path}/field, img: file://{tmp_path}/img"


def test_layers_are_wanted() -> None:
    for bad in ({}, [1], {"a": 5}):
        with pytest.raises(OptionError, match="layers: expected"):
            build_layer_set(bad)  # type: ignore[arg-type]


def test_bounds_are_each_layers_own(tmp_path: Path, voxels: dict[str, Voxels]) -> None:
    found = build_layer_set(layers(tmp_path))[RESOLUTION, -2:2, 0:1, 0:1]["img"]
    assert found[:, :2].unique().tolist() == [0]
    assert found[0, 2:, 0, 0].tolist() == voxels["img"][0, :2, 0, 0].tolist()
    assert Box.of_shape((4, 1, 1)).shape == tuple(found.shape[1:])
