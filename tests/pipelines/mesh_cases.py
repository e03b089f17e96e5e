"""Small segmentations to mesh, the commands on them, and what of them must hold whatever the options."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import CloudVolume

from beam_volumes.geometry import Vec
from beam_volumes.meshing import mesh_report
from beam_volumes.testing.neurons import make_neurons
from pipelines.mesh import main
from tests.pipelines.conftest import Array
from tests.pipelines.mesh_reading import MeshReader, Surface

OFFSET = (-33, 7, 1_001)
RESOLUTION = (16, 16, 40)
LODS = ["--num_lods=3", "--cell_size=24,20,16"]
"""With them there are 3 x 3 x 3 cells, 2 x 2 x 2 of the next level, and one of the last."""


@contextmanager
def without_pictures() -> Iterator[None]:
    """Draw none: that takes longer than small meshes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh_report, "write_picture", lambda *_: None)
        yield


def made_neurons() -> Array:
    """Return labels 1 to 12, of odd size."""
    return make_neurons((70, 53, 41), 3)


def write_labels(
    folder: Path,
    labels: Array,
    offset: Vec = OFFSET,
    resolution: tuple[float, float, float] = RESOLUTION,
    chunk: Vec = (32, 32, 16),
) -> str:
    """Write XYZ labels with CloudVolume; return the URL."""
    info = CloudVolume.create_new_info(
        1, "segmentation", str(labels.dtype), "raw", resolution, offset, labels.shape, chunk_size=chunk
    )
    volume = CloudVolume(f"file://{folder}", info=info, progress=False)
    volume.commit_info()
    volume[:] = labels[..., np.newaxis]
    return f"file://{folder}"


def mesh(layer: Path | str, *options: str, processes: int = 1) -> int:
    url = layer if isinstance(layer, str) else f"file://{layer}"
    return main([f"--layer={url}", f"--processes={processes}", *options])


def report(layer: Path, folder: str = "mesh") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((layer / folder / "report.json").read_text())
    return content


def stage(layer: Path, name: str, folder: str = "mesh") -> dict[str, Any]:
    found: dict[str, Any] = report(layer, folder)["stages"][name]
    return found


def files(layer: Path) -> dict[str, bytes]:
    """Return all files of the meshes that do not tell of the run."""
    names, others = [p for p in (layer / "mesh").rglob("*") if p.is_file()], ("report.json", "provenance")
    return {str(p.relative_to(layer / "mesh")): p.read_bytes() for p in names if p.name not in others}


def labels_in(labels: Array) -> list[int]:
    return [int(label) for label in np.unique(labels) if label]


def half_voxels(surface: Surface, resolution: Vec = RESOLUTION, tolerance: float = 0.01) -> set[tuple[int, ...]]:
    """Return vertices in half voxels from the corner of voxel 0."""
    places = surface.nm / np.array(resolution) * 2
    assert np.abs(places - np.rint(places)).max() < tolerance
    return set(map(tuple, np.rint(places).astype(int).tolist()))


def crossings(solid: Array, offset: Vec) -> set[tuple[int, ...]]:
    """Return where marching cubes puts its vertices: half-way between a voxel of the solid and one that is not."""
    padded, found = np.pad(solid, 1).astype(np.int8), set[tuple[int, ...]]()
    for axis in range(3):
        places = np.argwhere(np.diff(padded, axis=axis)) - 1 + np.array(offset)
        doubled = places * 2 + 1
        doubled[:, axis] += 1
        found |= set(map(tuple, doubled.tolist()))
    return found


def check(layer: Path, labels: list[int], num_lods: int) -> MeshReader:
    """Make sure that just these labels have meshes, which are closed at every level."""
    reader = MeshReader(layer)
    assert reader.labels == sorted(labels)
    for label in labels:
        stored = reader.mesh(label)
        assert len(stored.levels) == num_lods
        for lod in range(num_lods):
            surface = stored.surface(lod)
            assert len(surface.faces) >= 2, (label, lod)
            assert len(surface.open_edges) == 0, (label, lod)
        assert stored.surface(0).volume_nm3 > 0
    if "sharding" in reader.info:
        reader.check_shards()
    return reader
