"""Layers from specs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beam_volumes import builder
from beam_volumes.errors import OptionError
from beam_volumes.geometry import BBox3D, Vec3D, VolumetricIndex
from beam_volumes.layers import VolumetricLayer, VolumetricLayerSet
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, random_voxels, stored_layer

ROOT = Path(__file__).resolve().parents[3]

NAMES = (
    "BBox3D",
    "BBoxStrider",
    "DataResolutionInterpolator",
    "InvertProcessor",
    "LayerDataset",
    "ROIMaskProcessor",
    "Vec3D",
    "VolumetricIndex",
    "VolumetricIndexOverrider",
    "VolumetricIndexPadder",
    "VolumetricIndexScaler",
    "VolumetricIndexTranslator",
    "VolumetricStridedIndexer",
    "build_cv_layer",
    "build_layer_set",
    "build_ts_layer",
    "build_volumetric_layer_set",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_registered_once(name: str) -> None:
    assert len(builder.REGISTRY[name]) == 1
    assert not builder.REGISTRY[name][0].runs_code


def test_torch_is_loaded_when_a_layer_is_used_first(tmp_path: Path) -> None:
    stored_layer(tmp_path, random_voxels((1, 4, 4, 2), "uint8"))
    code = (
        "import json, sys, pickle\n"
        "from beam_volumes import builder, layers\n"
        "layer = builder.build({'@type': 'build_cv_layer', 'path': sys.argv[1]})\n"
        "layer = pickle.loads(pickle.dumps(layer))\n"
        "before = sorted({'torch', 'tensorstore', 'cloudvolume', 'apache_beam'} & set(sys.modules))\n"
        "layer[(4, 4, 40), 0:4, 0:4, 0:2]\n"
        "sys.stdout.write(json.dumps([before, 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[], True]


def test_the_guides_dataset(tmp_path: Path) -> None:
    voxels = {name: random_voxels((1, 40, 40, 6), "uint8", seed=n) for n, name in enumerate(("img", "img_norm"))}
    for name, values in voxels.items():
        stored_layer(tmp_path / name, values, (100, 100, 20))
    spec = {
        "@type": "LayerDataset",
        "layer": {
            "@type": "build_layer_set",
            "layers": {name: {"@type": "build_cv_layer", "path": str(tmp_path / name)} for name in voxels},
        },
        "sample_indexer": {
            "@type": "VolumetricStridedIndexer",
            "bbox": {
                "@type": "BBox3D.from_coords",
                "start_coord": (100, 100, 20),
                "end_coord": (140, 140, 25),
                "resolution": RESOLUTION,
            },
            "resolution": RESOLUTION,
            "chunk_size": (16, 16, 1),
            "stride": (8, 8, 1),
            "mode": "shrink",
        },
    }
    dataset = builder.build(spec, allow_code=False)
    assert len(dataset) == 4 * 4 * 5
    sample = dataset[1]
    assert list(sample) == ["img", "img_norm"]
    for name, values in sample.items():
        assert values.shape == torch.Size([1, 16, 16, 1])
        np.testing.assert_array_equal(values.numpy(), voxels[name][:, 8:24, 0:16, 0:1])


@builder.register("tests.ThresholdProcessor")
class ThresholdProcessor:
    def __init__(self, threshold: float = -1) -> None:
        self.threshold = threshold

    def __call__(self, data: torch.Tensor) -> torch.Tensor:
        data[data < self.threshold] = self.threshold
        return data


def test_the_guides_processors(tmp_path: Path) -> None:
    voxels = random_voxels((1, 8, 8, 2), "float32")
    stored_layer(tmp_path, voxels)
    spec = {
        "@type": "build_cv_layer",
        "path": str(tmp_path),
        "read_procs": [{"@type": "tests.ThresholdProcessor", "threshold": 0}],
        "write_procs": [{"@type": "tests.ThresholdProcessor", "threshold": 10}],
    }
    layer = builder.build(spec)
    assert isinstance(layer, VolumetricLayer)
    idx = VolumetricIndex.from_coords(start_coord=Vec3D(0, 0, 0), end_coord=Vec3D(8, 8, 2), resolution=RESOLUTION)
    np.testing.assert_array_equal(layer[idx].numpy(), np.maximum(voxels, 0))
    layer[idx] = torch.from_numpy(voxels)
    np.testing.assert_array_equal(layer.backend.read(idx), np.maximum(voxels, 10))


def test_partials_and_library_functions_are_processors(tmp_path: Path) -> None:
    voxels = random_voxels((1, 8, 8, 2), "float32")
    stored_layer(tmp_path, voxels)
    procs = [{"@type": "torch.clamp", "@mode": "partial", "min": -5, "max": 5}]
    layer = builder.build({"@type": "build_cv_layer", "path": str(tmp_path), "read_procs": procs}, allow_code=False)
    np.testing.assert_array_equal(layer[RESOLUTION, 0:8, 0:8, 0:2].numpy(), voxels.clip(-5, 5))


def test_geometry_and_sets_in_specs(tmp_path: Path) -> None:
    stored_layer(tmp_path, random_voxels((1, 8, 8, 2), "uint8"))
    corner: dict[str, Any] = {"start_coord": [0, 0, 0], "end_coord": [8, 8, 2], "resolution": list(RESOLUTION)}
    built = builder.build(
        {
            "bbox": {"@type": "BBox3D.from_coords", **corner},
            "idx": {"@type": "VolumetricIndex.from_coords", **corner},
            "vec": {"@type": "Vec3D", "x": 1, "y": 2, "z": 3},
            "set": {
                "@type": "build_volumetric_layer_set",
                "default_desired_resolution": list(RESOLUTION),
                "layers": {"a": {"@type": "build_ts_layer", "path": str(tmp_path), "readonly": True}},
                "index_procs": [{"@type": "VolumetricIndexTranslator", "offset": [1, 0, 0], "resolution": [4, 4, 40]}],
            },
        }
    )
    assert built["bbox"] == BBox3D.from_coords((0, 0, 0), (8, 8, 2), RESOLUTION)
    assert built["idx"] == VolumetricIndex.from_coords((0, 0, 0), (8, 8, 2), RESOLUTION)
    assert built["vec"] == Vec3D(1, 2, 3)
    assert isinstance(built["set"], VolumetricLayerSet)
    assert built["set"][0:2, 0:2, 0:2]["a"].shape == (1, 2, 2, 2)


def test_faults_are_told_with_their_path() -> None:
    with pytest.raises(
        OptionError, match=r"spec.dst.on_info_exist: build_cv_layer takes no argument .* 'on_info_exists"
    ):
        builder.build({"dst": {"@type": "build_cv_layer", "path": "a", "on_info_exist": "overwrite"}})
    with pytest.raises(OptionError, match=r"spec.dst: build_cv_layer needs path, not given"):
        builder.build({"dst": {"@type": "build_cv_layer"}})
    with pytest.raises(
        OptionError, match=r"spec.dst: file:///nowhere: expected a volume, came a place without an info"
    ):
        builder.build({"dst": {"@type": "build_cv_layer", "path": "/nowhere"}})
