import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.meshing import simplification
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.simplification import Simplified, simplify
from beam_volumes.meshing.topology import border_edges, compact, count_edges, lost_bodies, weld
from tests.beam_volumes.meshing.blobs import EMPTY, cut_surface, make_blobs, surface, tetrahedra, volume

RESOLUTION = (16.0, 16.0, 40.0)

property_test = settings(derandomize=True, deadline=None, max_examples=80)


def sponge() -> Mesh:
    """A surface with thin necks: meshoptimizer makes edges with more than two faces of them."""
    return surface(make_blobs((24, 24, 24), 1, 1, 0.45))


def rows(array: npt.NDArray[np.int32]) -> set[tuple[int, ...]]:
    return set(map(tuple, array.reshape(len(array), -1).tolist()))


def bodies(mesh: Mesh) -> int:
    return len(lost_bodies(mesh, mesh.faces[:0]).low)


def check(simplified: Simplified, mesh: Mesh) -> None:
    """What holds of every mesh that came closed, or with a border, and without crowded edges."""
    found = simplified.mesh
    assert np.array_equal(border_edges(found), border_edges(mesh))
    assert count_edges(found.faces, len(found.vertices)).crowded == 0
    assert 0 < len(found.faces) <= len(mesh.faces)
    assert compact(found) is found
    assert len(rows(found.vertices)) == len(found.vertices)
    assert found.vertices.dtype == np.int32
    assert found.faces.dtype == np.uint32


