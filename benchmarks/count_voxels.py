"""Count voxels with this project and with Igneous, in turn, each on its own copy of the same volume.

    python -m benchmarks.count_voxels [--size=1024,1024,1024] [--rounds=3] [--processes=2] [--bounding_boxes]

The volume is a uint64 segmentation in shards, or in files of chunks with `--sharded=false`. Both count with the same
number of processes and write `stats/voxel_counts.im`. Igneous (`pip install -c constraints.txt '.[benchmark]'`) is a
command that counts its tasks, from its local queue and not one of files, which would start Python once more, and one
that adds them up. Its tasks are 512 x 512 x 512 voxels, which it has no option for. Afterwards both maps must be equal,
label by label.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence

from cloudfiles import CloudFiles
from cloudvolume import CloudVolume
from mapbuffer import IntMap

from benchmarks.side_by_side import IGNEOUS, Contender, compare, make_neurons, volume_options


def main(argv: Sequence[str] | None = None) -> None:
    """Make the source, measure, compare what was written, print."""
    parser = volume_options("Compare voxel counts, side by side.")
    parser.add_argument("--bounding_boxes", action="store_true", help="ours finds boxes too; Igneous has none")
    parser.add_argument("--sharded", choices=("true", "false"), default="true", help="how the volume is stored")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as folder:
        make_neurons(
            f"file://{folder}/source",
            options.size,
            "--chunk_size=128,128,32",
            f"--encoding={options.encoding}",
            f"--sharded={options.sharded}",
            f"--processes={options.processes}",
        )
        contenders = [_ours(folder, options), _igneous(folder, options)]
        compare(f"voxel counts of {options.size} voxels, {options.processes} processes", contenders, options.rounds)
        ours, theirs = (_counts(f"{folder}/{name}") for name in ("ours", "igneous"))
    if ours != theirs:
        differing = sum(ours.get(label) != theirs.get(label) for label in ours.keys() | theirs.keys())
        raise RuntimeError(f"the counts of {differing} labels differ")
    print(f"the counts of all {len(ours):,} labels, {sum(ours.values()):,} voxels, are equal")


def _ours(folder: str, options: argparse.Namespace) -> Contender:
    command = [
        sys.executable,
        "-m",
        "pipelines.count_voxels",
        f"--layer=file://{folder}/ours",
        f"--bounding_boxes={str(options.bounding_boxes).lower()}",
        f"--memory_target={options.memory_target}",
        f"--processes={options.processes}",
    ]
    return Contender("beam-volumes", command, lambda: _copy(folder, "ours"))


def _igneous(folder: str, options: argparse.Namespace) -> Contender:
    layer = f"file://{folder}/igneous"
    commands = [
        f"{IGNEOUS} --parallel {options.processes} image voxels count {layer} --mip 0",
        f"{IGNEOUS} image voxels sum {layer} --mip 0",
    ]
    return Contender("igneous", ["sh", "-ec", "\n".join(commands)], lambda: _copy(folder, "igneous"))


def _copy(folder: str, name: str) -> None:
    """Begin anew without counts. Copied, not linked: provenance is written to."""
    shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
    shutil.copytree(f"{folder}/source", f"{folder}/{name}")


def _counts(path: str) -> dict[int, int]:
    key = CloudVolume(f"file://{path}", progress=False).key
    # Igneous compresses its map.
    found = IntMap(CloudFiles(f"file://{path}/{key}/stats").get("voxel_counts.im"))
    return {int(label): int(count) for label, count in found.items()}


if __name__ == "__main__":
    main()
