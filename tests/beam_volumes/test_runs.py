"""The records that a run keeps beside its volume: claims, receipts, the commit."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from beam_volumes.destinations import NewVolume
from beam_volumes.errors import CorruptDataError, DestinationError, OptionError
from beam_volumes.geometry import Box
from beam_volumes.precomputed.info import Json
from beam_volumes.receipts import Receipt, receipts, record, record_holes, recorded_holes
from beam_volumes.runs import Claim, check_claim, finish, inspect_destination, is_committed, remove_records, take
from beam_volumes.storage import Folder

IDENTITY: Json = {"task": "export", "src": "made://neurons?size=9,9,9", "mip": 0, "chunk_size": [64, 64, 32]}
OTHER: Json = {**IDENTITY, "mip": 2, "timestamp": 1_700_000_000}
INFO: Json = {"@type": "neuroglancer_multiscale_volume", "scales": [{"key": "8_8_8"}]}
IMAGE: Json = {**INFO, "type": "image"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/seg"


def inspect(
    url: str,
    identity: Json = IDENTITY,
    *,
    resume: bool = True,
    overwrite: bool = False,
    scratch: str | None = None,
    info: Json = INFO,
) -> Claim:
    destination = NewVolume(url, info)
    return inspect_destination(destination, identity, resume=resume, overwrite=overwrite, scratch=scratch)


def ended(claim: Claim, provenance: Json | None = None, report: Json | None = None) -> None:
    finish(claim, provenance or {}, report or {})
    remove_records(claim)


def taken(url: str, identity: Json = IDENTITY, **options: Any) -> Claim:
    claim = inspect(url, identity, **options)
    take(claim)
    return claim


def finished(url: str, identity: Json = IDENTITY) -> Claim:
    claim = taken(url, identity)
    Folder(url).write("8_8_8/0.shard", b"voxels")
    record(claim, Receipt(0, 0, 1, 6, 7))
    ended(claim, {"sources": []}, {"pipeline": "export"})
    return claim


def names(url: str) -> list[str]:
    root = Path(url.removeprefix("file://"))
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_a_claim_is_new_then_resumed_then_complete(url: str) -> None:
    first = inspect(url)
    assert (first.state, first.url, first.identity) == ("new", url, IDENTITY)
    assert names(url) == [], "looking writes nothing"
    take(first)
    assert Folder(url).read_json("info") == INFO
    resumed = inspect(url)
    assert resumed == replace(first, state="resumed")
    take(resumed)
    ended(resumed, {"sources": ["a"]}, {"pipeline": "export"})
    assert names(url) == ["info", "provenance", "report.json"]
    assert inspect(url) == replace(first, state="complete")
    assert Folder(url).read_json("report.json") == {"key": first.key, "identity": IDENTITY, "pipeline": "export"}
    assert Folder(url).read_json("provenance") == {"sources": ["a"]}


@pytest.mark.parametrize("end", [taken, finished])
def test_another_run_is_refused_and_the_options_that_differ_are_named(url: str, end: Callable[[str], Claim]) -> None:
    end(url)
    with pytest.raises(
        OptionError,
        match=rf"--dst: {url} holds another run: mip was 0, now 2; timestamp was null, now 1700000000; .*--overwrite",
    ):
        inspect(url, OTHER)


def test_a_long_option_is_shortened_in_messages(url: str) -> None:
    taken(url, {"src": "x" * 200})
    with pytest.raises(OptionError, match=rf'src was "{"x" * 76}\.\.\., now null'):
        inspect(url, {})


def test_what_differs_is_named_by_its_path(url: str) -> None:
    text = "lambda src: " + "src + " * 20
    fn, layers = {"text": f"{text}1", "args": [1, 2]}, [{"path": "a", "mip": 1}, {"path": "b"}]
    taken(url, {"spec": {"fn": fn, "layers": layers}})
    changed = {"fn": {"text": f"{text}2", "args": [1, 3]}, "layers": [{"path": "a"}, {"path": "c"}]}
    with pytest.raises(
        OptionError,
        match=r"run: spec\.fn\.args was \[1, 2\], now \[1, 3\]; spec\.layers\.0\.mip was 1, now null; "
        r'spec\.layers\.1\.path was "b", now "c"; finish it',
    ):
        inspect(url, {"spec": changed})
    with pytest.raises(OptionError, match=r'holds another run: spec\.fn\.@type was null, now "a"; finish it'):
        inspect(url, {"spec": {"fn": {"@type": "a", "b": 2}, "layers": layers}})
    with pytest.raises(OptionError, match=r"holds another run: spec\.fn\.text; finish it"):
        inspect(url, {"spec": {"fn": {**fn, "text": f"{text}2"}, "layers": layers}})


@pytest.mark.parametrize(("resume", "state"), [(True, "resumed"), (False, "replaced")])
def test_without_resume_a_run_starts_anew(url: str, resume: bool, state: str) -> None:
    first = taken(url)
    record(first, Receipt(0, 0, 1, 6, 7))
    second = taken(url, resume=resume)
    assert second.state == state
    assert (second.key == first.key) == resume
    assert receipts(second) == ([Receipt(0, 0, 1, 6, 7)] if resume else [])


def test_overwriting_removes_old_scales_and_records_and_keeps_the_rest(url: str) -> None:
    first = finished(url)
    folder = Folder(url)
    folder.write(".beam_volumes/finished/left/0.json", b"{}")
    folder.write("mesh/info", b"{}")
    second = inspect(url, OTHER, overwrite=True, info={"scales": [{"key": "16_16_16"}]})
    assert second.state == "replaced"
    assert second.key != first.key
    assert "8_8_8/0.shard" in names(url), "looking removes nothing"
    take(second)
    assert names(url) == [".beam_volumes/claim.json", "info", "mesh/info"]
    assert receipts(second) == []


def test_a_foreign_volume_is_refused_unless_it_is_to_be_overwritten(url: str) -> None:
    folder = Folder(url)
    folder.write("info", json.dumps(INFO).encode())
    folder.write("8_8_8/0-64_0-64_0-64", b"voxels")
    with pytest.raises(OptionError, match=f"{url}/info exists, without a report of this program: .*--overwrite"):
        inspect(url)
    taken(url, overwrite=True)
    assert names(url) == [".beam_volumes/claim.json", "info"]


@pytest.mark.parametrize("key", ["../other/8_8_8", "/data/8_8_8", "a/../../other", "..", ".", "", "gs://b/8_8_8", 7])
def test_a_scale_that_stands_elsewhere_is_not_removed_with_its_volume(url: str, key: Any) -> None:
    outside = Folder(f"{url}/../other")
    outside.write("8_8_8/0.shard", b"another volume's")
    Folder(url).write("info", json.dumps({"scales": [{"key": key}, "strange", {}]}).encode())
    Folder(url).write("notes.txt", b"keep")
    taken(url, overwrite=True)
    assert outside.read("8_8_8/0.shard") == b"another volume's"
    assert Folder(url).read("notes.txt") == b"keep"


def test_chunks_without_a_volume_are_refused(url: str) -> None:
    Folder(url).write("8_8_8/0-64_0-64_0-64", b"voxels")
    claim = inspect(url)
    with pytest.raises(DestinationError, match=r"is 8_8_8/0-64_0-64_0-64, though no info lists it: remove .*/8_8_8"):
        take(claim)
    assert names(url) == ["8_8_8/0-64_0-64_0-64"]


@pytest.mark.parametrize("calls", range(1, 6))
def test_a_run_killed_while_it_clears_leaves_no_place_that_seems_new(
    url: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(url)
    Folder(url).write(".beam_volumes/finished/x/0.json", b"{}")
    left = [calls]

    def dying(method: Any) -> Any:
        def wrapped(*args: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            method(*args)

        return wrapped

    claim = inspect(url, OTHER, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", dying(Folder.delete))
        patch.setattr(Folder, "delete_folder", dying(Folder.delete_folder))
        patch.setattr(Folder, "create", dying(Folder.create))
        with pytest.raises(KeyboardInterrupt):
            take(claim)
    if calls < 5:
        with pytest.raises(OptionError, match="choose another place, or replace the volume with --overwrite"):
            inspect(url, OTHER)
    else:
        assert names(url) == []
    assert receipts(taken(url, OTHER, overwrite=True)) == []


def test_of_many_claims_at_once_one_wins(url: str) -> None:
    claims = [inspect(url, {**IDENTITY, "mip": n}) for n in range(8)]
    barrier = Barrier(len(claims))

    def attempt(claim: Claim) -> bool:
        barrier.wait()
        try:
            take(claim)
        except DestinationError as error:
            refusals.append(str(error))
            return False
        return True

    refusals: list[str] = []
    with ThreadPoolExecutor(len(claims)) as pool:
        won = list(pool.map(attempt, claims))
    assert won.count(True) == 1
    assert {"another run claimed this destination at the same moment" in text for text in refusals} == {True}
    winner = claims[won.index(True)]
    check_claim(winner)
    record = Folder(url).read_json(".beam_volumes/claim.json") or {}
    assert (record["key"], record["identity"]) == (winner.key, winner.identity)


def test_of_many_that_overwrite_at_once_one_goes_on(url: str) -> None:
    finished(url)
    claims = [inspect(url, {**OTHER, "n": n}, overwrite=True) for n in range(6)]
    barrier = Barrier(len(claims))

    def attempt(claim: Claim) -> None:
        barrier.wait()
        try:
            take(claim)
        except DestinationError:
            return

    def goes_on(claim: Claim) -> bool:
        try:
            check_claim(claim)
        except DestinationError:
            return False
        return True

    with ThreadPoolExecutor(len(claims)) as pool:
        list(pool.map(attempt, claims))
    assert [goes_on(claim) for claim in claims].count(True) == 1


def test_a_run_whose_claim_was_overwritten_can_neither_go_on_nor_finish(url: str) -> None:
    first = taken(url)
    looked = inspect(url)
    second = taken(url, OTHER, overwrite=True)
    for attempt in (partial(check_claim, first), partial(take, looked), partial(finish, first, {}, {})):
        with pytest.raises(DestinationError, match="another run has taken it over: nothing more is written"):
            attempt()
    check_claim(second)
    assert Folder(url).read("report.json") is None


def test_late_receipts_of_a_replaced_run_are_not_those_of_the_next(url: str) -> None:
    first = taken(url)
    second = taken(url, OTHER, overwrite=True)
    record(first, Receipt(0, 5, 1, 6, 7))
    record(second, Receipt(0, 6, 1, 6, 7))
    assert receipts(inspect(url, OTHER)) == [Receipt(0, 6, 1, 6, 7)]


def test_a_claim_that_is_gone_stops_the_run(url: str) -> None:
    claim = taken(url)
    Folder(url).delete([".beam_volumes/claim.json"])
    with pytest.raises(DestinationError, match="but it is gone: nothing more is written"):
        check_claim(claim)


@pytest.mark.parametrize("name", [".beam_volumes/claim.json", "report.json"])
@pytest.mark.parametrize(
    ("content", "came"),
    [
        (b"", "0 bytes"),
        (b'{"key": "a", "iden', "18 bytes"),
        (b"[1]", "a JSON list"),
        (b"{}", r"came \{\}"),
        (b'{"key": "", "identity": {}}', '"key": ""'),
        (b'{"key": "a", "identity": 3}', '"identity": 3'),
    ],
)
def test_damaged_records_are_named(url: str, name: str, content: bytes, came: str) -> None:
    claim = taken(url)
    Folder(url).write(name, content)
    with pytest.raises(CorruptDataError, match=f"{url}/{name}: expected .*{came}.*restore the file, or remove it"):
        inspect(url)
    if name != "report.json":
        with pytest.raises(CorruptDataError, match=f"{url}/{name}"):
            check_claim(claim)


def test_receipts_come_by_mip_and_shard(url: str) -> None:
    claim = taken(url)
    assert receipts(claim) == []
    written = [Receipt(m, n, 2 * n, 100 + n, 2**32 - 1 - n) for m in (10, 9, 0) for n in (10, 9, 1, 2**40)]
    for receipt in written:
        record(claim, receipt)
        record(claim, receipt)
    assert receipts(claim) == sorted(written)


@pytest.mark.parametrize("content", [b"{}", b'{"shard": 1}', b'{"mip":0,"shard":1,"chunks":1,"bytes":"6","crc32c":7}'])
def test_a_damaged_receipt_is_named(url: str, content: bytes) -> None:
    claim = taken(url)
    Folder(url).write(f".beam_volumes/finished/{claim.key}/0-1.json", content)
    with pytest.raises(CorruptDataError, match=r"finished/.*/0-1\.json: expected mip, shard, .*remove the file"):
        receipts(claim)


def test_each_run_has_a_scratch_folder_of_its_own(url: str, tmp_path: Path) -> None:
    for scratch in (f"{tmp_path}/s", f"{tmp_path}/s/", f"file://{tmp_path}/s//", f"{tmp_path}/x/../s"):
        claim = inspect(url, scratch=scratch)
        assert claim.scratch == f"file://{tmp_path}/s/{claim.key}"
    claim = inspect(url, scratch="gs://bucket/s/")
    assert claim.scratch == f"gs://bucket/s/{claim.key}"
    claim = inspect(url)
    assert claim.scratch == f"{url}/.beam_volumes/scratch/{claim.key}"
    assert claim.scratch != inspect(f"{url}2").scratch, "the same export to two places"
    with pytest.raises(OptionError, match="expected a local path"):
        inspect(url, scratch="ftp://host/s")


def test_what_killed_writers_left_is_not_published(url: str) -> None:
    claim = taken(url)
    Folder(url).write("8_8_8/0.shard", b"voxels")
    Folder(url).write("8_8_8/.killed.tmp", b"vox")
    Folder(url).write("nested/8_8_8/.writing.tmp", b"another volume's, which is being written")
    Folder(url).write(f".beam_volumes/finished/{claim.key}/.killed.tmp", b"{")
    ended(claim)
    assert names(url) == ["8_8_8/0.shard", "info", "nested/8_8_8/.writing.tmp", "provenance", "report.json"]


def test_a_commit_that_is_tried_again_changes_nothing(url: str) -> None:
    claim = taken(url)
    assert not is_committed(claim)
    finish(claim, {"first": 1}, {"try": 1})
    assert is_committed(claim)
    assert inspect(url).state == "complete", "killed between the report and the clean-up"
    remove_records(claim)
    assert Folder(url).read_json("report.json") == {"key": claim.key, "identity": IDENTITY, "try": 1}
    assert names(url) == ["info", "provenance", "report.json"]
    remove_records(claim)
    assert is_committed(claim)


def test_a_volume_without_info_is_not_committed(url: str) -> None:
    claim = taken(url)
    Folder(url).delete(["info"])
    with pytest.raises(DestinationError, match="expected the info that this run has written, but it is gone"):
        finish(claim, {}, {})
    take(inspect(url))
    ended(claim)
    assert names(url) == ["info", "provenance", "report.json"]


def test_a_complete_volume_is_begun_anew_only_with_overwrite(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/seg"
    claim = taken(url, {"a": 1})
    ended(claim)
    with pytest.raises(OptionError, match=r"--resume: expected an unfinished export .* complete: .*--overwrite"):
        inspect(url, {"a": 1}, resume=False)
    assert inspect(url, {"a": 1}, resume=False, overwrite=True).state == "replaced"


def test_a_complete_volume_without_info_is_not_called_complete(url: str) -> None:
    finished(url)
    Folder(url).delete(["info"])
    with pytest.raises(OptionError, match=rf"--dst: expected a volume at {url}, .* info is gone: .*with --overwrite"):
        inspect(url)
    ended(taken(url, overwrite=True))
    assert inspect(url).state == "complete"


def test_runs_of_two_pipelines_are_never_the_same(url: str) -> None:
    claim = inspect(url, {"layer": "seg"})
    assert claim.identity == {"task": "export", "layer": "seg"}
    take(claim)
    other = NewVolume(url, INFO, task="release")
    with pytest.raises(OptionError, match='holds another run: task was "export", now "release"'):
        inspect_destination(other, {"layer": "seg"}, resume=True, overwrite=False)


def take_over(url: str) -> Claim:
    """Do what another run with --overwrite does, up to its claim."""
    return taken(url, OTHER, overwrite=True, info=IMAGE)


@pytest.mark.parametrize("moment", ["provenance", "report.json"])
def test_a_run_that_is_replaced_while_it_commits_leaves_nothing(
    url: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, others = taken(url), list[Claim]()
    write = Folder.write

    def slow_write(folder: Folder, name: str, data: bytes, **options: Any) -> None:
        if name == moment and not others:
            others.append(take_over(url))
        write(folder, name, data, **options)

    monkeypatch.setattr(Folder, "write", slow_write)
    with pytest.raises(DestinationError, match="another run has taken it over"):
        finish(first, {}, {"of": "first"})
    assert Folder(url).read("report.json") is None
    check_claim(others[0])
    remove_records(first)
    check_claim(others[0])
    ended(others[0], report={"of": "second"})
    assert (Folder(url).read_json("report.json") or {})["of"] == "second"


def test_an_info_that_a_replaced_run_has_written_late_is_found(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[Claim] = []
    write = Folder.write

    def slow_write(folder: Folder, name: str, data: bytes, **options: Any) -> None:
        if name == "info" and not others:
            others.append(inspect(url, OTHER, overwrite=True, info=IMAGE))
            take(others[0])
        write(folder, name, data, **options)

    monkeypatch.setattr(Folder, "write", slow_write)
    with pytest.raises(DestinationError, match="another run has taken it over"):
        taken(url)
    with pytest.raises(DestinationError, match="expected the info that this run has written, but it is another"):
        finish(others[0], {}, {})
    take(inspect(url, OTHER, info=IMAGE))
    ended(others[0])
    assert (Folder(url).read_json("info") or {})["type"] == "image"


def test_the_scratch_of_a_replaced_or_moved_run_is_removed(url: str, tmp_path: Path) -> None:
    claim = inspect(url, scratch=f"{tmp_path}/a")
    take(claim)
    Folder(claim.scratch).write("region-0.pack", b"pack")
    (tmp_path / "a/mine").write_bytes(b"keep")
    moved = inspect(url, scratch=f"{tmp_path}/b")
    assert (moved.state, moved.key) == ("resumed", claim.key)
    take(moved)
    Folder(moved.scratch).write("region-0.pack", b"pack")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mine"]
    replaced = inspect(url, OTHER, overwrite=True)
    take(replaced)
    assert list((tmp_path / "b").iterdir()) == []
    Folder(replaced.scratch).write("region-0.pack", b"pack")
    ended(replaced)
    assert names(url) == ["info", "provenance", "report.json"]


def test_holes_are_kept_by_region_until_the_end(url: str) -> None:
    claim = taken(url)
    first, second = Box((0, 0, 0), (1, 2, 3)), Box((5, 0, 0), (6, 2, 3))
    record_holes(claim, 3, [second, first])
    record_holes(claim, 10, [first])
    assert recorded_holes(claim) == [first, second]
    ended(claim)
    assert recorded_holes(claim) == []


@pytest.mark.parametrize(("resume", "overwrite", "state"), [(True, True, "replaced"), (True, False, "complete")])
def test_a_complete_equal_volume_is_replaced_when_asked(url: str, resume: bool, overwrite: bool, state: str) -> None:
    finished(url)
    assert inspect(url, resume=resume, overwrite=overwrite).state == state
