"""Forging and merging that were killed, repeated, changed, or run twice at once: the same bytes, or one clear line."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import transforms.mesh
from beam_volumes import runs
from beam_volumes.errors import DestinationError
from beam_volumes.meshing.levels import forge_cell
from pipelines import forge_mesh, merge_mesh
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.conftest import SECONDS, alive, copy_of, only_error, stamps, started, wait_until
from tests.pipelines.mesh_cases import report, stage
from tests.pipelines.staged_meshes import FRAGMENTS, files, named

pytest_plugins = ["tests.pipelines.mesh_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures", "temporary_files_of_the_killed")


CELLS = "--cell_size=14,14,10"
"""5 x 4 x 5 of them."""


class Stage(NamedTuple):
    """A command, the folder it writes, and options; those of another run, too."""

    pipeline: str
    folder: str
    options: list[str]
    other: list[str]

    def run(self, layer: Path, *options: str) -> int:
        module = {"forge_mesh": forge_mesh, "merge_mesh": merge_mesh}[self.pipeline]
        return module.main([f"--layer=file://{layer}", "--processes=1", *options])

    def start(
        self, layer: Path, options: list[str], processes: int = 2
    ) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        return started(self.pipeline, f"--layer=file://{layer}", *options, f"--processes={processes}")

    def packs(self, layer: Path, kind: str = "") -> set[Path]:
        # A run that ends removes folders while they are looked at.
        found = os.walk(layer / ".beam_volumes" / self.folder / "scratch")
        return {Path(at) / n for at, _, names in found for n in names if n.startswith(kind) and n.endswith(".pack")}

    def reused(self, layer: Path) -> int:
        return int(stage(layer, "cells", self.folder)["elements_taken_up_from_an_interrupted_run"])

    def take_over(self, layer: Path) -> None:
        """Claim the folder for the other run, as its process would at this moment."""
        module: Any = {"forge_mesh": forge_mesh, "merge_mesh": merge_mesh}[self.pipeline]
        config = parse(module.Config, [f"--layer=file://{layer}", *self.other, "--overwrite"])[0]
        runs.take(module.plan(config, Setting(local=True, workers=1, inline_bytes=0)).claim)


STAGES = {
    "frags": Stage("forge_mesh", FRAGMENTS, [CELLS], [CELLS, "--simplification_factor=2"]),
    "plain": Stage("forge_mesh", FRAGMENTS, [CELLS, "--sharded=false"], [CELLS, "--labels=1,2"]),
    "merged": Stage("merge_mesh", "mesh", ["--num_lods=3"], ["--num_lods=2"]),
}


class Case(NamedTuple):
    """A stage, the volume before it, and the files it writes when nothing disturbs it."""

    command: Stage
    layer: Path
    expected: dict[str, bytes]
    others: dict[str, bytes]


@pytest.fixture(scope="module")
def volumes(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The volumes before each stage, and after it, undisturbed; not to be changed."""
    forged = copy_of(stored, tmp_path_factory.mktemp("forged") / "layer")
    assert STAGES["frags"].run(forged, *STAGES["frags"].options) == 0
    found = dict[str, Path]()
    for name, command in STAGES.items():
        found[name] = forged if name == "merged" else stored
        for kind, options in (("whole", command.options), ("other", command.other)):
            layer = copy_of(found[name], tmp_path_factory.mktemp("undisturbed") / "layer")
            assert command.run(layer, *options) == 0
            found[f"{name}, {kind}"] = layer
    return found


@pytest.fixture(params=STAGES)
def case(request: pytest.FixtureRequest, volumes: dict[str, Path], tmp_path: Path) -> Case:
    name, command = request.param, STAGES[request.param]
    layer = Path(shutil.copytree(volumes[name], tmp_path / "layer"))
    whole, other = (files(volumes[f"{name}, {kind}"], command.folder) for kind in ("whole", "other"))
    return Case(command, layer, whole, other)


@pytest.mark.parametrize(("kind", "number"), [("labels-", 5), ("cell-", 3)])
def test_killed_and_run_again(kind: str, number: int, case: Case) -> None:
    command, layer, expected, _ = case
    before = named(layer)
    with command.start(layer, command.options) as process:
        wait_until(lambda: len(command.packs(layer, kind)) >= number, process)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
        wait_until(lambda: not alive(process.pid))
    assert named(layer) == before
    assert not (layer / command.folder / "info").exists()
    kept = command.packs(layer)
    written = {name: s for name, s in stamps(layer).items() if name.endswith(".frags")}
    assert command.run(layer, *command.options) == 0
    assert files(layer, command.folder) == expected
    assert command.reused(layer) == len(kept) >= number
    # What was told as done is not written again: of those without a pack, one for each process at the most.
    changed = [name for name, stamp in written.items() if stamps(layer)[name] != stamp]
    assert len(changed) <= 2
    assert not (layer / ".beam_volumes").exists()


