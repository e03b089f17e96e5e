"""The spatial index of meshes, against the voxels, that of their fragments, and what CloudVolume answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cloudvolume import Bbox, CloudVolume

from beam_volumes.geometry import Box, Vec
from beam_volumes.spatial_index.files import decode_boxes, find_index_files
from beam_volumes.spatial_index.queries import SpatialIndex
from beam_volumes.spatial_index.urls import parse_database_url
from pipelines import index_mesh
from tests.pipelines.conftest import Array, copy_of, only_error, tree
from tests.pipelines.mesh_cases import (
    LODS,
    OFFSET,
    RESOLUTION,
    crossings,
    labels_in,
    report,
    write_labels,
)
from tests.pipelines.staged_meshes import CELL, FRAGMENTS, files, forge, merge, mesh, named, pieces

pytest_plugins = ["tests.pipelines.mesh_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def layer(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "layer"))


Index = dict[int, dict[int, list[int]]]
"""The box of each label in each task, nm, by the index of the task."""


def index_files(layer: Path, folder: str = "mesh") -> dict[str, bytes]:
    return {name: data for name, data in files(layer, folder).items() if ".spatial" in name}


def index_of(layer: Path, folder: str = "mesh") -> Index:
    """Return what stands in the files, of every task one."""
    found = find_index_files(f"file://{layer}", folder)
    contents = list(found.read(range(len(found))))
    assert len(index_files(layer, folder)) == len(contents)
    decoded = [decode_boxes(data or b"", "") for data in contents]
    return {n: dict(zip(f.labels.tolist(), f.boxes.tolist(), strict=True)) for n, f in enumerate(decoded)}


def index_of_voxels(labels: Array, tasks: list[Box]) -> Index:
    """Return what marching cubes would tell: a task has its vertices from the center of the voxel before it on."""
    end = np.array(OFFSET) + labels.shape
    found: Index = {task: {} for task in range(len(tasks))}
    for label in labels_in(labels):
        points = np.array(sorted(crossings(labels == label, OFFSET)))
        for task, box in enumerate(tasks):
            low, high = 2 * np.array(box.start) - 1, 2 * np.array(box.stop) - (np.array(box.stop) < end)
            here = points[((points >= low) & (points <= high)).all(axis=1)]
            if len(here):
                low_nm, high_nm = here.min(axis=0) * RESOLUTION // 2, here.max(axis=0) * RESOLUTION // 2
                found[task][label] = [*map(int, low_nm), *map(int, high_nm)]
    return found


def tasks_of(layer: Path, folder: str = "mesh") -> list[Box]:
    tasks = find_index_files(f"file://{layer}", folder).grid.tasks
    return [tasks.box(tasks.position(task)) for task in range(len(tasks))]


@pytest.mark.parametrize("options", [[], ["--sharded=false"], ["--format=legacy"]])
def test_the_index_of_one_run_is_that_of_its_fragments(options: list[str], forged: Path, tmp_path: Path) -> None:
    layer = copy_of(forged, tmp_path / "layer")
    assert mesh(layer, CELL, *options) == 0
    assert index_files(layer) == index_files(layer, FRAGMENTS)
    infos = [json.loads((layer / folder / "info").read_text()) for folder in ("mesh", FRAGMENTS)]
    assert (
        infos[0]["spatial_index"]
        == infos[1]["spatial_index"]
        == {
            "resolution": [16, 16, 40],
            "chunk_size": [384, 288, 560],
        }
    )
    assert report(layer)["files"].keys() == {"shards", "others", "other_bytes"}


@pytest.mark.parametrize("cell", ["24,20,16", "17,53,9", "128,128,128"])
def test_without_simplification_boxes_are_those_of_marching_cubes(cell: str, layer: Path, neurons: Array) -> None:
    assert mesh(layer, f"--cell_size={cell}", "--simplification_factor=1", "--num_lods=2") == 0
    found = index_of(layer)
    assert found == index_of_voxels(neurons, tasks_of(layer))
    assert sum(map(len, found.values())) >= len(labels_in(neurons))


Making = Callable[[Path], int]

MADE: dict[str, Making] = {
    "shards": lambda layer: mesh(layer, CELL, "--simplification_factor=1"),
    "files": lambda layer: mesh(layer, CELL, "--simplification_factor=1", "--sharded=false"),
    "legacy": lambda layer: mesh(layer, CELL, "--simplification_factor=1", "--format=legacy"),
    "merged": lambda layer: forge(layer, CELL, "--simplification_factor=1") or merge(layer, "--sharded=false"),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_queries_find_the_labels_in_a_box(make: Making, layer: Path, neurons: Array) -> None:
    assert make(layer) == 0
    theirs = CloudVolume(f"file://{layer}", progress=False).mesh.spatial_index
    ours = SpatialIndex(find_index_files(f"file://{layer}", "mesh"))
    tasks = tasks_of(layer)
    index, rng, low = index_of_voxels(neurons, tasks), np.random.default_rng(3), np.array(OFFSET)
    for _ in range(40):
        start = low + rng.integers(0, np.array(neurons.shape) - 8)
        stop = np.minimum(start + rng.integers(2, 30, 3), low + neurons.shape)
        # Whole voxels at their centers: a surface is half a voxel from those.
        box = Bbox((start + 0.5) * RESOLUTION, (stop - 0.5) * RESOLUTION, dtype=np.int64)
        met = {
            label
            for task, place in enumerate(tasks)
            if place.intersection(Box(tuple(start.tolist()), tuple(stop.tolist()))).voxels
            for label, (x0, y0, z0, x1, y1, z1) in index[task].items()
            if (np.array([x0, y0, z0]) < box.maxpt).all() and (np.array([x1, y1, z1]) > box.minpt).all()
        }
        assert set(theirs.query(box)) == met
        assert set(ours.labels_in_box((*box.minpt.tolist(), *box.maxpt.tolist())).tolist()) == met
        inside = neurons[Box(tuple(start.tolist()), tuple(stop.tolist())).slices(OFFSET)]
        # An object that fills the box has no surface in it.
        assert {label for label in labels_in(inside) if (inside != label).any()} <= met
    assert theirs.query(theirs.physical_bounds) == set(labels_in(neurons))


def test_the_index_is_loaded_from_the_folder_that_info_names(layer: Path, neurons: Array, tmp_path: Path) -> None:
    db = f"sqlite://{tmp_path}/index.db"
    assert mesh(layer, CELL, "--mesh_dir=meshes") == 0
    assert index_mesh.main([f"--layer=file://{layer}", f"--db={db}", "--processes=1"]) == 0
    plain = SpatialIndex(find_index_files(f"file://{layer}", "meshes"))
    ours = SpatialIndex(plain.files, parse_database_url(db))
    assert ours.labels_in_box().tolist() == labels_in(neurons)
    assert ours.files_of_labels() == plain.files_of_labels()
    theirs = CloudVolume(f"file://{layer}", progress=False, spatial_index_db=db).mesh.spatial_index
    for label, names in plain.files_of_labels().items():
        assert sorted(theirs.file_locations_per_label([label])[label]) == names
    # Fragments are those that merge_mesh asks for.
    assert forge(layer, CELL, "--labels=1,2") == 0
    assert named(layer) == "meshes"
    assert index_mesh.main([f"--layer=file://{layer}", f"--db={db}2", "--processes=1"]) == 0
    assert SpatialIndex(plain.files, parse_database_url(f"{db}2")).labels_in_box().tolist() == [1, 2]


def test_fragments_without_an_index_tell_by_their_vertices(layer: Path, neurons: Array) -> None:
    assert forge(layer, CELL, "--spatial_index=false") == 0
    assert merge(layer) == 0
    fragments = pieces(layer / FRAGMENTS)
    expected: Index = {task: {} for task in range(len(fragments))}
    for task, box in enumerate(tasks_of(layer)):
        for label, piece in fragments[box].items():
            low, high = np.floor(piece.vertices.min(axis=0)), np.ceil(piece.vertices.max(axis=0))
            expected[task][label] = [*map(int, low), *map(int, high)]
    assert index_of(layer) == expected
    assert {label for by_label in expected.values() for label in by_label} == set(labels_in(neurons))


def test_a_database_of_few_boxes_makes_no_index(
    forged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, db = copy_of(forged, tmp_path / "layer"), f"sqlite://{tmp_path}/index.db"
    assert index_mesh.main([f"--layer=file://{layer}", f"--db={db}", "--processes=1"]) == 0
    listed = ["--labels=1", f"--spatial_index_db={db}"]
    before = tree(layer)
    capsys.readouterr()
    assert merge(layer, *listed, "--spatial_index") == 2
    assert "--spatial_index: expected none with --spatial_index_db" in only_error(capsys.readouterr().err)
    assert tree(layer) == before
    assert merge(layer, *listed) == 0
    assert index_files(layer) == {}
    assert "spatial_index" not in json.loads((layer / "mesh/info").read_text())
    assert merge(layer, "--labels=1") == 2
    assert "spatial_index was false, now true" in only_error(capsys.readouterr().err)
    assert merge(layer, "--labels=1", "--overwrite") == 0
    assert {label for boxes in index_of(layer).values() for label in boxes} == {1}


@pytest.mark.parametrize("command", [mesh, forge])
def test_a_part_of_the_volume_has_no_index(
    command: Callable[..., int], layer: Path, neurons: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    part, options = "--bounds=-30,10,1010,3,50,1033", [CELL, "--mesh_dir=mesh"]
    before = tree(layer)
    assert command(layer, *options, part, "--spatial_index") == 2
    assert "--spatial_index: expected with it to mesh all voxels of mip 0" in only_error(capsys.readouterr().err)
    assert tree(layer) == before
    assert command(layer, *options) == 0
    assert len(index_files(layer)) == 27
    # Nothing of the index before is left over.
    assert command(layer, *options, part, "--overwrite") == 0
    assert index_files(layer) == {}
    assert "spatial_index" not in json.loads((layer / "mesh/info").read_text())
    whole = f"--bounds={Box.of_shape(neurons.shape, OFFSET)}"
    assert command(layer, *options, whole, "--spatial_index", "--overwrite") == 0
    assert len(index_files(layer)) == 27


@pytest.mark.parametrize(("offset", "resolution"), [((0, 0, 0), RESOLUTION), (OFFSET, (16, 16, 41))])
def test_a_volume_that_lies_elsewhere_gets_no_index(
    offset: Vec, resolution: Vec, layer: Path, neurons: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
    write_labels(there, neurons, offset, resolution)
    assert mesh(layer, CELL, f"--dst=file://{there}", "--spatial_index") == 2
    assert f"all voxels of mip 0 of file://{there}" in only_error(capsys.readouterr().err)
    assert mesh(layer, CELL, f"--dst=file://{there}") == 0
    assert index_files(there) == {}


def test_meshes_beside_the_same_voxels_have_the_index(layer: Path, tmp_path: Path) -> None:
    there = copy_of(layer, tmp_path / "there")
    assert mesh(layer, CELL, f"--dst=file://{there}") == 0
    assert mesh(layer, CELL) == 0
    assert index_files(there) == index_files(layer)
    assert len(index_files(layer)) == 27


@pytest.mark.parametrize("options", [[], ["--sharded=false"], ["--format=legacy"]])
def test_replaced_meshes_leave_no_index_files(options: list[str], layer: Path) -> None:
    assert mesh(layer, "--cell_size=14,14,10", *options) == 0
    assert len(index_files(layer)) == 5 * 4 * 5
    assert mesh(layer, *LODS[1:], *options, "--overwrite") == 0
    assert index_of(layer).keys() == set(range(27))
    assert mesh(layer, *LODS[1:], *options, "--spatial_index=false", "--overwrite") == 0
    assert index_files(layer) == {}
    assert "spatial_index" not in json.loads((layer / "mesh/info").read_text())


@pytest.mark.parametrize("spatial_index", ["true", "false"])
def test_index_files_of_others_are_noticed(spatial_index: str, layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*LODS, f"--spatial_index={spatial_index}"]
    assert mesh(layer, *command) == 0
    expected = files(layer)
    (layer / "mesh/0-384_0-288_0-560.spatial.gz").write_bytes(b"")
    capsys.readouterr()
    assert mesh(layer, *command) == 1
    line = only_error(capsys.readouterr().err)
    assert "files of the spatial index and no others, came 0-384_0-288_0-560.spatial.gz (1 in all)" in line
    assert mesh(layer, *command, "--overwrite") == 0
    assert files(layer) == expected
    if spatial_index == "true":
        gone = min(index_files(layer))
        (layer / "mesh" / gone).unlink()
        assert mesh(layer, *command) == 1
        assert f"27 files of the spatial index and no others, came {gone}" in only_error(capsys.readouterr().err)


@pytest.mark.parametrize("cell", ["1,1,1", "2,1,3"])
@pytest.mark.parametrize("command", [mesh, forge])
def test_open_borders_and_cells_of_one_voxel(command: Callable[..., int], cell: str, tmp_path: Path) -> None:
    labels = np.ones((5, 4, 3), np.uint8)
    labels[2, 1, 1] = 2
    write_labels(tmp_path / "layer", labels)
    options = ["--mesh_dir=mesh", f"--cell_size={cell}", "--close_borders=false", "--simplification_factor=1"]
    assert command(tmp_path / "layer", *options) == 0
    index = index_of(tmp_path / "layer")
    assert {label for boxes in index.values() for label in boxes} == {1, 2}
    assert SpatialIndex(find_index_files(f"file://{tmp_path}/layer", "mesh")).box_of_label(2) == (
        (OFFSET[0] + 2) * 16,
        (OFFSET[1] + 1) * 16,
        (OFFSET[2] + 1) * 40,
        (OFFSET[0] + 3) * 16,
        (OFFSET[1] + 2) * 16,
        (OFFSET[2] + 2) * 40,
    )
