import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.mesh_error import MeshError, distances_to_surface, mesh_error, surface_samples

Points = npt.NDArray[np.float64]

SQUARE = (np.array([(0, 0, 0), (9, 0, 0), (9, 9, 0), (0, 9, 0)], np.float64), np.array([(0, 1, 2), (0, 2, 3)]))


def to_triangle(points: Points, triangle: Points) -> Points:
    """Return the distance of each point from a triangle, by the nearest of very many of its own points, and better.

    The nearest point is on a line from a corner to the side across: 1,001 such lines, each searched exactly.
    """
    a, b, c = triangle
    nearest = np.full(len(points), np.inf)
    for part in np.linspace(0, 1, 1_001):
        line = b + part * (c - b) - a
        length = line @ line
        along = np.clip((points - a) @ line / length, 0, 1) if length else np.zeros(len(points))
        nearest = np.minimum(nearest, np.linalg.norm(points - a - along[:, None] * line, axis=1))
    return nearest


@given(seed=st.integers(0, 2**32 - 1), faces=st.integers(1, 30), scale=st.sampled_from([0.01, 1, 1e5]))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_distances_are_those_to_the_nearest_of_all_triangles(seed: int, faces: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    vertices = random.normal(size=(20, 3)) * scale * np.array([1, 2, 0.1]) + 7 * scale
    # Some of them slivers, or a point.
    corners = random.integers(0, 20, (faces, 3))
    points = random.normal(size=(40, 3)) * 2 * scale + 7 * scale
    expected = np.min([to_triangle(points, vertices[face]) for face in corners], axis=0)
    found = distances_to_surface(points, vertices, corners)
    assert np.all(found <= expected + 1e-9 * scale)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-2 * scale)


def test_points_on_the_surface_and_beside_it() -> None:
    points = np.array([(2, 3, 0), (2, 3, -5), (12, 13, 0), (-1, 4, 0), (4, 12, 4), (9, 9, 0)], np.float64)
    assert distances_to_surface(points, *SQUARE).tolist() == pytest.approx([0, 5, 5, 1, 5, 0])


def test_a_few_large_triangles_among_many_small_ones() -> None:
    random = np.random.default_rng(1)
    places = random.random((3_000, 1, 3)) * 1_000
    small = (places + random.random((3_000, 3, 3))).reshape(-1, 3)
    vertices = np.concatenate([SQUARE[0] * 200 - 400, small])
    faces = np.concatenate([SQUARE[1], np.arange(9_000).reshape(-1, 3) + 4])
    points = random.random((50, 3)) * 1_400 - 200
    expected = np.min([to_triangle(points, vertices[face]) for face in faces[:2]], axis=0)
    centers = vertices[faces[2:]].mean(axis=1)
    for i, point in enumerate(points):
        near = faces[2:][np.argsort(np.linalg.norm(centers - point, axis=1))[:5]]
        expected[i] = min(expected[i], *(to_triangle(point[None], vertices[face])[0] for face in near))
    assert distances_to_surface(points, vertices, faces) == pytest.approx(expected, rel=1e-3)


def test_a_surface_without_faces_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a surface, came a mesh without faces"):
        distances_to_surface(np.zeros((1, 3)), SQUARE[0], SQUARE[1][:0])


def test_samples_are_spread_evenly_by_area() -> None:
    # A triangle without area, and one that is a third of the square.
    vertices = np.concatenate([SQUARE[0], [(20, 0, 0), (20, 6, 0), (29, 0, 0)]])
    faces = np.concatenate([SQUARE[1], [(4, 5, 6), (0, 0, 1)]])
    points = surface_samples(vertices, faces, 60_000, seed=3)
    assert points.shape == (60_000, 3)
    assert distances_to_surface(points, vertices, faces).max() < 1e-9
    assert np.mean(points[:, 0] > 10) == pytest.approx(0.25, abs=0.01)
    square = points[points[:, 0] < 10]
    assert square.mean(axis=0) == pytest.approx([4.5, 4.5, 0], abs=0.05)
    assert np.mean((square[:, 0] < 3) & (square[:, 1] > 6)) == pytest.approx(1 / 9, abs=0.01)
    assert np.array_equal(points, surface_samples(vertices, faces, 60_000, seed=3))


def test_the_error_is_that_of_the_exact_surface() -> None:
    above = (SQUARE[0] + (0, 0, 4), SQUARE[1])
    assert mesh_error(SQUARE, above, samples=1_000) == pytest.approx((4, 4, 4))
    half = (SQUARE[0], SQUARE[1][:1])
    assert mesh_error(half, SQUARE, samples=1_000).largest_nm < 1e-9
    found = mesh_error(SQUARE, half, samples=200_000)
    # Half of the points lie on what is left; the others are up to half a diagonal away.
    diagonal = 9 * 2**0.5
    assert isinstance(found, MeshError)
    assert found.mean_nm == pytest.approx(diagonal / 2 / 3 / 2, rel=0.01)
    assert found.percentile_99_nm == pytest.approx(diagonal / 2 * (1 - 0.02**0.5), rel=0.01)
    assert found.largest_nm == pytest.approx(diagonal / 2, rel=0.01)
