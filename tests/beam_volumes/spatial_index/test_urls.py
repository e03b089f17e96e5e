"""URLs of databases: what they mean, and that no password is ever shown."""

import os
import pickle
import sys
import types
from pathlib import Path

import pytest

from beam_volumes.errors import OptionError
from beam_volumes.spatial_index.passwords import NOWHERE, Password, PasswordPlace
from beam_volumes.spatial_index.urls import DatabaseUrl, parse_database_url

SECRET = "projects/my-project/secrets/index-password"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqlite:///data/index.db", DatabaseUrl("sqlite", "/data/index.db")),
        ("sqlite://index.db", DatabaseUrl("sqlite", f"{os.getcwd()}/index.db")),
        ("mysql://host", DatabaseUrl("mysql", "host", 3306, "spatial_index")),
        (
            "mysql://me:$PASS@host:3307/db",
            DatabaseUrl("mysql", "host", 3307, "db", "me", PasswordPlace(variable="PASS")),
        ),
        ("mysql://me:${PASS}@[::1]/db", DatabaseUrl("mysql", "::1", 3306, "db", "me", PasswordPlace(variable="PASS"))),
        (
            f"mysql://me@host/db?secret={SECRET}&tls=off",
            DatabaseUrl("mysql", "host", 3306, "db", "me", PasswordPlace(secret=SECRET), {"tls": "off"}),
        ),
        (
            "mysql://me:$P@/db?socket=/run/mysqld.sock",
            DatabaseUrl("mysql", "localhost", 0, "db", "me", PasswordPlace("P"), {"socket": "/run/mysqld.sock"}),
        ),
        (
            "cloudsql://robot@my-project:us-central1:index/db?ip=private&iam=true",
            DatabaseUrl(
                "cloudsql", "my-project:us-central1:index", 0, "db", "robot", NOWHERE, {"ip": "private", "iam": "true"}
            ),
        ),
        (
            "cloudsql://me:$PASS@example.com:p:r:i",
            DatabaseUrl("cloudsql", "example.com:p:r:i", 0, "spatial_index", "me", PasswordPlace("PASS")),
        ),
    ],
)
def test_a_url_says_what_it_says(text: str, expected: DatabaseUrl) -> None:
    found = parse_database_url(text)
    assert found == expected
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected sqlite://index.db, .* came something else, not shown here"),
        ("index.db", "came something else, not shown here"),
        ("postgres://me:hunter2@host/db", "came postgres://..."),
        ("sqlite://", "expected the path of a file in sqlite://..., came nothing"),
        ("sqlite:///data/", "expected the path of a file"),
        ("mysql://me:hunter2@host/db", "a password does not belong on a command line"),
        ("mysql://me:@host/db", "a password does not belong on a command line"),
        ("mysql://me:hun@ter2/?#:@host/db", "a password does not belong on a command line"),
        ("mysql://me:$hunter-2@host/db", "in single quotes, or the shell"),
        ("cloudsql://me:hunter2@p:r:i/db", "a password does not belong on a command line"),
        ("mysql://hunter2/x@host/db", "expected the name of a user"),
        ("mysql://host:99999/db", "expected HOST or HOST:PORT"),
        ("mysql://me:hunter2", "expected HOST or HOST:PORT.* came something else, not shown here"),
        ("mysql://host/my-db", "expected a database of letters, digits and _ in mysql://..., came my-db"),
        ("mysql://host/db?password=hunter2", "expected of mysql:// only secret, tls, tls_ca, socket"),
        ("mysql://host/db?hunter2=1", "came another name, not shown here"),
        ("mysql://host/db?tls=hunter2", r"expected tls=required\|verify\|off, came another value, not shown here"),
        ("mysql://host/db?tls=off&tls_ca=/ca.pem", "expected tls=verify with tls_ca, came tls=off"),
        ("mysql://host/db?secret=hunter2", "expected secret=projects/P/secrets/S, came something else"),
        (f"mysql://me:$P@host/db?secret={SECRET}", "expected one place of the password"),
        ("mysql://host/db?tls_ca=", "expected a value of tls_ca"),
        ("cloudsql://me@instance/db", "expected PROJECT:REGION:INSTANCE in cloudsql://..., came instance"),
        ("cloudsql://p:r:i/db", "expected a user"),
        ("cloudsql://me:$P@p:r:i/db?iam=true", "expected no password with iam=true"),
    ],
)
def test_what_is_no_url_is_refused_without_showing_a_password(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as refused:
        parse_database_url(text)
    assert "hunter2" not in str(refused.value)
    assert "ter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_password_is_not_shown_and_does_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEX_PASSWORD", "hünter2")
    place = PasswordPlace(variable="INDEX_PASSWORD")
    password = place.find()
    assert password.reveal() == "hünter2".encode()
    assert "nter2" not in f"{password!r} {password} {place!r} {[password]} {vars(place)}"
    assert password.masked("using hünter2 as password") == "using *** as password"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(password)
    assert b"nter2" not in pickle.dumps(place)
    assert Password("").masked("a b") == "a b"
    assert NOWHERE.find().reveal() == b""


@pytest.mark.parametrize(("value", "came"), [(None, "not set"), ("", "empty")])
def test_a_variable_without_a_password_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str | None, came: str
) -> None:
    monkeypatch.delenv("INDEX_PASSWORD", raising=False)
    if value is not None:
        monkeypatch.setenv("INDEX_PASSWORD", value)
    with pytest.raises(OptionError, match=f"environment variable INDEX_PASSWORD, which is {came}"):
        PasswordPlace(variable="INDEX_PASSWORD").find()


def test_a_secret_is_read_in_its_latest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.cloud.secretmanager", reason="needs the extra gcp")
    asked = []

    class Client:
        def access_secret_version(self, name: str) -> object:
            asked.append(name)
            data = b"hunter2" if "good" in name else b"\xff\xfe"
            return types.SimpleNamespace(payload=types.SimpleNamespace(data=data))

    monkeypatch.setattr("google.cloud.secretmanager.SecretManagerServiceClient", Client)
    assert PasswordPlace(secret="projects/p/secrets/good").find().reveal() == b"hunter2"
    with pytest.raises(OptionError, match="password as text in the secret projects/p/secrets/bad") as refused:
        PasswordPlace(secret="projects/p/secrets/bad").find()
    assert refused.value.__cause__ is None
    assert asked == ["projects/p/secrets/good/versions/latest", "projects/p/secrets/bad/versions/latest"]


def test_the_name_of_a_database_does_not_depend_on_who_comes() -> None:
    urls = [parse_database_url(f"mysql://{who}host/db") for who in ("", "me:$P@", "you@")]
    assert {url.key for url in urls} == {urls[0].key}
    assert urls[0].key.startswith("mysql-")
    assert parse_database_url("mysql://host:1/db").key != urls[0].key
    assert str(urls[1]) == "mysql://host:3306/db"


def test_cloud_sql_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from beam_volumes.spatial_index import cloudsql

    cloudsql._connector.cache_clear()
    monkeypatch.setitem(sys.modules, "google.cloud.sql.connector", None)
    database = cloudsql.CloudSqlDatabase(parse_database_url("cloudsql://me@p:r:i/db?iam=true"))
    with pytest.raises(OptionError, match=r"expected cloud-sql-python-connector .* pip install 'beam-volumes\[gcp\]'"):
        database.exists()
