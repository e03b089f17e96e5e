"""Processors: their order, and those that are ready-made."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beam_volumes.builder import Lambda
from beam_volumes.errors import FunctionError, OptionError
from beam_volumes.geometry import Vec3D, VolumetricIndex
from beam_volumes.layers import (
    DataResolutionInterpolator,
    InvertProcessor,
    JointIndexDataProcessor,
    ROIMaskProcessor,
    VolumetricIndexOverrider,
    VolumetricIndexPadder,
    VolumetricIndexScaler,
    VolumetricIndexTranslator,
    VolumetricLayer,
    build_cv_layer,
    build_layer_set,
)
from beam_volumes.layers.processors import Mode
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, Voxels, random_voxels, stored_layer

SHAPE = (24, 20, 8)
IDX = VolumetricIndex.from_coords((4, 4, 1), (12, 10, 3), RESOLUTION)


class Noting:
    """Notes what is asked of it; an index grows by a voxel along x, data shrink by it in reading, grow in writing."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def process_index(self, idx: VolumetricIndex, mode: Mode) -> VolumetricIndex:
        self.notes.append(f"{self.name} index {mode} {idx.shape.x}")
        return idx.padded((1, 0, 0))

    def process_data(self, data: torch.Tensor, mode: Mode) -> torch.Tensor:
        self.notes.append(f"{self.name} data {mode} {data.shape[1]}")
        return data[:, 1:-1] if mode == "read" else torch.nn.functional.pad(data, (0, 0, 0, 0, 1, 1))


def stored(tmp_path: Path, **changes: Any) -> tuple[VolumetricLayer, Voxels]:
    voxels = random_voxels((1, *SHAPE), "uint8")
    return stored_layer(tmp_path, voxels).with_changes(**changes), voxels


def test_order(tmp_path: Path) -> None:
    notes: list[str] = []

    def index_proc(idx: VolumetricIndex) -> VolumetricIndex:
        notes.append(f"index {idx.shape.x}")
        return idx.translated((2, 0, 0))

    def data_proc(data: torch.Tensor) -> torch.Tensor:
        notes.append(f"data {data.shape[1]}")
        return data

    procs = [Noting("a", notes), data_proc, Noting("b", notes)]
    layer, voxels = stored(tmp_path, index_procs=[index_proc], read_procs=procs, write_procs=procs)
    np.testing.assert_array_equal(layer[IDX].numpy(), voxels[:, 6:14, 4:10, 1:3])
    assert notes == [
        "index 8",
        "b index read 8",
        "a index read 10",
        "a data read 12",
        "data 10",
        "b data read 10",
    ]
    notes.clear()
    layer[IDX] = 7
    assert notes == [
        "index 8",
        "a index write 8",
        "a data write 8",
        "data 10",
        "b index write 10",
        "b data write 10",
    ]
    voxels[:, 4:16, 4:10, 1:3] = 0
    voxels[:, 6:14, 4:10, 1:3] = 7
    plain = layer.with_changes(index_procs=(), read_procs=())
    np.testing.assert_array_equal(plain[0:24, 0:20, 0:8].numpy(), voxels)


def test_the_resolution_is_changed_next_to_the_volume(tmp_path: Path) -> None:
    stored(tmp_path)
    seen: list[tuple[int, ...]] = []

    def shape_of(data: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(data.shape))
        return data

    layer = build_cv_layer(
        str(tmp_path),
        data_resolution=RESOLUTION,
        interpolation_mode="img",
        read_procs=[shape_of],
        write_procs=[shape_of],
    )
    layer[Vec3D(8, 8, 40), 0:4, 0:4, 0:2] = 1
    assert layer[Vec3D(8, 8, 40), 0:6, 0:4, 0:2].shape == (1, 6, 4, 2)
    assert seen == [(1, 4, 4, 2), (1, 6, 4, 2)]


class ThresholdProcessor:
    """The guide's."""

    def __init__(self, threshold: float = 0) -> None:
        self.threshold = threshold

    def __call__(self, data: torch.Tensor) -> torch.Tensor:
        data[data < self.threshold] = self.threshold
        return data


