"""Make a pyramid with this project and with Igneous, in turn, each on its own copy of the same volume.

    python -m benchmarks.downsample [--size=1024,1024,1024] [--num_mips 3 5] [--rounds=3] [--processes=2] [--in_turn]

The volume is a uint64 segmentation in shards; all mips have its chunks and encoding, are sharded too, and are made by
mode, 2 x 2 x 1, with the same number of processes. Igneous (`pip install -c constraints.txt '.[benchmark]'`) has the
settings that were the fastest for it:

- All mips in one command (`--num-mips`) and not one command for each, which is the older way and reads every mip again
  (`--in_turn` measures it): 20 to 23 s of CPU for 3 mips of 1 gigavoxel, against 26 to 30.
- Its local queue and not one of files, which would start Python once more.
- `--memory`, which decides the size of shards, so small that there is a task for each process: a task makes a shard of
  the coarsest mip, with all that lies below it. At its default a volume of 1 gigavoxel is one task, and one process
  works. More tasks than processes were no faster.

Afterwards every mip is compared with the mode of the mip below it, made by this project without Beam: ours must be
equal, voxel for voxel. Igneous takes ties otherwise: each of its voxels must be one of the most frequent labels, and
the share of equal voxels is printed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cloudvolume import CloudVolume

from beam_volumes.downsampling import downsample
from benchmarks.side_by_side import IGNEOUS, Contender, compare, make_neurons, volume_options

_CHUNK = (128, 128, 32)
_FACTOR = (2, 2, 1)
_VOXEL_BYTES = 8
_SLAB = 64

_Labels = npt.NDArray[Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Make the source, measure for each number of mips, compare what was written, print."""
    parser = volume_options("Compare pyramids, side by side.")
    parser.add_argument("--num_mips", type=int, nargs="+", default=[3, 5], help="coarser mips; measured for each")
    parser.add_argument("--in_turn", action="store_true", help="Igneous makes one mip in a command")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as folder:
        make_neurons(
            f"file://{folder}/source",
            options.size,
            f"--chunk_size={_joined(_CHUNK)}",
            f"--encoding={options.encoding}",
            f"--processes={options.processes}",
        )
        for num_mips in options.num_mips:
            contenders = [_ours(folder, num_mips, options), _igneous(folder, num_mips, options)]
            title = f"{num_mips} mips of {options.size} voxels, {options.processes} processes"
            compare(title, contenders, options.rounds)
            _check(f"{folder}/ours", num_mips, exactly=True)
            _check(f"{folder}/igneous", num_mips, exactly=False)


def _ours(folder: str, num_mips: int, options: argparse.Namespace) -> Contender:
    command = [
        sys.executable,
        "-m",
        "pipelines.downsample",
        f"--layer=file://{folder}/ours",
        "--mip=0",
        f"--num_mips={num_mips}",
        f"--factor={_joined(_FACTOR)}",
        f"--encoding={options.encoding}",
        f"--memory_target={options.memory_target}",
        f"--processes={options.processes}",
    ]
    return Contender("beam-volumes", command, lambda: _copy(folder, "ours"))


def _igneous(folder: str, num_mips: int, options: argparse.Namespace) -> Contender:
    size = [int(n) for n in options.size.split(",")]
    steps = [(mip, 1) for mip in range(num_mips)] if options.in_turn else [(0, num_mips)]
    memory = _memory_for_tasks(size, num_mips, options.processes, options.memory_target)
    commands = [
        f"{IGNEOUS} --parallel {options.processes} image downsample file://{folder}/igneous --sharded --mip {mip} "
        f"--num-mips {mips} --method mode --encoding {options.encoding} --memory {memory}"
        for mip, mips in steps
    ]
    return Contender("igneous", ["sh", "-ec", "\n".join(commands)], lambda: _copy(folder, "igneous"))


def _memory_for_tasks(size: Sequence[int], num_mips: int, tasks: int, most: int) -> int:
    """Return the bytes of voxels in a shard with which the coarsest mip has a shard for each task."""
    factors = (int(f**num_mips) for f in _FACTOR)
    chunks = math.prod(-(-n // (f * c)) for n, f, c in zip(size, factors, _CHUNK, strict=True))
    return min(most, max(1, chunks // tasks) * math.prod(_CHUNK) * _VOXEL_BYTES)


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _copy(folder: str, name: str) -> None:
    """Begin anew with mip 0 alone. Copied, not linked: info is written to."""
    shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
    shutil.copytree(f"{folder}/source", f"{folder}/{name}")


def _check(path: str, num_mips: int, exactly: bool) -> None:
    """Print for each mip the share of voxels that this project's mode of the mip below has too.

    Raises:
        RuntimeError: a mip has another shape, or a voxel that is not the most frequent label, or one of them; or, if
            `exactly`, not the one that this project takes.

    """
    mips = [CloudVolume(f"file://{path}", mip=mip, progress=False, bounded=True) for mip in range(num_mips + 1)]
    differing = np.zeros((num_mips, 2), np.int64)
    for start in range(0, int(mips[0].shape[2]), _SLAB):
        differing += list(_differing_voxels(mips, start))
    for mip, (labels, votes) in enumerate(differing, 1):
        share = 1 - labels / math.prod(mips[mip].shape)
        print(f"{path}, mip {mip}: {share:.3%} as this project's mode of the mip below")
        if votes or (exactly and labels):
            raise RuntimeError(
                f"{path}, mip {mip}: {labels} voxels differ from the mode of the mip below, {votes} lost"
            )


def _differing_voxels(mips: Sequence[CloudVolume], start: int) -> Iterator[tuple[int, int]]:
    """Yield for each coarser mip, in a slab in z: voxels of another label, and voxels of a less frequent label."""
    fine = _slab(mips[0], start)
    for volume in mips[1:]:
        expected, came = downsample(fine, (0, 0, start), _FACTOR, "mode"), _slab(volume, start)
        if came.shape != expected.shape:
            raise RuntimeError(f"{volume.cloudpath}: expected a mip of the shape {expected.shape}, came {came.shape}")
        lost = _votes(fine, came) < _votes(fine, expected)
        yield int(np.count_nonzero(came != expected)), int(np.count_nonzero(lost))
        fine = came


def _votes(fine: _Labels, coarse: _Labels) -> npt.NDArray[np.uint8]:
    """Return for each coarse voxel how many fine voxels below it have its label; XYZC."""
    votes = np.zeros(coarse.shape, np.uint8, order="F")
    for x, y, z in itertools.product(*map(range, _FACTOR)):
        part = fine[x :: _FACTOR[0], y :: _FACTOR[1], z :: _FACTOR[2]]
        covered = np.s_[: part.shape[0], : part.shape[1], : part.shape[2]]
        votes[covered] += part == coarse[covered]
    return votes


def _slab(volume: CloudVolume, start: int) -> _Labels:
    return np.asarray(volume[:, :, start : min(start + _SLAB, int(volume.shape[2]))])


if __name__ == "__main__":
    main()
