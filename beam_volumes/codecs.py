"""Encodings of chunks, and the compression around them.

The encoders are CloudVolume's (`cloudvolume.chunks`), which are those of the Precomputed format:
https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed; that of compressed_segmentation, which
is used most, is the project's own, and its decoder too.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import brotli
import deflate
import numpy as np
import numpy.typing as npt

from beam_volumes.errors import CorruptDataError, OptionError
from beam_volumes.geometry import Vec
from beam_volumes.segmentation_decoder import decode as decode_segmentation
from beam_volumes.segmentation_encoder import encode as encode_segmentation

Array = npt.NDArray[np.generic]

_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")

DATA_TYPES = (*_UNSIGNED, "int8", "int16", "int32", "int64", "float32")
"""What a Precomputed volume can hold here; int64 is read by CloudVolume, not by Neuroglancer."""

COMPRESSIONS = ("gzip", "br", "none")

BLOCK_SIZE: Vec = (8, 8, 8)
"""The block of compressed_segmentation, in voxels, XYZ."""

_GZIP_LEVEL = 6
_GZIP_MEMBER = b"\x1f\x8b\x08"
_GZIP_TRAILER = struct.Struct("<II")
_DEFLATE_RATIO = 1032
"""The most that deflate can compress."""

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
    level_field: str | None = None
    """Where the level stands in a scale of `info`, for CloudVolume to write by; None where there are no levels."""
    levels: range = range(0)
    """The levels, or qualities, that can be chosen."""


_ENCODINGS = {
    "raw": _Encoding(DATA_TYPES, None),
    # A block's header is two words of 32 bits and says in 24 bits after how many words its table begins:
    # https://github.com/google/neuroglancer/tree/master/src/sliceview/compressed_segmentation. Varied voxels reach that
    # limit earlier, as the tables of other blocks stand before a table.
    "compressed_segmentation": _Encoding(("uint32", "uint64"), (1,), most_blocks=2**23 - 1),
    # Its header has 16 bits for a side; of longer chunks it keeps a part, without an error.
    "compresso": _Encoding(_UNSIGNED, (1,), longest=2**16 - 1),
    "crackle": _Encoding(_UNSIGNED, (1,)),
    # Several channels: the formats have the channels of a pixel side by side, CloudVolume 12 reads them one plane after
    # another. Longest sides: of libjpeg when it writes, of libpng (and so tensorstore) when it reads.
    "png": _Encoding(
        ("uint8",),
        (1,),
        already_compressed=True,
        longest=1_000_000,
        is_image=True,
        level_field="png_level",
        levels=range(10),
    ),
    "jpeg": _Encoding(
        ("uint8",),
        (1,),
        lossy=True,
        already_compressed=True,
        longest=65_500,
        is_image=True,
        level_field="jpeg_quality",
        levels=range(101),
    ),
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


def check_encoding_level(encoding: str, level: int | None) -> None:
    """Refuse a level that an encoding does not have; None, the encoder's own, fits every encoding.

    Raises:
        OptionError: with the levels that it has.

    """
    kind = _ENCODINGS[encoding]
    if level is None or level in kind.levels:
        return
    if kind.level_field is None:
        with_levels = " and ".join(name for name, e in _ENCODINGS.items() if e.level_field)
        expected, advice = f"none for {encoding}", f"leave it out; {with_levels} have levels"
    else:
        low, high = kind.levels[0], kind.levels[-1]
        expected, advice = f"a number from {low} to {high} for {encoding}", "choose one of these, or leave it out"
    raise OptionError(f"--encoding_level: expected {expected}, came {level}: {advice}")


def encoding_levels(encodings: Sequence[str], levels: Sequence[int] | None) -> list[int | None]:
    """Return the level of each mip; None for the encoder's own.

    Args:
        encodings: one for each mip that is written; a name that is none of `ENCODINGS` ("auto") has no levels.
        levels: mip by mip; the last goes on, where the encoding has levels. None for the encoders' own.

    Raises:
        OptionError: a mip has not the level that was given for it, or there are more levels than mips.

    """
    if levels is None:
        return [None] * len(encodings)
    if len(levels) > len(encodings):
        raise OptionError(
            f"--encoding_level: expected at most one for each mip that is written ({len(encodings)}), came "
            f"{len(levels)}: leave the rest out"
        )
    found: list[int | None] = []
    for mip, encoding in enumerate(encodings):
        if encoding not in _ENCODINGS:
            came = levels[min(mip, len(levels) - 1)]
            raise OptionError(
                f"--encoding_level: expected none with --encoding={encoding}, came {came}: "
                "leave it out, or name the encoding of each mip"
            )
        goes_on = mip >= len(levels)
        level = None if goes_on and not _ENCODINGS[encoding].levels else levels[-1 if goes_on else mip]
        check_encoding_level(encoding, level)
        found.append(level)
    return found


def level_in_info(encoding: str, level: int | None) -> dict[str, int]:
    """Return the level as it stands in a scale of `info`: CloudVolume writes chunks by it, readers pass it by."""
    field = _ENCODINGS[encoding].level_field
    return {} if level is None or field is None else {field: level}


def compression_of(encoding: str, compress: str) -> str:
    """Return what is put around chunks of this encoding: `compress`, or none where they are compressed already."""
    return "none" if _ENCODINGS[encoding].already_compressed else compress


def encode_chunk(array: Array, encoding: str, level: int | None = None) -> bytes:
    """Encode one chunk.

    Args:
        array: XYZC voxels of the chunk's own shape; a chunk at the volume's edge is not padded.
        encoding: one of `ENCODINGS`, which `check_encoding` and `check_chunk` have accepted.
        level: quality of jpeg (0 to 100; by default 85) or level of png (0 to 9; by default 9).

    Raises:
        OptionError: these voxels are more, or more varied, than the encoding can hold.

    """
    try:
        if encoding == "compressed_segmentation":
            return encode_segmentation(array, BLOCK_SIZE)
        # Crackle and compresso want one Fortran-ordered block.
        array = np.asfortranarray(array)
        if encoding == "raw":
            return array.tobytes(order="F")
        return bytes(_of_cloudvolume().encode(array, encoding, BLOCK_SIZE, {"level": level}))
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


def decode_chunk(
    data: bytes, encoding: str, shape: tuple[int, ...], data_type: npt.DTypeLike, block_size: Vec | None = BLOCK_SIZE
) -> Array:
    """Decode one chunk; the array may be read-only.

    Args:
        data: not compressed any more.
        encoding: one of `ENCODINGS`, or another that CloudVolume reads.
        shape: of the voxels, XYZC.
        data_type: of the voxels.
        block_size: of compressed_segmentation.

    Raises:
        CorruptDataError: these are not the bytes of such a chunk of compressed_segmentation.
        Exception: of a library, each of its own: nor of another encoding.

    """
    if encoding == "compressed_segmentation" and block_size is not None:
        return decode_segmentation(data, shape, data_type, block_size)
    if encoding == "raw":
        return np.frombuffer(data, data_type).reshape(shape, order="F")
    return _of_cloudvolume().decode(data, encoding, shape=shape, dtype=np.dtype(data_type), block_size=block_size)


def _of_cloudvolume() -> Any:
    """Return CloudVolume's codecs, imported when they are needed: that takes a second, in every worker."""
    from cloudvolume import chunks

    return chunks


