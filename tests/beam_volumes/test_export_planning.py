"""Planning an export: what its options mean for a source, what is refused, and what it will take."""

import math
import pickle
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.codecs import compress, encode_chunk
from beam_volumes.destinations import NewVolume
from beam_volumes.downsampling import Downsampler
from beam_volumes.encoding_choice import Choice
from beam_volumes.errors import AuthorizationError, OptionError, ServerError, SourceError
from beam_volumes.export_planning import ask_server, bounds_in, share_of_limits, source_version
from beam_volumes.geometry import Box
from beam_volumes.graphene import Limits, RootQuestion
from beam_volumes.places import check_for_workers, destination, is_proofreading
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from beam_volumes.scale_planning import chunk_bytes, plan_pyramid_of, plan_scale, plan_target
from beam_volumes.sources import Source, describe_source, open_reader
from beam_volumes.targets import ShardKey
from beam_volumes.testing.chunk_graph import DEMO_TIMES, INGESTED
from beam_volumes.testing.neurons import make_neurons
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server
from beam_volumes.volume_estimate import PROCESS_BYTES, estimate, memory_per_worker, summary
from beam_volumes.volume_plan import VolumePlan, finished_bits

NEURONS = "made://neurons?size=200,150,40&offset=5,-6,7&chunk=64,64,16"
MEMORY = 50_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProofreadingServer]:
    with demo_server(tmp_path_factory.mktemp("demo"), make_neurons((128, 96, 40)), voxel_offset=(3, 5, 7)) as running:
        yield running


@pytest.fixture
def source() -> Source:
    return describe_source(NEURONS, 0)


CHOICES = [Choice("compressed_segmentation")]


def plan_of(source: Source, folder: Path, **options: Any) -> VolumePlan:
    url = f"file://{folder}/seg"
    scale = plan_scale(source, source.box, options.get("chunk", (64, 64, 16)), options.get("encoding"))
    target = plan_target(
        url, scale, "gzip", sharded=options.get("sharded", True), memory_target=options.get("memory", MEMORY)
    )
    claim = inspect_destination(NewVolume(url, {"scales": []}), {"source": source.url}, resume=True, overwrite=False)
    return VolumePlan(
        claim=claim,
        source=source,
        server=options.get("server"),
        targets=(target,),
        translate=(0, 0, 0),
        base_mip=0,
        pyramid=plan_pyramid_of(source, [scale], (), Downsampler("mode", source.data_type), MEMORY, (0, 0, 0)),
        fill_missing=False,
        lookahead_bytes=MEMORY // 8,
        inline_bytes=0,
        launch=Launch("me", {}),
    )


# Options


def test_bounds_are_all_of_the_source_or_a_part_of_it(source: Source) -> None:
    assert bounds_in(source, None) == Box((5, -6, 7), (205, 144, 47))
    part = Box((5, 0, 7), (6, 144, 47))
    assert bounds_in(source, part) == part
    with pytest.raises(
        OptionError,
        match=r"--bounds: expected voxels of made://.* at mip 0, which has 5,-6,7,205,144,47, came 0,0,8,10,10,50: "
        r"the part of it that is there is 5,0,8,10,10,47$",
    ):
        bounds_in(source, Box((0, 0, 8), (10, 10, 50)))
    with pytest.raises(OptionError, match=r"came 300,0,8,310,10,50: nothing of it is there$"):
        bounds_in(source, Box((300, 0, 8), (310, 10, 50)))


