"""Encodings of chunks, and the compression around them.

The encoders are CloudVolume's (`cloudvolume.chunks`), which are those of the Precomputed format:
https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass

import brotli
import deflate
import numpy as np
import numpy.typing as npt
from cloudvolume import chunks as cloudvolume_chunks

from beam_volumes.errors import CorruptDataError, OptionError
from beam_volumes.geometry import Vec

Array = npt.NDArray[np.generic]

_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")

DATA_TYPES = (*_UNSIGNED, "int8", "int16", "int32", "int64", "float32")
"""What a Precomputed volume can hold here; int64 is read by CloudVolume, not by Neuroglancer."""

COMPRESSIONS = ("gzip", "br", "none")

BLOCK_SIZE: Vec = (8, 8, 8)
"""The block of compressed_segmentation, in voxels, XYZ."""

_GZIP_LEVEL = 6
_BROTLI_QUALITY = 5


@dataclass(frozen=True)
class _Encoding:
    data_types: tuple[str, ...]
    channels: tuple[int, ...] | None
    """The channel counts it can hold; None for any."""
    lossy: bool = False
    already_compressed: bool = False
    """Nothing is gained by compressing the encoded bytes again."""


_ENCODINGS = {
    "raw": _Encoding(DATA_TYPES, None),
    "compressed_segmentation": _Encoding(("uint32", "uint64"), (1,)),
    "compresso": _Encoding(_UNSIGNED, (1,)),
    "crackle": _Encoding(_UNSIGNED, (1,)),
    # CloudVolume cannot read back PNG chunks of several channels, nor write 16-bit ones.
    "png": _Encoding(("uint8",), (1,), already_compressed=True),
    "jpeg": _Encoding(("uint8",), (1, 3), lossy=True, already_compressed=True),
}

ENCODINGS = tuple(_ENCODINGS)


def default_encoding(layer_type: str, data_type: str, num_channels: int) -> str:
    """Return the encoding that every reader takes: compressed_segmentation for ids, raw for the rest."""
    fits = data_type in ("uint32", "uint64") and num_channels == 1
    return "compressed_segmentation" if layer_type == "segmentation" and fits else "raw"


def check_encoding(encoding: str, layer_type: str, data_type: str, num_channels: int) -> None:
    """Refuse an encoding that cannot hold, or would change, the voxels of a volume.

    Raises:
        OptionError: with the encodings that can.

    """
    fitting = [
        name
        for name, e in _ENCODINGS.items()
        if data_type in e.data_types
        and (e.channels is None or num_channels in e.channels)
        and not (e.lossy and layer_type == "segmentation")
    ]
    if not fitting:
        raise OptionError(
            f"--src: expected voxels of one of the types {', '.join(DATA_TYPES)}, came {data_type}: "
            "convert the volume to one of these first"
        )
    if encoding not in fitting:
        raise OptionError(
            f"--encoding: expected one that holds {layer_type} voxels of {data_type} in {num_channels} channel(s) "
            f"({', '.join(fitting)}), came {encoding}"
        )


def compression_of(encoding: str, compress: str) -> str:
    """Return what is put around chunks of this encoding: `compress`, or none where they are compressed already."""
    return "none" if _ENCODINGS[encoding].already_compressed else compress


def encode_chunk(array: Array, encoding: str) -> bytes:
    """Encode one chunk.

    Args:
        array: XYZC voxels of the chunk's own shape; a chunk at the volume's edge is not padded.
        encoding: one of `ENCODINGS`, which `check_encoding` has accepted.

    """
    # compressed_segmentation wants to own its input, crackle and compresso one Fortran-ordered block.
    array = np.asfortranarray(array)
    return bytes(cloudvolume_chunks.encode(array, encoding, block_size=BLOCK_SIZE))


def decode_chunk(data: bytes, encoding: str, shape: tuple[int, int, int, int], data_type: str) -> Array:
    """Decode one chunk to XYZC voxels of `shape`, Fortran order; the inverse of `encode_chunk`, but for jpeg."""
    array = cloudvolume_chunks.decode(data, encoding, shape=shape, dtype=np.dtype(data_type), block_size=BLOCK_SIZE)
    return np.asfortranarray(array)


def compress(data: bytes, compression: str) -> bytes:
    """Compress with `gzip` or `br`, or not at all (`none`); the bytes depend on `data` alone, no time is in them."""
    if compression == "gzip":
        return bytes(deflate.gzip_compress(data, _GZIP_LEVEL))
    if compression == "br":
        return bytes(brotli.compress(data, quality=_BROTLI_QUALITY))
    return data


def decompress(data: bytes, compression: str) -> bytes:
    """Undo `compress`.

    Raises:
        CorruptDataError: the bytes are not what `compress` made.

    """
    try:
        if compression == "gzip":
            return gzip.decompress(data)
        if compression == "br":
            return bytes(brotli.decompress(data))
    except (OSError, EOFError, ValueError, brotli.error) as error:
        raise CorruptDataError(f"expected {compression} data, came {len(data)} bytes that are not: {error}") from error
    return data
