"""What a run leaves beside the volume that it writes: its claim, its finished shards, its report.

While a run goes on, `.beam_volumes/` in the destination holds

- `claim.json`: whose destination this is. It is created exclusively, so of two different runs one is refused;
- `finished/KEY/MIP-SHARD.json`: one receipt per finished shard, written after the shard;
- `holes/KEY/REGION.json`: chunks that the source lacks, where they are accepted;
- `scratch/KEY/`: packs, unless `--scratch` says otherwise.

KEY is the claim's: what a run that was replaced has left, or still writes, is never taken for this run's.

When all is done `provenance` and `report.json` are written and the folder is removed.
"""

from __future__ import annotations

import itertools
import json
import posixpath
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from beam_volumes.errors import CorruptDataError, DestinationError, OptionError
from beam_volumes.geometry import Box
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder, join, normalize

RECORDS = ".beam_volumes"
REPORT = "report.json"
_CLAIM = f"{RECORDS}/claim.json"
_FINISHED = f"{RECORDS}/finished"
_HOLES = f"{RECORDS}/holes"


class Receipt(NamedTuple):
    """A finished shard of the scale `mip`: `chunks` encoded chunks in `bytes`, whose checksum is `crc32c`."""

    mip: int
    shard: int
    chunks: int
    bytes: int
    crc32c: int


@dataclass(frozen=True)
class Claim:
    """The right to write to a destination.

    Attributes:
        url: the destination.
        identity: everything that the written bytes depend on, JSON values.
        key: which claim: a run that finds another one in its place stops writing.
        state: "new", "resumed" (an unfinished run of the same identity), "complete" (nothing is left to do), or
            "replaced" (what is there must be removed first).
        scratch: the folder of this run's packs.

    """

    url: str
    identity: Json
    key: str
    state: str
    scratch: str

    @classmethod
    def of(cls, url: str, identity: Json, state: str, scratch: str | None, key: str = "") -> Claim:
        """Return a claim, new where `key` is not given, whose packs are under `scratch` or beside the volume.

        Raises:
            OptionError: `scratch` is no place that can be written.

        """
        key = key or uuid.uuid4().hex
        root = normalize(scratch) if scratch else join(url, RECORDS, "scratch")
        return cls(url, identity, key, state, join(root, key))


def inspect_destination(
    url: str, identity: Json, *, resume: bool, overwrite: bool, scratch: str | None = None
) -> Claim:
    """Find what a run of `identity` may do with the destination `url`; writes nothing.

    An unfinished run of the same identity is resumed unless `resume` is false; anything else that stands there is only
    replaced with `overwrite`.

    Raises:
        OptionError: something else is there, and `overwrite` is not given.
        CorruptDataError: the records of the run that is there cannot be read.

    """
    folder = Folder(url)
    report, claim = _read_record(folder, REPORT), _read_record(folder, _CLAIM)
    found = claim or report
    if found is None:
        if folder.read("info") is None:
            return Claim.of(url, identity, "new", scratch)
        if not overwrite:
            raise OptionError(
                f"--dst: expected a place without a volume, but {url}/info exists, without a report of this program: "
                "choose another place, or replace the volume with --overwrite"
            )
    elif found.identity == identity:
        # A run that was killed just after its report has left its claim.
        unfinished = claim is not None and not (report and report.key == claim.key)
        if resume and (unfinished or not overwrite):
            return Claim.of(url, identity, "resumed" if unfinished else "complete", scratch, found.key)
        if not unfinished and not overwrite:
            raise OptionError(
                f"--resume: expected an unfinished export at {url} to begin anew, but it is complete: leave --resume "
                "out, or replace the volume with --overwrite"
            )
    elif not overwrite:
        raise OptionError(
            f"--dst: {url} holds another run: {_differences(found.identity, identity)}; "
            "choose another place, or replace the volume with --overwrite"
        )
    return Claim.of(url, identity, "replaced", scratch)


