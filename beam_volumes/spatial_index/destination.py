"""The database of an index as the destination of a run; see `beam_volumes.destinations`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from beam_volumes.destinations import CLAIM, RECORDS
from beam_volumes.errors import DestinationError
from beam_volumes.precomputed.info import Json
from beam_volumes.spatial_index.database import open_database
from beam_volumes.spatial_index.schema import TABLES, is_loaded_table
from beam_volumes.spatial_index.tables import begin_load, drop_tables, tables_in
from beam_volumes.spatial_index.urls import DatabaseUrl
from beam_volumes.storage import Folder


@dataclass(frozen=True)
class IndexTables:
    """The tables of an index in a database.

    Into the volume go only the records of the run, while it goes on, and its report, beside the folder of meshes: of
    one run at a time for each database.

    Attributes:
        url: the volume.
        mesh_dir: the folder of the index files, below the volume.
        database: where the tables are.

    """

    url: str
    mesh_dir: str
    database: DatabaseUrl

    task: ClassVar[str] = "index_mesh"
    option: ClassVar[str] = "db"
    advice: ClassVar[str] = "name another database, or replace the index with --overwrite"

    @property
    def place(self) -> str:
        """The database."""
        return str(self.database)

    @property
    def folders(self) -> list[str]:
        """None: the tables are elsewhere."""
        return []

    @property
    def records(self) -> str:
        """Of one run at a time for each folder and database."""
        return f"{RECORDS}/{self.task}-{self.mesh_dir.replace('/', '-')}-{self.database.key}"

    @property
    def report(self) -> str:
        """Beside the folder of meshes."""
        return f"{self.mesh_dir}.index_{self.database.key}.json"

    def check(self) -> None:
        """Refuse a database that cannot be reached."""
        open_database(self.database).exists()

    def obstacle(self, *, own: bool) -> str | None:
        """Look for an index."""
        found = [] if own else sorted(tables_in(open_database(self.database)))
        if not found:
            return None
        return f"expected no index in {self.database}, came {', '.join(found)}, which no report in {self.url} tells of"

    def lacking(self) -> str | None:
        """Look for the tables."""
        missing = sorted({*TABLES} - tables_in(open_database(self.database)))
        if not missing:
            return None
        return f"expected an index in {self.database}, as {self.report} says, but {', '.join(missing)} is gone"

    def mismatch(self, version: str) -> str | None:
        """Return how the index differs from one of all files of the folder, whose version is given.

        None where it is such a one; "" where nothing tells, as of an index that another tool has made.
        """
        if any(is_loaded_table(name) for name in tables_in(open_database(self.database))):
            return "one whose load is not finished"
        report = Folder(self.url).read_json(self.report)
        if report is None:
            return ""
        if (was := report.get("identity", {}).get("version")) != version:
            return f"one of another run (version was {was}, now {version})"
        holes = report.get("holes", ())
        return f"one that was loaded without index files that were missing ({len(holes):,})" if holes else None

    def standing(self) -> list[str]:
        """None."""
        return []

    def clear(self, folders: Sequence[str]) -> None:
        """Remove the tables, and the records of the run that is replaced."""
        drop_tables(open_database(self.database))
        Folder(self.url).delete_folder(self.records)

    def begin(self, *, replaced: bool) -> None:
        """Make the tables."""
        database = open_database(self.database)
        if replaced:
            drop_tables(database)
        # The claim has just been taken; its key is the load's.
        claim = Folder(self.url).read_json(f"{self.records}/{CLAIM}")
        if claim is None:
            raise DestinationError(
                f"{self.url}: expected this run's claim on {self.database}, but it is gone: give the same command again"
            )
        begin_load(database, claim["key"])

    def commit(self, provenance: Json) -> None:
        """Leave all: the tables are complete, and the report says the rest."""

    def retract(self) -> None:
        """Leave all: a run that has the claim begins with tables of its own."""
