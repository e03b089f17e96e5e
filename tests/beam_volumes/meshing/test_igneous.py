"""Fragments go both ways: Igneous merges what is written here, and what it forges is read here."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cloudvolume import CloudVolume

from beam_volumes.geometry import Box, Grid
from beam_volumes.meshing import legacy
from beam_volumes.meshing.mesh import UNITS, Mesh
from beam_volumes.meshing.mesh_info import OVERLAP, fragments_info
from beam_volumes.meshing.topology import count_edges, weld
from beam_volumes.spatial_index.files import IndexFiles, IndexGrid, LabelBoxes
from beam_volumes.storage import Folder
from tests.beam_volumes.meshing.closed_surfaces import boundary, used, volume
from tests.beam_volumes.meshing.legacy_files import read_fragment, read_manifest, write_fragments

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("igneous") is None, reason="Igneous needs pip install -e '.[benchmark]'"
)

RESOLUTION = (16.0, 16.0, 40.0)
START, SHAPE, TASK = (100, 200, 50), (96, 64, 64), (64, 64, 64)
BALLS = {7: ((52, 22, 22), 18), 2**40 + 5: ((70, 46, 46), 15), 9: ((90, 8, 8), 5)}
"""Labels, centers and radii, voxels; the first two cross the face between the tasks."""
VOLUME = Box.of_shape(SHAPE, START)


def igneous(path: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("igneous")), "mesh", *arguments]
    done = subprocess.run(command, cwd=path, env={**os.environ, "HOME": str(path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def labels() -> npt.NDArray[np.uint64]:
    voxels = np.zeros(SHAPE, np.uint64, order="F")
    places = np.indices(SHAPE)
    for label, (center, radius) in BALLS.items():
        squares = (places - np.array(center).reshape(3, 1, 1, 1)) ** 2
        voxels[squares.sum(axis=0) <= radius**2] = label
    return voxels


def new_volume(path: Path) -> str:
    url = f"file://{path}/volume"
    CloudVolume.from_numpy(
        labels(),
        url,
        resolution=(16, 16, 40),
        voxel_offset=START,
        chunk_size=(32, 32, 32),
        layer_type="segmentation",
        progress=False,
    )
    return url


def cut_at(plane: int, mesh: Mesh) -> tuple[Mesh, Mesh]:
    """Return the triangles on either side of a plane across x, voxels, that none crosses."""
    sides = mesh.vertices[mesh.faces][:, :, 0].mean(axis=1) < plane * UNITS
    return used(mesh, mesh.faces[sides]), used(mesh, mesh.faces[~sides])


def tasks() -> Iterator[tuple[Box, dict[int, Mesh]]]:
    """Yield the task boxes, and the surface of each label in it, along the faces of voxels."""
    grid = Grid(VOLUME, TASK, START)
    voxels = labels()
    sides: list[dict[int, Mesh]] = [{}, {}]
    for label in BALLS:
        corners, faces = boundary(voxels == label)
        whole = Mesh(((corners + np.array(START)) * UNITS).astype(np.int32), faces.astype(np.uint32))
        for own, mesh in zip(sides, cut_at(START[0] + TASK[0], whole), strict=True):
            if len(mesh.faces):
                own[label] = mesh
    yield from zip([grid.box((0, 0, 0)), grid.box((1, 0, 0))], sides, strict=True)


def boxes_of(meshes: dict[int, Mesh]) -> LabelBoxes:
    scale = np.array(RESOLUTION) / UNITS
    boxes = [[*m.vertices.min(axis=0) * scale, *m.vertices.max(axis=0) * scale] for m in meshes.values()]
    return LabelBoxes(np.array(list(meshes), np.uint64), np.array(boxes).astype(np.int64))


def forge_here(url: str, *, sharded: bool, compression: str) -> Folder:
    """Write fragments, their index and infos, as a forge does."""
    folder = Folder(f"{url}/meshes")
    index = IndexFiles(folder.url, IndexGrid.of_shape(VOLUME, TASK, (16, 16, 40)))
    for task, (box, meshes) in enumerate(tasks()):
        if sharded:
            write_fragments(folder, legacy.frags_name(box), meshes.items(), RESOLUTION, "br")
        else:
            for label, mesh in meshes.items():
                legacy.write_fragment(folder, legacy.fragment_name(label, box), mesh, RESOLUTION, compression)
        index.write(task, boxes_of(meshes), compression)
    folder.write("info", json.dumps(fragments_info(0, TASK, index.grid.info)).encode())
    volume_info = Folder(url).read_json("info")
    Folder(url).write("info", json.dumps({**(volume_info or {}), "mesh": "meshes"}).encode())
    return folder


def check_balls(meshes: dict[int, Any], tolerance_nm: float) -> None:
    """Compare the meshes of the balls, nm, with their voxels."""
    assert set(meshes) == set(BALLS)
    voxels = labels()
    for label, mesh in meshes.items():
        inside = np.argwhere(voxels == label) + np.array(START)
        scale = np.array(RESOLUTION)
        assert np.abs(mesh.vertices.min(axis=0) - inside.min(axis=0) * scale).max() <= tolerance_nm
        assert np.abs(mesh.vertices.max(axis=0) - (inside.max(axis=0) + 1) * scale).max() <= tolerance_nm
        assert volume(mesh.vertices, mesh.faces) == pytest.approx(len(inside) * scale.prod(), rel=1e-3)


def test_igneous_merges_our_fragments_into_shards(tmp_path: Path) -> None:
    url = new_volume(tmp_path)
    forge_here(url, sharded=True, compression="gzip")
    igneous(tmp_path, "merge-sharded", url, "--nlod", "1", "--min-chunk-size", "512,512,512")
    mesh = CloudVolume(url, progress=False).mesh
    assert mesh.meta.info["@type"] == "neuroglancer_multilod_draco"
    # A step of 16 bits is a nm or less.
    check_balls(mesh.get(list(BALLS), lod=0), 1)


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_igneous_writes_manifests_of_our_fragments(tmp_path: Path, compression: str) -> None:
    url = new_volume(tmp_path)
    folder = forge_here(url, sharded=False, compression=compression)
    igneous(tmp_path, "merge", url, "--magnitude", "1")
    found = CloudVolume(url, progress=False).mesh.get(list(BALLS), fuse=False)
    check_balls(found, 0)
    for label in BALLS:
        boxes = [box for box, meshes in tasks() if label in meshes]
        expected = sorted(legacy.fragment_name(label, box) for box in boxes)
        assert sorted(read_manifest(folder, label)) == expected


def test_cloudvolume_reads_our_manifests(tmp_path: Path) -> None:
    url = new_volume(tmp_path)
    folder = forge_here(url, sharded=False, compression="gzip")
    for label in BALLS:
        own = [legacy.fragment_name(label, box) for box, meshes in tasks() if label in meshes]
        legacy.write_manifest(folder, label, own)
    check_balls(CloudVolume(url, progress=False).mesh.get(list(BALLS), fuse=False), 0)


def forge_there(path: Path, *options: str) -> Folder:
    url = new_volume(path)
    igneous(path, "forge", url, "--shape", "64,64,64", "--dir", "theirs", "--skip-simplify", *options)
    return Folder(f"{url}/theirs")


def pieces(folder: Folder) -> dict[int, list[Mesh]]:
    found: dict[int, list[Mesh]] = {}
    for name in folder.list():
        if legacy.parse_frags_name(name):
            for label, mesh in legacy.read_fragments(folder, name, RESOLUTION):
                found.setdefault(label, []).append(mesh)
        elif fragment := re.match(r"(\d+):0:", name):
            found.setdefault(int(fragment[1]), []).append(read_fragment(folder, name, RESOLUTION))
    return found


def check_pieces(found: dict[int, list[Mesh]]) -> None:
    """Compare the surfaces that marching cubes has made of the balls with their voxels; corners are cut off."""
    assert {label: len(meshes) for label, meshes in found.items()} == {7: 2, 2**40 + 5: 2, 9: 1}
    voxels = labels()
    for label, meshes in found.items():
        whole = weld(meshes, None)
        assert count_edges(whole.faces, len(whole.vertices)) == (0, 0)
        inside = np.argwhere(voxels == label) + np.array(START)
        assert whole.vertices.min(axis=0).tolist() == (inside.min(axis=0) * UNITS).tolist()
        assert whole.vertices.max(axis=0).tolist() == ((inside.max(axis=0) + 1) * UNITS).tolist()
        assert (whole.vertices % 8 == 0).all()
        assert 0.93 < volume(whole.vertices, whole.faces) / UNITS**3 / len(inside) < 1


def test_we_read_the_shards_of_fragments_of_igneous(tmp_path: Path) -> None:
    folder = forge_there(tmp_path, "--sharded")
    grid = Grid(VOLUME, TASK, START)
    expected = [legacy.frags_name(grid.box((x, 0, 0))) for x in (0, 1)]
    assert [name for name in folder.list() if name.endswith(".frags")] == expected
    check_pieces(pieces(folder))
    ((label, mesh),) = legacy.read_fragments(folder, expected[1], RESOLUTION, [9, 99])
    assert (label, weld([mesh], None).vertices.min(axis=0).tolist()) == (9, [185 * 16, 203 * 16, 53 * 16])
    index = IndexGrid.of_shape(VOLUME, TASK, (16, 16, 40))
    ours = fragments_info(0, TASK, index.info)
    assert folder.read_json("info") == {name: value for name, value in ours.items() if name != OVERLAP}
    names = {index.name(task) for task in range(len(index))}
    assert {name.removesuffix(".gz") for name in folder.list() if ".spatial" in name} == names


@pytest.mark.parametrize("compression", ["gzip", "none", "br"])
def test_we_read_the_fragments_and_manifests_of_igneous(tmp_path: Path, compression: str) -> None:
    folder = forge_there(tmp_path, "--compress", compression)
    check_pieces(pieces(folder))
    igneous(tmp_path, "merge", f"{folder.url.rpartition('/')[0]}", "--magnitude", "1", "--dir", "theirs")
    named = {
        label: [read_fragment(folder, name, RESOLUTION) for name in read_manifest(folder, label)] for label in BALLS
    }
    check_pieces(named)


def test_simplified_fragments_of_igneous_stay_on_the_plane_between_tasks(tmp_path: Path) -> None:
    url = new_volume(tmp_path)
    igneous(tmp_path, "forge", url, "--shape", "64,64,64", "--dir", "theirs", "--sharded")
    folder = Folder(f"{url}/theirs")
    for meshes in pieces(folder).values():
        if len(meshes) == 2:
            low, high = sorted(meshes, key=lambda mesh: int(mesh.vertices[:, 0].min()))
            # The center of the first voxel of the second task.
            plane = (START[0] + TASK[0]) * UNITS + UNITS // 2
            assert low.vertices[:, 0].max() == high.vertices[:, 0].min() == plane
