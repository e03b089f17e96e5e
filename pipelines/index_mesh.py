"""Load the spatial index of a folder of meshes into a database: sqlite, MySQL, MariaDB or Cloud SQL.

python -m pipelines.index_mesh --layer=file:///tmp/neurons --db=sqlite:///tmp/index.db
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import apache_beam as beam

from beam_volumes.errors import OptionError
from beam_volumes.meshing.fragment_source import version_of
from beam_volumes.places import writable
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from beam_volumes.spatial_index import load, load_estimate
from beam_volumes.spatial_index.database import open_database
from beam_volumes.spatial_index.destination import IndexTables
from beam_volumes.spatial_index.files import default_folder, find_index_files
from beam_volumes.spatial_index.tables import loaded_batches
from beam_volumes.spatial_index.urls import DatabaseUrl, parse_database_url
from beam_volumes.storage import Folder
from pipelines.options import option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Running
from transforms.finish import Finish
from transforms.index_mesh import LoadIndexFiles
from transforms.pool import Execution
from transforms.regions import ListRegions


@dataclass(frozen=True, kw_only=True)
class Config(Running):
    """The options of a load."""

    layer: str = option("Precomputed segmentation that was meshed.", identity=False, placeholder="URL")
    mesh_dir: str | None = option(
        "Folder of the index files (*.spatial), below the layer; by default mesh_fragments where there is one, else "
        "the one that info names.",
        None,
        placeholder="FOLDER",
    )
    db: str = option(
        "Database to load: sqlite://FILE, mysql://USER:$NAME@HOST:PORT/DB or "
        "cloudsql://USER:$NAME@PROJECT:REGION:INSTANCE/DB, in single quotes; the environment variable NAME holds the "
        "password. Or ?secret=projects/P/secrets/S names a secret that does.",
        identity=False,
        placeholder="URL",
    )
    fill_missing: bool = option(
        "Load without index files that are missing; the report lists them.", False, identity=False
    )
    overwrite: bool = option("Replace the index that stands in the database.", False, identity=False)


def plan(config: Config, setting: Setting) -> Job:
    """Look at the index files and the database, and plan the load; writes nothing.

    Raises:
        VolumeError: an option does not fit the layer or the database.

    """
    database = parse_database_url(config.db)
    setting.check_reachable([("layer", config.layer)], None)
    url = writable("layer", config.layer)
    if not setting.local:
        _check_for_workers(database)
    mesh_dir = (config.mesh_dir or default_folder(url)).strip("/")
    files = find_index_files(url, mesh_dir)
    destination = IndexTables(url, mesh_dir, database)
    batches = load.Batches(files, load.FILES_PER_BATCH)
    facts = {
        "mesh_dir": mesh_dir,
        "database": str(database),
        "spatial_index": files.grid.info,
        "bounds": str(files.grid.tasks.bounds),
        "files_per_batch": batches.size,
        "version": version_of(url, mesh_dir, Folder(url).read_json(f"{mesh_dir}/info") or {}),
    }
    claim = inspect_destination(destination, facts, resume=config.resume, overwrite=config.overwrite)
    if claim.state != "complete":
        open_database(database).check_writable()
    load.check_holes(claim, fill_missing=config.fill_missing)
    is_resumed = claim.state == "resumed"
    loaded = loaded_batches(open_database(database), claim.key) if is_resumed else frozenset[int]()
    work = load.LoadPlan(claim, batches, database, loaded, config.fill_missing, Launch.here())
    return Job(
        claim=claim,
        summary=partial(load_estimate.summary, work),
        stages={"files": sum(len(batches.tasks(n)) for n in batches.regions if work.needs_region(n))},
        build=partial(build, work),
        settle=partial(load.settle, work),
        processes=setting.workers or 1,
        modules=("beam_volumes.spatial_index.load",),
    )


def build(plan: load.LoadPlan, root: beam.Pipeline, execution: Execution) -> None:
    """Wire the load: batches of files become rows, and then all of it is indexed and proved."""
    batches = root | "List batches" >> ListRegions(plan)
    statistics = batches | "Load index files" >> LoadIndexFiles(plan, execution)
    _ = root | "Finish" >> Finish(partial(load.finish_load, plan), statistics, load.merge_statistics)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


def _check_for_workers(database: DatabaseUrl) -> None:
    """Refuse what only this machine has, for a job whose workers are others."""
    if database.scheme == "sqlite" or "socket" in database.parameters:
        raise OptionError(
            f"--db: expected a server that every worker of --runner reaches, came {database}, which is on this "
            "machine: name a server, or run here, without --runner"
        )
    database.password.check_for_workers()


if __name__ == "__main__":
    sys.exit(main())