@pytest.mark.parametrize(
    ("kind", "encoding", "expected"),
    [
        (("segmentation", "uint64", 1), None, "compressed_segmentation"),
        (("segmentation", "uint8", 1), None, "raw"),
        (("image", "uint64", 1), None, "raw"),
        (("image", "float32", 2), None, "raw"),
        (("segmentation", "uint64", 1), "compresso", "compresso"),
        (("image", "uint8", 1), "png", "png"),
    ],
)
def test_the_encoding_fits_the_voxels(
    source: Source, kind: tuple[str, str, int], encoding: str | None, expected: str
) -> None:
    layer_type, data_type, channels = kind
    source = replace(source, layer_type=layer_type, data_type=data_type, num_channels=channels)
    scale = plan_scale(source, source.box, (64, 64, 16), encoding)
    assert (scale.encoding, scale.sharding, scale.box) == (expected, None, source.box)
    assert chunk_bytes(scale) == 64 * 64 * 16 * np.dtype(data_type).itemsize * channels


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        (("segmentation", "uint64", 1), "png"),
        (("segmentation", "uint8", 1), "jpeg"),
        (("image", "float32", 1), "compressed_segmentation"),
        (("segmentation", "uint64", 2), "crackle"),
        (("image", "uint8", 3), "jpeg"),
    ],
)
def test_encodings_that_do_not_fit_are_refused(source: Source, kind: tuple[str, str, int], encoding: str) -> None:
    layer_type, data_type, channels = kind
    source = replace(source, layer_type=layer_type, data_type=data_type, num_channels=channels)
    message = rf"--encoding: .*{data_type} in {channels} channel\(s\) \(raw.*\), came {encoding}"
    with pytest.raises(OptionError, match=message):
        plan_scale(source, source.box, (64, 64, 16), encoding)
    with pytest.raises(OptionError, match=r"--src: expected voxels of one of the types .*, came float64"):
        plan_scale(replace(source, data_type="float64"), source.box, (64, 64, 16), None)


def test_chunks_that_the_encoding_cannot_hold_are_refused(source: Source) -> None:
    image = replace(source, layer_type="image", data_type="uint8", box=Box((0, 0, 0), (9, 2000, 2000)))
    assert plan_scale(image, image.box, (128, 100, 655), "jpeg").chunk == (128, 100, 655)
    with pytest.raises(
        OptionError, match=r"--chunk_size: expected chunks .* for jpeg, came 9 x 65,600: make the chunks"
    ):
        plan_scale(image, image.box, (128, 100, 656), "jpeg")
    # Of chunks that are larger than the volume, only what is in it is encoded.
    assert plan_scale(image, Box((0, 0, 0), (9, 9, 9)), (128, 100, 656), "jpeg").chunk == (128, 100, 656)


def test_chunks_and_stored_chunks_have_to_fit_the_memory(source: Source) -> None:
    scale = plan_scale(source, source.box, (64, 64, 16), "raw")
    needed = 64 * 64 * 16 * 8
    target = plan_target("file:///d", scale, "gzip", sharded=True, memory_target=needed)
    assert len(target.shards) == len(target.chunks) == 4 * 3 * 3
    with pytest.raises(OptionError, match=rf"--chunk_size: expected chunks of at most {needed - 1:,} bytes"):
        plan_target("file:///d", scale, "gzip", sharded=True, memory_target=needed - 1)
    plan_pyramid_of(source, [scale], (), Downsampler("mode", source.data_type), 4 * needed)
    with pytest.raises(OptionError, match=rf"--memory_target: expected at least {4 * needed:,} bytes, four times"):
        plan_pyramid_of(source, [scale], (), Downsampler("mode", source.data_type), 4 * needed - 1)


@pytest.mark.parametrize(
    ("encoding", "compression", "data_encoding"),
    [("raw", "gzip", "gzip"), ("raw", "none", "raw"), ("png", "gzip", "raw"), ("crackle", "gzip", "gzip")],
)
def test_shards_say_how_their_chunks_are_compressed(encoding: str, compression: str, data_encoding: str) -> None:
    source = describe_source("made://neurons?size=90,90,90&dtype=uint8", 0)
    source = replace(source, layer_type="image" if encoding == "png" else "segmentation")
    scale = plan_scale(source, source.box, (32, 32, 32), encoding)
    sharded = plan_target("file:///d", scale, compression, sharded=True, memory_target=10**7)
    assert sharded.scale.sharding == sharded.ownership
    assert sharded.ownership.data_encoding == data_encoding
    unsharded = plan_target("file:///d", scale, compression, sharded=False, memory_target=10**7)
    assert (unsharded.scale.sharding, unsharded.ownership) == (None, sharded.ownership)


def test_reading_moves_with_the_destination(source: Source) -> None:
    here, there = (
        plan_pyramid_of(
            source,
            [plan_scale(source, source.box.translated(by), (64, 64, 16), None)],
            (),
            Downsampler("mode", source.data_type),
            4 * 10**6,
            by,
        ).reading
        for by in ((0, 0, 0), (1000, -7, 3))
    )
    assert there.regions.bounds == here.regions.bounds.translated((1000, -7, 3))
    assert len(there.regions) == len(here.regions)
    for region in range(len(here.regions)):
        a, b = here.blocks(region), there.blocks(region)
        assert [a.box(a.position(i)).translated((1000, -7, 3)) for i in range(len(a))] == [
            b.box(b.position(i)) for i in range(len(b))
        ]


