"""What a run leaves beside what it writes: its claim, its finished shards, its report.

While a run goes on, its destination's folder of records (`.beam_volumes/` in a new volume) holds

- `claim.json`: whose destination this is. It is created exclusively, so of two different runs one is refused;
- `finished/KEY/MIP-SHARD.json`: one receipt per finished shard, written after the shard;
- `holes/KEY/REGION.json`: chunks that the source lacks, where they are accepted;
- `scratch/KEY/`: packs, unless `--scratch` says otherwise.

KEY is the claim's: what a run that was replaced has left, or still writes, is never taken for this run's.

When all is done, the destination is committed, the report written and the records are removed.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from beam_volumes.destinations import CLAIM, RECORDS, Destination, inside, write_json
from beam_volumes.errors import CorruptDataError, DestinationError, OptionError, VolumeError
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder, join, normalize

ItemT = TypeVar("ItemT")

_SECONDS_BETWEEN_CHECKS = 1.0


@dataclass(frozen=True)
class Claim:
    """The right to write to a destination.

    Attributes:
        identity: everything that the written bytes depend on, JSON values; `task` is the pipeline.
        key: which claim: a run that finds another one in its place stops writing.
        state: "new", "resumed" (an unfinished run of the same identity), "complete" (nothing is left to do),
            "incomplete" (complete once, but files are missing since), or "replaced" (what is there must be removed
            first).
        scratch: the folder of this run's packs.

    """

    destination: Destination
    identity: Json
    key: str
    state: str
    scratch: str

    @classmethod
    def of(cls, destination: Destination, identity: Json, state: str, scratch: str | None, key: str = "") -> Claim:
        """Return a claim, new where `key` is not given, whose packs are under `scratch` or among the records.

        Raises:
            OptionError: `scratch` is no place that can be written.

        """
        key = key or uuid.uuid4().hex
        root = normalize(scratch) if scratch else join(destination.url, destination.records, "scratch")
        return cls(destination, {"task": destination.task, **identity}, key, state, join(root, key))

    @property
    def url(self) -> str:
        """The volume."""
        return self.destination.url

    @property
    def place(self) -> str:
        """What the run fills, as messages name it."""
        return self.destination.place

    @property
    def report(self) -> str:
        """The report, below `url`."""
        return self.destination.report

    @property
    def records(self) -> str:
        """The folder of the run's records, below `url`."""
        return self.destination.records


def inspect_destination(
    destination: Destination, identity: Json, *, resume: bool, overwrite: bool, scratch: str | None = None
) -> Claim:
    """Find what a run of `identity` may do with a destination; writes nothing.

    An unfinished run of the same identity is resumed unless `resume` is false; anything else that stands there is only
    replaced with `overwrite`.

    Raises:
        OptionError: something else is there, and `overwrite` is not given; or the volume is not to be touched.
        CorruptDataError: the records of the run that is there cannot be read.

    """
    destination.check()
    wanted = Claim.of(destination, identity, "new", scratch)
    replaced = Claim.of(destination, identity, "replaced", scratch)
    folder = Folder(destination.url)
    report, claim = _read_record(folder, destination.report), _read_record(folder, _claim_file(destination))
    found = claim or report
    # A run that was killed just after its report has left its claim.
    unfinished = claim is not None and not (report and report.key == claim.key)
    own = found is not None and found.identity == wanted.identity
    if found is not None and not (own and unfinished):
        if overwrite:
            return replaced
        if own and resume:
            if lacking := destination.lacking():
                raise OptionError(f"--{destination.option}: {lacking}: {destination.advice}")
            return Claim.of(destination, identity, "complete", scratch, found.key)
        raise OptionError(_refusal(wanted, found, own=own, unfinished=unfinished))
    if obstacle := destination.obstacle(own=own):
        if overwrite:
            return replaced
        raise OptionError(f"--{destination.option}: {obstacle}: {destination.advice}")
    if found is None:
        return wanted
    return Claim.of(destination, identity, "resumed", scratch, found.key) if resume else replaced


