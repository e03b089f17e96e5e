"""Who launched what with which versions, in the form that CloudVolume reads beside a volume."""

from __future__ import annotations

import getpass
import importlib.metadata
from datetime import UTC, datetime
from typing import NamedTuple

from beam_volumes.precomputed.info import Json

_PACKAGES = (
    "beam-volumes",
    "apache-beam",
    "cloud-volume",
    "numpy",
    "compressed-segmentation",
    "compresso",
    "crackle-codec",
    "deflate",
)
"""Those whose version can be seen in the bytes that are written."""


class Launch(NamedTuple):
    """What is only known where a job is launched: the user, and the installed versions."""

    by: str
    versions: dict[str, str]

    @classmethod
    def here(cls, *more: str) -> Launch:
        """Describe this process; `more` are packages whose version counts, too."""
        try:
            by = getpass.getuser()
        except (KeyError, OSError):
            # In a container the user may have a number only.
            by = "unknown"
        return cls(by, {name: importlib.metadata.version(name) for name in (*_PACKAGES, *more)})


def provenance(launch: Launch, method: Json, sources: list[str], ended: float) -> Json:
    """Return the content of a volume's `provenance`; `ended` is a UNIX second."""
    return {
        "description": "",
        "owners": [],
        "processing": [{"method": {**method, "versions": launch.versions}, "by": launch.by, "date": utc(ended)}],
        "sources": sources,
    }


def utc(seconds: float) -> str:
    """Return a UNIX second as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
