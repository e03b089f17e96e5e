import numpy as np
import pytest

from beam_volumes.meshing.edge_splitting import split_crowded_edges
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.topology import border_edges, count_edges, crowded_edges, weld
from tests.beam_volumes.meshing.blobs import tetrahedra, volume

RESOLUTION = (16.0, 16.0, 40.0)


def wedges(number: int, size: int = 160) -> Mesh:
    """Tetrahedra around the z axis, as far from each other, that have one edge in common."""
    angles = 2 * np.pi * np.arange(number)[:, None] / number + np.array([0, np.pi / 2 / number])
    rim = np.stack([np.cos(angles), np.sin(angles), np.full_like(angles, 0.5)], axis=2)
    parts = []
    for first, second in np.rint(rim * size).astype(np.int32):
        vertices = np.array([(0, 0, 0), first, second, (0, 0, size)], np.int32)
        parts.append(Mesh(vertices, tetrahedra([0, 0, 0]).faces))
    return weld(parts, None)


def split(mesh: Mesh) -> Mesh:
    edges = crowded_edges(mesh.faces, len(mesh.vertices))
    return weld([split_crowded_edges(mesh, edges, RESOLUTION)], None)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_bodies_that_meet_at_an_edge_are_parted(number: int) -> None:
    mesh = wedges(number)
    assert count_edges(mesh.faces, len(mesh.vertices)) == (0, 1)
    parted = split(mesh)
    assert count_edges(parted.faces, len(parted.vertices)) == (0, 0)
    assert len(parted.vertices) == len(mesh.vertices) + number - 1
    assert len(parted.faces) == len(mesh.faces) + 2 * (number - 1)
    # Each body of its own, as wedges are sharper than what is between them: a bit is cut off all but one.
    assert volume(mesh) * 0.9 < volume(parted) < volume(mesh)
    assert parted.vertices[: len(mesh.vertices)].tolist() == mesh.vertices.tolist()


def test_an_open_edge_stays_where_a_body_meets_a_border() -> None:
    mesh = wedges(2)
    axis = {int(i) for i in np.flatnonzero((mesh.vertices[:, :2] == 0).all(axis=1))}
    at_axis = [i for i, face in enumerate(mesh.faces.tolist()) if axis <= set(face)]
    opened = Mesh(mesh.vertices, np.delete(mesh.faces, at_axis[0], axis=0))
    assert count_edges(opened.faces, len(opened.vertices)) == (3, 1)
    parted = split(opened)
    assert count_edges(parted.faces, len(parted.vertices)) == (3, 0)
    assert np.array_equal(border_edges(parted), border_edges(opened))


def test_faces_that_all_look_one_way_stay() -> None:
    vertices = np.array([(0, 0, 0), (0, 0, 16), (16, 0, 8), (-8, 14, 8), (-8, -14, 8)], np.int32)
    fan = Mesh(vertices, np.array([(0, 1, 2), (0, 1, 3), (0, 1, 4)], np.uint32))
    left = split_crowded_edges(fan, crowded_edges(fan.faces, 5), RESOLUTION)
    assert left.vertices.tolist() == vertices.tolist()
    assert sorted(left.faces.tolist()) == fan.faces.tolist()


def test_a_mesh_without_crowded_edges_stays() -> None:
    mesh = tetrahedra([0, 0, 0])
    assert split_crowded_edges(mesh, crowded_edges(mesh.faces, 4), RESOLUTION) is mesh


def test_a_face_at_two_crowded_edges_is_split_twice() -> None:
    upper = Mesh(np.array([(0, 0, 0), (160, 0, 0), (0, 160, 0), (50, 50, 160)], np.int32), tetrahedra([0, 0, 0]).faces)
    below = [(0, 0, -160), (80, -80, -160), (-80, 80, -160)]
    others = [
        Mesh(np.array([(0, 0, 0), (160, 0, 0), below[0], below[1]], np.int32), upper.faces),
        Mesh(np.array([(0, 160, 0), (0, 0, 0), below[0], below[2]], np.int32), upper.faces),
    ]
    others = [o if volume(o) > 0 else Mesh(o.vertices, o.faces[:, ::-1]) for o in others]
    mesh = weld([upper, *others], None)
    assert count_edges(mesh.faces, len(mesh.vertices)).open == 0
    crowded = count_edges(mesh.faces, len(mesh.vertices)).crowded
    assert crowded >= 2
    parted = split(mesh)
    assert count_edges(parted.faces, len(parted.vertices)) == (0, 0)
    assert volume(parted) == pytest.approx(volume(mesh), rel=0.1)
