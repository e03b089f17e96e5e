"""Runs that add to a volume that stands: coarser scales, which `info` lists only when they are complete, and files."""

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from beam_volumes.additions import DerivedFiles, NewScales
from beam_volumes.destinations import Destination, NewVolume
from beam_volumes.errors import CorruptDataError, DestinationError, OptionError
from beam_volumes.precomputed.info import Json
from beam_volumes.receipts import Receipt, receipts, record
from beam_volumes.runs import Claim, check_claim, finish, inspect_destination, is_committed, remove_records, take
from beam_volumes.storage import Folder

FINER: list[Json] = [{"key": "8_8_8", "size": [64, 64, 64]}, {"key": "16_16_8", "size": [32, 32, 64]}]
NEW: list[Json] = [{"key": "32_32_8", "size": [16, 16, 64]}, {"key": "64_64_8", "size": [8, 8, 64]}]
OTHERS: list[Json] = [{"key": "32_32_16", "size": [16, 16, 32]}]
IDENTITY: Json = {"layer": "seg", "mip": 1, "factor": [2, 2, 1]}
OTHER: Json = {**IDENTITY, "factor": [2, 2, 2]}
PROVENANCE: Json = {
    "description": "",
    "owners": [],
    "processing": [{"method": {"task": "downsample", "factor": (2, 2, 1)}, "by": "me", "date": "now"}],
    "sources": ["seg"],
}
STATS = ("stats/voxel_counts.im", "stats/sizes.png")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return a volume of two scales, as an export and another program have left it."""
    folder = Folder(f"file://{tmp_path}/seg")
    put_info(folder.url, FINER)
    folder.write("report.json", b'{"key": "export", "identity": {"task": "export"}}')
    folder.write("provenance", b'{"owners": ["me"], "processing": [{"method": "by hand"}], "sources": ["em"]}')
    for name in ("8_8_8/0.shard", "16_16_8/0.shard", "mesh/info"):
        folder.write(name, b"{}")
    return folder.url


def put_info(url: str, scales: list[Json], **fields: Any) -> None:
    Folder(url).write("info", json.dumps({"type": "segmentation", **fields, "scales": scales}).encode())


def info(url: str) -> Json:
    return Folder(url).read_json("info") or {}


def listed(url: str) -> list[str]:
    return [scale["key"] for scale in info(url)["scales"]]


def names(url: str) -> set[str]:
    root = Path(url.removeprefix("file://"))
    before = {"info", "provenance", "report.json", "8_8_8/0.shard", "16_16_8/0.shard", "mesh/info"}
    found = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert before <= found
    return found - before


def inspect(destination: Destination, identity: Json = IDENTITY, *, resume: bool = True, over: bool = False) -> Claim:
    return inspect_destination(destination, identity, resume=resume, overwrite=over)


def scales(url: str, entries: list[Json] = NEW, mip: int = 1) -> NewScales:
    return NewScales.planned(url, mip, entries)


def taken(destination: Destination, identity: Json = IDENTITY, **options: bool) -> Claim:
    claim = inspect(destination, identity, **options)
    take(claim)
    return claim


def work(claim: Claim) -> None:
    folder = Folder(claim.url)
    for mip, name in enumerate(claim.destination.folders, 2):
        folder.write(f"{name}/0.shard", claim.key.encode())
        folder.write(f"{name}/.killed.tmp", b"")
        record(claim, Receipt(mip, 0, 1, 6, 7))


def ended(claim: Claim, provenance: Json = PROVENANCE) -> None:
    work(claim)
    finish(claim, provenance, {"pipeline": "downsample"})
    remove_records(claim)


# Scales


def test_scales_are_listed_when_they_are_complete(url: str) -> None:
    claim = inspect(scales(url))
    assert (claim.state, names(url)) == ("new", set())
    take(claim)
    work(claim)
    assert listed(url) == ["8_8_8", "16_16_8"]
    assert all(name.startswith((".beam_volumes/downsample/", "32_32_8/", "64_64_8/")) for name in names(url))
    resumed = taken(scales(url))
    assert resumed == replace(claim, state="resumed")
    assert receipts(resumed) == [Receipt(2, 0, 1, 6, 7), Receipt(3, 0, 1, 6, 7)]
    ended(resumed)
    assert info(url) == {"type": "segmentation", "scales": FINER + NEW}
    assert names(url) == {"32_32_8/0.shard", "64_64_8/0.shard", "32_32_8/report.json"}
    assert inspect(scales(url)) == replace(claim, state="complete")
    report = Folder(url).read_json("32_32_8/report.json")
    identity = {"task": "downsample", **IDENTITY}
    assert report == {"key": claim.key, "identity": identity, "pipeline": "downsample"}


def test_what_was_done_is_added_to_the_provenance(url: str) -> None:
    ended(taken(scales(url)))
    [done] = json.loads(json.dumps(PROVENANCE["processing"]))
    expected = {"owners": ["me"], "processing": [{"method": "by hand"}, done], "sources": ["em"]}
    assert Folder(url).read_json("provenance") == expected
    again = {**PROVENANCE, "processing": [{**PROVENANCE["processing"][0], "date": "later"}]}
    ended(taken(scales(url), over=True), again)
    expected["processing"] = [{"method": "by hand"}, {**done, "date": "later"}]
    assert Folder(url).read_json("provenance") == expected


def test_a_volume_without_provenance_gets_one(url: str) -> None:
    claim = taken(scales(url))
    Folder(url).delete(["provenance"])
    ended(claim)
    assert Folder(url).read_json("provenance") == json.loads(json.dumps(PROVENANCE))


@pytest.mark.parametrize("content", [b"no JSON", b'{"processing": "by hand"}'])
def test_a_provenance_that_cannot_be_gone_on_with_is_refused_at_once(url: str, content: bytes) -> None:
    Folder(url).write("provenance", content)
    with pytest.raises(CorruptDataError, match=r"provenance: expected .*restore the file, or remove it"):
        inspect(scales(url))


def test_the_next_scales_are_added_to_those(url: str) -> None:
    ended(taken(scales(url)))
    ended(taken(scales(url, [{"key": "128_128_8"}], 3), {"mip": 3}))
    assert listed(url) == ["8_8_8", "16_16_8", "32_32_8", "64_64_8", "128_128_8"]
    assert inspect(scales(url)).state == "complete"
    assert "128_128_8/report.json" in names(url)


@pytest.mark.parametrize("others", [NEW, OTHERS], ids=["the same", "others"])
def test_coarser_scales_of_another_program_are_refused_or_replaced(url: str, others: list[Json]) -> None:
    put_info(url, FINER + others)
    for scale in others:
        Folder(url).write(f"{scale['key']}/0.shard", b"of another program")
    keys = ", ".join(scale["key"] for scale in others)
    with pytest.raises(
        OptionError,
        match=rf"--layer: expected no coarser mips than 1 in {url}/info, came {keys}: go on .*--overwrite",
    ):
        inspect(scales(url))
    claim = inspect(scales(url), over=True)
    assert (claim.state, listed(url)) == ("replaced", [s["key"] for s in FINER + others])
    take(claim)
    assert (listed(url), names(url)) == (["8_8_8", "16_16_8"], {".beam_volumes/downsample/claim.json"})
    ended(claim)
    assert listed(url) == ["8_8_8", "16_16_8", "32_32_8", "64_64_8"]


def test_another_downsampling_is_refused_or_replaced(url: str) -> None:
    first = taken(scales(url))
    work(first)
    with pytest.raises(
        OptionError, match=r"holds another run: factor was \[2, 2, 1\], now \[2, 2, 2\]; finish it with .* or go on"
    ):
        inspect(scales(url, OTHERS), OTHER)
    second = taken(scales(url, OTHERS), OTHER, over=True)
    assert names(url) == {".beam_volumes/downsample/claim.json"}, "what the first has begun is removed"
    for attempt in (partial(check_claim, first), partial(finish, first, PROVENANCE, {})):
        with pytest.raises(DestinationError, match="another run has taken it over"):
            attempt()
    ended(second)
    assert listed(url) == ["8_8_8", "16_16_8", "32_32_16"]
    with pytest.raises(OptionError, match=r"expected no coarser mips than 1 in .*, came 32_32_16"):
        inspect(scales(url))


def test_of_two_downsamplings_at_once_one_is_refused(url: str) -> None:
    first, second = inspect(scales(url)), inspect(scales(url, OTHERS), OTHER)
    take(first)
    with pytest.raises(DestinationError, match="another run claimed this destination at the same moment"):
        take(second)
    check_claim(first)


def test_a_complete_downsampling_is_made_anew_only_with_overwrite(url: str) -> None:
    ended(taken(scales(url)))
    with pytest.raises(OptionError, match=r"--resume: expected an unfinished downsample at .* it is complete"):
        inspect(scales(url), resume=False)
    claim = taken(scales(url), over=True)
    assert (listed(url), names(url)) == (["8_8_8", "16_16_8"], {".beam_volumes/downsample/claim.json"})
    ended(claim)
    assert inspect(scales(url)).state == "complete"


@pytest.mark.parametrize("left", [[], OTHERS, NEW[:1]], ids=["none", "others", "one"])
def test_scales_that_info_does_not_list_any_more_are_not_called_complete(url: str, left: list[Json]) -> None:
    ended(taken(scales(url)))
    put_info(url, FINER + left)
    with pytest.raises(
        OptionError, match=r"--layer: expected 32_32_8, 64_64_8 in .*, as 32_32_8/report\.json says, came"
    ):
        inspect(scales(url))
    ended(taken(scales(url), over=True))
    assert listed(url) == ["8_8_8", "16_16_8", "32_32_8", "64_64_8"]


def test_files_where_a_scale_will_be_are_refused(url: str) -> None:
    Folder(url).write("64_64_8/0.shard", b"of nobody")
    with pytest.raises(DestinationError, match=r"expected nothing in 64_64_8, but there is 64_64_8/0.shard, though"):
        taken(scales(url))
    assert names(url) == {"64_64_8/0.shard"}


@pytest.mark.parametrize("add", [scales, lambda url: stats(url)], ids=["scales", "files"])
def test_an_unfinished_export_is_refused(url: str, add: Callable[[str], Destination]) -> None:
    claim = inspect(add(url))
    Folder(url).write(".beam_volumes/claim.json", b'{"key": "going on", "identity": {}}')
    with pytest.raises(OptionError, match=r"--layer: expected a complete volume, but the export of .* is not finished"):
        inspect(add(url), over=True)
    with pytest.raises(OptionError, match="is not finished: wait for it, or give its command again"):
        take(claim)
    Folder(url).write(".beam_volumes/claim.json", b'{"key": "export", "identity": {}}')
    assert inspect(add(url)).state in ("new", "resumed"), "killed just after its report"


def test_a_downsampling_stops_when_the_volume_is_replaced(url: str) -> None:
    claim = taken(scales(url))
    work(claim)
    export = inspect(NewVolume(url, {"scales": FINER[:1]}), {"src": "new"}, over=True)
    take(export)
    for attempt in (partial(check_claim, claim), partial(finish, claim, PROVENANCE, {})):
        with pytest.raises(DestinationError, match="but it is gone: nothing more is written"):
            attempt()
    assert listed(url) == ["8_8_8"]
    check_claim(export)


def test_an_export_that_replaces_a_volume_removes_the_scales_that_were_added(url: str) -> None:
    ended(taken(scales(url)))
    take(inspect(NewVolume(url, {"scales": FINER[:1]}), {"src": "new"}, over=True))
    root = Path(url.removeprefix("file://"))
    assert {p.name for p in root.iterdir()} == {".beam_volumes", "info", "mesh"}


def test_other_fields_of_info_may_change_meanwhile(url: str) -> None:
    claim = taken(scales(url))
    put_info(url, FINER, mesh="mesh")
    ended(claim)
    assert info(url) == {"type": "segmentation", "mesh": "mesh", "scales": FINER + NEW}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([{**FINER[0], "encoding": "png"}, FINER[1]], "expected the mips up to 1 that were there when the run began"),
        (FINER[:1], "expected the mips up to 1 that were there when the run began"),
        (FINER + OTHERS, "expected no coarser mips than 1 but this run's, came 32_32_16: go on from"),
    ],
    ids=["finer", "fewer", "coarser"],
)
def test_scales_that_change_meanwhile_are_not_overwritten(url: str, change: list[Json], message: str) -> None:
    claim = taken(scales(url))
    work(claim)
    put_info(url, change)
    with pytest.raises(DestinationError, match=message):
        finish(claim, PROVENANCE, {})
    assert info(url)["scales"] == change
    assert not is_committed(claim)


def test_an_unfinished_run_does_not_go_on_over_scales_of_others(url: str) -> None:
    taken(scales(url))
    put_info(url, FINER + OTHERS)
    for resume in (True, False):
        with pytest.raises(OptionError, match=r"expected no coarser mips than 1 in .*, came 32_32_16"):
            inspect(scales(url), resume=resume)
    ended(taken(scales(url), over=True))
    assert listed(url) == ["8_8_8", "16_16_8", "32_32_8", "64_64_8"]


class Killed(BaseException):
    """Stands for `kill -9`."""


WRITES = ("write", "create", "delete", "delete_folder", "delete_abandoned", "prune")


def killed_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let the process die before the write number `step`."""
    left = [step]

    def dying(method: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return method(*args, **options)

        return wrapped

    for name in WRITES:
        patch.setattr(Folder, name, dying(getattr(Folder, name)))


def each_step(run: Callable[[], None], prepare: Callable[[], None], patch: pytest.MonkeyPatch) -> Iterator[int]:
    """Kill `run` before each of its writes, each time after `prepare`; the last time it is not killed."""
    for step in range(100):
        prepare()
        with patch.context() as inner:
            killed_at(step, inner)
            try:
                run()
            except Killed:
                ended = False
            else:
                ended = True
        yield step
        if ended:
            assert step > 3
            return
    raise AssertionError("it never ends")


def whole_scales(url: str) -> None:
    """Check that each scale that is listed has its file, and that the volume still is what it was."""
    for key in listed(url):
        assert Folder(url).exists(f"{key}/0.shard"), key
    assert listed(url)[:2] == ["8_8_8", "16_16_8"]


def forget(url: str) -> None:
    folder = Folder(url)
    for name in (".beam_volumes", "32_32_8", "64_64_8", "32_32_16"):
        folder.delete_folder(name)
    put_info(url, FINER)


def test_a_run_that_is_killed_at_any_step_goes_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in each_step(lambda: ended(taken(scales(url))), lambda: forget(url), monkeypatch):
        whole_scales(url)
        again = inspect(scales(url))
        if again.state == "complete":
            remove_records(again)
        else:
            take(again)
            ended(again)
        assert listed(url) == ["8_8_8", "16_16_8", "32_32_8", "64_64_8"]
        assert names(url) == {"32_32_8/0.shard", "64_64_8/0.shard", "32_32_8/report.json"}
        assert len((Folder(url).read_json("provenance") or {})["processing"]) == 2


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "unfinished"])
def test_a_replacing_run_that_is_killed_at_any_step_replaces(
    url: str, complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> None:
        forget(url)
        first = taken(scales(url))
        (ended if complete else work)(first)

    def run() -> None:
        ended(taken(scales(url, OTHERS), OTHER, over=True))

    for _ in each_step(run, prepare, monkeypatch):
        whole_scales(url)
        second = inspect(scales(url, OTHERS), OTHER, over=True)
        if second.state != "complete":
            take(second)
            ended(second)
        assert listed(url) == ["8_8_8", "16_16_8", "32_32_16"]
        assert names(url) == {"32_32_16/0.shard", "32_32_16/report.json"}


def test_what_a_killed_replacement_has_begun_to_remove_is_not_taken_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> None:
        forget(url)
        ended(taken(scales(url)))

    def run() -> None:
        taken(scales(url), over=True)

    for step in each_step(run, prepare, monkeypatch):
        found = state_or_refusal(scales(url))
        assert (found == "complete") == (step == 0)
        assert step == 0 or "--overwrite" in found or names(url) <= {".beam_volumes/downsample/claim.json"}


def state_or_refusal(destination: Destination) -> str:
    try:
        return inspect(destination).state
    except OptionError as error:
        return str(error)


@pytest.mark.parametrize("moment", ["info", "provenance", "32_32_8/report.json"])
def test_a_run_that_is_replaced_while_it_commits_is_not_listed(
    url: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, others = taken(scales(url)), list[Claim]()
    work(first)
    write = Folder.write

    def slow_write(folder: Folder, name: str, data: bytes, **options: Any) -> None:
        if name == moment and not others:
            others.append(inspect(scales(url, OTHERS), OTHER, over=True))
            take(others[0])
        write(folder, name, data, **options)

    monkeypatch.setattr(Folder, "write", slow_write)
    with pytest.raises(DestinationError, match="another run has taken it over"):
        finish(first, PROVENANCE, {})
    assert listed(url) == ["8_8_8", "16_16_8"]
    assert names(url) == {".beam_volumes/downsample/claim.json"}
    ended(others[0])
    assert listed(url) == ["8_8_8", "16_16_8", "32_32_16"]


def test_a_late_info_of_a_replaced_run_is_mended_by_the_next(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes just before the next run's claim."""
    first = taken(scales(url))
    work(first)
    create = Folder.create

    def late(folder: Folder, name: str, data: bytes) -> bool:
        put_info(url, FINER + NEW)
        folder.write("32_32_8/report.json", b"late")
        return create(folder, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "create", late)
        taken(scales(url), over=True, resume=False)
    assert (listed(url), names(url)) == (["8_8_8", "16_16_8"], {".beam_volumes/downsample/claim.json"})


def test_the_slower_of_two_equal_runs_takes_nothing_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = taken(scales(url))
    work(first)
    second = taken(scales(url))
    commit, calls = NewScales.commit, []

    def overtaken(self: NewScales, provenance: Json) -> None:
        commit(self, provenance)
        calls.append(1)
        if len(calls) == 1:
            finish(first, PROVENANCE, {})
            remove_records(first)

    monkeypatch.setattr(NewScales, "commit", overtaken)
    with pytest.raises(DestinationError, match="but it is gone"):
        finish(second, PROVENANCE, {})
    assert is_committed(second)
    assert listed(url) == ["8_8_8", "16_16_8", "32_32_8", "64_64_8"]


def test_scales_are_planned_on_those_that_stand(url: str) -> None:
    assert scales(url) == NewScales(url, 1, tuple(NEW), tuple(FINER))
    assert pickle.loads(pickle.dumps(scales(url))) == scales(url)
    with pytest.raises(OptionError, match=r"--mip: expected 0 to 1, a scale in .*/info, came 2"):
        scales(url, mip=2)
    with pytest.raises(OptionError, match=r"--factor: expected scales that .* lacks, came another 16_16_8"):
        scales(url, [FINER[1]])
    for content, came in ((b"{}", "does not exist"), (b'{"scales": 3}', "lists no scales"), (None, "does not exist")):
        if content is None:
            Folder(url).delete(["info"])
        else:
            Folder(url).write("info", content)
        with pytest.raises(OptionError, match=f"--layer: expected a Precomputed volume, but {url}/info {came}"):
            scales(url)


def test_a_scale_in_whose_folder_a_finer_one_stands_is_kept(url: str) -> None:
    put_info(url, [{"key": "scales/8"}, {"key": "scales"}])
    Folder(url).write("scales/8/0.shard", b"voxels")
    take(inspect(scales(url, NEW, 0), over=True))
    assert listed(url) == ["scales/8"]
    assert Folder(url).read("scales/8/0.shard") == b"voxels"


# Files


def stats(url: str, scale: str = "16_16_8") -> DerivedFiles:
    return DerivedFiles(url, "count_voxels", scale, STATS, "stats/voxel_counts.json")


def write_stats(claim: Claim) -> None:
    for name in stats(claim.url).files:
        Folder(claim.url).write(name, claim.key.encode())


def counted(claim: Claim) -> None:
    write_stats(claim)
    finish(claim, {}, {"pipeline": "count_voxels"})
    remove_records(claim)


WRITTEN = {f"16_16_8/stats/{name}" for name in ("voxel_counts.im", "sizes.png", "voxel_counts.json")}


def test_files_are_added_to_a_scale(url: str) -> None:
    before = [Folder(url).read(name) for name in ("info", "provenance")]
    claim = taken(stats(url))
    assert (claim.state, claim.identity["task"]) == ("new", "count_voxels")
    assert names(url) == {".beam_volumes/count_voxels-16_16_8/claim.json"}
    write_stats(claim)
    assert inspect(stats(url)) == replace(claim, state="resumed")
    counted(taken(stats(url)))
    assert names(url) == WRITTEN
    assert inspect(stats(url)) == replace(claim, state="complete")
    assert [Folder(url).read(name) for name in ("info", "provenance")] == before
    assert pickle.loads(pickle.dumps(stats(url))) == stats(url)


def test_files_of_another_count_are_refused_or_replaced(url: str) -> None:
    first = taken(stats(url))
    with pytest.raises(
        OptionError, match=r"--layer: .* holds another run: factor was .*, or replace what is there with"
    ):
        inspect(stats(url), OTHER)
    counted(first)
    with pytest.raises(OptionError, match="holds another run"):
        inspect(stats(url), OTHER)
    second = taken(stats(url), OTHER, over=True)
    assert names(url) == {".beam_volumes/count_voxels-16_16_8/claim.json"}
    with pytest.raises(DestinationError, match="another run has taken it over"):
        check_claim(first)
    counted(second)
    assert names(url) == WRITTEN


def test_files_without_a_report_are_refused_or_replaced(url: str) -> None:
    Folder(url).write("16_16_8/stats/sizes.png", b"drawn by hand")
    Folder(url).write("16_16_8/stats/notes.txt", b"keep")
    with pytest.raises(OptionError, match=r"no files of count_voxels in .*, but there is 16_16_8/stats/sizes\.png"):
        inspect(stats(url))
    counted(taken(stats(url), over=True))
    assert names(url) == {*WRITTEN, "16_16_8/stats/notes.txt"}


def test_counts_of_two_scales_and_a_downsampling_go_on_at_once(url: str) -> None:
    claims = [taken(stats(url)), taken(stats(url, "8_8_8")), taken(scales(url))]
    for claim in claims:
        check_claim(claim)
    counted(claims[0])
    ended(claims[2])
    check_claim(claims[1])


def test_a_count_stops_when_its_scale_is_replaced(url: str) -> None:
    ended(taken(scales(url)))
    count = taken(DerivedFiles(url, "count_voxels", "64_64_8", STATS, "stats/voxel_counts.json"))
    taken(scales(url), over=True)
    with pytest.raises(DestinationError, match="but it is gone: nothing more is written"):
        check_claim(count)


def test_a_scale_that_stands_elsewhere_gets_no_files(url: str) -> None:
    with pytest.raises(OptionError, match=r"--layer: expected a scale that stands in .*, came \.\./other/8_8_8"):
        inspect(stats(url, "../other/8_8_8"))


@pytest.mark.parametrize("identity", [IDENTITY, OTHER], ids=["again", "another"])
def test_a_count_that_is_killed_at_any_step_is_made_by_the_same_command(
    url: str, identity: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> None:
        for name in (".beam_volumes", "16_16_8/stats"):
            Folder(url).delete_folder(name)
        counted(taken(stats(url)))

    for _ in each_step(lambda: counted(taken(stats(url), identity, over=True)), prepare, monkeypatch):
        counted(taken(stats(url), identity, over=True))
        assert names(url) == WRITTEN
