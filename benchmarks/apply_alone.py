"""What `benchmarks.apply` compares with: a loop in plain numpy, and a model that is called and nothing else."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cloudvolume import CloudVolume

from beam_volumes.applying.model_memory import use_large_pages

Sums = npt.NDArray[np.float32]

_CHUNK, _BLEND, _CROP = (1024, 256), 16, (112, 16)
"""Of x and y, of the two levels of `benchmarks.apply.CHUNKS`."""


def main(argv: Sequence[str] | None = None) -> None:
    """Do one of the two."""
    parser = argparse.ArgumentParser(description="A function alone.")
    commands = parser.add_subparsers(dest="command", required=True)
    identity = commands.add_parser("identity")
    identity.add_argument("--source", required=True)
    identity.add_argument("--dst", required=True)
    model = commands.add_parser("model")
    model.add_argument("--model", required=True)
    model.add_argument("--shape", required=True)
    model.add_argument("--count", type=int, required=True)
    model.add_argument("--processes", type=int, required=True)
    options = parser.parse_args(argv)
    if options.command == "identity":
        copy_in_chunks(options.source, options.dst)
        return
    shape = tuple(int(n) for n in options.shape.split(","))
    counts = [len(part) for part in np.array_split(np.arange(options.count), options.processes)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pool.starmap(call_model, [(options.model, shape, count) for count in counts], chunksize=1)


def call_model(path: str, shape: tuple[int, ...], count: int) -> None:
    """Call a model `count` times with a chunk of noise, with the pages and threads of a worker of apply."""
    use_large_pages()
    torch.set_num_threads(1)
    model = torch.jit.load(path)
    chunk = torch.randint(0, 256, (1, 1, *shape), dtype=torch.uint8)
    with torch.no_grad():
        for _ in range(count):
            model(chunk)


def copy_in_chunks(source: str, dst: str) -> None:
    """Copy a volume slice by slice: each is read whole, cut into chunks of two levels, blended at both, and written."""
    volume = CloudVolume(f"file://{source}", progress=False)
    copy = CloudVolume(f"file://{dst}", info=volume.info, progress=False)
    copy.commit_info()
    around = _BLEND + _CROP[0] + _BLEND + _CROP[1]
    for z in range(int(volume.bounds.minpt[2]), int(volume.bounds.maxpt[2])):
        plane = np.pad(np.asarray(volume[:, :, z])[:, :, 0, 0], around)
        copy[:, :, z : z + 1] = np.rint(_blended(plane, around)).astype(plane.dtype)[:, :, np.newaxis, np.newaxis]


def _blended(plane: npt.NDArray[Any], around: int) -> Sums:
    width, height = (n - 2 * around for n in plane.shape)
    total = np.zeros((width, height), np.float32)
    for x, y in itertools.product(range(0, width, _CHUNK[0]), range(0, height, _CHUNK[0])):
        chunk = _chunk(plane, x + around, y + around)
        across = _weights(_CHUNK[0], (x == 0, x + _CHUNK[0] >= width))
        chunk *= across[:, np.newaxis] * _weights(_CHUNK[0], (y == 0, y + _CHUNK[0] >= height))
        left, top = max(x - _BLEND, 0), max(y - _BLEND, 0)
        right, bottom = min(x + _CHUNK[0] + _BLEND, width), min(y + _CHUNK[0] + _BLEND, height)
        inside = chunk[left - x + _BLEND : right - x + _BLEND, top - y + _BLEND : bottom - y + _BLEND]
        total[left:right, top:bottom] += inside
    return total


def _chunk(plane: npt.NDArray[Any], x: int, y: int) -> Sums:
    """Return a chunk of the top level with its blend, made of chunks of the lower level."""
    side, pad = _CHUNK[0] + 2 * (_BLEND + _CROP[0]), _BLEND + _CROP[0]
    total = np.zeros((side + 2 * _BLEND, side + 2 * _BLEND), np.float32)
    for i, j in itertools.product(_starts(side), _starts(side)):
        low, high = (x - pad + i - _BLEND, y - pad + j - _BLEND)
        size = _CHUNK[1] + 2 * _BLEND
        read = plane[low - _CROP[1] : low + size + _CROP[1], high - _CROP[1] : high + size + _CROP[1]]
        part = read[_CROP[1] : -_CROP[1], _CROP[1] : -_CROP[1]].astype(np.float32)
        edges = [(n == 0, n + _CHUNK[1] >= side) for n in (i, j)]
        part *= _weights(_CHUNK[1], edges[0])[:, np.newaxis] * _weights(_CHUNK[1], edges[1])
        total[i : i + size, j : j + size] += part
    crop = _BLEND + _CROP[0]
    return total[crop:-crop, crop:-crop]


def _starts(side: int) -> Iterator[int]:
    return iter(range(0, side, _CHUNK[1]))


def _weights(chunk: int, edges: tuple[bool, bool]) -> Sums:
    ramp = np.arange(1, 2 * _BLEND + 1, dtype=np.float32) / (2 * _BLEND + 1)
    weights = np.ones(chunk + 2 * _BLEND, np.float32)
    if not edges[0]:
        weights[: 2 * _BLEND] = ramp
    if not edges[1]:
        weights[-2 * _BLEND :] = ramp[::-1]
    return weights


if __name__ == "__main__":
    main()
