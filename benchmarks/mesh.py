"""Mesh a segmentation with this project and with Igneous, in turn, each on its own copy of the same volume.

    python -m benchmarks.mesh [--segmentation=FILE.ckl.gz] [--rounds=1] [--processes=2] [--skip_peer]

The segmentation is from a crackle file, or computed; it is stored in shards, as 16 x 16 x 40 nm. Both forge fragments
of 256 x 256 x 256 voxels with an index of where labels are, and merge them to multi-resolution meshes of up to three
levels of detail in shards, with the same number of processes. Then this project does all in one run, which is compared
with the sum of both steps of Igneous (`pip install -c constraints.txt '.[benchmark]'`). Its settings:

- Its local queue and not one of files, which would start Python once more.
- Dust is judged per task, its default, which takes no counts of the volume. Ours judges whole objects, and counts their
  voxels as a part of the run.
- Merging reads the files of the index, and no database is made of them, which takes longer than it saves.
- Cells of 64 x 64 x 64 voxels at least: at its default of 256 x 256 x 256 one object of the sample, of 2,159, gets a
  second level of detail, and none a third. With 64, 205 objects get two, and 42 of them three.
- All else by default.

Ours are told to leave about as many triangles as Igneous does, see `_FINEST` and `_COARSER`. All our objects
get all levels of detail, so that triangles are compared on the objects which have a level in both. Afterwards all
meshes are read by CloudVolume, see `mesh_quality`: triangles, open edges and errors are printed level by level.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import crackle
import numpy as np
import numpy.typing as npt
from cloudvolume import CloudVolume
from rich.console import Console
from rich.table import Table

from beam_volumes.testing.made import open_made
from benchmarks.mesh_quality import Judge, LevelQuality
from benchmarks.side_by_side import IGNEOUS, Contender, Measurement, measure, show
from pipelines import export

_RESOLUTION_NM = (16, 16, 40)
_DUST = 100
_LODS = 3
_TASK = "256,256,256"

# Of the sample Igneous makes 10.33 M triangles at its finest level, where marching cubes makes 92.9 M; of the objects
# with a coarser level 2.25 M, and 0.225 M of those with a third. Ours are told to have about as many of each.
_FINEST = "--simplification_factor=9.3"
_COARSER = "--lod_factor=2.3;4.8"

_IGNEOUS_CELL = "64,64,64"

_GOALS = {"forging": 8, "merging": 3, "the whole": 6}
"""How many times faster than Igneous this project is meant to be."""

Labels = npt.NDArray[Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Make the source, measure, compare what was written, print."""
    parser = argparse.ArgumentParser(description="Compare meshing, side by side.")
    parser.add_argument("--segmentation", help="a volume encoded with crackle, gzipped; by default neurons are made")
    parser.add_argument("--size", default="512,512,512", help="voxels of the volume that is made, x,y,z")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--skip_peer", action="store_true", help="measure this project alone")
    parser.add_argument("--folder", help="where to work; by default a temporary folder")
    options = parser.parse_args(argv)
    voxels = _read(options.segmentation) if options.segmentation else _make(options.size)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as folder:
        _store(voxels, folder)
        contenders = _contenders(folder, options.processes)
        steps = [name for name in contenders if not (options.skip_peer and name.startswith("igneous"))]
        runs: dict[str, list[Measurement]] = {name: [] for name in steps}
        for number in range(options.rounds):
            for name in steps:
                result = measure(contenders[name])
                runs[name].append(result)
                print(
                    f"{number + 1}/{options.rounds} {name}: wall {result.wall_seconds:.1f} s, "
                    f"CPU {result.cpu_seconds:.1f} s, all processes {result.peak_tree_bytes / 1e6:.0f} MB",
                    file=sys.stderr,
                )
        _show_times(runs, options)
        names = ["ours", "staged"] + ["igneous"] * (not options.skip_peer)
        judge = Judge(voxels, _RESOLUTION_NM, _DUST)
        _show_quality(names, judge.compare([f"file://{folder}/{name}" for name in names]))


