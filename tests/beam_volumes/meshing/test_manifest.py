import json
import struct
from pathlib import Path

import numpy as np
import pytest
from cloudvolume import CloudVolume
from cloudvolume.datasource.precomputed.mesh.multilod import MultiLevelPrecomputedMeshManifest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import VolumeError
from beam_volumes.geometry import Vec
from beam_volumes.meshing.manifest import encode_manifest, list_fragments, lod_scales
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.mesh_grid import MeshGrid
from beam_volumes.meshing.multires import encode_fragment
from tests.beam_volumes.meshing.closed_surfaces import CutSurface, boundary, odd_edges, volume

GRID = MeshGrid.of_voxels((8, -8, 24), (64, 63, 25), (16.0, 16.0, 40.0), 16)


def morton_code(position: tuple[int, ...]) -> int:
    return sum((n >> bit & 1) << (3 * bit + axis) for axis, n in enumerate(position) for bit in range(32))


def positions(span: int) -> st.SearchStrategy[Vec]:
    return st.tuples(*[st.integers(-span, span)] * 3)


@st.composite
def fragments(draw: st.DrawFn) -> list[list[tuple[Vec, int]]]:
    span = draw(st.sampled_from([2, 50, 2**24]))
    levels = draw(st.lists(st.lists(positions(span), unique=True, max_size=12), min_size=1, max_size=5))
    if not any(levels):
        levels[0] = [(1, -2, 3)]
    return [[(p, draw(st.integers(0, 2**32 - 1))) for p in level] for level in levels]


@given(fragments())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_manifests_list_every_fragment_and_its_parents_in_z_order(lods: list[list[tuple[Vec, int]]]) -> None:
    manifest = list_fragments(lods)
    data = encode_manifest(manifest, GRID, lod_scales(GRID, len(lods)))
    theirs = MultiLevelPrecomputedMeshManifest.from_binary(data, segment_id=1)
    assert len(data) == 28 + 20 * len(lods) + 16 * sum(map(len, theirs.fragment_offsets)) == len(theirs)
    assert all(n % 2 ** (len(lods) - 1) == 0 for n in manifest.first_cell)
    below: set[tuple[int, ...]] = set()
    assert len(theirs.fragment_offsets) == len(lods)
    for lod, (cells, sizes) in enumerate(zip(theirs.fragment_positions, theirs.fragment_offsets, strict=True)):
        listed = [tuple(cell) for cell in cells.tolist()]
        assert listed == sorted(set(listed), key=morton_code)
        first = [n >> lod for n in manifest.first_cell]
        absolute = [(x + first[0], y + first[1], z + first[2]) for x, y, z in listed]
        given_sizes = dict(lods[lod])
        parents = {tuple(n >> 1 for n in cell) for cell in below}
        assert set(absolute) == set(given_sizes) | {(x + first[0], y + first[1], z + first[2]) for x, y, z in parents}
        assert [given_sizes.get(cell, 0) for cell in absolute] == sizes.tolist()
        # The bytes of fragments are to be written in this order.
        order = manifest.levels[lod].given.tolist()
        assert [lods[lod][n][0] if n >= 0 else None for n in order] == [
            p if p in given_sizes else None for p in absolute
        ]
        below = set(listed)


def test_the_bytes_of_a_manifest() -> None:
    lods = [[((3, 2, -1), 70), ((2, 2, -1), 60)], [((1, 0, -1), 50)]]
    manifest = list_fragments(lods)
    data = encode_manifest(manifest, GRID, (40, 80))
    assert manifest.first_cell == (2, 0, -2)
    start = (8 + 2 * 64 * 16) * 16 / 16, -8.0, (24 - 2 * 25 * 16) * 40 / 16
    assert data == b"".join(
        [
            struct.pack("<6fI", 64 * 16, 63 * 16, 25 * 40, *start, 2),
            struct.pack("<2f", 40, 80),
            struct.pack("<6f", *[0] * 6),
            struct.pack("<2I", 2, 2),
            # Those of level 0 are below (0, 1, 0) of level 1, which was not given.
            struct.pack("<8I", 0, 1, 2, 2, 1, 1, 60, 70),
            struct.pack("<8I", 0, 0, 0, 1, 0, 0, 50, 0),
        ]
    )
    assert manifest.levels[1].given.tolist() == [0, -1]


