from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.topology import (
    MOST_FACES,
    border_edges,
    compact,
    count_edges,
    crowded_edges,
    lost_bodies,
    open_edges,
    weld,
    without_cavities,
    without_pairs,
)
from tests.beam_volumes.meshing.blobs import (
    EMPTY,
    cut_surface,
    faces_at_edges,
    make_blobs,
    surface,
    tetrahedra,
    triangles,
    volume,
)

property_test = settings(derandomize=True, deadline=None, max_examples=60)


@st.composite
def face_lists(draw: st.DrawFn, most: int = 12) -> tuple[npt.NDArray[np.uint32], int]:
    """Faces with three corners each, with few vertices, so that edges are crowded; and the number of vertices."""
    vertices = draw(st.integers(3, most))
    corners = st.lists(st.integers(0, vertices - 1), min_size=3, max_size=3, unique=True)
    faces = draw(st.lists(corners, max_size=60))
    return np.array(faces, np.uint32).reshape(-1, 3), vertices


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    """Meshes without sense, with vertices that coincide."""
    faces, count = draw(face_lists())
    return Mesh(draw(arrays(np.int32, (count, 3), elements=st.integers(-1, 1))), faces)


@given(face_lists())
@property_test
def test_edges_are_counted_and_found_as_one_by_one(made: tuple[npt.NDArray[np.uint32], int]) -> None:
    faces, vertices = made
    counts = faces_at_edges(faces)
    expected_open = sorted(edge for edge, n in counts.items() if n % 2)
    expected_crowded = sorted(edge for edge, n in counts.items() if n > 2)
    assert count_edges(faces, vertices) == (len(expected_open), len(expected_crowded))
    assert open_edges(faces, vertices).tolist() == [list(edge) for edge in expected_open]
    assert crowded_edges(faces, vertices).tolist() == [list(edge) for edge in expected_crowded]


def test_a_fan_around_one_vertex_is_counted() -> None:
    # 5,000 edges start at its hub; they come in disorder.
    rim = np.random.default_rng(0).permutation(4_999) + 1
    faces = np.stack([np.zeros(4_999, np.int64), rim, rim % 4_999 + 1], axis=1).astype(np.uint32)
    assert count_edges(faces, 5_000) == (4_999, 0)
    assert count_edges(faces[1:], 5_000) == (5_000, 0)
    assert count_edges(np.concatenate([faces, faces]), 5_000) == (0, 4_999)


def test_too_many_faces_are_refused() -> None:
    faces = np.broadcast_to(np.zeros((1, 3), np.uint32), (MOST_FACES + 1, 3))
    with pytest.raises(ValueError, match=r"expected at most 1,431,655,765 faces of a mesh, came 1,431,655,766"):
        count_edges(faces, 1)


@given(seed=st.integers(0, 2**32 - 1))
@property_test
def test_border_edges_depend_on_places_alone(seed: int) -> None:
    random = np.random.default_rng(seed)
    mesh = surface(make_blobs((6, 7, 5), seed, 1), (-3, 0, 2), closed=False)
    order = random.permutation(len(mesh.vertices))
    numbers = np.argsort(order).astype(np.uint32)
    other = Mesh(mesh.vertices[order], random.permutation(numbers[mesh.faces[:, ::-1]]))
    edges = border_edges(mesh)
    assert np.array_equal(edges, border_edges(other))
    counts = faces_at_edges(mesh.faces)
    ends = [sorted([mesh.vertices[a].tolist(), mesh.vertices[b].tolist()]) for (a, b), n in counts.items() if n % 2]
    assert edges.tolist() == sorted(ends)
    assert len(ends) > 0


@given(seed=st.integers(0, 2**32 - 1), smoothness=st.integers(0, 2), axis=st.integers(0, 2), at=st.integers(0, 5))
@property_test
def test_cells_welded_on_their_plane_are_the_whole(seed: int, smoothness: int, axis: int, at: int) -> None:
    voxels = make_blobs((6, 6, 6), seed, smoothness)
    parts, plane = cut_surface(voxels, axis, at)
    whole = surface(voxels)
    for planes in ([plane], [(axis, -800), plane, ((axis + 1) % 3, 9_999)], None):
        joined = weld(parts, planes)
        assert triangles(joined) == triangles(whole)
        assert len(joined.vertices) == len(whole.vertices)
        assert count_edges(joined.faces, len(joined.vertices)) == (0, 0)


