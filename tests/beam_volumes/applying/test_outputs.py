"""The layers that a run writes, read by CloudVolume and tensorstore."""

import os
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.applying.outputs import Output, Written, infos_of, outputs_of, settle, shared_procs
from beam_volumes.errors import FunctionError, OptionError
from beam_volumes.geometry import BBox3D, Box, Vec, Vec3D, VolumetricIndex
from beam_volumes.layers import (
    DataResolutionInterpolator,
    InvertProcessor,
    VolumetricIndexOverrider,
    VolumetricIndexPadder,
    VolumetricIndexScaler,
    VolumetricIndexTranslator,
    VolumetricLayer,
    build_cv_layer,
    build_layer_set,
    build_ts_layer,
)
from beam_volumes.reading_plan import Lattice
from beam_volumes.subchunks import VoxelKind
from tests.beam_volumes.layers.layer_volumes import (
    RESOLUTION,
    Voxels,
    by_cloudvolume,
    by_tensorstore,
    new_arguments,
    new_layer,
    random_voxels,
    stored_layer,
)

BUDGET = settings(derandomize=True, deadline=None, max_examples=25)
OFFSET = (-5, 3, 7)
BOUNDS = Box.of_shape((37, 21, 11), OFFSET)
EVEN = Box.of_shape((36, 20, 11), (-6, 4, 7))
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 1,
    "minishard_bits": 1,
    "shard_bits": 2,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}


def output_of(layer: Any, resolution: Any = RESOLUTION) -> Output:
    (output,) = outputs_of(layer, resolution)
    return output


def boxes(around: int = 9) -> st.SearchStrategy[Box]:
    """Return boxes in and around BOUNDS."""
    low, high = (min(BOUNDS.start) - around, max(BOUNDS.stop) + around)
    starts = st.tuples(*[st.integers(low, high)] * 3)
    return st.builds(Box.of_shape, st.tuples(*[st.integers(1, 30)] * 3), starts)


def put(voxels: Voxels, offset: Vec, box: Box, values: Voxels) -> Box:
    """Put CXYZ values into voxels whose first is at an offset, as far as they go; return how far."""
    x, y, z = voxels.shape[1:]
    inside = box.intersection(Box.of_shape((x, y, z), offset))
    if inside.voxels:
        voxels[(slice(None), *inside.slices(offset))] = values[(slice(None), *inside.slices(box.start))]
    return inside


def sharded(path: Path, **bits: Any) -> VolumetricLayer:
    arguments = new_arguments(path, BOUNDS, info_extra_scale_data={"sharding": {**SHARDING, **bits}}, chunk=(8, 8, 8))
    return build_ts_layer(**arguments)


def test_what_is_told_of_a_layer(tmp_path: Path) -> None:
    output = output_of(new_layer(tmp_path, BOUNDS, "int16", info_num_channels=2))
    assert (output.name, output.url, output.scale) == ("", f"file://{tmp_path}", "4_4_40")
    assert (output.kind, output.resolution) == (VoxelKind(2, "int16"), Vec3D(*RESOLUTION))
    assert (output.cells, output.bounds) == (Lattice((16, 16, 8), (11, 3, 7)), BOUNDS)
    assert (output.stored_cells, output.stored_bounds) == (Lattice((16, 16, 8), OFFSET), BOUNDS)
    assert not output.is_segmentation
    assert output_of(new_layer(tmp_path / "s", BOUNDS, info_type="segmentation")).is_segmentation
    assert os.listdir(tmp_path) == [], "looking writes nothing"
    assert outputs_of(None, RESOLUTION) == ()


@pytest.mark.parametrize("build", ["cv", "ts", "sharded"])
def test_any_boxes_are_written_and_the_rest_stays(tmp_path: Path, build: str) -> None:
    layer = {
        "cv": lambda: build_cv_layer(**new_arguments(tmp_path, BOUNDS)),
        "ts": lambda: build_ts_layer(**new_arguments(tmp_path, BOUNDS)),
        "sharded": lambda: sharded(tmp_path),
    }[build]()
    output = output_of(layer)
    expected = random_voxels((1, *BOUNDS.shape), "uint8")
    assert output.write(BOUNDS, expected).voxels == BOUNDS.voxels

    @BUDGET
    @given(boxes(), st.booleans())
    def check(box: Box, zeros: bool) -> None:
        values = random_voxels((1, *box.shape), "uint8", seed=box.voxels) * (not zeros)
        written = output.write(box, values)
        assert written.voxels == max(put(expected, OFFSET, box, values).voxels, 0)

    check()
    np.testing.assert_array_equal(by_cloudvolume(tmp_path, fill_missing=True), expected)
    if build != "cv":
        np.testing.assert_array_equal(by_tensorstore(tmp_path), expected)


