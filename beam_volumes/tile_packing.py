"""How tiles are packed on their way to the cells above: read once, soon."""

from __future__ import annotations

import numpy as np

from beam_volumes.codecs import compress, decode_chunk, decompress, encode_chunk
from beam_volumes.downsampling import Downsampler, Tile, coarse_box
from beam_volumes.errors import CorruptDataError, OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.parcels import PIECE_COMPRESSION, PIECE_LEVEL

_LABELS, _RAW = b"L", b"R"


def pack(tile: Tile) -> bytes:
    """Return what `unpack` makes the tile of again, but for its place.

    Labels are encoded as compressed_segmentation first: with gzip alone they take three times as long, and several
    times the bytes.
    """
    if tile.state.dtype in (np.uint32, np.uint64) and tile.state.shape[3] == 1:
        try:
            encoded = encode_chunk(tile.state, "compressed_segmentation")
        except OptionError:
            # More labels than the format can hold.
            pass
        else:
            return _LABELS + compress(encoded, PIECE_COMPRESSION, PIECE_LEVEL)
    return _RAW + compress(tile.state.tobytes(order="F"), PIECE_COMPRESSION, PIECE_LEVEL)


def unpack(downsampler: Downsampler, base: Box, factor: Vec, data: bytes) -> Tile:
    """Return the tile that was packed; its array may be read-only.

    Args:
        downsampler: by which it was made.
        base: the voxels of mip 0 that it is made of.
        factor: from mip 0 to its mip.
        data: what `pack` returned.

    Raises:
        CorruptDataError: that is something else.

    """
    kind, state_type, shape = data[:1], downsampler.state_type(factor), coarse_box(base, factor).shape
    if kind not in (_LABELS, _RAW):
        raise CorruptDataError(f"expected a packed tile, came {len(data)} bytes that begin with {kind!r}")
    voxels = decompress(data[1:], PIECE_COMPRESSION)
    if kind == _RAW:
        return Tile(base, factor, np.frombuffer(voxels, state_type).reshape((*shape, -1), order="F"))
    return Tile(base, factor, decode_chunk(voxels, "compressed_segmentation", (*shape, 1), state_type))
