"""Fragments and their spatial index, against the voxels they are of, as other tools read them."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cloudvolume import Bbox, CloudVolume

import transforms.mesh
from beam_volumes.errors import ConservationError, DestinationError
from beam_volumes.geometry import Box, Vec
from beam_volumes.meshing import mesh_plan, mesh_report
from beam_volumes.meshing.levels import forge_cell
from beam_volumes.spatial_index.files import find_index_files
from beam_volumes.spatial_index.queries import SpatialIndex
from pipelines.forge_mesh import main
from tests.pipelines.conftest import (
    Array,
    check_holes_are_accepted_each_time,
    check_refusal,
    only_error,
    rows_of,
    stamps,
    tree,
)
from tests.pipelines.mesh_cases import (
    OFFSET,
    RESOLUTION,
    crossings,
    labels_in,
    report,
    stage,
    write_labels,
)
from tests.pipelines.mesh_reading import legacy_surface, weld
from tests.pipelines.staged_meshes import CELL, FRAGMENTS, Nm, files, forge, half_voxels, named, pieces

pytest_plugins = ["tests.pipelines.mesh_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def layer(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "layer"))


CUTS: list[tuple[str, str, Vec, Nm]] = [
    # cells, data type, offset, resolution
    ("24,20,16", "uint64", OFFSET, RESOLUTION),
    ("256,256,256", "uint8", (0, 0, 0), (4, 4, 40)),
    ("9,10,11", "uint16", (-100, 200, 5), (4.5, 3.3, 40.1)),
    ("70,53,20", "uint32", (2**19 - 100, -(2**19) + 1, 7), (7, 9, 30)),
]


@pytest.mark.parametrize(("cell", "data_type", "offset", "resolution"), CUTS)
def test_without_simplification_fragments_are_marching_cubes(
    cell: str, data_type: str, offset: Vec, resolution: Nm, neurons: Array, tmp_path: Path
) -> None:
    labels = neurons.astype(data_type)
    if data_type == "uint64":
        labels = np.where(neurons, np.uint64(2**64 - 1) - (neurons - np.uint64(1)), np.uint64(0))
    layer = tmp_path / "layer"
    write_labels(layer, labels, offset, resolution)
    assert forge(layer, f"--cell_size={cell}", "--simplification_factor=1") == 0
    found = pieces(layer / FRAGMENTS)
    # The boxes are those of a grid, cut off where the volume ends.
    assert sum(box.voxels for box in found) == labels.size
    bounds = Box.of_shape(labels.shape, offset)
    assert all(bounds.contains(box) for box in found)
    for label in labels_in(labels):
        mine = [(box, by_label[label]) for box, by_label in found.items() if label in by_label]
        points = np.concatenate([piece.vertices for _, piece in mine])
        places = half_voxels(points, resolution, 0.1)
        assert places == crossings(labels == label, offset)
        assert open_edges([(piece.vertices, piece.faces) for _, piece in mine], resolution) == 0
        for box, piece in mine:
            # From the centers of the voxels before the box to those of its last ones, or to the volume's faces.
            voxels = piece.vertices.astype(np.float64) / np.array(resolution)
            high = np.where(np.array(box.stop) == bounds.stop, np.array(box.stop), np.array(box.stop) - 0.5)
            low = np.where(np.array(box.start) == bounds.start, np.array(box.start), np.array(box.start) - 0.5)
            assert (voxels >= low - 0.05).all()
            assert (voxels <= high + 0.05).all()


def open_edges(meshes: list[tuple[Array, npt.NDArray[np.int64]]], resolution: Nm) -> int:
    """Return how many edges have an odd number of faces, once all vertices at one place, in sixteenths, are one."""
    counts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    points = np.concatenate([vertices for vertices, _ in meshes]).astype(np.float64) / np.array(resolution) * 16
    _, numbers = weld(np.rint(points).astype(np.int64))
    faces = numbers[np.concatenate([faces + first for (_, faces), first in zip(meshes, counts, strict=False)])]
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges = edges[edges[:, 0] != edges[:, 1]]
    return int((np.unique(edges, axis=0, return_counts=True)[1] % 2).sum())


def test_simplified_fragments_fit_together(forged: Path, neurons: Array) -> None:
    found = pieces(forged / FRAGMENTS)
    for label in labels_in(neurons):
        mine = [(p.vertices, p.faces) for by_label in found.values() for n, p in by_label.items() if n == label]
        assert open_edges(mine, RESOLUTION) == 0
    told = stage(forged, "labels", FRAGMENTS)
    assert told["meshed"] == len(labels_in(neurons))
    assert (
        sum(len(p.faces) for by_label in found.values() for p in by_label.values())
        == (stage(forged, "level of detail 0", FRAGMENTS)["triangles"])
    )
    assert stage(forged, "surfaces", FRAGMENTS)["triangles_of_marching_cubes"] > 20_000


def test_every_box_has_files_even_an_empty_one(tmp_path: Path) -> None:
    labels = np.zeros((40, 30, 20), np.uint32)
    labels[2:5, 2:5, 2:5] = 7
    layer = tmp_path / "layer"
    write_labels(layer, labels, (0, 0, 0))
    assert forge(layer, "--cell_size=14,11,21") == 0
    found = pieces(layer / FRAGMENTS)
    assert {box: list(by_label) for box, by_label in found.items()} == {
        Box((x, y, 0), (min(x + 14, 40), min(y + 11, 30), 20)): [7] * (x == y == 0)
        for x in (0, 14, 28)
        for y in (0, 11, 22)
    }
    index = index_of(layer)
    assert index.pop("0-224_0-176_0-800.spatial") == {"7": [32, 32, 80, 80, 80, 200]}
    others = [(x, y) for x in (0, 224, 448) for y in (0, 176, 352) if x or y]
    names = [f"{x}-{min(x + 224, 640)}_{y}-{min(y + 176, 480)}_0-800.spatial" for x, y in others]
    assert index == {name: {} for name in names}
    assert json.loads((layer / FRAGMENTS / "info").read_text()) == {
        "@type": "neuroglancer_legacy_mesh",
        "mip": 0,
        "chunk_size": [14, 11, 21],
        "overlap": {"low": 1, "high": 0},
        "spatial_index": {"resolution": [16, 16, 40], "chunk_size": [224, 176, 840]},
    }


def index_of(layer: Path) -> dict[str, dict[str, list[int]]]:
    paths = (layer / FRAGMENTS).glob("*.spatial.gz")
    return {path.name.removesuffix(".gz"): json.loads(gzip.decompress(path.read_bytes())) for path in paths}


@pytest.mark.parametrize("shape", [(12, 9, 7), (30, 1, 1), (2, 2, 2), (1, 1, 1), (110, 3, 12)])
def test_there_are_as_many_boxes_as_cells_whatever_the_size(shape: Vec, tmp_path: Path) -> None:
    """Where cells fill the volume, the border that closes objects has none for itself."""
    labels = np.full(shape, 5, np.uint8)
    layer = tmp_path / "layer"
    write_labels(layer, labels)
    for cell in ("3,3,3", "10,1,11", "1,1,1"):
        assert forge(layer, f"--cell_size={cell}", "--simplification_factor=1", "--overwrite") == 0
        found = pieces(layer / FRAGMENTS)
        assert sum(box.voxels for box in found) == labels.size
        points = np.concatenate([piece.vertices for by_label in found.values() for piece in by_label.values()])
        assert half_voxels(points) == crossings(labels == 5, OFFSET)
        assert len(index_of(layer)) == len(found)


@pytest.mark.parametrize("cell", ["24,20,16", "128,128,128"])
def test_plain_fragments_are_legacy_meshes(cell: str, layer: Path, neurons: Array) -> None:
    options = ["--sharded=false", f"--cell_size={cell}"]
    assert forge(layer, *options, "--simplification_factor=1") == 0
    assert named(layer) == FRAGMENTS
    assert list((layer / FRAGMENTS).glob("*.frags")) == []
    source = CloudVolume(f"file://{layer}", progress=False).mesh
    manifests = [p.name for p in (layer / FRAGMENTS).iterdir() if re.fullmatch(r"\d+:0(\.gz)?", p.name)]
    assert sorted(int(name.split(":")[0]) for name in manifests) == labels_in(neurons)
    for label in labels_in(neurons):
        surface = legacy_surface(layer, label, RESOLUTION)
        assert len(surface.open_edges) == 0
        assert half_voxels(surface.nm) == crossings(neurons == label, OFFSET)
        assert half_voxels(source.get(label, fuse=True).vertices) == crossings(neurons == label, OFFSET)
    assert index_of(layer).keys() == {path.name.removesuffix(".gz") for path in index_files(layer)}
    assert forge(layer, *options, "--overwrite") == 0
    for label in labels_in(neurons):
        assert len(legacy_surface(layer, label, RESOLUTION).open_edges) == 0


def index_files(layer: Path) -> list[Path]:
    grid = find_index_files(f"file://{layer}", FRAGMENTS).grid
    return [layer / FRAGMENTS / grid.name(task) for task in range(len(grid))]


QUERIES = [
    ("24,20,16", "uint64", OFFSET, RESOLUTION),
    ("17,53,9", "uint32", (5, -7, 3), (4.5, 3.3, 40.1)),
    ("30,20,41", "uint16", (0, 0, 0), (7, 9, 30)),
]


@pytest.mark.parametrize(("cell", "data_type", "offset", "resolution"), QUERIES)
def test_the_index_finds_labels_in_boxes(
    cell: str, data_type: str, offset: Vec, resolution: Nm, neurons: Array, tmp_path: Path
) -> None:
    layer = tmp_path / "layer"
    write_labels(layer, neurons.astype(data_type), offset, resolution)
    assert forge(layer, f"--cell_size={cell}", "--simplification_factor=20") == 0
    files = find_index_files(f"file://{layer}", FRAGMENTS)
    ours, theirs = SpatialIndex(files), CloudVolume(f"file://{layer}", progress=False).mesh.spatial_index
    assert ours.labels_in_box().tolist() == labels_in(neurons)
    rng, low = np.random.default_rng(1), np.array(offset)
    for _ in range(25):
        start = low + rng.integers(0, np.array(neurons.shape) - 8)
        stop = np.minimum(start + rng.integers(2, 30, 3), low + neurons.shape)
        # Whole voxels at their centers: a surface is half a voxel from those.
        box = Bbox((start + 0.5) * resolution, (stop - 0.5) * resolution, dtype=np.float64)
        found = ours.labels_in_box((*box.minpt, *box.maxpt)).tolist()
        if (np.array(resolution) % 1 == 0).all():
            # Of other boxes CloudVolume makes the corners whole nm, and so finds no files.
            assert found == sorted(theirs.query(box))
        inside = neurons[Box(tuple(start.tolist()), tuple(stop.tolist())).slices(offset)]
        surfaces = [n for n in labels_in(inside) if (inside != n).any()]
        assert set(surfaces) <= set(found)
    for label in labels_in(neurons):
        points = np.argwhere(neurons == label) + low
        corners = np.concatenate([points.min(axis=0) * resolution, (points.max(axis=0) + 1) * resolution])
        box_nm = ours.box_of_label(label)
        assert box_nm is not None
        assert (np.array(box_nm)[:3] <= corners[:3] + 1e-3).all()
        assert (np.array(box_nm)[3:] >= corners[3:] - 1e-3).all()
        # And is no larger than needs be: what simplification may move a vertex, and whole nm.
        assert np.abs(np.array(box_nm) - corners).max() <= max(resolution) + 1
        held = ours.files_of_labels([label])[label]
        assert held == sorted(theirs.file_locations_per_label([label])[label])
        assert sorted(held) == sorted(name for name, boxes in index_of(layer).items() if str(label) in boxes)


def test_dust_is_what_is_small_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.zeros((64, 64, 64), np.uint32)
    labels[14:18, 14:18, 14:18] = 1
    labels[40:44, 40:44, 40:44] = 3
    labels[40, 40, 40] = 0
    layer = tmp_path / "layer"
    write_labels(layer, labels, (0, 0, 0))
    for threshold, expected in ((63, [1, 3]), (64, [1])):
        options = ["--cell_size=16,16,16", "--simplification_factor=1", "--overwrite"]
        assert forge(layer, *options, f"--dust_threshold={threshold}") == 0
        found = pieces(layer / FRAGMENTS)
        assert sorted({label for by_label in found.values() for label in by_label}) == expected
        for label in expected:
            points = np.concatenate([by_label[label].vertices for by_label in found.values() if label in by_label])
            assert half_voxels(points) == crossings(labels == label, (0, 0, 0))
        assert SpatialIndex(find_index_files(f"file://{layer}", FRAGMENTS)).labels_in_box().tolist() == expected
        told = stage(layer, "labels", FRAGMENTS)
        assert (told["meshed"], told["under_the_dust_threshold"]) == (len(expected), 2 - len(expected))
    assert forge(layer, "--dust_threshold=65", "--mesh_dir=none") == 1
    assert "of 2 objects 2 have fewer voxels than --dust_threshold" in only_error(capsys.readouterr().err)


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_labels_that_are_chosen(sharded: str, layer: Path, neurons: Array, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("1\n5\n7\n")
    options = [CELL, f"--sharded={sharded}", f"--labels={tmp_path}/list", "--exclude=5,6"]
    assert forge(layer, *options) == 0
    assert SpatialIndex(find_index_files(f"file://{layer}", FRAGMENTS)).labels_in_box().tolist() == [1, 7]
    if sharded == "true":
        assert {n for by_label in pieces(layer / FRAGMENTS).values() for n in by_label} == {1, 7}
    else:
        assert len(legacy_surface(layer, 7, RESOLUTION).open_edges) == 0
        assert not (layer / FRAGMENTS / "5:0.gz").exists()
    told = stage(layer, "labels", FRAGMENTS)
    assert (told["meshed"], told["not_asked_for"]) == (2, len(labels_in(neurons)) - 2)


def test_without_an_index_none_is_told_of(layer: Path) -> None:
    assert forge(layer, CELL, "--spatial_index=false") == 0
    assert list((layer / FRAGMENTS).glob("*.spatial*")) == []
    assert "spatial_index" not in json.loads((layer / FRAGMENTS / "info").read_text())


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_a_volume_without_objects(sharded: str, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    write_labels(layer, np.zeros((20, 20, 20), np.uint8))
    assert forge(layer, "--cell_size=11,21,21", f"--sharded={sharded}") == 0
    assert [list(by_label) for by_label in pieces(layer / FRAGMENTS).values()] == [[]] * 2 * (sharded == "true")
    assert list(index_of(layer).values()) == [{}, {}]


def test_the_info_names_fragments_only_where_there_are_no_meshes(layer: Path) -> None:
    assert forge(layer, CELL) == 0
    assert named(layer) == FRAGMENTS
    assert forge(layer, CELL, "--mesh_dir=others", "--labels=1") == 0
    assert named(layer) == FRAGMENTS
    info = json.loads((layer / "info").read_text())
    (layer / "info").write_text(json.dumps({**info, "mesh": "meshes"}))
    assert forge(layer, CELL, "--mesh_dir=more", "--labels=1") == 0
    assert forge(layer, CELL, "--overwrite") == 0
    assert named(layer) == "meshes"


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("sharded", ["true", "false"])
def test_the_bytes_depend_on_the_voxels_alone(
    sharded: str, processes: int, layer: Path, whole: dict[str, dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [CELL, f"--sharded={sharded}"]
    assert forge(layer, *options, processes=processes) == 0
    assert files(layer, FRAGMENTS) == whole[sharded]
    assert forge(layer, *options, "--overwrite", "--direct_runner_bundle_repeat=1", processes=processes) == 0
    assert files(layer, FRAGMENTS) == whole[sharded]
    before = stamps(layer)
    capsys.readouterr()
    assert forge(layer, *options, processes=processes) == 0
    out, err = capsys.readouterr()
    assert "nothing to do" in err
    assert out.endswith(f"\nfile://{layer}/{FRAGMENTS} is complete\n")
    assert stamps(layer) == before


@pytest.fixture(scope="module")
def whole(stored: Path, forged: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files by `--sharded`."""
    layer = Path(shutil.copytree(stored, tmp_path_factory.mktemp("whole") / "layer"))
    assert forge(layer, CELL, "--sharded=false") == 0
    return {"true": files(forged, FRAGMENTS), "false": files(layer, FRAGMENTS)}


