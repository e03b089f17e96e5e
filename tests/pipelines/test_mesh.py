"""Meshes end to end, against the voxels they are of: closed at every level of detail, whatever the cuts."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import CloudVolume

from beam_volumes.geometry import Box, Vec
from pipelines import export
from tests.pipelines.conftest import Array, check_holes_are_accepted_each_time, only_error, stamps, tree
from tests.pipelines.mesh_cases import (
    LODS,
    OFFSET,
    RESOLUTION,
    check,
    crossings,
    files,
    half_voxels,
    labels_in,
    mesh,
    report,
    stage,
    write_labels,
)
from tests.pipelines.mesh_reading import MeshReader, legacy_surface

pytest_plugins = ["tests.pipelines.mesh_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def layer(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "layer"))


CUTS: list[tuple[int, str, int, str, Vec, Vec]] = [
    # levels, cells, bits, data type, offset, resolution
    (1, "32,32,16", 16, "uint64", OFFSET, RESOLUTION),
    (1, "256,256,256", 10, "uint8", (0, 0, 0), (4, 4, 40)),
    (2, "17,23,9", 10, "uint32", (5, -7, 3), (4, 4, 40)),
    (2, "35,53,41", 16, "uint16", (0, 0, 0), (8, 12, 33)),
    (3, "64,64,64", 16, "uint16", OFFSET, (1, 1, 1)),
    (3, "16,16,16", 10, "uint64", (-100, -100, -100), RESOLUTION),
    (4, "8,8,8", 10, "uint8", OFFSET, RESOLUTION),
    (4, "20,11,41", 16, "uint32", (1, 1, 1), RESOLUTION),
    (5, "10,10,10", 16, "uint64", (2**20, -(2**19), 7), (7, 9, 30)),
    (5, "70,53,41", 10, "uint64", OFFSET, RESOLUTION),
]


@pytest.mark.parametrize(("num_lods", "cell", "bits", "data_type", "offset", "resolution"), CUTS)
def test_objects_are_closed_however_they_are_cut(
    num_lods: int, cell: str, bits: int, data_type: str, offset: Vec, resolution: Vec, neurons: Array, tmp_path: Path
) -> None:
    labels = neurons.astype(data_type)
    if data_type == "uint64":
        # Labels as large as they can be, which no signed or 53-bit integer holds.
        labels = np.where(neurons, np.uint64(2**64 - 1) - (neurons - np.uint64(1)), np.uint64(0))
    write_labels(tmp_path / "layer", labels, offset, resolution)
    options = [f"--num_lods={num_lods}", f"--cell_size={cell}", f"--vertex_quantization_bits={bits}"]
    assert mesh(tmp_path / "layer", *options) == 0
    reader = check(tmp_path / "layer", labels_in(labels), num_lods)
    assert reader.bits == bits
    extent = (np.array(labels.shape) + 1) * resolution
    low = (np.array(offset) - 0.5) * resolution
    for label in reader.labels:
        stored = reader.mesh(label)
        for lod in range(num_lods):
            # Nothing is further out than the border of the volume, but for a vertex that simplification has moved.
            points = stored.surface(lod).nm
            assert (points >= low - stored.chunk_shape * 2**lod / 1000).all()
            assert (points <= low + extent + stored.chunk_shape * 2**lod / 1000).all()
    done = report(tmp_path / "layer")
    assert done["not_encoded"] == []
    assert done["stages"]["surfaces"]["vertices_moved_into_their_cell"] == 0
    assert [done["stages"][f"level of detail {lod}"]["triangles"] > 0 for lod in range(num_lods)] == [True] * num_lods


@pytest.mark.parametrize("cell", ["24,20,16", "128,128,128"])
def test_without_simplification_it_is_marching_cubes(layer: Path, neurons: Array, cell: str) -> None:
    assert mesh(layer, "--num_lods=1", f"--cell_size={cell}", "--simplification_factor=1") == 0
    reader = check(layer, labels_in(neurons), 1)
    for label in reader.labels:
        surface = reader.mesh(label).surface(0)
        assert half_voxels(surface) == crossings(neurons == label, OFFSET)
        # A sheet of marching cubes cuts the corners of voxels off.
        voxels = int((neurons == label).sum())
        assert 0.5 < surface.volume_nm3 / (voxels * 16 * 16 * 40) < 1


def test_the_volume_of_a_ball(tmp_path: Path) -> None:
    x, y, z = np.ogrid[:80, :80, :80]
    ball = ((x - 39) ** 2 + (y - 41) ** 2 + (z - 40) ** 2 < 30**2).astype(np.uint32)
    write_labels(tmp_path / "layer", ball, resolution=(10, 10, 10))
    assert mesh(tmp_path / "layer", "--num_lods=3", "--cell_size=20,20,20") == 0
    stored = check(tmp_path / "layer", [1], 3).mesh(1)
    volumes = [stored.surface(lod).volume_nm3 / (ball.sum() * 1000) for lod in range(3)]
    assert volumes == pytest.approx([1, 1, 1], abs=0.02)
    center = [stored.surface(lod).nm.mean(axis=0) for lod in range(3)]
    for found in center:
        assert found == pytest.approx([(o + n) * 10 for o, n in zip(OFFSET, (39.5, 41.5, 40.5), strict=True)], abs=20)
    triangles = [stage(tmp_path / "layer", f"level of detail {lod}")["triangles"] for lod in range(3)]
    raw = stage(tmp_path / "layer", "surfaces")["triangles_of_marching_cubes"]
    # Half of the triangles are at the borders of such small cells, where all stay.
    assert triangles[0] < raw / 3.5
    assert triangles[1] < triangles[0] / 2
    assert triangles[2] < triangles[1] / 2


def tiny(kind: str) -> Array:
    labels = np.zeros((9, 9, 9), np.uint8)
    places: dict[str, Any] = {
        "a voxel": (4, 4, 4),
        "a voxel at a corner": (0, 0, 8),
        "a line": (slice(None), 4, 3),
        "a plane": (3, slice(None), slice(None)),
        "a plane at a face": (slice(None), slice(None), 0),
        "all": (slice(None), slice(None), slice(None)),
    }
    labels[places[kind]] = 200
    return labels


TINY = ["a voxel", "a voxel at a corner", "a line", "a plane", "a plane at a face", "all"]


@pytest.mark.parametrize(("bits", "cell"), [(10, "99,99,99"), (16, "4,4,4"), (10, "1,1,1")])
@pytest.mark.parametrize("kind", TINY)
def test_tiny_and_thin_objects_have_a_mesh(kind: str, bits: int, cell: str, tmp_path: Path) -> None:
    labels = tiny(kind)
    write_labels(tmp_path / "layer", labels)
    options = ["--num_lods=5", f"--vertex_quantization_bits={bits}", f"--cell_size={cell}"]
    assert mesh(tmp_path / "layer", *options, "--simplification_factor=1") == 0
    reader = check(tmp_path / "layer", [200], 5)
    if bits == 16:
        assert half_voxels(reader.mesh(200).surface(0)) == crossings(labels == 200, OFFSET)
    assert mesh(tmp_path / "layer", *options, "--overwrite", "--simplification_factor=10") == 0
    check(tmp_path / "layer", [200], 5)


def test_tiny_objects_in_large_cells(tmp_path: Path) -> None:
    """At the coarsest level a quantum is more than two voxels: what is smaller is still something closed."""
    labels = np.zeros((330, 290, 20), np.uint8)
    labels[4::61, 4::61, 4] = np.arange(1, 31).reshape(6, 5)
    labels[30::67, 1:3, 1] = np.arange(41, 46)[:, np.newaxis]
    write_labels(tmp_path / "layer", labels, chunk=(330, 290, 20))
    assert mesh(tmp_path / "layer", "--num_lods=5", "--vertex_quantization_bits=10", "--cell_size=165,145,20") == 0
    check(tmp_path / "layer", labels_in(labels), 5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (1, 40, 1), (3, 1, 50)])
def test_volumes_without_an_inside(shape: Vec, tmp_path: Path) -> None:
    labels = np.full(shape, 7, np.uint16)
    write_labels(tmp_path / "layer", labels)
    assert mesh(tmp_path / "layer", "--num_lods=2", "--simplification_factor=1") == 0
    surface = check(tmp_path / "layer", [7], 2).mesh(7).surface(0)
    assert half_voxels(surface) == crossings(labels == 7, OFFSET)


@pytest.mark.parametrize("options", [["--dust_threshold=2"], ["--labels=8"], ["--exclude=9", "--sharded=false"]])
def test_a_run_that_meshes_none_of_the_objects_fails(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, labels = tmp_path / "layer", np.zeros((30, 20, 10), np.uint32)
    labels[3, 3, 3] = 9
    write_labels(layer, labels)
    before = tree(layer)
    assert mesh(layer, *options) == 1
    assert "expected an object to mesh, came none: of 1 objects" in capsys.readouterr().err
    assert tree(layer).keys() == before.keys()
    assert mesh(layer) == 0
    assert MeshReader(layer).labels == [9]


@pytest.mark.parametrize("options", [[], ["--sharded=false"], ["--format=legacy"]])
def test_a_volume_without_objects_has_no_meshes(options: list[str], tmp_path: Path) -> None:
    url = write_labels(tmp_path / "layer", np.zeros((30, 20, 10), np.uint32))
    assert mesh(tmp_path / "layer", *options) == 0
    assert json.loads((tmp_path / "layer/info").read_text())["mesh"] == "mesh"
    assert sorted(files(tmp_path / "layer")) == ["-528--48_112-432_40040-40440.spatial.gz", "info"]
    assert stage(tmp_path / "layer", "labels")["meshed"] == 0
    if options != ["--format=legacy"]:
        assert MeshReader(tmp_path / "layer").labels == []
        assert CloudVolume(url, progress=False).mesh.get([], lod=0) == {}
    assert mesh(tmp_path / "layer", *options) == 0


def test_an_object_that_is_all_of_the_volume(tmp_path: Path) -> None:
    write_labels(tmp_path / "layer", np.full((50, 40, 30), 3, np.uint8))
    assert mesh(tmp_path / "layer", "--num_lods=4", "--cell_size=16,16,16") == 0
    reader = check(tmp_path / "layer", [3], 4)
    for lod in range(4):
        assert reader.mesh(3).surface(lod).volume_nm3 == pytest.approx(50 * 40 * 30 * 16 * 16 * 40, rel=0.02)
    # The cells within it have nothing to show, and those of the coarser levels are there for it.
    assert len(reader.mesh(3).levels[0].positions) == 4 * 3 * 2 - 2 * 1 * 0


def test_dust_is_what_is_small_as_a_whole(tmp_path: Path) -> None:
    labels = np.zeros((64, 64, 64), np.uint32)
    # In cells of 16: 2 x 2 x 2 pieces of 8 voxels, so 64 in all; 8 pieces of 8, far apart; and 63.
    labels[14:18, 14:18, 14:18] = 1
    for corner in np.ndindex(2, 2, 2):
        x, y, z = (4 + 48 * n for n in corner)
        labels[x : x + 2, y : y + 2, z : z + 2] = 2
    labels[40:44, 40:44, 40:44] = 3
    labels[40, 40, 40] = 0
    labels[0, 0, 60] = 4
    for threshold, expected in ((1, [1, 2, 3, 4]), (63, [1, 2, 3]), (64, [1, 2])):
        folder = tmp_path / f"layer {threshold}"
        write_labels(folder, labels, (0, 0, 0))
        options = ["--num_lods=2", "--cell_size=16,16,16", "--simplification_factor=1"]
        assert mesh(folder, *options, f"--dust_threshold={threshold}") == 0
        reader = check(folder, expected, 2)
        for label in expected:
            assert half_voxels(reader.mesh(label).surface(0)) == crossings(labels == label, (0, 0, 0))
        told = stage(folder, "labels")
        assert (told["meshed"], told["under_the_dust_threshold"]) == (len(expected), 4 - len(expected))


CHOICES = {
    "labels": (["--labels=1,5,7"], {1, 5, 7}),
    "labels with spaces, twice, and one that is not there": (["--labels= 1, 5,5,100000000000"], {1, 5}),
    "exclude": (["--exclude=2,3"], None),
    "both": (["--labels=1,5,7", "--exclude=5,6"], {1, 7}),
}


@pytest.mark.parametrize("as_file", ["", "{}\n", "[{}]"])
@pytest.mark.parametrize(("options", "expected"), CHOICES.values(), ids=CHOICES)
def test_labels_that_are_chosen(
    options: list[str], expected: set[int] | None, as_file: str, layer: Path, neurons: Array, tmp_path: Path
) -> None:
    if as_file:
        for n, option in enumerate(options):
            name, _, numbers = option.partition("=")
            separator = "\n" if as_file.endswith("\n") else ","
            (tmp_path / f"list {n}").write_text(as_file.format(numbers.replace(",", separator)))
            options = [*options[:n], f"{name}={tmp_path}/list {n}", *options[n + 1 :]]
    wanted = set(labels_in(neurons)) - {2, 3} if expected is None else expected
    assert mesh(layer, *LODS, *options) == 0
    check(layer, sorted(wanted), 3)
    told = stage(layer, "labels")
    assert (told["meshed"], told["not_asked_for"]) == (len(wanted), len(labels_in(neurons)) - len(wanted))


def test_a_list_of_labels_that_has_changed_is_another_run(
    layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text("1 2")
    assert mesh(layer, *LODS, f"--labels={tmp_path}/list") == 0
    (tmp_path / "list").write_text("1 2 3")
    capsys.readouterr()
    assert mesh(layer, *LODS, f"--labels={tmp_path}/list") == 2
    assert "labels_listed was" in only_error(capsys.readouterr().err)


def test_cavities_are_dropped_when_told(tmp_path: Path) -> None:
    """One is in a cell; another is cut by cells, and whole one level up; objects in them stay."""
    labels = np.ones((60, 30, 30), np.uint16)
    labels[4:8, 4:8, 4:8] = 0
    labels[5, 5, 5] = 2
    labels[12:20, 6:10, 6:10] = 3
    labels[:, :, 28:] = 0
    write_labels(tmp_path / "layer", labels, (0, 0, 0))
    options = ["--num_lods=3", "--cell_size=16,16,16", "--simplification_factor=1", "--lod_factor=1"]
    assert mesh(tmp_path / "layer", *options, "--fill_holes") == 0
    reader = check(tmp_path / "layer", [1, 2, 3], 3)
    filled = np.ones((60, 30, 28), bool)
    outside, hidden = crossings(filled, (0, 0, 0)), crossings(labels == 3, (0, 0, 0))
    found = [half_voxels(reader.mesh(1).surface(lod), tolerance=0.02) for lod in range(3)]
    assert found == [outside | hidden, outside, outside]
    assert half_voxels(reader.mesh(2).surface(0)) == crossings(labels == 2, (0, 0, 0))
    assert mesh(tmp_path / "layer", *options, "--overwrite") == 0
    reader = check(tmp_path / "layer", [1, 2, 3], 3)
    for lod in range(3):
        assert half_voxels(reader.mesh(1).surface(lod), tolerance=0.02) == crossings(labels == 1, (0, 0, 0))


def test_each_level_has_a_factor_of_its_own(layer: Path) -> None:
    """In one cell, as borders keep their triangles."""
    assert mesh(layer, "--num_lods=4", "--cell_size=80,60,50", "--lod_factor=1;5;2", "--max_error=999") == 0
    triangles = [stage(layer, f"level of detail {lod}")["triangles"] for lod in range(4)]
    ratios = [finer / coarser for finer, coarser in pairwise(triangles)]
    assert ratios == [1, pytest.approx(5, rel=0.2), pytest.approx(2, rel=0.2)]


@pytest.mark.parametrize("cell", ["24,20,16", "70,53,41", "7,9,8"])
def test_borders_that_stay_open_lie_on_the_faces_of_the_volume(layer: Path, neurons: Array, cell: str) -> None:
    assert mesh(layer, "--num_lods=3", f"--cell_size={cell}", "--close_borders=false") == 0
    reader, opened = MeshReader(layer), 0
    # Through the centers of the outermost voxels, in half voxels from the corner of voxel 0.
    low = np.array(OFFSET) * 2 + 1
    high = low + 2 * np.array(neurons.shape) - 2
    for label in reader.labels:
        stored = reader.mesh(label)
        for lod in range(3):
            surface = stored.surface(lod)
            ends = (surface.nm / np.array(RESOLUTION) * 2)[surface.open_edges]
            near = (np.abs(ends - low) < 0.02) | (np.abs(ends - high) < 0.02)
            assert near.all(axis=1).any(axis=1).all(), (label, lod)
            opened += len(ends)
    assert opened > 100
    # An object in the first or last plane alone has nothing between the centers of voxels.
    assert set(labels_in(neurons[1:-1, 1:-1, 1:-1])) <= set(reader.labels) <= set(labels_in(neurons))
    missing = len(labels_in(neurons)) - len(reader.labels)
    assert stage(layer, "labels")["without_a_surface"] == missing


def test_bounds_mesh_a_part(layer: Path, neurons: Array) -> None:
    box = Box((-20, 10, 1_010), (11, 45, 1_033))
    part = neurons[box.slices(OFFSET)]
    assert mesh(layer, *LODS, "--simplification_factor=1", f"--bounds={box}") == 0
    reader = check(layer, labels_in(part), 3)
    for label in reader.labels:
        assert half_voxels(reader.mesh(label).surface(0)) == crossings(part == label, box.start)
    assert report(layer)["voxels"] == str(box)


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_cloudvolume_reads_every_mesh(sharded: str, layer: Path, neurons: Array) -> None:
    assert mesh(layer, *LODS, f"--sharded={sharded}") == 0
    reader = check(layer, labels_in(neurons), 3)
    assert ("sharding" in reader.info) == (sharded == "true")
    source = CloudVolume(f"file://{layer}", progress=False).mesh
    for lod in range(3):
        for label, found in source.get(reader.labels, lod=lod).items():
            ours = reader.mesh(label).surface(lod)
            assert corners(found.vertices[found.faces]) == pytest.approx(corners(ours.nm[ours.faces]), abs=0.2)


def corners(triangles: Array) -> Array:
    """Return the center of all corners, and how far they are from it: whatever the order of triangles."""
    points = triangles.reshape(-1, 3).astype(np.float64)
    return np.concatenate([[len(points)], points.mean(axis=0), points.std(axis=0)])


@pytest.mark.parametrize("cell", ["24,20,16", "128,128,128"])
def test_legacy_meshes(cell: str, layer: Path, neurons: Array) -> None:
    options = ["--format=legacy", f"--cell_size={cell}"]
    assert mesh(layer, *options, "--simplification_factor=1") == 0
    info = json.loads((layer / "mesh/info").read_text())
    assert (info["@type"], info["mip"]) == ("neuroglancer_legacy_mesh", 0)
    source = CloudVolume(f"file://{layer}", progress=False).mesh
    assert mesh_labels(layer) == labels_in(neurons)
    for label in labels_in(neurons):
        surface = legacy_surface(layer, label, RESOLUTION)
        assert len(surface.open_edges) == 0
        assert half_voxels(surface) == crossings(neurons == label, OFFSET)
        found = source.get(label, fuse=True)
        points = {tuple(p) for p in (np.rint(found.vertices / np.array(RESOLUTION) * 2)).astype(int).tolist()}
        assert points == half_voxels(surface)
    assert mesh(layer, *options, "--overwrite") == 0
    for label in labels_in(neurons):
        assert len(legacy_surface(layer, label, RESOLUTION).open_edges) == 0


def mesh_labels(layer: Path) -> list[int]:
    return sorted(int(p.name.split(":")[0]) for p in (layer / "mesh").iterdir() if p.name.endswith(":0"))


@pytest.mark.parametrize(("bits", "cell"), [(16, "24,20,16"), (10, "70,53,41"), (16, "23,19,15")])
def test_fragments_that_are_too_large_are_split(bits: int, cell: str, layer: Path, neurons: Array) -> None:
    options = ["--num_lods=3", f"--cell_size={cell}", f"--vertex_quantization_bits={bits}"]
    assert mesh(layer, *options) == 0
    whole = {label: MeshReader(layer).mesh(label) for label in labels_in(neurons)}
    sizes = [len(f) for mesh in whole.values() for level in mesh.levels for f in level.fragments]
    assert max(sizes) > 2_000
    assert stage(layer, "shards")["labels_with_fragments_that_were_split"] == 0
    assert mesh(layer, *options, "--max_fragment_bytes=1000", "--overwrite") == 0
    reader, split, over = MeshReader(layer), 0, 0
    assert reader.labels == labels_in(neurons)
    reader.check_shards()
    for label, before in whole.items():
        after = reader.mesh(label)
        added = len(after.levels) - 3
        large = any(len(f) > 1000 for level in before.levels for f in level.fragments)
        split += large
        over += sum(len(f) > 1000 for level in after.levels for f in level.fragments)
        assert (added > 0) >= any(len(f) > 1000 for f in before.levels[0].fragments)
        for lod in range(len(after.levels)):
            assert len(after.surface(lod).open_edges) == 0, (label, lod)
        assert after.surface(0).volume_nm3 == pytest.approx(before.surface(0).volume_nm3, rel=0.01)
    told = stage(layer, "shards")
    assert told["labels_with_fragments_that_were_split"] == split > 5
    assert told["fragments_over_the_cap"] == over
    assert len(CloudVolume(f"file://{layer}", progress=False).mesh.get(reader.labels, lod=0)) == len(whole)


@pytest.mark.parametrize(("option", "smallest"), [("--simplification_factor=2", 2), ("--max_error=1", 1)])
def test_how_far_surfaces_are_simplified(option: str, smallest: int, layer: Path, neurons: Array) -> None:
    assert mesh(layer, "--num_lods=2", option) == 0
    check(layer, labels_in(neurons), 2)
    finest = stage(layer, "level of detail 0")["triangles"]
    assert mesh(layer, "--num_lods=2", "--overwrite") == 0
    assert stage(layer, "level of detail 0")["triangles"] < finest / 1.5
    assert finest <= stage(layer, "surfaces")["triangles_of_marching_cubes"] / smallest


def test_a_coarser_mip(tmp_path: Path) -> None:
    folder = tmp_path / "pyramid"
    made = ["--src=made://neurons?size=100,90,60&offset=11,-5,3", f"--dst=file://{folder}", "--num_mips=2"]
    assert export.main([*made, "--processes=1"]) == 0
    assert mesh(folder, *LODS, "--mip=1", "--simplification_factor=1") == 0
    volume = CloudVolume(f"file://{folder}", mip=1, progress=False)
    labels, offset = np.asarray(volume[:])[..., 0], tuple(volume.voxel_offset.tolist())
    reader = check(folder, labels_in(labels), 3)
    assert reader.info["mip"] == 1
    for label in reader.labels[:5]:
        assert half_voxels(reader.mesh(label).surface(0), (32, 32, 40)) == crossings(labels == label, offset)


def test_meshes_of_one_volume_in_another(stored: Path, layer: Path, neurons: Array) -> None:
    before = tree(stored)
    assert mesh(stored, *LODS, f"--dst=file://{layer}", "--mesh_dir=meshes/of it") == 0
    assert tree(stored) == before
    assert json.loads((layer / "info").read_text())["mesh"] == "meshes/of it"
    check(layer, labels_in(neurons), 3)


def test_holes_fail_or_are_background(layer: Path, neurons: Array, capsys: pytest.CaptureFixture[str]) -> None:
    (layer / "16_16_40/-1-31_7-39_1017-1033.gz").unlink()
    assert mesh(layer, *LODS) == 1
    assert "but one is missing" in only_error(capsys.readouterr().err)
    assert mesh(layer, *LODS, "--fill_missing") == 0
    hole = Box((-1, 7, 1_017), (31, 39, 1_033))
    left = neurons.copy()
    left[hole.slices(OFFSET)] = 0
    check(layer, labels_in(left), 3)
    assert report(layer)["holes"] == [str(hole)]
    check_holes_are_accepted_each_time(lambda *options: mesh(layer, *LODS, *options), capsys)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_bytes_depend_on_the_voxels_alone(
    processes: int, layer: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert mesh(layer, *LODS, processes=processes) == 0
    assert files(layer) == whole
    assert mesh(layer, *LODS, "--overwrite", "--direct_runner_bundle_repeat=1", processes=processes) == 0
    assert files(layer) == whole
    capsys.readouterr()
    before = stamps(layer)
    assert mesh(layer, *LODS, processes=processes) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert stamps(layer) == before


@pytest.fixture(scope="module")
def whole(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    layer = Path(shutil.copytree(stored, tmp_path_factory.mktemp("whole") / "layer"))
    assert mesh(layer, *LODS) == 0
    return files(layer)


def test_surfaces_that_are_too_small_for_a_level_are_shown_and_counted(tmp_path: Path) -> None:
    """At level 8 a quantum is 4 voxels: the object is a tetrahedron there, and at level 7 it may be."""
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[5, 5, 5] = 7
    write_labels(tmp_path / "layer", labels)
    options = ["--num_lods=9", "--cell_size=16,16,16", "--vertex_quantization_bits=10"]
    assert mesh(tmp_path / "layer", *options) == 0
    stored = MeshReader(tmp_path / "layer").mesh(7)
    faces = [len(stored.surface(lod).faces) for lod in range(9)]
    assert faces[0] == 8
    assert faces[8] == 4
    found = stage(tmp_path / "layer", "surfaces")["fragments_of_one_tetrahedron_for_smaller_triangles"]
    assert 1 <= found <= faces.count(4)
