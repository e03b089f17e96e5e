"""Downsampling that was killed, stopped, repeated, changed, or run twice at once: the same bytes, or one clear line."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import beam_volumes.volume_report
import transforms.downsample
import transforms.export
import transforms.shards
from beam_volumes import runs, shard_assembly
from beam_volumes.destinations import write_json
from beam_volumes.downsample import coarsen_cell
from beam_volumes.errors import DestinationError
from beam_volumes.precomputed.shards import write_shard
from beam_volumes.storage import Folder
from pipelines import export
from pipelines.downsample import Config, main, plan
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.conftest import (
    CELLS,
    MIPS,
    SECONDS,
    alive,
    copy_of,
    only_error,
    stamps,
    started,
    wait_until,
    written,
)

pytestmark = pytest.mark.usefixtures("temporary_files_of_the_killed")

SMALLER = ["--num_mips=2", "--chunk_size=16,16,16", "--factor=2,2,2", "--memory_target=600000", "--encoding=raw"]
"""Other mips of the same volume."""
KEYS = ["32_32_40", "64_64_80", "128_128_160", "256_256_320"]


class Files(NamedTuple):
    """The options of a run and the bytes of the volume when nothing disturbs it."""

    options: list[str]
    bytes: dict[str, bytes]


def downsample(layer: Path, *options: str) -> int:
    return main([f"--layer=file://{layer}", "--processes=1", *options])


def downsampling(layer: Path, *options: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started("downsample", f"--layer=file://{layer}", *options)


def report(layer: Path, key: str = KEYS[0]) -> dict[str, Any]:
    return Folder(f"file://{layer}").read_json(f"{key}/report.json") or {}


def scales(layer: Path) -> list[str]:
    return [scale["key"] for scale in (Folder(f"file://{layer}").read_json("info") or {})["scales"]]


def receipts(layer: Path) -> list[tuple[int, int]]:
    """Return mip and shard of what is finished."""
    names = (layer / ".beam_volumes/downsample/finished").rglob("*.json")
    pairs = (path.stem.split("-") for path in names)
    return sorted((int(mip), int(shard)) for mip, shard in pairs)


def packs(layer: Path, kind: str) -> list[Path]:
    return list((layer / ".beam_volumes/downsample/scratch").rglob(f"{kind}-*.pack"))


def shard_file(layer: Path, mip: int, shard: int) -> Path:
    return layer / KEYS[mip - 1] / f"{shard:x}.shard"


def undisturbed(fine: Path, folder: Path, *options: str) -> Files:
    layer = copy_of(fine, folder / "layer")
    assert downsample(layer, *options) == 0
    return Files([*options], written(layer))


@pytest.fixture(scope="module")
def whole(fine: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = undisturbed(fine, tmp_path_factory.mktemp("undisturbed"), *MIPS)
    assert len(files.bytes) - len(written(fine)) == 6
    return files


@pytest.fixture(scope="module")
def smaller(fine: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return undisturbed(fine, tmp_path_factory.mktemp("undisturbed"), *SMALLER)


def reading(layer: Path) -> bool:
    return len(packs(layer, "region")) >= 1


def coarsening(layer: Path) -> bool:
    return len(packs(layer, "cell-1")) >= 1


def near_the_top(layer: Path) -> bool:
    return len(packs(layer, "cell-3")) >= 1


def writing(layer: Path) -> bool:
    return len(receipts(layer)) >= 1


@pytest.mark.parametrize(
    ("moment", "only_launcher", "processes"),
    [(reading, True, 2), (coarsening, False, 2), (near_the_top, False, 1), (writing, False, 2)],
)
def test_killed_and_run_again(
    moment: Callable[[Path], bool], only_launcher: bool, processes: int, layer: Path, whole: Files
) -> None:
    with downsampling(layer, *MIPS, f"--processes={processes}") as process:
        wait_until(lambda: moment(layer), process)
        if only_launcher:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
        wait_until(lambda: not alive(process.pid))
    assert scales(layer) == ["16_16_40"]
    assert report(layer) == {}
    finished, regions, cells = receipts(layer), len(packs(layer, "region")), len(packs(layer, "cell"))
    assert (len(finished) > 0) == (moment is writing)
    assert (cells > 0) == (moment is not reading)
    kept = {shard_file(layer, *shard) for shard in finished}
    before = {path: path.stat().st_mtime_ns for path in kept}

    assert downsample(layer, *MIPS) == 0
    assert written(layer) == whole.bytes
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    stages = report(layer)["stages"]
    assert stages["shards"]["done_by_an_interrupted_run"] == len(finished)
    assert stages["shards"]["done"] == 6 - len(finished)
    assert done_anew(stages["regions"]) == 6 - regions
    assert done_anew(stages["cells"]) == sum(CELLS.values()) - cells
    assert stages["regions"]["voxels_read"] == (6 - regions) * 64 * 32 * 256


def done_anew(stage: dict[str, int]) -> int:
    return stage["done"] - stage["taken_up_from_an_interrupted_run"]


def test_ctrl_c_and_run_again(layer: Path, whole: Files) -> None:
    with downsampling(layer, *MIPS, "--processes=2") as process:
        wait_until(lambda: coarsening(layer), process)
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
    assert scales(layer) == ["16_16_40"]
    assert downsample(layer, *MIPS) == 0
    assert written(layer) == whole.bytes


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
    "regions": (transforms.export, "render_region"),
    "cells": (transforms.downsample, "coarsen_cell"),
    "shards": (transforms.shards, "assemble_shard"),
    "proof": (beam_volumes.volume_report, "check_conservation"),
}


def interrupted(layer: Path, stage: str, calls: int, *options: str) -> None:
    module, name = STAGES[stage]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, Stopper(getattr(module, name), calls))
        assert downsample(layer, *options) == 1


@pytest.mark.parametrize(
    ("stage", "calls", "expected"),
    [
        ("regions", 4, (4, 0, 0)),
        ("cells", 0, (6, 0, 0)),
        ("cells", 28, (6, 28, 0)),
        ("shards", 0, (6, 31, 0)),
        ("shards", 4, (6, 31, 4)),
        ("proof", 0, (6, 31, 6)),
    ],
)
def test_interrupted_at_every_stage(
    stage: str, calls: int, expected: tuple[int, int, int], layer: Path, whole: Files
) -> None:
    interrupted(layer, stage, calls, *MIPS)
    assert (len(packs(layer, "region")), len(packs(layer, "cell")), len(receipts(layer))) == expected
    assert scales(layer) == ["16_16_40"]
    assert downsample(layer, *MIPS) == 0
    assert written(layer) == whole.bytes
    stages = report(layer)["stages"]
    assert stages["shards"]["done"] == 6 - expected[2]
    # Where all shards are finished, nothing is taken up, as nothing is needed.
    assert done_anew(stages["regions"]) == 6 - expected[0]
    assert done_anew(stages["cells"]) == 31 - expected[1]
    assert stages["regions"]["planned"] == (0 if stage == "proof" else 6)
    assert not (layer / ".beam_volumes").exists()


@pytest.mark.parametrize(
    ("lost", "regions", "cells"),
    [
        ([(1, 0)], 2, 0),
        ([(2, 0)], 6, 24),
        ([(3, 0)], 6, 30),
        ([(4, 0)], 6, 31),
        ([(1, 2), (3, 0)], 6, 30),
    ],
)
def test_only_what_a_lost_shard_is_made_of_is_done_again(
    lost: list[tuple[int, int]], regions: int, cells: int, layer: Path, whole: Files
) -> None:
    interrupted(layer, "proof", 0, *MIPS)
    for shard in lost:
        shard_file(layer, *shard).unlink()
    shutil.rmtree(layer / ".beam_volumes/downsample/scratch")
    before = stamps(layer)
    assert downsample(layer, *MIPS) == 0
    assert written(layer) == whole.bytes
    stages, after = report(layer)["stages"], stamps(layer)
    assert stages["shards"]["done"] == len(lost)
    assert (stages["regions"]["done"], stages["cells"]["done"]) == (regions, cells)
    assert stages["regions"]["voxels_read"] == regions * 64 * 32 * 256
    kept = [name for name in before if name.endswith(".shard")]
    assert len(kept) == 6 - len(lost)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_a_shard_that_was_truncated_is_written_again(layer: Path, whole: Files) -> None:
    interrupted(layer, "proof", 0, *MIPS)
    os.truncate(shard_file(layer, 3, 0), 100)
    assert downsample(layer, *MIPS) == 0
    assert written(layer) == whole.bytes
    assert report(layer)["stages"]["shards"]["done_by_an_interrupted_run"] == 5


@pytest.mark.parametrize("kind", ["region", "cell"])
def test_truncated_packs_are_made_again(kind: str, layer: Path, whole: Files) -> None:
    interrupted(layer, "shards", 2, *MIPS)
    for pack in packs(layer, kind):
        os.truncate(pack, pack.stat().st_size // 2)
    assert downsample(layer, *MIPS) == 0
    assert written(layer) == whole.bytes
    stages = report(layer)["stages"]
    stage = stages[f"{kind}s"]
    assert stage["done"] > stage["taken_up_from_an_interrupted_run"] == 0


def test_scratch_elsewhere_is_taken_up_and_removed(layer: Path, whole: Files, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    interrupted(layer, "shards", 0, *MIPS, f"--scratch={scratch}")
    assert packs(layer, "region") == packs(layer, "cell") == []
    assert len(list(scratch.rglob("*.pack"))) == 37
    assert downsample(layer, *MIPS, f"--scratch={scratch}") == 0
    assert written(layer) == whole.bytes
    assert done_anew(report(layer)["stages"]["regions"]) == done_anew(report(layer)["stages"]["cells"]) == 0
    assert [path for path in scratch.rglob("*") if not path.is_dir()] == []


def test_without_resume_all_is_done_again(layer: Path, whole: Files) -> None:
    interrupted(layer, "shards", 4, *MIPS)
    assert downsample(layer, *MIPS, "--resume=false") == 0
    assert written(layer) == whole.bytes
    stages = report(layer)["stages"]
    assert (done_anew(stages["regions"]), done_anew(stages["cells"]), stages["shards"]["done"]) == (6, 31, 6)


LAST = {
    "before info": ("write", "info", False, False),
    "before the provenance": ("write", "provenance", True, False),
    "before the report": ("write", f"{KEYS[0]}/report.json", True, False),
    "after the report": ("delete", [".beam_volumes/downsample/claim.json"], True, True),
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, method, failing(getattr(Folder, method), name))
        assert downsample(layer, *MIPS) == 1
    assert "the disk is gone" in only_error(capsys.readouterr().err)
    assert scales(layer) == ["16_16_40", *(KEYS if listed else [])]
    assert (report(layer) != {}) == reported
    before = {name: stamp for name, stamp in stamps(layer).items() if name.endswith(".shard")}
    assert len(before) == 6
    assert downsample(layer, *MIPS) == 0
    assert written(layer) == whole.bytes
    assert {name: stamp for name, stamp in stamps(layer).items() if name.endswith(".shard")} == before
    assert not (layer / ".beam_volumes").exists()
    processing = (Folder(f"file://{layer}").read_json("provenance") or {})["processing"]
    assert [entry["method"]["task"] for entry in processing] == ["export", "downsample"]


def failing(method: Callable[..., None], fails_on: str | list[str]) -> Callable[..., None]:
    def fails(folder: Folder, name: str | list[str], *args: Any, **options: Any) -> None:
        if name == fails_on:
            raise DestinationError(f"{folder.url}/{name}: the disk is gone")
        method(folder, name, *args, **options)

    return fails


CHANGES = {
    "mips": ["--num_mips=3"],
    "factor": ["--factor=2,2,1"],
    "method": ["--method=min"],
    "sparse": ["--sparse"],
    "chunk size": ["--chunk_size=8,8,16"],
    "bounds": ["--bounds=0,0,0,64,32,640"],
    "encoding": ["--encoding=png;raw"],
    "files": ["--sharded=false"],
    "memory": ["--memory_target=540000"],
}


@pytest.mark.parametrize("complete", [False, True], ids=["unfinished", "complete"])
def test_another_run_is_refused(complete: bool, layer: Path, whole: Files, capsys: pytest.CaptureFixture[str]) -> None:
    if complete:
        assert downsample(layer, *MIPS) == 0
    else:
        interrupted(layer, "shards", 3, *MIPS)
    before = stamps(layer)
    for options in CHANGES.values():
        name = options[0].split("=")[0]
        capsys.readouterr()
        rest = [option for option in MIPS if option.split("=")[0] != name]
        assert downsample(layer, *rest, *options) == 2
        line = only_error(capsys.readouterr().err)
        assert line.startswith(f"error: --layer: file://{layer} holds another run: ")
        assert f"{name.removeprefix('--')} was " in line
        assert line.endswith("go on from the coarsest with --mip, or replace them with --overwrite")
        assert stamps(layer) == before
    assert downsample(layer, *MIPS) == 0
    assert written(layer) == whole.bytes


@pytest.mark.parametrize("stage", ["cells", "none"])
def test_overwrite_replaces_another_run(stage: str, layer: Path, smaller: Files) -> None:
    if stage == "none":
        assert downsample(layer, *MIPS) == 0
    else:
        interrupted(layer, stage, 4, *MIPS)
    assert downsample(layer, *SMALLER, "--overwrite") == 0
    assert written(layer) == smaller.bytes
    assert report(layer, "32_32_80")["stages"]["shards"]["done_by_an_interrupted_run"] == 0


def test_an_interrupted_overwrite_shows_no_mips_and_goes_on(layer: Path, whole: Files) -> None:
    assert downsample(layer, *SMALLER) == 0
    interrupted(layer, "cells", 20, *MIPS, "--overwrite")
    assert scales(layer) == ["16_16_40"]
    assert not (layer / "32_32_80").exists()
    assert downsample(layer, *MIPS, "--overwrite") == 0
    assert written(layer) == whole.bytes
    assert report(layer)["stages"]["cells"]["taken_up_from_an_interrupted_run"] == 20


def take_over(layer: Path, *options: str) -> None:
    """Claim the destination for another run, as its process would at this moment."""
    config = parse(Config, [f"--layer=file://{layer}", *options, "--overwrite"])[0]
    runs.take(plan(config, Setting(local=True, workers=1, inline_bytes=0)).claim)


@pytest.mark.parametrize("stage", ["cells", "shards"])
def test_a_run_stops_when_another_takes_its_place(
    stage: str, layer: Path, smaller: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def disturbed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            take_over(layer, *SMALLER)
        return coarsen_cell(*args) if stage == "cells" else write_shard(*args)

    with pytest.MonkeyPatch.context() as patch:
        if stage == "cells":
            patch.setattr(transforms.downsample, "coarsen_cell", disturbed)
        else:
            patch.setattr(shard_assembly, "write_shard", disturbed)
        assert downsample(layer, *MIPS) == 1
    line = only_error(capsys.readouterr().err)
    assert "another run has taken it over: nothing more is written" in line
    assert ("cell " if stage == "cells" else "shard ") in line
    assert len(calls) == 4
    assert scales(layer) == ["16_16_40"]
    assert [name for name in stamps(layer) if name.startswith(tuple(KEYS))] == []
    assert downsample(layer, *SMALLER) == 0
    assert written(layer) == smaller.bytes


def test_a_run_that_lost_its_claim_at_the_end_lists_nothing(
    layer: Path, smaller: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = beam_volumes.volume_report.check_conservation

    def disturbed(*args: Any) -> None:
        proof(*args)
        take_over(layer, *SMALLER)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam_volumes.volume_report, "check_conservation", disturbed)
        assert downsample(layer, *MIPS) == 1
    only_error(capsys.readouterr().err)
    assert scales(layer) == ["16_16_40"]
    assert downsample(layer, *SMALLER) == 0
    assert written(layer) == smaller.bytes


def test_two_different_runs_at_once(layer: Path, whole: Files, smaller: Files) -> None:
    with downsampling(layer, *MIPS, "--processes=1") as a, downsampling(layer, *SMALLER, "--processes=1") as b:
        ends = [(process, process.communicate(timeout=SECONDS)[1]) for process in (a, b)]
    statuses = [process.returncode for process, _ in ends]
    assert sorted(statuses) in ([0, 1], [0, 2]), ends
    winner = statuses.index(0)
    assert written(layer) == [whole, smaller][winner].bytes
    assert "another run" in only_error(ends[1 - winner][1])


def test_two_equal_runs_at_once(layer: Path, whole: Files) -> None:
    with downsampling(layer, *MIPS, "--processes=1") as first:
        wait_until(lambda: reading(layer), first)
        status = downsample(layer, *MIPS)
        _, text = first.communicate(timeout=SECONDS)
    assert (status, first.returncode) == (0, 0), text
    assert written(layer) == whole.bytes


@pytest.mark.parametrize("pipeline", ["downsample", "export"])
def test_the_report_of_the_slower_of_two_equal_runs_stays(
    pipeline: str, layer: Path, dst: Path, whole: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """The faster one has removed what both kept, just when the slower one has written its report."""

    def overtaken(folder: Folder, name: str, content: dict[str, Any]) -> None:
        write_json(folder, name, content)
        if name.endswith("report.json"):
            shutil.rmtree((layer if pipeline == "downsample" else dst) / ".beam_volumes")

    def run() -> int:
        if pipeline == "downsample":
            return downsample(layer, *MIPS)
        options = ["--num_mips=2", "--chunk_size=16,16,16", "--processes=1"]
        return export.main(["--src=made://neurons?size=64,32,40", f"--dst=file://{dst}", *options])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "write_json", overtaken)
        assert run() == 0
    assert "another run of the same command" in capsys.readouterr().err
    assert run() == 0
    assert "nothing to do" in capsys.readouterr().err
    if pipeline == "downsample":
        assert written(layer) == whole.bytes


def test_an_export_with_mips_goes_on(tmp_path: Path) -> None:
    """Its claim is that of an export; mip 0 is written, too."""
    src = "--src=made://neurons?size=64,32,1536&chunk=128,128,4&dtype=uint8"
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert export.main([src, f"--dst=file://{once}", "--processes=1", *MIPS]) == 0
    command = [src, f"--dst=file://{twice}", "--processes=1", *MIPS]
    for stage, calls in [("regions", 3), ("cells", 20), ("shards", 4)]:
        module, name = STAGES[stage]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, Stopper(getattr(module, name), calls))
            assert export.main(command) == 1
    assert export.main(command) == 0
    assert written(once) == written(twice)
    stages = (Folder(f"file://{twice}").read_json("report.json") or {})["stages"]
    assert done_anew(stages["regions"]) == done_anew(stages["cells"]) == 0
    assert stages["shards"]["done_by_an_interrupted_run"] == 4
