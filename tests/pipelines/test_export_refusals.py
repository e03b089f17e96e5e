"""Options that cannot work: one line that tells what to do, exit status 2, and nothing is written.

Where it is only found when the destination is taken that it cannot be, the exit status is 1.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from beam_volumes.errors import DestinationError
from beam_volumes.testing.chunk_graph import DEMO_TIMES, INGESTED
from beam_volumes.testing.neurons import make_neurons
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server
from pipelines.export import main
from tests.pipelines.conftest import rows_of, tree

NEURONS = "made://neurons?size=40,40,20&chunk=16,16,16"
BYTES = "made://neurons?size=40,40,20&chunk=16,16,16&dtype=uint8"
IMAGE = "made://image?size=40,40,20&chunk=16,16,16"
SMALL = ["--chunk_size=16,16,16", "--memory_target=2000000", "--processes=1"]
TOKEN = "opened-by-this-token"


def refusal(capsys: pytest.CaptureFixture[str], args: Sequence[str]) -> str:
    """Run the command, which must be refused, and return its one line."""
    return one_line(capsys, args, 2)


def one_line(capsys: pytest.CaptureFixture[str], args: Sequence[str], expected: int) -> str:
    """Run the command, which must end with status `expected`, and return its one line."""
    capsys.readouterr()
    status = main(args)
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert (status, out, len(lines)) == (expected, "", 1), (status, out, err)
    assert lines[0].startswith("error: ")
    assert "\x1b" not in lines[0]
    return lines[0]


@pytest.fixture(autouse=True)
def no_token_of_the_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_VOLUME_DIR", str(tmp_path_factory.mktemp("no-secrets")))


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "out" / "volume"


OPTIONS = {
    "misspelt option": (["--chunksize=8,8,8"], r"--chunksize: neither .* has this option; did you mean --chunk_size\?"),
    "abbreviated option": (["--chunk=8,8,8"], r"--chunk: neither .* did you mean --chunk_size\?"),
    "misspelt option of Beam": (["--runer=DirectRunner"], r"--runer: neither .* did you mean --runner\?"),
    "capital letters": (["--Mip=0"], r"--Mip: neither .* did you mean --mip\?"),
    "no option": (["somewhere"], r"expected options written as --name=value, came 'somewhere'"),
    "unknown runner": (["--runner=Sparkle"], r"Sparkle"),
    "threads of the local runner": (["--direct_running_mode=multi_threading"], r"direct_running_mode.*multi_threading"),
    "twice": (["--mip=0", "--mip=1"], r"--mip: expected one value, came '0' and '1'"),
    "two forms": (["--sharded", "--nosharded"], r"--\w*sharded: expected one value, came"),
    "moved out of reach": (["--translate=-99999999999,0,0"], r"--translate: expected a volume within -2147483648 and"),
    "mip that is no number": (["--mip=one"], r"--mip: expected a whole number, 0 or more, came 'one'"),
    "mip below 0": (["--mip=-1"], r"--mip: expected a whole number, 0 or more, came '-1'"),
    "mip that is not there": (["--mip=7"], r"--mip: expected one of \[0\], the mips of made://\S+, came 7"),
    "chunk of nothing": (["--chunk_size=0,1,1"], r"--chunk_size: expected three .*, 1 or more, came '0,1,1'"),
    "chunk of two axes": (["--chunk_size=16,16"], r"--chunk_size: expected three whole numbers such as .*'16,16'"),
    "chunk of fractions": (["--chunk_size=16,16,1.5"], r"--chunk_size: expected three whole numbers"),
    "chunk above the memory": (["--memory_target=20000"], r"--chunk_size: .*20,000 .*came 32,768: make them smaller"),
    "no memory": (["--memory_target=0"], r"--memory_target: expected a whole number, 1 or more, came '0'"),
    "memory with a unit": (["--memory_target=2GB"], r"--memory_target: expected a whole number, 1 or more, came '2GB'"),
    "memory below the source's chunk": (
        ["--chunk_size=8,8,8", "--memory_target=50000"],
        r"--memory_target: expected at least 131,072 bytes.*came 50,000: raise it",
    ),
    "unknown encoding": (["--encoding=webp"], r"--encoding: expected one or several of auto, raw,.*'webp'"),
    "jpeg of ids": (["--encoding=jpeg"], r"--encoding: expected one that holds .*uint64.*came jpeg"),
    "png of ids": (["--encoding=png"], r"--encoding: expected one that holds .*uint64.*came png"),
    "jpeg of a segmentation": (["--encoding=jpeg", f"--src={BYTES}"], r"--encoding: .*\buint8\b.*came jpeg"),
    "labels of 8 bits": (
        ["--encoding=compressed_segmentation", f"--src={BYTES}"],
        r"--encoding: .*uint8.*came compressed_segmentation",
    ),
    "labels of an image": (
        ["--encoding=compressed_segmentation", f"--src={IMAGE}"],
        r"--encoding: .*image.*came compressed_segmentation",
    ),
    "jpeg of long chunks": (
        [
            "--encoding=jpeg",
            "--src=made://image?size=40,300,300",
            "--chunk_size=16,256,257",
            "--memory_target=90000000",
        ],
        r"--chunk_size: expected chunks .* 65,500 at most, for jpeg, came 16 x 65,792: make the chunks smaller",
    ),
    "unknown compression": (["--compress=zstd"], r"--compress: expected one of gzip, br, none, came 'zstd'"),
    "brotli in shards": (["--compress=br"], r"--compress: expected gzip or none for shards, came br: use gzip, or"),
    "bounds of five numbers": (["--bounds=0,0,0,8,8"], r"--bounds: expected six whole numbers .*came '0,0,0,8,8'"),
    "bounds of nothing": (["--bounds=0,0,0,8,8,0"], r"--bounds: expected .* each start below its stop, came"),
    "bounds backwards": (["--bounds=8,8,8,0,0,0"], r"--bounds: expected .* each start below its stop, came"),
    "bounds outside": (["--bounds=64,0,0,96,16,16"], r"--bounds: .*which has 0,0,0,40,40,20, came 64,0,0,96,16,16"),
    "bounds partly outside": (["--bounds=0,0,0,40,40,32"], r"--bounds: .*came 0,0,0,40,40,32.* is 0,0,0,40,40,20"),
    "move of two axes": (["--translate=1,2"], r"--translate: expected three whole numbers .*came '1,2'"),
    "neither true nor false": (["--sharded=maybe"], r"--sharded: expected true or false, came 'maybe'"),
    "timestamp without a graph": (["--timestamp=1705911001"], r"--timestamp: expected a graphene:// volume with it"),
    "layer without a graph": (["--stop_layer=2"], r"--stop_layer: expected a graphene:// volume with it"),
    "timestamp with a date": (["--timestamp=2024-01-22"], r"--timestamp: expected .*, came '2024-01-22'"),
    "timestamp 0": (["--timestamp=0"], r"--timestamp: expected a whole number, 1 or more, came '0'"),
    "layer of supervoxels": (["--stop_layer=1"], r"--stop_layer: expected a whole number, 2 or more, came '1'"),
    "processes below 0": (["--processes=-1"], r"--processes: expected a whole number, 0 or more, came '-1'"),
    "no requests": (
        ["--max_requests_in_flight=0"],
        r"--max_requests_in_flight: expected a whole number, 1 or more, came '0'",
    ),
    "no ids": (["--max_ids_per_second=0"], r"--max_ids_per_second: expected a whole number, 1 or more, came '0'"),
}


@pytest.mark.parametrize(("args", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_cannot_work(
    args: list[str], message: str, dst: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(tmp_path)
    small = [option for option in SMALL if option.split("=")[0] not in {a.split("=")[0] for a in args}]
    source = [] if any(a.startswith("--src=") for a in args) else [f"--src={NEURONS}"]
    line = refusal(capsys, [*source, f"--dst=file://{dst}", *small, *args])
    assert_matches(message, line)
    assert tree(tmp_path) == before


def assert_matches(message: str, line: str) -> None:
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)


SOURCES = {
    "no volume": ("file://{tmp}/nothing", r"--src: expected a volume at file://\S+/nothing, but"),
    "no zarr": ("zarr://file://{tmp}/nothing", r"--src: .*zarr://file://\S+/nothing"),
    "unknown scheme": ("gopher://host/volume", r"--src: expected a local path or one of gs://.*gopher://host/volume"),
    "password": (
        "precomputed://http://me:pw@127.0.0.1:1/v",
        r"--src: precomputed://http://\.\.\.: expected a plain addr",
    ),
    "token": ("https://127.0.0.1:1/v?token=pw", r"--src: https://\.\.\.: expected a plain address"),
    "made of nothing": ("made://neurons", r"--src: expected made://neurons\?size=X,Y,Z, .*came made://neurons"),
    "made of something else": ("made://glia?size=8,8,8", r"--src: expected made://neurons.*came made://glia"),
    "made with a misspelt part": ("made://neurons?siez=8,8,8", r"--src: expected .*size.*came .*siez"),
    "empty": ("", r"--src: expected text, came ''"),
    "a file that is no volume": ("file://{tmp}/broken", r"--src: .*file://\S+/broken"),
    "graph without a table": ("graphene://https://host.example", r"--src: expected graphene://.*came .*host.example"),
}


@pytest.mark.parametrize(("url", "message"), SOURCES.values(), ids=SOURCES)
def test_sources_that_are_none(
    url: str, message: str, dst: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "info").write_text("{ this is no JSON")
    before = tree(tmp_path)
    line = refusal(capsys, [f"--src={url.format(tmp=tmp_path)}", f"--dst=file://{dst}", *SMALL])
    assert_matches(message, line)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], r"expected also --src=URL, --dst=URL"),
        ([f"--src={NEURONS}"], r"expected also --dst=URL"),
        ([f"--src={NEURONS}", "--dst="], r"--dst: expected text, came ''"),
        ([f"--src={NEURONS}", "--dst"], r"--?dst"),
        ([f"--src={NEURONS}", "--dst=ftp://host/volume"], r"--dst: .*ftp://host/volume.*expected a local path"),
        ([f"--src={NEURONS}", "--dst=gs://"], r"--dst: .*gs://"),
        ([f"--src={NEURONS}", "--dst=https://127.0.0.1:1/volume"], r"--dst: expected .*https.* read.*gs://"),
        ([f"--src={NEURONS}", "--dst=http://127.0.0.1:1/volume"], r"--dst: expected .*http.* read.*gs://"),
    ],
    ids=["nothing", "no dst", "empty dst", "dst without a value", "unknown scheme", "no bucket", "https", "http"],
)
def test_destinations_that_are_none(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_matches(message, refusal(capsys, [*args, *SMALL] if args else []))


@pytest.mark.parametrize(
    ("scratch", "message"),
    [
        ("ftp://host/scratch", r"--scratch: .*ftp://host/scratch.*expected a local path"),
        ("https://127.0.0.1:1/scratch", r"--scratch: expected .*https.* read.*gs://"),
    ],
)
def test_scratch_that_is_none(
    scratch: str, message: str, dst: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(tmp_path)
    args = [f"--src={NEURONS}", f"--dst=file://{dst}", *SMALL, f"--scratch={scratch}"]
    assert_matches(message, refusal(capsys, args))
    assert tree(tmp_path) == before


def test_volume_of_another_program(dst: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dst.mkdir(parents=True)
    (dst / "info").write_text("{}")
    before = tree(tmp_path)
    line = refusal(capsys, [f"--src={NEURONS}", f"--dst=file://{dst}", *SMALL])
    assert_matches(r"--dst: expected a place without a volume, but .*/info exists, .* with --overwrite", line)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("form", ["file://{}", "precomputed://file://{}", "{}", "file://{}/", "file://{}/../source"])
def test_source_as_destination(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    assert main([f"--src={NEURONS}", f"--dst=file://{source}", *SMALL]) == 0
    before = tree(tmp_path)
    args = [f"--src=file://{source}", f"--dst={form.format(source)}", *SMALL, "--chunk_size=8,8,8", "--overwrite"]
    line = refusal(capsys, [a for a in args if a != "--chunk_size=16,16,16"])
    assert_matches(r"--dst: expected another place than --src, came file://\S+: ", line)
    assert tree(tmp_path) == before


def test_file_where_a_folder_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("here")
    before = tree(tmp_path)
    line = one_line(capsys, [f"--src={NEURONS}", f"--dst=file://{tmp_path}/file/volume", *SMALL], 1)
    assert_matches(r"file/volume.*expected to write .*Not a directory.*choose another place", line)
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_read_only_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    before = tree(tmp_path)
    line = one_line(capsys, [f"--src={NEURONS}", f"--dst=file://{folder}/volume", *SMALL], 1)
    assert_matches(r"closed/volume.*expected to write .*Permission denied", line)
    assert tree(tmp_path) == before


def test_read_only_disk(dst: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel's own files are on a disk that nobody may write to."""
    line = one_line(capsys, [f"--src={NEURONS}", "--dst=file:///proc/volume", *SMALL], 1)
    assert_matches(r"/proc/volume.*expected to write .*(No such file|Permission|Read-only|not permitted)", line)