def test_the_report_counts_files(forged: Path) -> None:
    sizes = [path.stat().st_size for path in (forged / FRAGMENTS).glob("*.frags")]
    assert report(forged, FRAGMENTS)["files"] == {"shards": {}, "others": 27, "other_bytes": sum(sizes)}
    cells = stage(forged, "cells", FRAGMENTS)
    assert (cells["planned"], cells["done"], cells["elements_taken_up_from_an_interrupted_run"]) == (27, 27, 0)


def test_the_plan_tells_and_writes_nothing(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(layer)
    assert forge(layer, CELL, "--plan", "--labels=1,2", "--dust_threshold=1000") == 0
    rows = rows_of(capsys.readouterr().out)
    assert tree(layer) == before
    assert rows["destination"] == f"file://{layer}/{FRAGMENTS} (new)"
    assert rows["cells"] == "27 of 24 x 18 x 14, read in blocks of 128 x 64 x 64"
    assert rows["labels"] == "2 listed, from 1,000 voxels on, without 0"
    assert rows["cells by level of detail"] == "27"


def test_what_is_there_is_replaced_only_when_told(
    layer: Path, whole: dict[str, dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    (layer / FRAGMENTS).mkdir()
    (layer / FRAGMENTS / "0-64_0-64_0-64.frags").write_text("others")
    before = tree(layer)
    assert forge(layer, CELL) == 2
    line = only_error(capsys.readouterr().err)
    assert f"there is {FRAGMENTS}/0-64_0-64_0-64.frags, without a report" in line
    assert tree(layer) == before
    assert forge(layer, CELL, "--overwrite") == 0
    assert files(layer, FRAGMENTS) == whole["true"]
    assert forge(layer, CELL, "--sharded=false") == 2
    assert "sharded was true, now false" in only_error(capsys.readouterr().err)
    assert forge(layer, CELL, "--sharded=false", "--overwrite") == 0
    assert files(layer, FRAGMENTS) == whole["false"]


LOST = {
    # files, whether other cells tell them of labels
    "a file": (["-9-15_25-43_1001-1015.frags"], 2 * 2),
    "an index": (["-144-240_400-688_40040-40600.spatial.gz"], 2 * 2),
    "the first": (["-33--9_7-25_1001-1015.frags", "-528--144_112-400_40040-40600.spatial.gz"], 1),
    "two": (["-33--9_7-25_1001-1015.frags", "15-37_43-60_1029-1042.frags"], 1 + 2 * 2 * 2),
}


@pytest.mark.parametrize("dust", [0, 3000])
@pytest.mark.parametrize(("lost", "counted"), LOST.values(), ids=LOST)
def test_files_that_are_gone_since_are_made_anew_and_no_others(
    lost: list[str],
    counted: int,
    dust: int,
    layer: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mesh_plan, "_CELLS_PER_LABEL_PART", 4)
    options = [CELL, f"--dust_threshold={dust}"]
    assert forge(layer, *options) == 0
    expected, before, told = files(layer, FRAGMENTS), stamps(layer), report(layer, FRAGMENTS)
    for name in lost:
        (layer / FRAGMENTS / name).unlink()
    capsys.readouterr()
    assert forge(layer, *options, "--plan") == 0
    out, err = capsys.readouterr()
    boxes = len({name for name in lost if name.endswith(".frags")}) or 1
    assert err == (
        f"warning: of 27 boxes {boxes} lack files in file://{layer}/{FRAGMENTS}: these are made anew, and no others\n"
    )
    assert rows_of(out)["boxes whose files are missing"] == str(boxes)
    calls = counting_calls(monkeypatch)
    assert forge(layer, *options) == 0
    assert calls == {"count_cell": 27 if dust else counted, "forge_cell": boxes}
    assert files(layer, FRAGMENTS) == expected
    assert report(layer, FRAGMENTS) == told
    made = {name.removeprefix(f"{FRAGMENTS}/") for name, stamp in stamps(layer).items() if before.get(name) != stamp}
    assert made >= set(lost)
    assert len(made) == 2 * boxes
    assert not (layer / ".beam_volumes").exists()
    capsys.readouterr()
    assert forge(layer, *options) == 0
    assert "nothing to do" in capsys.readouterr().err


def counting_calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count from now on what is done with cells."""
    calls = {"count_cell": 0, "forge_cell": 0}

    def counting(name: str) -> Any:
        real = getattr(transforms.mesh, name)

        def called(*args: Any) -> Any:
            calls[name] += 1
            return real(*args)

        return called

    for name in calls:
        monkeypatch.setattr(transforms.mesh, name, counting(name))
    return calls


def test_making_files_anew_can_be_stopped_and_others_lost_meanwhile(
    layer: Path, whole: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = [CELL, f"--scratch={tmp_path}/scratch"]
    assert forge(layer, *options) == 0
    told = report(layer, FRAGMENTS)
    first, second, third = sorted((layer / FRAGMENTS).glob("*.frags"))[7:10]
    first.unlink()
    second.unlink()
    made = list[Any]()

    def stopping(*args: Any) -> Any:
        if made:
            raise DestinationError("stopped here")
        made.append(forge_cell(*args))
        return made[0]

    with monkeypatch.context() as patch:
        patch.setattr(transforms.mesh, "forge_cell", stopping)
        assert forge(layer, *options) == 1
        assert first.exists() != second.exists()
        third.unlink()
        assert forge(layer, *options) == 1
    assert list((tmp_path / "scratch").rglob("*.pack"))
    # Elsewhere: what is in the first folder is of no use any more, and nobody will know of it.
    assert forge(layer, CELL, f"--scratch={tmp_path}/other", processes=2) == 0
    assert files(layer, FRAGMENTS) == whole["true"]
    assert report(layer, FRAGMENTS) == told
    assert list(tmp_path.glob("*/**/*.pack")) == []
    assert not (layer / ".beam_volumes").exists()


def test_what_fails_when_files_are_made_anew_is_told(
    layer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though there is a report, which is of the run before, and all files stand."""
    assert forge(layer, CELL) == 0
    next(iter((layer / FRAGMENTS).glob("*.frags"))).unlink()

    def failing(*args: Any) -> None:
        raise ConservationError("expected all of it, came less")

    with monkeypatch.context() as patch:
        patch.setattr(mesh_report, "check_conservation", failing)
        assert forge(layer, CELL) == 1
    assert "expected all of it, came less" in only_error(capsys.readouterr().err)
    assert forge(layer, CELL) == 0


def test_files_that_are_not_what_was_written_are_noticed(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forge(layer, CELL) == 0
    with (layer / FRAGMENTS / "-9-15_25-43_1001-1015.frags").open("ab") as file:
        file.write(b"more")
    assert forge(layer, CELL) == 1
    line = only_error(capsys.readouterr().err)
    assert "expected 27 files of" in line
    assert line.endswith("with --overwrite")
    (layer / FRAGMENTS / "-9-15_25-43_1001-1015.frags").unlink()
    assert forge(layer, CELL) == 0


OPTIONS = {
    "an index of a part": (
        ["--bounds=-30,10,1010,0,40,1030", "--spatial_index"],
        r"--spatial_index: expected with it to mesh all voxels of mip 0 of file://.*, came -30,10,1010,0,40,1030 of",
    ),
    "no list": (["--exclude=/no/such/file"], r"--exclude: expected labels such as 17,42, or a file of them"),
    "cells too large": (["--cell_size=999,999,999"], r"--cell_size: expected cells that fit --memory_target=3,5"),
    "mip": (["--mip=3"], r"--mip: expected one of \[0\], .*came 3"),
    "folder of voxels": (["--mesh_dir=16_16_40"], r"--mesh_dir: expected a folder of its own for meshes"),
    "levels": (["--num_lods=2"], r"--num_lods: neither "),
    "bits": (["--vertex_quantization_bits=10"], r"--vertex_quantization_bits: neither "),
    "flat and open": (
        ["--bounds=0,10,1010,1,20,1020", "--close_borders=false"],
        r"--bounds: expected two voxels or more along each axis without --close_borders, came \(1, 10, 10\)",
    ),
    "index of what": (["--spatial_index=maybe"], r"--spatial_index: expected true or false, came 'maybe'"),
}


@pytest.fixture(scope="module")
def untouched(stored: Path) -> Iterator[Path]:
    before = tree(stored)
    yield stored
    assert tree(stored) == before


@pytest.mark.parametrize(("args", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_cannot_work(
    args: list[str], message: str, untouched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([f"--layer=file://{untouched}", *args])
    check_refusal(status, message, capsys)


def test_holes_fail_or_are_background(layer: Path, neurons: Array, capsys: pytest.CaptureFixture[str]) -> None:
    (layer / "16_16_40/-1-31_7-39_1017-1033.gz").unlink()
    assert forge(layer, CELL) == 1
    assert "but one is missing" in only_error(capsys.readouterr().err)
    assert forge(layer, CELL, "--fill_missing", "--simplification_factor=1", "--overwrite") == 0
    hole = Box((-1, 7, 1_017), (31, 39, 1_033))
    left: Any = neurons.copy()
    left[hole.slices(OFFSET)] = 0
    found = pieces(layer / FRAGMENTS)
    for label in labels_in(left):
        points = np.concatenate([by_label[label].vertices for by_label in found.values() if label in by_label])
        assert half_voxels(points) == crossings(left == label, OFFSET)
    assert report(layer, FRAGMENTS)["holes"] == [str(hole)]
    check_holes_are_accepted_each_time(
        lambda *options: forge(layer, CELL, "--simplification_factor=1", *options), capsys
    )