def take(claim: Claim) -> None:
    """Make the destination this run's own, removing what it replaces, and prepare it.

    Raises:
        DestinationError: another run was faster, or files stand there that nothing tells of.

    """
    folder, destination = Folder(claim.url), claim.destination
    content = {
        "key": claim.key,
        "identity": claim.identity,
        "folders": destination.folders,
        "scratch": claim.scratch,
    }
    data = json.dumps(content, indent=1).encode()
    if claim.state == "resumed":
        _take_again(claim, data)
    elif claim.state == "incomplete":
        # Its key is that of the report: of two such runs both may go on, as both make what was there.
        folder.create(_claim_file(destination), data)
    elif claim.state == "replaced":
        _clear(claim)
    else:
        _check_empty(destination)
    if claim.state not in ("resumed", "incomplete"):
        if not folder.create(_claim_file(destination), data):
            raise DestinationError(
                f"{claim.place}: another run claimed this destination at the same moment: expected to be alone; "
                "wait for it, or choose another place"
            )
        # One that was replaced may have written it late.
        folder.delete([claim.report])
    destination.begin(replaced=claim.state == "replaced")
    # If another run has replaced this one just now, what it finds is wrong, and its commit will say so.
    check_claim(claim)


def check_claim(claim: Claim) -> None:
    """Make sure that the destination is still this run's; called before each shard is written.

    Raises:
        DestinationError: it is not.

    """
    found = _read_record(Folder(claim.url), _claim_file(claim.destination))
    if found is None or found.key != claim.key:
        raise DestinationError(
            f"{claim.place}: expected this run's claim on the destination, but "
            f"{'it is gone' if found is None else 'another run has taken it over'}: nothing more is written; "
            "if no other run is going on, give the same command again"
        )


def while_claimed(claim: Claim, items: Iterable[ItemT]) -> Iterator[ItemT]:
    """Yield items while the destination is this run's: what is made of them may take long, and another run may begin.

    Raises:
        DestinationError: it is no longer; the claim is looked at once a second, as that may be a request.

    """
    checked = -math.inf
    for item in items:
        if time.monotonic() - checked > _SECONDS_BETWEEN_CHECKS:
            check_claim(claim)
            checked = time.monotonic()
        yield item


@contextlib.contextmanager
def telling_of_replacement(claim: Claim) -> Iterator[None]:
    """Where another run has taken the destination over, files vanish: that is what must be told.

    Raises:
        DestinationError: whatever failed, the destination is this run's no longer.

    """
    try:
        yield
    except Exception:
        check_claim(claim)
        raise


def is_committed(claim: Claim) -> bool:
    """Whether this run has ended well before: an element that commits it may be tried twice."""
    report = _read_record(Folder(claim.url), claim.report)
    return report is not None and report.key == claim.key


def finish(claim: Claim, provenance: Json, report: Json) -> None:
    """Commit what the run has made and its report; then only its records are left to remove.

    Raises:
        DestinationError: the destination was taken over, what stands there is not this run's, or it cannot be written.

    """
    check_claim(claim)
    claim.destination.commit(provenance)
    reported = False
    try:
        check_claim(claim)
        write_json(Folder(claim.url), claim.report, {"key": claim.key, "identity": claim.identity, **report})
        reported = True
        check_claim(claim)
    except DestinationError:
        # Another run has begun between two requests.
        _retract(claim, reported=reported)
        raise


def remove_records(claim: Claim) -> None:
    """Remove what a run kept while it went on: receipts, packs, and last its claim; nothing of another run's."""
    folder, name = Folder(claim.url), _claim_file(claim.destination)
    for records in ("finished", "holes"):
        folder.delete_folder(f"{claim.records}/{records}/{claim.key}")
    Folder(claim.scratch).delete_folder("")
    record = _read_record(folder, name)
    if record and record.key == claim.key:
        if record.scratch != claim.scratch:
            _remove_scratch(record)
        folder.delete([name])
    folder.prune(RECORDS)


class _Record(NamedTuple):
    """What a claim and a report say of a run."""

    key: str
    identity: Json
    folders: list[str]
    scratch: str


def _claim_file(destination: Destination) -> str:
    return f"{destination.records}/{CLAIM}"


def _read_record(folder: Folder, name: str) -> _Record | None:
    found = folder.read_json(name)
    if found is None:
        return None
    key, identity = found.get("key"), found.get("identity")
    if not isinstance(key, str) or not key or not isinstance(identity, dict):
        raise CorruptDataError(
            f"{folder.url}/{name}: expected the record of a run, with its key and identity, came "
            f"{short(found)}: restore the file, or remove it if it is of no use"
        )
    folders, scratch = found.get("folders"), found.get("scratch")
    folders = inside(folders) if isinstance(folders, list) else []
    return _Record(key, identity, folders, scratch if isinstance(scratch, str) else "")


