"""A real segmentation meshed by stages: every object at every level of detail, and closed."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fastremap
import numpy as np
import pytest
from cloudvolume import CloudVolume

from beam_volumes.spatial_index.files import find_index_files
from beam_volumes.spatial_index.queries import SpatialIndex
from tests.pipelines.conftest import Array
from tests.pipelines.mesh_cases import stage, without_pictures
from tests.pipelines.mesh_reading import MeshReader
from tests.pipelines.staged_meshes import FRAGMENTS, forge, merge

DUST = 100
LODS = 3


@pytest.fixture(scope="module")
def layer(sample_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sample with fragments of 8 boxes and meshes."""
    layer = tmp_path_factory.mktemp("staged") / "layer"
    shutil.copytree(sample_url.removeprefix("file://"), layer, copy_function=os.link)
    with without_pictures():
        assert forge(layer, "--cell_size=256,256,256", f"--dust_threshold={DUST}", processes=2) == 0
        assert merge(layer, f"--num_lods={LODS}", processes=2) == 0
    yield layer
    shutil.rmtree(layer)


def test_every_object_by_stages(layer: Path, sample: Array) -> None:
    labels, counts = fastremap.unique(sample, return_counts=True)
    expected = [n for n, voxels in zip(labels.tolist(), counts.tolist(), strict=True) if n and voxels >= DUST]
    reader = MeshReader(layer)
    assert reader.labels == sorted(expected)
    assert SpatialIndex(find_index_files(f"file://{layer}", FRAGMENTS)).labels_in_box().tolist() == reader.labels
    opened = []
    for label in reader.labels:
        stored = reader.mesh(label)
        surfaces = [stored.surface(lod) for lod in range(LODS)]
        assert all(len(surface.faces) > 0 for surface in surfaces)
        opened += [(label, lod) for lod, surface in enumerate(surfaces) if len(surface.open_edges)]
    assert opened == []
    assert stage(layer, "surfaces")["vertices_moved_into_their_cell"] == 0
    assert stage(layer, "cells", FRAGMENTS)["done"] == len(list((layer / FRAGMENTS).glob("*.frags"))) == 8
    source = CloudVolume(f"file://{layer}", progress=False).mesh
    chosen = np.random.default_rng(3).permutation(reader.labels)[:50].tolist()
    for lod in range(LODS):
        for label, found in source.get(chosen, lod=lod).items():
            surface = reader.mesh(label).surface(lod)
            assert len(found.faces) == len(surface.faces)
            np.testing.assert_allclose(found.vertices.min(axis=0), surface.nm.min(axis=0), atol=0.1)
            np.testing.assert_allclose(found.vertices.max(axis=0), surface.nm.max(axis=0), atol=0.1)
