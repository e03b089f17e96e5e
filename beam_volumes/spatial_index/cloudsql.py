"""An index on a MySQL server of Cloud SQL, reached through Google's connector.

The connector encrypts the connection and proves both ends to each other, so no network needs to be opened to the
server; `ip=private` goes through a private network. With `iam=true` the user is a Google Cloud account, logged in with
the credentials of the machine, and there is no password.
See https://cloud.google.com/sql/docs/mysql/connect-connectors
"""

from __future__ import annotations

import functools
from typing import Any

from beam_volumes.errors import OptionError
from beam_volumes.spatial_index.database import DatabaseError
from beam_volumes.spatial_index.mysql import MySqlDatabase
from beam_volumes.spatial_index.passwords import Password


class CloudSqlDatabase(MySqlDatabase):
    """See `Database`."""

    def connect(self, database: str | None, password: Password) -> Any:
        """Return a connection; raises what the client raises."""
        parameters = self.url.parameters
        is_iam = parameters.get("iam") == "true"
        login = {} if is_iam else {"password": password.reveal()}
        named = {} if database is None else {"database": database}
        connector = _connector()
        try:
            return connector.connect(
                self.url.place,
                "pymysql",
                user=self.url.user,
                ip_type=parameters.get("ip", "public"),
                enable_iam_auth=is_iam,
                charset="utf8mb4",
                **login,
                **named,
            )
        except _connector_errors() as error:
            # Not chained, and without what may quote a request.
            text = password.masked(str(error)).splitlines() or [""]
            raise DatabaseError(
                f"{self.url}: expected a Cloud SQL instance to connect to, came {type(error).__name__}: "
                f"{text[0][:300]}: check the name of the instance, its address "
                "(?ip=private|public|psc), and that this account has the "
                "role Cloud SQL Client"
            ) from None


@functools.cache
def _connector() -> Any:
    """Return the connector of this process, which keeps certificates for all its connections."""
    try:
        # Only where it is asked for: it is missing where Google Cloud is not used.
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.sql.connector import Connector
    except ImportError as error:
        raise OptionError(
            "--db: expected cloud-sql-python-connector for cloudsql://, but it is not installed: "
            "pip install 'beam-volumes[gcp]'"
        ) from error
    try:
        return Connector(refresh_strategy="lazy")
    except GoogleAuthError as error:
        raise OptionError(
            f"--db: expected credentials of Google Cloud for cloudsql://, came {type(error).__name__}: {error}"
        ) from error


def _connector_errors() -> tuple[type[Exception], ...]:
    """Return what the connector raises of its own; those of PyMySQL pass."""
    from aiohttp import ClientError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.sql.connector import exceptions

    own = [value for value in vars(exceptions).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, GoogleAuthError, ClientError, TimeoutError)