def _take_again(claim: Claim, data: bytes) -> None:
    """Go on with a claim, maybe with another scratch folder: what is in the one before is made anew."""
    check_claim(claim)
    folder, name = Folder(claim.url), _claim_file(claim.destination)
    before = _read_record(folder, name)
    if before and before.scratch != claim.scratch:
        folder.write(name, data)
        _remove_scratch(before)


def _remove_scratch(run: _Record) -> None:
    """Remove the packs of a run; only from a folder that a run made, whose name is its key, and all that is in it."""
    before, found, _ = f"{run.scratch}/".partition(f"/{run.key}/")
    if found:
        Folder(f"{before}/{run.key}").delete_folder("")


def _clear(claim: Claim) -> None:
    """Remove what the run replaces, and what stands where it will write.

    First the claim becomes nobody's, so that a run still going on stops writing. It tells what is to be removed:
    whoever is killed on the way leaves a destination that is refused, not one that seems to be new.
    """
    folder, destination = Folder(claim.url), claim.destination
    name = _claim_file(destination)
    run = _read_record(folder, name)
    folders = sorted({*destination.standing(), *destination.folders, *(run.folders if run else [])})
    content = {"key": uuid.uuid4().hex, "identity": {"replaced_by": claim.identity}, "folders": folders}
    folder.write(name, json.dumps(content, indent=1).encode())
    folder.delete([claim.report])
    if run:
        _remove_scratch(run)
    destination.clear(folders)


def _retract(claim: Claim, *, reported: bool) -> None:
    """Take back what a run has committed that another one is replacing; what is complete stays."""
    folder = Folder(claim.url)
    found = _read_record(folder, _claim_file(claim.destination))
    if found is not None and found.key != claim.key:
        claim.destination.retract()
    # Without a claim, an equal run may just have ended: its work and this one's are the same.
    replaced = found.key != claim.key if found else not _is_visible(claim.destination)
    if reported and replaced and is_committed(claim):
        folder.delete([claim.report])


def _is_visible(destination: Destination) -> bool:
    try:
        return destination.lacking() is None
    except VolumeError:
        # Not even the volume stands there any more.
        return False


def _check_empty(destination: Destination) -> None:
    for name in destination.folders:
        found = next(Folder(destination.url).list(f"{name}/"), None)
        if found is not None:
            raise DestinationError(
                f"{destination.url}: expected nothing in {name}, but there is {found}, though no info lists it: remove "
                f"{destination.url}/{name} if it is of no use, or choose another place"
            )


def _refusal(wanted: Claim, found: _Record, *, own: bool, unfinished: bool) -> str:
    """Return why a run is refused that finds another one, or itself, complete."""
    destination = wanted.destination
    if own:
        return (
            f"--resume: expected an unfinished {destination.task} at {wanted.place} to begin anew, but it is complete: "
            "leave --resume out, or replace what it has written with --overwrite"
        )
    return (
        f"--{destination.option}: {wanted.place} holds another run: {_differences(found.identity, wanted.identity)}; "
        f"{'finish it with its own command, or ' if unfinished else ''}{destination.advice}"
    )


def _differences(before: Json, now: Json) -> str:
    found = [*_differing("", before, now)]
    texts = [(name, short(was), short(value)) for name, was, value in found]
    # Of long values, nothing is told by their beginnings, where these are the same.
    parts = [f"{name} was {was}, now {value}" for name, was, value in texts if was != value]
    return "; ".join(parts) or ", ".join(name for name, *_ in found) or "no difference"


def _differing(path: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs, its path first: of dictionaries, and of lists of as many, part by part."""
    if before == now:
        return
    parts: Iterable[tuple[Any, Any, Any]]
    if isinstance(before, dict) and isinstance(now, dict):
        # Of specs of other types the arguments are other ones, too.
        keys = ["@type"] if before.get("@type") != now.get("@type") else sorted(before.keys() | now.keys())
        parts = [(key, before.get(key), now.get(key)) for key in keys]
    elif _are_alike(before, now):
        parts = [(at, *both) for at, both in enumerate(zip(before, now, strict=True))]
    else:
        yield path, before, now
        return
    for key, was, value in parts:
        yield from _differing(f"{path}.{key}" if path else str(key), was, value)


def _are_alike(before: Any, now: Any) -> bool:
    """Whether these are lists of as many dictionaries."""
    if not isinstance(before, list) or not isinstance(now, list) or len(before) != len(now):
        return False
    return all(isinstance(item, dict) for item in (*before, *now))


def short(value: object) -> str:
    """Return a value as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
