"""Who writes which box of a scale: notes that unfinished runs keep in each volume that they write to.

A note stands in `.beam_volumes/regions/SCALE/BOX.KEY.json`; KEY is that of the run's claim, and the note tells where
that claim stands. Without the claim a note means nothing: a run that is replaced or done leaves none that counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from beam_volumes.destinations import CLAIM, RECORDS
from beam_volumes.errors import CorruptDataError
from beam_volumes.geometry import Box
from beam_volumes.precomputed.info import box_of_chunk_name, chunk_name
from beam_volumes.storage import Folder, join

_NAME = re.compile(r"(.*)\.(\w+)\.json")


class Note(NamedTuple):
    """A run writes to a box of a scale.

    Attributes:
        url: the volume with the run's claim.
        records: the folder of its records in there.
        key: of its claim.
        box: voxels of the scale.

    """

    url: str
    records: str
    key: str
    box: Box

    @property
    def claim(self) -> str:
        """Where the claim stands."""
        return join(self.url, self.records, CLAIM)

    @property
    def counts(self) -> bool:
        """Whether the run still has its claim."""
        found = Folder(self.url).read_json(f"{self.records}/{CLAIM}")
        return found is not None and found.get("key") == self.key


def write_note(volume: str, scale: str, note: Note) -> None:
    """Note in a volume that a run writes to a box of one of its scales."""
    content = {"url": note.url, "records": note.records}
    Folder(volume).write(_name(scale, note), json.dumps(content).encode())


def remove_note(volume: str, scale: str, note: Note) -> None:
    """Remove a note, if it is there."""
    folder = Folder(volume)
    folder.delete([_name(scale, note)])
    folder.prune(RECORDS)


def notes(volume: str, scale: str) -> Iterator[Note]:
    """Yield the notes on a scale, also those that do not count any more.

    Raises:
        CorruptDataError: one of them is damaged.

    """
    folder, prefix = Folder(volume), f"{_folder(scale)}/"
    for name in folder.list(prefix):
        found = _NAME.fullmatch(name.removeprefix(prefix))
        box = box_of_chunk_name(found[1]) if found else None
        content = None if box is None else folder.read_json(name)
        if found is None or box is None or content is None:
            continue
        url, records = content.get("url"), content.get("records")
        if not isinstance(url, str) or not isinstance(records, str) or not records.startswith(f"{RECORDS}/"):
            raise CorruptDataError(
                f"{join(volume, name)}: expected url and records of a run, came {sorted(content)}: remove the file if "
                "no run is going on there"
            )
        yield Note(url, records, found[2], box)


def drop_claims(volume: str, scale: str) -> None:
    """Take the claims from all runs that write to a scale, so that they stop: it is to be removed."""
    for note in notes(volume, scale):
        if note.counts:
            Folder(note.url).delete([f"{note.records}/{CLAIM}"])
    Folder(volume).delete_folder(_folder(scale))


def _folder(scale: str) -> str:
    return f"{RECORDS}/regions/{scale.replace('/', '-')}"


def _name(scale: str, note: Note) -> str:
    return f"{_folder(scale)}/{chunk_name(note.box)}.{note.key}.json"
