import gc
import io
import tempfile
import tracemalloc
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import DestinationError
from beam_volumes.meshing.fragment_capping import (
    CellData,
    FragmentFile,
    Simplify,
    fit_fragment,
    halve_fragment,
    split_fragments,
)
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.mesh_grid import MeshGrid
from beam_volumes.meshing.multires import decode_fragment, encode_fragment
from beam_volumes.meshing.simplification import simplify
from tests.beam_volumes.meshing.closed_surfaces import (
    CutSurface,
    boundary,
    cut_surfaces,
    joined,
    odd_edges,
    volume,
)

Nm = tuple[float, float, float]


def simplified(mesh: Mesh, size: Nm, target: int) -> Mesh:
    return simplify(mesh, size, target, None).mesh


def unchanged(mesh: Mesh, _: Nm, __: int) -> Mesh:
    return mesh


def encoded(surface: CutSurface, lod: int) -> list[CellData]:
    cut = CutSurface(surface.mesh, surface.grid, lod)
    return [CellData(p, encode_fragment(m, surface.grid, lod, p).data) for p, m in cut.cells().items()]


def whole(level: Sequence[CellData], grid: MeshGrid) -> tuple[np.ndarray, np.ndarray]:
    return joined([(cell.position, decode_fragment(cell.data, grid.bits)) for cell in level], grid)


def in_octants(level: Sequence[CellData], grid: MeshGrid) -> bool:
    """Whether no triangle is in two octants of its cell."""
    parts = [decode_fragment(cell.data, grid.bits) for cell in level]
    sides = [np.sign(part.quanta - grid.middle)[part.faces] for part in parts if len(part.faces)]
    return all((s.min(axis=1) * s.max(axis=1) >= 0).all() for s in sides)


class Capped(NamedTuple):
    """A `CappedObject` with its fragments."""

    grid: MeshGrid
    lods: list[list[CellData]]
    added_lods: int
    simplified: int
    over_cap: int


def split(lods: Sequence[Sequence[CellData]], grid: MeshGrid, cap: int, simplify: Simplify) -> Capped:
    fragments = ((lod, cell) for lod, level in enumerate(lods) for cell in level)
    with FragmentFile() as file:
        done = split_fragments(fragments, len(lods), grid, cap, simplify, file)
        read = [[CellData(cell.position, file.read(cell)) for cell in level] for level in done.lods]
        assert [[cell.size for cell in level] for level in done.lods] == [[len(cell.data) for cell in c] for c in read]
    return Capped(done.grid, read, done.added_lods, done.simplified, done.over_cap)


def ball(bits: int) -> CutSurface:
    """An ellipsoid, in cells of an odd number of voxels."""
    x, y, z = np.ogrid[-25.5:26, -21.5:22, -18.5:19]
    corners, faces = boundary((x / 25) ** 2 + (y / 21) ** 2 + (z / 18) ** 2 < 1)
    grid = MeshGrid.of_voxels((-528, 48, 48), (35, 33, 31), (16.0, 16.0, 40.0), bits)
    return CutSurface(Mesh((corners * 16).astype(np.int32), faces.astype(np.uint32)), grid, 0)