def take(claim: Claim, info: Json) -> None:
    """Make the destination this run's own, removing what it replaces, and write its `info`.

    Raises:
        DestinationError: another run was faster, or files of chunks stand there without a volume.

    """
    folder = Folder(claim.url)
    scales = _scale_folders(info)
    content = {"key": claim.key, "identity": claim.identity, "info": info, "scratch": claim.scratch}
    data = json.dumps(content, indent=1).encode()
    if claim.state == "resumed":
        _take_again(claim, data)
    elif claim.state == "replaced":
        _clear(folder, scales)
    else:
        _check_empty(folder, scales)
    if claim.state != "resumed" and not folder.create(_CLAIM, data):
        raise DestinationError(
            f"{claim.url}: another run claimed this destination at the same moment: expected to be alone; "
            "wait for it, or choose another place"
        )
    _write_json(folder, "info", info)
    # If another run has replaced this one just now, the info that it finds is wrong, and its commit will say so.
    check_claim(claim)


def check_claim(claim: Claim) -> None:
    """Make sure that the destination is still this run's; called before each shard is written.

    Raises:
        DestinationError: it is not.

    """
    found = _read_record(Folder(claim.url), _CLAIM)
    if found is None or found.key != claim.key:
        raise DestinationError(
            f"{claim.url}: expected this run's claim on the destination, but "
            f"{'it is gone' if found is None else 'another run has taken it over'}: nothing more is written; "
            "if no other run is going on, give the same command again"
        )


def record(claim: Claim, receipt: Receipt) -> None:
    """Note that a shard is finished."""
    name = f"{_FINISHED}/{claim.key}/{receipt.mip}-{receipt.shard}.json"
    Folder(claim.url).write(name, json.dumps(receipt._asdict()).encode())


def receipts(claim: Claim) -> list[Receipt]:
    """Return the receipts of an unfinished run, by mip and shard.

    Raises:
        CorruptDataError: one of them is damaged.

    """
    folder = Folder(claim.url)
    names, wanted = itertools.tee(folder.list(f"{_FINISHED}/{claim.key}/"))
    found = zip(names, folder.read_many(wanted), strict=True)
    return sorted(_receipt(f"{folder.url}/{name}", data) for name, data in found if data is not None)


def record_holes(claim: Claim, region: int, holes: list[Box]) -> None:
    """Note the chunks that the source lacks in a region; before anything of the region is written."""
    Folder(claim.url).write(f"{_HOLES}/{claim.key}/{region}.json", json.dumps({"boxes": holes}).encode())


def recorded_holes(claim: Claim) -> list[Box]:
    """Return the chunks that the source lacks, as far as regions were read."""
    folder = Folder(claim.url)
    found = folder.read_many(folder.list(f"{_HOLES}/{claim.key}/"))
    boxes = (values for data in found if data is not None for values in json.loads(data)["boxes"])
    return sorted({Box.of_lists(values) for values in boxes})


def is_committed(claim: Claim) -> bool:
    """Whether this run has ended well before: an element that commits it may be tried twice."""
    report = _read_record(Folder(claim.url), REPORT)
    return report is not None and report.key == claim.key


def finish(claim: Claim, provenance: Json, report: Json) -> None:
    """Commit the run's provenance and report; then only its records are left to remove.

    Raises:
        DestinationError: the destination was taken over, its `info` is not this run's, or it cannot be written.

    """
    folder = Folder(claim.url)
    check_claim(claim)
    info, record = folder.read_json("info"), folder.read_json(_CLAIM) or {}
    if info is None or info != record.get("info"):
        raise DestinationError(
            f"{claim.url}: expected the info that this run has written, but it is "
            f"{'gone' if info is None else 'another'}: give the same command again"
        )
    for scale in _scale_folders(info):
        folder.delete_abandoned(scale)
    _write_json(folder, "provenance", provenance)
    check_claim(claim)
    _write_json(folder, REPORT, {"key": claim.key, "identity": claim.identity, **report})
    try:
        check_claim(claim)
    except DestinationError:
        # Another run has begun between the last two requests: this report would call its volume complete.
        if is_committed(claim):
            folder.delete([REPORT])
        raise


