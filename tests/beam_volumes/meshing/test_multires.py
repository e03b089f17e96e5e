from collections import Counter
from fractions import Fraction
from math import floor
from typing import Any

import DracoPy
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import CorruptDataError, OptionError, VolumeError
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.mesh_grid import MeshGrid
from beam_volumes.meshing.multires import (
    Fragment,
    QuantizedMesh,
    decode_fragment,
    encode_fragment,
    encode_quantized,
    split_octants,
)
from tests.beam_volumes.meshing.closed_surfaces import CutSurface, boundary, cut_surfaces, joined, odd_edges, volume

GRID = MeshGrid.of_voxels((8, 8, 8), (64, 64, 25), (16.0, 16.0, 40.0), 16)
EMPTY = Mesh(np.empty((0, 3), np.int32), np.empty((0, 3), np.uint32))


def triangles(vertices: npt.NDArray[Any], faces: npt.NDArray[Any]) -> Counter[Any]:
    """Return the corners of the triangles, from the lowest on, the way round they are."""
    found: Counter[Any] = Counter()
    for a, b, c in vertices.astype(np.int64)[faces.astype(np.int64)].tolist():
        found[min((*a, *b, *c), (*b, *c, *a), (*c, *a, *b))] += 1
    return found


def box_mesh(shape: tuple[int, int, int]) -> Mesh:
    """Return a box of voxels as marching cubes make it, roughly; in units."""
    vertices, faces = boundary(np.ones(shape, np.bool_))
    return Mesh((vertices * 16).astype(np.int32), faces.astype(np.uint32))


@given(cut_surfaces())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_what_is_closed_over_all_cells_stays_closed(surface: CutSurface) -> None:
    grid, lod = surface.grid, surface.lod
    decoded = {}
    for position, mesh in surface.cells().items():
        fragment = encode_fragment(mesh, grid, lod, position)
        decoded[position] = decode_fragment(fragment.data, grid.bits)
        assert fragment.clamped == 0
        assert fragment.faces == len(decoded[position].faces)
        if lod:
            sides = np.sign(decoded[position].quanta - grid.middle)[decoded[position].faces]
            assert (sides.min(axis=1) * sides.max(axis=1) >= 0).all()
    assert sum(len(mesh.faces) for mesh in decoded.values()) > 0
    assert odd_edges(*joined(decoded.items(), grid)) == 0


@given(cut_surfaces(st.just(0)))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_vertices_are_at_the_nearest_quantum(surface: CutSurface) -> None:
    grid = surface.grid
    for position, mesh in surface.cells().items():
        start, length = grid.start(0, position), grid.length(0)
        expected = {
            tuple(
                floor(Fraction((v - s) * grid.top, n) + Fraction(1, 2))
                for v, s, n in zip(p, start, length, strict=True)
            )
            for p in mesh.vertices[np.unique(mesh.faces)].tolist()
        }
        fragment = encode_fragment(mesh, grid, 0, position)
        if not fragment.is_stand_in:
            stored = decode_fragment(fragment.data, grid.bits).quanta
            assert set(map(tuple, stored.tolist())) <= expected
            # Vertices of flat triangles that have become edges may be gone.
            if grid.bits == 16 and max(grid.cell) < 2**14:
                assert len(stored) == len(expected)


def test_the_volume_stays() -> None:
    mesh = box_mesh((20, 30, 10))
    fragment = encode_fragment(mesh._replace(vertices=mesh.vertices + 8), GRID, 2, (0, 0, 0))
    stored = decode_fragment(fragment.data, 16)
    in_nm = GRID.nm(GRID.start(2, (0, 0, 0))) + stored.quanta * np.array(GRID.quantum_nm(2))
    np.testing.assert_allclose(in_nm.min(axis=0), [8, 8, 20], atol=0.05)
    np.testing.assert_allclose(in_nm.max(axis=0), [328, 488, 420], atol=0.05)
    assert volume(in_nm, stored.faces) == pytest.approx(320 * 480 * 400, rel=1e-3)


