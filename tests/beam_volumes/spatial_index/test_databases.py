"""Databases of an index, sqlite and a real MariaDB: loads, questions, and CloudVolume's view of the same tables."""

import os
import re
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume.lib import Bbox

from beam_volumes.errors import CorruptDataError, DestinationError, OptionError, SourceError
from beam_volumes.spatial_index import mysql, tables
from beam_volumes.spatial_index.database import Cursor, Database, DatabaseError, open_database
from beam_volumes.spatial_index.files import IndexFiles, LabelBoxes, decode_labels
from beam_volumes.spatial_index.queries import SpatialIndex
from beam_volumes.spatial_index.tables import Batch, IndexFile, begin_load, load_batch, make_indexes
from beam_volumes.spatial_index.urls import DatabaseUrl, parse_database_url
from beam_volumes.testing.mariadb_server import MariaDbServer
from tests.beam_volumes.spatial_index.made_index import FIRST, cloudvolume_index, make_index

Connect = Callable[[str], tuple[DatabaseUrl, str]]
"""Returns a database of this name: its URL, and the one that CloudVolume takes."""


@pytest.fixture(params=["sqlite", "mysql"])
def connect(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    if request.param == "sqlite":
        return lambda name: (parse_database_url(f"sqlite://{tmp_path}/{name}.db"), f"sqlite://{tmp_path}/{name}.db")
    server: MariaDbServer = request.getfixturevalue("mariadb")
    monkeypatch.setenv("INDEX_PASSWORD", server.password)

    def give(name: str) -> tuple[DatabaseUrl, str]:
        database = f"{name}_{tmp_path.name}"[-64:]
        text = f"mysql://{server.user}:$INDEX_PASSWORD@{server.host}:{server.port}/{database}"
        return parse_database_url(text), text.replace("$INDEX_PASSWORD", server.password)

    return give


@pytest.fixture
def files(tmp_path: Path) -> IndexFiles:
    return make_index(tmp_path / "layer")


def batch_of(files: IndexFiles, number: int, tasks: range) -> Batch:
    contents = zip(tasks, files.read(tasks), strict=True)
    read = [IndexFile(t + 1, files.grid.name(t), decode_labels(data or b"{}", "a file")) for t, data in contents]
    return Batch(number, read, 0)


def load(url: DatabaseUrl, files: IndexFiles) -> Database:
    database = open_database(url)
    begin_load(database, "a1")
    for number, start in enumerate(range(0, len(files), 7)):
        assert load_batch(database, "a1", batch_of(files, number, range(start, min(start + 7, len(files)))))
    make_indexes(database)
    tables.end_load(database, "a1")
    return database


def ask(database: Database, statement: str) -> list[tuple[Any, ...]]:
    def work(cursor: Cursor) -> list[tuple[Any, ...]]:
        cursor.execute(statement)
        return list(cursor.fetchall())

    return database.read(work)


def content(database: Database) -> list[list[tuple[Any, ...]]]:
    return [ask(database, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("index_files", "file_lookup")]


def pairs(database: Database) -> list[tuple[Any, ...]]:
    return ask(database, "SELECT label, filename FROM file_lookup JOIN index_files ON fid = id ORDER BY 1, 2")


def structure(database: Database) -> list[str]:
    """Return how tables and indexes were made, in one form."""
    if database.url.scheme == "sqlite":
        found = [row[0] for row in ask(database, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")]
        # CloudVolume breaks lines where it likes.
        return [re.sub(r"\s*([(),])\s*", r"\1", " ".join(str(text).split())) for text in found]
    found = [ask(database, f"SHOW CREATE TABLE {table}")[0][1] for table in ("index_files", "file_lookup")]
    return [re.sub(r" AUTO_INCREMENT=\d+", "", text) for text in found]


def test_tables_are_those_that_cloudvolume_makes(connect: Connect, files: IndexFiles) -> None:
    (ours, _), (theirs, text) = connect("ours"), connect("theirs")
    load(ours, files)
    cloudvolume_index(files).to_sql(text, progress=False)
    assert structure(open_database(ours)) == structure(open_database(theirs))
    # CloudVolume numbers files as they come from its threads.
    assert pairs(open_database(ours)) == pairs(open_database(theirs))
    assert len(pairs(open_database(ours))) > 400


def test_a_database_may_be_called_as_a_word_of_sql(
    mariadb: MariaDbServer, files: IndexFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INDEX_PASSWORD", mariadb.password)
    text = f"mysql://{mariadb.user}:$INDEX_PASSWORD@{mariadb.host}:{mariadb.port}/index"
    url = parse_database_url(text)
    mariadb.ask("DROP DATABASE IF EXISTS `index`")
    open_database(url).check_writable()
    try:
        load(url, files)
        open_database(url).check_writable()
        found = SpatialIndex(files, url).files_of_labels()
        theirs = cloudvolume_index(files, text.replace("$INDEX_PASSWORD", mariadb.password))
        some = list(found)[::9]
        by_theirs = theirs.file_locations_per_label(some)
    finally:
        mariadb.ask("DROP DATABASE `index`")
    assert found == SpatialIndex(files).files_of_labels()
    assert {n: sorted(names) for n, names in by_theirs.items()} == {n: found[n] for n in some}


def test_cloudvolume_asks_our_tables(connect: Connect, files: IndexFiles) -> None:
    url, text = connect("ours")
    load(url, files)
    ours, theirs = SpatialIndex(files, url), cloudvolume_index(files, text)
    plain = SpatialIndex(files)
    labels = ours.labels_in_box()
    assert theirs.query(theirs.physical_bounds).tolist() == labels.tolist() == plain.labels_in_box().tolist()
    some = labels[::9].tolist()
    found = {n: sorted(names) for n, names in theirs.file_locations_per_label(some).items()}
    assert found == ours.files_of_labels([*some, 1]) == plain.files_of_labels(some)
    assert ours.files_of_labels() == plain.files_of_labels()
    for label in some:
        assert theirs.get_bbox(label).to_list() == list(ours.box_of_label(label) or ())
        assert ours.box_of_label(label) == plain.box_of_label(label)
    assert ours.box_of_label(1) is None


def test_tables_of_cloudvolume_are_asked(connect: Connect, files: IndexFiles) -> None:
    url, text = connect("theirs")
    theirs = cloudvolume_index(files)
    theirs.to_sql(text, progress=False)
    ours, plain = SpatialIndex(files, url), SpatialIndex(files)
    assert ours.files_of_labels() == plain.files_of_labels()
    assert ours.labels_in_box().tolist() == plain.labels_in_box().tolist()
    label = FIRST + 7 * 20
    assert ours.box_of_label(label) == plain.box_of_label(label)


def test_labels_in_a_box_are_those_of_cloudvolume(files: IndexFiles) -> None:
    index, theirs = SpatialIndex(files), cloudvolume_index(files)
    low, high = theirs.physical_bounds.minpt, theirs.physical_bounds.maxpt
    rng = np.random.default_rng(2)
    seen = 0
    for _ in range(60):
        a, b = np.sort(rng.integers(low - 500, high + 500, (2, 3)), axis=0)
        ours = set(index.labels_in_box((*a.tolist(), *(b + 1).tolist())).tolist())
        cropped = Bbox.intersection(Bbox(a, b + 1), theirs.physical_bounds)
        whole = cropped.expand_to_chunk_size(theirs.chunk_size, offset=low).contains_bbox(theirs.physical_bounds)
        expected = set() if cropped.subvoxel() else set(theirs.query(cropped))
        # Where a box meets every task at the border, CloudVolume does not look at the labels' boxes.
        assert ours <= expected if whole else ours == expected
        seen += 0 < len(ours) < 200
    assert seen > 30
    assert index.labels_in_box((10, 10, 10, 10, 20, 20)).tolist() == []
    for wrong in ((100, 0, 0, 99, 10, 10), (0, 0, float("nan"), 10, 10, 10)):
        with pytest.raises(OptionError, match=r"box_nm: expected x0, y0, z0, x1, y1, z1 in nm, .*came \(\d"):
            index.labels_in_box(wrong)
    assert index.labels_in_box((10**6, 0, 0, 2 * 10**6, 10, 10)).tolist() == []


def test_a_missing_file_is_an_error_unless_it_may_be(files: IndexFiles) -> None:
    name = files.grid.name(8)
    Path(files.url.removeprefix("file://"), f"{name}.gz").unlink()
    with pytest.raises(SourceError, match=f"{name}: expected the index file of a task, but it is missing"):
        SpatialIndex(files).files_of_labels()
    accepted = SpatialIndex(files, fill_missing=True).files_of_labels()
    assert name not in {n for names in accepted.values() for n in names}


def test_labels_of_all_64_bits_are_kept(connect: Connect, files: IndexFiles) -> None:
    labels = np.array([0, 5, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    files.write(0, LabelBoxes(labels, np.tile(np.array([[80, -112, 440, 90, -100, 500]]), (5, 1))))
    url, _ = connect("large")
    load(url, files)
    index = SpatialIndex(files, url)
    assert set(labels.tolist()) <= set(index.labels_in_box().tolist())
    assert np.array_equal(index.labels_in_box(), SpatialIndex(files).labels_in_box())
    assert index.files_of_labels(labels.tolist()) == {n: [files.grid.name(0)] for n in labels.tolist()}
    assert index.box_of_label(2**64 - 1) == (80, -112, 440, 90, -100, 500)


def test_a_batch_is_loaded_once(connect: Connect, files: IndexFiles) -> None:
    database = load(connect("twice")[0], files)
    before = content(database)
    tables.drop_tables(database)
    begin_load(database, "b2")
    begin_load(database, "b2")
    batches = [batch_of(files, n, range(3 * n, 3 * n + 3)) for n in range(10)]
    assert [load_batch(database, "b2", batch) for batch in [*batches, *batches]] == [True] * 10 + [False] * 10
    assert tables.loaded_batches(database, "b2") == frozenset(range(10))
    assert tables.loaded_so_far(database, "b2") == (10, 30, 0, len(before[1]))
    assert tables.count_rows(database) == (30, len(before[1]))
    make_indexes(database)
    make_indexes(database)
    tables.end_load(database, "b2")
    tables.end_load(database, "b2")
    assert tables.loaded_batches(database, "b2") == frozenset()
    assert tables.tables_in(database) == {"index_files", "file_lookup"}
    assert content(database) == before


def test_several_writers_at_once_load_the_same(
    mariadb: MariaDbServer, files: IndexFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INDEX_PASSWORD", mariadb.password)
    where = f"mysql://{mariadb.user}:$INDEX_PASSWORD@{mariadb.host}:{mariadb.port}"
    database = open_database(parse_database_url(f"{where}/at_once"))
    begin_load(database, "c3")
    batches = [batch_of(files, n, range(3 * n, 3 * n + 3)) for n in range(10)]
    done: list[bool] = []

    def write() -> None:
        done.extend(load_batch(database, "c3", batch) for batch in batches)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False] * 30 + [True] * 10
    assert content(database) == content(load(parse_database_url(f"{where}/one_by_one"), files))


def test_a_load_that_was_replaced_writes_no_more(connect: Connect, files: IndexFiles) -> None:
    database = open_database(connect("replaced")[0])
    begin_load(database, "d4")
    with pytest.raises(DestinationError, match=r"expected no index, came .*loaded_d4.*--overwrite"):
        begin_load(database, "e5")
    tables.drop_tables(database)
    begin_load(database, "e5")
    with pytest.raises(DatabaseError, match="loaded_d4"):
        load_batch(database, "d4", batch_of(files, 0, range(3)))
    assert tables.count_rows(database) == (0, 0)


def test_what_fails_leaves_nothing(connect: Connect, files: IndexFiles) -> None:
    database = open_database(connect("nothing")[0])
    begin_load(database, "f6")
    batch = batch_of(files, 0, range(3))
    broken = batch._replace(files=[*batch.files, IndexFile(9, "x" * 10, np.array(["a"]))])
    with pytest.raises((DatabaseError, ValueError)):
        load_batch(database, "f6", broken)
    assert tables.count_rows(database) == (0, 0)
    assert tables.loaded_batches(database, "f6") == frozenset()


def test_a_database_that_is_not_there_has_no_tables(connect: Connect) -> None:
    url, _ = connect("nowhere")
    assert tables.tables_in(open_database(url)) == set()
    tables.drop_tables(open_database(url))
    assert not open_database(url).exists()


def test_the_index_of_another_volume_is_noticed(connect: Connect, files: IndexFiles, tmp_path: Path) -> None:
    url, _ = connect("other")
    load(url, files)
    other = make_index(tmp_path / "other", (4, 4, 40))
    with pytest.raises(CorruptDataError, match="the database is that of another index"):
        SpatialIndex(other, url).box_of_label(FIRST + 7)


def test_a_file_that_is_no_database_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "index.db").write_text("this is no database, but a text of some length" * 100)
    with pytest.raises(DatabaseError, match=r"expected a sqlite file to read and write, came file is not a database"):
        tables.tables_in(open_database(parse_database_url(f"sqlite://{tmp_path}/index.db")))
    with pytest.raises(DatabaseError, match="expected a sqlite file"):
        open_database(parse_database_url(f"sqlite://{tmp_path}/index.db/below/index.db")).check_writable()


class Wrong:
    """Ways to connect that must fail, and what is said."""

    PASSWORD = "hunter2-is-no-password"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://loader:$WRONG@{host}:{port}/db", "Access denied for user 'loader'.*check the user, and the password"),
        ("mysql://loader:$WRONG@{host}:1/db", "Can't connect to MySQL server.*check host and port"),
        ("mysql://loader:$WRONG@no-such-host.invalid/db", "check host and port"),
        ("mysql://loader:$WRONG@{host}:{port}/db?socket=/no/such/socket", "check host and port"),
        ("mysql://loader:$WRONG@{host}:{port}/db?tls=verify", "certificate verify failed"),
    ],
)
def test_no_error_shows_a_password(
    mariadb: MariaDbServer, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.setenv("WRONG", Wrong.PASSWORD)
    database = open_database(parse_database_url(url.format(host=mariadb.host, port=mariadb.port)))
    with pytest.raises(DatabaseError, match=message) as refused:
        database.exists()
    assert Wrong.PASSWORD not in f"{refused.value!r} {refused.value} {refused.value.args} {database!r} {vars(database)}"
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_a_server_without_tls_is_refused_unless_the_url_says_so(
    mariadb_without_tls: MariaDbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mariadb_without_tls
    monkeypatch.setenv("INDEX_PASSWORD", server.password)
    url = f"mysql://{server.user}:$INDEX_PASSWORD@{server.host}:{server.port}/db"
    for text in (url, f"{url}?tls=required", f"{url}?tls=verify"):
        with pytest.raises(DatabaseError, match=r"SSL is required.*let the server offer TLS.*\?tls=off does without"):
            open_database(parse_database_url(text)).exists()
    assert not open_database(parse_database_url(f"{url}?tls=off")).exists()
    socket = f"mysql://{server.user}:$INDEX_PASSWORD@/db?socket={server.socket}"
    assert not open_database(parse_database_url(socket)).exists()


@pytest.mark.parametrize("tls", ["", "?tls=required", "?tls_ca={certificate}", "?tls=verify&tls_ca={certificate}"])
def test_connections_are_encrypted(mariadb: MariaDbServer, monkeypatch: pytest.MonkeyPatch, tls: str) -> None:
    monkeypatch.setenv("INDEX_PASSWORD", mariadb.password)
    where = f"mysql://{mariadb.user}:$INDEX_PASSWORD@{mariadb.host}:{mariadb.port}/mysql"
    database = open_database(parse_database_url(where + tls.format(certificate=mariadb.certificate)))
    assert ask(database, "SHOW STATUS LIKE 'Ssl_version'")[0][1].startswith("TLS")
    plain = open_database(parse_database_url(f"{where}?tls=off"))
    assert ask(plain, "SHOW STATUS LIKE 'Ssl_version'")[0][1] == ""


def test_a_certificate_is_verified_with_the_name_of_the_host(mariadb: MariaDbServer, tmp_path: Path) -> None:
    context = mysql._tls(parse_database_url(f"mysql://{mariadb.host}/db?tls_ca={mariadb.certificate}"))["ssl"]
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    (tmp_path / "ca.pem").write_text("no certificate")
    url = f"mysql://x@{mariadb.host}:{mariadb.port}/db?tls_ca={tmp_path}/ca.pem"
    with pytest.raises(OptionError, match=r"expected tls_ca to be a file of certificates \(PEM\), came"):
        open_database(parse_database_url(url)).exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://localhost/db", {}),
        ("mysql://127.0.0.1/db", {}),
        ("mysql://[::1]/db", {}),
        ("mysql:///db?socket=/s", {}),
        ("mysql://localhost/db?tls=required", {"ssl": {"verify_mode": "none", "check_hostname": False}}),
        ("mysql://host/db", {"ssl": {"verify_mode": "none", "check_hostname": False}}),
        ("mysql://host/db?tls=off", {"ssl_disabled": True}),
    ],
)
def test_tls_is_wanted_of_every_other_machine(url: str, expected: dict[str, Any]) -> None:
    assert mysql._tls(parse_database_url(url)) == expected


def test_a_lost_connection_is_made_again(mariadb: MariaDbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEX_PASSWORD", mariadb.password)
    database = open_database(
        parse_database_url(f"mysql://{mariadb.user}:$INDEX_PASSWORD@{mariadb.host}:{mariadb.port}/mysql")
    )
    killed = list[int]()

    def work(cursor: Cursor) -> int:
        if not killed:
            killed.append(cursor.connection.thread_id())
            mariadb.ask(f"KILL {killed[0]}")
        cursor.execute("SELECT 7")
        return int(cursor.fetchone()[0])

    assert database.run(work) == 7
    assert killed


def test_a_user_without_rights_is_told_of(mariadb: MariaDbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    mariadb.ask("CREATE OR REPLACE USER 'poor'@'%' IDENTIFIED BY 'p@ss/w?rd:#é'")
    monkeypatch.setenv("POOR", "p@ss/w?rd:#é")
    database = open_database(parse_database_url(f"mysql://poor:$POOR@{mariadb.host}:{mariadb.port}/poor_index"))
    with pytest.raises(DatabaseError, match=r"Access denied for user 'poor'.*let the user have the rights"):
        database.create()
    assert os.environ["POOR"] not in repr(database)
