"""Exports in which something breaks: exit status 1, one line that says what and where, and the same command goes on."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from cloudvolume import CloudVolume

import transforms.export
import transforms.regions
import transforms.shards
from beam_volumes import reading_plan
from beam_volumes.export import render_region
from beam_volumes.graphene import Limits
from beam_volumes.rendering import Counts, Rendered
from beam_volumes.shard_assembly import WrittenShard, assemble_shard
from beam_volumes.storage import Folder
from beam_volumes.testing.chunk_graph import DEMO_TIMES
from beam_volumes.testing.faults import Faults
from beam_volumes.testing.neurons import make_neurons
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server
from pipelines.export import main
from tests.pipelines.conftest import (
    SECONDS,
    check_holes_are_accepted_each_time,
    children,
    only_error,
    started,
    wait_until,
    written,
)

pytestmark = pytest.mark.usefixtures("temporary_files_of_the_killed")

OPTIONS = ["--chunk_size=16,16,32", "--memory_target=2200000"]
"""Of the source below 6 regions of 256 slices, and 6 shards of 8 slabs of 4 chunks."""
SCALE = "16_16_40"
HOLE = f"{SCALE}/0-32_0-32_520-524"
"""A stored chunk in the third region, whose slices are 512 to 767."""
REGION = "0,0,512,32,32,768"
TOKEN = "opened-by-this-token-and-no-other"


def export(src: Path | str, dst: Path, *options: str, processes: int = 1) -> int:
    url = src if isinstance(src, str) else f"file://{src}"
    return main([f"--src={url}", f"--dst=file://{dst}", f"--processes={processes}", *options])


def report(dst: Path) -> dict[str, Any]:
    return Folder(f"file://{dst}").read_json("report.json") or {}


def command(src: Path | str, dst: Path, *options: str) -> list[str]:
    url = src if isinstance(src, str) else f"file://{src}"
    return ["export", f"--src={url}", f"--dst=file://{dst}", *options]


def packs(dst: Path) -> list[Path]:
    return list((dst / ".beam_volumes" / "scratch").rglob("region-*.pack"))


@pytest.fixture(autouse=True)
def no_token_of_the_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_VOLUME_DIR", str(tmp_path_factory.mktemp("no-secrets")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume of single files, each of 4 slices."""
    folder = tmp_path_factory.mktemp("source") / "volume"
    made = "made://neurons?size=32,32,1536&chunk=128,128,4"
    options = ["--chunk_size=128,128,4", "--encoding=raw", "--compress=none", "--sharded=false"]
    assert export(made, folder, *options) == 0
    shutil.rmtree(folder / ".beam_volumes", ignore_errors=True)
    return folder


