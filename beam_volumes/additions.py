"""What a run adds to a Precomputed volume that stands: coarser scales, or files about one of its scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from beam_volumes.destinations import CLAIM, RECORDS, VOLUME_REPORT, as_read, folders_of, inside, write_json
from beam_volumes.errors import CorruptDataError, DestinationError, OptionError
from beam_volumes.precomputed.info import Json
from beam_volumes.region_notes import drop_claims
from beam_volumes.storage import Folder

_SCALE_TASKS = ("count_voxels",)
"""Those that write files about one scale: they stop when the scale is removed."""


@dataclass(frozen=True)
class NewScales:
    """Scales that are added to a volume that stands, at its coarse end.

    `info` lists them only when they are complete.

    Attributes:
        mip: the coarsest scale that stays.
        scales: the entries of the new scales in `info`, from `mip` + 1 on.
        finer: the entries of the scales up to `mip`, as they stood when the run was planned.

    """

    url: str
    mip: int
    scales: tuple[Json, ...]
    finer: tuple[Json, ...]
    task: str = "downsample"

    option: ClassVar[str] = "layer"
    advice: ClassVar[str] = "go on from the coarsest with --mip, or replace them with --overwrite"

    @classmethod
    def planned(cls, url: str, mip: int, scales: Iterable[Json]) -> NewScales:
        """Return the destination of a run that makes `scales` of the scale at `mip` of the volume that stands at `url`.

        Raises:
            OptionError: there is no such volume, it has no such scale, or one of the same key.

        """
        _, listed = read_info(url, cls.option)
        if not 0 <= mip < len(listed):
            raise OptionError(f"--mip: expected 0 to {len(listed) - 1}, a scale in {url}/info, came {mip}")
        new, finer = tuple(as_read([*scales])), tuple(listed[: mip + 1])
        if same := set(folders_of(new)) & set(folders_of(finer)):
            raise OptionError(f"--factor: expected scales that {url} lacks, came another {', '.join(sorted(same))}")
        return cls(url, mip, new, finer)

    @property
    def place(self) -> str:
        """The volume."""
        return self.url

    @property
    def records(self) -> str:
        """Of one run at a time."""
        return f"{RECORDS}/{self.task}"

    @property
    def report(self) -> str:
        """In the folder of the first new scale, with which it vanishes."""
        return f"{self.folders[0]}/report.json"

    @property
    def folders(self) -> list[str]:
        """Those of the new scales."""
        return folders_of(self.scales)

    def check(self) -> None:
        """Refuse a volume that is still being written, and a provenance that cannot be gone on with."""
        check_exported(self.url, self.option)
        _read_provenance(Folder(self.url))

    def obstacle(self, *, own: bool) -> str | None:
        """Coarser scales, which no record calls this run's."""
        _, coarser = self._read()
        if not coarser or (own and coarser == [*self.scales]):
            return None
        return f"expected no coarser mips than {self.mip} in {self.url}/info, came {_keys(coarser)}"

    def lacking(self) -> str | None:
        """Look whether `info` still lists the scales; there may be coarser ones by now."""
        _, coarser = self._read()
        if coarser[: len(self.scales)] == [*self.scales]:
            return None
        return (
            f"expected {_keys(self.scales)} in {self.url}/info, as {self.report} says, came {_keys(coarser) or 'none'}"
        )

    def standing(self) -> list[str]:
        """Those of the scales coarser than `mip`."""
        return folders_of(self._read()[1])

    def clear(self, folders: Sequence[str]) -> None:
        """Remove the scales coarser than `mip`, from `info` first: readers find whole scales or none."""
        folder, kept = Folder(self.url), folders_of(self.finer)
        self._list([])
        for name in folders:
            if not any(f"{scale}/".startswith(f"{name}/") for scale in kept):
                _delete_scale(folder, name)
        folder.delete_folder(self.records)

    def begin(self, *, replaced: bool) -> None:
        """Make sure that no scale is listed but finer ones, and complete ones of this run."""
        self.check()
        if replaced:
            # The run that was replaced may have listed its scales late.
            self._list([])
        else:
            self._check_coarser()

    def commit(self, provenance: Json) -> None:
        """List the new scales in `info`, and add what was done to `provenance`."""
        folder = Folder(self.url)
        self._check_coarser()
        for name in self.folders:
            folder.delete_abandoned(name)
        self._list(self.scales)
        add_provenance(folder, provenance)

    def retract(self) -> None:
        """Remove the new scales from `info`."""
        info = Folder(self.url).read_json("info") or {}
        if info.get("scales") == [*self.finer, *self.scales]:
            self._list([])

    def _read(self) -> tuple[Json, list[Json]]:
        """Return `info`, and of its scales those coarser than `mip`."""
        info, scales = read_info(self.url, self.option)
        if scales[: self.mip + 1] != [*self.finer]:
            raise DestinationError(
                f"{self.url}/info: expected the mips up to {self.mip} that were there when the run began, came others: "
                "give the same command again"
            )
        return info, scales[self.mip + 1 :]

    def _check_coarser(self) -> None:
        _, coarser = self._read()
        if coarser not in ([], [*self.scales]):
            raise DestinationError(
                f"{self.url}/info: expected no coarser mips than {self.mip} but this run's, came {_keys(coarser)}: "
                f"{self.advice}"
            )

    def _list(self, scales: Iterable[Json]) -> None:
        """Let `info` list `scales` after those up to `mip`; its other fields stay as they are now."""
        info, coarser = self._read()
        if coarser != [*scales]:
            write_json(Folder(self.url), "info", {**info, "scales": [*self.finer, *scales]})


