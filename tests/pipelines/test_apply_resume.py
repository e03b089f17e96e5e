"""Functions applied in runs that were killed, repeated, changed, or run twice at once: the same bytes, or one line."""

import contextlib
import json
import os
import re
import signal
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import beam_volumes.applying.report
import transforms.apply
from beam_volumes import runs
from beam_volumes.errors import DestinationError
from pipelines import apply
from pipelines.apply import Config, plan
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.apply_commands import (
    OPS,
    SRC,
    Spec,
    bbox,
    calls,
    code,
    layer,
    new,
    op,
    packs,
    report,
    run,
    target,
    write_spec,
)
from tests.pipelines.conftest import SECONDS, alive, check_refusal, only_error, stamps, started, wait_until, written

pytestmark = pytest.mark.usefixtures("temporary_files_of_the_killed")

PLAIN = {
    "processing_chunk_sizes": [[32, 32, 4], [16, 16, 4]],
    "processing_crop_pads": [[0, 0, 0], [2, 2, 0]],
    "processing_blend_pads": [0, 0, 0],
    "max_reduction_chunk_size": [32, 32, 4],
}
"""8 chunks of the top level, each an output box; 4 calls for each."""


class Kind(NamedTuple):
    """A kind of run over the source.

    Attributes:
        changes: of the flow, in which {0} stands for a folder.
        function: of `apply_ops`.
        calls: of the function, without that of the try.
        tops: chunks of the top level.
        units: what is finished one by one.

    """

    changes: dict[str, Any]
    function: str
    calls: int
    tops: int
    units: int


PAIR = {"@type": "build_volumetric_layer_set"}
KINDS = {
    "blend": Kind({}, "stopped_of_test", 72, 8, 32),
    "plain": Kind(PLAIN, "stopped_of_test", 32, 8, 8),
    "defer": Kind(
        {"processing_blend_modes": ["defer", "linear"], "level_intermediaries_dirs": ["{0}/left"]},
        "stopped_of_test",
        72,
        8,
        8,
    ),
    "null": Kind({**PLAIN, "dst": None, "level_intermediaries_dirs": ["{0}/records"]}, "looking_of_test", 32, 8, 8),
    "pair": Kind(
        {"dst": {"@type": "build_layer_set", "layers": {"left": new("{0}/left"), "right": new("{0}/right")}}},
        "pair_of_test",
        72,
        8,
        32,
    ),
}


class Command:
    """A command whose function goes on for so many calls, and then waits until it may go on."""

    def __init__(self, folder: Path, kind: Kind, after: int = 10**6) -> None:
        folder.mkdir()
        self.folder, self.log, self.kind = folder, folder.parent / f"{folder.name}.log", kind
        changes = json.loads(json.dumps(kind.changes).replace("{0}", f"file://{folder}"))
        fn = op(kind.function, log=str(self.log), after=after)
        flow = target(f"file://{folder}/volume", **{"fn": fn, **changes})
        self.spec = write_spec(folder.parent / f"{folder.name}.json", flow)
        self.options = [f"--spec={self.spec}", OPS, "--dry_fn=false"]

    def start(self, *options: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        return started("apply", *self.options, *options)

    def go_on(self, *options: str) -> int:
        Path(f"{self.log}.go").touch()
        return run(self.spec, *self.options[1:], *options)

    @property
    def calls(self) -> int:
        return calls(self.log)

    @property
    def waiting(self) -> list[int]:
        """The processes that have stopped."""
        return [int(path.suffix[1:]) for path in self.log.parent.glob(f"{self.log.name}.*") if path.suffix != ".go"]

    @property
    def voxels(self) -> dict[str, bytes]:
        return written(self.folder)

    @property
    def report(self) -> Any:
        [file] = self.folder.rglob("report.json")
        return json.loads(file.read_text())

    @property
    def finished(self) -> list[Path]:
        """The receipts of what is finished."""
        return sorted(self.folder.rglob("finished/*/*.json"))

    @property
    def kept(self) -> int:
        """Of how many chunks of the top level nothing has to be done again."""
        return len(packs(self.folder)) if self.kind.units > self.kind.tops else len(self.finished)


@pytest.fixture(scope="module")
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Kind, dict[str, bytes]]:
    """A kind of run, and what it leaves when nothing disturbs it."""
    kind = KINDS[request.param]
    command = Command(tmp_path_factory.mktemp("undisturbed") / "run", kind)
    assert command.go_on() == 0
    assert command.calls == kind.calls
    assert command.report["stages"]["boxes"]["done"] == kind.units
    return kind, command.voxels


