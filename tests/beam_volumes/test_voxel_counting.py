import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cloudvolume import CloudVolume
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import voxel_count_files, voxel_count_plan, voxel_counting
from beam_volumes.additions import DerivedFiles
from beam_volumes.errors import ConservationError, CorruptDataError, DestinationError, OptionError, SourceError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.provenance import Launch
from beam_volumes.reading_plan import Lattice, ReadingPlan
from beam_volumes.runs import Claim
from beam_volumes.sources import describe_source
from beam_volumes.storage import Folder
from beam_volumes.storage.store import Entry
from beam_volumes.voxel_count_plan import CountPlan, RunKey
from beam_volumes.voxel_count_planning import (
    check_labels,
    estimate,
    memory_per_worker,
    share_memory,
    summary,
    temporary_bytes,
)
from beam_volumes.voxel_count_report import settle
from beam_volumes.voxel_counting import CountedRun, count_region, merge_box, merge_statistics, write_counts

LAYER = "made://neurons?size=70,50,40&offset=-5,7,100"
RECORDS = "layer/.beam_volumes/count_voxels-scale"
MakePlan = Callable[..., CountPlan]


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """Plan a count that may write below a folder of its own."""

    def make(
        url: str = LAYER,
        *,
        cell: Vec = (16, 16, 16),
        block: Vec = (8, 16, 16),
        table_bytes: int = 2**20,
        boxes: bool = True,
        fill: bool = False,
    ) -> CountPlan:
        # Claims of all tests have the same key.
        voxel_counting._READERS.clear()
        source = describe_source(url, 0)
        claim = Claim.of(
            DerivedFiles(f"file://{tmp_path}/layer", "count_voxels", "scale", (), "r"), {}, "new", None, "abc"
        )
        path = tmp_path / RECORDS / "claim.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": "abc", "identity": {}}))
        regions = Grid(source.box, cell, source.box.start)
        reading = ReadingPlan(regions, Lattice(block, source.box.start))
        return CountPlan(claim, source, "scale", reading, boxes, fill, table_bytes, 2**14, Launch("me", {}))

    return make


def count_all(plan: CountPlan) -> voxel_counting.WrittenCounts:
    """Do in one process what the graph does."""
    done = [count_region(plan, region) for region in range(len(plan.reading.regions))]
    runs = [d.counted for d in done]
    for _ in plan.levels[1:]:
        grouped: dict[RunKey, list[CountedRun]] = {}
        for run in runs:
            grouped.setdefault(plan.parent(run.key), []).append(run)
        done += [merge_box(plan, key, parts) for key, parts in grouped.items()]
        runs = [d.counted for d in done[-len(grouped) :]]
    assert {plan.parent(run.key) for run in runs} == {RunKey(len(plan.levels), 0)}
    written = write_counts(plan, runs)
    statistics = merge_statistics([*(d.statistics for d in done), written.statistics])
    assert (statistics.regions, statistics.merges, statistics.voxels) == tuple(
        plan.planned[name] for name in ("regions", "merges", "voxels")
    )
    return written._replace(statistics=statistics)


def assert_counts(plan: CountPlan, tmp_path: Path) -> None:
    """Compare the table with numpy's answer on the volume in one piece."""
    voxels = voxel_counting._reader(plan)._reader.read(plan.source.box)[0][..., 0]
    labels, inverse, counts = np.unique(voxels, return_inverse=True, return_counts=True)
    table = pq.read_table(tmp_path / "layer/scale/stats/voxel_counts.parquet").to_pydict()
    assert table["label"] == labels.tolist()
    assert table["voxels"] == counts.tolist()
    if plan.with_boxes:
        for axis, name in enumerate("xyz"):
            places = np.broadcast_to(
                np.arange(voxels.shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)]), voxels.shape
            ).ravel()
            places = places + plan.source.box.start[axis]
            low, high = np.full(len(labels), 10**9), np.full(len(labels), -(10**9))
            np.minimum.at(low, inverse.ravel(), places)
            np.maximum.at(high, inverse.ravel(), places)
            assert table[f"{name}0"] == low.tolist()
            assert table[f"{name}1"] == (high + 1).tolist()


@pytest.mark.parametrize(("table_bytes", "boxes"), [(2**20, True), (2**20, False), (1, True)])
def test_the_counts_are_those_of_the_volume(make_plan: MakePlan, tmp_path: Path, table_bytes: int, boxes: bool) -> None:
    plan = make_plan(table_bytes=table_bytes, boxes=boxes)
    written = count_all(plan)
    assert_counts(plan, tmp_path)
    assert (written.statistics.fulls > 0) == (table_bytes == 1)
    assert written.totals.voxels == 70 * 50 * 40
    packs = sorted(path.name for path in (tmp_path / RECORDS / "scratch/abc").iterdir())
    assert packs == sorted(f"region-{i}.pack" for i in range(60))


