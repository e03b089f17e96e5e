"""Meshes of a real segmentation, in one run: all objects, closed at every level of detail, true to the voxels."""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fastremap
import numpy as np
import pytest
import zmesh
from cloudvolume import CloudVolume

from benchmarks.mesh_error import distances_to_surface, surface_samples
from tests.pipelines.conftest import Array
from tests.pipelines.mesh_cases import mesh, report, stage, without_pictures
from tests.pipelines.mesh_reading import MeshReader

RESOLUTION = (16, 16, 40)
OFFSET = (-40, 8, 3)
"""Of the sample, in voxels."""
DUST = 100
LEVELS = (3, 5)
COMPARED = 100
"""Labels, at random, of which what CloudVolume has read is compared with what stands there."""
MEASURED = 40
"""Labels whose distance to their exact surface is measured: the largest, and as many at random."""


class Meshed(NamedTuple):
    """The meshes of a run, and the surfaces of all labels by level of detail."""

    layer: Path
    reader: MeshReader
    num_lods: int


@pytest.fixture(scope="module")
def counts(sample: Array) -> dict[int, int]:
    labels, counts = fastremap.unique(sample, return_counts=True)
    return {label: count for label, count in zip(labels.tolist(), counts.tolist(), strict=True) if label}


@pytest.fixture(scope="module", params=LEVELS)
def meshed(
    request: pytest.FixtureRequest, sample_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Meshed]:
    folder, num_lods = tmp_path_factory.mktemp("meshed") / "layer", int(request.param)
    shutil.copytree(sample_url.removeprefix("file://"), folder, copy_function=os.link)
    options = ["--cell_size=256,256,256", f"--dust_threshold={DUST}", "--simplification_factor=6.2"]
    with without_pictures():
        assert mesh(folder, *options, f"--num_lods={num_lods}", processes=2) == 0
    yield Meshed(folder, MeshReader(folder), num_lods)
    shutil.rmtree(folder)


def test_every_object_is_closed_and_as_large_as_its_voxels(
    meshed: Meshed, counts: dict[int, int], sample: Array
) -> None:
    expected = sorted(label for label, voxels in counts.items() if voxels >= DUST)
    assert len(expected) > 2_000
    assert meshed.reader.labels == expected
    meshed.reader.check_shards()
    at_faces = {label for axis in range(3) for end in (0, -1) for label in np.unique(sample.take(end, axis)).tolist()}
    opened, volumes = list[tuple[int, int]](), dict[int, float]()
    for label in expected:
        stored = meshed.reader.mesh(label)
        assert len(stored.levels) == meshed.num_lods
        surfaces = [stored.surface(lod) for lod in range(meshed.num_lods)]
        assert all(len(surface.faces) > 0 for surface in surfaces)
        opened += [(label, lod) for lod, surface in enumerate(surfaces) if len(surface.open_edges)]
        if counts[label] > 10_000 and label not in at_faces:
            volumes[label] = surfaces[0].volume_nm3 / (counts[label] * np.prod(RESOLUTION))
    assert opened == []
    assert len(volumes) > 50
    off = {label: volume for label, volume in volumes.items() if abs(volume - 1) > 0.02}
    assert off == {}


def test_the_report_tells_of_it(meshed: Meshed, counts: dict[int, int]) -> None:
    labels = stage(meshed.layer, "labels")
    assert labels["meshed"] == sum(voxels >= DUST for voxels in counts.values())
    assert labels["under_the_dust_threshold"] == sum(voxels < DUST for voxels in counts.values())
    assert labels["without_a_surface"] == 0
    surfaces = stage(meshed.layer, "surfaces")
    assert (surfaces["not_encoded"], surfaces["vertices_moved_into_their_cell"]) == (0, 0)
    triangles = [stage(meshed.layer, f"level of detail {lod}")["triangles"] for lod in range(meshed.num_lods)]
    # Borders of cells keep theirs.
    assert 6 <= surfaces["triangles_of_marching_cubes"] / triangles[0] <= 6.2
    for fine, coarse in itertools.pairwise(triangles):
        assert fine / coarse > 2
    assert report(meshed.layer)["peak_memory_bytes"] < 2_000_000_000


def test_cloudvolume_reads_them_all(meshed: Meshed) -> None:
    source = CloudVolume(f"file://{meshed.layer}", progress=False).mesh
    chosen = np.random.default_rng(1).permutation(meshed.reader.labels)[:COMPARED].tolist()
    for lod in range(meshed.num_lods):
        found = source.get(meshed.reader.labels, lod=lod)
        assert sorted(found) == meshed.reader.labels
        assert all(len(mesh.faces) > 0 for mesh in found.values())
        for label in chosen:
            ours = meshed.reader.mesh(label).surface(lod).nm
            low, high = found[label].vertices.min(axis=0), found[label].vertices.max(axis=0)
            np.testing.assert_allclose(low, ours.min(axis=0), atol=0.1)
            np.testing.assert_allclose(high, ours.max(axis=0), atol=0.1)


def test_the_finest_level_is_near_the_exact_surface(meshed: Meshed, counts: dict[int, int], sample: Array) -> None:
    by_size = sorted((label for label in meshed.reader.labels), key=lambda label: counts[label], reverse=True)
    others = np.random.default_rng(2).permutation(by_size[MEASURED:]).tolist()
    chosen = [*by_size[:MEASURED], *others[:MEASURED]]
    exact, distances, triangles = exact_surfaces(sample, chosen), list[Array](), 0
    for label in chosen:
        points, faces = exact[label]
        surface = meshed.reader.mesh(label).surface(0)
        # Points are as dense on all objects.
        samples = max(100, len(faces) // 20)
        distances.append(distances_to_surface(surface_samples(points, faces, samples), surface.nm, surface.faces))
        triangles += len(faces)
    assert triangles > 1_000_000
    assert np.concatenate(distances).mean() < 4


def exact_surfaces(sample: Array, labels: list[int]) -> dict[int, tuple[Array, Array]]:
    """Return what zmesh's marching cubes makes of labels, closed at the faces of the volume; vertices in nm."""
    kept = fastremap.mask_except(sample, labels, in_place=False)
    mesher = zmesh.Mesher((1, 1, 1))
    mesher.mesh(np.pad(kept, 1), close=False)
    found = {}
    for label in labels:
        surface = mesher.get(label, normals=False)
        found[label] = ((surface.vertices - 0.5 + OFFSET) * RESOLUTION, surface.faces)
        mesher.erase(label)
    return found