@pytest.mark.parametrize(
    ("undisturbed", "killed"),
    [
        ("blend", "launcher"),
        ("blend", "worker"),
        ("plain", "all"),
        ("defer", "launcher"),
        ("null", "all"),
        ("pair", "worker"),
    ],
    indirect=["undisturbed"],
)
def test_killed_and_run_again(killed: str, undisturbed: tuple[Kind, dict[str, bytes]], tmp_path: Path) -> None:
    kind, expected = undisturbed
    each, processes = kind.calls // kind.tops, 1 if killed == "all" else 2
    command = Command(tmp_path / "run", kind, 3 * each + 1)
    with command.start(f"--processes={processes}") as process:
        # Then all of them wait, and nothing is written any more.
        wait_until(lambda: len(command.waiting) == processes, process)
        if killed == "worker":
            os.kill(command.waiting[0], signal.SIGKILL)
            _, err = process.communicate(timeout=SECONDS)
            assert process.returncode == 1
            assert re.search(
                r"^error: top chunk [\d,]+: expected a result, but its worker process was killed by SIGKILL \(probably "
                r"out of memory: give the same command again with fewer --processes\)$",
                only_error(err),
            )
        else:
            process.kill() if killed == "launcher" else os.killpg(process.pid, signal.SIGKILL)
            assert process.wait(SECONDS) == -signal.SIGKILL
        wait_until(lambda: not alive(process.pid))
    kept, units, calls_before = command.kept, len(command.finished), command.calls
    assert 2 <= kept <= 3
    assert not list(command.folder.rglob("report.json"))
    before = {name: stamp for name, stamp in stamps(command.folder).items() if name in expected}

    assert command.go_on() == 0
    assert command.calls - calls_before == (kind.tops - kept) * each
    assert command.voxels == expected
    after = stamps(command.folder)
    assert {name: after[name] for name in before} == before
    boxes = command.report["stages"]["boxes"]
    assert (boxes["done_by_an_interrupted_run"], boxes["done"]) == (units, kind.units - units)
    assert not list(command.folder.rglob(".beam_volumes"))


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
    "chunks": (transforms.apply, "apply_region"),
    "boxes": (transforms.apply, "reduce_box"),
    "proof": (beam_volumes.applying.report, "check_conservation"),
    "report": (runs, "write_json"),
    "clean-up": (beam_volumes.applying.report, "remove_records"),
}


def interrupted(command: Command, stage: str, calls: int, *options: str) -> None:
    module, name = STAGES[stage]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, Stopper(getattr(module, name), calls))
        assert command.go_on(*options) == 1


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    command = Command(tmp_path_factory.mktemp("blended") / "run", KINDS["blend"])
    assert command.go_on() == 0
    return command.voxels


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "run", KINDS["blend"])


