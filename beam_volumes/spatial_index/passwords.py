"""The password of a database: named by its place, found where it is used, and never shown.

A plan, an option and a record hold a `PasswordPlace`, which is the name of an environment variable or of a secret. Each
process that connects finds the `Password` there; it cannot be printed, logged or pickled.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import NoReturn

from beam_volumes.errors import OptionError
from beam_volumes.secrets import read_secret

_SECRET = re.compile(r"projects/[^/\s]+/secrets/[^/\s]+")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


class Password:
    """A password. Its text is never shown, and it never travels: each process finds its own."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> bytes:
        """Return the password itself, for the one call that connects; UTF-8, as servers take it."""
        return self.__value.encode()

    def masked(self, text: str) -> str:
        """Return `text` without the password."""
        return text.replace(self.__value, "***") if self.__value else text

    def __repr__(self) -> str:
        """Show nothing."""
        return "Password(***)"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a password is not pickled: send the name of its place, and find it again there")


@dataclass(frozen=True)
class PasswordPlace:
    """Where a password is found: an environment variable, a secret in Google's Secret Manager, or nowhere.

    Attributes:
        variable: the name of an environment variable, or "".
        secret: `projects/P/secrets/S`, of which the latest version is taken, or "".

    """

    variable: str = ""
    secret: str = ""

    @classmethod
    def of_variable(cls, text: str) -> PasswordPlace | None:
        """Return the place that `$NAME` or `${NAME}` names, or None where the text is something else."""
        found = _VARIABLE.fullmatch(text)
        return cls(variable=found[1] or found[2]) if found else None

    @classmethod
    def of_secret(cls, text: str) -> PasswordPlace | None:
        """Return the place that `projects/P/secrets/S` names, or None where the text is something else."""
        return cls(secret=text) if _SECRET.fullmatch(text) else None

    def find(self) -> Password:
        """Return the password; an empty one where there is no place.

        Raises:
            OptionError: there is none in the place.

        """
        if self.secret:
            return Password(read_secret(self.secret, "--db", "a password"))
        if not self.variable:
            return Password("")
        value = os.environ.get(self.variable, "")
        if not value:
            raise OptionError(
                f"--db: expected a password in the environment variable {self.variable}, which is "
                f"{'empty' if self.variable in os.environ else 'not set'}: set and export it, or name a secret with "
                "?secret=projects/P/secrets/S"
            )
        return Password(value)

    def check_for_workers(self) -> None:
        """Refuse a variable of this machine, for a job whose workers are others.

        Raises:
            OptionError: so it is.

        """
        if self.variable:
            raise OptionError(
                f"--db: expected a secret that every worker of --runner can read, came the environment variable "
                f"{self.variable}, which is on this machine only: put the password into Secret Manager, and name it "
                "with ?secret=projects/P/secrets/S"
            )


NOWHERE = PasswordPlace()
"""There is no password."""