def test_the_source_version_follows_the_source(source: Source) -> None:
    version = source_version(source)
    assert source_version(describe_source(NEURONS, 0)) == version
    assert len(version) == 16
    changed = [
        replace(source, url="made://x"),
        replace(source, voxels_url="file:///x"),
        replace(source, box=source.box.translated((1, 0, 0))),
        replace(source, resolution_nm=(8.0, 8.0, 40.0)),
        replace(source, data_type="uint32"),
        replace(source, num_channels=2),
        replace(source, chunk=(64, 64, 32)),
        replace(source, layer_type="image"),
        replace(source, info={**source.info, "scales": [{**source.info["scales"][0], "encoding": "compresso"}]}),
    ]
    assert len({version, *map(source_version, changed)}) == 1 + len(changed)


def test_the_source_version_does_not_follow_what_is_added_to_a_source(source: Source) -> None:
    scales = [*source.info["scales"], {"key": "32_32_40", "encoding": "raw"}]
    assert source_version(replace(source, info={**source.info, "scales": scales, "mesh": "mesh"})) == source_version(
        source
    )
    assert len(source_version(replace(source, info={}))) == 16


@pytest.mark.parametrize("url", ["/data/volume", "file:///data/volume", "zarr://file:///data/volume", "n5:///data/v"])
def test_places_on_this_machine_are_refused_for_workers_elsewhere(url: str) -> None:
    with pytest.raises(
        OptionError, match=f"--src: expected a place that every worker of --runner reaches.*came {url}, "
    ):
        check_for_workers([("src", url)], None)
    for other in ("gs://b/v", "zarr2://s3://b/v", "https://h/v", NEURONS, "graphene://https://h/segmentation/table/a"):
        check_for_workers([("src", other)], "projects/p/secrets/s")
    with pytest.raises(OptionError, match=f"--scratch: expected a place that .* came {url}, "):
        check_for_workers([("src", "gs://b/v"), ("scratch", url)], None)
    check_for_workers([("src", "gs://b/v"), ("scratch", None)], None)


def test_tokens_of_this_machine_are_refused_for_workers_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_VOLUME_DIR", str(tmp_path))
    url = "graphene://https://host/segmentation/table/a"
    check_for_workers([("src", url)], None)
    check_for_workers([("src", url)], "projects/p/secrets/s")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "cave-secret.json").write_text('{"token": "s3cr3t"}')
    for token_env, came in ((None, rf"{tmp_path}/secrets/cave-secret\.json"), ("s3cr3t", "the name of an environment")):
        with pytest.raises(OptionError, match=f"--token_env: expected a secret that every .*came {came}") as caught:
            check_for_workers([("src", url)], token_env)
        assert "s3cr3t" not in str(caught.value)
        check_for_workers([("src", NEURONS)], token_env)


def test_limits_are_shared_among_workers() -> None:
    assert share_of_limits(16, 1000, 4) == Limits(max_requests_in_flight=4, max_ids_per_second=250.0)
    assert share_of_limits(16, 16, 16) == Limits(max_requests_in_flight=1, max_ids_per_second=1)
    with pytest.raises(OptionError, match="--max_num_workers: expected the most workers that the job may have, came"):
        share_of_limits(16, 1000, None)
    with pytest.raises(
        OptionError, match=r"--max_requests_in_flight: expected at least .* processes, 200, .* came 16: "
    ):
        share_of_limits(16, None, 200)
    with pytest.raises(OptionError, match=r"--max_ids_per_second: expected at least .* processes, 200, .* came 100: "):
        share_of_limits(200, 100, 200)


# Proofreading


def ask(server: ProofreadingServer, question: tuple[int | None, int | None] | None, **options: Any) -> Any:
    return ask_server(options.get("url", server.url), question, options.get("token_env"), Limits(tries=1))


