"""An index on a MySQL or MariaDB server, which any number of processes write.

Connections are encrypted. By default (`tls=required`) the server must offer TLS, or it is refused before the password
is sent; whose certificate it shows is not looked at, as most servers sign their own. `tls=verify`, or `tls_ca=FILE`,
demands one for the host's name, signed by that authority or by one that this machine trusts. A server on this
machine (localhost, 127.0.0.1, ::1, or a socket) is used with TLS where it offers it. `tls=off` does without.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pymysql
from pymysql.constants import CR, ER

from beam_volumes.errors import OptionError
from beam_volumes.spatial_index.database import Cursor, DatabaseError, ResultT
from beam_volumes.spatial_index.files import Labels
from beam_volumes.spatial_index.passwords import Password
from beam_volumes.spatial_index.schema import MYSQL, Dialect
from beam_volumes.spatial_index.urls import DatabaseUrl

_HERE = ("localhost", "127.0.0.1", "::1")
_ROWS_PER_STATEMENT = 50_000
"""Under 2 MB, which every server takes: MySQL's max_allowed_packet was 4 MB once."""

_TRIES = 6
_MOMENTARY = {
    ER.LOCK_DEADLOCK,
    ER.LOCK_WAIT_TIMEOUT,
    ER.CON_COUNT_ERROR,
    CR.CR_SERVER_GONE_ERROR,
    CR.CR_SERVER_LOST,
}
_CONNECT_SECONDS = 20
_SESSION = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    # That files and labels belong together is seen to by the load; checked row by row, it would cost a lookup for each.
    "SET SESSION foreign_key_checks = 0",
)

_RIGHTS = "CREATE, DROP, INDEX, SELECT, INSERT and UPDATE"

_NOT_WRITABLE = {ER.TABLEACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.OPTION_PREVENTS_STATEMENT}
"""The last one comes of a server that only reads."""

_ADVICE = {
    CR.CR_SSL_CONNECTION_ERROR: (
        "the connection is to be encrypted: let the server offer TLS with a certificate that is accepted here; on a "
        "network that you trust, ?tls=off does without"
    ),
    ER.ACCESS_DENIED_ERROR: "check the user, and the password in its place",
    ER.DBACCESS_DENIED_ERROR: f"correct the name of the database, or let the user have the rights {_RIGHTS}",
    ER.BAD_DB_ERROR: "correct the name of the database, or load it with index_mesh",
    CR.CR_CONN_HOST_ERROR: "check host and port, and that the server is running and lets this machine in",
}


