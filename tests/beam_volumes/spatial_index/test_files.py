"""Index files against CloudVolume's reader, and by their exact names."""

import gzip
import json
from pathlib import Path

import brotli
import numpy as np
import pytest
from cloudvolume.lib import Bbox
from hypothesis import given
from hypothesis import strategies as st

from beam_volumes.errors import CorruptDataError, OptionError
from beam_volumes.geometry import Box
from beam_volumes.spatial_index.files import (
    IndexGrid,
    LabelBoxes,
    decode_boxes,
    decode_labels,
    encode_boxes,
    find_index_files,
    whole_nm,
)
from tests.beam_volumes.spatial_index.made_index import OFFSET, SHAPE, SIZE, cloudvolume_index, make_index

RESOLUTIONS = [(16, 16, 40), (4.0, 4.0, 40.0), (4.5, 4.25, 40.5), (0.5, 8, 3)]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_names_are_those_that_cloudvolume_looks_for(tmp_path: Path, resolution: tuple[float, float, float]) -> None:
    files = make_index(tmp_path, resolution)
    theirs = cloudvolume_index(files)
    expected = list(theirs.index_file_paths_for_bbox(theirs.physical_bounds))
    assert [files.grid.name(task) for task in range(len(files))] == expected
    assert len(expected) == 5 * 3 * 2
    assert [files.grid.task_of(name) for name in expected] == list(range(30))


def test_names_are_cut_off_at_the_end_of_the_volume() -> None:
    grid = IndexGrid.of_shape(Box((5, 7, 11), (105, 127, 101)), (64, 64, 64), [4.5, 4.3, 40.2])
    assert grid.name(0) == "22.5-310.5_30.1-305.3_442.2-3015.0.spatial"
    assert grid.name(7) == "310.5-472.5_305.3-546.1_3015.0-4060.2.spatial"
    assert grid.info == {"resolution": [4.5, 4.3, 40.2], "chunk_size": [288.0, 275.2, 2572.8]}
    whole = IndexGrid.of_shape(Box((5, 7, 11), (105, 127, 101)), (64, 64, 64), [16, 16, 40])
    assert json.dumps(whole.info) == '{"resolution": [16, 16, 40], "chunk_size": [1024, 1024, 2560]}'
    assert whole.name(0) == "80-1104_112-1136_440-3000.spatial"


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("compression", ["gzip", "br", "none"])
def test_files_are_found_and_read(tmp_path: Path, resolution: tuple[float, float, float], compression: str) -> None:
    made = make_index(tmp_path, resolution, compression=compression)
    files = find_index_files(f"file://{tmp_path}", "mesh")
    assert files == made
    theirs = cloudvolume_index(files)
    for name, content in theirs.fetch_index_files([files.grid.name(task) for task in range(len(files))]).items():
        task = files.grid.task_of(Path(name).name)
        (data,) = files.read([task])
        assert data == content
        found = decode_boxes(data or b"", name)
        assert {str(n): box for n, box in zip(found.labels, found.boxes.tolist(), strict=True)} == json.loads(content)
        assert decode_labels(data or b"", name).tolist() == found.labels.tolist()


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    files = make_index(tmp_path)
    (tmp_path / f"mesh/{files.grid.name(4)}.gz").unlink()
    assert [data is None for data in files.read(range(6))] == [False] * 4 + [True, False]
    with pytest.raises(type(files.missing([4])), match=rf"{files.grid.name(4)}: .* missing: mesh that box again"):
        raise files.missing([4])


@given(st.dictionaries(st.integers(0, 2**64 - 1), st.lists(st.integers(-(2**40), 2**40), min_size=6, max_size=6)))
def test_what_is_written_is_read(content: dict[int, list[int]]) -> None:
    labels = np.array(list(content), np.uint64)
    boxes = np.array(list(content.values()), np.int64).reshape(-1, 6)
    data = encode_boxes(LabelBoxes(labels, boxes))
    found = decode_boxes(data, "a file")
    assert dict(zip(found.labels.tolist(), found.boxes.tolist(), strict=True)) == content
    assert decode_labels(data, "a file").tolist() == sorted(content)


def test_boxes_with_fractions_become_whole_ones_that_hold_them() -> None:
    found = decode_boxes(b'{"3": [-0.5, 1, 2.9, 3.1, 4, 5.0]}', "a file")
    assert found.boxes.tolist() == [[-1, 1, 2, 4, 4, 5]]
    assert whole_nm(np.array([[0.2, -1.5, 3, 7.1, 8, 9.9]])).tolist() == [[0, -2, 3, 8, 8, 10]]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b'{"a": [1,2,3,4,5,6]}', b'{"-1": [1,2,3,4,5,6]}', b'{"18446744073709551616": [1,2,3,4,5,6]}'],
)
def test_what_is_no_index_is_refused(data: bytes) -> None:
    for decode in (decode_labels, decode_boxes):
        with pytest.raises(CorruptDataError, match=r"x\.spatial: expected JSON of labels and boxes"):
            decode(data, "x.spatial")