@given(st.lists(meshes(), max_size=3))
@property_test
def test_welding_is_as_defined(made: list[Mesh]) -> None:
    known: dict[tuple[int, ...], int] = {}
    by_corners: dict[frozenset[int], list[list[int]]] = {}
    for mesh in made:
        numbers = [known.setdefault(tuple(vertex), len(known)) for vertex in mesh.vertices.tolist()]
        for face in mesh.faces.tolist():
            corners = [numbers[corner] for corner in face]
            if len(set(corners)) == 3:
                by_corners.setdefault(frozenset(corners), []).append(corners)
    expected: Counter[tuple[int, ...]] = Counter()
    for alike in by_corners.values():
        if len(alike) % 2:
            ways = Counter(_from_lowest(face) for face in alike)
            expected[ways.most_common(1)[0][0]] += 1
    welded = weld(made, None)
    places = list(known)
    vertices = [tuple(vertex) for vertex in welded.vertices.tolist()]
    assert Counter(
        _from_lowest([places.index(vertices[corner]) for corner in face]) for face in welded.faces.tolist()
    ) == (expected)
    assert vertices == [place for i, place in enumerate(places) if any(i in face for face in expected)]


def _from_lowest(face: list[int]) -> tuple[int, ...]:
    first = face.index(min(face))
    return tuple(face[first:] + face[:first])


def test_welding_compares_only_what_lies_on_the_planes() -> None:
    left, right = tetrahedra([0, 0, 0]), tetrahedra([0, 0, 0])
    assert weld([left, right], [(2, 0)]).vertices.tolist() == [
        *left.vertices.tolist(),
        right.vertices[3].tolist(),
    ]
    assert len(weld([left, right], [(2, 5)]).vertices) == 8
    assert len(weld([left, right], []).vertices) == 8
    assert weld([left, right], None).vertices.tolist() == []


def test_two_bodies_side_by_side_lose_the_face_between_them() -> None:
    upper = tetrahedra([0, 0, 0])
    lower = Mesh(upper.vertices * np.array([1, 1, -1], np.int32), upper.faces[:, ::-1])
    joined = weld([upper, lower], [(2, 0)])
    assert len(joined.vertices) == 5
    assert len(joined.faces) == 6
    assert count_edges(joined.faces, 5) == (0, 0)
    assert volume(joined) == pytest.approx(2 * volume(upper))


def test_nothing_is_welded_to_nothing() -> None:
    for welded in (weld([], None), weld([EMPTY, EMPTY], [(0, 8)])):
        assert welded.vertices.shape == (0, 3)
        assert welded.faces.shape == (0, 3)
        assert welded.vertices.dtype == np.int32
        assert welded.faces.dtype == np.uint32


def test_of_three_faces_the_way_of_most_stays() -> None:
    mesh = tetrahedra([0, 0, 0])
    face, turned = mesh.faces[1:2], mesh.faces[1:2, ::-1]
    for added in ([face, turned], [turned, face], [np.roll(turned, 1, axis=1), face]):
        found = without_pairs(Mesh(mesh.vertices, np.concatenate([mesh.faces, *added])))
        assert triangles(found) == triangles(mesh)


def test_faces_in_pairs_go_and_their_vertices_stay() -> None:
    mesh = tetrahedra([[0, 0, 0], [100, 0, 0]])
    flat = np.array([[4, 5, 6], [5, 4, 6]], np.uint32)
    found = without_pairs(Mesh(mesh.vertices, np.concatenate([flat, mesh.faces[:4]])))
    assert found.faces.tolist() == mesh.faces[:4].tolist()
    assert len(found.vertices) == 8
    assert len(compact(found).vertices) == 4
    assert without_pairs(mesh) is mesh


def test_holes_of_objects_are_filled() -> None:
    voxels = np.ones((9, 9, 9), np.bool_)
    voxels[2, 2, 2] = voxels[5:7, 4, 4] = False
    solid = surface(np.ones((9, 9, 9), np.bool_))
    filled = without_cavities(surface(voxels))
    assert triangles(filled) == triangles(solid)
    assert len(filled.vertices) == len(solid.vertices)
    assert without_cavities(solid) is solid