def test_a_server_is_asked_for_its_graph(server: ProofreadingServer) -> None:
    assert is_proofreading(server.url)
    assert not is_proofreading(server.watershed_url)
    graph, asked, warnings = ask(server, (DEMO_TIMES[1], None))
    assert (graph.data_dir, graph.chunk_size, graph.chunk_origin) == (server.watershed_url, (64, 64, 32), (3, 5, 7))
    assert asked.question == RootQuestion(DEMO_TIMES[1], None, graph.n_layers)
    assert (asked.table.info_url.startswith(server.http_url), asked.limits) == (True, Limits(tries=1))
    assert warnings == []
    assert ask(server, (DEMO_TIMES[1], 2)).server.question.stop_layer == 2
    assert ask(server, None) == (graph, None, [])


def test_a_young_timestamp_is_warned_of(server: ProofreadingServer) -> None:
    (warning,) = ask(server, (int(time.time()) - 60, None)).warnings
    assert "edits of the last 10 minutes may still be being written" in warning


def test_questions_that_have_no_answer_are_refused(server: ProofreadingServer) -> None:
    layers = ask(server, None).graph.n_layers
    refused = [
        ((None, None), r"--timestamp: expected a UNIX second, .* none came"),
        ((int(time.time()) + 1000, None), r"--timestamp: expected a UNIX second in the past"),
        ((INGESTED - 10, None), rf"--timestamp: expected a UNIX second from {INGESTED} "),
        ((DEMO_TIMES[0], layers), rf"--stop_layer: expected 2 to {layers - 1}, .* came {layers}"),
    ]
    for question, message in refused:
        with pytest.raises(OptionError, match=message):
            ask(server, question)


def test_servers_that_do_not_answer_are_named(server: ProofreadingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerError, match="none"):
        ask(server, None, url=server.url.replace("/demo", "/none"))
    monkeypatch.setattr(server, "token", "right")
    monkeypatch.setenv("WRONG_TOKEN", "wrong")
    with pytest.raises(AuthorizationError):
        ask(server, (DEMO_TIMES[0], None), token_env="WRONG_TOKEN")


# What it will take


def encoded_bytes(plan: VolumePlan) -> int:
    """Encode everything."""
    reader, chunks, size = open_reader(plan.source, fill_missing=False), plan.targets[0].chunks, 0
    for index in range(len(chunks)):
        array, _ = reader.read(chunks.box(chunks.position(index)))
        size += len(compress(encode_chunk(array, plan.targets[0].scale.encoding), plan.targets[0].compression))
    return size


@pytest.mark.parametrize(
    ("url", "encoding"),
    [
        (NEURONS, None),
        (NEURONS, "crackle"),
        ("made://neurons?size=300,200,70", None),
        ("made://image?size=200,150,70", "raw"),
        ("made://image?size=200,150,70", "png"),
        ("made://neurons?size=5,4,3", None),
    ],
)
def test_estimated_bytes_are_near_to_the_truth(url: str, encoding: str | None, tmp_path: Path) -> None:
    plan = plan_of(describe_source(url, 0), tmp_path, encoding=encoding)
    guess, truth = estimate(plan), encoded_bytes(plan)
    assert truth / 2 <= guess.encoded_bytes <= truth * 2
    assert (guess.ids, guess.requests) == (0, 0)
    assert 0 <= guess.cpu_seconds < 60
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_what_the_server_will_be_asked_is_estimated(server: ProofreadingServer, tmp_path: Path) -> None:
    graph, asked, _ = ask(server, (DEMO_TIMES[0], None))
    plan = plan_of(describe_source(server.url, 0, graph), tmp_path, server=asked)
    before = dict(server.statistics.requests)
    guess = estimate(plan)
    assert dict(server.statistics.requests) == before, "an estimate asks the server nothing"
    voxels, _ = open_reader(plan.source, fill_missing=False).read(plan.source.box)
    truth = len(set(voxels.ravel().tolist()) - {0})
    assert truth / 2 <= guess.ids <= 2 * truth
    regions = len(plan.reading.regions)
    assert guess.requests == regions + max(regions, math.ceil(guess.ids / 10_000))