class MySqlDatabase:
    """See `Database`."""

    one_writer = False
    dialect: Dialect = MYSQL

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url

    def exists(self) -> bool:
        """Whether the server has the database."""
        with self._connected(None) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (self.url.database,))
            return cursor.fetchone() is not None

    def check_writable(self) -> None:
        """See `Database.check_writable`.

        The statement fails whatever the rights are, as it copies from a table that is nowhere; but who may not make a
        table in the database, and so not the database itself either, is told that first.
        """
        name, nowhere = (f"{_quoted(self.url.database)}.{kind}_{uuid.uuid4().hex}" for kind in ("new", "none"))
        with self._connected(None) as connection, connection.cursor() as cursor:
            try:
                cursor.execute(f"CREATE TABLE {name} LIKE {nowhere}")
            except pymysql.Error as error:
                if error.args[0] in _NOT_WRITABLE:
                    raise DatabaseError(self._without_rights()) from None

    def create(self) -> None:
        """Make the database, as CloudVolume makes it."""
        if not self.exists():
            with self._connected(None) as connection, connection.cursor() as cursor:
                name = _quoted(self.url.database)
                cursor.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8 COLLATE utf8_bin")

    def run(self, work: Callable[[Cursor], ResultT]) -> ResultT:
        """See `Database.run`."""
        for attempt in range(1, _TRIES + 1):
            with contextlib.suppress(_MomentaryError):
                return self._run_once(work, last=attempt == _TRIES)
            time.sleep(random.uniform(0.5, 1) * 0.1 * 2**attempt)
        raise AssertionError("unreachable: the last try raises")

    def read(self, work: Callable[[Cursor], ResultT]) -> ResultT:
        """See `Database.read`."""
        return self.run(work)

    def insert_labels(self, cursor: Cursor, file_number: int, labels: Labels) -> None:
        """See `Database.insert_labels`; once more changes nothing."""
        for start in range(0, len(labels), _ROWS_PER_STATEMENT):
            # The numbers are joined as text, as PyMySQL would do it, ten times faster than row by row.
            rows = f",{file_number}),(".join(map(str, labels[start : start + _ROWS_PER_STATEMENT].tolist()))
            cursor.execute(
                f"INSERT INTO file_lookup(label, fid) VALUES ({rows},{file_number}) ON DUPLICATE KEY UPDATE fid = fid"
            )

    def values_of(self, labels: Iterable[int]) -> list[int]:
        """See `Database.values_of`."""
        return [int(label) for label in labels]

    def labels_of(self, values: list[int]) -> Labels:
        """See `Database.labels_of`."""
        return np.array(values, np.uint64)

    def connect(self, database: str | None, password: Password) -> Any:
        """Return a connection; raises what the client raises."""
        url = self.url
        return pymysql.connect(
            host=url.place,
            port=url.port,
            user=url.user or None,
            password=password.reveal(),
            database=database,
            unix_socket=url.parameters.get("socket"),
            connect_timeout=_CONNECT_SECONDS,
            charset="utf8mb4",
            **_tls(url),
        )

    def _without_rights(self) -> str:
        url = self.url
        lacking = "" if self.exists() else ", or it is not there"
        return (
            f"{url}: expected a database that {url.user or 'this user'} may make tables in, but the server says that "
            f"it may not{lacking}: correct the name {url.database}, name another user, or let this one have the rights "
            f"{_RIGHTS}"
        )

    def _run_once(self, work: Callable[[Cursor], ResultT], *, last: bool) -> ResultT:
        with self._connected(self.url.database, last=last) as connection, connection.cursor() as cursor:
            for statement in _SESSION:
                cursor.execute(statement)
            connection.begin()
            result = work(cursor)
            connection.commit()
            return result

    @contextlib.contextmanager
    def _connected(self, database: str | None, *, last: bool = True) -> Iterator[Any]:
        """Connect, and tell errors in words; of those that pass, only the last counts."""
        password = self.url.password.find()
        try:
            connection = self.connect(database, password)
            try:
                yield connection
            finally:
                # One that was lost refuses to be closed, which says nothing of why.
                with contextlib.suppress(pymysql.Error):
                    connection.close()
        except (pymysql.Error, OSError, RuntimeError) as error:
            if not last and error.args and error.args[0] in _MOMENTARY:
                raise _MomentaryError from None
            # Not chained: whatever the client notes of a connection stays out of logs.
            raise self._refused(error, password) from None

    def _refused(self, error: Exception, password: Password) -> DatabaseError:
        code = error.args[0] if error.args else None
        came = password.masked(str(error.args[1] if len(error.args) > 1 else error))
        advice = _ADVICE.get(code, "see to it, then give the same command again") if isinstance(code, int) else None
        return DatabaseError(
            f"{self.url}: expected a database to read and write, came {type(error).__name__}: {came}: "
            f"{advice or 'see to it, then give the same command again'}"
        )


class _MomentaryError(Exception):
    """The server has given up a transaction that may go well the next time."""


def _quoted(name: str) -> str:
    """Return a name as it stands in statements; it may be a word of SQL, such as `index`."""
    return f"`{name.replace('`', '``')}`"


def _tls(url: DatabaseUrl) -> dict[str, Any]:
    """Return what PyMySQL takes for the kind of encryption that is wanted."""
    parameters = url.parameters
    is_here = url.place in _HERE or "socket" in parameters
    wanted = parameters.get("tls") or ("verify" if "tls_ca" in parameters else "offered" if is_here else "required")
    if wanted == "off":
        return {"ssl_disabled": True}
    if wanted == "offered":
        return {}
    if wanted == "required":
        return {"ssl": {"verify_mode": "none", "check_hostname": False}}
    try:
        return {"ssl": ssl.create_default_context(cafile=parameters.get("tls_ca"))}
    except (OSError, ssl.SSLError) as error:
        raise OptionError(
            f"--db: expected tls_ca to be a file of certificates (PEM), came {parameters.get('tls_ca')}: {error}"
        ) from error