@pytest.mark.parametrize("boxes", [b'{"1": [1,2,3]}', b'{"1": 5}', b'{"1": "a"}', b'{"1": [1,2,3,4,5,6], "2": []}'])
def test_boxes_that_are_none_are_refused(boxes: bytes) -> None:
    with pytest.raises(CorruptDataError, match="six numbers"):
        decode_boxes(boxes, "x.spatial")


@pytest.mark.parametrize("data", [gzip.compress(b"{}")[:-4], brotli.compress(b'{"1": []}')[:-3], b"\x1f\x8bxx"])
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes) -> None:
    files = make_index(tmp_path)
    (tmp_path / f"mesh/{files.grid.name(0)}.gz").write_bytes(data)
    with pytest.raises(CorruptDataError, match=rf"mesh/{files.grid.name(0)}: expected .* data, came"):
        list(files.read([0]))


@pytest.mark.parametrize(
    "index",
    [
        {"resolution": [1, 2], "chunk_size": [3, 4, 5]},
        {"resolution": [16, 16, 40], "chunk_size": [1, 1, 1]},
        {"resolution": [16, 16, 40], "chunk_size": [1024, 1024, 2561]},
        {"resolution": [0, 16, 40], "chunk_size": [1024, 1024, 2560]},
        {"resolution": [16, 16, 40]},
        {"resolution": ["x", 16, 40], "chunk_size": [1024, 1024, 2560]},
    ],
)
def test_an_info_that_cannot_be_is_refused(index: dict[str, object]) -> None:
    with pytest.raises(CorruptDataError, match="mesh/info: expected a"):
        IndexGrid.of_info(Box.of_shape(SIZE, OFFSET), index, "mesh/info")


def test_the_mip_is_that_of_the_info_or_of_the_name(tmp_path: Path) -> None:
    make_index(tmp_path)
    info = json.loads((tmp_path / "info").read_text())
    info["scales"].append(
        {**info["scales"][0], "size": [150, 75, 90], "voxel_offset": [2, -3, 11], "resolution": [32, 32, 40]}
    )
    (tmp_path / "info").write_text(json.dumps(info))
    mesh = json.loads((tmp_path / "mesh/info").read_text())
    del mesh["mip"], mesh["spatial_index"]["resolution"]
    (tmp_path / "mesh_mip_1_err_40").mkdir()
    (tmp_path / "mesh_mip_1_err_40/info").write_text(json.dumps(mesh))
    found = find_index_files(f"file://{tmp_path}", "mesh_mip_1_err_40").grid
    assert found.tasks.bounds == Box((2, -3, 11), (152, 72, 101))
    assert found.tasks.cell == (32, 32, 64)
    (tmp_path / "mesh/info").write_text(json.dumps({**mesh, "mip": 2}))
    with pytest.raises(CorruptDataError, match="expected a mip of the volume, 0 to 1, came 2"):
        find_index_files(f"file://{tmp_path}", "mesh")


def test_folders_without_an_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--layer: expected a Precomputed volume"):
        find_index_files(f"file://{tmp_path}", "mesh")
    make_index(tmp_path)
    with pytest.raises(OptionError, match=r"--mesh_dir: .*/other/info does not exist"):
        find_index_files(f"file://{tmp_path}", "other")
    (tmp_path / "mesh/info").write_text('{"@type": "neuroglancer_legacy_mesh"}')
    with pytest.raises(OptionError, match=r"--mesh_dir: .*has no spatial_index"):
        find_index_files(f"file://{tmp_path}", "mesh")


def test_tasks_that_meet_a_box_are_those_of_cloudvolume(tmp_path: Path) -> None:
    files = make_index(tmp_path)
    theirs = cloudvolume_index(files)
    rng = np.random.default_rng(1)
    low, high = theirs.physical_bounds.minpt, theirs.physical_bounds.maxpt
    for _ in range(50):
        a, b = np.sort(rng.integers(low, high, (2, 3)), axis=0)
        box = Bbox(a, b + 1)
        ours = {files.grid.name(task) for task in files.grid.tasks_meeting((*a.tolist(), *(b + 1).tolist()))}
        assert ours == set(theirs.index_file_paths_for_bbox(box))
    assert files.grid.tasks.cell == SHAPE
