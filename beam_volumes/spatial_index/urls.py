"""The URL of an index database, which never holds a password.

    sqlite://index.db                a file in the current folder; sqlite:///data/index.db is one at an absolute path
    mysql://USER:$NAME@HOST:PORT/DB  MySQL or MariaDB; $NAME is an environment variable that holds the password
    cloudsql://USER@PROJECT:REGION:INSTANCE/DB?iam=true

Slashes count as in CloudVolume, which takes the same sqlite URL. The database is `spatial_index` if none is named.
What may follow, `?name=value&...`:

    secret=projects/P/secrets/S      the password is the latest version of this secret, instead of :$NAME
    tls=required|verify|off          mysql; see `beam_volumes.spatial_index.mysql` for the default
    tls_ca=/path/ca.pem              mysql; the authority that has signed the server's certificate; means tls=verify
    socket=/path/mysqld.sock         mysql; a socket of this machine, instead of HOST
    ip=public|private|psc            cloudsql; which of the instance's addresses is used; public is the default
    iam=true|false                   cloudsql; log in as a Google Cloud account, which needs no password
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import parse_qsl, unquote

from beam_volumes.errors import OptionError
from beam_volumes.spatial_index.passwords import NOWHERE, PasswordPlace

FORMS = (
    "sqlite://index.db, sqlite:///path/index.db, mysql://USER:$NAME@HOST:PORT/DB, or "
    "cloudsql://USER:$NAME@PROJECT:REGION:INSTANCE/DB"
)
DEFAULT_DATABASE = "spatial_index"
MYSQL_PORT = 3306

_CHOICES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "mysql": {"secret": (), "tls": ("required", "verify", "off"), "tls_ca": (), "socket": ()},
    "cloudsql": {"secret": (), "ip": ("public", "private", "psc"), "iam": ("true", "false")},
}
"""What may stand behind the question mark, and its values where they are few."""

_USER = re.compile(r"[\w.+-]+(?:@[\w.-]+)?", re.ASCII)
_HOST = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII)
_INSTANCE = re.compile(r"(?:[\w.-]+:)?[\w.-]+:[\w.-]+:[\w.-]+", re.ASCII)
_DATABASE = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)


@dataclass(frozen=True)
class DatabaseUrl:
    """Where an index database is, and how it is reached; picklable, and without a secret.

    Attributes:
        scheme: sqlite, mysql or cloudsql.
        place: the absolute path of a file, the name or address of a host, or `PROJECT:REGION:INSTANCE`.
        port: of a host.
        database: its name on the server.
        parameters: what stood behind the question mark, but the secret.

    """

    scheme: str
    place: str
    port: int = 0
    database: str = ""
    user: str = ""
    password: PasswordPlace = NOWHERE
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The database itself, whoever comes to it and however."""
        if self.scheme == "sqlite":
            return f"sqlite://{self.place}"
        place = self.parameters.get("socket") or (f"{self.place}:{self.port}" if self.port else self.place)
        return f"{self.scheme}://{place}/{self.database}"

    @property
    def key(self) -> str:
        """A short name of the database for files: the same for the same `identity`."""
        return f"{self.scheme}-{hashlib.sha256(self.identity.encode()).hexdigest()[:8]}"

    def __str__(self) -> str:
        """Return the `identity`."""
        return self.identity


