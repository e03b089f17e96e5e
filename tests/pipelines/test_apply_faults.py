"""Functions applied in runs in which something breaks: exit status 1, one line, and the same command goes on."""

import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import transforms.apply
from beam_volumes.applying import chunk_function
from beam_volumes.applying.processing import Applied, Counts, WrittenUnit, apply_region, reduce_box
from tests.pipelines.apply_commands import (
    OPS,
    SCALE,
    SRC,
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
from tests.pipelines.conftest import SECONDS, alive, only_error, started, tree, wait_until, written

pytestmark = pytest.mark.usefixtures("temporary_files_of_the_killed")

HALVED = code("lambda src: src // 2 + 7")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The folder of a volume that is not there yet."""
    return tmp_path / "volume"


@pytest.fixture
def spec(volume: Path, tmp_path: Path) -> Path:
    return write_spec(tmp_path / "run.json", target(f"file://{volume}", fn=HALVED))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(write_spec(folder / "run.json", target(f"file://{folder}/volume", fn=HALVED))) == 0
    return written(folder / "volume")


def goes_on(spec: Path, volume: Path, undisturbed: dict[str, bytes]) -> None:
    """The same command, with nothing in its way, makes the volume, and leaves nothing else."""
    assert not list(volume.rglob("report.json"))
    assert run(spec) == 0
    assert written(volume) == undisturbed
    assert not (volume / ".beam_volumes").exists()


class Once:
    """Calls `function`, and changes what comes of the third call."""

    def __init__(self, function: Callable[..., Any], change: Callable[[Any], Any]) -> None:
        self._function, self._change, self._calls = function, change, 0

    def __call__(self, *args: Any) -> Any:
        self._calls += 1
        result = self._function(*args)
        return self._change(result) if self._calls == 3 else result


def lose_parcel(result: Applied) -> Applied:
    owner = min(result.parcels)
    return result._replace(parcels={key: value for key, value in result.parcels.items() if key != owner})


def lose_piece(result: Applied) -> Applied:
    owner = min(result.parcels)
    parcel = result.parcels[owner]
    return result._replace(parcels={**result.parcels, owner: parcel._replace(table=parcel.pieces[:0].tobytes())})


def double_piece(result: Applied) -> Applied:
    owner = min(result.parcels)
    parcel = result.parcels[owner]
    twice = parcel._replace(table=parcel.pieces.tobytes() * 2)
    return result._replace(parcels={**result.parcels, owner: twice})


LOST = {
    "a parcel": (lose_parcel, r"output box \d"),
    "a piece": (lose_piece, r"output box \d"),
    "a piece that comes twice": (double_piece, r"output box \d"),
    "what was written": (lambda result: result._replace(written=[]), r"written: expected 32, came 31; all written: "),
    "counts": (
        lambda result: result._replace(counts=Counts()),
        r"elements: expected 8, came 7; chunks of the top level: expected 8, came 7; chunks: expected 72, came 63",
    ),
}


@pytest.mark.parametrize(("change", "message"), LOST.values(), ids=LOST)
def test_what_a_chunk_made_is_lost(
    change: Callable[[Applied], Applied],
    message: str,
    spec: Path,
    volume: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transforms.apply, "apply_region", Once(apply_region, change))
        assert run(spec) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line), line
    assert "the same command again" in line
    assert line.count("output box") <= 1
    goes_on(spec, volume, undisturbed)


def test_a_box_is_told_of_twice(
    spec: Path,
    volume: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[WrittenUnit] = []

    def tell_first(written: WrittenUnit) -> WrittenUnit:
        return told[0]

    def noting(*args: Any) -> WrittenUnit:
        told.append(reduce_box(*args))
        return told[-1]

    with monkeypatch.context() as patch:
        patch.setattr(transforms.apply, "reduce_box", Once(noting, tell_first))
        assert run(spec) == 1
    assert re.search(r"all written: expected 32, came 31", only_error(capsys.readouterr().err))
    goes_on(spec, volume, undisturbed)


ENDS = {
    "exit": r"ended with exit status 3: the code that it ran has ended it: mend that, and give the same command again$",
    "crash": r"was killed by SIGSEGV: the code that it ran has crashed, at the line that is printed above: mend that",
    "raise": r"the function has failed for chunk \d+ .*: ValueError: wrong: https://\.\.\.@host/x\?\.\.\. \(/.*/apply",
}


@pytest.mark.parametrize(("how", "message"), ENDS.items())
def test_a_function_that_ends_its_worker(how: str, message: str, volume: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}", fn=op("ending_of_test", how=how)))
    with started("apply", f"--spec={spec}", OPS, "--processes=2") as process:
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (1, ""), err
    line = only_error(err)
    assert re.search(message, line), line
    assert "top chunk " in line
    assert "hunter2" not in err
    if how == "crash":
        assert re.search(r'(?m)^  File ".*/tests/pipelines/apply_ops\.py", line \d+ in ending$', err)


@pytest.mark.parametrize("ahead", [False, True], ids=["read in turn", "read ahead"])
@pytest.mark.parametrize("where", ["read_procs", "write_procs", "write_procs of a set"])
def test_processors_that_fail(
    where: str, ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chunk_function, "reads_ahead", lambda flow: ahead)
    dst, fn, src = new(f"file://{tmp_path}/volume"), code(), layer(SRC)
    procs = [code("lambda data: 1 / 0 if data.any() else data")]
    what = "one of the processors of dst"
    if where == "read_procs":
        src["read_procs"], what = procs, "one of the processors of op_kwargs"
    elif where == "write_procs":
        dst["write_procs"] = procs
    else:
        procs = [code("lambda data: 1 / 0 if data['a'].any() else data")]
        dst = {"@type": "build_layer_set", "layers": {"a": dst}, "write_procs": procs}
        fn = code("lambda src: {'a': src}")
    flow = target("", dst=dst, fn=fn, op_kwargs={"src": src})
    assert run(write_spec(tmp_path / "run.json", flow)) == 1
    message = (
        rf"^error: {what} has failed for chunk \d+ \(.*\): ZeroDivisionError: division by zero \(lambda_str, "
        rf"line 1, in <lambda>\): correct {what}, or what it is given \(in top chunk "
    )
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line), line


def test_ctrl_c_and_run_again(volume: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fn = op("stopped_of_test", log=str(log), after=30)
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}", fn=fn))
    with started("apply", f"--spec={spec}", OPS, "--dry_fn=false", "--processes=2") as process:
        wait_until(lambda: calls(log) > 30, process)
        asked = time.monotonic()
        # A terminal sends it to all processes of the command.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        assert time.monotonic() - asked < 5
        assert (process.returncode, out) == (130, ""), err
        wait_until(lambda: not alive(process.pid))
    assert err.splitlines()[-1] == "stopped: give the same command again to go on where it stopped"
    assert "Traceback" not in err
    assert "error" not in err.lower()
    kept, before = len(packs(volume)), calls(log)
    assert kept >= 2
    Path(f"{log}.go").touch()
    assert run(spec, OPS, "--dry_fn=false") == 0
    assert calls(log) - before == 9 * (8 - kept)
    assert not (volume / ".beam_volumes").exists()


def limit_files(size: int) -> Callable[[], None]:
    """Return what lets a process write no file larger than that: Python gets EFBIG, as ENOSPC from a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, r"scratch/\w+/region-\d\.pack"),
        ({"level_intermediaries_dirs": ["{0}/scratch"]}, r"scratch/\w+/region-\d\.pack"),
        (
            {
                "dst": "large",
                "processing_chunk_sizes": [[64, 64, 8]],
                "processing_crop_pads": [2, 2, 0],
                "processing_blend_pads": [0, 0, 0],
            },
            rf"{SCALE}/0-64_0-64_0-8",
        ),
    ],
    ids=["packs", "packs elsewhere", "chunks"],
)
def test_a_full_disk(changes: dict[str, Any], place: str, tmp_path: Path) -> None:
    large = SRC.replace("chunk=16,16,4", "chunk=64,64,8")
    texts = json.dumps(changes).replace("{0}", f"file://{tmp_path}")
    made = {**json.loads(texts), **({"dst": new(f"file://{tmp_path}/volume", large)} if "dst" in changes else {})}
    spec = write_spec(tmp_path / "run.json", target(f"file://{tmp_path}/volume", **made))
    # A library that is compiled to a file larger than the limit would be left in part.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with started("apply", f"--spec={spec}", "--processes=2", preexec_fn=limit_files(5000), env=environment) as process:
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (1, ""), err
    line = only_error(err)
    assert re.search(rf"file://{tmp_path}/\S*{place}\S*: expected to write .*, came File too large \(EFBIG\)", line)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert not list(tmp_path.rglob("report.json"))
    assert run(spec) == 0
    assert not list(tmp_path.rglob(".beam_volumes"))
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    spec = write_spec(tmp_path / "run.json", target(f"file://{tmp_path}/file/volume"))
    before = tree(tmp_path)
    assert run(spec) in (1, 2)
    line = only_error(capsys.readouterr().err)
    assert f"{tmp_path}/file/volume" in line
    assert "Not a directory" in line
    assert tree(tmp_path) == before


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the source, in files."""
    folder = tmp_path / "source"
    assert run(write_spec(tmp_path / "copy.json", target(f"file://{folder}"))) == 0
    return folder


def test_a_truncated_chunk_is_named(
    source: Path, volume: Path, tmp_path: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"fn": HALVED, "op_kwargs": {"src": layer(f"file://{source}")}}
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}", **changes))
    [chunk] = (source / SCALE).glob("32-48_16-32_4-8*")
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    assert run(spec) == 1
    line = only_error(capsys.readouterr().err)
    assert f"file://{source}/{SCALE}/32-48_16-32_4-8" in line
    assert "top chunk " in line
    chunk.write_bytes(whole)
    assert run(spec) == 0
    assert report(volume)["stages"]["boxes"]["done"] <= 32
    chunks = {name: data for name, data in undisturbed.items() if "/apply/" not in name}
    assert {name: data for name, data in written(volume).items() if "/apply/" not in name} == chunks