def test_both_sides_of_a_face_of_a_cell_are_one_place() -> None:
    left, right = GRID.start(0, (0, 0, 0)), GRID.start(0, (1, 0, 0))
    vertices = np.array([[right[0], y, z] for y, z in ((8, 8), (500, 9), (77, 300))], np.int32)
    mesh = Mesh(vertices, np.array([[0, 1, 2]], np.uint32))
    ends = decode_fragment(encode_fragment(mesh, GRID, 0, (0, 0, 0)).data, 16).quanta
    starts = decode_fragment(encode_fragment(mesh, GRID, 0, (1, 0, 0)).data, 16).quanta
    assert left[0] < right[0]
    assert ends[:, 0].tolist() == [65535] * 3
    assert starts[:, 0].tolist() == [0] * 3
    assert sorted(map(tuple, ends[:, 1:].tolist())) == sorted(map(tuple, starts[:, 1:].tolist()))


def test_vertices_outside_of_the_cell_are_moved_to_its_border_and_counted() -> None:
    vertices = np.array([[0, 100, 100], [2000, 500, 100], [100, 100, 408]], np.int32)
    fragment = encode_fragment(Mesh(vertices, np.array([[0, 1, 2]], np.uint32)), GRID, 0, (0, 0, 0))
    assert fragment.clamped == 2
    stored = decode_fragment(fragment.data, 16).quanta
    assert set(stored[:, 0].tolist()) == {0, 65535, round((100 - 8) * 65535 / 1024)}
    assert stored[:, 2].max() == 65535


@pytest.mark.parametrize("lod", [0, 9])
@pytest.mark.parametrize("corner", [(0, 0, 0), (1, 1, 1), (0, 1, 0)])
@pytest.mark.parametrize("bits", [10, 16])
def test_an_object_smaller_than_a_quantum_is_a_smallest_body(lod: int, corner: tuple[int, int, int], bits: int) -> None:
    grid = MeshGrid((0, 0, 0), (2**14, 2**14, 2**14), (4.0, 4.0, 40.0), bits)
    at = np.array(corner) * (grid.length(lod)[0] // 2 if lod else grid.cell[0])
    mesh = Mesh(np.array([[0, 0, 0]] * 3, np.int32) + at.astype(np.int32), np.array([[0, 1, 2]], np.uint32))
    fragment = encode_fragment(mesh, grid, lod, (0, 0, 0))
    stored = decode_fragment(fragment.data, bits)
    assert fragment == Fragment(fragment.data, 4, 0, is_stand_in=True)
    assert odd_edges(*stored) == 0
    assert volume(*stored) == pytest.approx(1 / 6)
    assert 0 <= stored.quanta.min() <= stored.quanta.max() <= grid.top
    sides = np.sign(stored.quanta - grid.middle)
    assert (sides.min(axis=0) * sides.max(axis=0) >= 0).all()


def test_no_triangles_are_no_bytes() -> None:
    assert encode_fragment(EMPTY, GRID, 0, (0, 0, 0)) == Fragment(b"", 0)
    assert len(decode_fragment(b"", 16).faces) == 0


def test_both_sides_of_something_thin_stay() -> None:
    sheet = Mesh(
        np.array([[0, 0, 0], [900, 0, 0], [0, 900, 0]], np.int32) + 8, np.array([[0, 1, 2], [2, 1, 0]], np.uint32)
    )
    stored = decode_fragment(encode_fragment(sheet, GRID, 0, (0, 0, 0)).data, 16)
    assert len(stored.faces) == 2


def test_triangles_are_cut_where_readers_part_them() -> None:
    quanta = np.array([[1000, 500, 500], [30, 100, 100], [600, 900, 100]], np.int32)
    cut = split_octants(QuantizedMesh(quanta, np.array([[0, 1, 2]], np.uint32)), 10)
    sides = np.sign(cut.quanta - 512)[cut.faces]
    assert (sides.min(axis=1) * sides.max(axis=1) >= 0).all()
    assert set(map(tuple, quanta.tolist())) <= set(map(tuple, cut.quanta.tolist()))
    # Of the edge from (30, 100, 100) to (1000, 500, 500), where x is 512.
    assert (512, 299, 299) in set(map(tuple, cut.quanta.tolist()))

    def area(mesh: QuantizedMesh) -> npt.NDArray[np.float64]:
        a, b, c = np.moveaxis(mesh.quanta.astype(np.float64)[mesh.faces], 1, 0)
        return np.asarray(np.cross(b - a, c - a).sum(axis=0))

    whole = area(QuantizedMesh(quanta, np.array([[0, 1, 2]], np.uint32)))
    np.testing.assert_allclose(area(cut), whole, rtol=0.01)


@given(st.lists(st.tuples(*[st.integers(507, 517)] * 3), min_size=4, max_size=4, unique=True))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_both_triangles_of_an_edge_are_cut_at_one_point(corners: list[tuple[int, int, int]]) -> None:
    """Halves are frequent here, and the edge goes the other way in the other triangle."""
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint32)
    cut = split_octants(QuantizedMesh(np.array(corners, np.int32), faces), 10)
    assert odd_edges(*cut) == 0


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 1023, 65535]))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_draco_keeps_every_triangle(seed: int, top: int) -> None:
    """However they hang together: twice the same, back to back, flat, or many at one edge."""
    random = np.random.default_rng(seed)
    quanta = np.unique(random.integers(0, top + 1, (random.integers(3, 40), 3)), axis=0).astype(np.int32)
    faces = random.integers(0, len(quanta), (random.integers(1, 80), 3)).astype(np.uint32)
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    if len(faces):
        stored = decode_fragment(encode_quantized(QuantizedMesh(quanta, faces), 16).data, 16)
        assert triangles(*stored) == triangles(quanta, faces)


