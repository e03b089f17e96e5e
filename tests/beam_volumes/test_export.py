"""The algorithms of an export, without Beam: plan, render, assemble, finish."""

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from cloudvolume import CloudVolume
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beam_volumes import source_worker
from beam_volumes.codecs import DATA_TYPES, Array, check_encoding
from beam_volumes.destinations import NewVolume
from beam_volumes.downsampling import Downsampler
from beam_volumes.errors import ConservationError, DestinationError, OptionError
from beam_volumes.export import render_region
from beam_volumes.export_planning import bounds_in, source_version
from beam_volumes.geometry import Box, Vec
from beam_volumes.parcels import Parcel
from beam_volumes.precomputed.info import volume_info
from beam_volumes.provenance import Launch
from beam_volumes.rendering import Counts, merge_counts
from beam_volumes.runs import inspect_destination, take
from beam_volumes.scale_planning import plan_pyramid_of, plan_scale, plan_target
from beam_volumes.shard_assembly import WrittenShard, assemble_shard, finished_shards
from beam_volumes.sources import Source
from beam_volumes.storage import Folder
from beam_volumes.targets import ShardKey
from beam_volumes.testing.array_source import ArrayReader, source_of
from beam_volumes.volume_plan import VolumePlan, finished_bits
from beam_volumes.volume_report import finish_volume

MEMORY = 9_000_000
SMALL = (64, 64, 32)


def plan_of(source: Source, url: str, **options: Any) -> VolumePlan:
    o: dict[str, Any] = {
        "bounds": None,
        "translate": (0, 0, 0),
        "chunk": (32, 32, 16),
        "encoding": "raw",
        "sharded": True,
        "compress": "gzip",
        "memory": 2_000_000,
        "resume": True,
        "inline_bytes": 0,
        "region": None,
    } | options
    box = bounds_in(source, o["bounds"])
    scale = plan_scale(source, box.translated(o["translate"]), o["chunk"], o["encoding"])
    target = plan_target(url, scale, o["compress"], sharded=o["sharded"], memory_target=o["memory"])
    identity = {"source": source_version(source), "encoding": o["encoding"]}
    destination = NewVolume(url, volume_info(source.info, "segmentation", [target.scale], clean=True))
    claim = inspect_destination(destination, identity, resume=o["resume"], overwrite=False)
    pyramid = plan_pyramid_of(source, [scale], (), Downsampler("mode", source.data_type), MEMORY, o["translate"])
    if o["region"]:
        reading = pyramid.reading
        pyramid = replace(pyramid, reading=replace(reading, regions=replace(reading.regions, cell=o["region"])))
    return VolumePlan(
        claim=claim,
        source=source,
        server=None,
        targets=(target,),
        translate=o["translate"],
        base_mip=0,
        pyramid=pyramid,
        fill_missing=False,
        lookahead_bytes=0,
        inline_bytes=o["inline_bytes"],
        launch=Launch("me", {}),
        finished=finished_bits((target,), finished_shards(claim, (target,))),
    )


def start(plan: VolumePlan) -> None:
    take(plan.claim)


def render(plan: VolumePlan, regions: list[int]) -> tuple[Counts, dict[ShardKey, list[Parcel]]]:
    counts, groups = [], defaultdict(list)
    for region in regions:
        rendered = render_region(plan, region)
        counts.append(rendered.counts)
        for key, parcel in rendered.parcels.items():
            groups[key].append(parcel)
    return merge_counts(counts), groups


def needed(plan: VolumePlan) -> list[int]:
    return [r for r in range(len(plan.reading.regions)) if plan.needs_region(r)]


def assemble(plan: VolumePlan, groups: dict[ShardKey, list[Parcel]]) -> list[WrittenShard]:
    return [assemble_shard(plan.claim, plan.targets[k.mip], k.shard, p) for k, p in groups.items()]


def run(plan: VolumePlan, shuffle: int = 0) -> None:
    """Run a whole export; another `shuffle` is another order of all work."""
    order = random.Random(shuffle)
    start(plan)
    regions = needed(plan)
    order.shuffle(regions)
    counts, groups = render(plan, regions)
    for parcels in groups.values():
        order.shuffle(parcels)
    finish_volume(plan, counts, assemble(plan, groups), 0.0)


def files(url: str) -> dict[str, bytes]:
    root = Path(url.removeprefix("file://"))
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {k: v for k, v in found.items() if k not in ("report.json", "provenance")}


