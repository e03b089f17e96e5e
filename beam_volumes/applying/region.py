"""Where a run writes a box of volumes that may stand already, and that other runs may write to at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from beam_volumes.additions import add_provenance, check_exported
from beam_volumes.applying.outputs import Output
from beam_volumes.destinations import CLAIM, RECORDS, VOLUME_REPORT, as_read, inside, write_json
from beam_volumes.errors import DestinationError, OptionError, VolumeError
from beam_volumes.geometry import Box, Grid
from beam_volumes.precomputed.info import Json, box_of_chunk_name, chunk_name
from beam_volumes.reading_plan import Lattice
from beam_volumes.region_notes import Note, notes, remove_note, write_note
from beam_volumes.storage import Folder, join, normalize

_PATIENCE_SECONDS = 5.0
"""For which a run waits for others that began at the same moment, and are to give way."""

_BETWEEN_LOOKS_SECONDS = 0.1


@dataclass(frozen=True)
class Member:
    """A box of one scale of a volume; in voxels of that scale.

    Attributes:
        url: the volume.
        scale: its key.
        box: what is written.
        cells: the boxes that the scale stores as one object.
        bounds: of the scale.
        info: to be written when the run begins; None where it stands already.
        before: the `info` that stood there when the run was planned; None for none.

    """

    url: str
    scale: str
    box: Box
    cells: Lattice
    bounds: Box
    info: Json | None = None
    before: Json | None = None

    @property
    def place(self) -> str:
        """The box, as messages name it."""
        return f"box {chunk_name(self.box)} of scale {self.scale} of {self.url}"

    def in_cells(self, box: Box) -> Box:
        """Return the whole cells that a box has a part of."""
        grid = Grid(box, self.cells.cell, self.cells.origin)
        x, y, z = (f + n * c for f, n, c in zip(grid.first, grid.shape, grid.cell, strict=True))
        return Box(grid.first, (x, y, z))

    def apart_from(self, other: Box) -> str:
        """Return a box to use instead of this one, which shares cells with another."""
        sides = zip(self.box.start, self.box.stop, self.cells.cell, self.cells.origin, strict=True)
        rounded = [(-((o - a) // c) * c + o, (b - o) // c * c + o) for a, b, c, o in sides]
        ends = zip(rounded, self.box.start, self.box.stop, self.bounds.start, self.bounds.stop, strict=True)
        # The cells at the bounds are cut off there.
        kept = [(a if a == low else ra, b if b == high else rb) for (ra, rb), a, b, low, high in ends]
        (x0, x1), (y0, y1), (z0, z1) = kept
        whole = Box((x0, y0, z0), (x1, y1, z1))
        if self.box.intersection(other).voxels or not whole.voxels:
            return f"a box outside of {chunk_name(self.in_cells(other).intersection(self.bounds))}"
        return f"the box {chunk_name(whole)}, which is of whole ones"


@dataclass(frozen=True)
class Region:
    """A box of one scale of a volume, or of several volumes at once; see `Destination`.

    Runs over boxes that have no chunk (or shard) in common go on at the same time. What stands in the box is written
    over: only the reports of other runs that have written voxels of it are in the way.

    Attributes:
        url: the first volume; for a run that writes to none, a folder for its records and its report.
        members: the boxes, of which the first is in the first volume; none for a run that writes to no volume.

    """

    url: str
    members: tuple[Member, ...] = ()

    task: ClassVar[str] = "apply"
    option: ClassVar[str] = "spec"
    advice: ClassVar[str] = "choose another box or destination, or replace what stands with --overwrite"

    @classmethod
    def planned(cls, outputs: Sequence[Output], box: Box, folder: str | None = None) -> Region:
        """Return the destination of a run.

        Args:
            outputs: the layers that it writes.
            box: in voxels of the outputs.
            folder: for a run without outputs.

        Raises:
            OptionError: an output has no voxels in the box, or not whole ones; or there is no place for the records.

        """
        if not outputs:
            if folder is None:
                raise OptionError(
                    "dst: expected a layer, or level_intermediaries_dirs with a folder for the records and the report "
                    "of a run that writes none, came neither: give one"
                )
            return cls(normalize(folder))
        members = tuple(_member(output, box) for output in outputs)
        return cls(members[0].url, members)

    @property
    def place(self) -> str:
        """The box; without members, the folder."""
        if not self.members:
            return self.url
        others = len(self.members) - 1
        return self.members[0].place + (f" and {others} other{'s' if others > 1 else ''}" if others else "")

    @property
    def records(self) -> str:
        """Of one run at a time for each box."""
        if not self.members:
            return f"{RECORDS}/{self.task}"
        first = self.members[0]
        return f"{RECORDS}/{self.task}-{first.scale.replace('/', '-')}-{chunk_name(first.box)}"

    @property
    def report(self) -> str:
        """In the folder of the scale, with which it vanishes."""
        if not self.members:
            return VOLUME_REPORT
        first = self.members[0]
        return f"{first.scale}/{self.task}/{chunk_name(first.box)}/report.json"

    @property
    def folders(self) -> list[str]:
        """None: those of the scales hold other voxels too."""
        return []

    def check(self) -> None:
        """Refuse volumes that are still being written, and boxes of which an unfinished run writes a chunk."""
        self._check_volumes()
        for member, note in self._others():
            if (note.url, note.records) != (self.url, self.records):
                raise OptionError(f"--{self.option}: {_refusal(member, note)}")

    def obstacle(self, *, own: bool) -> str | None:
        """Look for the reports of runs that have written voxels of this one's, over another box."""
        found = [] if own else self._overlapping()
        if not found:
            return None
        boxes = ", ".join(name for name, _ in found[:3])
        return f"expected no voxels of other runs in {self.place}, came those of box {boxes}"

    def lacking(self) -> str | None:
        """Look whether each `info` still lists the scale."""
        for member in self.members:
            scales = (Folder(member.url).read_json("info") or {}).get("scales")
            listed = [scale.get("key") for scale in scales or () if isinstance(scale, dict)]
            if member.scale not in listed:
                return f"expected scale {member.scale} in {member.url}/info, as {self.report} says, but it is gone"
        return None

    def standing(self) -> list[str]:
        """None."""
        return []

    def clear(self, folders: Sequence[str]) -> None:
        """Remove the records of the run that is replaced, and the reports of those whose voxels are; voxels stay."""
        for name, _ in self._overlapping():
            Folder(self.url).delete_folder(f"{self.members[0].scale}/{self.task}/{name}")
        for member in self.members:
            for note in notes(member.url, member.scale):
                if (note.url, note.records) == (self.url, self.records):
                    remove_note(member.url, member.scale, note)
        Folder(self.url).delete_folder(self.records)

    def begin(self, *, replaced: bool) -> None:
        """Note in each volume that this run writes to it, make sure to be alone, and write each new `info`.

        Raises:
            OptionError: an export has begun meanwhile.
            DestinationError: another run over the same chunks began at the same moment, or an `info` has changed.

        """
        if not self.members:
            return
        own = self._claimed()
        try:
            self._check_volumes()
            # Noted first, looked for others then: of two runs at least one sees the other.
            for member in self.members:
                write_note(member.url, member.scale, own._replace(box=member.box))
            self._outlast(own.key)
            for member in self.members:
                _write_info(member)
        except VolumeError:
            self._withdraw(own)
            raise

    def commit(self, provenance: Json) -> None:
        """Add what was done to each volume's `provenance`; nothing is written any more, so others may begin."""
        for url in sorted({member.url for member in self.members}):
            add_provenance(Folder(url), provenance)
        if self.members:
            self._remove_notes(self._claimed())

    def retract(self) -> None:
        """Leave all: the run that has the claim writes the same box."""

    def _overlapping(self) -> list[tuple[str, Box]]:
        """Return the boxes of complete runs that have written voxels of this run's, but of its own box, by name."""
        if not self.members:
            return []
        first = self.members[0]
        prefix = f"{first.scale}/{self.task}/"
        names = {name.removeprefix(prefix).split("/")[0] for name in Folder(self.url).list(prefix)}
        boxes = [(name, box) for name in sorted(names) if (box := box_of_chunk_name(name)) is not None]
        return [(name, box) for name, box in boxes if box != first.box and box.intersection(first.box).voxels]

    def _check_volumes(self) -> None:
        for member in self.members:
            if not inside([member.scale]):
                raise OptionError(
                    f"--{self.option}: expected a scale that stands in {member.url}, came {member.scale}: write to the "
                    "volume that it stands in"
                )
            check_exported(member.url, self.option)

    def _claimed(self) -> Note:
        """Return who this run is, of its claim."""
        claim = Folder(self.url).read_json(f"{self.records}/{CLAIM}")
        if claim is None:
            raise DestinationError(
                f"{self.place}: expected this run's claim on the destination, but it is gone: give the same command "
                "again"
            )
        return Note(self.url, self.records, str(claim["key"]), self.members[0].box)

    def _others(self, own: str = "") -> Iterator[tuple[Member, Note]]:
        """Yield the notes of unfinished runs that write a chunk of this run's, but of the one whose key is `own`."""
        for member in self.members:
            wanted = member.in_cells(member.box)
            for note in notes(member.url, member.scale):
                meets = member.in_cells(note.box).intersection(wanted).voxels
                if note.key != own and meets and note.counts:
                    yield member, note

    def _outlast(self, own: str) -> None:
        """Return once no other run writes a chunk of this run's.

        Of runs that began at the same moment the one with the lowest key stays, once the others have given way. One
        that began before may be any: it does not give way, and this run does.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        while others := [*self._others(own)]:
            member, note = min(others, key=lambda other: other[1].key)
            if note.key < own or time.monotonic() > until:
                raise DestinationError(_refusal(member, note))
            time.sleep(_BETWEEN_LOOKS_SECONDS)

    def _withdraw(self, own: Note) -> None:
        """Remove the notes, and the claim if nothing was written under it."""
        self._remove_notes(own)
        folder = Folder(self.url)
        if next(folder.list(f"{self.records}/finished/{own.key}/"), None) is None:
            folder.delete([f"{self.records}/{CLAIM}"])
            folder.prune(RECORDS)

    def _remove_notes(self, own: Note) -> None:
        for member in self.members:
            remove_note(member.url, member.scale, own._replace(box=member.box))


def _member(output: Output, box: Box) -> Member:
    output.check_box(box)
    stored = output.stored_box(box)
    if not stored.voxels:
        raise OptionError(
            f"dst, {output.url}: expected a box with voxels of scale {output.scale}, which has {output.bounds}, came "
            f"{box}: give another bbox, or the volume larger bounds"
        )
    backend = output.layer.backend
    before = None if backend.unwritten is None else Folder(output.url).read_json("info")
    info = None if backend.unwritten is None else as_read(backend.unwritten)
    return Member(output.url, output.scale, stored, output.stored_cells, output.stored_bounds, info, before)


def _write_info(member: Member) -> None:
    if member.info is None:
        return
    folder = Folder(member.url)
    found = folder.read_json("info")
    if found not in (member.info, member.before):
        raise DestinationError(
            f"{member.url}/info: expected the one that stood there when the run was planned, came another: give the "
            "same command again"
        )
    if found != member.info:
        write_json(folder, "info", member.info)


def _refusal(member: Member, note: Note) -> str:
    return (
        f"{member.place}: expected no other unfinished run that writes to its chunks of {list(member.cells.cell)} "
        f"voxels, came one of box {chunk_name(note.box)}, whose claim is {join(note.claim)}: two runs that share a "
        f"chunk would lose voxels: finish that one first, or remove its claim if it is given up; or use "
        f"{member.apart_from(note.box)}"
    )