@pytest.mark.parametrize("data_type", ["uint8", "uint16", "uint64", "float32"])
def test_what_was_written_is_told_alike_for_all_orders_in_memory(tmp_path: Path, data_type: str) -> None:
    output = output_of(new_layer(tmp_path, BOUNDS, data_type, info_num_channels=2))
    values = random_voxels((2, *BOUNDS.shape), data_type)
    raw = np.moveaxis(values, 0, 3).tobytes(order="F")
    expected = Written(BOUNDS.voxels, len(raw), crc32c.crc32c(raw))
    chunks = []
    for ordered in (values, np.asfortranarray(values), np.moveaxis(np.moveaxis(values, 0, 3).copy(order="F"), 3, 0)):
        assert output.write(BOUNDS, ordered) == expected
        chunks.append({file.name: file.read_bytes() for file in (tmp_path / "4_4_40").iterdir()})
    assert chunks[0] == chunks[1] == chunks[2]
    larger = Box((-9, 3, 7), BOUNDS.stop)
    padded = np.concatenate([np.ones((2, 4, *BOUNDS.shape[1:]), data_type), values], axis=1)
    assert output.write(larger, padded) == expected
    assert output.write(Box.of_shape((4, 4, 4), (100, 0, 0)), np.ones((2, 4, 4, 4), data_type)) == Written(0, 0, 0)


def test_ids_of_any_size_are_written(tmp_path: Path) -> None:
    output = output_of(new_layer(tmp_path, BOUNDS, "uint64"))
    output.write(BOUNDS, np.full((1, *BOUNDS.shape), 2**64 - 1, "uint64"))
    assert (by_cloudvolume(tmp_path) == 2**64 - 1).all()


@pytest.mark.parametrize("deleted", [False, True])
def test_zeros_take_the_place_of_old_data(tmp_path: Path, deleted: bool) -> None:
    expected = np.full((1, *BOUNDS.shape), 7, "uint8")
    output = output_of(stored_layer(tmp_path, expected, OFFSET, cv_kwargs={"delete_black_uploads": deleted}))
    box = Box((-5, 3, 7), (20, 19, 18))
    zeros = np.zeros((1, *box.shape), "uint8")
    output.write(box, zeros)
    put(expected, OFFSET, box, zeros)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path, fill_missing=deleted), expected)
    # Of 3 x 2 x 2 chunks, 1 x 1 x 2 are all zero.
    assert len(os.listdir(tmp_path / "4_4_40")) == (10 if deleted else 12)


@pytest.mark.parametrize(
    ("shape", "data_type"), [((1, 37, 21, 10), "uint8"), ((2, 37, 21, 11), "uint8"), ((1, 37, 21, 11), "float32")]
)
def test_other_values_are_refused(tmp_path: Path, shape: tuple[int, ...], data_type: str) -> None:
    with pytest.raises(
        FunctionError, match=r"expected \(1, 37, 21, 11\) of uint8 \(C, x, y, z\) for box -5,3,7,.*came"
    ):
        output_of(new_layer(tmp_path, BOUNDS)).write(BOUNDS, np.zeros(shape, data_type))