def test_the_end_that_did_not_come(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, layer, expected, _ = case

    def fails(*args: Any) -> None:
        raise DestinationError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(transforms.mesh, "finish_meshes", fails)
        assert command.run(layer, *command.options) == 1
    assert "the disk is gone" in only_error(capsys.readouterr().err)
    assert not (layer / command.folder / "info").exists()
    if command.folder == FRAGMENTS:
        # Without an info, nobody takes them for fragments.
        assert merge_mesh.main([f"--layer=file://{layer}", "--processes=1"]) == 2
        line = only_error(capsys.readouterr().err)
        assert f"/{FRAGMENTS}/info does not exist: make them with forge_mesh" in line
    assert command.run(layer, *command.options) == 0
    assert files(layer, command.folder) == expected
    assert named(layer) == command.folder


def test_without_resume_and_over_another_run(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    command, layer, expected, others = case
    assert command.run(layer, *command.other) == 0
    assert files(layer, command.folder) == others
    before = stamps(layer)
    capsys.readouterr()
    assert command.run(layer, *command.options) == 2
    line = only_error(capsys.readouterr().err)
    assert f"--mesh_dir: file://{layer}/{command.folder} holds another run" in line
    assert line.endswith("choose another --mesh_dir, or replace what is there with --overwrite")
    assert command.run(layer, *command.other, "--resume=false") == 2
    assert "--resume: expected an unfinished" in only_error(capsys.readouterr().err)
    assert stamps(layer) == before
    assert command.run(layer, *command.options, "--overwrite") == 0
    assert files(layer, command.folder) == expected
    assert named(layer) == command.folder


def test_an_overwrite_that_was_killed_goes_on(case: Case) -> None:
    command, layer, expected, _ = case
    assert command.run(layer, *command.other) == 0
    with command.start(layer, [*command.options, "--overwrite"], 1) as process:
        wait_until(lambda: len(command.packs(layer, "cell-")) >= 3, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(SECONDS)
        wait_until(lambda: not alive(process.pid))
    assert not (layer / command.folder / "info").exists()
    assert command.run(layer, *command.options, "--overwrite") == 0
    assert files(layer, command.folder) == expected
    assert command.reused(layer) >= 3


def test_a_run_stops_when_another_takes_its_place(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, layer, _, others = case
    calls = []

    def disturbed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            command.take_over(layer)
        return forge_cell(*args)

    with monkeypatch.context() as patch:
        patch.setattr(transforms.mesh, "forge_cell", disturbed)
        assert command.run(layer, *command.options) == 1
    assert "another run has taken it over: nothing more is written" in only_error(capsys.readouterr().err)
    assert len(calls) == 4
    assert not (layer / command.folder).exists() or files(layer, command.folder) == {}
    assert command.run(layer, *command.other) == 0
    assert files(layer, command.folder) == others


def both_end(command: Stage, layer: Path, first: list[str], second: list[str]) -> list[tuple[int, str]]:
    """Start two runs at the same moment and return their exit statuses and messages."""
    with command.start(layer, first, 1) as a, command.start(layer, second, 1) as b:
        ends = [(process, process.communicate(timeout=SECONDS)[1]) for process in (a, b)]
        return [(process.returncode, text) for process, text in ends]


def test_two_equal_runs_at_once(case: Case) -> None:
    command, layer, expected, _ = case
    ends = both_end(command, layer, command.options, command.options)
    assert 0 in [status for status, _ in ends], ends
    assert files(layer, command.folder) == expected
    for status, text in ends:
        assert "Traceback" not in text
        assert len([line for line in text.splitlines() if line.startswith("error: ")]) == (status != 0)


def test_two_different_runs_at_once(case: Case) -> None:
    command, layer, expected, others = case
    ends = both_end(command, layer, command.options, command.other)
    assert sorted(status for status, _ in ends) in ([0, 1], [0, 2]), ends
    winner = [status for status, _ in ends].index(0)
    assert files(layer, command.folder) == [expected, others][winner]
    loser = ends[1 - winner][1]
    assert "Traceback" not in loser
    [line] = [line for line in loser.splitlines() if line.startswith("error: ")]
    assert "another run" in line


def test_scratch_elsewhere_is_removed(case: Case, tmp_path: Path) -> None:
    command, layer, expected, _ = case
    scratch = tmp_path / "scratch"
    assert command.run(layer, *command.options, f"--scratch={scratch}") == 0
    assert files(layer, command.folder) == expected
    assert [path for path in scratch.rglob("*") if path.is_file()] == []
    assert report(layer, command.folder)["pipeline"] == command.pipeline
