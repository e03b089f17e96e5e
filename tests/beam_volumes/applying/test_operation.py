"""Operations: functions as such, and what others write, kept instead of written."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import builder
from beam_volumes.applying.operation import CallableOperation, operation_of, results
from beam_volumes.errors import DestinationError, FunctionError, GeometryError, OptionError
from beam_volumes.geometry import BBox3D, Box, Vec, Vec3D, VolumetricIndex
from beam_volumes.layers import (
    VolumetricIndexTranslator,
    VolumetricLayer,
    VolumetricLayerSet,
    build_cv_layer,
    build_layer_set,
)
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, new_layer, random_voxels, stored_layer, window

BUDGET = settings(derandomize=True, deadline=None, max_examples=20)
SHAPE = (40, 36, 20)
CHUNK = Box((8, 8, 4), (20, 16, 10))
COARSE = (8, 8, 40)


def index(box: Box, resolution: tuple[float, ...] = RESOLUTION) -> VolumetricIndex:
    return VolumetricIndex.from_coords(box.start, box.stop, resolution)


class Op:
    """An operation that does what it is told."""

    def __init__(self, call: Callable[..., None]) -> None:
        self.call = call

    def get_input_resolution(self, dst_resolution: Vec3D[float]) -> Vec3D[float]:
        return dst_resolution

    def with_added_crop_pad(self, crop_pad: Vec3D[int]) -> "Op":
        return self

    def __call__(self, idx: VolumetricIndex, dst: Any, **op_kwargs: Any) -> None:
        self.call(idx, dst, **op_kwargs)


@pytest.fixture
def dst(tmp_path: Path) -> VolumetricLayer:
    """A layer of a volume that does not stand yet, with processors that would change what is written."""
    return new_layer(tmp_path / "dst", Box.of_shape(SHAPE), write_procs=[lambda data: data + 1])


def written(call: Callable[..., None], dst: Any, **op_kwargs: Any) -> dict[str, Any]:
    return results(Op(call), index(CHUNK), dst, op_kwargs)


def test_a_function_is_an_operation(tmp_path: Path) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    src = stored_layer(tmp_path / "src", voxels)
    out = new_layer(tmp_path / "out", Box.of_shape(SHAPE), info_num_channels=2)
    op = CallableOperation(lambda src, n: torch.cat([src, src // n]), crop_pad=(2, 1, 0)).with_added_crop_pad((1, 0, 1))
    assert op.crop_pad == (3, 1, 1)
    op(index(CHUNK), out, src=src, n=3)
    expected = window(voxels, (0, 0, 0), CHUNK)
    np.testing.assert_array_equal(out[index(CHUNK)].numpy(), np.concatenate([expected, expected // 3]))
    assert out[index(Box.of_shape(SHAPE))].count_nonzero() == np.count_nonzero([expected, expected // 3])


def test_a_crop_is_read_and_cut_off(tmp_path: Path) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    src = stored_layer(tmp_path / "src", voxels)
    out = new_layer(tmp_path / "out", Box.of_shape(SHAPE))
    pads, sizes = st.tuples(*[st.integers(0, 5)] * 3), st.tuples(*[st.integers(1, 9)] * 3)

    @BUDGET
    @given(pads, sizes, st.tuples(*[st.integers(0, 10)] * 3))
    def check(pad: Vec, size: Vec, start: Vec) -> None:
        seen = []

        def function(src: torch.Tensor) -> torch.Tensor:
            seen.append(src)
            return src

        box = Box.of_shape(size, start)
        CallableOperation(function, pad)(index(box), out, src=src)
        low, high = zip(*[(a - p, b + p) for a, b, p in zip(box.start, box.stop, pad, strict=True)], strict=True)
        np.testing.assert_array_equal(seen[0].numpy(), window(voxels, (0, 0, 0), Box(low, high)))
        np.testing.assert_array_equal(out[index(box)].numpy(), window(voxels, (0, 0, 0), box))

    check()


@pytest.mark.parametrize("factor", [(2, 2, 1), [2, 2, 1], (2.0, 2.0, 1.0)])
def test_data_are_taken_at_another_resolution(tmp_path: Path, factor: Any) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    src = stored_layer(tmp_path / "src", voxels)
    out = new_layer(tmp_path / "out", Box.of_shape((20, 18, 20)), info_scales=[list(COARSE)], info_bbox=_all_nm())
    op = CallableOperation(lambda src: src[:, ::2, ::2], crop_pad=(3, 0, 1), res_change_mult=factor)
    assert op.get_input_resolution(Vec3D(*COARSE)) == Vec3D(*RESOLUTION)
    box = Box((4, 2, 3), (10, 8, 7))
    idx = index(box, COARSE)
    assert op.input_index(idx) == index(Box((2, 4, 2), (26, 16, 8)))
    assert op.result_index(idx) == index(Box((1, 2, 2), (13, 8, 8)), COARSE)
    op(idx, out, src=src)
    np.testing.assert_array_equal(out[idx].numpy(), window(voxels[:, ::2, ::2], (0, 0, 0), box))
    read = op.read(idx, {"src": src, "n": 7})
    np.testing.assert_array_equal(read["src"].numpy(), window(voxels, (0, 0, 0), Box((2, 4, 2), (26, 16, 8))))
    assert read["n"] == 7


def _all_nm() -> BBox3D:
    return BBox3D.from_coords((0, 0, 0), SHAPE, RESOLUTION)


def test_a_coarser_input_must_be_of_whole_voxels(tmp_path: Path) -> None:
    src = stored_layer(tmp_path, random_voxels((1, *SHAPE), "uint8"))
    op = CallableOperation(lambda src: src, res_change_mult=(0.5, 1, 1))
    assert op.get_input_resolution(Vec3D(2, 4, 40)) == Vec3D(4, 4, 40)
    assert op.read(index(Box((0, 0, 0), (6, 4, 4)), (2, 4, 40)), {"src": src})["src"].shape == (1, 3, 4, 4)
    with pytest.raises(GeometryError, match="whole"):
        op.read(index(Box((0, 0, 0), (5, 4, 4)), (2, 4, 40)), {"src": src})


def test_specs_name_it(tmp_path: Path) -> None:
    op = builder.build(
        {
            "@type": "VolumetricCallableOperation",
            "fn": {"@type": "lambda", "lambda_str": "lambda src: src + 1"},
            "crop_pad": [1, 1, 0],
            "fn_semaphores": ["cuda"],
        }
    )
    assert isinstance(op, CallableOperation)
    assert op.fn(src=2) == 3
    assert op.ignored == ("fn_semaphores",)
    assert CallableOperation(print, operation_name="a").ignored == ("operation_name",)
    assert CallableOperation(print).ignored == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fn": 3}, "fn: expected a function, came 3: name one that is registered"),
        ({"crop_pad": (1, 2)}, r"crop_pad: expected three numbers of voxels, from 0, came \(1, 2\)"),
        ({"crop_pad": (1, 2, -1)}, r"came \(1, 2, -1\): give \[16, 16, 0\], say"),
        ({"crop_pad": (1, 2, 0.5)}, r"came \(1, 2, 0.5\)"),
        ({"crop_pad": (1, True, 0)}, r"came \(1, True, 0\)"),
        ({"crop_pad": 4}, "came 4"),
        (
            {"crop_pad": (8, 6, 0), "res_change_mult": (0.25, 0.25, 1)},
            "crop_pad: expected whole voxels of the input, 0.25 of which make one of the destination, came 6, which "
            "are 1.5: choose a multiple of 4",
        ),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CallableOperation(**{"fn": print, **arguments})


def test_a_crop_that_is_added_is_checked_too() -> None:
    op = CallableOperation(print, (2, 0, 0), (0.5, 1, 1))
    with pytest.raises(OptionError, match=r"came 3, which are 1\.5: choose a multiple of 2"):
        op.with_added_crop_pad(Vec3D(1, 0, 0))
    assert op.with_added_crop_pad(Vec3D(2, 0, 0)).crop_pad == (4, 0, 0)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(1, 12, 8, 6), r"expected the shape \(channels, 14, 10, 6\), came \(1, 12, 8, 6\): return data of"),
        (torch.zeros(14, 10, 6), r"came \(14, 10, 6\)"),
        (None, "expected a tensor, came NoneType: return one, CXYZ"),
    ],
)
def test_results_of_another_shape_are_refused(dst: VolumetricLayer, result: Any, message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        CallableOperation(lambda: result, (1, 1, 0))(index(CHUNK), dst)


def test_one_number_is_a_result(dst: VolumetricLayer) -> None:
    found = results(CallableOperation(lambda: 7, (1, 1, 0)), index(CHUNK), dst, {})
    np.testing.assert_array_equal(found[""], np.full((1, *CHUNK.shape), 7, "uint8"))


def test_functions_and_operations() -> None:
    op = Op(lambda idx, dst: None)
    assert operation_of(None, op) is op
    assert operation_of(print, None) == CallableOperation(print)
    with pytest.raises(OptionError, match="fn, op: expected one of them, came none"):
        operation_of(None, None)
    with pytest.raises(OptionError, match="came both"):
        operation_of(print, op)
    with pytest.raises(OptionError, match=r"came .*print.* without get_input_resolution, with_added_crop_pad: give"):
        operation_of(None, print)
    with pytest.raises(OptionError, match="that is a class, not an object of it"):
        operation_of(None, Op)


def test_what_an_operation_writes_is_kept_and_not_written(dst: VolumetricLayer, tmp_path: Path) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    src = stored_layer(tmp_path / "src", voxels)

    def copy(idx: VolumetricIndex, dst: Any, src: Any) -> None:
        dst[idx] = src[idx.padded((1, 0, 0))][:, 1:-1]

    found = written(copy, dst, src=src)
    assert list(found) == [""]
    np.testing.assert_array_equal(found[""].numpy(), window(voxels, (0, 0, 0), CHUNK))
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda idx, dst, data: dst.write_with_procs(idx, data),
        lambda idx, dst, data: dst.__setitem__((RESOLUTION, *CHUNK.slices()), data),
        lambda idx, dst, data: dst.__setitem__(CHUNK.slices(), data),
        lambda idx, dst, data: dst.__setitem__((None, idx.bbox), data),
        lambda idx, dst, data: dst.with_changes(read_procs=[]).__setitem__(idx, data),
        lambda idx, dst, data: dst.with_procs(read_procs=[]).__setitem__(idx, data),
    ],
)
def test_all_ways_to_write(dst: VolumetricLayer, write: Any) -> None:
    data = random_voxels((1, *CHUNK.shape), "uint8")
    np.testing.assert_array_equal(written(lambda idx, dst: write(idx, dst, data), dst)[""], data)


def test_what_is_written_around_a_chunk_is_cut_off(dst: VolumetricLayer) -> None:
    data = random_voxels((1, 14, 8, 9), "uint8")

    def wide(idx: VolumetricIndex, dst: Any) -> None:
        dst[idx.padded(((2, 0), (0, 0), (1, 2)))] = data

    np.testing.assert_array_equal(written(wide, dst)[""], data[:, 2:, :, 1:-2])


def test_nothing_written_is_nothing(dst: VolumetricLayer) -> None:
    assert written(lambda idx, dst: None, dst) == {}
    assert written(lambda idx, dst: None, None) == {}


def test_without_a_destination_an_operation_gets_none() -> None:
    seen: list[Any] = []
    assert written(lambda idx, dst, n: seen.append((idx, dst, n)), None, n=5) == {}
    assert seen == [(index(CHUNK), None, 5)]
    called: list[int] = []
    results(CallableOperation(lambda n: called.append(n)), index(CHUNK), None, {"n": 4})
    assert called == [4]


def _moved(idx: VolumetricIndex, dst: Any) -> None:
    dst[idx.translated((1, 0, 0))] = 1


def _coarser(idx: VolumetricIndex, dst: Any) -> None:
    dst[VolumetricIndex.from_coords((4, 4, 4), (10, 8, 10), COARSE)] = 1


def _one_slice(idx: VolumetricIndex, dst: Any) -> None:
    dst[idx.cropped(((0, 0), (0, 0), (0, 5)))] = torch.ones(1, 12, 8, 1)


def _too_small(idx: VolumetricIndex, dst: Any) -> None:
    dst[idx] = torch.ones(1, 12, 8, 5)


def _by_other_procs(idx: VolumetricIndex, dst: Any) -> None:
    dst.with_procs(write_procs=())[idx] = 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            _moved,
            r"what the operation writes for \(8.0, 8.0, 4.0\) - \(20.0, 16.0, 10.0\): expected data for all of it, "
            r"came data for \(9.0, 8.0, 4.0\) - \(21.0, 16.0, 10.0\): write the whole chunk at once",
        ),
        (_one_slice, "expected data for all of it"),
        (_coarser, r"expected data at the resolution Vec3D\(4, 4, 40\), came data at Vec3D\(8, 8, 40\)"),
        (_too_small, r"expected the shape \(channels, 12, 8, 6\), came \(1, 12, 8, 5\)"),
        (_by_other_procs, "expected a destination with the write_procs of its spec, came others"),
    ],
)
def test_what_does_not_fit_the_chunk_is_refused(dst: VolumetricLayer, call: Any, message: str) -> None:
    with pytest.raises(FunctionError, match=message):
        written(call, dst)


def test_a_destination_is_read_as_it_stands(tmp_path: Path) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    stored_layer(tmp_path / "dst", voxels)
    move = VolumetricIndexTranslator((0, 0, 2), RESOLUTION)
    layer = build_cv_layer(str(tmp_path / "dst"), index_procs=[move], read_procs=[lambda data: data // 2])
    seen: list[Any] = []

    def op(idx: VolumetricIndex, dst: Any) -> None:
        seen.append((dst.backend.name, dst.backend.get_chunk_size(RESOLUTION), dst.name, isinstance(dst, type(layer))))
        dst[idx] = 5
        seen.append(dst[idx].numpy())

    found = written(op, layer)[""]
    assert seen[0] == (layer.backend.name, Vec3D(16, 16, 8), layer.name, True)
    below = Box((8, 8, 6), (20, 16, 12))
    np.testing.assert_array_equal(seen[1], window(voxels, (0, 0, 0), below) // 2)
    np.testing.assert_array_equal(found, np.full((1, *CHUNK.shape), 5))
    np.testing.assert_array_equal(layer.backend.read(index(Box.of_shape(SHAPE))), voxels)


def sets(tmp_path: Path) -> VolumetricLayerSet:
    move = VolumetricIndexTranslator((0, 0, 2), RESOLUTION)
    a = new_layer(tmp_path / "a", Box.of_shape(SHAPE))
    b = new_layer(tmp_path / "b", Box.of_shape(SHAPE), "float32", info_num_channels=2)
    return build_layer_set({"a": a, "b": b}, index_procs=[move], write_procs=[_refuse])


def _refuse(data: Any) -> Any:
    raise DestinationError("nothing is to be written through the processors of a set")


def test_layer_sets_are_collected_by_name(tmp_path: Path) -> None:
    a, b = random_voxels((1, *CHUNK.shape), "uint8"), random_voxels((2, *CHUNK.shape), "float32")

    def both(idx: VolumetricIndex, dst: Any) -> None:
        dst[idx] = {"a": a, "b": b}

    def one_by_one(idx: VolumetricIndex, dst: Any) -> None:
        dst["b", idx] = {"b": b}
        dst.layers["a"][idx] = a

    def with_procs(idx: VolumetricIndex, dst: Any) -> None:
        dst.write_with_procs(idx, {"b": b, "a": a})

    for call in (both, one_by_one, with_procs):
        found = written(call, sets(tmp_path))
        assert sorted(found) == ["a", "b"]
        np.testing.assert_array_equal(found["a"], a)
        np.testing.assert_array_equal(found["b"], b)
    assert list(tmp_path.iterdir()) == []


def test_a_function_may_return_data_for_a_set(tmp_path: Path) -> None:
    a, b = random_voxels((1, 14, 8, 6), "uint8"), random_voxels((2, 14, 8, 6), "float32")
    found = results(CallableOperation(lambda: {"a": a, "b": b}, (1, 0, 0)), index(CHUNK), sets(tmp_path), {})
    np.testing.assert_array_equal(found["a"], a[:, 1:-1])
    np.testing.assert_array_equal(found["b"], b[:, 1:-1])


def test_data_for_no_layer_of_a_set_are_refused(tmp_path: Path) -> None:
    def other(idx: VolumetricIndex, dst: Any) -> None:
        dst[idx] = {"c": 1}

    with pytest.raises(FunctionError, match="expected data for a, b, came data for c, too"):
        written(other, sets(tmp_path))
    assert list(written(lambda idx, dst: dst.__setitem__(idx, {"a": 1}), sets(tmp_path))) == ["a"]


def test_threads_have_places_of_their_own(dst: VolumetricLayer) -> None:
    found: dict[int, Any] = {}
    ready = threading.Barrier(4, timeout=30)

    def run(number: int) -> None:
        def op(idx: VolumetricIndex, dst: Any) -> None:
            ready.wait()
            dst[idx] = number

        found[number] = written(op, dst)[""]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: int(data.max()) for number, data in found.items()} == {0: 0, 1: 1, 2: 2, 3: 3}