def remove_records(claim: Claim) -> None:
    """Remove what a run kept while it went on: receipts, packs, and last its claim; nothing of another run's."""
    folder = Folder(claim.url)
    for records in (_FINISHED, _HOLES):
        folder.delete_folder(f"{records}/{claim.key}")
    Folder(claim.scratch).delete_folder("")
    record = _read_record(folder, _CLAIM)
    if record and record.key == claim.key:
        if record.scratch != claim.scratch:
            _remove_scratch(record)
        folder.delete([_CLAIM])
    folder.prune(RECORDS)


class _Record(NamedTuple):
    """What a claim and a report say of a run."""

    key: str
    identity: Json
    scratch: str


def _read_record(folder: Folder, name: str) -> _Record | None:
    found = folder.read_json(name)
    if found is None:
        return None
    key, identity = found.get("key"), found.get("identity")
    if not isinstance(key, str) or not key or not isinstance(identity, dict):
        raise CorruptDataError(
            f"{folder.url}/{name}: expected the record of a run, with its key and identity, came "
            f"{_short(found)}: restore the file, or remove it if it is of no use"
        )
    scratch = found.get("scratch")
    return _Record(key, identity, scratch if isinstance(scratch, str) else "")


def _receipt(url: str, data: bytes) -> Receipt:
    try:
        found = json.loads(data)
        if found.keys() == set(Receipt._fields) and all(type(n) is int for n in found.values()):
            return Receipt(**found)
    except (ValueError, AttributeError):
        pass
    raise CorruptDataError(
        f"{url}: expected {', '.join(Receipt._fields)} of a finished shard, came "
        f"{_short(data.decode(errors='replace'))}: remove the file and give the same command again, and the shard is "
        "written anew"
    )


def _take_again(claim: Claim, data: bytes) -> None:
    """Go on with a claim, maybe with another scratch folder: what is in the one before is made anew."""
    check_claim(claim)
    folder = Folder(claim.url)
    before = _read_record(folder, _CLAIM)
    if before and before.scratch != claim.scratch:
        folder.write(_CLAIM, data)
        _remove_scratch(before)


def _remove_scratch(run: _Record) -> None:
    """Remove the packs of a run; only from a folder that a run made, whose name is its key."""
    if run.scratch.endswith(f"/{run.key}"):
        Folder(run.scratch).delete_folder("")


def _write_json(folder: Folder, name: str, content: Json) -> None:
    folder.write(name, json.dumps(content, indent=1).encode(), content_type="application/json")


def _clear(folder: Folder, scales: list[str]) -> None:
    """Remove a volume and its records, and what stands where `scales` will be.

    The claim goes first, so that a run still going on stops writing, and `info` last: whoever is killed on the way
    leaves a volume that is refused, not one that seems to be new.
    """
    before = _scale_folders(folder.read_json("info") or {})
    run = _read_record(folder, _CLAIM)
    folder.delete([_CLAIM, REPORT])
    if run:
        _remove_scratch(run)
    folder.delete_folder(RECORDS)
    for scale in sorted({*before, *scales}):
        folder.delete_folder(scale)
    folder.delete(["provenance"])
    folder.delete(["info"])


def _check_empty(folder: Folder, scales: list[str]) -> None:
    for scale in scales:
        found = next(folder.list(f"{scale}/"), None)
        if found is not None:
            raise DestinationError(
                f"{folder.url}: expected a place without a volume, but there is {found}, though no info: remove "
                f"{folder.url}/{scale}, or choose another place"
            )


def _scale_folders(info: Json) -> list[str]:
    """Return the folders of the scales of a volume; those elsewhere (`../other/8_8_8` is legal) are another's."""
    scales = info.get("scales")
    keys = [s.get("key") for s in scales if isinstance(s, dict)] if isinstance(scales, list) else []
    paths = [posixpath.normpath(key) for key in keys if isinstance(key, str) and "://" not in key]
    return [path for path in paths if path.split("/")[0] not in ("", ".", "..")]


def _differences(before: Json, now: Json) -> str:
    names: Iterable[str] = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    parts = [f"{name} was {_short(before.get(name))}, now {_short(now.get(name))}" for name in names]
    return "; ".join(parts) or "no difference"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
