"""Meshes that are merged of fragments: those that one run makes of the voxels, to the last byte."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import CloudVolume

from beam_volumes.geometry import Box, Vec
from beam_volumes.spatial_index.database import open_database
from beam_volumes.spatial_index.files import find_index_files
from beam_volumes.spatial_index.queries import SpatialIndex
from beam_volumes.spatial_index.urls import parse_database_url
from beam_volumes.storage import Folder
from beam_volumes.testing.mariadb_server import MariaDbServer
from pipelines import export, index_mesh
from pipelines.merge_mesh import main
from tests.pipelines.conftest import (
    Array,
    check_holes_are_accepted_each_time,
    check_refusal,
    copy_of,
    only_error,
    rows_of,
    stamps,
    tree,
)
from tests.pipelines.mesh_cases import (
    OFFSET,
    RESOLUTION,
    labels_in,
    report,
    stage,
    write_labels,
)
from tests.pipelines.mesh_reading import MeshReader
from tests.pipelines.staged_meshes import CELL, FRAGMENTS, Nm, files, forge, merge, mesh, named

pytest_plugins = ["tests.pipelines.mesh_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures")

PASSWORD = "INDEX_PASSWORD"
A_FILE = "-9-15_25-43_1001-1015.frags"


@pytest.fixture
def layer(forged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(forged, tmp_path / "layer"))


@pytest.fixture(scope="module")
def whole(forged: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    layer = copy_of(forged, tmp_path_factory.mktemp("whole") / "layer")
    assert merge(layer) == 0
    return files(layer)


CASES: dict[str, tuple[Vec, Nm, list[str], list[str]]] = {
    # offset, resolution, options of forging, options of merging
    "plain": (OFFSET, RESOLUTION, ["--cell_size=24,20,16"], []),
    "one cell": ((0, 0, 0), (4, 4, 40), ["--cell_size=128,128,128"], ["--num_lods=1"]),
    "small cells": ((1, 1, 1), (8, 12, 33), ["--cell_size=9,10,11"], ["--num_lods=5"]),
    "cells that fill the volume": ((1, 1, 1), (8, 12, 33), ["--cell_size=14,53,41"], ["--num_lods=2"]),
    "no whole nm": ((-100, 200, 5), (4.5, 3.3, 40.1), [], ["--num_lods=4", "--max_fragment_bytes=1000"]),
    "as far out as float32 reaches": (
        (2**19 - 71, -(2**19), 2**19 - 42),
        (7.3, 9.1, 33),
        ["--cell_size=24,20,16"],
        ["--vertex_quantization_bits=10"],
    ),
    "whole marching cubes": (OFFSET, RESOLUTION, [CELL, "--simplification_factor=1"], ["--lod_factor=2"]),
    "dust": (OFFSET, RESOLUTION, [CELL, "--dust_threshold=3000"], ["--sharded=false"]),
    "chosen": (OFFSET, RESOLUTION, [CELL, "--labels=1,2,3,9", "--exclude=3"], []),
    "open": (OFFSET, RESOLUTION, [CELL, "--close_borders=false"], ["--num_lods=2"]),
    "a part": (OFFSET, RESOLUTION, [CELL, "--bounds=-30,10,1010,3,50,1033"], []),
}
BOTH = ["--max_error=30", "--fill_holes"]


@pytest.mark.parametrize(("offset", "resolution", "forging", "merging"), CASES.values(), ids=CASES)
def test_merged_fragments_are_the_meshes_of_one_run(
    offset: Vec, resolution: Nm, forging: list[str], merging: list[str], neurons: Array, tmp_path: Path
) -> None:
    layer = tmp_path / "layer"
    write_labels(layer, neurons, offset, resolution)
    assert mesh(layer, *forging, *merging, *BOTH) == 0
    expected, told = files(layer), report(layer)
    assert forge(layer, *forging, *BOTH) == 0
    assert named(layer) == "mesh"
    assert merge(layer, *merging, *BOTH, "--mesh_dir=merged") == 0
    assert named(layer) == "merged"
    assert files(layer, "merged") == expected
    assert report(layer, "merged")["files"] == told["files"]
    levels = [name for name in told["stages"] if name.startswith("level of detail")]
    assert {name: stage(layer, name, "merged") for name in levels} == {name: told["stages"][name] for name in levels}
    if "--close_borders=false" not in forging:
        check_closed(layer, neurons, int(next((m[-1] for m in merging if m.startswith("--num_lods")), "3")))


def check_closed(layer: Path, labels: Array, num_lods: int) -> None:
    """Make sure that meshes are closed at every level, and of labels that are there."""
    reader = MeshReader(layer)
    assert 0 < len(reader.labels) <= len(labels_in(labels))
    for label in reader.labels:
        stored = reader.mesh(label)
        assert len(stored.levels) >= num_lods
        for lod in range(len(stored.levels)):
            assert len(stored.surface(lod).open_edges) == 0, (label, lod)


def test_cavities_of_one_box_and_of_several(tmp_path: Path) -> None:
    labels = np.ones((60, 30, 30), np.uint16)
    labels[4:8, 4:8, 4:8] = 0
    labels[12:20, 6:10, 6:10] = 3
    layer = tmp_path / "layer"
    write_labels(layer, labels, (0, 0, 0))
    for options in ([], ["--fill_holes"]):
        assert mesh(layer, "--cell_size=16,16,16", *options, "--overwrite") == 0
        expected = files(layer)
        assert forge(layer, "--cell_size=16,16,16", *options, "--overwrite") == 0
        assert merge(layer, *options, "--mesh_dir=merged", "--overwrite") == 0
        assert files(layer, "merged") == expected


def test_further_out_than_float32_reaches_meshes_are_closed_all_the_same(neurons: Array, tmp_path: Path) -> None:
    """Beyond 2^19 voxels not every sixteenth of a voxel has a float32 of its own."""
    offset, resolution = (2**21, -(2**22), 5), (7.3, 9.1, 33.0)
    layer = tmp_path / "layer"
    write_labels(layer, neurons, offset, resolution)
    assert forge(layer, CELL) == 0
    assert merge(layer, "--num_lods=3") == 0
    check_closed(layer, neurons, 3)
    reader = MeshReader(layer)
    assert reader.labels == labels_in(neurons)
    for label in reader.labels:
        points = np.argwhere(neurons == label) + np.array(offset)
        nm = reader.mesh(label).surface(0).nm
        assert (nm.min(axis=0) >= (points.min(axis=0) - 1) * resolution).all()
        assert (nm.max(axis=0) <= (points.max(axis=0) + 2) * resolution).all()


def test_a_coarser_mip(tmp_path: Path) -> None:
    folder = tmp_path / "pyramid"
    made = ["--src=made://neurons?size=100,90,60&offset=11,-5,3", f"--dst=file://{folder}", "--num_mips=2"]
    assert export.main([*made, "--processes=1"]) == 0
    assert mesh(folder, CELL, "--mip=1") == 0
    expected = files(folder)
    assert forge(folder, CELL, "--mip=1") == 0
    assert merge(folder, "--mesh_dir=merged") == 0
    assert files(folder, "merged") == expected
    assert MeshReader(folder).info["mip"] == 1


def test_some_labels_of_all(layer: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "list").write_text("[1, 5, 7, 12345]")
    assert merge(layer, f"--labels={tmp_path}/list", "--exclude=5,6", "--sharded=false") == 0
    assert merge(layer, "--mesh_dir=all", "--sharded=false") == 0
    some, every = files(layer), files(layer, "all")
    of_index = {name for name in every if ".spatial" in name}
    assert some.keys() == {"info", "1", "1.index", "7", "7.index", *of_index}
    assert len(of_index) == 27
    assert all(every[name] == data for name, data in some.items() if name not in of_index)
    assert every.keys() >= {"5", "6"}
    assert SpatialIndex(find_index_files(f"file://{layer}", "mesh")).labels_in_box().tolist() == [1, 7]


def test_cloudvolume_reads_every_mesh(layer: Path, neurons: Array) -> None:
    assert merge(layer) == 0
    source, reader = CloudVolume(f"file://{layer}", progress=False).mesh, MeshReader(layer)
    assert reader.labels == labels_in(neurons)
    for lod in range(3):
        for label, found in source.get(reader.labels, lod=lod).items():
            surface = reader.mesh(label).surface(lod)
            assert len(found.faces) == len(surface.faces)
            ours = surface.nm[surface.faces].reshape(-1, 3)
            theirs = found.vertices[found.faces].reshape(-1, 3).astype(np.float64)
            assert theirs.mean(axis=0) == pytest.approx(ours.mean(axis=0), abs=0.2)
            assert theirs.std(axis=0) == pytest.approx(ours.std(axis=0), abs=0.2)


@pytest.fixture(params=["sqlite", "mysql"])
def db(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database that is not there yet."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/index.db"
    server: MariaDbServer = request.getfixturevalue("mariadb")
    monkeypatch.setenv(PASSWORD, server.password)
    return f"mysql://{server.user}:${PASSWORD}@{server.host}:{server.port}/{tmp_path.name[-60:]}"


def load(layer: Path, db: str, *options: str) -> int:
    place = [f"--layer=file://{layer}", f"--mesh_dir={FRAGMENTS}", f"--db={db}"]
    return index_mesh.main([*place, "--processes=1", *options])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files of fragments and of the index that are read from now on."""
    names = set[str]()

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        def reads(folder: Folder, name: str, *args: Any, **options: Any) -> Any:
            names.update({name} if name.endswith((".frags", ".spatial.gz")) else ())
            return method(folder, name, *args, **options)

        return reads

    for name in ("read", "read_range", "size"):
        monkeypatch.setattr(Folder, name, counting(getattr(Folder, name)))
    many = Folder.read_many

    def reads_many(folder: Folder, names_read: Any, *args: Any, **options: Any) -> Any:
        names_read = list(names_read)
        names.update(name for name in names_read if name.endswith((".frags", ".spatial.gz")))
        return many(folder, names_read, *args, **options)

    monkeypatch.setattr(Folder, "read_many", reads_many)
    return names