def test_positions_are_stored_as_signed_integers_which_neuroglancer_takes() -> None:
    fragment = encode_fragment(box_mesh((2, 2, 2)), GRID, 0, (0, 0, 0))
    (attribute,) = DracoPy.decode(fragment.data).attributes
    assert attribute["data_type"] == DracoPy.DataType.DT_INT32
    assert attribute["num_components"] == 3


def test_arrays_that_cannot_be_written_to_are_taken() -> None:
    mesh = box_mesh((2, 3, 4))
    frozen = Mesh.from_bytes(mesh.to_bytes())
    assert encode_fragment(frozen, GRID, 1, (0, 0, 0)) == encode_fragment(mesh, GRID, 1, (0, 0, 0))


@pytest.mark.parametrize("data", [b"DRACO", b"\0" * 100, b"nothing of the kind"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match="expected a mesh fragment"):
        decode_fragment(data, 16)


def test_truncated_bytes_are_refused() -> None:
    data = encode_fragment(box_mesh((5, 5, 5)), GRID, 0, (0, 0, 0)).data
    with pytest.raises(CorruptDataError, match="expected a mesh fragment in Draco"):
        decode_fragment(data[: len(data) // 2], 16)


def test_positions_beyond_the_quantization_are_refused() -> None:
    data = encode_fragment(box_mesh((5, 5, 5)), GRID, 0, (0, 0, 0)).data
    with pytest.raises(CorruptDataError, match=r"under 2\^10"):
        decode_fragment(data, 10)


def test_a_point_cloud_is_refused() -> None:
    with pytest.raises(CorruptDataError, match="0 triangles"):
        decode_fragment(DracoPy.encode(np.array([[1, 2, 3], [4, 5, 6]], np.int32)), 16)


def test_what_draco_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> bytes:
        raise DracoPy.EncodingFailedException("Invalid mesh")

    monkeypatch.setattr(DracoPy, "encode", refuse)
    with pytest.raises(VolumeError, match="8 vertices and 12 triangles that it refuses"):
        encode_fragment(box_mesh((1, 1, 1)), GRID, 0, (0, 0, 0))


def test_grids_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="expected 10 or 16, came 12"):
        MeshGrid((0, 0, 0), (16, 16, 16), (1, 1, 1), 12)
    with pytest.raises(OptionError, match=r"came \(16, 0, 16\)"):
        MeshGrid((0, 0, 0), (16, 0, 16), (1, 1, 1), 10)
    with pytest.raises(OptionError, match="even lengths"):
        MeshGrid((0, 0, 0), (16, 3, 16), (1, 1, 1), 10).halved()


def test_odd_cells_can_be_halved() -> None:
    grid = MeshGrid.of_voxels((-8, 8, 24), (65, 3, 1), (16, 16, 40), 10)
    assert grid.halved().length(1) == grid.length(0)
    assert grid.halved().start(1, (5, -6, 7)) == grid.start(0, (5, -6, 7))
