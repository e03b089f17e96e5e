"""Meshing that was killed, stopped, repeated, changed, or run twice at once: the same bytes, or one clear line."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import transforms.mesh
from beam_volumes import runs
from beam_volumes.errors import DestinationError
from beam_volumes.meshing import assembly, mesh_report
from beam_volumes.precomputed import sharding
from beam_volumes.storage import Folder
from pipelines.mesh import Config, plan
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.conftest import SECONDS, alive, only_error, stamps, started, wait_until
from tests.pipelines.mesh_cases import LODS, files, mesh, report

pytest_plugins = ["tests.pipelines.mesh_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures", "temporary_files_of_the_killed")


@pytest.fixture
def layer(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "layer"))


SMALLER = ["--num_lods=2", "--cell_size=24,20,16", "--labels=1,2,3,4,5"]
"""Other meshes of the same volume."""


class Files(NamedTuple):
    """The options of a run and the bytes of the meshes when nothing disturbs it."""

    options: list[str]
    bytes: dict[str, bytes]


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread few labels over shards, too; in this process only."""
    monkeypatch.setattr(sharding, "_LABELS_PER_MINISHARD", 1)
    monkeypatch.setattr(sharding, "_LABEL_MINISHARD_BITS", 1)


def undisturbed(stored: Path, folder: Path, *options: str) -> Files:
    layer = Path(shutil.copytree(stored, folder / "layer"))
    assert mesh(layer, *options) == 0
    return Files([*options], files(layer))


@pytest.fixture(scope="module")
def whole(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return undisturbed(stored, tmp_path_factory.mktemp("undisturbed"), *LODS)


@pytest.fixture(scope="module")
def smaller(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return undisturbed(stored, tmp_path_factory.mktemp("undisturbed"), *SMALLER)


def meshing(layer: Path, *options: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started("mesh", f"--layer=file://{layer}", *options)


def packs(layer: Path, kind: str = "") -> set[Path]:
    return set((layer / ".beam_volumes/mesh/scratch").rglob(f"{kind}*.pack"))


def receipts(layer: Path) -> list[Path]:
    return sorted((layer / ".beam_volumes/mesh/finished").rglob("*.json"))


def reused(layer: Path) -> int:
    cells: dict[str, int] = report(layer)["stages"]["cells"]
    return cells["elements_taken_up_from_an_interrupted_run"]


def is_meshed(layer: Path) -> bool:
    return "mesh" in (Folder(f"file://{layer}").read_json("info") or {})


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "counting": lambda layer: len(packs(layer, "labels-")) >= 5,
    "choosing": lambda layer: len(packs(layer, "choice-")) >= 1,
    "forging": lambda layer: len(packs(layer, "cell-")) >= 9,
    "joining": lambda layer: len(packs(layer, "level-1-")) >= 3,
    "joining at the top": lambda layer: len(packs(layer, "level-2-")) >= 3,
    "writing": lambda layer: len(list((layer / "mesh").glob("*.shard*"))) >= 1,
}


@pytest.mark.parametrize(
    ("moment", "only_launcher", "processes"),
    [
        ("counting", False, 2),
        ("choosing", True, 1),
        ("forging", True, 2),
        ("joining", False, 2),
        ("joining at the top", False, 1),
        ("writing", False, 2),
    ],
)
def test_killed_and_run_again(moment: str, only_launcher: bool, processes: int, layer: Path, whole: Files) -> None:
    with meshing(layer, *LODS, f"--processes={processes}") as process:
        wait_until(lambda: MOMENTS[moment](layer), process)
        if only_launcher:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
        wait_until(lambda: not alive(process.pid))
    assert not is_meshed(layer)
    assert not (layer / "mesh/info").exists()
    kept = packs(layer)
    assert mesh(layer, *LODS) == 0
    assert files(layer) == whole.bytes
    assert reused(layer) == len(kept) > 0
    assert not (layer / ".beam_volumes").exists()


def test_killed_again_and_again(layer: Path, whole: Files) -> None:
    """At any moment; what was done before is not done again."""
    moments = random.Random(4)
    for _ in range(3):
        before = packs(layer)
        with meshing(layer, *LODS, "--processes=2") as process:
            wait_until(partial(has_more_packs, layer, len(before)), process)
            time.sleep(moments.random() * 0.3)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)
            wait_until(partial(is_gone, process))
        if is_meshed(layer):
            break
        assert before < packs(layer)
    assert mesh(layer, *LODS) == 0
    found = files(layer)
    found.pop("meshes.png", None)
    assert found == whole.bytes


def has_more_packs(layer: Path, number: int) -> bool:
    return len(packs(layer)) > number or is_meshed(layer)


def is_gone(process: subprocess.Popen[str]) -> bool:
    return not alive(process.pid)


def test_ctrl_c_and_run_again(layer: Path, whole: Files) -> None:
    with meshing(layer, *LODS, "--processes=2") as process:
        wait_until(lambda: MOMENTS["forging"](layer), process)
        asked = time.monotonic()
        # A terminal sends it to all processes of the command.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        assert time.monotonic() - asked < 10
        assert process.returncode == 130, err
        assert alive(process.pid) == []
    assert re.fullmatch(
        r"labels 27/27, parts of labels 1/1, cells \d+/27, parts of levels \d+, shards \d+", err.splitlines()[-2]
    )
    assert err.splitlines()[-1] == "stopped: give the same command again to go on where it stopped"
    assert "Traceback" not in err
    assert "error" not in err.lower()
    assert out == ""
    assert not is_meshed(layer)
    assert mesh(layer, *LODS) == 0
    assert files(layer) == whole.bytes
    assert reused(layer) > 0


def test_a_full_disk(layer: Path, whole: Files) -> None:
    def limit_files() -> None:
        # Python gets EFBIG, as ENOSPC from a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with started(
        "mesh", f"--layer=file://{layer}", *LODS, "--processes=2", preexec_fn=limit_files, env=environment
    ) as process:
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 1, (out, err)
    assert re.search(
        rf"file://{layer}/\S*\.pack: expected to write a file, came File too large \(EFBIG\)", only_error(err)
    )
    assert mesh(layer, *LODS) == 0
    assert files(layer) == whole.bytes


