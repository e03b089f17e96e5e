"""Exports that were killed, stopped, repeated, changed, or run twice at once: the same bytes, or one clear line."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cloudvolume import CloudVolume

import transforms.shards
import transforms.volume
from beam_volumes import runs, shard_assembly
from beam_volumes.errors import DestinationError
from beam_volumes.precomputed.shards import write_shard
from beam_volumes.receipts import record as note_down
from beam_volumes.shard_assembly import WrittenShard, assemble_shard
from beam_volumes.storage import Folder
from beam_volumes.testing.chunk_graph import DEMO_TIMES
from beam_volumes.testing.neurons import make_neurons
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server
from pipelines.export import Config, main, plan
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.conftest import SECONDS, alive, only_error, stamps, started, wait_until, written

pytestmark = pytest.mark.usefixtures("temporary_files_of_the_killed")

VOLUME = "made://neurons?size=32,32,1536&chunk=128,128,2"
"""With these options 6 regions, whose pieces are 4 slices of a chunk, and 12 shards of 16 chunks."""
OPTIONS = ["--chunk_size=16,16,32", "--memory_target=1100000"]
SCALE = "16_16_40"


class Files(NamedTuple):
    """The options of an export and the bytes that it writes when nothing disturbs it."""

    options: list[str]
    bytes: dict[str, bytes]


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def export(dst: Path, *options: str, src: str = VOLUME) -> int:
    return main([f"--src={src}", f"--dst=file://{dst}", "--processes=1", *options])


def exporting(
    dst: Path, *options: str, src: str = VOLUME, processes: int = 2
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started("export", f"--src={src}", f"--dst=file://{dst}", *options, f"--processes={processes}")


def receipts(dst: Path) -> list[int]:
    return [int(path.stem.removeprefix("0-")) for path in (dst / ".beam_volumes" / "finished").rglob("0-*.json")]


def packs(dst: Path) -> list[Path]:
    return list((dst / ".beam_volumes" / "scratch").rglob("region-*.pack"))


def shard_files(dst: Path, shard: int) -> set[str]:
    """Return the files of a shard: itself, or 2 x 2 x 4 chunks."""
    if (dst / SCALE / f"{shard:x}.shard").exists():
        return {f"{SCALE}/{shard:x}.shard"}
    return {
        f"{SCALE}/{x}-{x + 16}_{y}-{y + 16}_{z}-{z + 32}.gz"
        for x in (0, 16)
        for y in (0, 16)
        for z in range(128 * shard, 128 * shard + 128, 32)
    }


def undisturbed(folder: Path, *options: str) -> Files:
    assert export(folder, *OPTIONS, *options) == 0
    return Files([*OPTIONS, *options], written(folder))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = undisturbed(tmp_path_factory.mktemp("undisturbed") / "volume")
    assert len(files.bytes) == 13
    return files


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = undisturbed(tmp_path_factory.mktemp("undisturbed") / "volume", "--sharded=false")
    assert len(files.bytes) == 193
    return files


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Another export of the same volume, whose shards have the same names and others besides."""
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "volume", "--bounds=0,0,0,32,32,640")


def rendering(dst: Path) -> bool:
    return len(packs(dst)) >= 1


def writing(dst: Path) -> bool:
    return len(receipts(dst)) >= 1


