"""VolumetricIndex: boxes of whole voxels."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beam_volumes.errors import GeometryError
from beam_volumes.geometry import BBox3D, Box, Vec3D, VolumetricIndex
from tests.beam_volumes.geometry_strategies import RESOLUTIONS, SMALL, indices, triples

BUDGET = settings(derandomize=True, deadline=None, max_examples=50)
NEAR = st.integers(-6, 6)
INDEX = VolumetricIndex.from_coords((5, 0, 3), (130, 64, 4), (8, 8, 40))
FLAGGED = VolumetricIndex.from_coords((0, 0, 0), (8, 8, 8), (4, 4, 40), allow_slice_rounding=True, chunk_id=7)


@BUDGET
@given(indices(), triples(SMALL.map(abs)), triples(SMALL))
def test_voxels_are_counted_exactly(index: VolumetricIndex, pad: Vec3D[int], offset: Vec3D[int]) -> None:
    padded = index.padded(pad)
    assert (padded.start, padded.stop) == (index.start - pad, index.stop + pad)
    assert padded.shape == index.shape + pad * 2
    assert padded.cropped(pad) == index
    moved = index.translated(offset)
    assert (moved.start, moved.stop) == (index.start + offset, index.stop + offset)
    assert moved.translated(-offset) == index
    assert index.translated_start(-pad).translated_end(pad) == padded
    assert index.translated_start(-pad).with_start(index.start) == index
    assert index.translated_end(pad).with_end(index.stop) == index


@BUDGET
@given(st.data(), RESOLUTIONS)
def test_a_subindex_cuts_what_numpy_cuts(data: st.DataObject, resolution: Any) -> None:
    def drawn() -> VolumetricIndex:
        start = data.draw(triples(NEAR))
        return VolumetricIndex.from_coords(start, start + data.draw(triples(st.integers(1, 9))), resolution)

    small, large = drawn(), drawn()
    common, subindex = small.get_intersection_and_subindex(large)
    assert all(s.start >= 0 for s in subindex)
    # Each voxel holds its own coordinates.
    everything = np.stack(np.meshgrid(*[np.arange(-6, 16)] * 3, indexing="ij"), axis=-1)

    def cut(index: VolumetricIndex) -> np.ndarray[Any, Any]:
        return everything[tuple(slice(s.start + 6, s.stop + 6) for s in index.to_slices())]

    found = cut(large)[subindex]
    in_both = {tuple(v) for v in cut(small).reshape(-1, 3)} & {tuple(v) for v in cut(large).reshape(-1, 3)}
    assert {tuple(v) for v in found.reshape(-1, 3)} == in_both
    assert found.shape[:3] == tuple(common.shape)
    if in_both:
        np.testing.assert_array_equal(found, cut(common))


@BUDGET
@given(indices(least=1), triples(SMALL), triples(st.integers(1, 9)))
def test_snapped_in_voxels(index: VolumetricIndex, offset: Vec3D[int], size: Vec3D[int]) -> None:
    grown, shrunk = (index.snapped(offset, size, mode) for mode in ("expand", "shrink"))
    assert index.contained_in(grown)
    assert shrunk.contained_in(index)
    assert (grown.start - offset) % size == (grown.stop - offset) % size == Vec3D(0, 0, 0)
    assert grown.start == (index.start - offset) // size * size + offset
    assert grown.shape < index.shape + size * 2


@BUDGET
@given(indices(least=1), triples(st.integers(1, 3)))
def test_parts_are_whole_where_the_shape_divides(index: VolumetricIndex, counts: Vec3D[int]) -> None:
    index = index.with_end(index.start + index.shape * counts)
    parts = index.split(counts)
    assert {tuple(part.shape) for part in parts} == {tuple(index.shape // counts)}
    voxels = np.zeros(tuple(index.shape), int)
    for part in parts:
        voxels[part.get_intersection_and_subindex(index)[1]] += 1
    assert (voxels == 1).all()


@BUDGET
@given(indices(), RESOLUTIONS)
def test_what_is_printed_and_pickled_comes_back(index: VolumetricIndex, resolution: Any) -> None:
    for copy in (eval(repr(index)), pickle.loads(pickle.dumps(index))):
        assert (copy, repr(copy), hash(copy)) == (index, repr(index), hash(index))
    start, stop = index.pformat().split(" - ")
    assert (eval(start), eval(stop)) == (tuple(index.start), tuple(index.stop))
    assert index.pformat(resolution) == index.bbox.pformat(resolution)


@BUDGET
@given(indices(least=1), RESOLUTIONS)
def test_other_resolutions_are_exact_or_refused(index: VolumetricIndex, resolution: Any) -> None:
    other = VolumetricIndex(resolution, index.bbox)
    assume(other.resolution != index.resolution)
    try:
        shape = other.shape
    except GeometryError:
        rounded = VolumetricIndex(resolution, index.bbox, allow_slice_rounding=True)
        assert all(abs(s - e) <= 0.5 for s, e in zip(rounded.start, index.bbox.start / other.resolution, strict=True))
    else:
        assert shape * other.resolution == index.shape * index.resolution


def test_edges() -> None:
    assert INDEX.box == Box((5, 0, 3), (130, 64, 4))
    assert (INDEX.start, INDEX.stop, INDEX.end) == (Vec3D(5, 0, 3), Vec3D(130, 64, 4), Vec3D(130, 64, 4))
    assert (INDEX.ndim, INDEX.get_slice(0)) == (3, slice(5, 130))
    assert INDEX.to_slices() == (slice(5, 130), slice(0, 64), slice(3, 4))
    assert [type(v) for v in (*INDEX.start, *INDEX.shape)] == [int] * 6
    assert INDEX.contains((5, 0, 3))
    assert not INDEX.contains((5, 64, 3))
    assert INDEX.aligned(INDEX.translated((0, 1, 0))) == (True, True, False, False, True, True)
    assert INDEX.transposed(0, 1).box == Box((0, 5, 3), (64, 130, 4))
    assert (INDEX * Vec3D(2, 1, 1)).box == (Vec3D(2, 1, 1) * INDEX).box == Box((10, 0, 3), (260, 64, 4))
    assert (INDEX.with_start((6, 2, 3)) / 2).with_end((65, 32, 8)).pformat() == "(3.0, 1.0, 1.5) - (65.0, 32.0, 8.0)"


def test_two_resolutions_meet_in_space() -> None:
    coarse = VolumetricIndex.from_coords((0, 0, 0), (4, 4, 4), (16, 16, 40))
    assert coarse.intersects(INDEX)
    common = INDEX.intersection(coarse)
    assert (common.resolution, common.box) == (INDEX.resolution, Box((5, 0, 3), (8, 8, 4)))
    assert INDEX.supremum(coarse).box == Box((0, 0, 0), (130, 64, 4))
    fine = VolumetricIndex.from_coords((2, 2, 0), (4, 4, 1), (8, 8, 40))
    # The array is of voxels of 16 nm.
    assert fine.get_intersection_and_subindex(coarse)[1] == (slice(1, 2), slice(1, 2), slice(0, 1))


def test_what_an_index_carries_is_kept() -> None:
    for index in (
        FLAGGED.padded((1, 1, 1)),
        FLAGGED.cropped((1, 1, 1)),
        FLAGGED.split((2, 1, 1))[0],
        FLAGGED.intersection(INDEX),
        FLAGGED.snapped((0, 0, 0), (3, 3, 3), "floor"),
        FLAGGED * 2,
    ):
        assert (index.resolution, index.chunk_id, index.allow_slice_rounding) == (Vec3D(4, 4, 40), 7, True)
    assert VolumetricIndex(FLAGGED.resolution, FLAGGED.bbox, True, chunk_id=8) == FLAGGED
    assert VolumetricIndex(FLAGGED.resolution, FLAGGED.bbox) != FLAGGED


def test_voxels_cut_through_are_refused_or_rounded() -> None:
    index = VolumetricIndex((4, 4, 40), BBox3D(((2, 18), (0, 8), (0, 40))))  # type: ignore[arg-type]
    for ask in ("start", "stop", "shape", "box"):
        with pytest.raises(GeometryError, match=r"got 0.5 to 4.5: use 0 to 5 .* or allow_slice_rounding=True"):
            getattr(index, ask)
    assert index.pformat() == "(0.5, 0.0, 0.0) - (4.5, 2.0, 1.0)"
    rounded = VolumetricIndex(index.resolution, index.bbox, allow_slice_rounding=True)
    assert (rounded.start, rounded.stop) == (Vec3D(0, 0, 0), Vec3D(4, 2, 1))


def test_a_resolution_is_three_numbers_above_0() -> None:
    assert repr(VolumetricIndex([4, 4.5, 40], BBox3D(((0, 4),) * 3)).resolution) == "Vec3D(4, 4.5, 40)"  # type: ignore[arg-type]
    for resolution in ((4, 4), (4, 4, -1), (4, 4, "40")):
        with pytest.raises(GeometryError, match="expected "):
            VolumetricIndex.from_coords((0, 0, 0), (1, 1, 1), resolution)  # type: ignore[arg-type]
