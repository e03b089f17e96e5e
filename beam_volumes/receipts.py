"""What a run notes down while it goes on: the shards that are finished, and the chunks that the source lacks."""

from __future__ import annotations

import itertools
import json
from typing import NamedTuple

from beam_volumes.errors import CorruptDataError, OptionError
from beam_volumes.geometry import Box
from beam_volumes.runs import Claim, short
from beam_volumes.storage import Folder


class Receipt(NamedTuple):
    """A finished shard of the scale `mip`: `chunks` encoded chunks in `bytes`, whose checksum is `crc32c`."""

    mip: int
    shard: int
    chunks: int
    bytes: int
    crc32c: int


def record(claim: Claim, receipt: Receipt) -> None:
    """Note that a shard is finished."""
    Folder(claim.url).write(_receipt_name(claim, receipt.mip, receipt.shard), json.dumps(receipt._asdict()).encode())


def receipt_of(claim: Claim, mip: int, shard: int) -> Receipt | None:
    """Return the receipt of a shard that an unfinished run has written; None where it has not.

    Raises:
        CorruptDataError: it is damaged.

    """
    folder, name = Folder(claim.url), _receipt_name(claim, mip, shard)
    data = folder.read(name)
    return None if data is None else _receipt(f"{folder.url}/{name}", data)


def receipts(claim: Claim) -> list[Receipt]:
    """Return the receipts of an unfinished run, by mip and shard.

    Raises:
        CorruptDataError: one of them is damaged.

    """
    folder = Folder(claim.url)
    names, wanted = itertools.tee(folder.list(f"{claim.records}/finished/{claim.key}/"))
    found = zip(names, folder.read_many(wanted), strict=True)
    return sorted(_receipt(f"{folder.url}/{name}", data) for name, data in found if data is not None)


def record_holes(claim: Claim, region: int, holes: list[Box]) -> None:
    """Note the chunks that the source lacks in a region; before anything of the region is written."""
    Folder(claim.url).write(f"{claim.records}/holes/{claim.key}/{region}.json", json.dumps({"boxes": holes}).encode())


def recorded_holes(claim: Claim) -> list[Box]:
    """Return the chunks that the source lacks, as far as regions were read."""
    folder = Folder(claim.url)
    found = folder.read_many(folder.list(f"{claim.records}/holes/{claim.key}/"))
    boxes = (values for data in found if data is not None for values in json.loads(data)["boxes"])
    return sorted({Box.of_lists(values) for values in boxes})


def check_reported_holes(claim: Claim, *, fill_missing: bool) -> None:
    """Refuse to take what is complete as whole where it was made with holes.

    Raises:
        OptionError: so it is, and holes are not accepted now.

    """
    if claim.state != "complete" or fill_missing:
        return
    if holes := (Folder(claim.url).read_json(claim.report) or {}).get("holes"):
        raise OptionError(
            f"--fill_missing: expected it, because {claim.place} is complete with {len(holes):,} "
            f"{'hole' if len(holes) == 1 else 'holes'} that --fill_missing accepted ({short(holes)}): give it again to "
            "take that as it is, or --overwrite to make it anew"
        )


def _receipt_name(claim: Claim, mip: int, shard: int) -> str:
    return f"{claim.records}/finished/{claim.key}/{mip}-{shard}.json"


def _receipt(url: str, data: bytes) -> Receipt:
    try:
        found = json.loads(data)
        if found.keys() == set(Receipt._fields) and all(type(n) is int for n in found.values()):
            return Receipt(**found)
    except (ValueError, AttributeError):
        pass
    raise CorruptDataError(
        f"{url}: expected {', '.join(Receipt._fields)} of a finished shard, came "
        f"{short(data.decode(errors='replace'))}: remove the file and give the same command again, and the shard is "
        "written anew"
    )
