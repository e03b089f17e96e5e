"""Encodings of chunks, and the compression around them.

The encoders are CloudVolume's (`cloudvolume.chunks`), which are those of the Precomputed format:
https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed
"""

from __future__ import annotations

import gzip
import math
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
    longest: int | None = None
    """The longest side that can be encoded: of the chunk, or of its image; None for any."""
    is_image: bool = False
    """A chunk is laid out as one image, x pixels wide and y * z high."""
    most_blocks: int | None = None
    """Of `BLOCK_SIZE`; None for any."""


_ENCODINGS = {
    "raw": _Encoding(DATA_TYPES, None),
    # A block's header is two words of 32 bits and says in 24 bits after how many words its table begins:
    # https://github.com/google/neuroglancer/tree/master/src/sliceview/compressed_segmentation. Varied voxels reach that
    # limit far earlier, as tables and values stand between the headers.
    "compressed_segmentation": _Encoding(("uint32", "uint64"), (1,), most_blocks=2**23 - 1),
    # Its header has 16 bits for a side; of longer chunks it keeps a part, without an error.
    "compresso": _Encoding(_UNSIGNED, (1,), longest=2**16 - 1),
    "crackle": _Encoding(_UNSIGNED, (1,)),
    # Several channels: the formats have the channels of a pixel side by side, CloudVolume 12 reads them one plane after
    # another. Longest sides: of libjpeg when it writes, of libpng (and so tensorstore) when it reads.
    "png": _Encoding(("uint8",), (1,), already_compressed=True, longest=1_000_000, is_image=True),
    "jpeg": _Encoding(("uint8",), (1,), lossy=True, already_compressed=True, longest=65_500, is_image=True),
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


def check_chunk(encoding: str, chunk: Vec) -> None:
    """Refuse chunks of a shape, XYZ voxels, that an encoding cannot hold whatever the voxels are.

    Raises:
        OptionError: with the limit.

    """
    kind = _ENCODINGS[encoding]
    x, y, z = chunk
    sides = (x, y * z) if kind.is_image else chunk
    blocks = math.prod(-(-n // b) for n, b in zip(chunk, BLOCK_SIZE, strict=True))
    if kind.longest is not None and max(sides) > kind.longest:
        what = "chunks that make images of x by y*z pixels, each side" if kind.is_image else "chunks with each side"
        limit, came = f"{what} {kind.longest:,} at most", " x ".join(f"{n:,}" for n in sides)
    elif kind.most_blocks is not None and blocks > kind.most_blocks:
        limit, came = f"chunks of {kind.most_blocks:,} blocks of 8 x 8 x 8 at most", f"{blocks:,} blocks"
    else:
        return
    raise OptionError(
        f"--chunk_size: expected {limit}, for {encoding}, came {came}: make the chunks smaller, or choose another "
        "--encoding"
    )


def compression_of(encoding: str, compress: str) -> str:
    """Return what is put around chunks of this encoding: `compress`, or none where they are compressed already."""
    return "none" if _ENCODINGS[encoding].already_compressed else compress


def encode_chunk(array: Array, encoding: str) -> bytes:
    """Encode one chunk.

    Args:
        array: XYZC voxels of the chunk's own shape; a chunk at the volume's edge is not padded.
        encoding: one of `ENCODINGS`, which `check_encoding` and `check_chunk` have accepted.

    Raises:
        OptionError: these voxels are more, or more varied, than the encoding can hold.

    """
    # compressed_segmentation wants to own its input, crackle and compresso one Fortran-ordered block.
    array = np.asfortranarray(array)
    try:
        return bytes(cloudvolume_chunks.encode(array, encoding, block_size=BLOCK_SIZE))
    except MemoryError:
        raise
    except Exception as error:
        # Each library has errors of its own.
        shape = " x ".join(str(n) for n in array.shape[:3])
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OptionError(
            f"--chunk_size: expected voxels that {encoding} can hold, came a chunk of {shape} that it cannot "
            f"({reason}): choose smaller chunks, or another --encoding"
        ) from error


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