def kill_all(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def kill_launcher(process: subprocess.Popen[str]) -> None:
    process.kill()


@pytest.mark.parametrize(
    ("files", "moment", "kill", "processes"),
    [
        ("shards", rendering, kill_launcher, 2),
        ("shards", writing, kill_all, 2),
        ("chunks", writing, kill_all, 1),
    ],
    ids=["rendering, the launcher only", "writing shards", "writing chunks"],
)
def test_killed_and_run_again(
    files: str,
    moment: Callable[[Path], bool],
    kill: Callable[[subprocess.Popen[str]], None],
    processes: int,
    dst: Path,
    request: pytest.FixtureRequest,
) -> None:
    expected: Files = request.getfixturevalue(files)
    with exporting(dst, *expected.options, processes=processes) as process:
        wait_until(lambda: moment(dst), process)
        kill(process)
        assert process.wait(SECONDS) == -signal.SIGKILL
        wait_until(lambda: not alive(process.pid))
    assert not (dst / "report.json").exists()
    finished = receipts(dst)
    assert (len(finished) > 0) == (moment is writing)
    kept = {name for shard in finished for name in shard_files(dst, shard)}
    before = {name: stamp for name, stamp in stamps(dst).items() if name in kept}
    assert before.keys() == kept
    taken_up = len(packs(dst))

    assert export(dst, *expected.options) == 0
    assert written(dst) == expected.bytes
    assert {name: stamp for name, stamp in stamps(dst).items() if name in kept} == before
    stages = report(dst)["stages"]
    assert stages["shards"]["done_by_an_interrupted_run"] == len(finished)
    assert stages["shards"]["done"] == 12 - len(finished)
    assert stages["regions"]["taken_up_from_an_interrupted_run"] <= taken_up
    assert stages["regions"]["done"] - stages["regions"]["taken_up_from_an_interrupted_run"] == 6 - taken_up


@pytest.mark.parametrize(("moment", "processes"), [(rendering, 2), (writing, 1)], ids=["rendering", "writing"])
def test_ctrl_c_and_run_again(moment: Callable[[Path], bool], processes: int, shards: Files, dst: Path) -> None:
    with exporting(dst, *shards.options, processes=processes) as process:
        wait_until(lambda: moment(dst), process)
        asked = time.monotonic()
        # A terminal sends it to all processes of the command.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        assert time.monotonic() - asked < 5
        assert process.returncode == 130, err
        assert alive(process.pid) == []
    assert err.splitlines()[-1] == "stopped: give the same command again to go on where it stopped"
    assert "Traceback" not in err
    assert "error" not in err.lower()
    assert out == ""
    finished = receipts(dst)
    before = {name: stamp for name, stamp in stamps(dst).items() if name.endswith(".shard")}

    assert export(dst, *shards.options) == 0
    assert written(dst) == shards.bytes
    assert {name: stamp for name, stamp in stamps(dst).items() if name in before} == before
    assert report(dst)["stages"]["shards"]["done_by_an_interrupted_run"] == len(finished)


def test_ctrl_c_in_a_step_that_has_no_processes(
    shards: Files, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transforms.volume, "finish_volume", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert export(dst, *OPTIONS) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped: ")
    assert len(receipts(dst)) == 12
    assert export(dst, *OPTIONS) == 0
    assert written(dst) == shards.bytes


def test_ctrl_c_before_anything_is_written(dst: Path, tmp_path: Path) -> None:
    """The source does not answer: its info is a pipe in which nothing comes."""
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "info")
    with exporting(dst, *OPTIONS, src=f"file://{source}", processes=1) as process:
        # It can be opened for writing without waiting as soon as somebody reads.
        writer: list[int] = []

        def is_read() -> bool:
            with contextlib.suppress(OSError):
                writer.append(os.open(source / "info", os.O_WRONLY | os.O_NONBLOCK))
            return bool(writer)

        wait_until(is_read, process)
        # As a user would, once more if need be: Python drops an interrupt that comes while it lets an object go.
        for _ in range(6):
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS / 6)
                break
        _, err = process.communicate(timeout=SECONDS)
        os.close(writer[0])
        assert process.returncode == 130, err
    assert err.splitlines() == ["stopped: give the same command again to go on where it stopped"]
    assert not dst.exists()


class Stopper:
    """Writes so many shards and then fails, as for example a disk that was taken away."""

    def __init__(self, shards: int) -> None:
        self.left = shards

    def __call__(self, *args: Any) -> WrittenShard:
        if not self.left:
            raise DestinationError("the disk is gone")
        self.left -= 1
        return assemble_shard(*args)


def interrupted(dst: Path, shards: int, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms.shards, "assemble_shard", Stopper(shards))
        assert export(dst, *options) == 1
    assert len(receipts(dst)) == shards


CHANGES = {
    "chunk size": (["--chunk_size=16,16,64"], r"chunk_size was [16, 16, 32], now [16, 16, 64]"),
    "encoding": (["--encoding=compresso"], r'encoding was null, now ["compresso"]'),
    "bounds": (["--bounds=0,0,0,32,32,640"], r"bounds was null, now [0, 0, 0, 32, 32, 640]"),
    "place": (["--translate=5,0,0"], r"translate was [0, 0, 0], now [5, 0, 0]"),
    "files": (["--sharded=false"], r"sharded was true, now false"),
    "memory": (["--memory_target=2200000"], r"memory_target was 1100000, now 2200000"),
    "source": ([f"--src={VOLUME}&seed=7"], f'src was "{VOLUME}", now "{VOLUME}&seed=7"'),
}


