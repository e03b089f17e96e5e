"""Loads of a spatial index by the command: the same tables whatever disturbs it, and no password anywhere."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beam_volumes.errors import OptionError
from beam_volumes.spatial_index import load
from beam_volumes.spatial_index.database import Cursor, Database, open_database
from beam_volumes.spatial_index.files import IndexFiles
from beam_volumes.spatial_index.queries import SpatialIndex
from beam_volumes.spatial_index.tables import tables_in
from beam_volumes.spatial_index.urls import parse_database_url
from beam_volumes.testing.mariadb_server import MariaDbServer
from pipelines.index_mesh import Config, main, plan
from pipelines.running import Setting
from tests.beam_volumes.spatial_index.made_index import make_index
from tests.pipelines.conftest import check_holes_are_accepted_each_time, only_error, rows_of, started, tree, wait_until

PASSWORD = "INDEX_PASSWORD"


@pytest.fixture
def files(tmp_path: Path) -> IndexFiles:
    return make_index(tmp_path / "layer")


@pytest.fixture
def layer(files: IndexFiles) -> Path:
    return Path(files.url.removeprefix("file://")).parent


@pytest.fixture(params=["sqlite", "mysql"])
def db(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database that is not there yet."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/index.db"
    server: MariaDbServer = request.getfixturevalue("mariadb")
    monkeypatch.setenv(PASSWORD, server.password)
    return url_of(server, tmp_path.name)


def url_of(server: MariaDbServer, name: str) -> str:
    return f"mysql://{server.user}:${PASSWORD}@{server.host}:{server.port}/{name[-60:]}"


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "FILES_PER_BATCH", 4)


def run(layer: Path, db: str, *options: str, processes: int = 1) -> int:
    return main([f"--layer=file://{layer}", "--mesh_dir=mesh", f"--db={db}", f"--processes={processes}", *options])


def content(db: str) -> list[list[tuple[Any, ...]]]:
    database = open_database(parse_database_url(db))
    return [ask(database, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("index_files", "file_lookup")]


def ask(database: Database, statement: str) -> list[tuple[Any, ...]]:
    def work(cursor: Cursor) -> list[tuple[Any, ...]]:
        cursor.execute(statement)
        return list(cursor.fetchall())

    return database.read(work)


def expected(files: IndexFiles) -> list[list[tuple[Any, ...]]]:
    names = [(task + 1, files.grid.name(task)) for task in range(len(files))]
    lookups = SpatialIndex(files).files_of_labels().items()
    return [names, sorted((label, files.grid.task_of(name) + 1) for label, held in lookups for name in held)]


def report(layer: Path) -> dict[str, Any]:
    (path,) = layer.glob("mesh.index_*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("processes", [1, 2])
def test_the_tables_are_those_of_the_files(files: IndexFiles, layer: Path, db: str, processes: int) -> None:
    assert run(layer, db, processes=processes) == 0
    assert content(db) == expected(files)
    assert tables_in(open_database(parse_database_url(db))) == {"index_files", "file_lookup"}
    done = report(layer)
    rows = len(expected(files)[1])
    assert done["rows"] == {"index_files": 30, "file_lookup": rows}
    assert {name: done["stages"]["files"][name] for name in ("planned", "read", "missing")} == {
        "planned": 30,
        "read": 30,
        "missing": 0,
    }
    assert done["stages"]["rows"]["read"] == done["stages"]["rows"]["written"] == rows
    assert sorted(path.name for path in layer.iterdir()) == ["info", "mesh", next(layer.glob("mesh.index_*")).name]


def test_twice_makes_the_same_tables(layer: Path, db: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(layer, db) == 0
    first = content(db)
    assert run(layer, db) == 0
    out, err = capsys.readouterr()
    assert "nothing to do" in err
    assert out.endswith(f"\n{parse_database_url(db)} is complete\n")
    assert content(db) == first
    assert run(layer, db, "--overwrite") == 0
    assert content(db) == first


def test_tables_that_have_changed_since_are_noticed(
    layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = f"sqlite://{tmp_path}/index.db"
    assert run(layer, db) == 0
    with sqlite3.connect(tmp_path / "index.db") as connection:
        connection.execute("DELETE FROM file_lookup WHERE fid = 1")
    connection.close()
    capsys.readouterr()
    assert run(layer, db) == 1
    assert "expected the rows that" in only_error(capsys.readouterr().err)
    assert run(layer, db, "--overwrite") == 0
    (tmp_path / "index.db").unlink()
    capsys.readouterr()
    assert run(layer, db) == 2
    assert "file_lookup, index_files is gone" in only_error(capsys.readouterr().err)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("step", ["write_files", "make_indexes", "finish", "end_load", "remove_records"])
def test_a_load_that_stops_anywhere_goes_on(
    files: IndexFiles, layer: Path, db: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = getattr(load, step)
    calls = []

    def stop(*args: Any) -> Any:
        calls.append(step)
        if len(calls) > (3 if step == "write_files" else 0):
            raise OptionError("stopped here")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(load, step, stop)
        if step == "write_files":
            patch.setattr("transforms.index_mesh.write_files", stop)
        assert run(layer, db) == 1
    assert calls
    assert run(layer, db) == 0
    assert content(db) == expected(files)
    assert tables_in(open_database(parse_database_url(db))) == {"index_files", "file_lookup"}
    taken = report(layer)["stages"]["taken up from an interrupted run"]["batches"]
    assert taken == (3 if step == "write_files" else 8 if step in ("make_indexes", "finish") else 0)


_SLOW = """
import sys, time
from beam_volumes.spatial_index import load, tables
from pipelines.index_mesh import main
real = tables.load_batch
def slow(*args):
    done = real(*args)
    time.sleep(0.2)
    return done