@given(cut_surfaces(st.just(0)))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_octants_of_all_cells_are_closed_and_so_are_their_parents(surface: CutSurface) -> None:
    grid = surface.grid
    parents, children = [], []
    for cell in encoded(surface, 0):
        parent, finer = halve_fragment(cell, grid.bits)
        parents.append(CellData(cell.position, parent))
        children += finer
        assert {tuple(n // 2 for n in child.position) for child in finer} == {cell.position}
    assert len({child.position for child in children}) == len(children)
    assert in_octants(parents, grid)
    vertices, faces = whole(parents, grid)
    assert odd_edges(vertices, faces) == 0
    finer_vertices, finer_faces = whole(children, grid.halved())
    assert odd_edges(finer_vertices, finer_faces) == 0
    # No more than what is at the middle has moved, by half a quantum.
    assert len(finer_faces) == len(faces)
    far = np.abs(np.unique(finer_vertices, axis=0)[:, None] - 2 * np.unique(vertices, axis=0)).max(axis=2).min(axis=1)
    assert far.max() <= 1


@pytest.mark.parametrize(
    ("bits", "cap", "added"), [(10, 100_000, 0), (10, 4000, 0), (10, 2000, 1), (16, 4000, 0), (16, 3600, 1)]
)
def test_large_objects_get_finer_levels_and_smaller_fragments(bits: int, cap: int, added: int) -> None:
    surface = ball(bits)
    lods = [encoded(surface, lod) for lod in range(3)]
    capped = split(lods, surface.grid, cap, simplified)
    assert (capped.added_lods, len(capped.lods)) == (added, 3 + added)
    assert capped.grid.length(added) == surface.grid.length(0)
    assert capped.over_cap == 0
    assert (capped.simplified > 0) == (cap < 100_000)
    before = volume(*whole(lods[0], surface.grid))
    for lod, level in enumerate(capped.lods):
        assert max(len(cell.data) for cell in level) <= cap
        assert odd_edges(*whole(level, capped.grid)) == 0
        assert lod == 0 or in_octants(level, capped.grid)
    # The finest level shows what it showed.
    finest = volume(*whole(capped.lods[0], capped.grid)) / 8**added
    assert finest == pytest.approx(before, rel=0.02 if bits == 10 else 1e-3)
    small = [set(level) - {cell for cell in level if len(cell.data) > cap} for level in lods]
    assert all(cells <= set(level) for cells, level in zip(small[1:], capped.lods[1 + added :], strict=True))
    assert added or capped.lods[0] == lods[0]


def test_fragments_that_cannot_be_made_smaller_are_counted() -> None:
    surface = ball(16)
    lods = [encoded(surface, 0), encoded(surface, 1)]
    capped = split(lods, surface.grid, 1000, unchanged)
    too_large = [cell for level in capped.lods for cell in level if len(cell.data) > 1000]
    assert capped.over_cap == len(too_large) > 0
    assert odd_edges(*whole(capped.lods[-1], capped.grid)) == 0


def test_levels_are_not_added_without_end() -> None:
    surface = ball(10)
    smallest = min(encoded(surface, 0), key=lambda cell: len(cell.data))
    capped = split([[smallest]], surface.grid, 1, unchanged)
    assert capped.added_lods == 4
    assert capped.over_cap == sum(len(level) for level in capped.lods)


def test_cells_of_an_odd_length_stay_whole() -> None:
    grid = MeshGrid((0, 0, 0), (33, 64, 64), (16.0, 16.0, 40.0), 16)
    mesh = Mesh(np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0]], np.int32), np.array([[0, 1, 2]], np.uint32))
    cell = CellData((0, 0, 0), encode_fragment(mesh, grid, 0, (0, 0, 0)).data)
    assert split([[cell]], grid, 1, unchanged) == (grid, [[cell]], 0, 0, 1)


def test_what_leaves_its_octant_is_brought_back() -> None:
    """Whatever simplifies may move vertices."""
    surface = ball(10)

    def moved(mesh: Mesh, size: Nm, target: int) -> Mesh:
        fewer = simplified(mesh, size, target)
        return fewer._replace(vertices=fewer.vertices + 3)

    for cell in encoded(surface, 1):
        fitted = fit_fragment(cell.data, surface.grid, 1, len(cell.data) * 2 // 3, moved)
        assert len(fitted) <= len(cell.data)
        assert in_octants([CellData(cell.position, fitted)], surface.grid)
        assert decode_fragment(fitted, 10).quanta.max() <= surface.grid.top


def test_sizes_are_given_in_nm() -> None:
    surface = ball(16)
    sizes = set()

    def look(mesh: Mesh, size: Nm, _: int) -> Mesh:
        sizes.add(size)
        return mesh

    cell = encoded(surface, 2)[0]
    fit_fragment(cell.data, surface.grid, 2, 10, look)
    x, y, z = (16 * n * 4 * r / 65535 for n, r in zip((35, 33, 31), (16, 16, 40), strict=True))
    ((a, b, c),) = sizes
    assert (a, b, c) == pytest.approx((x, y, z))


def test_one_fragment_is_in_memory_at_a_time() -> None:
    """However many there are of an object that is split."""
    x, y = np.mgrid[:100, :100]
    corners = np.stack([x, y, 20 + np.random.default_rng(1).integers(0, 40, x.shape)], 2).reshape(-1, 3)
    first = (x * 100 + y)[:-1, :-1].ravel()
    faces = np.stack([first, first + 100, first + 1], 1)
    grid = MeshGrid.of_voxels((0, 0, 0), (100, 100, 100), (16.0, 16.0, 40.0), 16)
    data = encode_fragment(Mesh((corners * 16).astype(np.int32), faces.astype(np.uint32)), grid, 0, (0, 0, 0)).data
    parts = len(halve_fragment(CellData((0, 0, 0), data), 16)[1])

    def peak(copies: int) -> int:
        fragments = ((0, CellData((n, 0, 0), bytes(bytearray(data)))) for n in range(copies))
        gc.collect()
        tracemalloc.start()
        with FragmentFile() as file:
            done = split_fragments(fragments, 1, grid, len(data) - 1, unchanged, file)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [len(level) for level in done.lods] == [parts * copies, copies]
        return found

    per_fragment = (peak(33) - peak(3)) / 30
    # It stands in the table, and so do its parent and its parts.
    assert per_fragment < 300 * (2 + parts) < len(data) / 10


def test_a_full_temporary_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with FragmentFile() as file, pytest.raises(DestinationError, match=r"came No space left .*TMPDIR names another"):
        file.add(CellData((0, 0, 0), b"data"))