@pytest.mark.parametrize(
    ("stage", "calls", "packs_left", "finished"),
    [
        ("chunks", 0, 0, 0),
        ("chunks", 5, 5, None),
        ("boxes", 0, 8, 8),
        ("boxes", 10, 8, 18),
        ("proof", 0, 8, 32),
        ("report", 0, 8, 32),
        ("clean-up", 0, 8, 32),
    ],
)
def test_interrupted_at_every_stage(
    stage: str, calls: int, packs_left: int, finished: int | None, command: Command, blended: dict[str, bytes]
) -> None:
    interrupted(command, stage, calls)
    assert len(packs(command.folder)) == packs_left
    assert finished is None or len(command.finished) == finished
    before = {name: stamp for name, stamp in stamps(command.folder).items() if name in blended}
    called = command.calls
    assert called == 9 * packs_left
    assert command.go_on() == 0
    assert command.calls - called == 72 - 9 * packs_left
    assert command.voxels == blended
    after = stamps(command.folder)
    assert {name: after[name] for name in before} == before
    stages = command.report["stages"]
    if stage != "clean-up":
        assert stages["boxes"]["done"] + stages["boxes"]["done_by_an_interrupted_run"] == 32
        taken = stages["chunks"]["elements_taken_up_from_an_interrupted_run"]
        # Of the first ten boxes some are all that a chunk has a part of.
        assert taken == {"chunks": packs_left, "boxes": 8 - 2 * (calls > 0)}.get(stage, 0)
    assert not list(command.folder.rglob(".beam_volumes"))


