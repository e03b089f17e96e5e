import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import Mesh as CloudVolumeMesh
from hypothesis import given, settings
from hypothesis import strategies as st
from mapbuffer import MapBuffer

from beam_volumes.errors import CorruptDataError
from beam_volumes.geometry import Box
from beam_volumes.meshing import legacy
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.storage import Folder
from tests.beam_volumes.meshing.legacy_files import read_fragment, write_fragments

RESOLUTION = (16.0, 16.0, 40.0)
BOX = Box((100, 100, 64), (164, 164, 128))


def a_mesh(vertices: int, seed: int = 0) -> Mesh:
    random = np.random.default_rng(seed)
    places = random.integers(0, 2**16, (vertices, 3)).astype(np.int32)
    return Mesh(places, random.integers(0, vertices, (2 * vertices, 3)).astype(np.uint32))


def lists(mesh: Mesh) -> tuple[Any, Any]:
    return mesh.vertices.tolist(), mesh.faces.tolist()


def test_the_bytes_are_those_of_the_format() -> None:
    mesh = Mesh(np.array([[8, 16, -24], [16, 0, 1], [160, 32, 48]], np.int32), np.array([[0, 1, 2]], np.uint32))
    data = legacy.encode_mesh(mesh, RESOLUTION)
    expected = np.array([3], "<u4").tobytes()
    expected += np.array([[8, 16, -60], [16, 0, 2.5], [160, 32, 120]], "<f4").tobytes()
    assert data == expected + np.array([0, 1, 2], "<u4").tobytes()
    found = CloudVolumeMesh.from_precomputed(data)
    assert found.vertices.tolist() == [[8, 16, -60], [16, 0, 2.5], [160, 32, 120]]
    assert found.faces.tolist() == [[0, 1, 2]]


@given(
    vertices=st.lists(st.tuples(*[st.integers(-(2**19) * 16, 2**19 * 16)] * 3), min_size=1, max_size=20),
    resolution=st.tuples(*[st.one_of(st.floats(0.1, 1e5), st.sampled_from([4, 16.0, 22.5]))] * 3),
)
@settings(derandomize=True, deadline=None)
def test_a_mesh_comes_back_as_it_was(vertices: Any, resolution: Any) -> None:
    mesh = Mesh(np.array(vertices, np.int32), np.array([[0, 0, len(vertices) - 1]], np.uint32))
    found = legacy.decode_mesh(legacy.encode_mesh(mesh, resolution), resolution, "here")
    assert [found.vertices.dtype.name, found.faces.dtype.name] == ["int32", "uint32"]
    assert lists(found) == lists(mesh)


def test_floats_go_to_the_nearest_sixteenth() -> None:
    data = CloudVolumeMesh(
        np.array([[0.4, 0.6, 1.2], [-0.6, 7.9, 1.3], [1e5, 2e5 + 0.4, 4e4]], np.float32),
        np.array([[2, 1, 0]], np.uint32),
        None,
    ).to_precomputed()
    found = legacy.decode_mesh(data, RESOLUTION, "here")
    assert lists(found) == ([[0, 1, 0], [-1, 8, 1], [100_000, 200_000, 16_000]], [[2, 1, 0]])


def test_far_out_equal_places_stay_equal() -> None:
    # 10 mm: float32 is a whole nm apart, a quarter of a voxel.
    places = np.array([[40_000_003] * 3, [40_000_003] * 3], np.int32)
    mesh = Mesh(places, np.empty((0, 3), np.uint32))
    found = legacy.decode_mesh(legacy.encode_mesh(mesh, (4, 4, 4)), (4, 4, 4), "here")
    assert np.abs(found.vertices - places).max() <= 4
    assert found.vertices[0].tolist() == found.vertices[1].tolist()


def test_an_empty_mesh() -> None:
    empty = Mesh(np.empty((0, 3), np.int32), np.empty((0, 3), np.uint32))
    assert lists(legacy.decode_mesh(legacy.encode_mesh(empty, RESOLUTION), RESOLUTION, "here")) == ([], [])