def test_a_missing_chunk_fails_the_estimate(server: ProofreadingServer, tmp_path: Path) -> None:
    graph, asked, _ = ask(server, (DEMO_TIMES[0], None))
    plan = plan_of(describe_source(server.url, 0, graph), tmp_path, server=asked)
    gone = replace(plan, source=replace(plan.source, voxels_url=f"file://{tmp_path}/gone"))
    with pytest.raises(SourceError, match="gone, mip 0: expected every chunk of"):
        estimate(gone)


def test_memory_is_that_of_blocks_and_of_what_waits(source: Source, tmp_path: Path) -> None:
    plan = plan_of(source, tmp_path)
    block = plan.reading.block.voxels * 8
    assert memory_per_worker(plan) == PROCESS_BYTES + 4 * block
    assert 4 * block <= MEMORY
    waiting = replace(plan, server=object())  # type: ignore[arg-type]
    assert memory_per_worker(waiting) == PROCESS_BYTES + 4 * block + MEMORY // 8


def test_the_plan_is_told_in_rows(source: Source, tmp_path: Path) -> None:
    plan = plan_of(source, tmp_path)
    rows = dict(summary(plan, CHOICES))
    expected = {
        "source": f"{NEURONS}, mip 0",
        "destination": f"file://{tmp_path}/seg (new)",
        "mip 0": "16_16_40, 200 x 150 x 40 voxels",
        "voxels": "5,-6,7,205,144,47 = 200 x 150 x 40 of uint64 x 1",
        "mip 0 chunks": "36 of 64 x 64 x 16, compressed_segmentation, gzip",
        "bytes of voxels": "9,600,000",
        "memory per worker, bytes": f"{memory_per_worker(plan):,}",
        "shards left to write": f"{len(plan.targets[0].shards)}",
        "boxes of unfinished shards": f"{len(plan.reading.regions)}",
    }
    assert {name: rows[name] for name in expected} == expected
    assert rows["mip 0 shards"].endswith("chunks, one file each")
    assert not any("server" in name for name in rows)
    unsharded = dict(summary(plan_of(source, tmp_path, sharded=False), CHOICES))
    assert unsharded["mip 0 shards"].endswith("chunks, whose chunks are files")


def test_the_plan_of_a_resumed_run_tells_what_is_left(tmp_path: Path) -> None:
    plan = plan_of(describe_source(NEURONS, 0), tmp_path, memory=4 * 10**6)
    shards = list(plan.targets[0].shards.numbers())
    assert len(shards) > 1
    plan = replace(plan, finished=finished_bits(plan.targets, [ShardKey(0, shard) for shard in shards[:-1]]))
    rows = dict(summary(plan, CHOICES))
    assert rows["shards left to write"] == "1"
    assert int(rows["boxes of unfinished shards"]) <= len(plan.reading.regions)


def test_a_plan_travels_without_what_it_has_found_out(tmp_path: Path) -> None:
    plan = plan_of(describe_source(NEURONS, 0), tmp_path, memory=4 * 10**6)
    first = next(iter(plan.targets[0].shards.numbers()))
    plan = replace(plan, finished=finished_bits(plan.targets, [ShardKey(0, first)]))
    assert plan.planned["shards"] == len(plan.targets[0].shards) - 1
    travelled = pickle.loads(pickle.dumps(plan))
    assert travelled == plan
    assert vars(travelled).keys() == {field.name for field in fields(VolumePlan)}


def test_a_proofreading_plan_tells_what_the_server_is_asked(server: ProofreadingServer, tmp_path: Path) -> None:
    graph, asked, _ = ask(server, (DEMO_TIMES[0], None))
    rows = dict(summary(plan_of(describe_source(server.url, 0, graph), tmp_path, server=asked), CHOICES))
    assert int(rows["server ids, estimated"].replace(",", "")) > 0
    assert int(rows["server requests, estimated"].replace(",", "")) == 2


def test_a_volume_is_not_written_into_its_source(tmp_path: Path) -> None:
    source = replace(describe_source(NEURONS, 0), url=f"file://{tmp_path}/v", voxels_url=f"file://{tmp_path}/v")
    assert destination(f"{tmp_path}/w", source) == f"file://{tmp_path}/w"
    assert destination(f"{tmp_path}/v2", source) == f"file://{tmp_path}/v2"
    with pytest.raises(OptionError, match=r"--dst: expected a place outside of --src, came .*/v/copy, which is within"):
        destination(f"{tmp_path}/x/../v/copy", source)