@pytest.mark.parametrize(
    ("bits", "cell"),
    [
        ({}, (16, 16, 8)),
        # 5 x 3 x 2 chunks have 3 + 2 + 1 bits: of the lowest 3 each axis has one, and the fourth is along x.
        ({"preshift_bits": 2, "shard_bits": 3}, (16, 16, 16)),
        ({"preshift_bits": 3, "shard_bits": 2}, (32, 16, 16)),
        ({"preshift_bits": 1, "minishard_bits": 0, "shard_bits": 5}, (16, 8, 8)),
        # More than one range of ids shares a shard: its chunks are here and there.
        ({"preshift_bits": 1, "minishard_bits": 0, "shard_bits": 2}, (40, 24, 16)),
        ({"preshift_bits": 6, "minishard_bits": 0, "shard_bits": 0}, (64, 32, 16)),
    ],
)
def test_cells_of_a_sharded_scale_are_shards(tmp_path: Path, bits: dict[str, int], cell: Vec) -> None:
    bits = {"shard_bits": 4, **bits}
    output = output_of(sharded(tmp_path, **bits))
    assert output.stored_cells == Lattice(cell, OFFSET)
    # Each shard has one writer: no box of a cell changes a file of another.
    files: list[set[str]] = []
    for x in range(-5, 32, cell[0]):
        for y in range(3, 24, cell[1]):
            for z in range(7, 18, cell[2]):
                before = set(os.listdir(tmp_path / "4_4_40")) if files else set()
                box = Box.of_shape(cell, (x, y, z))
                output.write(box, np.full((1, *box.shape), 5, "uint8"))
                files.append(set(os.listdir(tmp_path / "4_4_40")) - before)
    assert all(files)
    if cell != (40, 24, 16):
        assert {len(new) for new in files} == {1}
    assert (by_cloudvolume(tmp_path) == 5).all()


@BUDGET
@given(
    st.tuples(*[st.integers(-40, 40)] * 3),
    st.tuples(*[st.integers(-40, 40)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.sampled_from([((8, 8, 40), (4, 4, 40)), ((4, 4, 40), (8, 8, 40)), ((6, 4.5, 40), (4, 9, 30))]),
)
def test_cells_have_their_edges_on_stored_ones(offset: Vec, moved: Vec, chunk: Vec, resolutions: Any) -> None:
    ours, stored = resolutions
    translator = VolumetricIndexTranslator(moved, ours)
    interpolator = DataResolutionInterpolator(stored, "segmentation")
    layer = new_layer(
        "/nowhere/at/all",
        BOUNDS,
        info_scales=[stored],
        info_chunk_size=chunk,
        info_bbox=BBox3D.from_coords(offset, [o + 50 for o in offset], stored),
        index_procs=[translator],
        write_procs=[interpolator],
    )
    scale = [Fraction(b) / Fraction(a) for a, b in zip(stored, ours, strict=True)]
    meets = [
        [n for n in range(-400, 400) if ((n + m) * s - o) % c == 0]
        for s, m, o, c in zip(scale, moved, offset, chunk, strict=True)
    ]
    if not all(meets):
        with pytest.raises(OptionError, match=r"expected a volume whose chunks begin between whole voxels of dst_res"):
            outputs_of(layer, ours)
        return
    output = output_of(layer, ours)
    for axis, found in enumerate(meets):
        cell, origin = output.cells.cell[axis], output.cells.origin[axis]
        assert found == [n for n in range(-400, 400) if (n - origin) % cell == 0]
    for axis, (s, m, o) in enumerate(zip(scale, moved, offset, strict=True)):
        whole = [n for n in range(-400, 400) if ((n + m) * s).denominator == 1]
        assert output.bounds.start[axis] == max(n for n in whole if (n + m) * s <= o)
        assert output.bounds.stop[axis] == min(n for n in whole if (n + m) * s >= o + 50)


def test_another_resolution_is_stored(tmp_path: Path) -> None:
    """Chunks of 16 x 16 x 8 at (4, 4, 40) from an odd offset, written at (8, 8, 40), from a coarser and a finer one."""
    bounds = Box.of_shape((37, 22, 11), (-6, 4, 7))
    old = random_voxels((1, *bounds.shape), "uint8")
    stored_layer(tmp_path, old, bounds.start)
    layer = build_cv_layer(str(tmp_path), data_resolution=RESOLUTION, interpolation_mode="segmentation")
    output = output_of(layer, (8, 8, 40))
    assert output.cells == Lattice((8, 8, 8), (5, 2, 7))
    # The last half of a voxel counts as one.
    assert output.bounds == Box((-3, 2, 7), (16, 13, 18))
    box = Box((-9, 5, 9), (20, 9, 14))
    values = random_voxels((1, *box.shape), "uint8", seed=1)
    assert output.stored_box(box) == Box((-6, 10, 9), (31, 18, 14))
    written = output.write(box, values)
    finer = values.repeat(2, axis=1).repeat(2, axis=2)
    put(old, bounds.start, Box((-18, 10, 9), (40, 18, 14)), finer)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path), old)
    assert written[:2] == (19 * 4 * 5, 37 * 8 * 5)


