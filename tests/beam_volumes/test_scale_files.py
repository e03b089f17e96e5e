"""A scale's folder holds the files of its run and no others, and a run that finds others does not end well."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import crc32c
import pytest

from beam_volumes.destinations import NewVolume
from beam_volumes.downsampling import Downsampler
from beam_volumes.errors import ConservationError, DestinationError
from beam_volumes.export import render_region
from beam_volumes.export_planning import source_version
from beam_volumes.parcels import Parcel
from beam_volumes.precomputed.info import volume_info
from beam_volumes.provenance import Launch
from beam_volumes.receipts import receipts
from beam_volumes.rendering import Counts, merge_counts
from beam_volumes.runs import inspect_destination, take
from beam_volumes.scale_files import check_files
from beam_volumes.scale_planning import plan_pyramid_of, plan_scale, plan_target
from beam_volumes.shard_assembly import WrittenShard, assemble_shard, finished_shards
from beam_volumes.sources import describe_source
from beam_volumes.storage import Folder
from beam_volumes.storage.store import Entry
from beam_volumes.targets import ShardKey
from beam_volumes.volume_plan import VolumePlan, finished_bits
from beam_volumes.volume_report import finish_volume, settle

MEMORY = 4_000_000


def plan_of(folder: Path, *, sharded: bool, overwrite: bool = False, encoding: str = "raw") -> VolumePlan:
    source = describe_source("made://neurons?size=150,90,40&offset=-7,5,3&chunk=64,64,16&dtype=uint32", 0)
    scale = plan_scale(source, source.box, (32, 32, 16), encoding)
    target = plan_target(f"file://{folder}/seg", scale, "gzip", sharded=sharded, memory_target=700_000)
    identity = {"source": source_version(source), "encoding": encoding}
    destination = NewVolume(target.url, volume_info(source.info, "segmentation", [target.scale], clean=True))
    claim = inspect_destination(destination, identity, resume=True, overwrite=overwrite, scratch=f"{folder}/scratch/")
    return VolumePlan(
        claim=claim,
        source=source,
        server=None,
        targets=(target,),
        translate=(0, 0, 0),
        base_mip=0,
        pyramid=plan_pyramid_of(source, [scale], (), Downsampler("mode", source.data_type), MEMORY, (0, 0, 0)),
        fill_missing=False,
        lookahead_bytes=0,
        inline_bytes=0,
        launch=Launch("me", {}),
        finished=finished_bits((target,), finished_shards(claim, (target,))),
    )


def start(plan: VolumePlan) -> None:
    take(plan.claim)


def work(plan: VolumePlan) -> tuple[Counts, list[WrittenShard]]:
    """Render and assemble all that is not finished."""
    counts, groups = [], defaultdict[ShardKey, list[Parcel]](list)
    for region in range(len(plan.reading.regions)):
        if plan.needs_region(region):
            rendered = render_region(plan, region)
            counts.append(rendered.counts)
            for key, parcel in rendered.parcels.items():
                groups[key].append(parcel)
    written = [assemble_shard(plan.claim, plan.targets[k.mip], k.shard, p) for k, p in groups.items()]
    return merge_counts(counts), written


def scale_folder(plan: VolumePlan) -> Path:
    return Path(plan.targets[0].url.removeprefix("file://")) / plan.targets[0].scale.key


@pytest.fixture(params=[True, False], ids=["sharded", "unsharded"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> VolumePlan:
    plan = plan_of(tmp_path, sharded=request.param)
    start(plan)
    return plan


def test_a_whole_scale_passes(plan: VolumePlan) -> None:
    _, written = work(plan)
    assert len(written) > 1
    assert len(list(scale_folder(plan).iterdir())) == (len(written) if plan.targets[0].scale.sharding else 5 * 3 * 3)
    check_files(plan.targets[0], [w.receipt for w in written])
    (scale_folder(plan) / ".being-written.tmp").write_bytes(b"")
    check_files(plan.targets[0], [w.receipt for w in written])


@pytest.mark.parametrize(
    "name",
    ["ff.shard", "0-32_0-32_0-16", "-7-25_5-37_3-18.gz", "25-57_5-37_3-19", "57-89_5-37_3-19.br"],
)
def test_files_of_others_are_named(plan: VolumePlan, name: str) -> None:
    counts, written = work(plan)
    Folder(plan.targets[0].url).write(f"{plan.targets[0].scale.key}/{name}", b"of another run")
    with pytest.raises(
        ConservationError, match=rf"scale 16_16_40: .*not this run's: 16_16_40/{name} \(1 in all\): remove what is not"
    ):
        finish_volume(plan, counts, written, 0.0)
    assert Folder(plan.targets[0].url).read("report.json") is None
    Folder(plan.targets[0].url).delete([f"{plan.targets[0].scale.key}/{name}"])
    finish_volume(plan, counts, written, 0.0)


@pytest.mark.parametrize("name", [".DS_Store", ".nfs0001", "notes", "a/b"])
def test_files_that_no_reader_looks_for_do_no_harm(plan: VolumePlan, name: str) -> None:
    counts, written = work(plan)
    Folder(plan.targets[0].url).write(f"{plan.targets[0].scale.key}/{name}", b"of a file manager")
    finish_volume(plan, counts, written, 0.0)
    settle(plan)


def test_a_complete_volume_that_was_damaged_is_not_called_complete(plan: VolumePlan) -> None:
    finish_volume(plan, *work(plan), 0.0)
    settle(plan)
    victim = sorted(scale_folder(plan).iterdir())[0]
    victim.unlink()
    with pytest.raises(ConservationError, match=rf"missing: 16_16_40/{victim.name} .*complete, with --overwrite"):
        settle(plan)


def test_files_that_are_missing_are_named_and_written_by_the_next_run(plan: VolumePlan, tmp_path: Path) -> None:
    counts, written = work(plan)
    victim = sorted(scale_folder(plan).iterdir())[1]
    whole = victim.read_bytes()
    victim.unlink()
    with pytest.raises(ConservationError, match=rf"missing: 16_16_40/{victim.name} \(1 in all\)"):
        finish_volume(plan, counts, written, 0.0)
    again = plan_of(tmp_path, sharded=plan.targets[0].scale.sharding is not None)
    assert (again.claim.state, again.planned["shards"]) == ("resumed", 1)
    finish_volume(again, *work(again), 0.0)
    assert victim.read_bytes() == whole
    assert not (tmp_path / "scratch" / plan.claim.key).exists()


def test_a_shard_of_another_size_is_named(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, sharded=True)
    start(plan)
    counts, written = work(plan)
    victim = sorted(scale_folder(plan).iterdir())[0]
    size = victim.stat().st_size
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(ConservationError, match=rf"not as written: .*{victim.name} \({size + 1} bytes, not {size}\)"):
        finish_volume(plan, counts, written, 0.0)


def test_a_late_shard_of_a_run_that_was_replaced_is_found(tmp_path: Path) -> None:
    """The older run had looked at its claim just before it was taken over."""
    old = plan_of(tmp_path, sharded=True)
    start(old)
    work(old)
    late = sorted(scale_folder(old).iterdir())[-1]
    content = late.read_bytes()
    new = plan_of(tmp_path, sharded=True, overwrite=True, encoding="compressed_segmentation")
    start(new)
    counts, written = work(new)
    late.write_bytes(content)
    with pytest.raises(ConservationError, match=f"not as written: 16_16_40/{late.name}"):
        finish_volume(new, counts, written, 0.0)
    with pytest.raises(DestinationError, match="another run has taken it over"):
        finish_volume(old, counts, written, 0.0)


def test_a_commit_that_is_tried_again_cleans_up_and_no_more(plan: VolumePlan, tmp_path: Path) -> None:
    counts, written = work(plan)
    finish_volume(plan, counts, written, 0.0)
    report = Folder(plan.targets[0].url).read("report.json")
    Folder(plan.claim.scratch).write("region-0.pack", b"left by a try that was killed")
    finish_volume(plan, counts, [], 0.0)
    assert Folder(plan.targets[0].url).read("report.json") == report
    assert (receipts(plan.claim), list(Folder(plan.claim.scratch).list())) == ([], [])
    assert sorted(p.name for p in tmp_path.rglob(".*")) == []


@pytest.mark.parametrize("sharded", [True, False])
def test_a_late_file_of_the_same_size_is_found_where_listings_tell_checksums(
    tmp_path: Path, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = Folder.entries

    def as_in_a_bucket(folder: Folder, prefix: str = "") -> Iterator[Entry]:
        for entry in entries(folder, prefix):
            yield entry._replace(crc32c=crc32c.crc32c(folder.read(entry.name) or b""))

    monkeypatch.setattr(Folder, "entries", as_in_a_bucket)
    plan = plan_of(tmp_path, sharded=sharded)
    start(plan)
    counts, written = work(plan)
    late = sorted(scale_folder(plan).iterdir())[-1]
    content = late.read_bytes()
    late.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConservationError, match=r"not as written: 16_16_40/\S+ \(of other bytes\)"):
        finish_volume(plan, counts, written, 0.0)
    assert len(finished_shards(plan_of(tmp_path, sharded=sharded).claim, plan.targets)) == len(written) - 1
    late.write_bytes(content)
    finish_volume(plan, counts, written, 0.0)