def compress(data: bytes, compression: str, gzip_level: int = _GZIP_LEVEL) -> bytes:
    """Compress with `gzip` or `br`, or not at all (`none`); the bytes depend on `data` alone, no time is in them."""
    if compression == "gzip":
        return bytes(deflate.gzip_compress(data, gzip_level))
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
            return _gunzip(data)
        if compression == "br":
            return bytes(brotli.decompress(data))
    except (OSError, EOFError, ValueError, zlib.error, brotli.error) as error:
        raise CorruptDataError(f"expected {compression} data, came {len(data)} bytes that are not: {error}") from error
    return data


def _gunzip(data: bytes) -> bytes:
    """Decompress like `gzip`, but three times as fast where that is safe.

    libdeflate makes room for as many bytes as the last four say, stops after the first member, passes over whatever
    follows that, and returns nothing at all where the last four are 0. So it is asked only about what may be one
    member, whole, of no more bytes than can be in it; and believed only if the end of `data` is that of this member.
    """
    if not data:
        raise EOFError("there is nothing")
    checksum, size = _GZIP_TRAILER.unpack(data[-8:]) if len(data) >= _GZIP_TRAILER.size else (0, 0)
    if 0 < size <= len(data) * _DEFLATE_RATIO and data.find(_GZIP_MEMBER, 1) < 0:
        try:
            found = bytes(deflate.gzip_decompress(data))
        except (deflate.DeflateError, ValueError):
            # Whatever it is, `gzip` names it.
            return gzip.decompress(data)
        if len(found) == size and deflate.crc32(found) == checksum:
            return found
    return gzip.decompress(data)