def read_back(url: str) -> Array:
    volume = CloudVolume(url, progress=False)
    return np.asarray(volume[volume.bounds])


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> ArrayReader:
    array = np.asfortranarray(np.random.default_rng(7).integers(0, 50, (150, 131, 45, 1)).astype(np.uint64))
    reader = ArrayReader(array, (5, -6, 7))
    monkeypatch.setattr(source_worker, "open_reader", lambda *_, **__: reader)
    return reader


@pytest.fixture
def source(reader: ArrayReader) -> Source:
    return source_of(reader.array, reader.offset, (64, 64, 32))


@st.composite
def exports(draw: st.DrawFn) -> tuple[Array, Vec, Vec, dict[str, Any]]:
    def vec(low: int, high: int) -> Vec:
        return draw(st.tuples(*[st.integers(low, high)] * 3))

    data_type, channels = draw(st.sampled_from(DATA_TYPES)), draw(st.integers(1, 3))
    shape, offset, stored, chunk = vec(1, 70), vec(-50, 50), vec(8, 40), vec(1, 33)
    random_source = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = np.asfortranarray(random_source.integers(0, 99, (*shape, channels)).astype(data_type))
    encoding = draw(st.sampled_from(["raw", "compressed_segmentation", "compresso", "crackle"]))
    try:
        check_encoding(encoding, "segmentation", data_type, channels)
    except OptionError:
        encoding = "raw"
    low = draw(st.tuples(*[st.integers(0, n - 1) for n in shape]))
    high = draw(st.tuples(*[st.integers(a + 1, n) for a, n in zip(low, shape, strict=True)]))
    bounds = Box(low, high).translated(offset)
    options = {
        "bounds": draw(st.sampled_from([None, bounds])),
        "translate": vec(-9, 9),
        "chunk": chunk,
        "encoding": encoding,
        "sharded": draw(st.booleans()),
        "compress": draw(st.sampled_from(["gzip", "none"])),
        "memory": draw(st.integers(900_000, 4_000_000)),
        "inline_bytes": draw(st.sampled_from([0, 3000, 10**9])),
    }
    return array, offset, stored, options