def test_boxes_must_be_whole_where_they_are_stored(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"data_resolution": RESOLUTION, "interpolation_mode": "segmentation"}
    stored_layer(tmp_path, np.ones((1, *BOUNDS.shape), "uint8"), OFFSET)
    output = output_of(build_cv_layer(str(tmp_path), **arguments), (2, 2, 40))
    assert output.bounds == Box((-10, 6, 7), (64, 48, 18))
    output.check_box(Box((0, 6, 7), (10, 8, 9)))
    # What lies beyond the bounds is dropped, whole or not.
    output.check_box(Box((-11, 5, 7), (77, 99, 20)))
    output.check_box(Box((101, 101, 101), (105, 105, 105)))
    message = (
        r"expected a box of whole voxels at Vec3D\(4, 4, 40\) nm, in which it is stored, came 1,6,7,10,9,9 at "
        r"Vec3D\(2, 2, 40\) nm: use 0,6,7,10,10,9, or set allow_slice_rounding: true"
    )
    with pytest.raises(OptionError, match=message):
        output.check_box(Box((1, 6, 7), (10, 9, 9)))
    rounding = build_cv_layer(str(tmp_path), allow_slice_rounding=True, **arguments)
    output = output_of(rounding, (2, 2, 40))
    output.check_box(Box((1, 6, 7), (10, 9, 9)))
    output.write(Box((1, 6, 7), (10, 9, 9)), np.full((1, 9, 3, 2), 5, "uint8"))
    # Voxel 0.5 goes to 0, voxel 4.5 to 4: to the even ones.
    expected = np.ones((1, *BOUNDS.shape), "uint8")
    expected[:, 5:10, 0:1, 0:2] = 5
    np.testing.assert_array_equal(by_cloudvolume(tmp_path), expected)


def test_a_moved_layer(tmp_path: Path) -> None:
    expected = random_voxels((1, *BOUNDS.shape), "uint8")
    stored_layer(tmp_path, expected, OFFSET)
    layer = build_cv_layer(str(tmp_path), index_procs=[VolumetricIndexTranslator((3, -2, 100), RESOLUTION)])
    output = output_of(layer)
    assert output.bounds == BOUNDS.translated((-3, 2, -100))
    assert output.cells == Lattice((16, 16, 8), (8, 5, 3))
    box = Box((1, 2, -95), (30, 20, -87))
    values = random_voxels((1, *box.shape), "uint8", seed=1)
    output.write(box, values)
    put(expected, OFFSET, box.translated((3, -2, 100)), values)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path), expected)
    assert output.stored_box(box) == box.translated((3, -2, 100)).intersection(BOUNDS)


def double(data: Any) -> Any:
    return data * 2


def test_processors_of_data_are_for_chunks_and_the_others_for_what_is_written(tmp_path: Path) -> None:
    layer = new_layer(
        tmp_path,
        EVEN,
        data_resolution=RESOLUTION,
        interpolation_mode="segmentation",
        write_procs=[double, InvertProcessor()],
    )
    output = output_of(layer, (8, 8, 40))
    assert output.chunk_procs == layer.write_procs[:2]
    assert output.writer.write_procs == layer.write_procs[2:]
    box = Box.of_shape((3, 3, 3))
    assert (output.processed(box, np.full((1, 3, 3, 3), 5, "uint8")) == 257 - 10).all()
    output.write(Box.of_shape((2, 2, 2), (0, 2, 8)), np.full((1, 2, 2, 2), 5, "uint8"))
    assert sorted(np.unique(by_cloudvolume(tmp_path, fill_missing=True)).tolist()) == [0, 5]