def test_a_volume_that_was_removed_before_the_failure_is_not_called_refused(
    dst: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [f"--src={NEURONS}", f"--dst=file://{dst}", *SMALL]
    assert main(args) == 0

    def fail(*_: object) -> bool:
        raise DestinationError("the disk is full: make room")

    monkeypatch.setattr("beam_volumes.storage.Folder.create", fail)
    line = one_line(capsys, [*args, "--translate=1,0,0", "--overwrite"], 1)
    assert_matches(r"error: the disk is full: make room", line)
    assert not (dst / "info").exists()


ELSEWHERE = ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--max_num_workers=2"]
"""A runner on other machines, which nothing here gets as far as asking."""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dst={tmp}/out"], r"--dst: expected a place that every worker of --runner reaches.* came /"),
        (["--dst=file://{tmp}/out"], r"--dst: expected a place that every worker .* came file:///"),
        (
            ["--dst=gs://b/v", "--src=zarr://file://{tmp}/v"],
            r"--src: expected a place that every .* came zarr://file:///",
        ),
        (["--dst=gs://b/v", "--scratch={tmp}"], r"--scratch: expected a place that every worker .* came /"),
        (
            ["--dst=gs://b/v", "--src=graphene://https://h/segmentation/table/t", "--token_env=MY_TOKEN"],
            r"--token_env: expected a secret that every worker .*projects/P/secrets/S, came the name of an environment",
        ),
    ],
    ids=["dst", "dst as URL", "src", "scratch", "token"],
)
def test_what_workers_elsewhere_cannot_reach(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(tmp_path)
    given = [arg.format(tmp=tmp_path) for arg in args]
    source = [] if any(arg.startswith("--src=") for arg in args) else [f"--src={NEURONS}"]
    assert_matches(message, refusal(capsys, [*source, *given, *SMALL, *ELSEWHERE]))
    assert tree(tmp_path) == before


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProofreadingServer]:
    labels = make_neurons((64, 64, 32))
    with demo_server(tmp_path_factory.mktemp("graph"), labels, (32, 32, 16), token=TOKEN) as running:
        running.forbidden = frozenset({"known-but-not-allowed"})
        yield running


