"""Meshing that cannot work is refused, in one line, before anything is written; what is there stays."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import transforms.mesh
from beam_volumes.meshing import segment_properties
from pipelines.mesh import main
from tests.pipelines.conftest import Array, check_refusal, only_error, rows_of, tree
from tests.pipelines.mesh_cases import (
    LODS,
    check,
    files,
    labels_in,
    mesh,
)

pytest_plugins = ["tests.pipelines.mesh_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def layer(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "layer"))


def test_the_plan_tells_and_writes_nothing(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(layer)
    assert mesh(layer, *LODS, "--plan", "--labels=1,2", "--dust_threshold=1000") == 0
    rows = rows_of(capsys.readouterr().out)
    assert tree(layer) == before
    assert rows["voxels"].endswith("= 70 x 53 x 41 of uint64")
    assert rows["destination"] == f"file://{layer}/mesh (new)"
    assert rows["labels"] == "2 listed, from 1,000 voxels on, without 0"
    cells = rows["cells by level of detail"].split("; ")
    assert len(cells) == 3
    assert rows["cells"].startswith(f"{cells[0]} of ")
    assert 10_000 < int(rows["triangles of the finest level, estimated"].replace(",", "")) < 40_000
    assert rows["bytes of voxels, read twice"] == f"{70 * 53 * 41 * 8:,}"


def test_what_is_there_is_replaced_only_when_told(
    layer: Path, neurons: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    (layer / "mesh").mkdir()
    (layer / "mesh/17:0").write_text("others")
    before = tree(layer)
    assert mesh(layer, *LODS) == 2
    assert "there is mesh/17:0, without a report" in only_error(capsys.readouterr().err)
    assert tree(layer) == before
    assert mesh(layer, *LODS, "--overwrite") == 0
    whole = files(layer)
    assert "17:0" not in whole
    check(layer, labels_in(neurons), 3)
    assert mesh(layer, "--num_lods=2") == 2
    line = only_error(capsys.readouterr().err)
    assert "num_lods was 3, now 2" in line
    assert line.endswith("choose another --mesh_dir, or replace what is there with --overwrite")
    assert mesh(layer, "--num_lods=2", "--mesh_dir=other") == 0
    assert json.loads((layer / "info").read_text())["mesh"] == "other"
    assert files(layer) == whole
    check(layer, labels_in(neurons), 2)
    next((layer / "other").glob("*.shard")).unlink()
    capsys.readouterr()
    assert mesh(layer, "--num_lods=2", "--mesh_dir=other") == 1
    assert "0.shard (missing, not" in only_error(capsys.readouterr().err)


def test_more_labels_than_viewers_take_in_are_refused_before_any_is_meshed(
    layer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(segment_properties, "MOST_LABELS", 11)
    monkeypatch.setattr(transforms.mesh, "forge_cell", None)
    before = set(tree(layer))
    assert mesh(layer, *LODS, "--segment_properties") == 1
    line = only_error(capsys.readouterr().err)
    assert "--segment_properties: expected at most 11 labels, which readers take in as a whole, came 12: leave" in line
    assert set(tree(layer)) == before
    monkeypatch.undo()
    assert mesh(layer, *LODS) == 0


OPTIONS = {
    "no layer": ([], r"expected also --layer=URL"),
    "no volume": (["--layer=file:///nowhere/at/all"], r"--layer: expected a .*file:///nowhere/at/all"),
    "made": (["--layer=made://neurons?size=9,9,9"], r"--layer: .*made://neurons"),
    "https": (["--layer=https://127.0.0.1:1/seg"], r"--layer: expected a place to write to"),
    "graphene without a place": (
        ["--layer=graphene://https://127.0.0.1:1/segmentation/table/t"],
        r"--dst: expected a Precomputed volume to add the meshes to, because nothing can be written to graphene://",
    ),
    "timestamp without a graph": (["{}", "--timestamp=17"], r"--timestamp: expected a graphene:// volume with it"),
    "layer without a graph": (["{}", "--stop_layer=2"], r"--stop_layer: expected a graphene:// volume with it"),
    "dst that is none": (["{}", "--dst=file:///nowhere/at/all"], r"--dst: expected .*file:///nowhere/at/all"),
    "mip": (["{}", "--mip=3"], r"--mip: expected one of \[0\], .*came 3"),
    "no levels": (["{}", "--num_lods=0"], r"--num_lods: expected a whole number, 1 or more, came '0'"),
    "levels of legacy": (
        ["{}", "--format=legacy", "--num_lods=2"],
        r"--num_lods: expected none with --format=legacy, whose meshes have one level",
    ),
    "bits": (["{}", "--vertex_quantization_bits=12"], r"--vertex_quantization_bits: expected one of 10, 16, came '12'"),
    "format": (["{}", "--format=obj"], r"--format: expected one of multires, legacy, came 'obj'"),
    "cells of nothing": (["{}", "--cell_size=0,8,8"], r"--cell_size: expected three .*, 1 or more, came '0,8,8'"),
    "cells too large": (["{}", "--cell_size=999,999,999"], r"--cell_size: expected cells that fit --memory_target=3,5"),
    "memory": (["{}", "--memory_target=1000"], r"--memory_target: expected at least [\d,]+ bytes .*came 1,000"),
    "factor": (["{}", "--simplification_factor=0.5"], r"--simplification_factor: expected .*1 or more, came '0.5'"),
    "level factor": (["{}", "--lod_factor=0"], r"--lod_factor: expected .*1 or more, came '0'"),
    "level factors": (["{}", "--num_lods=3", "--lod_factor=2;4.5;4"], r"--lod_factor: expected at most one .*came 3"),
    "error": (["{}", "--max_error=-1"], r"--max_error: expected .*0 or more, came '-1'"),
    "dust": (["{}", "--dust_threshold=-1"], r"--dust_threshold: expected .*0 or more, came '-1'"),
    "fragments": (["{}", "--max_fragment_bytes=10"], r"--max_fragment_bytes: expected .*1000 or more, came '10'"),
    "background": (["{}", "--labels=0,1"], r"--labels: expected labels of objects, came 0, which is background"),
    "large label": (["{}", f"--labels={2**64}"], r"--labels: expected whole numbers under 2\^64.*18446744073709551616"),
    "a word in a list": (
        ["{}", "--labels=17,x,4"],
        r"--labels: expected labels such as 17,42, .*, came 'x' in '17,x,4'",
    ),
    "a gap in a list": (["{}", "--exclude=17,,4"], r"--exclude: expected labels .*, came '' in '17,,4'"),
    "a number with a letter": (["{}", "--labels=17b"], r"--labels: expected labels .*, came '17b' in '17b'"),
    "no list": (["{}", "--exclude=/no/such/file"], r"--exclude: expected labels such as 17,42, or a file of them"),
    "bounds": (["{}", "--bounds=0,0,0,9,9,9"], r"--bounds: expected voxels of"),
    "flat and open": (
        ["{}", "--bounds=0,10,1010,1,20,1020", "--close_borders=false"],
        r"--bounds: expected two voxels or more along each axis without --close_borders, came \(1, 10, 10\)",
    ),
    "folder of voxels": (["{}", "--mesh_dir=16_16_40"], r"--mesh_dir: expected a folder of its own for meshes"),
    "folder in voxels": (["{}", "--mesh_dir=16_16_40/mesh"], r"--mesh_dir: expected a folder of its own for meshes"),
    "the volume itself": (["{}", "--mesh_dir=."], r"--mesh_dir: expected the name of a folder in .*came '.'"),
    "outside": (["{}", "--mesh_dir=../mesh"], r"--mesh_dir: expected the name of a folder in .*came '../mesh'"),
    "records": (["{}", "--mesh_dir=.beam_volumes"], r"--mesh_dir: expected .*\.beam_volumes"),
    "scratch in a folder that is not there": (
        ["{}", "--scratch=/nowhere/at/all"],
        r"--scratch: expected a folder, .*, came /nowhere/at/all, but there is no /nowhere/at: correct the name",
    ),
    "scratch that is a file": (
        ["{}", f"--scratch={__file__}"],
        r"--scratch: expected a folder, came .*, which is a file",
    ),
    "scratch": (["{}", "--scratch=https://host/path"], r"--scratch: expected a place to write to"),
    "misspelt": (["{}", "--num_lod=2"], r"--num_lod: neither .* did you mean --num_lods"),
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
    status = main([arg.replace("{}", f"--layer=file://{untouched}") for arg in args])
    check_refusal(status, message, capsys)