GOOD = legacy.encode_mesh(a_mesh(5), RESOLUTION)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "here: expected a legacy mesh of 0 vertices.* came 0 bytes: forge that box again"),
        (GOOD[:50], "expected a legacy mesh of 5 vertices, 12 bytes each, and faces of 12 bytes, came 50 bytes"),
        (GOOD[:-1], "came 183 bytes"),
        (GOOD[:-4] + b"\5\0\0\0", "expected faces of 5 vertices, came vertex 5"),
        (GOOD[:4] + np.array([np.nan], "<f4").tobytes() + GOOD[8:], r"within 134,217,728 voxels.* came \[nan, "),
        (GOOD[:4] + np.array([3e9], "<f4").tobytes() + GOOD[8:], r"came \[3000000000.0, "),
    ],
)
def test_bytes_that_are_no_mesh_are_told(data: bytes, message: str) -> None:
    with pytest.raises(CorruptDataError, match=message):
        legacy.decode_mesh(data, RESOLUTION, "here")


def test_names() -> None:
    assert legacy.frags_name(BOX) == "100-164_100-164_64-128.frags"
    assert legacy.fragment_name(2**64 - 1, BOX) == "18446744073709551615:0:100-164_100-164_64-128"
    assert legacy.manifest_name(7) == "7:0"
    assert legacy.parse_frags_name(legacy.frags_name(BOX)) == BOX
    for name in ("info", "7:0", "0.shard", "100-164_100-164_64-128.spatial.gz", legacy.fragment_name(7, BOX)):
        assert legacy.parse_frags_name(name) is None


def test_boxes_below_zero_have_names() -> None:
    box = Box((-10, -20, 0), (-4, 8, 5))
    assert legacy.frags_name(box) == "-10--4_-20-8_0-5.frags"
    assert legacy.parse_frags_name(legacy.frags_name(box)) == box
    assert legacy.fragment_name(0, box) == "0:0:-10--4_-20-8_0-5"


@pytest.mark.parametrize("compression", ["br", "gzip", "none"])
@pytest.mark.parametrize("labels", [None, [2, 2**64 - 1, 99]])
def test_fragments_come_back(tmp_path: Path, compression: str, labels: list[int] | None) -> None:
    folder, name = Folder(str(tmp_path)), legacy.frags_name(BOX)
    meshes = {2**64 - 1: a_mesh(5), 1: a_mesh(60, 1), 2: a_mesh(7, 2)}
    write_fragments(folder, name, meshes.items(), RESOLUTION, compression)
    found = {label: lists(mesh) for label, mesh in legacy.read_fragments(folder, name, RESOLUTION, labels)}
    assert found == {label: lists(mesh) for label, mesh in meshes.items() if labels is None or label in labels}
    theirs = MapBuffer((tmp_path / name).read_bytes(), frombytesfn=CloudVolumeMesh.from_precomputed)
    assert theirs.compress == (None if compression == "none" else compression)
    assert np.array_equal(theirs[2].vertices, (meshes[2].vertices * np.array(RESOLUTION) / 16).astype(np.float32))
    assert np.array_equal(theirs[2].faces, meshes[2].faces)


def test_a_fragment_that_is_none_is_told_with_its_label(tmp_path: Path) -> None:
    (tmp_path / "a.frags").write_bytes(MapBuffer({5: b"\1\0\0\0"}, compress="br").tobytes())
    with pytest.raises(CorruptDataError, match=r"a\.frags: label 5: expected a legacy mesh of 1 vertices"):
        list(legacy.read_fragments(Folder(str(tmp_path)), "a.frags", RESOLUTION))


@pytest.mark.parametrize(("compression", "extension"), [("gzip", ".gz"), ("br", ".br"), ("none", "")])
def test_a_fragment_of_its_own_comes_back(tmp_path: Path, compression: str, extension: str) -> None:
    folder, name, mesh = Folder(str(tmp_path)), legacy.fragment_name(7, BOX), a_mesh(40)
    size = legacy.write_fragment(folder, name, mesh, RESOLUTION, compression)
    assert size == (tmp_path / f"{name}{extension}").stat().st_size
    assert lists(read_fragment(folder, name, RESOLUTION)) == lists(mesh)


def test_manifests_name_fragments(tmp_path: Path) -> None:
    folder, fragments = Folder(str(tmp_path)), [legacy.fragment_name(7, BOX), "7:0:a"]
    assert legacy.write_manifest(folder, 7, fragments) == (tmp_path / "7:0").stat().st_size
    assert json.loads((tmp_path / "7:0").read_bytes()) == {"fragments": fragments}
