"""What a run writes to: here a volume of its own; see `beam_volumes.additions` for what is added to one that stands.

A destination says where the records and the report of a run stand, and how what the run writes is begun, replaced and
committed; `beam_volumes.runs` decides when.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from beam_volumes.errors import DestinationError
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder

RECORDS = ".beam_volumes"
"""The folder, in a volume, of what runs keep while they go on."""

CLAIM = "claim.json"
"""Whose destination this is: in the folder of a run's records."""

VOLUME_REPORT = "report.json"
"""The report of a run that has written a whole volume."""


class Destination(Protocol):
    """What the frame of a run must know of where it writes; frozen and picklable.

    Names are relative to `url`. A method that writes may be killed at each step, and is then called again.
    """

    @property
    def url(self) -> str:
        """The volume."""

    @property
    def place(self) -> str:
        """What the run fills, as messages name it: the volume, a folder of it, a database."""

    @property
    def option(self) -> str:
        """The option that names the place, without its dashes."""

    @property
    def task(self) -> str:
        """The pipeline, as reports and provenance name it."""

    @property
    def advice(self) -> str:
        """What to do when something else stands there."""

    @property
    def records(self) -> str:
        """The folder of the run's records."""

    @property
    def report(self) -> str:
        """The report, whose presence says that all is done."""

    @property
    def folders(self) -> list[str]:
        """The folders that the run fills: nothing may be in them when it begins."""

    def check(self) -> None:
        """Refuse what not even --overwrite can mend; writes nothing.

        Raises:
            OptionError: so it is.
            CorruptDataError: what stands there cannot be read.

        """

    def obstacle(self, *, own: bool) -> str | None:
        """Return what was expected and what came, if something stands there that no record tells of; writes nothing.

        `own`: there is an unfinished run of the same identity, whose work is no obstacle.
        """

    def lacking(self) -> str | None:
        """Return what was expected and what came, if what a complete run has made visible is so no longer."""

    def standing(self) -> list[str]:
        """Return the folders to remove, with those of the run itself, where it replaces what stands."""

    def clear(self, folders: Sequence[str]) -> None:
        """Remove what stands, `folders` with it, and the records of the run that is replaced."""

    def begin(self, *, replaced: bool) -> None:
        """Prepare what stands for the run, which now has the claim; `replaced`: what stood there was removed."""

    def commit(self, provenance: Json) -> None:
        """Put in place what makes the run's work visible, all of which was checked; only the report is left then.

        Raises:
            DestinationError: what stands there has changed meanwhile, or cannot be written.

        """

    def retract(self) -> None:
        """Take back what `commit` has made visible: another run has the claim."""


@dataclass(frozen=True)
class NewVolume:
    """A volume of the run's own.

    `info` is written at the beginning, so that writers and readers agree.
    """

    url: str
    info: Json
    task: str = "export"

    option: ClassVar[str] = "dst"
    advice: ClassVar[str] = "choose another place, or replace the volume with --overwrite"
    records: ClassVar[str] = RECORDS
    report: ClassVar[str] = VOLUME_REPORT

    @property
    def place(self) -> str:
        """The volume."""
        return self.url

    @property
    def folders(self) -> list[str]:
        """Those of the scales."""
        return folders_of(self.info["scales"])

    def check(self) -> None:
        """Every place will do."""

    def obstacle(self, *, own: bool) -> str | None:
        """Look for a volume."""
        if own or not Folder(self.url).exists("info"):
            return None
        return f"expected a place without a volume, but {self.url}/info exists, without a report of this program"

    def lacking(self) -> str | None:
        """Look for `info`; its scales may be more by now."""
        if Folder(self.url).exists("info"):
            return None
        return f"expected a volume at {self.url}, as {self.report} says, but its info is gone"

    def standing(self) -> list[str]:
        """Those of the scales of the volume that stands there."""
        return folders_of((Folder(self.url).read_json("info") or {}).get("scales"))

    def clear(self, folders: Sequence[str]) -> None:
        """Remove the volume, with whatever runs do with its scales.

        `info` goes last: whoever is killed on the way leaves a volume that is refused, not one that seems to be new.
        """
        folder = Folder(self.url)
        folder.delete_folder(RECORDS)
        for name in folders:
            folder.delete_folder(name)
        folder.delete(["provenance"])
        folder.delete(["info"])

    def begin(self, *, replaced: bool) -> None:
        """Write `info`."""
        write_json(Folder(self.url), "info", self.info)

    def commit(self, provenance: Json) -> None:
        """Write `provenance`, if `info` is still the run's."""
        folder = Folder(self.url)
        info = folder.read_json("info")
        if info != as_read(self.info):
            raise DestinationError(
                f"{self.url}: expected the info that this run has written, but it is "
                f"{'gone' if info is None else 'another'}: give the same command again"
            )
        for name in self.folders:
            folder.delete_abandoned(name)
        write_json(folder, "provenance", provenance)

    def retract(self) -> None:
        """Leave all: the run that has the claim will write its own."""


def inside(paths: Iterable[object]) -> list[str]:
    """Return those of `paths` that lead to a folder in the volume; others (`../other/8_8_8` is legal) are another's."""
    found = [posixpath.normpath(path) for path in paths if isinstance(path, str) and "://" not in path]
    return [path for path in found if path.split("/")[0] not in ("", ".", "..")]


def write_json(folder: Folder, name: str, content: Json) -> None:
    """Write a JSON file for people and programs to read."""
    folder.write(name, json.dumps(content, indent=1).encode(), content_type="application/json")


def folders_of(scales: object) -> list[str]:
    """Return the folders of scales, the entries of an `info` that may be damaged."""
    entries = scales if isinstance(scales, (list, tuple)) else []
    return inside(entry.get("key") for entry in entries if isinstance(entry, dict))


def as_read(content: Any) -> Any:
    """Return `content` as it is once it was written and read: with lists for tuples."""
    return json.loads(json.dumps(content))