@dataclass(frozen=True)
class DerivedFiles:
    """Files that tell of one scale of a volume, in its folder.

    Attributes:
        task: the pipeline that makes them.
        scale: the scale's key.
        names: the files, below the scale's folder; the report is not one of them.
        report_name: the report, below the scale's folder.

    """

    url: str
    task: str
    scale: str
    names: tuple[str, ...]
    report_name: str

    option: ClassVar[str] = "layer"
    advice: ClassVar[str] = "replace what is there with --overwrite"

    @property
    def place(self) -> str:
        """The volume."""
        return self.url

    @property
    def folders(self) -> list[str]:
        """None: the scale's folder holds other files too."""
        return []

    @property
    def records(self) -> str:
        """Of one run at a time for each scale."""
        return _scale_records(self.task, self.scale)

    @property
    def report(self) -> str:
        """Beside the files."""
        return f"{self.scale}/{self.report_name}"

    @property
    def files(self) -> list[str]:
        """The files, below the volume."""
        return [f"{self.scale}/{name}" for name in self.names]

    def check(self) -> None:
        """Refuse a volume that is still being written, and a scale that stands elsewhere."""
        if not inside([self.scale]):
            raise OptionError(f"--{self.option}: expected a scale that stands in {self.url}, came {self.scale}")
        check_exported(self.url, self.option)

    def obstacle(self, *, own: bool) -> str | None:
        """One of the files stands there."""
        found = [] if own else [name for name in self.files if Folder(self.url).exists(name)]
        if not found:
            return None
        return f"expected no files of {self.task} in {self.url}, but there is {found[0]}, without a report"

    def lacking(self) -> str | None:
        """Say nothing: files are seen where they stand."""
        return None

    def standing(self) -> list[str]:
        """None."""
        return []

    def clear(self, folders: Sequence[str]) -> None:
        """Remove the files; `info` and the scale stay."""
        folder = Folder(self.url)
        folder.delete(self.files)
        folder.delete_folder(self.records)

    def begin(self, *, replaced: bool) -> None:
        """Look once more whether the volume is complete."""
        self.check()

    def commit(self, provenance: Json) -> None:
        """Leave all: the volume's voxels are as they were, and the report says the rest."""

    def retract(self) -> None:
        """Leave all."""


def _keys(scales: Iterable[Json]) -> str:
    return ", ".join(str(scale.get("key")) for scale in scales)


def read_info(url: str, option: str) -> tuple[Json, list[Json]]:
    """Return the `info` of a volume that stands at `url`, and its scales."""
    info = Folder(url).read_json("info") or {}
    scales = info.get("scales")
    if not isinstance(scales, list) or not all(isinstance(scale, dict) for scale in scales):
        came = "lists no scales" if info else "does not exist"
        raise OptionError(f"--{option}: expected a Precomputed volume, but {url}/info {came}")
    return info, scales


def _read_provenance(folder: Folder) -> Json | None:
    """Return a volume's provenance with a list of what was done, or None where there is none."""
    found = folder.read_json("provenance")
    if found is None:
        return None
    found = {"processing": [], **found}
    if not isinstance(found["processing"], list):
        raise CorruptDataError(
            f"{folder.url}/provenance: expected a list as processing, came {type(found['processing']).__name__}: "
            "restore the file, or remove it if it is of no use"
        )
    return found


def add_provenance(folder: Folder, provenance: Json) -> None:
    """Add what was done to the `provenance` of a volume that stands.

    Raises:
        CorruptDataError: what stands there cannot be gone on with.
        DestinationError: it cannot be written.

    """
    done, before = as_read(provenance), _read_provenance(folder)
    if before is not None:
        methods = [entry["method"] for entry in done["processing"]]
        # What a try of this run has added, or the same command in former times, is not told twice.
        kept = [e for e in before["processing"] if not (isinstance(e, dict) and e.get("method") in methods)]
        done = {**before, "processing": kept + done["processing"]}
    write_json(folder, "provenance", done)


def check_exported(url: str, option: str) -> None:
    """Refuse a volume that an export has begun and not ended."""
    folder = Folder(url)
    claim, report = folder.read_json(f"{RECORDS}/{CLAIM}"), folder.read_json(VOLUME_REPORT) or {}
    # An export that was killed just after its report has left its claim.
    if claim is not None and claim.get("key") != report.get("key"):
        raise OptionError(
            f"--{option}: expected a complete volume, but the export of {url} is not finished: wait for it, or give "
            "its command again to finish it"
        )


def _scale_records(task: str, scale: str) -> str:
    return f"{RECORDS}/{task}-{scale.replace('/', '-')}"


def _delete_scale(folder: Folder, scale: str) -> None:
    """Remove a scale; the claims on files about it first, so that who makes them stops."""
    for task in _SCALE_TASKS:
        folder.delete_folder(_scale_records(task, scale))
    drop_claims(folder.url, scale)
    folder.delete_folder(scale)
