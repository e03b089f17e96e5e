import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import crackle
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.geometry import Vec
from beam_volumes.meshing import marching_cubes_kernels as kernels
from beam_volumes.meshing.marching_cubes import MOST_VOXELS, Surfaces, count_surfaces, extract_surfaces, triangles_of
from beam_volumes.warm_up import warm_up

SAMPLE = Path(__file__).parents[4] / "shared/data/pinky40_512.ckl.gz"

Array = npt.NDArray[Any]
Voxels = npt.NDArray[np.uint32]

SHAPES = st.tuples(*[st.sampled_from([1, 2, 3, 4, 5, 7, 8, 17, 33])] * 3).filter(lambda s: s[0] * s[1] * s[2] < 4000)


def surfaces_of(voxels: Array) -> Surfaces:
    voxels = np.asfortranarray(voxels, np.uint32)
    labels = int(voxels.max())
    return extract_surfaces(voxels, count_surfaces(voxels, labels), 1, labels)


def of_label(surfaces: Surfaces, label: int) -> tuple[Array, Array]:
    """Return the vertices and the triangles of one label."""
    vertices = surfaces.vertices[surfaces.vertex_starts[label] : surfaces.vertex_starts[label + 1]]
    return vertices, surfaces.faces[surfaces.face_starts[label] : surfaces.face_starts[label + 1]]


def triangles(surfaces: Surfaces, label: int, origin: Vec = (0, 0, 0)) -> Array:
    """Return the corners of a label's triangles in half voxels, (triangles, 3, XYZ)."""
    vertices, faces = of_label(surfaces, label)
    return (vertices.astype(np.int64) + 2 * np.array(origin))[faces]


def volume(corners: Array) -> float:
    """Return the volume that triangles enclose, in voxels."""
    a, b, c = (corners.astype(np.float64) / 2).transpose(1, 2, 0)
    return float(np.sum(a * np.cross(b, c, axis=0)) / 6)


def edges_of(faces: Array) -> Counter[tuple[int, int]]:
    """Return how often each edge comes, by direction."""
    return Counter((int(face[i - 1]), int(face[i])) for face in faces for i in range(3))


def assert_closed(faces: Array) -> None:
    edges = edges_of(faces)
    assert set(edges.values()) <= {1}
    assert {(b, a) for a, b in edges} == set(edges)


def as_set(corners: Array) -> set[tuple[tuple[int, ...], ...]]:
    """Return triangles, each with its lowest corner first; none may come twice."""
    found = [tuple(map(tuple, triangle)) for triangle in corners.tolist()]
    turned = [min(t, t[1:] + t[:1], t[2:] + t[:2]) for t in found]
    assert len(set(turned)) == len(turned)
    return set(turned)


def midpoints(voxels: Array, label: int) -> set[tuple[int, ...]]:
    """Return where a label's vertices are, in half voxels, as numpy finds them."""
    inside = voxels == label
    found: set[tuple[int, ...]] = set()
    for axis in range(3):
        changes = np.argwhere(np.diff(inside, axis=axis))
        found |= {tuple(place) for place in (2 * changes + np.eye(3, dtype=int)[axis]).tolist()}
    return found


def padded(voxels: Array) -> Voxels:
    return np.asfortranarray(np.pad(voxels, 1), np.uint32)