def test_a_damaged_pack_and_a_lost_receipt_are_made_again(command: Command, blended: dict[str, bytes]) -> None:
    interrupted(command, "boxes", 10)
    first = packs(command.folder)[0]
    os.truncate(first, first.stat().st_size // 2)
    command.finished[-1].unlink()
    assert command.go_on() == 0
    assert command.calls == 72 + 9
    assert command.voxels == blended


def test_the_same_run_in_another_setting(command: Command, blended: dict[str, bytes], tmp_path: Path) -> None:
    interrupted(command, "boxes", 10)
    assert apply.main([*command.options, "--memory_target=2000000000", "--processes=2"]) == 0
    assert command.calls == 72
    assert command.voxels == blended
    spec = json.loads(command.spec.read_text())
    spec["target"]["level_intermediaries_dirs"] = [str(tmp_path / "other")]
    spec["target"]["print_summary"] = False
    command.spec.write_text(json.dumps({**spec, "max_task_retry": 3}))
    assert command.go_on() == 0
    assert command.calls == 72


def test_scratch_elsewhere_is_taken_up_and_removed(command: Command, blended: dict[str, bytes], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    interrupted(command, "boxes", 10, f"--scratch={scratch}")
    assert packs(command.folder) == []
    assert len(packs(scratch)) == 8
    assert command.go_on(f"--scratch={scratch}") == 0
    assert command.calls == 72
    assert command.voxels == blended
    assert [path for path in scratch.rglob("*") if not path.is_dir()] == []


def test_the_folders_of_a_spec_are_scratch(blended: dict[str, bytes], tmp_path: Path) -> None:
    left = {"level_intermediaries_dirs": ["{0}/scratch", "{0}/scratch"]}
    command = Command(tmp_path / "run", KINDS["blend"]._replace(changes=left))
    interrupted(command, "boxes", 10)
    assert len(packs(command.folder / "scratch")) == 8
    assert command.go_on() == 0
    assert command.calls == 72
    assert command.voxels == blended
    assert [path for path in (command.folder / "scratch").rglob("*") if not path.is_dir()] == []


def test_without_resume_all_is_done_again(
    command: Command, blended: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(command, "boxes", 10)
    assert command.go_on("--resume=false") == 0
    assert command.calls == 2 * 72
    assert command.voxels == blended
    assert command.report["stages"]["boxes"]["done"] == 32
    capsys.readouterr()
    check_refusal(
        command.go_on("--resume=false"),
        r"--resume: expected an unfinished apply at box 0-64_0-64_0-8 of .*, but it is complete: leave --resume out",
        capsys,
    )


def test_nothing_to_do_and_all_anew(
    command: Command, blended: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.go_on() == 0
    before = stamps(command.folder)
    capsys.readouterr()
    assert command.go_on() == 0
    assert stamps(command.folder) == before
    assert "nothing to do: the same command has been here before" in capsys.readouterr().err
    assert command.calls == 72
    assert command.go_on("--overwrite") == 0
    assert command.calls == 2 * 72
    assert command.voxels == blended


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "function": ({"fn": code("lambda src: src + 1")}, r"spec\.fn\.@type was \"stopped_of_test\", now \"lambda\""),
    "pads": (
        {"processing_crop_pads": [[0, 0, 0], [4, 4, 0]]},
        r"spec\.processing_crop_pads was \[\[0, 0, 0\], \[2, 2, 0\]\], now \[\[0, 0, 0\], \[4, 4, 0\]\]",
    ),
    "mode": ({"processing_blend_modes": "max"}, r'spec\.processing_blend_modes was "linear", now "max"'),
    "source": (
        {"op_kwargs": {"src": layer(SRC + "&seed=5")}},
        r'inputs\.0\.version was "\w+", now "\w+"; spec\.op_kwargs\.src\.path was "made.*", now "made.*&seed=5"',
    ),
}


@pytest.mark.parametrize("complete", [False, True], ids=["unfinished", "complete"])
def test_another_run_is_refused_and_named(
    complete: bool, command: Command, blended: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if complete:
        assert command.go_on() == 0
    else:
        interrupted(command, "boxes", 10)
    before = stamps(command.folder)
    flow = json.loads(command.spec.read_text())["target"]
    for changes, message in CHANGES.values():
        spec = write_spec(tmp_path / "changed.json", {**flow, **changes})
        capsys.readouterr()
        finish = "" if complete else "finish it with its own command, or "
        check_refusal(
            run(spec, OPS),
            rf"^error: --spec: box .* holds another run: {message}; {finish}choose another box or destination, or "
            "replace what stands with --overwrite$",
            capsys,
        )
        assert stamps(command.folder) == before
    assert command.go_on() == 0
    assert command.voxels == blended
    spec = write_spec(tmp_path / "changed.json", {**flow, "fn": code("lambda src: src // 2 + 7")})
    assert run(spec, OPS, "--overwrite") == 0
    assert command.voxels == blended
    assert command.report["identity"]["spec"]["fn"]["@type"] == "lambda"


def test_a_model_that_was_replaced_is_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stands at the same place."""
    model = tmp_path / "model.pt"

    def save(module: torch.nn.Module) -> None:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            torch.jit.trace(module, torch.zeros(1, 1, 4, 4, 4)).save(str(model))

    save(torch.nn.ReLU())
    flow = target(
        f"file://{tmp_path}/volume",
        fn={"@type": "torch_model", "path": str(model)},
        op_kwargs={"src": layer(SRC, read_procs=[{"@type": "lambda", "lambda_str": "lambda data: data.float()"}])},
        dst={**new(f"file://{tmp_path}/volume"), "write_procs": [code("lambda data: data.to(torch.uint8)")]},
        **{**PLAIN, "processing_chunk_sizes": [[32, 32, 4]], "processing_crop_pads": [0, 0, 0]},
    )
    spec = write_spec(tmp_path / "run.json", flow)
    assert run(spec) == 0
    assert run(spec) == 0
    capsys.readouterr()
    save(torch.nn.Hardtanh(0.0, 50.0))
    check_refusal(run(spec), r"holds another run: model[.\w]* was .*, now .*; choose another box", capsys)
    assert run(spec, "--overwrite") == 0


def test_an_input_whose_info_has_changed_is_another_run(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = tmp_path / "src"
    spec = write_spec(tmp_path / "copy.json", target(f"file://{src}"))
    assert run(spec) == 0
    flow = json.loads(command.spec.read_text())["target"]
    changes = {"op_kwargs": {"src": layer(f"file://{src}")}}
    spec = write_spec(tmp_path / "run.json", {**flow, **changes})
    assert run(spec, OPS) == 0
    info = json.loads((src / "info").read_text())
    # Scales that are added are no change of what is read.
    (src / "info").write_text(json.dumps({**info, "scales": [*info["scales"], {**info["scales"][0], "key": "other"}]}))
    info["scales"][0]["voxel_offset"] = [16, 0, 0]
    capsys.readouterr()
    (src / "info").write_text(json.dumps(info))
    check_refusal(run(spec, OPS), r"holds another run: inputs\.0\.version was \"\w+\", now \"\w+\"; choose", capsys)


def boxed(log: Path, volume: Path, start: list[int], end: list[int], **changes: Any) -> Spec:
    """Return a flow over a part of the source, a volume's chunks, 16 x 16 x 4, being those of the top level."""
    flat = {**PLAIN, "processing_chunk_sizes": [[16, 16, 4]], "processing_crop_pads": [0, 0, 0]}
    fn = op("stopped_of_test", log=str(log), after=4)
    options = {"fn": fn, "expand_bbox_processing": False, "max_reduction_chunk_size": [16, 16, 4], **changes}
    return target(f"file://{volume}", bbox=bbox(start, end), **{**flat, **options})


def test_runs_over_parts_of_a_volume_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, volume = tmp_path / "log", tmp_path / "volume"
    fn = {"fn": op("halved_of_test", log=str(tmp_path / "other"))}
    left = write_spec(tmp_path / "left.json", boxed(log, volume, [0, 0, 0], [32, 64, 8]))
    right = write_spec(tmp_path / "right.json", boxed(log, volume, [32, 0, 0], [48, 64, 8], **fn))
    # From 24 on: a part of the last chunks of the first one.
    chunk = {"processing_chunk_sizes": [[8, 16, 4]], "max_reduction_chunk_size": [16, 16, 4]}
    sharing = write_spec(tmp_path / "sharing.json", boxed(log, volume, [24, 0, 0], [64, 64, 8], **fn, **chunk))
    with started("apply", f"--spec={left}", OPS, "--dry_fn=false", "--processes=1") as process:
        wait_until(lambda: calls(log) > 4, process)
        assert run(right, OPS) == 0
        before = stamps(volume)
        capsys.readouterr()
        check_refusal(
            run(sharing, OPS),
            r"^error: --spec: box 24-64_0-64_0-8 of scale 8_8_40 of file:///.*: expected no other unfinished run that "
            r"writes to its chunks of \[16, 16, 4\] voxels, came one of box 0-32_0-64_0-8, .*: finish that .*; "
            r"or use a box outside of 0-32_0-64_0-8$",
            capsys,
        )
        assert stamps(volume) == before
        Path(f"{log}.go").touch()
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    check_refusal(
        run(sharing, OPS), r"expected no voxels of other runs in box 24-64_.*, came those of box 0-32_", capsys
    )
    assert run(sharing, OPS, "--overwrite") == 0
    whole = tmp_path / "whole"
    assert run(write_spec(tmp_path / "run.json", boxed(log, whole, [0, 0, 0], [64, 64, 8], **fn)), OPS) == 0
    chunks = {name: data for name, data in written(volume).items() if "/apply/" not in name}
    assert chunks == {name: data for name, data in written(whole).items() if "/apply/" not in name}
    assert len(chunks) == 33
    assert report(volume, "24-64_0-64_0-8")["voxels"] == "24,0,0,64,64,8"
    # Of the others some voxels have been written over.
    assert [path.parent.name for path in volume.rglob("report.json")] == ["24-64_0-64_0-8"]
    assert not (volume / ".beam_volumes").exists()


@pytest.mark.parametrize("stage", ["chunks", "boxes"])
def test_a_run_stops_when_another_takes_its_place(
    stage: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = json.loads(command.spec.read_text())["target"]
    other = write_spec(tmp_path / "other.json", {**flow, "fn": code("lambda src: src + 1")})
    module, name = STAGES[stage]
    function, made = getattr(module, name), []

    def disturbed(*args: Any) -> Any:
        made.append(1)
        if len(made) == 4:
            config = parse(Config, [f"--spec={other}", OPS, "--overwrite"])[0]
            runs.take(plan(config, Setting(local=True, workers=1, inline_bytes=0)).claim)
        return function(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, disturbed)
        assert command.go_on() == 1
    assert "another run has taken it over: nothing more is written" in only_error(capsys.readouterr().err)
    assert len(made) == 4
    assert run(other, OPS) == 0
    alone = write_spec(tmp_path / "alone.json", target(f"file://{tmp_path}/alone", fn=code("lambda src: src + 1")))
    assert run(alone) == 0
    assert written(command.folder / "volume") == written(tmp_path / "alone")