def parse_database_url(text: str) -> DatabaseUrl:
    """Return what a URL says; see the module for its forms. Does not look for the password.

    Raises:
        OptionError: it is no such URL, or a password stands in it; what came is told as far as it cannot be secret.

    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator or scheme not in ("sqlite", *_CHOICES):
        came = scheme if separator and re.fullmatch(r"[a-z0-9+]{1,16}", scheme) else "something else"
        raise OptionError(f"--db: expected {FORMS}, came {came}{'://...' if separator else ', not shown here'}")
    if scheme == "sqlite":
        return _sqlite(rest)
    # A password may hold any character: all before the last @ is kept apart before anything else is looked at.
    login, at, address = rest.rpartition("@")
    user, colon, password = login.partition(":")
    place = PasswordPlace.of_variable(password) if colon else NOWHERE
    if place is None:
        _refuse_password(scheme)
    user = unquote(user)
    if at and not _USER.fullmatch(user):
        raise OptionError(
            f"--db: expected the name of a user before the @ of {scheme}://, came something else, not shown here"
        )
    address, _, query = address.partition("?")
    parameters = _parameters(scheme, query)
    if secret := parameters.pop("secret", ""):
        place = _secret(scheme, secret, given=colon != "")
    address, _, database = address.partition("/")
    database = database.strip("/") or DEFAULT_DATABASE
    if not _DATABASE.fullmatch(database):
        _refuse(scheme, "a database of letters, digits and _", database)
    host, port = _address(scheme, address, parameters)
    url = DatabaseUrl(scheme, host, port, database, user, place, parameters)
    if scheme == "cloudsql":
        _check_cloudsql(url)
    return url


def _sqlite(rest: str) -> DatabaseUrl:
    if not rest or rest.endswith("/") or "?" in rest:
        _refuse("sqlite", "the path of a file", rest or "nothing")
    return DatabaseUrl("sqlite", os.path.abspath(os.path.expanduser(rest)))


def _address(scheme: str, address: str, parameters: Mapping[str, str]) -> tuple[str, int]:
    """Return host and port, or the instance and 0."""
    if scheme == "cloudsql":
        if not _INSTANCE.fullmatch(address):
            _refuse(scheme, "PROJECT:REGION:INSTANCE", address)
        return address, 0
    if not address and parameters.get("socket"):
        return "localhost", 0
    found = _HOST.fullmatch(address)
    if not found or not 0 < int(found[2] or MYSQL_PORT) < 65_536:
        _refuse(scheme, "HOST or HOST:PORT, with a PORT up to 65535", address)
    return found[1].strip("[]"), int(found[2] or MYSQL_PORT)


def _parameters(scheme: str, query: str) -> dict[str, str]:
    known = _CHOICES[scheme]
    found = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in found.items():
        if name not in known:
            # Not shown: it may be the end of a password.
            raise OptionError(
                f"--db: expected of {scheme}:// only {', '.join(known)} behind the question mark, came another name, "
                "not shown here"
            )
        if known[name] and value not in known[name]:
            raise OptionError(f"--db: expected {name}={'|'.join(known[name])}, came another value, not shown here")
        if not known[name] and not value:
            raise OptionError(f"--db: expected a value of {name}, came none: leave it out, or give one")
    if "tls_ca" in found and found.get("tls", "verify") != "verify":
        raise OptionError(f"--db: expected tls=verify with tls_ca, came tls={found['tls']}: leave one of the two out")
    return found


def _secret(scheme: str, text: str, *, given: bool) -> PasswordPlace:
    place = PasswordPlace.of_secret(text)
    if place is None:
        raise OptionError("--db: expected secret=projects/P/secrets/S, came something else, not shown here")
    if given:
        raise OptionError(
            f"--db: expected one place of the password of {scheme}://, came :$NAME and secret=: leave one out"
        )
    return place


def _check_cloudsql(url: DatabaseUrl) -> None:
    with_password = url.password != NOWHERE
    if url.parameters.get("iam") == "true" and with_password:
        raise OptionError(
            "--db: expected no password with iam=true, which logs in with the account: leave one of them out"
        )
    if not url.user:
        raise OptionError("--db: expected a user, as in cloudsql://USER@PROJECT:REGION:INSTANCE/DB, came none")


def _refuse_password(scheme: str) -> NoReturn:
    raise OptionError(
        f"--db: expected {scheme}://USER:$NAME@..., where NAME is an environment variable that holds the password, "
        "came something else in its place: a password does not belong on a command line, where other users and records "
        "see it. Export it as a variable, and put the URL in single quotes, or the shell puts the password into it; or "
        "name a secret, ?secret=projects/P/secrets/S"
    )


def _refuse(scheme: str, expected: str, came: str) -> NoReturn:
    # A place without an @ before it is not part of a password; what looks strange may be one whose @ was forgotten.
    shown = came if re.fullmatch(r"[\w./-]{1,80}", came, re.ASCII) else "something else, not shown here"
    raise OptionError(f"--db: expected {expected} in {scheme}://..., came {shown}: give {FORMS}")