class Stopper:
    """Lets so many calls of `function` pass and then fails, as for example a disk that was taken away."""

    def __init__(self, function: Callable[..., Any], calls: int) -> None:
        self.function, self.left = function, calls

    def __call__(self, *args: Any) -> Any:
        if not self.left:
            raise DestinationError("the disk is gone")
        self.left -= 1
        return self.function(*args)


STAGES = {
    "count": (transforms.mesh, "count_cell"),
    "choose": (transforms.mesh, "choose_labels"),
    "forge": (transforms.mesh, "forge_cell"),
    "join": (transforms.mesh, "join_cells"),
    "write": (transforms.mesh, "write_meshes"),
    "proof": (mesh_report, "check_conservation"),
}


def interrupted(layer: Path, stage: str, calls: int, *options: str) -> None:
    module, name = STAGES[stage]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, Stopper(getattr(module, name), calls))
        assert mesh(layer, *options) == 1
    assert not is_meshed(layer)


@pytest.mark.usefixtures("many_shards")
@pytest.mark.parametrize(
    ("stage", "calls", "before", "shards"),
    [
        ("count", 11, 11, 0),
        ("choose", 0, 27, 0),
        ("forge", 20, 27 + 1 + 20, 0),
        ("join", 3, 27 + 1 + 27 + 3, 0),
        ("write", 0, None, 0),
        ("write", 3, None, 3),
        ("proof", 0, None, None),
    ],
)
def test_interrupted_at_every_stage(
    stage: str, calls: int, before: int | None, shards: int | None, stored: Path, layer: Path, tmp_path: Path
) -> None:
    expected = undisturbed(stored, tmp_path / "undisturbed", *LODS).bytes
    of_shards = [name for name in expected if name.endswith(".shard")]
    assert len(of_shards) > 4
    interrupted(layer, stage, calls, *LODS)
    kept = packs(layer)
    assert len(kept) == before if before is not None else len(kept) > 60
    assert len(receipts(layer)) == (len(of_shards) if shards is None else shards)
    written = {name: stamp for name, stamp in stamps(layer).items() if name.endswith(".shard")}
    assert mesh(layer, *LODS) == 0
    assert files(layer) == expected
    # Where shards are written, nothing else is looked at again.
    done = report(layer)["stages"]
    assert done["shards"]["done_by_an_interrupted_run"] == len(written)
    assert done["shards"]["written"] == len(of_shards)
    assert reused(layer) == len(kept)
    assert {name: stamps(layer)[name] for name in written} == written


