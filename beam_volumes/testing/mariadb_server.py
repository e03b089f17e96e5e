"""A MariaDB server of one's own, for tests and measurements: in a folder of its own, gone afterwards.

    with running_server() as server:
        url = f"mysql://{server.user}:$PASSWORD@{server.host}:{server.port}/spatial_index"

It is Debian's package `mariadb-server`, run as the current user, also as root. It listens on one address of this
machine and on a socket.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pymysql

HOST = "127.0.0.2"
"""This machine, by an address that is not taken for it: what holds for other hosts holds here."""

_SECONDS_TO_START = 60.0


class ServerMissingError(Exception):
    """MariaDB is not installed."""


@dataclass(frozen=True)
class MariaDbServer:
    """A server that runs.

    Attributes:
        user: may do everything, from this machine.
        certificate: PEM file of the server's own certificate, or None where it offers no TLS.

    """

    host: str
    port: int
    socket: str
    user: str
    password: str = field(repr=False)
    certificate: Path | None

    def ask(self, *statements: str, database: str | None = None) -> list[tuple[object, ...]]:
        """Run statements; return the rows of the last."""
        with (
            pymysql.connect(unix_socket=self.socket, user="root", database=database, autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())


@contextlib.contextmanager
def running_server(*options: str, tls: bool = False) -> Iterator[MariaDbServer]:
    """Start a server, and stop it in the end; `options` are those of mariadbd.

    Raises:
        ServerMissingError: it is not installed.
        RuntimeError: it did not start; with what it said.

    """
    install, server = _program("mariadb-install-db"), _program("mariadbd")
    # Not the folder of a test: the path of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="mariadb-") as folder:
        place, user = Path(folder), getpass.getuser()
        log = place / "log"
        named = ["--no-defaults", f"--datadir={place}/data", f"--user={user}"]
        with log.open("wb") as output:
            made = subprocess.run(
                [install, *named, "--auth-root-authentication-method=normal", "--skip-test-db"],
                stdout=output,
                stderr=output,
                check=False,
            )
        if made.returncode:
            raise RuntimeError(f"{install} failed: {_end_of(log)}")
        certificate = _make_certificate(place) if tls else None
        secure = [f"--ssl-cert={certificate}", f"--ssl-key={place}/key.pem"] if certificate else ["--skip-ssl"]
        port = _free_port()
        where = [f"--bind-address={HOST}", f"--port={port}", f"--socket={place}/socket", f"--pid-file={place}/pid"]
        with log.open("ab") as output:
            process = subprocess.Popen([server, *named, *where, *secure, *options], stdout=output, stderr=output)
        running = MariaDbServer(HOST, port, f"{place}/socket", "loader", secrets.token_hex(8), certificate)
        try:
            _wait(running, process, log)
            login = f"'{running.user}'@'%'"
            running.ask(f"CREATE USER {login} IDENTIFIED BY '{running.password}'", f"GRANT ALL ON *.* TO {login}")
            yield running
        finally:
            process.terminate()
            process.wait()


def _program(name: str) -> str:
    # Debian has the server where only administrators look for programs.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if found is None:
        raise ServerMissingError(f"{name} is not installed: apt-get install mariadb-server")
    return found


def _make_certificate(folder: Path) -> Path:
    """Make a certificate that the server signs itself."""
    certificate = folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(certificate), "-addext", f"subjectAltName=IP:{HOST}"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return certificate


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _wait(server: MariaDbServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        try:
            server.ask("SELECT 1")
            return
        except pymysql.Error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mariadbd did not start: {_end_of(log)}") from None
            time.sleep(0.05)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
