"""Interchange with Igneous: it merges what is forged here, and what it forges is merged here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cloudvolume import CloudVolume

from tests.pipelines.conftest import Array
from tests.pipelines.mesh_cases import labels_in, made_neurons, report, stage, without_pictures, write_labels
from tests.pipelines.mesh_reading import MeshReader
from tests.pipelines.staged_meshes import FRAGMENTS, forge, merge

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("igneous") is None, reason="Igneous needs pip install -e '.[benchmark]'"
)

RESOLUTION = (16, 16, 40)
OFFSET = (-13, 7, 100)


@pytest.fixture
def labels() -> Array:
    """Objects in two thirds of the volume: of the others' boxes Igneous writes no fragments."""
    labels = made_neurons()
    labels[45:, :, 20:] = 0
    return labels


@pytest.fixture
def layer(labels: Array, tmp_path: Path) -> Path:
    write_labels(tmp_path / "layer", labels, OFFSET, RESOLUTION)
    return tmp_path / "layer"


def igneous(layer: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("igneous")), "mesh", arguments[0], f"file://{layer}", *arguments[1:]]
    done = subprocess.run(
        command, cwd=layer.parent, env={**os.environ, "HOME": str(layer.parent)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_igneous_merges_what_is_forged_here(layer: Path, labels: Array) -> None:
    assert forge(layer, "--cell_size=32,28,24", "--simplification_factor=2") == 0
    igneous(layer, "merge-sharded", "--nlod", "1", "--dir", FRAGMENTS, "--min-chunk-size", "512,512,512")
    info = json.loads((layer / "info").read_text())
    folder = next(path.parent for path in layer.rglob("*.shard"))
    (layer / "info").write_text(json.dumps({**info, "mesh": folder.name}))
    found = CloudVolume(f"file://{layer}", progress=False).mesh.get(labels_in(labels), lod=0)
    assert sorted(found) == labels_in(labels)
    for label, mesh in found.items():
        points = np.argwhere(labels == label) + np.array(OFFSET)
        assert np.abs(mesh.vertices.min(axis=0) - points.min(axis=0) * RESOLUTION).max() <= 40
        assert np.abs(mesh.vertices.max(axis=0) - (points.max(axis=0) + 1) * RESOLUTION).max() <= 40


@pytest.mark.parametrize("simplify", [["--skip-simplify"], ["--max-error", "16"]])
def test_what_igneous_forges_is_merged_here(
    simplify: list[str], layer: Path, labels: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its surfaces stay open beside a last box that is one voxel thick: here there is none.
    igneous(layer, "forge", "--shape", "24,28,21", "--dir", "theirs", "--sharded", *simplify)
    written = len(list((layer / "theirs").glob("*.frags")))
    with without_pictures():
        assert merge(layer, "--fragments_dir=theirs", "--num_lods=3") == 0
    cells = stage(layer, "cells")
    assert cells["planned"] == 3 * 2 * 2
    assert cells["without_labels"] == cells["planned"] - written > 0
    assert report(layer)["holes"] == []
    reader = MeshReader(layer)
    assert reader.labels == labels_in(labels)
    reader.check_shards()
    # Where objects touch the volume's lower faces, Igneous closes them half a voxel beyond the first cells.
    low = (np.array(OFFSET) + 1) * RESOLUTION
    for label in reader.labels:
        stored = reader.mesh(label)
        for lod in range(3):
            surface = stored.surface(lod)
            ends = surface.nm[surface.open_edges]
            assert ((ends <= low).any(axis=2)).all(), (label, lod)
    touching = {n for axis in range(3) for n in labels_in(labels.take(0, axis))}
    assert (stage(layer, "surfaces")["vertices_moved_into_their_cell"] > 0) == bool(touching)