def test_truncated_packs_and_shards_are_made_again(layer: Path, whole: Files) -> None:
    interrupted(layer, "proof", 0, *LODS)
    for kind in ("cell-1", "level-1-1"):
        for pack in packs(layer, kind):
            os.truncate(pack, pack.stat().st_size // 2)
    [shard] = (layer / "mesh").glob("*.shard")
    os.truncate(shard, 100)
    kept = len(packs(layer)) - len(packs(layer, "cell-1")) - len(packs(layer, "level-1-1"))
    assert mesh(layer, *LODS) == 0
    assert files(layer) == whole.bytes
    assert reused(layer) == kept


@pytest.mark.parametrize("options", [["--sharded=false"], ["--format=legacy"]])
def test_files_of_their_own_are_written_again(options: list[str], stored: Path, layer: Path, tmp_path: Path) -> None:
    command = [*(LODS if options == ["--sharded=false"] else LODS[1:]), *options]
    expected = undisturbed(stored, tmp_path / "undisturbed", *command).bytes
    interrupted(layer, "proof", 0, *command)
    kept = len(packs(layer))
    assert mesh(layer, *command) == 0
    assert files(layer) == expected
    assert reused(layer) == kept


def test_what_was_split_is_reported_by_the_run_that_goes_on(layer: Path) -> None:
    options = [*LODS, "--max_fragment_bytes=1000"]
    interrupted(layer, "proof", 0, *options)
    assert mesh(layer, *options) == 0
    resumed, done = report(layer)["stages"]["shards"], files(layer)
    assert mesh(layer, *options, "--overwrite") == 0
    assert files(layer) == done
    once = report(layer)["stages"]["shards"]
    names = ["labels_with_fragments_that_were_split", "fragments_over_the_cap", "bytes"]
    assert [resumed[name] for name in names] == [once[name] for name in names]
    assert once[names[0]] > 0


def test_scratch_elsewhere_is_taken_up_and_removed(layer: Path, whole: Files, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    interrupted(layer, "write", 0, *LODS, f"--scratch={scratch}")
    assert packs(layer) == set()
    kept = len(list(scratch.rglob("*.pack")))
    assert kept > 60
    assert mesh(layer, *LODS, f"--scratch={scratch}") == 0
    assert files(layer) == whole.bytes
    assert reused(layer) == kept
    assert [path for path in scratch.rglob("*") if not path.is_dir()] == []


def test_another_memory_target_goes_on_with_the_same_cells(
    layer: Path, whole: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(layer, "write", 0, *LODS)
    assert mesh(layer, *LODS, "--memory_target=500000000") == 0
    assert files(layer) == whole.bytes
    assert reused(layer) > 60
    capsys.readouterr()
    # What decides is the size of cells that comes of it.
    assert mesh(layer, "--num_lods=3", "--memory_target=400100000") == 2
    assert "holds another run: cell was [24, 18, 14], now [" in only_error(capsys.readouterr().err)


def test_without_resume_all_is_done_again(layer: Path, whole: Files) -> None:
    interrupted(layer, "write", 0, *LODS)
    assert mesh(layer, *LODS, "--resume=false") == 0
    assert files(layer) == whole.bytes
    assert reused(layer) == 0


LAST = {
    "before info of the meshes": ("write", "mesh/info", False, False),
    "before info": ("write", "info", False, False),
    "before the report": ("write", "mesh/report.json", True, False),
    "after the report": ("delete", [".beam_volumes/mesh/claim.json"], True, True),
}


@pytest.mark.parametrize(("method", "name", "listed", "reported"), LAST.values(), ids=LAST)
def test_interrupted_at_the_very_end(
    method: str,
    name: str | list[str],
    listed: bool,
    reported: bool,
    layer: Path,
    whole: Files,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = getattr(Folder, method)

    def failing(folder: Folder, given: str | list[str], *args: Any, **options: Any) -> Any:
        if given == name:
            raise DestinationError("the disk is gone")
        return original(folder, given, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, method, failing)
        assert mesh(layer, *LODS) == 1
    assert "the disk is gone" in only_error(capsys.readouterr().err)
    assert is_meshed(layer) == listed
    assert (layer / "mesh/report.json").exists() == reported
    before = stamps(layer / "mesh")["0.shard"]
    assert mesh(layer, *LODS) == 0
    assert files(layer) == whole.bytes
    assert stamps(layer / "mesh")["0.shard"] == before
    assert not (layer / ".beam_volumes").exists()


def test_another_run_is_refused_until_it_is_told_to_replace(
    layer: Path, smaller: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(layer, "join", 2, *LODS)
    before = stamps(layer)
    capsys.readouterr()
    assert mesh(layer, *SMALLER) == 2
    line = only_error(capsys.readouterr().err)
    assert "labels was null, now" in line
    assert "num_lods was 3, now 2" in line
    assert line.endswith("choose another --mesh_dir, or replace what is there with --overwrite")
    assert stamps(layer) == before
    assert mesh(layer, *SMALLER, "--overwrite") == 0
    assert files(layer) == smaller.bytes
    assert reused(layer) == 0


def take_over(layer: Path, *options: str) -> None:
    """Claim the destination for another run, as its process would at this moment."""
    config = parse(Config, [f"--layer=file://{layer}", *options, "--overwrite"])[0]
    runs.take(plan(config, Setting(local=True, workers=1, inline_bytes=0)).claim)


@pytest.mark.parametrize("stage", ["forge", "join", "write"])
def test_a_run_stops_when_another_takes_its_place(
    stage: str, layer: Path, smaller: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    module, name = STAGES[stage] if stage != "write" else (assembly, "write_shard")
    original, calls = getattr(module, name), []

    def disturbed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == (4 if stage != "write" else 1):
            take_over(layer, *SMALLER)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, disturbed)
        assert mesh(layer, *LODS) == 1
    assert "another run has taken it over: nothing more is written" in only_error(capsys.readouterr().err)
    assert not is_meshed(layer)
    assert list((layer / "mesh").glob("*")) == []
    assert mesh(layer, *SMALLER) == 0
    assert files(layer) == smaller.bytes


def test_two_different_runs_at_once(layer: Path, whole: Files, smaller: Files) -> None:
    with meshing(layer, *LODS, "--processes=1") as a, meshing(layer, *SMALLER, "--processes=1") as b:
        ends = [(process, process.communicate(timeout=SECONDS)[1]) for process in (a, b)]
    statuses = [process.returncode for process, _ in ends]
    assert sorted(statuses) in ([0, 1], [0, 2]), ends
    winner = statuses.index(0)
    assert files(layer).keys() - {"meshes.png"} == whole.bytes.keys()
    assert files(layer)["0.shard"] == [whole, smaller][winner].bytes["0.shard"]
    assert "another run" in only_error(ends[1 - winner][1])


def test_two_equal_runs_at_once(layer: Path, whole: Files) -> None:
    with meshing(layer, *LODS, "--processes=1") as first:
        wait_until(lambda: MOMENTS["counting"](layer), first)
        status = mesh(layer, *LODS)
        _, text = first.communicate(timeout=SECONDS)
    assert (status, first.returncode) == (0, 0), text
    found = files(layer)
    found.pop("meshes.png", None)
    assert found == whole.bytes