def test_processors_may_work_in_place(tmp_path: Path) -> None:
    layer, voxels = stored(tmp_path, read_procs=[ThresholdProcessor(100)], write_procs=[ThresholdProcessor(50)])
    for _ in range(2):
        np.testing.assert_array_equal(layer[IDX].numpy(), np.maximum(voxels[:, 4:12, 4:10, 1:3], 100))
    data = torch.zeros(1, 8, 6, 2, dtype=torch.uint8)
    layer[IDX] = data
    assert not data.any()
    assert layer.with_changes(read_procs=())[IDX].unique().tolist() == [50]


def test_processors_give_other_types_and_shapes(tmp_path: Path) -> None:
    half, again = Lambda("lambda x: x.float() / 2"), Lambda("lambda x: (x * 2).byte()")
    layer, voxels = stored(tmp_path, read_procs=[half], write_procs=[again])
    read = layer[IDX]
    np.testing.assert_array_equal(read.numpy(), voxels[:, 4:12, 4:10, 1:3] / 2)
    layer[IDX] = read
    np.testing.assert_array_equal(layer.backend.read(IDX), voxels[:, 4:12, 4:10, 1:3])
    flat = layer.with_changes(read_procs=[Lambda("lambda x: x[0, :, :, 0]")])
    assert flat[IDX].shape == (8, 6)
    wrong = layer.with_changes(write_procs=[Lambda("lambda x: x[:, 1:].byte()")])
    with pytest.raises(FunctionError, match=r"expected data of shape \(1, 8, 6, 2\) .* came \(1, 7, 6, 2\)"):
        wrong[IDX] = read


def test_translator(tmp_path: Path) -> None:
    layer, voxels = stored(tmp_path, index_procs=[VolumetricIndexTranslator((1, -1, 40), (8, 4, 1))])
    np.testing.assert_array_equal(layer[IDX].numpy(), voxels[:, 6:14, 3:9, 2:4])


def test_padder(tmp_path: Path) -> None:
    layer, voxels = stored(tmp_path, index_procs=[VolumetricIndexPadder((1, (2, 0), 0))])
    np.testing.assert_array_equal(layer[IDX].numpy(), voxels[:, 3:13, 2:10, 1:3])


def test_scaler() -> None:
    index = VolumetricIndex.from_coords((4, 6, 6), (14, 14, 16), (1, 1, 1))
    scaled = VolumetricIndexScaler((2, 2, 1), allow_slice_rounding=True)(index)
    assert (scaled.start, scaled.stop) == (Vec3D(2, 3, 6), Vec3D(7, 7, 16))
    assert scaled.resolution == Vec3D(2, 2, 1)
    rounded = VolumetricIndexScaler((1, 2, 3), allow_slice_rounding=True)(index)
    assert (rounded.start, rounded.stop) == (Vec3D(4, 3, 2), Vec3D(14, 7, 5))
    with pytest.raises(ValueError, match="expected whole voxels along z"):
        _ = VolumetricIndexScaler((1, 2, 3))(index).stop


@pytest.mark.parametrize(
    ("overrides", "start", "stop", "resolution"),
    [
        (((7, 8, 9), None, None), (7, 8, 9), (17, 18, 19), (1, 1, 1)),
        (((None, None, 10), None, None), (4, 5, 10), (14, 15, 20), (1, 1, 1)),
        ((None, (7, 8, 9), None), (4, 5, 6), (11, 13, 15), (1, 1, 1)),
        ((None, (None, None, 8), None), (4, 5, 6), (14, 15, 14), (1, 1, 1)),
        ((None, None, (2, 2, 2)), (4, 5, 6), (14, 15, 16), (2, 2, 2)),
        ((None, None, (None, None, 2.1)), (4, 5, 6), (14, 15, 16), (1, 1, 2.1)),
        ((None, None, None), (4, 5, 6), (14, 15, 16), (1, 1, 1)),
    ],
)
def test_overrider(overrides: Any, start: Any, stop: Any, resolution: Any) -> None:
    overrider = VolumetricIndexOverrider(*overrides)
    for offset in (0, 3):
        index = VolumetricIndex.from_coords((4, 5, 6), (14, 15, 16), (1, 1, 1)).translated((offset, 0, 0))
        found = overrider(index)
        moved = Vec3D(offset if overrides[0] is None or overrides[0][0] is None else 0, 0, 0)
        assert (found.start, found.stop) == (Vec3D(*start) + moved, Vec3D(*stop) + moved)
        assert found.resolution == Vec3D(*resolution)
    with pytest.raises(OptionError, match="override_size: expected three numbers, each of which may be None"):
        VolumetricIndexOverrider(override_size=(1, 2))(index)


