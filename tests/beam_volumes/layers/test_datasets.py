"""Samples in chunks at regular distances."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import GeometryError
from beam_volumes.geometry import BBox3D, VolumetricIndex
from beam_volumes.layers import LayerDataset, VolumetricStridedIndexer, build_layer_set
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, random_voxels, stored_layer

BUDGET = settings(derandomize=True, deadline=None, max_examples=60)
SMALL = st.integers(1, 9)


def indexer(size: int, chunk: int, stride: int, mode: str, start: int = 3) -> VolumetricStridedIndexer:
    """Return the chunks along x of a box of that many voxels."""
    bbox = BBox3D.from_coords((start, 0, 0), (start + size, 2, 1), RESOLUTION)
    return VolumetricStridedIndexer(bbox, (chunk, 1, 1), (stride, 1, 1), RESOLUTION, mode)


def along_x(chunks: VolumetricStridedIndexer) -> list[tuple[int, int]]:
    return [(chunks(n).start.x, chunks(n).stop.x) for n in range(chunks.shape[0])]


@BUDGET
@given(st.integers(0, 40), SMALL, SMALL, st.integers(-9, 9))
def test_chunks_that_fit(size: int, chunk: int, stride: int, start: int) -> None:
    found = along_x(indexer(size, chunk, stride, "shrink", start))
    expected = [(start + n, start + n + chunk) for n in range(0, size - chunk + 1, stride)]
    assert found == expected


@BUDGET
@given(st.integers(1, 40), SMALL, SMALL, st.integers(-9, 9))
def test_chunks_that_reach_the_end(size: int, chunk: int, stride: int, start: int) -> None:
    found = along_x(indexer(size, chunk, stride, "expand", start))
    first = list(range(0, max(size - chunk, 0) + stride, stride))
    count = next(n for n, at in enumerate(first, start=1) if at + chunk >= size)
    assert found == [(start + at, start + at + chunk) for at in first[:count]]


@BUDGET
@given(st.integers(1, 40), SMALL, st.integers(-9, 9))
def test_chunks_that_are_cut_at_the_end(size: int, chunk: int, start: int) -> None:
    found = along_x(indexer(size, chunk, chunk, "exact", start))
    assert found == [(start + at, start + min(at + chunk, size)) for at in range(0, size, chunk)]


def test_x_is_fastest() -> None:
    chunks = VolumetricStridedIndexer(
        bbox=BBox3D.from_coords((0, 0, 0), (4, 4, 2), RESOLUTION),
        chunk_size=(2, 2, 1),
        stride=(2, 2, 1),
        resolution=RESOLUTION,
    )
    assert len(chunks) == 8
    assert [tuple(chunks(n).start) for n in range(5)] == [(0, 0, 0), (2, 0, 0), (0, 2, 0), (2, 2, 0), (0, 0, 1)]
    for outside in (-1, 8):
        with pytest.raises(IndexError, match="expected the number of a chunk from 0 to 7"):
            chunks(outside)


def test_the_guides_chunks() -> None:
    chunks = VolumetricStridedIndexer(
        bbox=BBox3D.from_coords((1000, 1000, 2000), (2000, 2000, 2100), (64, 64, 40)),
        chunk_size=(128, 128, 1),
        resolution=(64, 64, 40),
        stride=(32, 32, 1),
        mode="shrink",
    )
    assert len(chunks) == 78400
    assert repr(chunks(0)) == (
        "VolumetricIndex(resolution=Vec3D(64, 64, 40), bbox=BBox3D(bounds=((64000.0, 72192.0), (64000.0, 72192.0), "
        "(80000.0, 80040.0)), unit='nm', pprint_px_resolution=(1, 1, 1)), allow_slice_rounding=False)"
    )
    assert chunks(78399).bbox.bounds == ((119296.0, 127488.0), (119296.0, 127488.0), (83960.0, 84000.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "grow"}, "mode: expected one of shrink, expand, exact, came 'grow'"),
        ({"mode": "exact"}, "mode: expected a stride of chunk_size with exact, came"),
        ({"chunk_size": (1.5, 1, 1)}, "expected whole voxels as chunk_size, came"),
        ({"stride": (0, 1, 1)}, "expected numbers above 0 as stride"),
    ],
)
def test_arguments_are_checked(changes: dict[str, Any], message: str) -> None:
    arguments = {
        "bbox": BBox3D.from_coords((0, 0, 0), (4, 4, 2)),
        "chunk_size": (2, 2, 1),
        "stride": (1, 1, 1),
        "resolution": (1, 1, 1),
    }
    with pytest.raises(GeometryError, match=message):
        VolumetricStridedIndexer(**{**arguments, **changes})


def test_samples(tmp_path: Path) -> None:
    voxels = random_voxels((1, 10, 6, 2), "uint8")
    layers = build_layer_set({"img": stored_layer(tmp_path, voxels)})
    bbox = BBox3D.from_coords((0, 0, 0), (10, 6, 2), RESOLUTION)
    dataset = LayerDataset(layers, VolumetricStridedIndexer(bbox, (4, 6, 1), (3, 6, 1), RESOLUTION))
    dataset = pickle.loads(pickle.dumps(dataset))
    samples = list(dataset)
    assert len(samples) == len(dataset) == 6
    for number, sample in enumerate(samples):
        z, x = divmod(number, 3)
        np.testing.assert_array_equal(sample["img"].numpy(), voxels[:, 3 * x : 3 * x + 4, :, z : z + 1])
    assert isinstance(dataset.sample_indexer(0), VolumetricIndex)