def test_a_database_spares_files_without_the_labels(
    db: str, layer: Path, neurons: Array, opened: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {label: int((neurons == label).sum()) for label in labels_in(neurons)}
    small = sorted(sizes, key=lambda label: sizes[label])[:2]
    listed = f"--labels={small[0]},{small[1]}"
    assert load(layer, db) == 0
    opened.clear()
    assert merge(layer, listed, f"--spatial_index_db={db}") == 0
    # Both labels, and no others' files; of the index none.
    holding = set()
    for path in (layer / FRAGMENTS).glob("*.frags"):
        held = np.frombuffer(path.read_bytes()[16:], "<u8", 2 * int.from_bytes(path.read_bytes()[12:16], "little"))
        holding |= {path.name} if set(held[::2].tolist()) & set(small) else set()
    assert opened == holding
    assert 0 < len(holding) < 20
    assert stage(layer, "cells")["planned"] == stage(layer, "cells")["done"] == len(holding)
    with_database = files(layer)
    # What such a run has counted is of its boxes alone: one without the database does not take it up.
    capsys.readouterr()
    assert merge(layer, listed, "--spatial_index=false") == 2
    assert "boxes_of_spatial_index_db was" in only_error(capsys.readouterr().err)
    opened.clear()
    assert merge(layer, listed, "--spatial_index=false", "--mesh_dir=without") == 0
    assert len(opened) == 27
    assert files(layer, "without") == with_database
    assert MeshReader(layer).labels == sorted(small)


def test_labels_that_the_database_does_not_know(db: str, layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(layer, "--labels=1", f"--spatial_index_db={db}") == 2
    assert re.search(
        r"(: expected an index, but there is no such file|Unknown database '.*'): correct .*load it with index_mesh$",
        only_error(capsys.readouterr().err),
    )
    assert load(layer, db) == 0
    before = tree(layer)
    capsys.readouterr()
    assert merge(layer, "--labels=1,777,778", f"--spatial_index_db={db}") == 2
    line = only_error(capsys.readouterr().err)
    assert "expected labels that --spatial_index_db knows, came 777 (2 in all are in no file)" in line
    assert tree(layer) == before


def test_a_database_of_other_fragments_is_refused(db: str, layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = ["--labels=1", f"--spatial_index_db={db}"]
    assert load(layer, db) == 0
    assert forge(layer, CELL, "--simplification_factor=2", "--overwrite") == 0
    before = tree(layer)
    capsys.readouterr()
    assert merge(layer, *listed) == 2
    line = only_error(capsys.readouterr().err)
    assert re.search(
        r"--spatial_index_db: expected an index of these fragments in .*, came one of another run \(version was \w+, "
        r"now \w+\): load it anew with index_mesh --mesh_dir=mesh_fragments --overwrite, or leave --spatial",
        line,
    ), line
    assert tree(layer) == before
    assert load(layer, db, "--overwrite") == 0
    assert merge(layer, *listed) == 0
    [noted] = layer.glob("mesh_fragments.index_*.json")
    told = json.loads(noted.read_text())
    noted.write_text(json.dumps({**told, "holes": ["a.spatial"]}))
    capsys.readouterr()
    assert merge(layer, *listed) == 2
    assert "came one that was loaded without index files that were missing (1): load" in only_error(
        capsys.readouterr().err
    )
    # As of an index that another tool has made.
    noted.unlink()
    assert merge(layer, *listed, "--overwrite") == 0
    assert f"no {noted.name} beside the fragments tells what" in capsys.readouterr().err
    database = open_database(parse_database_url(db))
    database.run(lambda cursor: cursor.execute(database.dialect.create_loaded("a1")))
    capsys.readouterr()
    assert merge(layer, *listed) == 2
    assert "came one whose load is not finished: load it anew" in only_error(capsys.readouterr().err)


Spoiling = Callable[[Path], None]


def cut(folder: Path) -> None:
    path = folder / A_FILE
    path.write_bytes(path.read_bytes()[:-100])


def cut_short(folder: Path) -> None:
    (folder / A_FILE).write_bytes((folder / A_FILE).read_bytes()[:40])


def damage(folder: Path) -> None:
    data = bytearray((folder / A_FILE).read_bytes())
    data[-50] ^= 0xFF
    (folder / A_FILE).write_bytes(data)


def replace(folder: Path) -> None:
    (folder / A_FILE).write_text("something else")


def remove(folder: Path) -> None:
    (folder / A_FILE).unlink()


def remove_with_index(folder: Path) -> None:
    remove(folder)
    (folder / "-144-240_400-688_40040-40600.spatial.gz").unlink()


DAMAGES: dict[str, tuple[Spoiling, str]] = {
    "cut": (cut, r"/-9-15_25-43_1001-1015\.frags: expected the value that was written for \d+, came bytes with"),
    "cut short": (cut_short, rf"/{A_FILE}: expected \d+ bytes for \d+ entries, came 40"),
    "damaged": (damage, rf"/{A_FILE}: expected the value that was written for \d+, came bytes with another checksum"),
    "replaced": (replace, rf"/{A_FILE}: expected a MapBuffer of version 0 or 1, came 14 bytes that begin with b'some"),
    "missing": (
        remove,
        rf"/{A_FILE}: expected the fragments of a box, but there is no such file, and \d labels are in its box: give "
        "the command of forge_mesh that made the others once more: it makes only the files that are missing, or take "
        "it for empty with --fill_missing",
    ),
    "missing, the index too": (
        remove_with_index,
        rf"/{A_FILE}: expected the fragments of a box, but there is no such file, and nothing tells that its box is "
        "empty: give the command of forge_mesh",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), DAMAGES.values(), ids=DAMAGES)
def test_files_that_are_not_what_was_written(
    spoil: Spoiling,
    message: str,
    layer: Path,
    forged: Path,
    whole: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(layer / FRAGMENTS)
    assert merge(layer) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line), line
    if (there := re.search(r"/([\w-]+\.frags): ", line)) and (layer / FRAGMENTS / there[1]).exists():
        # Complete fragments are not looked into: only a file that is gone is made anew.
        assert (
            ": remove it, then give the command of forge_mesh that made the others once more: it makes only the files "
            "that are missing"
        ) in line
    assert named(layer) == FRAGMENTS
    shutil.copytree(forged / FRAGMENTS, layer / FRAGMENTS, dirs_exist_ok=True)
    assert merge(layer) == 0
    assert files(layer) == whole


def test_what_is_made_anew_lets_a_merge_and_a_load_go_on(stored: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    layer = copy_of(stored, tmp_path / "layer")
    assert forge(layer, CELL) == 0
    remove_with_index(layer / FRAGMENTS)
    assert merge(layer) == 1
    assert load(layer, f"sqlite://{tmp_path}/index.db") == 1
    kept = len(list((layer / ".beam_volumes/mesh/scratch").rglob("labels-*.pack")))
    assert forge(layer, CELL) == 0
    assert merge(layer) == 0
    assert files(layer) == whole
    assert stage(layer, "cells")["elements_taken_up_from_an_interrupted_run"] == kept > 0
    assert load(layer, f"sqlite://{tmp_path}/index.db") == 0
    assert not (layer / ".beam_volumes").exists()


def test_a_missing_file_is_accepted_when_told(
    layer: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    (layer / FRAGMENTS / A_FILE).unlink()
    assert merge(layer, "--fill_missing") == 0
    assert report(layer)["holes"] == [str(Box((-9, 25, 1001), (15, 43, 1015)))]
    assert files(layer).keys() == whole.keys()
    assert files(layer) != whole
    assert sum(len(MeshReader(layer).mesh(n).surface(0).open_edges) for n in MeshReader(layer).labels) > 0
    check_holes_are_accepted_each_time(lambda *options: merge(layer, *options), capsys)


def test_boxes_that_the_index_says_are_empty_need_no_file(tmp_path: Path) -> None:
    """Other tools write none there."""
    labels = np.zeros((40, 30, 20), np.uint32)
    labels[2:5, 2:5, 2:5] = 7
    layer = tmp_path / "layer"
    write_labels(layer, labels, (0, 0, 0))
    assert forge(layer, "--cell_size=14,11,21") == 0
    assert merge(layer) == 0
    expected = files(layer)
    for path in (layer / FRAGMENTS).glob("*.frags"):
        if path.stat().st_size < 20:
            path.unlink()
    assert len(list((layer / FRAGMENTS).glob("*.frags"))) == 1
    assert merge(layer, "--overwrite") == 0
    assert files(layer) == expected
    assert report(layer)["holes"] == []
    assert stage(layer, "cells")["without_labels"] == 8


FOLDERS = {
    "none": ("nothing", r"--fragments_dir: expected a folder of fragments, .*layer/nothing/info does not exist"),
    "of meshes": ("mesh", r"--fragments_dir: .*/mesh/info is of type neuroglancer_multilod_draco, mip 0: make them"),
    "of voxels": ("16_16_40", r"--fragments_dir: .*/16_16_40/info does not exist: make them with forge_mesh"),
}


@pytest.mark.parametrize(("folder", "message"), FOLDERS.values(), ids=FOLDERS)
def test_folders_without_fragments(folder: str, message: str, layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(layer) == 0
    before = tree(layer)
    capsys.readouterr()
    assert merge(layer, f"--fragments_dir={folder}", "--mesh_dir=other") == 2
    assert re.search(message, only_error(capsys.readouterr().err))
    assert tree(layer) == before


def test_plain_fragments_are_not_merged(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = copy_of(stored, tmp_path / "layer")
    assert forge(layer, CELL, "--sharded=false") == 0
    capsys.readouterr()
    assert merge(layer) != 0
    line = only_error(capsys.readouterr().err)
    assert ".frags: expected the fragments of a box, but there is no such file" in line
    assert ": forge the volume with --sharded=true: these are meshes, a file for each label of a box, or" in line


INFOS: dict[str, tuple[dict[str, Any], str]] = {
    "no shape": ({"chunk_size": None, "spatial_index": None}, r"/info: expected the shape of the boxes, as chunk_size"),
    "no numbers": ({"chunk_size": ["a", 1, 2], "spatial_index": None}, r"/info: expected the shape of the boxes"),
    "mip": ({"mip": 4}, r"/info: expected a mip of the volume, which has 1, came 4: restore"),
    "no mip": ({"mip": None}, r"--fragments_dir: .*is of type neuroglancer_legacy_mesh, mip None"),
    "another shape": ({"chunk_size": [24, 18, 13], "spatial_index": None}, r"\.frags: expected the fragments of a box"),
    "bounds of nothing": (
        {"bounds": [[1, 2], [3]]},
        r"/info: expected bounds within the volume, .*\[\[1, 2\], \[3\]\]",
    ),
    "bounds elsewhere": ({"bounds": [[0, 0, 0], [9, 9, 9]]}, r"/info: expected bounds within the volume"),
}


@pytest.mark.parametrize(("changes", "message"), INFOS.values(), ids=INFOS)
def test_an_info_that_does_not_fit(
    changes: dict[str, Any], message: str, layer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = layer / FRAGMENTS / "info"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert merge(layer) in (1, 2)
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line), line


@pytest.mark.parametrize("processes", [1, 2])
def test_the_bytes_depend_on_the_fragments_alone(
    processes: int, layer: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(layer, processes=processes) == 0
    assert files(layer) == whole
    assert merge(layer, "--overwrite", "--direct_runner_bundle_repeat=1", processes=processes) == 0
    assert files(layer) == whole
    before = stamps(layer)
    capsys.readouterr()
    assert merge(layer, processes=processes) == 0
    out, err = capsys.readouterr()
    assert "nothing to do" in err
    assert out.endswith(f"\nfile://{layer}/mesh is complete\n")
    assert stamps(layer) == before


def test_fragments_that_were_forged_anew_are_another_run(
    layer: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(layer) == 0
    assert forge(layer, CELL, "--simplification_factor=2", "--overwrite") == 0
    assert named(layer) == "mesh"
    capsys.readouterr()
    assert merge(layer) == 2
    assert "fragments_version was" in only_error(capsys.readouterr().err)
    assert files(layer) == whole
    assert merge(layer, "--overwrite") == 0
    assert files(layer) != whole


def test_the_plan_tells_and_writes_nothing(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(layer)
    assert merge(layer, "--plan", "--labels=1,2", "--num_lods=3") == 0
    rows = rows_of(capsys.readouterr().out)
    assert tree(layer) == before
    assert rows["fragments"] == f"file://{layer}/{FRAGMENTS}"
    assert rows["destination"] == f"file://{layer}/mesh (new)"
    sizes = [path.stat().st_size for path in (layer / FRAGMENTS).glob("*.frags")]
    assert rows["boxes"] == "27 of 24 x 18 x 14"
    assert rows["files"] == f"27 of {sum(sizes):,} bytes"
    assert rows["labels"] == "2 listed, without 0"
    assert rows["cells by level of detail"] == "27; 8; 1"


@pytest.mark.parametrize("options", [[], ["--num_lods=1"], ["--num_lods=4", "--lod_factor=2"], ["--exclude=3,4"]])
def test_the_plan_foretells_what_is_written(
    options: list[str], layer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(layer, *options, "--plan") == 0
    rows = rows_of(capsys.readouterr().out)
    faces, size, memory = (
        int(rows[name].replace(",", ""))
        for name in (
            "triangles of the finest level, estimated",
            "bytes to write, estimated",
            "memory per worker, bytes, estimated",
        )
    )
    assert merge(layer, *options) == 0
    assert 0.7 < faces / stage(layer, "level of detail 0")["triangles"] < 1.4
    assert 0.7 < size / stage(layer, "shards")["bytes"] < 1.4
    assert 400_000_000 < memory < 401_000_000
    assert float(rows["CPU hours, estimated"]) * 3600 < 60


def test_the_plan_of_no_files_takes_nothing(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (layer / FRAGMENTS).glob("*.frags"):
        path.unlink()
    assert merge(layer, "--plan") == 0
    rows = rows_of(capsys.readouterr().out)
    assert (rows["boxes"], rows["files"]) == ("27 of 24 x 18 x 14", "0 of 0 bytes")
    assert (rows["bytes to write, estimated"], rows["CPU hours, estimated"]) == ("0", "0.0000")


def test_what_is_there_is_replaced_only_when_told(
    layer: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    (layer / "mesh").mkdir()
    (layer / "mesh/17:0").write_text("others")
    before = tree(layer)
    assert merge(layer) == 2
    assert "there is mesh/17:0, without a report" in only_error(capsys.readouterr().err)
    assert tree(layer) == before
    assert merge(layer, "--overwrite") == 0
    assert files(layer) == whole
    assert merge(layer, "--num_lods=2") == 2
    assert "num_lods was 3, now 2" in only_error(capsys.readouterr().err)


OPTIONS = {
    "no layer": ([], r"expected also --layer=URL"),
    "no volume": (["--layer=file:///nowhere/at/all"], r"--fragments_dir: .*file:///nowhere/at/all"),
    "made": (["--layer=made://neurons?size=9,9,9"], r"--layer: .*made://neurons"),
    "the same folder": (
        ["{}", f"--mesh_dir={FRAGMENTS}"],
        r"--mesh_dir: expected another folder than that of the frag",
    ),
    "in the folder": (["{}", f"--mesh_dir={FRAGMENTS}/mesh"], r"--mesh_dir: expected"),
    "around the folder": (["{}", "--fragments_dir=a/b", "--mesh_dir=a"], r"--mesh_dir: expected"),
    "a database for all": (["{}", "--spatial_index_db=sqlite:///i.db"], r"--spatial_index_db: expected --labels with"),
    "no database": (["{}", "--labels=1", "--spatial_index_db=oracle://x"], r"--spatial_index_db: expected .*came ora"),
    "memory": (["{}", "--memory_target=900000000"], r"--memory_target: neither "),
    "dust": (["{}", "--dust_threshold=9"], r"--dust_threshold: neither "),
    "bits": (["{}", "--vertex_quantization_bits=12"], r"--vertex_quantization_bits: expected one of 10, 16, came '12'"),
    "background": (["{}", "--labels=0,1"], r"--labels: expected labels of objects, came 0, which is background"),
    "no levels": (["{}", "--num_lods=0"], r"--num_lods: expected a whole number, 1 or more, came '0'"),
    "folder of voxels": (["{}", "--mesh_dir=16_16_40"], r"--mesh_dir: expected a folder of its own for meshes"),
}


@pytest.fixture(scope="module")
def untouched(forged: Path) -> Iterator[Path]:
    before = tree(forged)
    yield forged
    assert tree(forged) == before


@pytest.mark.parametrize(("args", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_cannot_work(
    args: list[str], message: str, untouched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([arg.replace("{}", f"--layer=file://{untouched}") for arg in args])
    check_refusal(status, message, capsys)
