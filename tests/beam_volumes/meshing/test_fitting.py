from typing import Any

import numpy as np
import pytest

from beam_volumes.meshing import fitting_kernels, simplification
from beam_volumes.meshing.fitting import fitted
from beam_volumes.meshing.mesh import Faces, Mesh
from beam_volumes.meshing.topology import border_edges, compact, count_edges
from tests.beam_volumes.meshing.blobs import cut_surface, make_blobs, surface, tetrahedra, volume

RESOLUTION = (16.0, 16.0, 40.0)
UNIT_NM = np.array(RESOLUTION) / 16


def ball(radius: float = 18) -> Mesh:
    x, y, z = np.ogrid[:40, :40, :20]
    return surface((x - 19.5) ** 2 + (y - 19.5) ** 2 + (2.5 * (z - 9.5)) ** 2 < radius**2)


def normals(mesh: Mesh) -> np.ndarray:
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces] * UNIT_NM, 1, 0)
    crossed = np.cross(b - a, c - a)
    return np.asarray(crossed / np.maximum(np.linalg.norm(crossed, axis=1, keepdims=True), 1e-9))


def faces_of(mesh: Mesh, factor: int) -> Faces:
    """The faces that are left of `mesh`, on its vertices."""
    return simplification._collapse(mesh, RESOLUTION, len(mesh.faces) // factor, None)[0]


def test_what_was_cut_off_comes_back() -> None:
    mesh = ball()
    faces = faces_of(mesh, 60)
    coarse, found = compact(Mesh(mesh.vertices, faces)), fitted(mesh, faces, RESOLUTION)
    assert found.faces.tolist() == coarse.faces.tolist()
    assert volume(coarse) < 0.93 * volume(mesh)
    assert volume(found) == pytest.approx(volume(mesh), rel=0.03)
    center = (np.array([19.5, 19.5, 9.5]) + 0.5) * RESOLUTION
    off = [
        np.abs(np.linalg.norm(some.vertices[some.faces].mean(axis=1) * UNIT_NM - center, axis=1) - 18 * 16).mean()
        for some in (coarse, found)
    ]
    assert off[1] < 0.6 * off[0]


def test_no_step_folds_a_face_over(monkeypatch: pytest.MonkeyPatch) -> None:
    least, folded = [], 0
    for seed in range(6):
        for part in cut_surface(make_blobs((24, 24, 24), seed, 1 - seed % 2), 0, 12)[0]:
            faces = faces_of(part, 5)
            before = normals(compact(Mesh(part.vertices, faces)))
            least.append(np.sum(normals(fitted(part, faces, RESOLUTION)) * before, axis=1).min())
            with monkeypatch.context() as unguarded:
                unguarded.setattr(fitting_kernels, "move", move_all)
                folded += int((np.sum(normals(fitted(part, faces, RESOLUTION)) * before, axis=1) < 0).sum())
    assert min(least) >= 0
    assert folded > 5


def move_all(surface: tuple[Any, ...], fixed: Any, steps: Any, scale: Any) -> None:
    surface[0][~fixed] += steps[~fixed]


def test_borders_stay_and_nothing_leaves_the_box() -> None:
    parts, _ = cut_surface(make_blobs((24, 24, 24), 1, 3), 0, 12)
    for part in parts:
        faces = faces_of(part, 5)
        coarse, found = compact(Mesh(part.vertices, faces)), fitted(part, faces, RESOLUTION)
        assert found.faces.tolist() == coarse.faces.tolist()
        assert np.array_equal(border_edges(found), border_edges(part))
        moved = (found.vertices != coarse.vertices).any(axis=1)
        assert moved.mean() > 0.5
        assert (found.vertices >= part.vertices.min(axis=0)).all()
        assert (found.vertices <= part.vertices.max(axis=0)).all()
        assert count_edges(found.faces, len(found.vertices)) == count_edges(coarse.faces, len(coarse.vertices))


def test_bodies_of_which_nothing_is_kept_pull_nobody() -> None:
    far = tetrahedra([[40, 40, 60]], 16)
    near = ball()
    both = Mesh(
        np.concatenate([near.vertices, far.vertices]),
        np.concatenate([near.faces, far.faces + np.uint32(len(near.vertices))]),
    )
    faces = faces_of(near, 30)
    alone, beside = fitted(near, faces, RESOLUTION), fitted(both, faces, RESOLUTION)
    assert beside.vertices.tolist() == alone.vertices.tolist()


def test_places_far_away_are_as_exact_and_what_is_given_stays_as_it_is() -> None:
    mesh = ball()
    before = mesh.to_bytes()
    faces = faces_of(mesh, 30)
    far = np.array([2**30, -(2**30), 2**29], np.int32)
    near = fitted(Mesh.from_bytes(before), faces, RESOLUTION)
    moved = fitted(Mesh(mesh.vertices + far, mesh.faces), faces, RESOLUTION)
    assert (moved.vertices - far).tolist() == near.vertices.tolist()
    assert mesh.to_bytes() == before


def test_where_nothing_was_simplified_nothing_moves() -> None:
    mesh = ball(5)
    assert fitted(mesh, mesh.faces, RESOLUTION).vertices.tolist() == mesh.vertices.tolist()
    assert compact(mesh) is mesh