GRAPHENE = {
    "no timestamp": ([], r"--timestamp: expected a UNIX second.* none came: now is \d+"),
    "future": (["--timestamp=4102444800"], r"--timestamp: .*4102444800"),
    "before the graph": ([f"--timestamp={INGESTED - 1}"], rf"--timestamp: .*{INGESTED - 1}"),
    "before a later ingest": (["--timestamp=1"], r"--timestamp: .*\b1\b"),
    "layer above the roots": (
        [f"--timestamp={DEMO_TIMES[0]}", "--stop_layer=99"],
        r"--stop_layer: expected 2 to \d+, the layers under the roots .*came 99; roots are had without",
    ),
    "time of supervoxels": (["--timestamp=1705911001", "--agglomerate=false"], r"--timestamp: expected none with"),
    "layer of supervoxels": (["--stop_layer=2", "--agglomerate=false"], r"--stop_layer: expected none with"),
    "no mip": ([f"--timestamp={DEMO_TIMES[0]}", "--mip=1"], r"--mip: expected one of \[0\].*came 1"),
    "ids as jpeg": ([f"--timestamp={DEMO_TIMES[0]}", "--encoding=jpeg"], r"--encoding: .*uint64.*came jpeg"),
}


@pytest.mark.parametrize(("args", "message"), GRAPHENE.values(), ids=GRAPHENE)
def test_questions_that_have_no_answer(
    args: list[str],
    message: str,
    server: ProofreadingServer,
    dst: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    before, asked = tree(tmp_path), server.statistics.requests["roots_binary"]
    line = refusal(capsys, [f"--src={server.url}", f"--dst=file://{dst}", *SMALL, "--token_env=MY_TOKEN", *args])
    assert_matches(message, line)
    assert tree(tmp_path) == before
    assert server.statistics.requests["roots_binary"] == asked


TOKENS = {
    "no token": (None, [], r"no token was sent.*--token_env.*/secrets/cave-secret\.json"),
    "unset variable": (None, ["--token_env=MY_TOKEN"], r"--token_env: expected a token in .* MY_TOKEN, which is not"),
    "empty variable": ("", ["--token_env=MY_TOKEN"], r"--token_env: expected a token in .* MY_TOKEN, which is empty"),
    "wrong token": ("not-this-one", ["--token_env=MY_TOKEN"], r"401.*MY_TOKEN|MY_TOKEN.*401"),
    "forbidden": ("known-but-not-allowed", ["--token_env=MY_TOKEN"], r"403.*MY_TOKEN|MY_TOKEN.*403"),
    "no token at all": ("two words", ["--token_env=MY_TOKEN"], r"MY_TOKEN: expected a token .*not shown here"),
    "the token itself": (None, [f"--token_env={TOKEN}-and-much-longer"], r"--token_env: .*it may be a token"),
}


@pytest.mark.parametrize(("value", "args", "message"), TOKENS.values(), ids=TOKENS)
def test_tokens_that_do_not_open(
    value: str | None,
    args: list[str],
    message: str,
    server: ProofreadingServer,
    dst: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if value is not None:
        monkeypatch.setenv("MY_TOKEN", value)
    before = tree(tmp_path)
    url = [f"--src={server.url}", f"--dst=file://{dst}", f"--timestamp={DEMO_TIMES[0]}"]
    line = refusal(capsys, [*url, *SMALL, *args])
    assert_matches(message, line)
    assert not value or value not in line
    assert TOKEN not in line
    assert tree(tmp_path) == before


def test_unknown_table(
    server: ProofreadingServer,
    dst: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    before = tree(tmp_path)
    url = server.url.replace("table/demo", "table/dmeo")
    args = [f"--src={url}", f"--dst=file://{dst}", "--timestamp=1705911001", *SMALL, "--token_env=MY_TOKEN"]
    assert_matches(r"table/dmeo.*400", refusal(capsys, args))
    assert tree(tmp_path) == before


def test_server_that_is_not_running(
    dst: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_volumes.graphene.connection._FIRST_BACKOFF", 0.01)
    before = tree(tmp_path)
    args = ["--src=graphene://http://127.0.0.1:1/segmentation/table/demo", f"--dst=file://{dst}", *SMALL]
    line = refusal(capsys, [*args, "--timestamp=1705911001"])
    assert_matches(r"127\.0\.0\.1:1/.*Connection refused", line)
    assert tree(tmp_path) == before


def test_supervoxels_that_workers_elsewhere_cannot_reach(
    server: ProofreadingServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "token", None)
    args = [f"--src={server.url}", "--dst=gs://b/v", f"--timestamp={DEMO_TIMES[0]}", *SMALL, *ELSEWHERE]
    line = refusal(capsys, [*args, "--experiments=no_use_multiple_sdk_containers"])
    assert_matches(rf"--src: expected a place that every worker .* came {server.watershed_url}, which is on this", line)


def test_plan_writes_nothing(dst: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(tmp_path)
    assert main([f"--src={NEURONS}", f"--dst=file://{dst}", *SMALL, "--plan"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert tree(tmp_path) == before
    rows = rows_of(out)
    assert rows["mip 0 chunks"].startswith("18 of 16 x 16 x 16")
    assert rows["boxes to read"].startswith("1 of ")
    assert rows["boxes of unfinished shards"] == "1"
    assert rows["mip 0 shards"].startswith("1 of ")
    assert rows["shards left to write"] == "1"
    assert rows["bytes of voxels"] == f"{40 * 40 * 20 * 8:,}"
    assert int(rows["bytes to write, estimated"].replace(",", "")) > 0
    assert int(rows["memory per worker, bytes"].replace(",", "")) > 2_000_000
    assert not any(name.startswith("server") for name in rows)


def test_plan_of_a_graph_writes_nothing(
    server: ProofreadingServer,
    dst: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    before, asked = tree(tmp_path), server.statistics.requests["roots_binary"]
    args = [f"--src={server.url}", f"--dst=file://{dst}", f"--timestamp={DEMO_TIMES[0]}", "--chunk_size=16,16,16"]
    assert main([*args, "--token_env=MY_TOKEN", "--plan"]) == 0
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if not line.startswith("warning: ")] == []
    rows = rows_of(out)
    ids = int(rows["server ids, estimated"].replace(",", ""))
    assert ids == pytest.approx(len(server.graph.supervoxels), rel=0.5)
    assert int(rows["server requests, estimated"].replace(",", "")) >= 1
    assert rows["mip 0 chunks"].startswith("32 of 16 x 16 x 16")
    assert tree(tmp_path) == before
    assert server.statistics.requests["roots_binary"] == asked
