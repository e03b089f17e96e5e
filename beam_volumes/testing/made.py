"""Volumes that are computed and not stored, of any size: to try things out, and to measure.

`made://neurons?size=X,Y,Z` is a segmentation, `made://image?size=X,Y,Z` what a microscope might see of it, and
`made://solid?size=X,Y,Z` one object, of label 1, that fills all. Further parameters: `seed`, `offset=x,y,z` (voxels),
`resolution=x,y,z` (nm), `chunk=x,y,z` (voxels), `dtype`. One tile of neurons is repeated; in each repetition the ids
are others, as far as the data type goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import numpy.typing as npt

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.testing.neurons import make_image, make_neurons

_FORM = "made://neurons?size=X,Y,Z, made://image?size=X,Y,Z or made://solid?size=X,Y,Z"
_LABEL_TYPES = ("uint64", "uint8", "uint16", "uint32")
_DATA_TYPES = {"neurons": _LABEL_TYPES, "image": ("uint8",), "solid": _LABEL_TYPES}
"""By kind; the first is the default."""

_TILE: Vec = (256, 256, 64)


@dataclass(frozen=True)
class MadeVolume:
    """One volume: `data_type` voxels in `box`, of one channel, in one mip."""

    kind: str
    box: Box
    seed: int
    resolution_nm: Vec
    chunk: Vec
    data_type: str

    def info(self) -> dict[str, Any]:
        """Return the Precomputed `info` that the volume would have."""
        return {
            "@type": "neuroglancer_multiscale_volume",
            "type": "image" if self.kind == "image" else "segmentation",
            "data_type": self.data_type,
            "num_channels": 1,
            "scales": [
                {
                    "key": "_".join(map(str, self.resolution_nm)),
                    "resolution": list(self.resolution_nm),
                    "size": list(self.box.shape),
                    "voxel_offset": list(self.box.start),
                    "chunk_sizes": [list(self.chunk)],
                    "encoding": "raw",
                }
            ],
        }

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Return the voxels of `box`, which lies in the volume; XYZC, Fortran order."""
        if self.kind == "solid":
            return np.ones((*box.shape, 1), self.data_type, order="F")
        tile, ids = _tile(self.kind, self.seed, _tile_shape(self.box.shape))
        array = np.empty(box.shape, self.data_type, order="F")
        tiles = Grid(self.box, _tile_shape(self.box.shape), self.box.start)
        for position in tiles.positions_meeting(box):
            part = tiles.box(position).intersection(box)
            voxels = tile[part.slices(tiles.whole_box(position).start)]
            if self.kind == "neurons":
                x, y, z = position
                shift = ids * (x + tiles.shape[0] * (y + tiles.shape[1] * z))
                voxels = self._shifted(voxels, shift)
            array[part.slices(box.start)] = voxels
        return array[..., np.newaxis]

    def _shifted(self, labels: npt.NDArray[np.uint64], shift: int) -> npt.NDArray[Any]:
        """Return other ids for `labels`, within the data type; 0 stays 0."""
        largest = int(np.iinfo(self.data_type).max)
        if self.data_type == "uint64":
            return labels + (labels > 0) * np.uint64(shift)
        return (labels > 0) * (np.uint64(1) + (labels + np.uint64(shift - 1 + largest)) % np.uint64(largest))


@lru_cache(maxsize=4)
def open_made(url: str) -> MadeVolume:
    """Return the volume that a `made://` URL names.

    Raises:
        OptionError: it names none.

    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"size", "seed", "offset", "resolution", "chunk", "dtype"}
    if parts.netloc not in _DATA_TYPES or "size" not in given or given.keys() - known:
        raise OptionError(f"--src: expected {_FORM}, and of {', '.join(sorted(known))}, came {url}")
    data_type = given.get("dtype", _DATA_TYPES[parts.netloc][0])
    if data_type not in _DATA_TYPES[parts.netloc]:
        raise OptionError(f"--src: expected dtype={'|'.join(_DATA_TYPES[parts.netloc])} in {url}, came {data_type}")
    size, resolution = _vec(url, given["size"], 1), _vec(url, given.get("resolution", "16,16,40"), 1)
    offset = _vec(url, given.get("offset", "0,0,0"), None)
    seed = given.get("seed", "0")
    if not seed.isdecimal():
        raise OptionError(f"--src: expected a whole number as seed in {url}, came {seed}")
    chunk = _vec(url, given.get("chunk", "128,128,32"), 1)
    return MadeVolume(parts.netloc, Box.of_shape(size, offset), int(seed), resolution, chunk, data_type)


@lru_cache(maxsize=2)
def _tile(kind: str, seed: int, shape: Vec) -> tuple[npt.NDArray[Any], int]:
    """Return the tile, and how many ids it has."""
    labels = make_neurons(shape, seed)
    return (labels if kind == "neurons" else make_image(labels, seed)), int(labels.max())


def _tile_shape(size: Vec) -> Vec:
    x, y, z = (min(n, t) for n, t in zip(size, _TILE, strict=True))
    return (x, y, z)


def _vec(url: str, text: str, least: int | None) -> Vec:
    try:
        x, y, z = (int(n) for n in text.split(","))
    except ValueError:
        raise OptionError(f"--src: expected three whole numbers, came {text} in {url}") from None
    if least is not None and min(x, y, z) < least:
        raise OptionError(f"--src: expected {least} or more, came {text} in {url}")
    return (x, y, z)