def test_inverted_images(tmp_path: Path) -> None:
    layer, voxels = stored(tmp_path, read_procs=[InvertProcessor(invert=True)])
    np.testing.assert_array_equal(layer[IDX].numpy(), (257 - voxels[:, 4:12, 4:10, 1:3].astype(int)) % 256)
    assert torch.equal(
        layer.with_changes(read_procs=[InvertProcessor(False)])[IDX],
        torch.from_numpy(voxels[:, 4:12, 4:10, 1:3].copy()),
    )
    with pytest.raises(FunctionError, match=r"InvertProcessor: expected an image of uint8, came torch.float32"):
        InvertProcessor().process_data(torch.ones(1), "read")


def test_masks_of_a_region(tmp_path: Path) -> None:
    image, _ = stored(tmp_path / "image")
    given = stored_layer(tmp_path / "b_mask", np.full((1, *SHAPE), 5, "uint8"))
    roi = ROIMaskProcessor((5, 0, 0), (8, 7, 9), (8, 4, 40), ["a", "b"])
    layers = build_layer_set({"a": image, "b": image, "b_mask": given}, read_procs=[roi])
    found = layers[IDX]
    expected = np.zeros((1, 8, 6, 2), "uint8")
    expected[:, 6:8, 0:3] = 1
    np.testing.assert_array_equal(found["a_mask"].numpy(), expected)
    assert found["a_mask"].dtype == torch.uint8
    assert found["b_mask"].unique().tolist() == [5]
    assert torch.equal(found["a"], image[IDX])
    beside = layers[IDX.translated((-8, 0, 0))]["a_mask"]
    assert not beside.any()
    padded = ROIMaskProcessor((4, 4, 1), (12, 10, 3), RESOLUTION, ["a"], upstream_pad=(1, 2, 3))
    padded.process_index(IDX, "read")
    mask = padded.process_data({"a": np.zeros((1, 10, 10, 8))}, "read")["a_mask"]
    assert (mask[:, 1:9, 2:8, 3:5] == 1).all()
    assert mask.sum() == 8 * 6 * 2
    with pytest.raises(OptionError, match="ROIMaskProcessor: expected targets among a, came c"):
        build_layer_set({"a": image}, read_procs=[ROIMaskProcessor((0, 0, 0), (1, 1, 1), RESOLUTION, ["c"])])[IDX]


def test_processors_travel() -> None:
    for proc in (
        DataResolutionInterpolator((4, 4, 40), "img"),
        ROIMaskProcessor((0, 0, 0), (1, 1, 1), RESOLUTION, ["a"]),
        InvertProcessor(),
        VolumetricIndexTranslator((1, 0, 0), RESOLUTION),
    ):
        assert pickle.loads(pickle.dumps(proc)) == proc


def test_joint_processors_are_known_by_their_methods() -> None:
    assert isinstance(Noting("a", []), JointIndexDataProcessor)
    assert not isinstance(ThresholdProcessor(), JointIndexDataProcessor)
    with pytest.raises(OptionError, match="expected process_index before process_data, came process_data alone"):
        DataResolutionInterpolator((4, 4, 40), "img").process_data(torch.zeros(1, 1, 1, 1), "read")


def test_one_processor_twice_in_a_list(tmp_path: Path) -> None:
    coarse = DataResolutionInterpolator((8, 8, 40), "segmentation")
    fine = DataResolutionInterpolator(RESOLUTION, "segmentation")
    layer, _ = stored(tmp_path, read_procs=[fine, coarse, fine], write_procs=[fine, coarse, fine])
    assert layer[0:8, 0:8, 0:2].shape == (1, 8, 8, 2)
    layer[0:8, 0:8, 0:2] = torch.arange(8, dtype=torch.uint8).repeat_interleave(16).reshape(1, 8, 8, 2)
    expected = np.array([0, 0, 2, 2, 4, 4, 6, 6])
    np.testing.assert_array_equal(layer.backend.read(IDX.with_start((0, 0, 0)).with_end((8, 1, 1))).ravel(), expected)