@given(exports())
@settings(derandomize=True, deadline=None, max_examples=40)
def test_any_volume_comes_back_voxel_for_voxel(case: tuple[Array, Vec, Vec, dict[str, Any]]) -> None:
    array, offset, stored, options = case
    if max(-(-n // c) for n, c in zip(array.shape, options["chunk"], strict=False)) > 24:
        options["chunk"] = (8, 8, 8)
    reader = ArrayReader(array, offset)
    # CloudVolume 12 cannot read volumes of one voxel.
    assume((options["bounds"] or Box.of_shape(array.shape[:3])).voxels > 1)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_worker, "open_reader", lambda *_, **__: reader)
        url = f"file://{folder}/seg"
        source = source_of(array, offset, stored)
        run(plan_of(source, url, **options))
        box = options["bounds"] or source.box
        np.testing.assert_array_equal(read_back(url), array[box.slices(offset)])
        assert tuple(CloudVolume(url).voxel_offset) == box.translated(options["translate"]).start
        assert reader.voxels_read == box.voxels, "each voxel is read once"


def test_bytes_do_not_depend_on_the_order_of_work(source: Source, tmp_path: Path) -> None:
    urls = [f"file://{tmp_path}/{i}" for i in range(2)]
    for shuffle, url in enumerate(urls):
        run(plan_of(source, url, bounds=Box((6, -1, 9), (149, 120, 50))), shuffle)
    assert files(urls[0]) == files(urls[1])


def test_only_what_is_missing_is_done_again(source: Source, reader: ArrayReader, tmp_path: Path) -> None:
    whole, broken = f"file://{tmp_path}/whole", f"file://{tmp_path}/broken"
    run(plan_of(source, whole, region=SMALL))
    first = plan_of(source, broken, region=SMALL)
    start(first)
    _, groups = render(first, needed(first))
    kept = dict(list(groups.items())[: len(groups) // 2])
    assemble(first, kept)
    Folder(first.claim.scratch).delete(["region-0.pack"])

    read_before = reader.voxels_read
    second = plan_of(source, broken, region=SMALL)
    assert second.claim.state == "resumed"
    assert second.planned["shards"] == len(groups) - len(kept)
    again = needed(second)
    counts, groups = render(second, again)
    assert counts.reused == len(again) - (0 in again)
    assert reader.voxels_read - read_before <= second.region_box(0).voxels
    assert not groups.keys() & kept.keys()
    finish_volume(second, counts, assemble(second, groups), 0.0)
    assert files(broken) == files(whole)


def test_a_pack_without_a_shard_that_is_needed_again_is_made_anew(source: Source, tmp_path: Path) -> None:
    whole, broken = f"file://{tmp_path}/whole", f"file://{tmp_path}/broken"
    run(plan_of(source, whole, region=SMALL))
    first = plan_of(source, broken, region=SMALL)
    start(first)
    _, groups = render(first, needed(first))
    shard = next(iter(groups))
    assemble(first, {shard: groups[shard]})
    # The second run renders without the finished shard, is stopped, and then the shard is lost.
    Folder(first.claim.scratch).delete_folder("")
    second = plan_of(source, broken, region=SMALL)
    render(second, needed(second))
    next(Path(broken.removeprefix("file://")).rglob("*.shard")).unlink()
    third = plan_of(source, broken, region=SMALL)
    assert third.planned["shards"] == len(groups)
    counts, groups = render(third, needed(third))
    assert 0 < counts.reused < counts.regions
    finish_volume(third, counts, assemble(third, groups), 0.0)
    assert files(broken) == files(whole)


def test_a_shard_that_was_damaged_after_it_was_finished_is_written_anew(source: Source, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/seg"
    plan = plan_of(source, url)
    start(plan)
    _, groups = render(plan, needed(plan))
    written = assemble(plan, groups)
    victim = next(Path(url.removeprefix("file://")).rglob("*.shard"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert len(finished_shards(plan_of(source, url).claim, plan.targets)) == len(written) - 1


def test_a_lost_parcel_fails_its_shard_naming_the_chunk(source: Source, tmp_path: Path) -> None:
    plan = plan_of(source, f"file://{tmp_path}/seg", memory=10**8, region=SMALL)
    start(plan)
    _, groups = render(plan, needed(plan))
    key, parcels = next(iter(groups.items()))
    assert len(parcels) > 1
    with pytest.raises(ConservationError, match=r"chunks that are not whole: \d+,.*give the same command again"):
        assemble_shard(plan.claim, plan.targets[key.mip], key.shard, parcels[1:])


def test_a_parcel_that_comes_twice_fails_its_shard(source: Source, tmp_path: Path) -> None:
    plan = plan_of(source, f"file://{tmp_path}/seg")
    start(plan)
    _, groups = render(plan, needed(plan))
    key, parcels = next(iter(groups.items()))
    with pytest.raises(ConservationError, match=r"expected every voxel of .* once"):
        assemble_shard(plan.claim, plan.targets[key.mip], key.shard, [*parcels, parcels[0]])


def test_a_lost_shard_or_region_fails_the_run(source: Source, tmp_path: Path) -> None:
    plan = plan_of(source, f"file://{tmp_path}/seg")
    start(plan)
    counts, groups = render(plan, needed(plan))
    written = assemble(plan, groups)
    with pytest.raises(ConservationError, match=rf"shards: expected {len(written)}, came {len(written) - 1}"):
        finish_volume(plan, counts, written[1:], 0.0)
    with pytest.raises(ConservationError, match=rf"regions: expected {counts.regions}, came {counts.regions - 1}"):
        finish_volume(plan, counts._replace(regions=counts.regions - 1), written, 0.0)
    assert Folder(plan.targets[0].url).read("report.json") is None


def test_a_run_whose_destination_was_taken_over_stops(source: Source, tmp_path: Path) -> None:
    plan = plan_of(source, f"file://{tmp_path}/seg")
    start(plan)
    _, groups = render(plan, needed(plan))
    Folder(plan.targets[0].url).write(".beam_volumes/claim.json", b'{"key": "another", "identity": {}}')
    with pytest.raises(DestinationError, match="another run has taken it over: nothing more is written"):
        assemble(plan, groups)
    assert not list(Path(plan.targets[0].url.removeprefix("file://")).rglob("*.shard"))


def test_info_keeps_nothing_of_the_source_but_the_voxels(source: Source, tmp_path: Path) -> None:
    plan = plan_of(source, f"file://{tmp_path}/seg")
    info = volume_info(source.info, "segmentation", [plan.targets[0].scale], clean=True)
    assert info.keys() == {"@type", "type", "data_type", "num_channels", "scales"}
    kept = volume_info(source.info, "segmentation", [plan.targets[0].scale], clean=False)
    assert kept["mesh"] == "mesh"
    assert "data_dir" not in kept
