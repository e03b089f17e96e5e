"""The encoder of compressed_segmentation and CloudVolume's, in turn, on the same chunks, on one thread.

    python -m benchmarks.segmentation_encoder [--segmentation=FILE.ckl.gz] [--size=512,512,256] [--chunk_size=64,64,64]

The segmentation is computed, or from a crackle file. Chunks are cut from it as a pipeline does it, each into an array
of its own; that is not counted. The first call, which compiles the encoder or loads what was compiled, is not counted
either. Sizes are of all chunks, before and after gzip; the seconds of gzip depend on what it is given, too.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import crackle
import numpy as np
import numpy.typing as npt
from cloudvolume import chunks as cloudvolume_chunks
from rich.console import Console
from rich.table import Table

from beam_volumes.codecs import BLOCK_SIZE, compress
from beam_volumes.downsampling import downsample
from beam_volumes.segmentation_encoder import encode
from beam_volumes.testing.made import open_made

Array = npt.NDArray[Any]


class _Result(NamedTuple):
    seconds: float
    gzip_seconds: float
    size: int
    gzip_size: int


def main(argv: Sequence[str] | None = None) -> None:
    """Make the chunks, measure, print."""
    parser = argparse.ArgumentParser(description="Compare encoders of compressed_segmentation.")
    parser.add_argument("--segmentation", help="a volume encoded with crackle, gzipped; by default neurons are made")
    parser.add_argument("--size", default="512,512,256", help="voxels of the volume that is made, x,y,z")
    parser.add_argument("--chunk_size", default="64,64,64")
    parser.add_argument("--mips", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    labels = _read(options.segmentation) if options.segmentation else _make(options.size)
    chunk = [int(n) for n in options.chunk_size.split(",")]
    table = Table(title=f"least CPU seconds of {options.rounds} rounds, in turn")
    for column in ("", "ours", "CloudVolume", "speed", "bytes", "after gzip", "seconds of gzip"):
        table.add_column(column)
    for mip in range(options.mips):
        labels = downsample(labels, (0, 0, 0), (2, 2, 1), "mode") if mip else labels
        for data_type in ("uint32", "uint64"):
            voxels = np.asfortranarray(labels, data_type)
            table.add_row(f"mip {mip}, {data_type}", *_compare(voxels, chunk, options.rounds))
    Console().print(table)


def _read(path: str) -> Array:
    labels = crackle.decompress(gzip.decompress(Path(path).read_bytes()))
    return np.asfortranarray(labels.reshape(*labels.shape[:3], 1))


def _make(size: str) -> Array:
    volume = open_made(f"made://neurons?size={size}")
    return np.asfortranarray(volume.read(volume.box))


def _compare(voxels: Array, chunk: Sequence[int], rounds: int) -> tuple[str, ...]:
    encode(voxels[:1, :1, :1])
    results = [(_measure(encode, voxels, chunk), _measure(_theirs, voxels, chunk)) for _ in range(rounds)]
    ours, theirs = (_Result(*map(min, zip(*of, strict=True))) for of in zip(*results, strict=True))
    return (
        f"{ours.seconds:.4f} ({voxels.size / ours.seconds / 1e6:.0f} Mvoxel/s)",
        f"{theirs.seconds:.4f}",
        f"{theirs.seconds / ours.seconds:.2f}",
        f"{ours.size / theirs.size:.2%}",
        f"{ours.gzip_size / theirs.gzip_size:.2%}",
        f"{ours.gzip_seconds / theirs.gzip_seconds:.2%}",
    )


def _theirs(chunk: Array) -> bytes:
    return bytes(cloudvolume_chunks.encode(chunk, "compressed_segmentation", BLOCK_SIZE))


def _measure(encoder: Callable[[Array], bytes], voxels: Array, chunk: Sequence[int]) -> _Result:
    seconds = gzip_seconds = 0.0
    size = gzip_size = 0
    for array in _chunks(voxels, chunk):
        started = time.process_time()
        data = encoder(array)
        encoded = time.process_time()
        compressed = compress(data, "gzip")
        seconds += encoded - started
        gzip_seconds += time.process_time() - encoded
        size += len(data)
        gzip_size += len(compressed)
    return _Result(seconds, gzip_seconds, size, gzip_size)


def _chunks(voxels: Array, chunk: Sequence[int]) -> Iterator[Array]:
    x, y, z = (range(0, n, c) for n, c in zip(voxels.shape[:3], chunk, strict=True))
    for i, j, k in ((i, j, k) for i in x for j in y for k in z):
        yield np.asfortranarray(voxels[i : i + chunk[0], j : j + chunk[1], k : k + chunk[2]])


if __name__ == "__main__":
    main()
