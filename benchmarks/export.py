"""Export a tiled volume with this project and with Igneous, in turn, on the same source.

    python -m benchmarks.export [--size=1024,1024,1024] [--rounds=3] [--processes=2] [--encoding=...]

Both write sharded volumes of the same chunks and encoding with the same number of processes. Igneous
(`pip install -c constraints.txt '.[benchmark]'`) is one command that makes tasks and one that runs them. After the
measurements both results are compared with the source, region by region.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
from cloudvolume import CloudVolume

from benchmarks.side_by_side import IGNEOUS, Contender, compare, make_neurons, volume_options
from pipelines import export


def main(argv: Sequence[str] | None = None) -> None:
    """Make the source, measure, compare what was written, print."""
    options = volume_options("Compare exports, side by side.").parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as folder:
        source = f"file://{folder}/source"
        # Unsharded, as labs have them.
        make_neurons(source, options.size, "--chunk_size=128,128,64", "--sharded=false")
        contenders = [_ours(folder, source, options), _igneous(folder, source, options)]
        compare(f"export of {options.size} voxels, {options.processes} processes", contenders, options.rounds)
        _print_share_of_beam(contenders[0])
        for name in ("ours", "igneous"):
            _check_equal(source, f"file://{folder}/{name}")
    print("every voxel of both results equals the source")


def _ours(folder: str, source: str, options: argparse.Namespace) -> Contender:
    command = [
        sys.executable,
        "-m",
        "pipelines.export",
        f"--src={source}",
        f"--dst=file://{folder}/ours",
        "--chunk_size=128,128,32",
        f"--encoding={options.encoding}",
        f"--memory_target={options.memory_target}",
        f"--processes={options.processes}",
    ]
    return Contender("beam-volumes", command, lambda: shutil.rmtree(f"{folder}/ours", ignore_errors=True))


def _igneous(folder: str, source: str, options: argparse.Namespace) -> Contender:
    make = (
        f"{IGNEOUS} image xfer {source} file://{folder}/igneous --queue {folder}/queue --sharded --clean-info "
        f"--chunk-size 128,128,32 --encoding {options.encoding} --memory {options.memory_target} --no-src-update"
    )
    work = f"{IGNEOUS} --parallel {options.processes} execute --exit-on-empty --quiet {folder}/queue"

    def clear() -> None:
        for name in ("igneous", "queue"):
            shutil.rmtree(f"{folder}/{name}", ignore_errors=True)

    return Contender("igneous", ["sh", "-ec", f"{make}\n{work}"], clear)


def _print_share_of_beam(contender: Contender) -> None:
    """Run once more in this process, whose own CPU is then all Beam's: volumes are handled in its children."""
    contender.prepare()
    before = os.times()
    status = export.main(contender.command[3:])
    after = os.times()
    if status:
        raise RuntimeError(f"exit status {status}")
    own = after.user + after.system - before.user - before.system
    children = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"Beam's share of the CPU: {own:.2f} s of {own + children:.2f} s, {own / (own + children):.1%}")


def _check_equal(source: str, result: str) -> None:
    expected, came = (CloudVolume(url, progress=False, bounded=True) for url in (source, result))
    step = 256
    for z in range(0, int(expected.shape[2]), step):
        part = np.s_[:, :, z : min(z + step, int(expected.shape[2]))]
        if not np.array_equal(np.asarray(expected[part]), np.asarray(came[part])):
            raise RuntimeError(f"{result} differs from its source")


if __name__ == "__main__":
    main()
