"""The tables of a spatial index, as CloudVolume makes and reads them, and the SQL that differs between databases.

    index_files(id, filename)   the files, numbered from 1 in the order of the grid, x fastest
    file_lookup(label, fid)     which label is in which file, each pair once

Indexes: `pk_label_fid` on (label, fid), in MySQL the primary key; `fname` on fid; `idxfname` on filename; in MySQL fid
refers to id. Names, types and indexes are those of `SpatialIndex.to_sql`, see
https://github.com/seung-lab/cloud-volume/blob/master/cloudvolume/datasource/precomputed/spatial_index.py

While a load goes on there is a third table, `loaded_KEY(batch, files, missing, labels)`, where KEY is that of the
load's claim. Its row is written in one transaction with the rows of the batch that it tells of: so a batch is never
loaded twice, an interrupted load goes on where it stopped, and one that was replaced can write no more, because its
table is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

FILES_TABLE = "index_files"
LOOKUP_TABLE = "file_lookup"
TABLES = (LOOKUP_TABLE, FILES_TABLE)

_LOADED = "loaded_"


def loaded_table(key: str) -> str:
    """Return the table of the batches that the load with this key has loaded."""
    return f"{_LOADED}{key}"


def is_loaded_table(name: str) -> bool:
    """Whether a table is that of a load, this one or another."""
    return name.startswith(_LOADED)


class Index(NamedTuple):
    """An index or a constraint, made after the load: its name, and the statement that makes it."""

    name: str
    create: str


_FILENAME = Index("idxfname", "CREATE INDEX idxfname ON index_files (filename)")
_FID = Index("fname", "CREATE INDEX fname ON file_lookup (fid)")
_LABEL = Index("pk_label_fid", "CREATE UNIQUE INDEX pk_label_fid ON file_lookup (label, fid)")
_REFERENCE = Index(
    # The name that MariaDB gives it where a table is made with it; while rows are inserted it would need its index.
    "file_lookup_ibfk_1",
    "ALTER TABLE file_lookup ADD CONSTRAINT file_lookup_ibfk_1 FOREIGN KEY (fid) REFERENCES index_files (id)",
)


@dataclass(frozen=True)
class Dialect:
    """What differs between the databases.

    Attributes:
        place: stands for a value in a statement.
        create: makes the two tables.
        indexes: made after the load.
        afterwards: statements that follow the indexes.
        list_tables: yields the names of all tables.
        list_indexes: yields the names of all indexes and constraints.
        insert_file: (id, filename); once more changes nothing.
        insert_batch: of `loaded_table`; changes nothing where the batch is there.

    """

    place: str
    create: tuple[str, ...]
    indexes: tuple[Index, ...]
    afterwards: tuple[str, ...]
    list_tables: str
    list_indexes: str
    insert_file: str
    insert_batch: str

    def create_loaded(self, key: str) -> str:
        """Return the statement that makes the table of batches."""
        return (
            f"CREATE TABLE {loaded_table(key)} (batch BIGINT NOT NULL PRIMARY KEY, "
            "files BIGINT NOT NULL, missing BIGINT NOT NULL, labels BIGINT NOT NULL)"
        )


SQLITE = Dialect(
    place="?",
    create=(
        "CREATE TABLE IF NOT EXISTS index_files (id INTEGER PRIMARY KEY AUTOINCREMENT, filename VARCHAR(100) NOT NULL)",
        "CREATE TABLE IF NOT EXISTS file_lookup (label INTEGER NOT NULL, fid INTEGER NOT NULL)",
    ),
    indexes=(_LABEL, _FID, _FILENAME),
    afterwards=("ANALYZE file_lookup",),
    list_tables="SELECT name FROM sqlite_master WHERE type = 'table'",
    list_indexes="SELECT name FROM sqlite_master WHERE type = 'index'",
    insert_file=(
        "INSERT INTO index_files(id, filename) VALUES (?, ?) ON CONFLICT(id) DO UPDATE SET filename = excluded.filename"
    ),
    insert_batch="INSERT OR IGNORE INTO {} VALUES (?, ?, ?, ?)",
)

MYSQL = Dialect(
    place="%s",
    # The primary key is how InnoDB stores a table: made afterwards, all of it would be written once more.
    create=(
        "CREATE TABLE IF NOT EXISTS index_files (id BIGINT UNSIGNED PRIMARY KEY AUTO_INCREMENT, "
        "filename VARCHAR(100) NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE IF NOT EXISTS file_lookup (label BIGINT UNSIGNED NOT NULL, "
        "fid BIGINT UNSIGNED NOT NULL, PRIMARY KEY(label, fid)) ENGINE=InnoDB",
    ),
    indexes=(_FILENAME, _FID, _REFERENCE),
    afterwards=(),
    list_tables="SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
    list_indexes=(
        "SELECT index_name FROM information_schema.statistics WHERE table_schema = DATABASE() UNION "
        "SELECT constraint_name FROM information_schema.table_constraints WHERE table_schema = DATABASE()"
    ),
    insert_file=(
        "INSERT INTO index_files(id, filename) VALUES (%s, %s) ON DUPLICATE KEY UPDATE filename = VALUES(filename)"
    ),
    insert_batch="INSERT IGNORE INTO {} VALUES (%s, %s, %s, %s)",
)