@given(
    seed=st.integers(0, 2**32 - 1),
    smoothness=st.integers(0, 3),
    axis=st.integers(0, 2),
    at=st.integers(1, 9),
    reduction=st.sampled_from([2, 6, 9, 1_000]),
    max_error_nm=st.sampled_from([None, 5.0, 100.0]),
    resolution_nm=st.sampled_from([RESOLUTION, (4.0, 4.0, 33.0), (512.0, 512.0, 320.0)]),
    fit=st.booleans(),
)
@property_test
def test_cells_that_are_simplified_on_their_own_fit_together(
    seed: int,
    smoothness: int,
    axis: int,
    at: int,
    reduction: int,
    max_error_nm: float | None,
    resolution_nm: tuple[float, float, float],
    fit: bool,
) -> None:
    parts, plane = cut_surface(make_blobs((11, 12, 10), seed, smoothness), axis, at)
    simplified = []
    for part in parts:
        found = simplify(part, resolution_nm, len(part.faces) // reduction, max_error_nm, fit=fit)
        check(found, part)
        simplified.append(found.mesh)
    joined = weld(simplified, [plane])
    assert count_edges(joined.faces, len(joined.vertices)).open == 0


def test_a_smooth_surface_keeps_its_shape_at_a_sixth_of_its_faces() -> None:
    x, y, z = np.ogrid[:40, :40, :20]
    ball = (x - 19.5) ** 2 + (y - 19.5) ** 2 + (2.5 * (z - 9.5)) ** 2 < 18**2
    mesh = surface(ball)
    found = simplify(mesh, RESOLUTION, len(mesh.faces) // 6, None)
    check(found, mesh)
    assert len(mesh.faces) // 6 - 2 <= len(found.mesh.faces) <= len(mesh.faces) // 6
    assert rows(found.mesh.vertices) <= rows(mesh.vertices)
    assert volume(found.mesh) == pytest.approx(volume(mesh), rel=0.01)
    assert (found.fell_back, found.crowded) == (False, 0)
    assert 0 < found.error_nm < 20


def test_the_error_ends_what_the_target_would_go_on_with() -> None:
    mesh = surface(make_blobs((20, 20, 20), 3, 3))
    faces = []
    for error_nm in (1.0, 5.0, 20.0, None):
        found = simplify(mesh, RESOLUTION, len(mesh.faces) // 50, error_nm)
        check(found, mesh)
        assert found.error_nm <= (error_nm or 1e6)
        faces.append(len(found.mesh.faces))
    assert faces == sorted(faces, reverse=True)
    assert len(set(faces)) == 4


def test_errors_are_measured_in_nm_along_every_axis() -> None:
    # Steps along z: where voxels are thin they are as good as flat.
    x, _, z = np.indices((48, 12, 12))
    mesh = surface(z < 4 + x % 8 // 4)
    flat = simplify(mesh, (16.0, 16.0, 1.0), 1, 4.0)
    high = simplify(mesh, (16.0, 16.0, 100.0), 1, 4.0)
    for found in (flat, high):
        check(found, mesh)
        assert 0 < found.error_nm <= 4
    assert len(flat.mesh.faces) < len(high.mesh.faces) / 2


def test_places_far_away_are_as_exact() -> None:
    mesh = sponge()
    far = np.array([2**30, -(2**30), 2**29], np.int32)
    near = simplify(mesh, RESOLUTION, len(mesh.faces) // 6, None)
    found = simplify(Mesh(mesh.vertices + far, mesh.faces), RESOLUTION, len(mesh.faces) // 6, None)
    assert np.array_equal(found.mesh.vertices - far, near.mesh.vertices)
    assert np.array_equal(found.mesh.faces, near.mesh.faces)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_small_body_never_vanishes(size: int) -> None:
    mesh = surface(np.ones((size, size, size), np.bool_))
    for target in (0, 1, 4):
        found = simplify(mesh, RESOLUTION, target, None)
        check(found, mesh)
        assert volume(found.mesh) > 0


@pytest.mark.parametrize("fit", [False, True])
def test_small_bodies_of_an_object_stay(fit: bool) -> None:
    voxels = np.zeros((60, 40, 40), np.bool_)
    voxels[:30] = make_blobs((30, 40, 40), 1, 4)
    for x, y, z in np.ndindex(5, 6, 6):
        voxels[32 + 5 * x :, 2 + 6 * y :, 2 + 6 * z :][:3, :3, :3] = True
    mesh = surface(voxels)
    found = simplify(mesh, RESOLUTION, len(mesh.faces) // 9, 40.0, fit=fit)
    check(found, mesh)
    assert bodies(found.mesh) == bodies(mesh) > 5 * 6 * 6
    assert len(found.mesh.faces) < len(mesh.faces) / 9 * 1.25


def test_specks_stay_one_in_each_cube_of_the_size_of_the_error() -> None:
    """A row of them: no gap is longer than the error, and there are no more than it takes."""
    mesh = weld([tetrahedra([[64 * n, 0, 0] for n in range(200)], 16)], None)
    left = []
    for error_nm in (10.0, 100.0, 400.0, 3000.0):
        found = simplify(mesh, (16.0, 16.0, 16.0), 1, error_nm)
        check(found, mesh)
        left.append(bodies(found.mesh))
        places = np.unique(found.mesh.vertices[:, 0] // 64) * 64
        # Two cubes side by side, seen from corner to corner.
        assert np.diff(places).max(initial=0) <= 2 * error_nm / np.sqrt(3) + 64
    assert left[0] == 200
    assert 200 >= left[1] > left[2] > left[3] >= 6


@pytest.mark.parametrize("max_error_nm", [50.0, 1_000.0])
def test_bodies_larger_than_the_error_stay(max_error_nm: float) -> None:
    voxels = np.zeros((90, 30, 9), np.bool_)
    for n in range(10):
        voxels[9 * n : 9 * n + 7, 2 * n % 9 :, 1:][:, :6, :6] = True
    mesh = surface(voxels)
    found = simplify(mesh, RESOLUTION, 1, max_error_nm)
    check(found, mesh)
    size = np.linalg.norm(np.array([7, 6, 6]) * RESOLUTION)
    assert (bodies(found.mesh) == bodies(mesh) == 10) == bool(size > max_error_nm)


def test_of_specks_that_all_vanish_the_largest_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplification, "_collapse", lambda mesh, *_: (mesh.faces[:0], 0.0))
    mesh = weld([tetrahedra([[100 * n, 0, 0] for n in range(90)], 16), tetrahedra([[0, 999, 0]], 17)], None)
    found = simplify(mesh, RESOLUTION, 30, None)
    check(found, mesh)
    assert rows(found.mesh.vertices) == rows(mesh.vertices[-4:])


def test_small_meshes_are_returned_as_they_are() -> None:
    voxel = surface(np.ones((1, 1, 1), np.bool_))
    assert len(voxel.faces) == 8
    for mesh, target in ((EMPTY, 0), (tetrahedra([0, 0, 0]), 1), (voxel, 1), (sponge(), 10**6)):
        found = simplify(mesh, RESOLUTION, target, None)
        assert found.mesh is mesh
        assert found[1:] == (False, 0, 0.0)


def test_a_mesh_that_cannot_be_written_to_is_taken_and_left_as_it_is() -> None:
    mesh = sponge()
    stored = Mesh.from_bytes(mesh.to_bytes())
    found = simplify(stored, RESOLUTION, len(mesh.faces) // 6, None)
    again = simplify(mesh, RESOLUTION, len(mesh.faces) // 6, None)
    assert np.array_equal(found.mesh.faces, again.mesh.faces)
    assert np.array_equal(found.mesh.vertices, again.mesh.vertices)
    assert mesh.to_bytes() == stored.to_bytes()


def test_sheets_that_meet_are_parted() -> None:
    mesh = sponge()
    found = simplify(mesh, RESOLUTION, len(mesh.faces) // 9, None)
    check(found, mesh)
    assert found.crowded > 0
    assert not found.fell_back
    # The new vertices alone are elsewhere; where three sheets meet, there are two.
    added = len(rows(found.mesh.vertices) - rows(mesh.vertices))
    assert found.crowded <= added < found.crowded * 1.2
    assert len(found.mesh.faces) <= len(mesh.faces) // 9 + 2 * added
    assert volume(found.mesh) == pytest.approx(volume(mesh), rel=0.1)


@pytest.fixture
def _sheets_cannot_be_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplification, "split_crowded_edges", lambda mesh, *_: mesh)


@pytest.mark.usefixtures("_sheets_cannot_be_parted")
@pytest.mark.parametrize("max_error_nm", [None, 1_000.0])
def test_zmesh_simplifies_what_cannot_be_parted(max_error_nm: float | None) -> None:
    mesh = sponge()
    found = simplify(mesh, RESOLUTION, len(mesh.faces) // 9, max_error_nm)
    check(found, mesh)
    assert found.fell_back
    assert found.crowded > 0
    assert len(mesh.faces) // 10 < len(found.mesh.faces) < len(mesh.faces) // 8
    assert volume(found.mesh) == pytest.approx(volume(mesh), rel=0.1)


@pytest.mark.usefixtures("_sheets_cannot_be_parted")
def test_borders_stay_where_zmesh_simplifies() -> None:
    parts, plane = cut_surface(make_blobs((24, 24, 24), 1, 1, 0.45), 2, 12)
    simplified = [simplify(part, RESOLUTION, len(part.faces) // 9, None) for part in parts]
    assert any(found.fell_back for found in simplified)
    for found, part in zip(simplified, parts, strict=True):
        check(found, part)
    joined = weld([found.mesh for found in simplified], [plane])
    assert count_edges(joined.faces, len(joined.vertices)).open == 0


@pytest.mark.usefixtures("_sheets_cannot_be_parted")
def test_where_zmesh_fails_the_target_is_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplification, "_WIDEST_FOR_ZMESH", 1)
    mesh = sponge()
    found = simplify(mesh, RESOLUTION, len(mesh.faces) // 9, None)
    check(found, mesh)
    assert found.fell_back
    assert found.crowded > 0
    doublings = np.log2(len(found.mesh.faces) / (len(mesh.faces) // 9))
    assert len(found.mesh.faces) == len(mesh.faces) or abs(doublings - round(doublings)) < 0.01


@pytest.mark.usefixtures("_sheets_cannot_be_parted")
def test_at_last_a_mesh_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = sponge()
    monkeypatch.setattr(simplification, "_WIDEST_FOR_ZMESH", 1)
    monkeypatch.setattr(simplification, "_crowded", lambda some: 0 if some is mesh else 7)
    found = simplify(mesh, RESOLUTION, len(mesh.faces) // 9, None)
    assert found == (mesh, True, 7, 0.0)


def test_crowded_edges_that_came_are_none_of_ours() -> None:
    # Two stacks of voxels that have an edge in common.
    low = surface(np.ones((6, 6, 6), np.bool_))
    twin = Mesh(low.vertices * np.array([-1, 1, 1], np.int32), low.faces[:, ::-1])
    step = np.array([low.vertices[:, 0].min() * 2, 0, 0], np.int32)
    mesh = weld([low, Mesh(twin.vertices + step, twin.faces)], None)
    found = simplify(mesh, RESOLUTION, len(mesh.faces) // 3, None)
    assert count_edges(found.mesh.faces, len(found.mesh.vertices)).open == 0
    assert (
        count_edges(found.mesh.faces, len(found.mesh.vertices)).crowded
        <= count_edges(mesh.faces, len(mesh.vertices)).crowded
    )
    assert not found.fell_back