def test_files_do_not_depend_on_how_the_volume_is_cut(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = tmp_path / "layer/scale/stats", []
    for cell, fan_in in [((70, 50, 40), 512), ((16, 16, 16), 512), ((8, 10, 8), 8), ((64, 16, 16), 9)]:
        monkeypatch.setattr(voxel_count_plan, "FAN_IN", fan_in)
        count_all(make_plan(cell=cell))
        found.append([(path.name, path.read_bytes()) for path in sorted(folder.iterdir())])
    assert all(files == found[0] for files in found)
    assert [name for name, _ in found[0]] == ["voxel_counts.im", "voxel_counts.parquet", "voxel_counts.png"]


@given(
    start=st.tuples(*[st.integers(-50, 50)] * 3),
    shape=st.tuples(*[st.integers(1, 200)] * 3),
    cell=st.tuples(*[st.integers(1, 40)] * 3),
    fan_in=st.integers(8, 64),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_tree_of_merges_joins_every_part_once(start: Vec, shape: Vec, cell: Vec, fan_in: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voxel_count_plan, "FAN_IN", fan_in)
        box = Box.of_shape(shape, start)
        reading = ReadingPlan(Grid(box, cell, (3, -4, 5)), Lattice(cell, (3, -4, 5)))
        source = describe_source(LAYER, 0)
        claim = Claim.of(DerivedFiles("file:///nowhere", "count_voxels", "scale", (), "r"), {}, "new", None, "abc")
        plan = CountPlan(claim, source, "scale", reading, False, False, 1, 1, Launch("me", {}))
        assert len(plan.levels[-1]) <= fan_in
        for level, (fine, coarse) in enumerate(itertools.pairwise(plan.levels)):
            if len(fine) > 20_000:
                continue
            children: dict[RunKey, int] = {}
            for index in range(len(fine)):
                parent = plan.parent(RunKey(level, index))
                assert plan.box(parent).contains(plan.box(RunKey(level, index)))
                children[parent] = children.get(parent, 0) + 1
            assert sorted(children) == [RunKey(level + 1, index) for index in range(len(coarse))]
            assert max(children.values()) <= fan_in
            assert all(plan.children(key) == count for key, count in children.items())


def test_what_an_interrupted_run_has_left_is_taken_up(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voxel_count_plan, "FAN_IN", 20)
    plan = make_plan()
    assert count_all(plan).statistics.reused == 0
    merges = plan.planned["merges"]
    assert merges > 2
    again = count_all(plan).statistics
    assert (again.reused, again.read_seconds) == (60 + merges - 1, 0)
    for name in ("region-7.pack", "merge-1-1.pack"):
        (tmp_path / RECORDS / "scratch/abc" / name).unlink()
    assert count_all(plan).statistics.reused == 60 + merges - 1 - 2
    other = make_plan(cell=(16, 16, 20))
    assert count_all(other).statistics.reused < 40
    assert_counts(other, tmp_path)


def test_a_lost_or_doubled_run_is_noticed(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan()
    runs = [count_region(plan, region).counted for region in range(60)]
    with pytest.raises(ConservationError, match="expected the counts of 60 parts of the volume, came 59 of 59"):
        write_counts(plan, runs[1:])
    with pytest.raises(ConservationError, match="60 parts of the volume, came 60 of 59"):
        write_counts(plan, [*runs[1:], runs[5]])
    with pytest.raises(
        ConservationError, match=r"expected 140000 voxels in the volume .* came 139999 counted and 140000"
    ):
        write_counts(plan, [runs[0]._replace(voxels=runs[0].voxels - 1), *runs[1:]])
    monkeypatch.setattr(voxel_count_plan, "FAN_IN", 30)
    plan = make_plan()
    key = plan.parent(RunKey(0, 0))
    mine = [run for run in runs if plan.parent(run.key) == key]
    with pytest.raises(ConservationError, match=rf"expected the counts of {len(mine)} parts of box -5,7,100"):
        merge_box(plan, key, mine[:-1])


def test_a_damaged_pack_is_removed_and_made_anew(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    runs = [count_region(plan, region).counted for region in range(60)]
    path = tmp_path / RECORDS / "scratch/abc/region-3.pack"
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(CorruptDataError, match=r"region-3.pack: expected \d+ bytes at 0"):
        write_counts(plan, runs)
    assert not (tmp_path / "layer/scale/stats/voxel_counts.parquet").exists()
    assert count_all(plan).statistics.reused == 59
    assert_counts(plan, tmp_path)


def test_nothing_is_counted_for_a_destination_that_was_taken_over(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    runs = [count_region(plan, region).counted for region in range(60)]
    (tmp_path / RECORDS / "claim.json").write_text(json.dumps({"key": "other", "identity": {}}))
    for work in (lambda: count_region(plan, 0), lambda: write_counts(plan, runs)):
        with pytest.raises(DestinationError, match="another run has taken it over"):
            work()


def test_a_run_replaced_in_its_last_merge_leaves_the_files_of_the_other_alone(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan()
    runs = [count_region(plan, region).counted for region in range(60)]
    stats, close = tmp_path / "layer/scale/stats", voxel_count_files._ParquetWriter.close

    def replaced(writer: voxel_count_files._ParquetWriter) -> None:
        close(writer)
        (tmp_path / RECORDS / "claim.json").write_text(json.dumps({"key": "other", "identity": {}}))
        for name in voxel_count_files.FILES:
            (stats / name).write_text("the other's")

    monkeypatch.setattr(voxel_count_files._ParquetWriter, "close", replaced)
    with pytest.raises(DestinationError, match="another run has taken it over"):
        write_counts(plan, runs)
    assert {path.name: path.read_text() for path in stats.iterdir()} == dict.fromkeys(
        voxel_count_files.FILES, "the other's"
    )


def test_files_of_the_right_size_and_other_bytes_are_noticed(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan()
    totals = count_all(plan).totals
    told = {"files": totals.bytes, "files_crc32c": totals.crc32c}
    Folder(plan.claim.url).write(plan.claim.report, json.dumps(told).encode())
    altered = dict(totals.crc32c)

    def entries(_: Folder, prefix: str) -> list[Entry]:
        return [Entry(prefix + name, size, altered[name]) for name, size in totals.bytes.items()]

    # As a listing of Cloud Storage tells.
    monkeypatch.setattr(Folder, "entries", entries)
    settle(plan)
    altered["voxel_counts.im"] ^= 1
    with pytest.raises(ConservationError, match=r"came voxel_counts.im \(of other bytes\): give the command with"):
        settle(plan)


def test_holes_are_background_where_they_are_accepted(make_plan: MakePlan, tmp_path: Path) -> None:
    url, voxels = f"file://{tmp_path}/source", np.full((40, 16, 16), 9, np.uint32)
    info = CloudVolume.create_new_info(
        1, "segmentation", "uint32", "raw", (4, 4, 40), (0, 0, 0), voxels.shape, chunk_size=(8, 16, 16)
    )
    volume = CloudVolume(url, info=info, progress=False, compress=False)
    volume.commit_info()
    volume[:] = voxels[..., np.newaxis]
    (tmp_path / "source/4_4_40/8-16_0-16_0-16").unlink()
    with pytest.raises(SourceError, match="but one is missing"):
        count_all(make_plan(url))
    written = count_all(make_plan(url, fill=True))
    assert (written.totals.voxels, written.totals.background_voxels) == (40 * 256, 8 * 256)
    (holes,) = (tmp_path / RECORDS / "holes/abc").iterdir()
    assert json.loads(holes.read_text()) == {"boxes": [[[8, 0, 0], [16, 16, 16]]]}


def test_images_are_refused() -> None:
    with pytest.raises(
        OptionError, match=r"--layer: expected a segmentation, .* came made://image.*: image of uint8 in 1"
    ):
        check_labels(describe_source("made://image?size=16,16,16", 0))
    check_labels(describe_source(LAYER, 0))


def test_the_plan_estimates_labels(make_plan: MakePlan) -> None:
    plan = make_plan("made://neurons?size=256,256,128", cell=(64, 64, 64), block=(64, 64, 64))
    true = count_all(plan).totals.labels
    assert true / 3 < estimate(plan).labels < true * 3
    rows = dict(summary(plan))
    assert rows["boxes to read"] == "32 of 64 x 64 x 64 in blocks of 64 x 64 x 64"
    assert rows["merges of counts"] == "1"
    labels = int(rows["labels, estimated"].replace(",", ""))
    assert rows["temporary disk of the last merge, bytes, estimated"] == f"{16 * labels:,}"
    bucket = DerivedFiles("gs://b/layer", "count_voxels", "scale", (), "r")
    remote = replace(plan, claim=replace(plan.claim, destination=bucket))
    assert temporary_bytes(remote, 1_000) == 16_000 + 73_000
    assert temporary_bytes(replace(remote, with_boxes=False), 1_000) == 16_000 + 25_000
    assert int(rows["memory per worker, bytes"].replace(",", "")) == memory_per_worker(plan)


@pytest.mark.parametrize("memory_target", [10**6, 3_500_000_000])
def test_memory_is_shared_out_within_the_target(memory_target: int) -> None:
    tables, windows = share_memory(memory_target)
    assert tables + 4 * windows <= memory_target / 3