def _contenders(folder: str, processes: int) -> dict[str, Contender]:
    """Return what is measured, in turn."""
    layer = f"file://{folder}/igneous"
    igneous = f"{IGNEOUS} --parallel {processes} mesh"
    forge = f"{igneous} forge {layer} --shape {_TASK} --dust-threshold {_DUST} --sharded --dir mesh"
    merge = f"{igneous} merge-sharded {layer} --nlod {_LODS - 1} --min-chunk-size {_IGNEOUS_CELL}"
    forging, lods = [f"--dust_threshold={_DUST}", f"--cell_size={_TASK}", _FINEST], [f"--num_lods={_LODS}", _COARSER]
    staged, ours = f"--layer=file://{folder}/staged", f"--layer=file://{folder}/ours"
    workers = f"--processes={processes}"
    return {
        "igneous: forging": Contender("igneous forge", forge.split(), lambda: _copy(folder, "igneous")),
        "beam-volumes: forging": _pipeline("forge_mesh", [staged, *forging, workers], lambda: _copy(folder, "staged")),
        "igneous: merging": Contender("igneous merge", merge.split(), lambda: None),
        "beam-volumes: merging": _pipeline("merge_mesh", [staged, *lods, workers], lambda: None),
        "beam-volumes: the whole": _pipeline("mesh", [ours, *forging, *lods, workers], lambda: _copy(folder, "ours")),
    }


def _pipeline(name: str, options: Sequence[str], prepare: Callable[[], None]) -> Contender:
    return Contender(f"beam-volumes {name}", [sys.executable, "-m", f"pipelines.{name}", *options], prepare)


def _show_times(runs: dict[str, list[Measurement]], options: argparse.Namespace) -> None:
    """Print the steps, and how many times faster ours are; Igneous' whole is the sum of its steps."""
    by_tool: dict[str, dict[str, list[Measurement]]] = {"beam-volumes": {}, "igneous": {}}
    for name, measured in runs.items():
        tool, step = name.split(": ")
        by_tool[tool][step] = measured
    ours, theirs = by_tool.values()
    if not options.skip_peer:
        theirs["the whole"] = list(map(_in_sequence, *theirs.values()))
    for step, goal in _GOALS.items():
        contenders = {"beam-volumes": ours[step]} | ({} if options.skip_peer else {"igneous": theirs[step]})
        show(f"{step}, {options.processes} processes", contenders)
        if theirs:
            walls = (t.wall_seconds / o.wall_seconds for o, t in zip(ours[step], theirs[step], strict=True))
            print(f"{step}: {statistics.median(walls):.1f} times faster, the goal is {goal}")


def _in_sequence(first: Measurement, then: Measurement) -> Measurement:
    """Return what two commands take, one after the other."""
    return Measurement(
        first.wall_seconds + then.wall_seconds,
        first.cpu_seconds + then.cpu_seconds,
        max(first.peak_process_bytes, then.peak_process_bytes),
        max(first.peak_tree_bytes, then.peak_tree_bytes),
    )


def _show_quality(names: Sequence[str], qualities: Sequence[list[LevelQuality]]) -> None:
    table = Table(title="levels of detail; errors of the largest objects and of some at random, nm, by area")
    for column in ("LOD", "", "objects", "triangles", "of those in all", "open edges", "mean", "99 %", "largest"):
        table.add_column(column, justify="right")
    for lod in range(max(map(len, qualities))):
        for name, levels in zip(names, qualities, strict=True):
            if lod < len(levels):
                level = levels[lod]
                counts = (level.objects, level.triangles, level.triangles_in_common, level.open_edges)
                errors = [f"{nm:.2f}" for nm in level.error or ()]
                table.add_row(str(lod), name, *(f"{count:,}" for count in counts), *errors)
        table.add_section()
    Console(width=120).print(table)


def _read(path: str) -> Labels:
    return np.asfortranarray(crackle.decompress(gzip.decompress(Path(path).read_bytes())))


def _make(size: str) -> Labels:
    volume = open_made(f"made://neurons?size={size}")
    return np.asfortranarray(volume.read(volume.box)[..., 0])


def _store(voxels: Labels, folder: str) -> None:
    """Write the segmentation in shards.

    Raises:
        RuntimeError: it could not be written.

    """
    plain = f"file://{folder}/plain"
    CloudVolume.from_numpy(
        voxels, plain, resolution=_RESOLUTION_NM, layer_type="segmentation", chunk_size=(128, 128, 64), progress=False
    )
    options = ["--encoding=compressed_segmentation", "--chunk_size=128,128,64"]
    if status := export.main([f"--src={plain}", f"--dst=file://{folder}/source", *options]):
        raise RuntimeError(f"the source could not be made: exit status {status}")


def _copy(folder: str, name: str) -> None:
    """Begin anew without meshes. Copied, not linked: info is written to."""
    shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
    shutil.copytree(f"{folder}/source", f"{folder}/{name}")


if __name__ == "__main__":
    main()
