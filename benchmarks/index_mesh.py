"""Load a spatial index with this project and with CloudVolume, in turn, into sqlite and MariaDB.

    python -m benchmarks.index_mesh [--files=512] [--labels=10000] [--databases=sqlite,mysql] [--rounds=3]

The index is made up: files of tasks, and in each so many labels, drawn from 64-bit numbers as root ids are. CloudVolume
loads it with `SpatialIndex.to_sql`, into MariaDB with as many threads as we have processes. The server (Debian's
`mariadb-server`) is started here, with default settings. Afterwards the tables of both must be equal, row by row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from beam_volumes.destinations import write_json
from beam_volumes.geometry import Box
from beam_volumes.spatial_index.database import Cursor, open_database
from beam_volumes.spatial_index.files import IndexFiles, IndexGrid, LabelBoxes
from beam_volumes.spatial_index.tables import drop_tables
from beam_volumes.spatial_index.urls import DatabaseUrl, parse_database_url
from beam_volumes.storage import Folder
from beam_volumes.testing.mariadb_server import MariaDbServer, running_server
from benchmarks.side_by_side import Contender, compare

_TASK = 256
_PASSWORD = "INDEX_PASSWORD"
_THEIRS = """
import sys
from cloudvolume import CloudVolume
layer, database, parallel = sys.argv[1:]
index = CloudVolume(layer, progress=False).mesh.spatial_index
index.to_sql(database, progress=False, parallel=int(parallel))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the index, measure, compare what was written, print."""
    parser = argparse.ArgumentParser(description="Compare loads of a spatial index, side by side.")
    parser.add_argument("--files", type=int, default=512)
    parser.add_argument("--labels", type=int, default=10_000, help="in each file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--databases", default="sqlite,mysql")
    parser.add_argument("--folder", help="where to work; by default a temporary folder")
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder))
        make_index(f"file://{folder}/layer", options.files, options.labels)
        for kind in options.databases.split(","):
            server = stack.enter_context(running_server()) if kind == "mysql" else None
            _measure(folder, kind, server, options)


def make_index(layer: str, files: int, labels: int) -> None:
    """Write a volume without voxels, and a mesh folder with index files."""
    bounds = Box.of_shape((_TASK * files, _TASK, _TASK))
    scale = {"key": "8_8_8", "size": bounds.shape, "voxel_offset": [0, 0, 0], "resolution": [8, 8, 8]}
    scale |= {"chunk_sizes": [[64, 64, 64]], "encoding": "raw"}
    info = {"type": "segmentation", "data_type": "uint64", "num_channels": 1, "mesh": "mesh", "scales": [scale]}
    write_json(Folder(layer), "info", info)
    grid = IndexGrid.of_shape(bounds, (_TASK, _TASK, _TASK), [8, 8, 8])
    write_json(Folder(layer), "mesh/info", {"@type": "neuroglancer_legacy_mesh", "mip": 0, "spatial_index": grid.info})
    index, rng = IndexFiles(f"{layer}/mesh", grid), np.random.default_rng(0)
    objects = rng.integers(2**56, 2**63, files * labels // 2, np.uint64)
    for task in range(files):
        found = np.unique(rng.choice(objects, labels))
        starts = rng.integers(0, 8 * _TASK, (len(found), 3))
        starts[:, 0] += 8 * _TASK * task
        index.write(task, LabelBoxes(found, np.concatenate([starts, starts + 100], axis=1)))


def _measure(folder: str, kind: str, server: MariaDbServer | None, options: argparse.Namespace) -> None:
    ours, theirs = (_url(folder, server, name) for name in ("ours", "theirs"))
    in_full = theirs.replace(f"${_PASSWORD}", server.password) if server else theirs
    os.environ[_PASSWORD] = server.password if server else ""
    layer = f"file://{folder}/layer"
    command = [
        "-m",
        "pipelines.index_mesh",
        f"--layer={layer}",
        "--mesh_dir=mesh",
        f"--db={ours}",
        f"--processes={options.processes}",
    ]
    parallel = str(options.processes if server else 1)
    contenders = [
        Contender("beam-volumes", [sys.executable, *command], _cleared(folder, ours)),
        Contender("CloudVolume", [sys.executable, "-c", _THEIRS, layer, in_full, parallel], _cleared(folder, theirs)),
    ]
    runs = compare(f"{kind}: index of {options.files} files", contenders, options.rounds)
    found = {name: _rows(parse_database_url(url)) for name, url in (("ours", ours), ("theirs", theirs))}
    if found["ours"] != found["theirs"]:
        raise RuntimeError(f"{kind}: the tables differ")
    rows = len(found["ours"])
    speeds = [rows / statistics.median(run.wall_seconds for run in runs[c.name]) for c in contenders]
    print(f"{kind}: all {rows:,} rows are equal; ours {speeds[0]:,.0f} rows a second, CloudVolume's {speeds[1]:,.0f}")


def _url(folder: str, server: MariaDbServer | None, name: str) -> str:
    if server is None:
        return f"sqlite://{folder}/{name}.db"
    return f"mysql://{server.user}:${_PASSWORD}@{server.host}:{server.port}/{name}?tls=off"


def _cleared(folder: str, url: str) -> Callable[[], None]:
    """Return what removes the tables, and the report that tells of them."""

    def clear() -> None:
        drop_tables(open_database(parse_database_url(url)))
        for report in Path(folder, "layer").glob("mesh.index_*.json"):
            report.unlink()

    return clear


def _rows(url: DatabaseUrl) -> list[tuple[int, str]]:
    """Return the labels and the names of the files that have them."""
    database = open_database(url)

    def work(cursor: Cursor) -> list[tuple[int, str]]:
        cursor.execute("SELECT label, filename FROM file_lookup JOIN index_files ON fid = id")
        return sorted((int(label), str(name)) for label, name in cursor.fetchall())

    return database.read(work)


if __name__ == "__main__":
    main()
