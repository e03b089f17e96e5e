"""The token that a proofreading server wants: where it is found, and how it stays out of sight."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NoReturn

from beam_volumes.errors import OptionError
from beam_volumes.graphene.table import GrapheneTable
from beam_volumes.secrets import read_secret

_SECRET = re.compile(r"projects/[^/]+/secrets/[^/]+")


class Token:
    """A bearer token. Its text is never shown, and it never travels: each process finds its own.

    Attributes:
        source: where it was found, for messages.

    """

    __slots__ = ("__value", "source")

    def __init__(self, value: str, source: str) -> None:
        self.__value = value
        self.source = source

    def reveal(self) -> str:
        """Return the token itself, for the one header that carries it."""
        return self.__value

    def masked(self, text: str) -> str:
        """Return `text` without the token."""
        return text.replace(self.__value, "***")

    def __repr__(self) -> str:
        """Tell where it came from."""
        return f"Token(*** from {self.source})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a token is not pickled: send the name of its place, and find it again there")


def find_token(table: GrapheneTable, token_env: str | None) -> Token | None:
    """Find the token for the server of `table`.

    Args:
        table: CloudVolume keeps tokens in files by the name of the host.
        token_env: an environment variable, or a Secret Manager secret `projects/P/secrets/S`, of which the latest
            version is taken; None for the files. The value is the token, or JSON `{"token": ...}`.

    Returns:
        None where no place was named and none of the files exists.

    Raises:
        OptionError: there is no token in the place that was named, or something else than a token in a file.

    """
    if token_env is None:
        for path in token_files(table):
            if path.is_file():
                return _token(_read(path), str(path))
        return None
    if "/" in token_env:
        return _token(_secret(token_env), f"--token_env: the secret {token_env}")
    value = os.environ.get(token_env, "")
    if not value.strip():
        raise OptionError(
            f"--token_env: expected a token in the environment variable {_shown(token_env)}, which is "
            f"{'empty' if token_env in os.environ else 'not set'}: set it on every machine that runs the job, or name "
            "a secret, projects/P/secrets/S"
        )
    return _token(value, f"--token_env: the environment variable {token_env}")


def token_files(table: GrapheneTable) -> list[Path]:
    """Return where CloudVolume keeps the token of this server; the first file that exists counts."""
    folder = Path(os.environ.get("CLOUD_VOLUME_DIR") or Path.home() / ".cloudvolume") / "secrets"
    return [folder / f"{table.host}-cave-secret.json", folder / "cave-secret.json"]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: expected a token that can be read: {type(error).__name__}") from error


def _secret(name: str) -> str:
    """Return what a secret holds, whose name is checked first: it may be the token itself."""
    if not _SECRET.fullmatch(name):
        raise OptionError(
            f"--token_env: expected the name of an environment variable, or projects/P/secrets/S, came {_shown(name)}"
        )
    return read_secret(name, "--token_env", "a token")


def _token(text: str, source: str) -> Token:
    """Take a token out of what a place holds; no message shows any of it."""
    value: object = text.strip()
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text).get("token")
        except json.JSONDecodeError:
            # Not chained: the error holds the document.
            raise OptionError(f"{source}: expected a token, or JSON with a token, came broken JSON") from None
    # Spaces and line ends would end the header; the characters are those of RFC 6750, section 2.1.
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", value):
        raise OptionError(
            f'{source}: expected a token (letters, digits, ._~+/- and = at its end) or JSON {{"token": ...}}, '
            "came something else, not shown here"
        )
    return Token(value, source)


def _shown(name: str) -> str:
    """Return a name as it came, unless it may be the token itself: those are of 30 characters and more."""
    return name if re.fullmatch(r"[A-Za-z_]\w{0,28}|projects/.*", name) else "(not shown: it may be a token)"