def test_scales_double_from_the_longest_edge_of_a_voxel() -> None:
    assert lod_scales(GRID, 3) == (40, 80, 160)


def test_scales_that_fall_are_refused() -> None:
    manifest = list_fragments([[((0, 0, 0), 1)]] * 2)
    for scales in [(40,), (40, 20)]:
        with pytest.raises(VolumeError, match="expected 2 lod_scales from fine to coarse"):
            encode_manifest(manifest, GRID, scales)


def test_two_fragments_in_one_cell_are_refused() -> None:
    with pytest.raises(VolumeError, match="came 2 in 1 cells at level 0"):
        list_fragments([[((0, 0, 0), 1), ((0, 0, 0), 2)]])


def test_objects_without_fragments_are_refused() -> None:
    with pytest.raises(VolumeError, match="came none"):
        list_fragments([[], []])


def test_what_the_format_cannot_hold_is_refused() -> None:
    with pytest.raises(VolumeError, match="4,294,967,296 bytes at level 0"):
        list_fragments([[((0, 0, 0), 2**32)]])
    with pytest.raises(VolumeError, match="4,294,967,296 cells"):
        list_fragments([[((0, 0, 0), 1), ((2**32, 0, 0), 1)]])
    list_fragments([[((0, 0, 0), 1), ((2**32 - 1, 0, 0), 1)]])


@pytest.mark.parametrize("bits", [10, 16])
def test_cloudvolume_reads_what_was_stored(tmp_path: Path, bits: int) -> None:
    """A box with a hole in it, one object of id 7, in three levels of detail that show the same."""
    solid = np.ones((15, 10, 20), np.bool_)
    solid[5:12, 4:9, 10:16] = False
    corners, faces = boundary(solid)
    mesh = Mesh((corners * 16 + np.array([-64, 160, 16000])).astype(np.int32), faces.astype(np.uint32))
    grid = MeshGrid.of_voxels((0, 16, 32), (8, 7, 4), (16.0, 16.0, 40.0), bits)
    lods = [
        [(p, encode_fragment(m, grid, lod, p).data) for p, m in CutSurface(mesh, grid, lod).cells().items()]
        for lod in range(3)
    ]
    write_object(tmp_path, grid, 7, lods)
    expected = np.unique(mesh.vertices * np.array(grid.resolution_nm) / 16, axis=0)
    meshes = CloudVolume(f"file://{tmp_path}", progress=False).mesh
    for lod in range(3):
        stored = meshes.get(7, lod=lod)[7]
        quantum = np.array(grid.quantum_nm(lod))
        # Readers count in 32 bits.
        exact = np.rint((stored.vertices - grid.nm(grid.origin)) / quantum) * quantum + grid.nm(grid.origin)
        np.testing.assert_allclose(stored.vertices, exact, atol=0.01)
        assert odd_edges(exact, stored.faces) == 0
        found = np.unique(exact, axis=0)
        distances = np.abs(found[:, None] - expected) / quantum
        assert distances.max(axis=2).min(axis=1).max() <= 0.51
        assert distances.max(axis=2).min(axis=0).max() <= 0.51
        assert volume(exact, stored.faces) == pytest.approx(solid.sum() * 16 * 16 * 40, rel=2e-3)


def write_object(folder: Path, grid: MeshGrid, label: int, lods: list[list[tuple[Vec, bytes]]]) -> None:
    """Write a segmentation without voxels, and the meshes of one label of it, not sharded."""
    info = CloudVolume.create_new_info(1, "segmentation", "uint64", "raw", grid.resolution_nm, (0, 0, 0), (64, 64, 64))
    (folder / "info").write_text(json.dumps({**info, "mesh": "mesh"}))
    (folder / "mesh").mkdir()
    mesh_info = {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": grid.bits,
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "lod_scale_multiplier": 1,
    }
    (folder / "mesh" / "info").write_text(json.dumps(mesh_info))
    manifest = list_fragments([[(position, len(data)) for position, data in level] for level in lods])
    order = [(level, n) for level, listed in zip(lods, manifest.levels, strict=True) for n in listed.given.tolist()]
    (folder / "mesh" / str(label)).write_bytes(b"".join(level[n][1] for level, n in order if n >= 0))
    (folder / "mesh" / f"{label}.index").write_bytes(encode_manifest(manifest, grid, lod_scales(grid, len(lods))))
