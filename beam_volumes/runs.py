"""What a run leaves beside the volume that it writes: its claim, its finished shards, its report.

While a run goes on, `.beam_volumes/` in the destination holds

- `claim.json`: whose destination this is. It is created exclusively, so of two different runs one is refused;
- `finished/SHARD.json`: one receipt per finished shard, written after the shard;
- `scratch/`: packs, unless `--scratch` says otherwise.

When all is done `provenance` and `report.json` are written and the folder is removed.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from beam_volumes.errors import DestinationError, OptionError
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder

RECORDS = ".beam_volumes"
REPORT = "report.json"
_CLAIM = f"{RECORDS}/claim.json"
_FINISHED = f"{RECORDS}/finished"


class Receipt(NamedTuple):
    """A finished shard: `chunks` encoded chunks in `bytes`, whose checksum is `crc32c`."""

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

    """

    url: str
    identity: Json
    key: str
    state: str

    @property
    def fingerprint(self) -> str:
        """A short hash of the identity."""
        return fingerprint(self.identity)


def fingerprint(identity: Json) -> str:
    """Return 16 hex digits that stand for `identity`."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def inspect_destination(url: str, identity: Json, *, resume: bool, overwrite: bool) -> Claim:
    """Find what a run of `identity` may do with the destination `url`; writes nothing.

    Raises:
        OptionError: something else is there, and `overwrite` is not given.

    """
    folder = Folder(url)
    report, claim = folder.read_json(REPORT), folder.read_json(_CLAIM)
    found = claim or report
    if found is None:
        if folder.read("info") is None:
            return Claim(url, identity, uuid.uuid4().hex, "new")
        if not overwrite:
            raise OptionError(
                f"--dst: expected a place without a volume, but {url}/info exists and is not of this program: "
                "choose another place, or replace the volume with --overwrite"
            )
    elif _identity_of(found) == identity:
        if resume:
            return Claim(url, identity, found.get("key", ""), "resumed" if claim else "complete")
    elif not overwrite:
        raise OptionError(
            f"--dst: {url} holds another run: {_differences(_identity_of(found), identity)}; "
            "choose another place, or replace the volume with --overwrite"
        )
    return Claim(url, identity, uuid.uuid4().hex, "replaced")


def take(claim: Claim, info: Json) -> None:
    """Make the destination this run's own, removing what it replaces, and write its `info`.

    Raises:
        DestinationError: another run was faster.

    """
    folder = Folder(claim.url)
    if claim.state == "replaced":
        _clear(folder)
    if claim.state != "resumed":
        content = json.dumps({"key": claim.key, "identity": claim.identity}, indent=1).encode()
        if not folder.create(_CLAIM, content):
            raise DestinationError(
                f"{claim.url}: another run claimed this destination at the same moment: expected to be alone; "
                "wait for it, or choose another place"
            )
    folder.write("info", json.dumps(info, indent=1).encode(), content_type="application/json")


def check_claim(claim: Claim) -> None:
    """Make sure that the destination is still this run's; called before each shard is written.

    Raises:
        DestinationError: it is not.

    """
    found = Folder(claim.url).read_json(_CLAIM)
    if found is None or found.get("key") != claim.key:
        raise DestinationError(
            f"{claim.url}: expected this run's claim on the destination, but "
            f"{'it is gone' if found is None else 'another run has taken it over'}: nothing more is written; "
            "if no other run is going on, give the same command again"
        )


def record(claim: Claim, receipt: Receipt) -> None:
    """Note that a shard is finished."""
    Folder(claim.url).write(f"{_FINISHED}/{receipt.shard}.json", json.dumps(receipt._asdict()).encode())


def receipts(claim: Claim) -> list[Receipt]:
    """Return the receipts of an unfinished run, by shard."""
    folder = Folder(claim.url)
    found = [folder.read_json(name) for name in folder.list(f"{_FINISHED}/")]
    return sorted(Receipt(**r) for r in found if r)


def scratch_url(claim: Claim, scratch: str | None) -> str:
    """Return the folder of this run's packs: under `scratch`, or beside the volume."""
    return f"{scratch}/{claim.fingerprint}" if scratch else f"{claim.url}/{RECORDS}/scratch"


def finish(claim: Claim, provenance: Json, report: Json) -> None:
    """Commit the run's provenance and report, then remove its records; the last thing that a run does."""
    check_claim(claim)
    folder = Folder(claim.url)
    folder.write("provenance", json.dumps(provenance, indent=1).encode(), content_type="application/json")
    content = {"key": claim.key, "identity": claim.identity, **report}
    folder.write(REPORT, json.dumps(content, indent=1).encode(), content_type="application/json")
    folder.delete_folder(RECORDS)


def _clear(folder: Folder) -> None:
    """Remove a volume and its records: the claim first, so that a run still going on stops writing."""
    info = folder.read_json("info") or {}
    folder.delete([_CLAIM])
    folder.delete([REPORT, "provenance", "info"])
    for scale in info.get("scales", []):
        folder.delete_folder(scale["key"])
    folder.delete_folder(RECORDS)


def _identity_of(found: Json) -> Json:
    identity = found.get("identity")
    return identity if isinstance(identity, dict) else {}


def _differences(before: Json, now: Json) -> str:
    names: Iterable[str] = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    parts = [f"{name} was {_short(before.get(name))}, now {_short(now.get(name))}" for name in names]
    return "; ".join(parts) or "no difference"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
