"""Meshes of volumes that a proofreading server tells the ids of, and those that travel as they do on a cluster."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from cloudvolume import CloudVolume

from beam_volumes.meshing import mesh_picture
from beam_volumes.meshing.mesh_picture import PICTURE
from beam_volumes.meshing.picture import LabelMesh
from beam_volumes.runs import take
from beam_volumes.testing.chunk_graph import DEMO_TIMES
from beam_volumes.testing.faults import Faults
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server
from pipelines.mesh import Config, plan
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.conftest import Array, only_error, tree
from tests.pipelines.mesh_cases import (
    LODS,
    OFFSET,
    check,
    crossings,
    files,
    half_voxels,
    labels_in,
    made_neurons,
    mesh,
    report,
    without_pictures,
    write_labels,
)
from tests.pipelines.mesh_reading import MeshReader
from transforms.pool import Execution


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProofreadingServer]:
    folder = tmp_path_factory.mktemp("graph")
    with demo_server(folder, made_neurons(), (32, 32, 16), OFFSET, faults=Faults(rate=0.1, status=503, seed=2)) as one:
        yield one


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A volume of anything, that meshes are added to."""
    write_labels(tmp_path / "layer", np.zeros((70, 53, 41), np.uint64))
    return tmp_path / "layer"


@pytest.mark.parametrize(
    ("timestamp", "stop_layer"), [(DEMO_TIMES[0], None), (DEMO_TIMES[2], None), (DEMO_TIMES[1], 2)]
)
def test_meshes_of_a_graph_at_a_moment(
    timestamp: int, stop_layer: int | None, server: ProofreadingServer, layer: Path
) -> None:
    options = [f"--dst=file://{layer}", f"--timestamp={timestamp}", "--simplification_factor=1"]
    options += [f"--stop_layer={stop_layer}"] if stop_layer else []
    with without_pictures():
        assert mesh(server.url, *LODS, *options) == 0
    expected = roots(server, timestamp, stop_layer)
    reader = check(layer, labels_in(expected), 3)
    for label in reader.labels[:10]:
        assert half_voxels(reader.mesh(label).surface(0)) == crossings(expected == label, OFFSET)
    told = report(layer)
    assert told["server"]["ids_asked"] > 0
    assert told["layer"] == server.url
    assert told["identity"]["timestamp"] == timestamp


def test_a_moment_must_be_told(server: ProofreadingServer, layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(layer)
    assert mesh(server.url, *LODS, f"--dst=file://{layer}") == 2
    assert "--timestamp: expected a UNIX second" in only_error(capsys.readouterr().err)
    assert tree(layer) == before


def test_two_moments_are_two_runs(server: ProofreadingServer, layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _, last = DEMO_TIMES
    with without_pictures():
        assert mesh(server.url, *LODS, f"--dst=file://{layer}", f"--timestamp={first}") == 0
        capsys.readouterr()
        assert mesh(server.url, *LODS, f"--dst=file://{layer}", f"--timestamp={last}") == 2
    assert f"timestamp was {first}, now {last}" in only_error(capsys.readouterr().err)


def roots(server: ProofreadingServer, timestamp: int | None, stop_layer: int | None) -> Array:
    """Return what the ids of all voxels are, XYZ."""
    supervoxels = np.asarray(CloudVolume(server.watershed_url, progress=False)[:])[..., 0]
    found, places = np.unique(supervoxels, return_inverse=True)
    mapped = np.zeros(len(found), np.uint64)
    mapped[found != 0] = server.graph.roots(found[found != 0], timestamp, stop_layer)
    return mapped[places].reshape(supervoxels.shape)


@pytest.mark.parametrize("options", [LODS, [*LODS, "--sharded=false"], [LODS[1], "--format=legacy"]])
def test_what_travels_inline_makes_the_same_bytes(options: list[str], tmp_path: Path) -> None:
    """On a cluster small payloads go through the shuffle, and large ones through packs."""
    found = []
    for inline_bytes in (0, 20_000, 2**20):
        folder = tmp_path / f"layer {inline_bytes}"
        write_labels(folder, made_neurons())
        config = parse(Config, [f"--layer=file://{folder}", *options])[0]
        job = plan(config, Setting(local=True, workers=2, inline_bytes=inline_bytes))
        take(job.claim)
        pipeline = beam.Pipeline(runner=FnApiRunner())
        job.build(pipeline, Execution(1, None))
        with without_pictures():
            pipeline.run().wait_until_finish()
        assert not (folder / ".beam_volumes").exists()
        found.append(files(folder))
    assert found[0] == found[1] == found[2]
    if "--format=legacy" not in options:
        assert MeshReader(folder).labels == labels_in(made_neurons())


@pytest.mark.parametrize("options", [LODS, ["--format=legacy"]])
def test_a_local_run_draws_a_picture(options: list[str], tmp_path: Path) -> None:
    write_labels(tmp_path / "layer", made_neurons())
    assert mesh(tmp_path / "layer", *options, processes=2) == 0
    place = tmp_path / "layer/mesh" / PICTURE
    drawn = place.read_bytes()
    assert drawn.startswith(b"\x89PNG")
    place.unlink()
    # The same command makes up for what a kill has left undone, in its own process.
    assert mesh(tmp_path / "layer", *options) == 0
    assert place.read_bytes() == drawn


def test_of_large_meshes_the_picture_shows_the_coarsest_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "layer"
    write_labels(folder, made_neurons())
    shown: list[dict[int, int]] = []

    def render(meshes: Sequence[LabelMesh], **_: Any) -> bytes:
        shown.append({label: len(faces) for label, _, faces in meshes})
        return b"a picture"

    monkeypatch.setattr(mesh_picture, "render_meshes", render)
    for enough, most in ((2**20, 2**23), (0, 2**23), (0, 1)):
        monkeypatch.setattr(mesh_picture, "_ENOUGH_BYTES", enough)
        monkeypatch.setattr(mesh_picture, "_MOST_BYTES", most)
        assert mesh(folder, *LODS) == 0
        (folder / "mesh" / PICTURE).unlink()
    volume, labels = CloudVolume(f"file://{folder}"), labels_in(made_neurons())
    by_level = [{label: len(volume.mesh.get(label, lod=lod)[label].faces) for label in labels} for lod in (0, 2)]
    assert shown == [*by_level, {}]


def test_names_and_voxels_of_objects_for_viewers(tmp_path: Path) -> None:
    folder, labels = tmp_path / "layer", made_neurons()
    write_labels(folder, labels)
    with without_pictures():
        assert mesh(folder, *LODS, "--segment_properties", "--dust_threshold=1000") == 0
    expected = {str(label): int((labels == label).sum()) for label in labels_in(labels)}
    expected = {label: voxels for label, voxels in expected.items() if voxels >= 1000}
    name = json.loads((folder / "mesh/info").read_text())["segment_properties"]
    inline = json.loads((folder / "mesh" / name / "info").read_text())["inline"]
    [numbers] = [entry["values"] for entry in inline["properties"] if entry["type"] == "number"]
    assert dict(zip(inline["ids"], numbers, strict=True)) == expected
    shutil.rmtree(folder)