@pytest.fixture
def source(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole` to be damaged; files that are replaced are this copy's own."""
    return Path(shutil.copytree(whole, tmp_path / "source", copy_function=os.link))


@pytest.fixture(scope="module")
def undisturbed(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "volume"
    assert export(whole, folder, *OPTIONS) == 0
    files = written(folder)
    assert len(files) == 7
    return files


def lose_parcel(result: Rendered) -> Rendered:
    shard = min(result.parcels)
    return result._replace(parcels={k: v for k, v in result.parcels.items() if k != shard})


def lose_piece(result: Rendered) -> Rendered:
    shard = min(result.parcels)
    parcel = result.parcels[shard]
    return result._replace(parcels={**result.parcels, shard: parcel._replace(table=parcel.pieces[1:].tobytes())})


def double_piece(result: Rendered) -> Rendered:
    shard = min(result.parcels)
    parcel = result.parcels[shard]
    table = np.concatenate([parcel.pieces, parcel.pieces[:1]]).tobytes()
    return result._replace(parcels={**result.parcels, shard: parcel._replace(table=table)})


class Once:
    """Calls `function`, and changes what comes of the third call."""

    def __init__(self, function: Callable[..., Any], change: Callable[[Any], Any]) -> None:
        self._function, self._change, self._calls = function, change, 0

    def __call__(self, *args: Any) -> Any:
        self._calls += 1
        result = self._function(*args)
        return self._change(result) if self._calls == 3 else result


RENDERED = {
    "a region's parcel is lost": (
        lose_parcel,
        r"pieces: expected \d+, came \d+; chunks: expected 192, came 160; shards: expected 6, came 5",
    ),
    "a piece is lost": (lose_piece, r"expected every voxel of \d+ chunks once.*0,0,512,"),
    "a piece comes twice": (double_piece, r"expected every voxel of \d+ chunks once"),
    "counts are lost": (
        lambda result: result._replace(counts=Counts()),
        r"regions: expected 6, came 5; voxels: expected 1572864, came 1310720; pieces: expected \d+, came \d+",
    ),
    "all of a region is lost": (
        lambda result: result._replace(parcels={}, counts=Counts()),
        r"regions: expected 6, came 5",
    ),
}


def goes_on(source: Path, dst: Path, undisturbed: dict[str, bytes]) -> None:
    """The same command, with nothing lost, makes the volume."""
    assert not (dst / "report.json").exists()
    assert export(source, dst, *OPTIONS) == 0
    assert written(dst) == undisturbed


@pytest.mark.parametrize(("change", "message"), RENDERED.values(), ids=RENDERED)
def test_what_a_region_made_is_lost(
    change: Callable[[Rendered], Rendered],
    message: str,
    whole: Path,
    dst: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transforms.export, "render_region", Once(render_region, change))
        assert export(whole, dst, *OPTIONS) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line)
    assert "the same command again" in line
    goes_on(whole, dst, undisturbed)


def lose_one(listed: Iterator[int]) -> Iterator[int]:
    return (region for region in listed if region != 2)


def double_one(listed: Iterator[int]) -> Iterator[int]:
    return chain.from_iterable([region] * (1 + (region == 2)) for region in listed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose_one, r"regions: expected 6, came 5|expected every voxel of \d+ chunks once"),
        (double_one, r"expected every voxel of \d+ chunks once, came \d+ pieces"),
    ],
)
def test_a_region_is_lost_or_comes_twice(
    change: Callable[[Iterator[int]], Iterator[int]],
    message: str,
    whole: Path,
    dst: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = transforms.regions._ListFn.process
    with monkeypatch.context() as patch:
        patch.setattr(transforms.regions._ListFn, "process", lambda self, element: change(listed(self, element)))
        assert export(whole, dst, *OPTIONS) == 1
    assert re.search(message, only_error(capsys.readouterr().err))
    goes_on(whole, dst, undisturbed)


class Changed(transforms.shards.AssembleShards):
    """Writes the shards, and then loses what it tells of one, or tells it twice, or never sees one."""

    how = ""

    def expand(self, parcels: beam.PCollection[Any]) -> beam.PCollection[WrittenShard]:
        if self.how == "never seen":
            return super().expand(parcels | "Lose" >> beam.Filter(_is_another))
        return super().expand(parcels) | "Change" >> beam.FlatMap(_told, self.how == "told twice")


def _is_another(element: tuple[tuple[int, int], Any]) -> bool:
    return element[0] != (0, 3)


def _told(shard: WrittenShard, twice: bool) -> list[WrittenShard]:
    return [shard] if shard.receipt.shard != 3 else [shard, shard] if twice else []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("told never", r"chunks: expected 192, came 160; shards: expected 6, came 5"),
        ("told twice", r"shards: expected 6, came 7"),
        ("never seen", r"chunks: expected 192, came 160; shards: expected 6, came 5"),
    ],
)
def test_a_shard_is_lost_or_comes_twice(
    how: str,
    message: str,
    whole: Path,
    dst: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Changed, "how", how)
        patch.setattr("transforms.volume.AssembleShards", Changed)
        assert export(whole, dst, *OPTIONS) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line)
    goes_on(whole, dst, undisturbed)


def test_a_shard_file_vanishes_behind_the_run(
    whole: Path,
    dst: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def vanish(shard: WrittenShard) -> WrittenShard:
        (dst / SCALE / f"{shard.receipt.shard:x}.shard").unlink()
        return shard

    with monkeypatch.context() as patch:
        patch.setattr(transforms.shards, "assemble_shard", Once(assemble_shard, vanish))
        assert export(whole, dst, *OPTIONS) == 1
    assert re.search(r"\.shard", only_error(capsys.readouterr().err))
    goes_on(whole, dst, undisturbed)


def holders(process: subprocess.Popen[str], path: Path) -> list[int]:
    """Return the worker processes that hold a file open."""
    found = []
    for child in children(process):
        with contextlib.suppress(OSError):
            if any(os.readlink(link) == str(path) for link in Path(f"/proc/{child}/fd").iterdir()):
                found.append(child)
    return found


def test_a_worker_that_is_killed(source: Path, dst: Path, undisturbed: dict[str, bytes]) -> None:
    """One chunk of the source is a pipe in which nothing comes: who holds it open works on its region."""
    (source / HOLE).rename(source / "aside")
    os.mkfifo(source / HOLE)
    with started(*command(source, dst, *OPTIONS, "--processes=2")) as process:
        wait_until(lambda: len(packs(dst)) == 5, process)
        # The pipe's other end: without it they wait to open it, and do not hold it open yet.
        writer = os.open(source / HOLE, os.O_RDWR)
        wait_until(lambda: len(holders(process, source / HOLE)) == 1, process)
        [child] = holders(process, source / HOLE)
        killed = time.monotonic()
        os.kill(child, signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
        os.close(writer)
        assert time.monotonic() - killed < 5
        assert process.returncode == 1, err
    line = only_error(err)
    assert line.startswith(f"error: region {REGION}: expected a result, but its worker process was killed by SIGKILL")
    assert "give the same command again with fewer --processes" in line
    (source / "aside").rename(source / HOLE)
    goes_on(source, dst, undisturbed)
    assert report(dst)["stages"]["regions"]["taken_up_from_an_interrupted_run"] == 5


def command_lines(process: subprocess.Popen[str]) -> set[str]:
    lines = set()
    for pid in [process.pid, *children(process)]:
        with contextlib.suppress(OSError):
            lines.add(Path(f"/proc/{pid}/cmdline").read_text())
    return lines


def limit_files(size: int) -> Callable[[], None]:
    """Return what lets a process write no file larger than that: Python gets EFBIG, as ENOSPC from a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("size", "options", "place"),
    [
        (20_000, [*OPTIONS, "--processes=2"], r"scratch/\w+/region-\d\.pack"),
        (40_000, ["--chunk_size=16,16,32", "--memory_target=100000000", "--processes=1"], rf"{SCALE}/0\.shard"),
    ],
    ids=["packs", "shards"],
)
def test_a_full_disk(size: int, options: list[str], place: str, whole: Path, dst: Path, tmp_path: Path) -> None:
    args = command(whole, dst, *options)
    # A library that is compiled to a file larger than the limit would be left in part.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with started(*args, preexec_fn=limit_files(size), env=environment) as process:
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 1, (out, err)
    line = only_error(err)
    assert re.search(rf"file://{dst}/\S*{place}: expected to write a file, came File too large \(EFBIG\)", line)
    assert list((dst / SCALE).rglob("*.tmp")) == []
    assert not (dst / "report.json").exists()
    expected = tmp_path / "expected"
    for volume in (dst, expected):
        assert export(whole, volume, *options[:2]) == 0
    assert written(dst) == written(expected)


def test_a_missing_chunk_is_named(
    source: Path, dst: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    (source / HOLE).rename(source / "aside")
    assert export(source, dst, *OPTIONS) == 1
    line = only_error(capsys.readouterr().err)
    assert f"file://{source}" in line
    assert "520" in line
    assert f"region {REGION}" in line
    assert "--fill_missing" in line
    (source / "aside").rename(source / HOLE)
    goes_on(source, dst, undisturbed)


def test_missing_chunks_are_accepted_and_listed(
    source: Path, whole: Path, dst: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / HOLE).unlink()
    assert export(source, dst, *OPTIONS, "--fill_missing") == 0
    assert re.search(r"(?m)^  holes: +1$", capsys.readouterr().out)
    assert report(dst)["holes"] == ["0,0,520,32,32,524"]
    expected = np.array(CloudVolume(f"file://{whole}", progress=False)[:])
    assert expected[:, :, 520:524].any()
    expected[:, :, 520:524] = 0
    np.testing.assert_array_equal(CloudVolume(f"file://{dst}", progress=False)[:], expected)
    check_holes_are_accepted_each_time(lambda *options: export(source, dst, *OPTIONS, *options), capsys)


def test_a_truncated_chunk_is_named(source: Path, dst: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (source / HOLE).read_bytes()
    (source / HOLE).unlink()
    (source / HOLE).write_bytes(data[:1000])
    assert export(source, dst, *OPTIONS, "--fill_missing") == 1
    line = only_error(capsys.readouterr().err)
    assert f"file://{source}" in line
    assert f"region {REGION}" in line
    assert not (dst / "report.json").exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProofreadingServer]:
    folder = tmp_path_factory.mktemp("graph")
    with demo_server(str(folder), make_neurons((64, 64, 32)), (16, 16, 8), token=TOKEN) as running:
        assert running.graph.layout.n_layers == 4
        yield running


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for servers no longer than a test needs."""
    monkeypatch.setattr("beam_volumes.graphene.connection._FIRST_BACKOFF", 0.01)
    monkeypatch.setattr("beam_volumes.graphene.connection._LONGEST_RETRY_AFTER", 0.05)


@pytest.fixture
def many_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even a small volume with a server into regions, of 2^13 voxels."""
    monkeypatch.setattr("beam_volumes.reading_plan._LOOKED_UP", reading_plan._Sizes(16, 2**13, 2**24))


def assert_exported(server: ProofreadingServer, dst: Path, timestamp: int, stop_layer: int | None = None) -> None:
    """Compare every voxel."""
    supervoxels = np.asarray(CloudVolume(server.watershed_url, progress=False)[:])
    expected = server.graph.roots(supervoxels, timestamp, stop_layer)
    np.testing.assert_array_equal(CloudVolume(f"file://{dst}", progress=False)[:], expected)


GRAPHENE = ["--chunk_size=16,16,16", "--token_env=MY_TOKEN", f"--timestamp={DEMO_TIMES[1]}"]


TOO_FEW = r"in 3 tries, the last time: expected \d+ bytes, 8 for each id, came \d+$"
YOUNG = r"expected roots of that time, but [1-9]\d* of \d+ looked at were made later: .* does not heed the timestamp"
ZEROS = r"expected an id for each supervoxel, came 0 for ([1-9]\d*) of \1: \d+ -> 0, "
WRONG = {
    "zeros": ("zeros", None, ZEROS),
    "zeros, layer 2": ("zeros", 2, ZEROS),
    "zeros, layer 3": ("zeros", 3, ZEROS),
    "too few": ("too_few", None, TOO_FEW),
    "too few, layer 2": ("too_few", 2, TOO_FEW),
    "too few, layer 3": ("too_few", 3, TOO_FEW),
    "another layer": ("wrong_layer", None, r"expected ids on layer 4, came ([1-9]\d*) of \1 on layers 2: "),
    # Of layer 3 there is no such case: where the graph leaves out nodes, a higher id is the right answer.
    "another layer, layer 2": ("wrong_layer", 2, r"expected ids on layer 2, came ([1-9]\d*) of \1 on layers 4: "),
    "another time": ("ignores_timestamp", None, YOUNG),
    "another time, layer 2": ("ignores_timestamp", 2, YOUNG),
    "another time, layer 3": ("ignores_timestamp", 3, YOUNG),
}


@pytest.mark.parametrize(("wrong", "stop_layer", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.usefixtures("patient")
def test_a_server_that_says_wrong_things(
    wrong: Any,
    stop_layer: int | None,
    message: str,
    server: ProofreadingServer,
    dst: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    options = [*GRAPHENE, *([f"--stop_layer={stop_layer}"] if stop_layer else [])]
    with monkeypatch.context() as patch:
        patch.setattr(server.answers, "wrong", wrong)
        assert export(server.url, dst, *options) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line)
    assert "region 0,0,0,64,64,32" in line
    assert TOKEN not in line
    assert not (dst / "report.json").exists()
    assert not any(TOKEN.encode() in path.read_bytes() for path in dst.rglob("*") if not path.is_dir())
    assert export(server.url, dst, *options) == 0
    assert_exported(server, dst, DEMO_TIMES[1], stop_layer)


FAULTS = {
    "status 500": Faults(rate=0.05, status=500),
    "status 429": Faults(rate=0.05, status=429, retry_after=1),
    "dropped": Faults(dropped=0.05),
    "truncated": Faults(truncated=0.05),
    "all of them": Faults(rate=0.05, status=503, dropped=0.05, truncated=0.05),
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
@pytest.mark.usefixtures("patient", "many_regions")
def test_five_requests_of_a_hundred_fail(
    faults: Faults, server: ProofreadingServer, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many requests as a large volume has.
    monkeypatch.setattr("beam_volumes.export_planning.Limits", partial(Limits, ids_per_request=1))
    with ProofreadingServer(server.graph, server.watershed_url, faults=faults) as flaky:
        assert export(flaky.url, dst, "--chunk_size=16,16,16", f"--timestamp={DEMO_TIMES[1]}") == 0
        sent, ids = flaky.statistics.requests["roots_binary"], len(flaky.statistics.unique_ids)
    failed = sum(faults.fate(number) != "answer" for number in range(sent))
    assert failed >= 3
    assert sent == ids + failed
    told = report(dst)
    assert (told["server"]["ids_asked"], told["server"]["retries"]) == (ids, failed)
    assert told["stages"]["regions"]["planned"] == 16
    assert_exported(server, dst, DEMO_TIMES[1])


def test_more_processes_than_requests_may_be_in_flight_are_refused(
    server: ProofreadingServer, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    asked = server.statistics.requests.total()
    assert export(server.url, dst, *GRAPHENE, "--max_requests_in_flight=2", processes=3) == 2
    message = r"--max_requests_in_flight: expected at least the number of worker processes, 3, .* came 2: .*--processes"
    assert re.search(message, only_error(capsys.readouterr().err))
    assert server.statistics.requests.total() == asked
    assert not dst.exists()


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.usefixtures("many_regions")
def test_a_token_that_is_refused_ends_the_work_of_all_processes(
    status: int,
    server: ProofreadingServer,
    dst: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two processes have at most two regions each before them; no region sends a second request."""
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    taken = server.statistics.requests["roots_binary"]
    with monkeypatch.context() as patch:
        patch.setattr(server, "faults", Faults(rate=1.0, status=status))
        started_at = time.monotonic()
        assert export(server.url, dst, *GRAPHENE, processes=2) == 1
    assert time.monotonic() - started_at < SECONDS / 2
    line = only_error(capsys.readouterr().err)
    assert re.search(rf"expected to be let in, came status {status} .*environment variable MY_TOKEN.*--token_env", line)
    assert TOKEN not in line
    assert 1 <= server.statistics.requests["roots_binary"] - taken <= 4
    assert export(server.url, dst, *GRAPHENE) == 0
    assert report(dst)["stages"]["regions"]["planned"] == 16
    assert_exported(server, dst, DEMO_TIMES[1])


def test_a_token_that_is_taken_away(
    server: ProofreadingServer, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was good when the export was planned, and is not when the first region is rendered."""
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    taken = server.statistics.requests["roots_binary"]

    def taken_away(*args: Any) -> Rendered:
        monkeypatch.setattr(server, "token", "another")
        return render_region(*args)

    with monkeypatch.context() as patch:
        patch.setattr(server, "token", TOKEN)
        patch.setattr(transforms.export, "render_region", taken_away)
        assert export(server.url, dst, *GRAPHENE) == 1
    line = only_error(capsys.readouterr().err)
    assert "401" in line
    assert "MY_TOKEN" in line
    assert TOKEN not in line
    assert server.statistics.requests["roots_binary"] == taken + 1
    monkeypatch.setattr(server, "token", TOKEN)
    assert export(server.url, dst, *GRAPHENE) == 0


def test_a_token_is_seen_nowhere(server: ProofreadingServer, dst: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "MY_TOKEN": TOKEN}
    monkeypatch.setattr(server, "faults", replace(server.faults, slow_seconds=0.5))
    lines: set[str] = set()
    args = command(server.url, dst, *GRAPHENE, "--processes=2")
    with started(*args, env=environment) as process:
        # The server takes its time, so the worker processes are there to be looked at.
        # One that has only just been forked shows the launcher's line.
        wait_until(lambda: (dst / "info").exists() and len(command_lines(process)) > 1, process)
        lines |= command_lines(process)
        seen_on_the_way = [path.read_bytes() for path in dst.rglob("*") if path.is_file()]
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    assert len(lines) >= 2
    assert not any(TOKEN in line for line in lines)
    assert TOKEN not in out + err
    files = [path for path in dst.rglob("*") if not path.is_dir()]
    assert {"info", "provenance", "report.json"} <= {path.name for path in files}
    assert not any(TOKEN.encode() in data for data in [*seen_on_the_way, *(path.read_bytes() for path in files)])
    assert_exported(server, dst, DEMO_TIMES[1])