@pytest.mark.parametrize(
    ("procs", "message"),
    [
        (
            {"write_procs": [DataResolutionInterpolator(RESOLUTION, "img"), double]},
            "expected write_procs with those that change the index, such as DataResolutionInterpolator, behind those "
            "that change data alone, came DataResolutionInterpolator, function: put the latter first",
        ),
        (
            {"index_procs": [VolumetricIndexPadder((1, 0, 0))]},
            r"expected index_procs and write_procs that move and scale boxes, each by the same, came others, which "
            r"make of \(0, \.\.\.\) - \(",
        ),
        ({"index_procs": [VolumetricIndexOverrider((None, None, 3))]}, "that move and scale boxes"),
        ({"index_procs": [lambda idx: VolumetricIndex(idx.resolution * (1 + (idx.start.x > 0)), idx.bbox)]}, "move"),
        (
            {"index_procs": [VolumetricIndexTranslator((0.5, 0, 0), RESOLUTION)]},
            r"expected a volume whose chunks begin between whole voxels of dst_resolution Vec3D\(4, 4, 40\), came "
            r"chunks of \(16, 16, 8\) voxels of Vec3D\(4, 4, 40\) nm from \(-5, 3, 7\) on, with index_procs "
            r"\['VolumetricIndexTranslator'\]: choose another voxel_offset",
        ),
        (
            {"index_procs": [VolumetricIndexScaler((2, 2, 1))]},
            r"expected one of its resolutions, \(4, 4, 40\), came \(8, 8, 40\)",
        ),
        (
            {"write_procs": [DataResolutionInterpolator(RESOLUTION, "field")]},
            r"index_procs and write_procs that fit its scale 4_4_40, but: expected a field of 2 channels",
        ),
    ],
)
def test_processors_that_cannot_be_followed_are_refused(tmp_path: Path, procs: dict[str, Any], message: str) -> None:
    interpolates = "write_procs" in procs
    resolution = (8, 8, 40) if interpolates else RESOLUTION
    bounds = EVEN if interpolates else BOUNDS
    with pytest.raises(OptionError, match=message):
        outputs_of(new_layer(tmp_path, bounds, **procs), resolution)


def test_data_that_keep_their_size_in_another_index_are_refused(tmp_path: Path) -> None:
    bounds = Box.of_shape((32, 32, 8))
    layer = new_layer(
        tmp_path, bounds, info_scales=[(4, 4, 40), (8, 8, 40)], index_procs=[VolumetricIndexScaler((2, 2, 1))]
    )
    with pytest.raises(OptionError, match=r"that fit its scale 8_8_40, but: .*expected data of shape \(1, 2, 2, 2\)"):
        outputs_of(layer, (4, 4, 40))


def test_layers_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="expected a layer to write to, came a read-only one: build it with readonly"):
        outputs_of(new_layer(tmp_path / "a", BOUNDS, readonly=True), RESOLUTION)
    with pytest.raises(OptionError, match=r"dst, file.*: expected one of its resolutions, \(4, 4, 40\), came \(8, 8"):
        outputs_of(new_layer(tmp_path / "a", BOUNDS), (8, 8, 40))
    sharded(tmp_path / "s").backend.write_info()
    with pytest.raises(OptionError, match=r"expected a scale of Precomputed that is not sharded .*with build_ts_layer"):
        outputs_of(build_cv_layer(str(tmp_path / "s")), RESOLUTION)
    info = new_layer(tmp_path / "c", BOUNDS).backend.volume.info
    strange = new_layer(tmp_path / "c", BOUNDS)
    strange.backend.settle({**info, "scales": [{**info["scales"][0], "encoding": "crackle2"}]})
    with pytest.raises(OptionError, match="expected an encoding that can be written here, came crackle2"):
        outputs_of(strange, RESOLUTION)
    assert os.listdir(tmp_path) == ["s"]