def test_an_object_within_a_hole_stays() -> None:
    voxels = np.ones((9, 9, 9), np.bool_)
    voxels[2:7, 2:7, 2:7] = False
    voxels[4, 4, 4] = True
    filled = without_cavities(surface(voxels))
    assert volume(filled) == pytest.approx(
        volume(surface(np.ones((9, 9, 9), np.bool_))) + volume(surface(voxels[4:5, 4:5, 4:5]))
    )


def test_a_hole_that_is_cut_open_stays() -> None:
    voxels = np.ones((9, 9, 9), np.bool_)
    voxels[4, 4, 4] = voxels[7, 7, 7] = False
    parts, plane = cut_surface(voxels, 0, 4)
    open_part = without_cavities(parts[0])
    assert open_part is parts[0]
    assert np.array_equal(border_edges(without_cavities(parts[1])), border_edges(parts[1]))
    assert len(without_cavities(parts[1]).faces) == len(parts[1].faces) - 8
    whole = surface(np.ones((9, 9, 9), np.bool_))
    assert triangles(without_cavities(weld([without_cavities(part) for part in parts], [plane]))) == triangles(whole)


def test_small_holes_far_from_the_others_are_told_by_their_sign() -> None:
    far = 2**30
    outside = tetrahedra([[-far, -far, -far], [far, far, far]], 1)
    inside = tetrahedra([[0, far, -far], [far - 9, far, far]], 1, inside_out=True)
    both = weld([outside, inside], None)
    assert len(both.faces) == 16
    assert triangles(without_cavities(both)) == triangles(outside)


def test_bodies_of_which_nothing_is_left_are_found() -> None:
    places = [[0, 0, 0], [100, 0, 0], [200, 0, 0], [300, 0, 0]]
    mesh = weld([tetrahedra([place], size) for place, size in zip(places, (9, 16, 12, 16), strict=True)], None)
    lost = lost_bodies(mesh, mesh.faces[4:5])
    # The largest first.
    assert lost.ends.tolist() == [0, 4, 8, 12]
    assert lost.low.tolist() == [[300, 0, 0], [200, 0, 0], [0, 0, 0]]
    assert lost.high.tolist() == [[316, 16, 16], [212, 12, 12], [9, 9, 9]]
    found = [triangles(Mesh(mesh.vertices, lost.faces[first : first + 4])) for first in (0, 4, 8)]
    expected = [tetrahedra([[300, 0, 0]], 16), tetrahedra([[200, 0, 0]], 12), tetrahedra([[0, 0, 0]], 9)]
    assert found == [triangles(body) for body in expected]
    hole = tetrahedra([[0, 0, 0]], 20, inside_out=True)
    assert triangles(Mesh(hole.vertices, lost_bodies(hole, hole.faces[:0]).faces)) == triangles(hole)


def test_where_nothing_is_lost_there_are_no_bodies() -> None:
    mesh = tetrahedra([[0, 0, 0], [100, 0, 0]])
    for lost in (lost_bodies(mesh, mesh.faces), lost_bodies(EMPTY, EMPTY.faces)):
        assert [some.tolist() for some in lost] == [[], [0], [], []]


def test_vertices_without_faces_go() -> None:
    mesh = tetrahedra([[0, 0, 0], [50, 0, 0], [100, 0, 0]])
    found = compact(Mesh(mesh.vertices, mesh.faces[4:8]))
    assert found.vertices.tolist() == mesh.vertices[4:8].tolist()
    assert found.faces.tolist() == mesh.faces[:4].tolist()
    assert compact(found) is found
    assert compact(Mesh(mesh.vertices, mesh.faces[:0])).vertices.shape == (0, 3)


def test_meshes_that_cannot_be_written_to_are_taken_and_left_as_they_are() -> None:
    mesh = surface(make_blobs((7, 7, 7), 5, 1))
    stored = Mesh.from_bytes(mesh.to_bytes())
    before = stored.to_bytes()
    assert count_edges(stored.faces, len(stored.vertices)) == (0, 0)
    assert triangles(weld([stored], None)) == triangles(mesh)
    assert triangles(without_pairs(stored)) == triangles(mesh)
    assert volume(without_cavities(stored)) >= volume(mesh) > 0
    weld([mesh, mesh], None)
    assert mesh.to_bytes() == stored.to_bytes() == before