@pytest.mark.parametrize("complete", [False, True], ids=["unfinished", "complete"])
def test_another_export_is_refused(
    complete: bool, shards: Files, dst: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if complete:
        assert export(dst, *OPTIONS) == 0
    else:
        interrupted(dst, 3, *OPTIONS)
    before = stamps(dst)
    for options, difference in CHANGES.values():
        capsys.readouterr()
        changed = {option.split("=")[0] for option in options}
        rest = [option for option in OPTIONS if option.split("=")[0] not in changed]
        src = [] if "--src" in changed else [f"--src={VOLUME}"]
        assert main([*src, f"--dst=file://{dst}", "--processes=1", *rest, *options]) == 2
        line = only_error(capsys.readouterr().err)
        assert line.startswith(f"error: --dst: file://{dst} holds another run: ")
        assert difference in line
        assert line.endswith("choose another place, or replace the volume with --overwrite")
        assert stamps(dst) == before
    assert export(dst, *OPTIONS) == 0
    assert written(dst) == shards.bytes


@pytest.mark.parametrize("complete", [False, True], ids=["unfinished", "complete"])
def test_overwrite_replaces_another_export(complete: bool, shards: Files, smaller: Files, dst: Path) -> None:
    if complete:
        assert export(dst, *OPTIONS) == 0
    else:
        interrupted(dst, 7, *OPTIONS)
    assert export(dst, *smaller.options, "--overwrite") == 0
    assert written(dst) == smaller.bytes
    assert report(dst)["stages"]["shards"]["done_by_an_interrupted_run"] == 0
    # The voxels of the source may be others by now: the same volume is replaced, too.
    before = stamps(dst)
    assert export(dst, *smaller.options, "--overwrite") == 0
    assert written(dst) == smaller.bytes
    assert not {*stamps(dst).values()} & {*before.values()}


def test_an_interrupted_overwrite_goes_on(shards: Files, smaller: Files, dst: Path) -> None:
    assert export(dst, *smaller.options) == 0
    interrupted(dst, 4, *OPTIONS, "--overwrite")
    assert export(dst, *OPTIONS, "--overwrite") == 0
    assert written(dst) == shards.bytes
    assert report(dst)["stages"]["shards"]["done_by_an_interrupted_run"] == 4


def test_a_complete_export_has_nothing_to_do(shards: Files, dst: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(dst, *OPTIONS) == 0
    before = stamps(dst)
    capsys.readouterr()
    assert export(dst, *OPTIONS) == 0
    out, err = capsys.readouterr()
    assert "nothing to do" in err
    assert "shards: done" in out
    assert stamps(dst) == before
    assert written(dst) == shards.bytes


@pytest.mark.parametrize("complete", [False, True], ids=["unfinished", "complete"])
def test_without_resume_all_is_done_again(
    complete: bool, shards: Files, dst: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if complete:
        assert export(dst, *OPTIONS) == 0
    else:
        interrupted(dst, 5, *OPTIONS)
    # A file system may give a new file the inode of one that was just removed: the time tells.
    before = {name: stamp[2] for name, stamp in stamps(dst).items()}
    options = [*OPTIONS, "--resume=false"]
    if complete:
        capsys.readouterr()
        assert export(dst, *options) == 2
        assert only_error(capsys.readouterr().err).startswith("error: --resume: expected an unfinished export at")
        assert {name: stamp[2] for name, stamp in stamps(dst).items()} == before
        options.append("--overwrite")
    assert export(dst, *options) == 0
    assert written(dst) == shards.bytes
    after = {name: stamp[2] for name, stamp in stamps(dst).items()}
    assert [name for name in before.keys() & after.keys() if before[name] == after[name]] == []
    stages = report(dst)["stages"]
    assert stages["shards"]["done"] == 12
    assert stages["shards"]["done_by_an_interrupted_run"] == 0
    assert stages["regions"]["taken_up_from_an_interrupted_run"] == 0


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_finished_shard_that_was_damaged_is_written_again(damage: str, shards: Files, dst: Path) -> None:
    interrupted(dst, 6, *OPTIONS)
    broken = dst / SCALE / f"{receipts(dst)[2]:x}.shard"
    if damage == "gone":
        broken.unlink()
    else:
        os.truncate(broken, 100)
    assert export(dst, *OPTIONS) == 0
    assert written(dst) == shards.bytes
    assert report(dst)["stages"]["shards"]["done_by_an_interrupted_run"] == 5


def test_damaged_packs_are_made_again(shards: Files, dst: Path) -> None:
    interrupted(dst, 2, *OPTIONS)
    for pack in packs(dst):
        os.truncate(pack, 1000)
    assert export(dst, *OPTIONS) == 0
    assert written(dst) == shards.bytes
    assert report(dst)["stages"]["regions"]["taken_up_from_an_interrupted_run"] == 0


def test_scratch_elsewhere_is_taken_up_and_removed(shards: Files, dst: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    interrupted(dst, 2, *OPTIONS, f"--scratch={scratch}")
    assert packs(dst) == []
    assert len(list(scratch.rglob("region-*.pack"))) == 6
    assert export(dst, *OPTIONS, f"--scratch={scratch}") == 0
    assert written(dst) == shards.bytes
    regions = report(dst)["stages"]["regions"]
    assert regions["taken_up_from_an_interrupted_run"] == regions["done"] > 0
    assert [path for path in scratch.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("method", ["write", "delete"], ids=["before the report", "after the report"])
def test_interrupted_at_the_very_end(
    method: str, shards: Files, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the report, only the records are left to remove."""
    with monkeypatch.context() as patch:
        patch.setattr(Folder, method, failing(getattr(Folder, method), "report.json", [".beam_volumes/claim.json"]))
        assert export(dst, *OPTIONS) == 1
    line = only_error(capsys.readouterr().err)
    assert "the disk is gone" in line
    assert (dst / ".beam_volumes" / "claim.json").exists()
    assert (dst / "report.json").exists() == (method == "delete")
    before = {name: stamp for name, stamp in stamps(dst).items() if name.endswith(".shard")}
    assert len(before) == 12
    assert export(dst, *OPTIONS) == 0
    assert written(dst) == shards.bytes
    assert {name: stamp for name, stamp in stamps(dst).items() if name.endswith(".shard")} == before
    assert not (dst / ".beam_volumes").exists()


def failing(method: Callable[..., None], *names: str | list[str]) -> Callable[..., None]:
    def fails(folder: Folder, name: str | list[str], *args: Any, **options: Any) -> None:
        if name in names:
            raise DestinationError(f"{folder.url}/{name}: the disk is gone")
        method(folder, name, *args, **options)

    return fails


def test_interrupted_before_the_info(
    shards: Files, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", failing(Folder.write, "info"))
        assert export(dst, *OPTIONS) != 0
    line = only_error(capsys.readouterr().err)
    assert line.endswith("/info: the disk is gone")
    assert export(dst, *OPTIONS) == 0
    assert written(dst) == shards.bytes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProofreadingServer]:
    with demo_server(tmp_path_factory.mktemp("graph"), make_neurons((64, 64, 32)), (32, 32, 16)) as running:
        yield running


def test_another_moment_is_another_export(
    server: ProofreadingServer, dst: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _, last = DEMO_TIMES
    options = ["--chunk_size=16,16,16", "--encoding=raw"]

    def export_at(timestamp: int, *more: str) -> int:
        return export(dst, *options, f"--timestamp={timestamp}", *more, src=server.url)

    def expected(timestamp: int) -> np.ndarray[Any, Any]:
        supervoxels = np.asarray(CloudVolume(server.watershed_url, progress=False)[:])
        return server.graph.roots(supervoxels, timestamp)

    assert export_at(first) == 0
    np.testing.assert_array_equal(CloudVolume(f"file://{dst}", progress=False)[:], expected(first))
    before, asked = stamps(dst), server.statistics.requests["roots_binary"]
    capsys.readouterr()
    assert export_at(last) == 2
    line = only_error(capsys.readouterr().err)
    assert f"timestamp was {first}, now {last}" in line
    assert stamps(dst) == before
    assert server.statistics.requests["roots_binary"] == asked
    assert export_at(last, "--overwrite") == 0
    np.testing.assert_array_equal(CloudVolume(f"file://{dst}", progress=False)[:], expected(last))
    assert (expected(first) != expected(last)).any()


def take_over(dst: Path, options: list[str]) -> None:
    """Claim the destination for another export, as its process would at this moment."""
    arguments = [f"--src={VOLUME}", f"--dst=file://{dst}", *options, "--overwrite"]
    job = plan(parse(Config, arguments)[0], Setting(local=True, workers=1, inline_bytes=0))
    runs.take(job.claim)


def test_a_run_stops_when_another_takes_its_place(
    smaller: Files, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is in the middle of its fourth shard, whose name the other run has for a shard of its own, too."""
    calls = []

    def disturbed(*args: Any) -> Any:
        calls.append(1)
        summary = write_shard(*args)
        if len(calls) == 4:
            take_over(dst, smaller.options)
        return summary

    with monkeypatch.context() as patch:
        patch.setattr(shard_assembly, "write_shard", disturbed)
        assert export(dst, *OPTIONS) == 1
    line = only_error(capsys.readouterr().err)
    assert "another run has taken it over: nothing more is written" in line
    assert "in shard " in line
    assert len(calls) == 4
    assert list((dst / SCALE).rglob("*")) == []
    assert not (dst / "report.json").exists()
    assert export(dst, *smaller.options) == 0
    assert written(dst) == smaller.bytes


def test_a_run_that_lost_its_claim_at_the_end_does_not_commit(
    smaller: Files, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record, calls = note_down, []

    def disturbed(*args: Any) -> None:
        record(*args)
        calls.append(1)
        if len(calls) == 12:
            take_over(dst, smaller.options)

    with monkeypatch.context() as patch:
        patch.setattr(shard_assembly, "record", disturbed)
        assert export(dst, *OPTIONS) == 1
    line = only_error(capsys.readouterr().err)
    assert "another run has taken it over" in line
    assert not (dst / "report.json").exists()
    assert export(dst, *smaller.options) == 0
    assert written(dst) == smaller.bytes


def both_end(dst: Path, first: list[str], second: list[str]) -> list[tuple[int, str]]:
    """Start two exports at the same moment and return their exit statuses and messages."""
    with exporting(dst, *first, processes=1) as a, exporting(dst, *second, processes=1) as b:
        ends = [(process, process.communicate(timeout=SECONDS)[1]) for process in (a, b)]
        return [(process.returncode, text) for process, text in ends]


def test_two_different_exports_at_once(shards: Files, smaller: Files, dst: Path) -> None:
    ends = both_end(dst, shards.options, smaller.options)
    assert sorted(status for status, _ in ends) in ([0, 1], [0, 2]), ends
    winner = [status for status, _ in ends].index(0)
    assert written(dst) == [shards, smaller][winner].bytes
    loser = ends[1 - winner][1]
    assert "Traceback" not in loser
    [line] = [line for line in loser.splitlines() if line.startswith("error: ")]
    assert "another run" in line


def test_two_equal_exports_started_at_once(shards: Files, dst: Path) -> None:
    ends = both_end(dst, shards.options, shards.options)
    assert 0 in [status for status, _ in ends], ends
    assert written(dst) == shards.bytes
    for status, text in ends:
        assert "Traceback" not in text
        assert len([line for line in text.splitlines() if line.startswith("error: ")]) == (status != 0)


def test_a_second_equal_export_joins_the_first(shards: Files, dst: Path, tmp_path: Path) -> None:
    """Both write the same bytes, and one of them the report: the other finds it."""
    with exporting(dst, *shards.options, processes=1) as first:
        wait_until(lambda: rendering(dst), first)
        status = export(dst, *shards.options)
        _, text = first.communicate(timeout=SECONDS)
    assert (status, first.returncode) == (0, 0), text
    assert written(dst) == shards.bytes


def test_an_equal_export_that_is_slower_ends_well(
    shards: Files, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of a shard the destination is completed, and its records removed, by another run."""
    calls = []

    def overtaken(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            assert export(dst, *OPTIONS) == 0
        return write_shard(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shard_assembly, "write_shard", overtaken)
        assert export(dst, *OPTIONS) == 0
    assert "another run of the same command" in capsys.readouterr().err
    assert written(dst) == shards.bytes
