"""Samples of layers, in chunks at regular distances: what a training reads one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from beam_volumes.builder import register
from beam_volumes.errors import OptionError
from beam_volumes.geometry import BBox3D, Vec, VolumetricIndex
from beam_volumes.geometry.exact import Exact, exact, positives, quotient
from beam_volumes.geometry.sides import Side, kept_sides
from beam_volumes.layers.indexing import as_vec

_MODES = ("shrink", "expand", "exact")
_STEPS: dict[str, Callable[[Exact], int]] = {"shrink": math.floor, "expand": math.ceil, "exact": math.ceil}


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
    shape: Vec = field(init=False)
    """Chunks along x, y and z."""

    def __post_init__(self) -> None:
        """Check the arguments."""
        chunk, stride = positives(self.chunk_size, "chunk_size"), positives(self.stride, "stride")
        if not all(isinstance(n, int) for n in (*chunk, *stride)):
            raise OptionError(
                f"expected whole voxels as chunk_size and stride, came {self.chunk_size!r} and {self.stride!r}: give "
                "whole numbers"
            )
        if self.mode not in _MODES:
            raise OptionError(f"mode: expected one of {', '.join(_MODES)}, came {self.mode!r}: choose one")
        if self.mode == "exact" and chunk != stride:
            raise OptionError(
                f"mode: expected a stride of chunk_size with exact, came {self.stride!r} and {self.chunk_size!r}: give "
                "the same, or choose shrink or expand"
            )
        object.__setattr__(self, "resolution", as_vec(self.resolution, "resolution"))
        axes = zip(self.bbox.sides, chunk, stride, positives(self.resolution, "resolution"), strict=True)
        x, y, z = (self._steps(quotient(b - a, r), c, s) for (a, b), c, s, r in axes)
        object.__setattr__(self, "shape", (x, y, z))

    def _steps(self, size: Exact, chunk: Exact, stride: Exact) -> int:
        """Return the number of chunks along an axis, of `size` voxels."""
        steps = _STEPS[self.mode](quotient(size - chunk, stride)) + 1
        return max(steps, 0 if self.mode == "shrink" else 1)

    def __len__(self) -> int:
        """Return the number of chunks."""
        return math.prod(self.shape)

    def __call__(self, idx: int) -> VolumetricIndex:
        """Return chunk number `idx`, from 0; an IndexError where there is none."""
        if not 0 <= idx < len(self):
            raise IndexError(f"expected the number of a chunk from 0 to {len(self) - 1}, came {idx}")
        rest, x = divmod(int(idx), self.shape[0])
        z, y = divmod(rest, self.shape[1])
        axes = zip(self.bbox.sides, (x, y, z), self.chunk_size, self.stride, self.resolution, strict=True)
        sides = [self._side(side, at * int(s), int(c), exact(r)) for side, at, c, s, r in axes]
        return VolumetricIndex(as_vec(self.resolution, "resolution"), BBox3D(kept_sides(sides), self.bbox.unit))

    def _side(self, side: Side, first: int, chunk: int, resolution: Exact) -> Side:
        start = side[0] + first * resolution
        stop = start + chunk * resolution
        return start, min(stop, side[1]) if self.mode == "exact" else stop