def random_voxels(shape: Vec, labels: int, grain: int, seed: int) -> Voxels:
    """Return voxels of 0 to `labels`, in cubes of `grain` voxels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, labels, [-(-n // grain) for n in shape], dtype=np.uint32, endpoint=True)
    x, y, z = shape
    fine = coarse.repeat(grain, 0).repeat(grain, 1).repeat(grain, 2)[:x, :y, :z]
    return np.asfortranarray(fine)


VOLUMES = st.builds(
    random_voxels, SHAPES, labels=st.sampled_from([1, 2, 3, 8, 300]), grain=st.integers(1, 3), seed=st.integers(0, 99)
)


@pytest.mark.parametrize("configuration", range(256))
def test_a_cube_is_cut_between_its_corners(configuration: int) -> None:
    found = triangles_of(configuration)
    crossed = {
        (low, low | 1 << axis)
        for low in range(8)
        for axis in range(3)
        if not low >> axis & 1 and (configuration >> low ^ configuration >> (low | 1 << axis)) & 1
    }
    assert {edge for triangle in found for edge in triangle} == crossed
    assert len(found) <= 5
    directed = Counter((t[i - 1], t[i]) for t in found for i in range(3))
    assert set(directed.values()) <= {1}
    # An edge that only one triangle has lies in a face of the cube, the others in none.
    for a, b in directed:
        corners = {*a, *b}
        in_face = any(len({corner >> axis & 1 for corner in corners}) == 1 for axis in range(3))
        assert ((b, a) in directed) != in_face


@pytest.mark.parametrize("configuration", range(256))
def test_a_surface_around_the_corners_of_a_cube_is_closed(configuration: int) -> None:
    corners = np.array([configuration >> i & 1 for i in range(8)], np.uint32).reshape((2, 2, 2), order="F")
    voxels = padded(corners)
    surfaces = extract_surfaces(voxels, count_surfaces(voxels, 1), 1, 1)
    assert_closed(of_label(surfaces, 1)[1])
    assert set(map(tuple, surfaces.vertices.tolist())) == midpoints(voxels, 1)
    assert (volume(triangles(surfaces, 1)) > 0) == (configuration > 0)


@given(voxels=VOLUMES)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_surfaces_of_labels_with_background_around_are_closed(voxels: Voxels) -> None:
    around = padded(voxels)
    if not voxels.any():
        return
    surfaces = surfaces_of(around)
    for label in range(1, int(voxels.max()) + 1):
        vertices, faces = of_label(surfaces, label)
        assert_closed(faces)
        assert sorted(map(tuple, vertices.tolist())) == sorted(midpoints(around, label))
        assert set(faces.ravel().tolist()) == set(range(len(vertices)))
        assert (volume(triangles(surfaces, label)) > 0) == (label in voxels)


@given(voxels=VOLUMES)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_surfaces_open_only_in_the_faces_of_a_block(voxels: Voxels) -> None:
    if not voxels.any():
        return
    surfaces = surfaces_of(voxels)
    last = 2 * np.array(voxels.shape) - 2
    for label in range(1, int(voxels.max()) + 1):
        vertices, faces = of_label(surfaces, label)
        edges = edges_of(faces)
        assert set(edges.values()) <= {1}
        for a, b in edges:
            p, q = vertices[a], vertices[b]
            in_face = bool((((p == 0) & (q == 0)) | ((p == last) & (q == last))).any())
            assert ((b, a) in edges) != in_face
        if min(voxels.shape) > 1:
            assert sorted(map(tuple, vertices.tolist())) == sorted(midpoints(voxels, label))


@given(voxels=VOLUMES)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_each_label_is_as_if_the_others_were_background(voxels: Voxels) -> None:
    if not voxels.any():
        return
    surfaces = surfaces_of(voxels)
    for label in np.unique(voxels[voxels > 0])[:20].tolist():
        alone = surfaces_of(voxels == label)
        for came, expected in zip(of_label(surfaces, label), of_label(alone, 1), strict=True):
            np.testing.assert_array_equal(came, expected, strict=True)


def test_a_voxel_is_an_octahedron() -> None:
    surfaces = surfaces_of(padded(np.ones((1, 1, 1))))
    assert set(map(tuple, surfaces.vertices.tolist())) == {
        (1, 2, 2), (3, 2, 2), (2, 1, 2), (2, 3, 2), (2, 2, 1), (2, 2, 3),
    }  # fmt: skip
    assert len(surfaces.faces) == 8
    assert volume(triangles(surfaces, 1)) == pytest.approx(1 / 6, abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 2, 2), (1, 4, 3), (5, 3, 7)])
def test_a_box_loses_its_edges(shape: Vec) -> None:
    a, b, c = (n - 1 for n in shape)
    # Cubes within, on faces (halves), along edges (an eighth is inside) and at corners (a tetrahedron of 1/48).
    expected = a * b * c + (a * b + b * c + c * a) + (a + b + c) / 2 + 8 / 48
    assert volume(triangles(surfaces_of(padded(np.ones(shape))), 1)) == pytest.approx(expected, abs=1e-9)


def test_voxels_that_touch_along_an_edge_or_at_a_corner_are_apart() -> None:
    for other in ((1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)):
        voxels = np.zeros((2, 2, 2))
        voxels[0, 0, 0] = voxels[other] = 1
        vertices, faces = of_label(surfaces_of(padded(voxels)), 1)
        assert (len(vertices), len(faces)) == (12, 16)
        assert volume(vertices.astype(np.int64)[faces]) == pytest.approx(2 / 6, abs=1e-12)


@given(voxels=VOLUMES, axis=st.integers(0, 2), data=st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_blocks_that_share_a_plane_fit_together(voxels: Voxels, axis: int, data: st.DataObject) -> None:
    voxels = padded(voxels)
    at = data.draw(st.integers(1, voxels.shape[axis] - 2))
    low, high = np.split(voxels, [at], axis)
    low = np.concatenate([low, high.take([0], axis)], axis)
    origin: Any = tuple(at * (a == axis) for a in range(3))
    labels = int(voxels.max())
    if not labels:
        return
    whole, before, after = (
        extract_surfaces(block, count_surfaces(block, labels), 1, labels)
        for block in map(np.asfortranarray, (voxels, low, high))
    )
    for label in range(1, labels + 1):
        parts = [as_set(triangles(before, label)), as_set(triangles(after, label, origin))]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == as_set(triangles(whole, label))


@given(voxels=VOLUMES, data=st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_batches_of_labels_give_what_all_at_once_give(voxels: Voxels, data: st.DataObject) -> None:
    labels = int(voxels.max()) + 2
    counts = count_surfaces(voxels, labels)
    whole = extract_surfaces(voxels, counts, 1, labels)
    assert np.diff(whole.vertex_starts).tolist() == counts[0].tolist()
    assert np.diff(whole.face_starts).tolist() == counts[1].tolist()
    first = data.draw(st.integers(1, labels))
    last = data.draw(st.integers(first, labels))
    batch = extract_surfaces(voxels, counts, first, last)
    assert len(batch.vertex_starts) == len(batch.face_starts) == labels + 2
    for label in range(labels + 1):
        came, expected = of_label(batch, label), of_label(whole, label)
        for i in range(2):
            wanted = expected[i] if first <= label <= last else expected[i][:0]
            np.testing.assert_array_equal(came[i], wanted, strict=True)


@pytest.mark.parametrize("shape", [(1, 5, 6), (5, 1, 6), (5, 6, 1), (1, 1, 1), (1, 1, 9), (0, 3, 3)])
def test_a_plane_has_no_surfaces(shape: Vec) -> None:
    voxels = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape) % 4, np.uint32)
    counts = count_surfaces(voxels, 3)
    assert [count.tolist() for count in counts] == [[0] * 4] * 2
    surfaces = extract_surfaces(voxels, counts, 1, 3)
    assert (surfaces.vertices.shape, surfaces.faces.shape) == ((0, 3), (0, 3))
    assert surfaces.vertex_starts.tolist() == surfaces.face_starts.tolist() == [0] * 5


def test_the_longest_axis_fits_coordinates() -> None:
    voxels = np.zeros((MOST_VOXELS, 2, 2), np.uint32, order="F")
    voxels[-1:] = 1
    vertices, _ = of_label(surfaces_of(voxels), 1)
    assert set(vertices[:, 0].tolist()) == {2 * MOST_VOXELS - 3}


def test_voxels_that_cannot_be_written_to() -> None:
    voxels = random_voxels((9, 8, 7), 3, 2, 1)
    expected = surfaces_of(voxels)
    voxels.flags.writeable = False
    for came, wanted in zip(surfaces_of(voxels), expected, strict=True):
        np.testing.assert_array_equal(came, wanted, strict=True)


def test_a_run_compiles_nothing_more() -> None:
    warm_up()
    before = [len(kernel.signatures) for kernel in (kernels.count, kernels.extract)]
    surfaces_of(random_voxels((9, 8, 7), 3, 2, 1))
    voxels = np.frombuffer(random_voxels((9, 8, 7), 3, 2, 1).tobytes("F"), np.uint32).reshape((9, 8, 7), order="F")
    extract_surfaces(voxels, count_surfaces(voxels, 5), 2, 3)
    assert [len(kernel.signatures) for kernel in (kernels.count, kernels.extract)] == before == [1, 1]


def test_other_voxels_are_refused() -> None:
    right = np.zeros((4, 3, 2), np.uint32, order="F")
    wrongs: tuple[Any, ...] = (right.astype(np.int32), np.ascontiguousarray(right), right[::2], right[..., np.newaxis])
    for wrong in wrongs:
        with pytest.raises(ValueError, match="uint32 in Fortran order"):
            count_surfaces(wrong, 1)
        with pytest.raises(ValueError, match="uint32 in Fortran order"):
            extract_surfaces(wrong, count_surfaces(right, 1), 1, 1)
    with pytest.raises(ValueError, match="at most 16384 voxels along an axis"):
        count_surfaces(np.zeros((2, 2, MOST_VOXELS + 1), np.uint32, order="F"), 1)


def test_labels_that_are_not_there_are_refused() -> None:
    voxels = random_voxels((5, 5, 5), 4, 1, 0)
    with pytest.raises(ValueError, match="expected labels up to 3, came 4"):
        count_surfaces(voxels, 3)
    counts = count_surfaces(voxels, 4)
    for first, last in ((0, 4), (1, 5), (3, 2)):
        with pytest.raises(ValueError, match=f"expected labels from 1 to 4, came {first} to {last}"):
            extract_surfaces(voxels, counts, first, last)


@pytest.fixture(scope="module")
def crop() -> Voxels:
    """Part of a real segmentation, its labels numbered from 1 on, with background around."""
    if not SAMPLE.exists():
        pytest.skip(f"no sample at {SAMPLE}")
    sample = crackle.decompress(gzip.decompress(SAMPLE.read_bytes()))
    cut = sample[255:383, 255:383, 255:383]
    numbers = np.unique(np.append(cut, 0), return_inverse=True)[1][:-1]
    return padded(numbers.reshape(cut.shape))


def test_surfaces_of_a_real_segmentation_have_the_vertices_and_volumes_that_zmesh_gives(crop: Voxels) -> None:
    zmesh = pytest.importorskip("zmesh")
    mesher = zmesh.Mesher((2, 2, 2))
    mesher.mesh(crop, close=False)
    surfaces = surfaces_of(crop)
    assert set(mesher.ids()) == set(np.flatnonzero(np.diff(surfaces.face_starts)).tolist())
    sizes = np.bincount(crop.ravel(order="K"))
    volumes = []
    for label in mesher.ids():
        mesh = mesher.get(label, normals=False, reduction_factor=0, voxel_centered=False)
        vertices, _ = of_label(surfaces, label)
        theirs = np.unique(mesh.vertices.astype(np.int64), axis=0)
        np.testing.assert_array_equal(np.unique(vertices, axis=0), theirs)
        volumes.append((volume(triangles(surfaces, label)), volume(mesh.vertices[mesh.faces])))
        # Cubes that are cut otherwise are many among those of a small label.
        assert volumes[-1][0] == pytest.approx(volumes[-1][1], rel=0.01 if sizes[label] > 1000 else 0.15)
    ours, expected = np.sum(volumes, axis=0)
    assert ours == pytest.approx(expected, rel=0.002)
