"""Samples of layers, in chunks at regular distances: what a training reads one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from beam_volumes.builder import register
from beam_volumes.geometry import BBox3D, BBoxStrider, Vec, VolumetricIndex
from beam_volumes.layers.indexing import as_vec


class SampleIndexer(Protocol):
    """Numbers the samples of a layer."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __call__(self, idx: int) -> Any:
        """Return what the layer is indexed by for sample `idx`, from 0."""


@register("LayerDataset")
@dataclass(frozen=True)
class LayerDataset:
    """The samples of a layer, or of a layer set, by number: what a `torch.utils.data.DataLoader` takes.

    Attributes:
        layer: what is read.
        sample_indexer: which index each sample has.

    """

    layer: Any
    sample_indexer: SampleIndexer

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.sample_indexer)

    def __getitem__(self, idx: int) -> Any:
        """Return a sample; an IndexError where there is none of that number."""
        return self.layer[self.sample_indexer(idx)]


@register("VolumetricStridedIndexer")
@dataclass(frozen=True)
class VolumetricStridedIndexer:
    """Chunks of a box at regular distances, the first of which begins where the box does; x fastest.

    Along each axis the chunks begin at multiples of `stride`, as long as they fit the box (`shrink`), or until one of
    them reaches its end (`expand`). With `exact`, `stride` is `chunk_size`, and the last chunks are cut off at the end.

    >>> indexer = VolumetricStridedIndexer(
    ...    bbox=BBox3D.from_coords(
    ...       start_coord=(1000, 1000, 2000),
    ...       end_coord=(2000, 2000, 2100),
    ...       resolution=(64, 64, 40)
    ...    ),
    ...    chunk_size=(128, 128, 1),
    ...    resolution=(64, 64, 40),
    ...    stride=(32, 32, 1),
    ...    mode="shrink",
    ... )
    >>> print(len(indexer)) # total number of samples
    78400
    >>> print(indexer(1))  # doctest: +NORMALIZE_WHITESPACE
    VolumetricIndex(resolution=Vec3D(64, 64, 40), bbox=BBox3D(bounds=((66048.0, 74240.0), (64000.0, 72192.0),
    (80000.0, 80040.0)), unit='nm', pprint_px_resolution=(1, 1, 1)), allow_slice_rounding=False)
    >>> indexer(78399).pformat()
    '(1864.0, 1864.0, 2099.0) - (1992.0, 1992.0, 2100.0)'

    Attributes:
        bbox: what is cut into chunks.
        chunk_size: voxels of `resolution`.
        stride: voxels from one chunk to the next.
        resolution: nm per voxel, also of the indices that come.
        mode: shrink, expand or exact.

    """

    bbox: BBox3D
    chunk_size: Sequence[int]
    stride: Sequence[int]
    resolution: Sequence[float]
    mode: str = "expand"
    strider: BBoxStrider = field(init=False, repr=False, compare=False)
    """Makes the chunks."""

    def __post_init__(self) -> None:
        """Check the arguments."""
        object.__setattr__(self, "resolution", as_vec(self.resolution, "resolution"))
        strider = BBoxStrider(self.bbox, self.resolution, self.chunk_size, self.stride, mode=self.mode)
        object.__setattr__(self, "strider", strider)

    @property
    def shape(self) -> Vec:
        """Chunks along x, y and z."""
        return self.strider.shape

    def __len__(self) -> int:
        """Return the number of chunks."""
        return self.strider.num_chunks

    def __call__(self, idx: int) -> VolumetricIndex:
        """Return chunk number `idx`, from 0; an IndexError where there is none."""
        return VolumetricIndex(as_vec(self.resolution, "resolution"), self.strider.get_nth_chunk_bbox(idx))
