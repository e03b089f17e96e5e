"""Meshes by stages: commands on small volumes, and fragments read by none of our code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import mapbuffer
import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Box
from pipelines import forge_mesh, merge_mesh
from pipelines import mesh as mesh_at_once
from tests.pipelines.conftest import Array
from tests.pipelines.mesh_cases import RESOLUTION

CELL = "--cell_size=24,20,16"
FRAGMENTS = "mesh_fragments"

Nm = tuple[float, float, float]
_NOT_THE_SAME = ("report.json", "provenance", "meshes.png")
"""What tells of the run; the picture shows the largest objects, and fragments do not tell how large they are."""


class Piece(NamedTuple):
    """The surface of a label in a box: vertices, float32, (n, XYZ), nm; and faces, (m, 3)."""

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int64]


def mesh(layer: Path, *options: str) -> int:
    return mesh_at_once.main([f"--layer=file://{layer}", "--processes=1", *options])


def forge(layer: Path, *options: str, processes: int = 1) -> int:
    return forge_mesh.main([f"--layer=file://{layer}", f"--processes={processes}", *options])


def merge(layer: Path, *options: str, processes: int = 1) -> int:
    return merge_mesh.main([f"--layer=file://{layer}", f"--processes={processes}", *options])


def files(layer: Path, folder: str = "mesh") -> dict[str, bytes]:
    """Return all files of a folder that do not tell of the run."""
    paths = [path for path in (layer / folder).rglob("*") if path.is_file() and path.name not in _NOT_THE_SAME]
    return {str(path.relative_to(layer / folder)): path.read_bytes() for path in paths}


def named(layer: Path) -> str | None:
    """Return the folder that the volume's info names as that of its meshes."""
    name: str | None = json.loads((layer / "info").read_text()).get("mesh")
    return name


def pieces(folder: Path) -> dict[Box, dict[int, Piece]]:
    """Return what stands in the files of fragments, by box and label."""
    found = {}
    for path in folder.glob("*.frags"):
        numbers = re.fullmatch(r"(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)\.frags", path.name)
        assert numbers is not None, path
        x0, x1, y0, y1, z0, z1 = map(int, numbers.groups())
        stored = mapbuffer.MapBuffer(path.read_bytes(), frombytesfn=_parsed)
        found[Box((x0, y0, z0), (x1, y1, z1))] = dict(stored.items())
    return found


def _parsed(data: bytes) -> Piece:
    count = int.from_bytes(data[:4], "little")
    vertices = np.frombuffer(data, "<f4", 3 * count, 4).reshape(-1, 3)
    return Piece(vertices, np.frombuffer(data, "<u4", -1, 4 + 12 * count).astype(np.int64).reshape(-1, 3))


def half_voxels(nm: Array, resolution: Nm = RESOLUTION, tolerance: float = 0.01) -> set[tuple[int, ...]]:
    """Return points, (n, XYZ), nm, in half voxels from the corner of voxel 0."""
    places = nm.astype(np.float64) / np.array(resolution) * 2
    assert np.abs(places - np.rint(places)).max(initial=0) < tolerance
    return set(map(tuple, np.rint(places).astype(int).tolist()))
