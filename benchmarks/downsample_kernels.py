"""The kernels of downsampling and tinybrain's, in turn, on the same arrays in memory, on one thread.

    python -m benchmarks.downsample_kernels [--segmentation=FILE.ckl.gz] [--size=512,512,512] [--rounds=9]

The segmentation is uint64, computed or from a crackle file; the image is uint8. tinybrain (GPL) comes with Igneous
(`pip install -c constraints.txt '.[benchmark]'`), and is only called. The first call of each kernel, which compiles it
or loads what was compiled, is not counted. The last column is the share of equal voxels in the first mip: tinybrain
takes ties otherwise, and rounds averages down.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import crackle
import numpy as np
import numpy.typing as npt
import tinybrain
from rich.console import Console
from rich.table import Table

from beam_volumes.downsampling import Downsampler, downsample
from beam_volumes.geometry import Vec
from beam_volumes.testing.made import open_made

Array = npt.NDArray[Any]

_ORIGIN: Vec = (0, 0, 0)
_FACTORS: tuple[Vec, ...] = ((2, 2, 1), (2, 2, 2))
_MIPS = 3


class _Case(NamedTuple):
    name: str
    ours: Callable[[], list[Array]]
    theirs: Callable[[], Sequence[Array]]


def main(argv: Sequence[str] | None = None) -> None:
    """Make the arrays, measure, print."""
    parser = argparse.ArgumentParser(description="Compare downsampling kernels.")
    parser.add_argument("--segmentation", help="a volume encoded with crackle, gzipped; by default neurons are made")
    parser.add_argument("--size", default="512,512,512", help="voxels of the volumes that are made, x,y,z")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(argv)
    labels = _read(options.segmentation) if options.segmentation else _make("neurons", options.size)
    image = _make("image", options.size)
    table = Table(title=f"median CPU seconds of {options.rounds} rounds, in turn")
    for column in ("", "ours", "tinybrain", "speed", "equal voxels"):
        table.add_column(column)
    for case in _cases(labels, image):
        table.add_row(case.name, *_measure(case, options.rounds))
    Console().print(table)


def _read(path: str) -> Array:
    labels = crackle.decompress(gzip.decompress(Path(path).read_bytes()))
    return np.asfortranarray(labels.reshape(*labels.shape[:3], 1), dtype=np.uint64)


def _make(kind: str, size: str) -> Array:
    volume = open_made(f"made://{kind}?size={size}")
    return np.asfortranarray(volume.read(volume.box))


def _cases(labels: Array, image: Array) -> Iterator[_Case]:
    for factor, mips in itertools.product(_FACTORS, (1, _MIPS)):
        said = f"{'x'.join(map(str, factor))}, {mips} mip{'s' * (mips > 1)}"
        for sparse in (False, True):
            yield _Case(
                f"{'sparse ' * sparse}mode, uint64, {said}",
                lambda f=factor, n=mips, s=sparse: _pyramid(labels, f, n, "mode", s),  # type: ignore[misc]
                lambda f=factor, n=mips, s=sparse: tinybrain.downsample_segmentation(  # type: ignore[misc]
                    labels, f, num_mips=n, sparse=s
                ),
            )
        yield _Case(
            f"average, uint8, {said}",
            lambda f=factor, n=mips: _pyramid(image, f, n, "average"),  # type: ignore[misc]
            lambda f=factor, n=mips: tinybrain.downsample_with_averaging(image, f, num_mips=n),  # type: ignore[misc]
        )


def _pyramid(voxels: Array, factor: Vec, mips: int, method: str, sparse: bool = False) -> list[Array]:
    if mips == 1:
        return [downsample(voxels, _ORIGIN, factor, method, sparse)]
    downsampler = Downsampler(method, voxels.dtype.name, sparse)
    return [mip for _, mip in downsampler.mips(downsampler.tile(voxels, _ORIGIN), [factor] * mips)]


def _measure(case: _Case, rounds: int) -> tuple[str, str, str, str]:
    # Compiled here.
    ours, theirs = case.ours()[0], np.asarray(case.theirs()[0])
    equal = float(np.mean(ours == theirs.reshape(ours.shape)))
    del ours, theirs
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for spent, work in zip(seconds, (case.ours, case.theirs), strict=True):
            started = time.process_time()
            work()
            spent.append(time.process_time() - started)
    mine, other = (statistics.median(spent) for spent in seconds)
    return f"{mine:.4f}", f"{other:.4f}", f"{other / mine:.2f}", f"{equal:.2%}"


if __name__ == "__main__":
    main()