load.load_batch = slow
load.FILES_PER_BATCH = 2
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_load_goes_on_and_makes_the_same_tables(
    files: IndexFiles, layer: Path, db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "FILES_PER_BATCH", 2)
    command = [sys.executable, "-c", _SLOW, f"--layer=file://{layer}", "--mesh_dir=mesh", f"--db={db}", "--processes=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    database = open_database(parse_database_url(db))

    def rows() -> int:
        if "index_files" not in tables_in(database):
            return 0
        return int(ask(database, "SELECT COUNT(*) FROM index_files")[0][0])

    try:
        wait_until(lambda: rows() >= 6)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # A server notices a moment later that nobody is there any more.
    time.sleep(0.2)
    assert 6 <= rows() < 30
    assert run(layer, db) == 0
    assert content(db) == expected(files)
    assert report(layer)["stages"]["taken up from an interrupted run"]["batches"] >= 3


def test_a_missing_file_is_named_unless_accepted(
    files: IndexFiles, layer: Path, db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = files.grid.name(11)
    (layer / f"mesh/{name}.gz").unlink()
    assert run(layer, db) == 1
    assert f"mesh/{name}: expected the index file of a task, but it is missing" in only_error(capsys.readouterr().err)
    assert run(layer, db, "--fill_missing") == 0
    done = report(layer)
    assert done["holes"] == [name]
    assert done["stages"]["files"]["missing"] == 1
    # As CloudVolume does, the file is in the table of files.
    assert content(db)[0] == [(task + 1, files.grid.name(task)) for task in range(30)]
    assert not [row for row in content(db)[1] if row[1] == 12]
    check_holes_are_accepted_each_time(lambda *options: run(layer, db, *options), capsys)


def test_a_plan_writes_nothing(layer: Path, db: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [path.stat().st_size for path in (layer / "mesh").glob("*.spatial.gz")]
    # Files of other boxes are none of the index.
    for n in range(len(sizes)):
        (layer / "mesh" / f"{n}-7_0-7_0-7.spatial.gz").write_bytes(b"")
    before = tree(layer.parent)
    assert run(layer, db, "--plan") == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["index files"] == f"30 in file://{layer}/mesh"
    assert rows["files that are there"] == f"30 of {sum(sizes):,} bytes"
    assert rows["box of a file"] == "64 x 64 x 64 voxels, 1024 x 1024 x 2560 nm"
    assert rows["batches"] == "2 of 16 files, 0 loaded before"
    assert tree(layer.parent) == before
    assert tables_in(open_database(parse_database_url(db))) == set()


def test_the_plan_foretells_what_is_written(
    files: IndexFiles, layer: Path, db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(layer, db, "--plan") == 0
    rows = rows_of(capsys.readouterr().out)
    assert run(layer, db) == 0
    assert 0.8 < int(rows["rows of labels, estimated"].replace(",", "")) / report(layer)["rows"]["file_lookup"] < 1.25
    assert 400_000_000 < int(rows["memory per worker, bytes, estimated"].replace(",", "")) < 401_000_000
    if db.startswith("sqlite"):
        size = (tmp_path / "index.db").stat().st_size
        assert 0.5 < int(rows["bytes to write, estimated"].replace(",", "")) / size < 5
        assert float(rows["CPU hours, estimated"]) * 3600 < 10
    else:
        assert float(rows["CPU hours without those of the server, estimated"]) * 3600 < 10


def test_the_plan_of_no_files_takes_nothing(layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (layer / "mesh").glob("*.spatial.gz"):
        path.unlink()
    assert run(layer, f"sqlite://{tmp_path}/index.db", "--plan") == 0
    rows = rows_of(capsys.readouterr().out)
    assert (rows["index files"].split()[0], rows["files that are there"]) == ("30", "0 of 0 bytes")
    assert (rows["rows of labels, estimated"], rows["CPU hours, estimated"]) == ("0", "0.0000")


def test_an_index_of_another_program_is_kept_unless_told(
    files: IndexFiles, layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(tmp_path / "index.db") as connection:
        connection.execute("CREATE TABLE index_files (id INTEGER)")
    connection.close()
    db = f"sqlite://{tmp_path}/index.db"
    assert run(layer, db) == 2
    told = only_error(capsys.readouterr().err)
    assert "expected no index in sqlite://" in told
    assert "came index_files" in told
    assert run(layer, db, "--overwrite") == 0
    assert content(db) == expected(files)


def test_two_databases_have_each_their_report(files: IndexFiles, layer: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(layer, f"sqlite://{tmp_path}/{name}.db") == 0
        assert content(f"sqlite://{tmp_path}/{name}.db") == expected(files)
    assert len(list(layer.glob("mesh.index_sqlite-*.json"))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--db=index.db"], "--db: expected sqlite://index.db"),
        (["--db=mysql://me:hunter2@host/db"], "a password does not belong on a command line"),
        (
            ["--db=mysql://me:hunter2@host/db", "--db=mysql://me:$P@host/db"],
            "--db: expected one value, came (not shown",
        ),
        (["mysql://me:hunter2@host/db"], "expected options written as --name=value, came (not shown"),
        (["--db=mysql://me:$NO_SUCH_VARIABLE@127.0.0.1/db"], "environment variable NO_SUCH_VARIABLE, which is not set"),
        (["--db=sqlite://x.db", "--mesh_dir=other"], "--mesh_dir: expected a folder of meshes with a spatial index"),
        (["--db=sqlite://x.db", "--layer=file:///no/such"], "--layer: expected a Precomputed volume"),
        ([], "expected also --db=URL"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    layer: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--mesh_dir=mesh"] * (not any(o.startswith("--mesh_dir") for o in options))
    named += [] if any(o.startswith("--layer") for o in options) else [f"--layer=file://{layer}"]
    before = tree(layer)
    assert main([*named, *options]) == 2
    told = capsys.readouterr()
    assert message in only_error(told.err)
    assert "hunter2" not in told.err + told.out
    assert tree(layer) == before


def test_a_database_that_cannot_be_is_refused_before_anything_is_written(
    layer: Path,
    tmp_path: Path,
    mariadb: MariaDbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(PASSWORD, mariadb.password)
    others = f"others_{tmp_path.name}"[-60:]
    mariadb.ask(f"CREATE USER reader IDENTIFIED BY '{mariadb.password}'", f"CREATE DATABASE {others}")
    mariadb.ask(f"GRANT SELECT ON {others}.* TO reader")
    server = f"mysql://reader:${PASSWORD}@{mariadb.host}:{mariadb.port}"
    before = tree(layer.parent)
    for db, message in (
        (
            f"sqlite://{tmp_path}/nowhere/index.db",
            f"in a folder that is there, but there is no {tmp_path}/nowhere: correct",
        ),
        (
            f"{server}/mistyped",
            "may not, or it is not there: correct the name mistyped, name another user, or let this",
        ),
        (
            f"{server}/{others}",
            f"the server says that it may not: correct the name {others}, name another user, or let",
        ),
    ):
        assert run(layer, db) == 2
        assert message in only_error(capsys.readouterr().err)
        assert tree(layer.parent) == before
    assert "mistyped" not in {name for (name,) in mariadb.ask("SHOW DATABASES")}
    assert mariadb.ask(f"SHOW TABLES IN {others}") == []


def test_a_sqlite_file_that_cannot_be_written_is_refused(
    layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.db").touch()
    before = tree(layer)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "index.db")
    assert run(layer, f"sqlite://{tmp_path}/index.db") == 2
    assert f"no right to write {tmp_path}/index.db: see to the file" in only_error(capsys.readouterr().err)
    assert tree(layer) == before


@pytest.mark.parametrize(
    ("db", "message"),
    [
        ("sqlite:///tmp/index.db", "expected a server that every worker of --runner reaches"),
        ("mysql:///db?socket=/s", "expected a server that every worker"),
        ("mysql://me:$PASS@host/db", "expected a secret that every worker of --runner can read"),
    ],
)
def test_what_workers_cannot_reach_is_refused(db: str, message: str) -> None:
    config = Config(layer="gs://bucket/seg", db=db)
    with pytest.raises(OptionError, match=message):
        plan(config, Setting(local=False, workers=4, inline_bytes=0))


def test_a_password_is_nowhere(layer: Path, mariadb: MariaDbServer, tmp_path: Path) -> None:
    url = url_of(mariadb, f"nowhere_{tmp_path.name}")
    wrong = "hunter2-is-no-password"
    shown = ""
    for password, status in ((wrong, 2), (mariadb.password, 0), (mariadb.password, 0)):
        environment = {**os.environ, PASSWORD: password}
        options = [f"--layer=file://{layer}", "--mesh_dir=mesh", f"--db={url}", "--processes=2"]
        with started("index_mesh", *options, env=environment) as process:
            shown += "".join(process.communicate(timeout=60))
            assert process.returncode == status, shown
    assert "Access denied for user 'loader'" in shown
    assert "is complete" in shown
    for secret in (wrong, mariadb.password):
        assert secret not in shown
        assert not [path for path in layer.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert f"${PASSWORD}" not in json.dumps(report(layer))