def test_a_layer_set(tmp_path: Path) -> None:
    layers = {
        "img": new_layer(tmp_path / "img", BOUNDS),
        "field": new_layer(tmp_path / "field", BOUNDS, "float32", info_num_channels=2, chunk=(12, 16, 3)),
    }
    moved = build_layer_set(layers, index_procs=[VolumetricIndexTranslator((1, 0, 0), RESOLUTION)])
    outputs = outputs_of(moved, RESOLUTION)
    assert [output.name for output in outputs] == ["field", "img"]
    assert [output.kind for output in outputs] == [VoxelKind(2, "float32"), VoxelKind(1, "uint8")]
    assert [output.bounds for output in outputs] == [BOUNDS.translated((-1, 0, 0))] * 2
    assert outputs[0].cells.common(outputs[1].cells) == Lattice((48, 16, 24), (42, 3, 7))
    for output in outputs:
        box = output.bounds
        output.write(box, random_voxels((output.kind.channels, *box.shape), output.kind.data_type))
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "img"), random_voxels((1, *BOUNDS.shape), "uint8"))
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "field"), random_voxels((2, *BOUNDS.shape), "float32"))
    with pytest.raises(OptionError, match="came a read-only one"):
        outputs_of(build_layer_set(layers, readonly=True), RESOLUTION)
    with pytest.raises(OptionError, match="expected a layer as inner of the set, came another set"):
        outputs_of(build_layer_set({"inner": moved}), RESOLUTION)
    with pytest.raises(OptionError, match=r"came img and more, which both write to 4_4_40 of file:.*another path"):
        outputs_of(build_layer_set({**layers, "more": new_layer(tmp_path / "img", BOUNDS)}), RESOLUTION)


def test_processors_of_a_layer_set(tmp_path: Path) -> None:
    layers = {"img": new_layer(tmp_path, BOUNDS)}
    assert shared_procs(build_layer_set(layers, write_procs=[double])) == (double,)
    assert shared_procs(build_layer_set(layers)) == shared_procs(layers["img"]) == shared_procs(None) == ()
    with pytest.raises(OptionError, match="that are functions of its data, came a joint processor"):
        shared_procs(build_layer_set(layers, write_procs=[InvertProcessor()]))


def test_layers_that_share_a_volume_must_agree_on_it(tmp_path: Path) -> None:
    bounds = Box.of_shape((32, 32, 8))
    both: dict[str, Any] = {"info_scales": [(4, 4, 40), (8, 8, 40)]}
    fine = new_layer(tmp_path, bounds, **both)
    other: dict[str, Any] = {"data_resolution": (8, 8, 40), "interpolation_mode": "img"}
    assert len(outputs_of(build_layer_set({"a": fine, "b": new_layer(tmp_path, bounds, **both, **other)}), RESOLUTION))
    differing = new_layer(tmp_path, bounds, **other, info_scales=[(8, 8, 40)])
    with pytest.raises(OptionError, match=r"expected one info of the layers a and b, which both write to .* came two"):
        outputs_of(build_layer_set({"a": fine, "b": differing}), RESOLUTION)


@pytest.mark.parametrize("build", [build_cv_layer, build_ts_layer])
def test_workers_take_the_planned_info_and_write_none(tmp_path: Path, build: Any) -> None:
    planned = outputs_of(build(**new_arguments(tmp_path, BOUNDS)), RESOLUTION)
    infos = infos_of(planned)
    planned[0].layer.backend.write_info()
    before = (tmp_path / "info").stat()
    # What a worker would make of its spec is another info.
    worker = build(**new_arguments(tmp_path, BOUNDS, info_overwrite=True, info_chunk_size=(7, 7, 7)))
    assert worker.backend.unwritten is not None
    settle(worker, infos)
    output = pickle.loads(pickle.dumps(output_of(worker)))
    assert output == planned[0].__class__(**{**planned[0].__dict__, "layer": output.layer, "writer": output.writer})
    output.write(BOUNDS, np.full((1, *BOUNDS.shape), 3, "uint8"))
    assert (tmp_path / "info").stat() == before
    assert (by_cloudvolume(tmp_path) == 3).all()


class _Fails:
    """A joint processor of a user's, which moves what is written, and fails where there is something."""

    def process_index(self, idx: VolumetricIndex, mode: str) -> VolumetricIndex:
        return idx.translated((16, 0, 0))

    def process_data(self, data: Any, mode: str) -> Any:
        return 1 / 0 if data.any() else data


def test_a_processor_that_fails_is_told_by_its_line(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, Box.of_shape((64, 16, 8)), write_procs=[_Fails()])
    (output,) = outputs_of(layer, RESOLUTION)
    box = Box.of_shape((16, 16, 8))
    message = (
        r"^one of the processors of dst has failed for box 0,0,0,16,16,8: ZeroDivisionError: division by zero \(.*"
        r"test_outputs.py, line \d+, in process_data\): correct one of the processors"
    )
    with pytest.raises(FunctionError, match=message):
        output.write(box, np.ones((1, *box.shape), np.uint8))
