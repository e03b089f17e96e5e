"""The work on the elements of a run, without Beam: what is read, written at once, sent on, and taken up again."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.applying import planning
from beam_volumes.applying.outputs import infos_of
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.processing import apply_region, merge_counts, reduce_box
from beam_volumes.applying.report import finish_apply
from beam_volumes.applying.specs import FlowSpec, build_flow
from beam_volumes.applying.worker import let_go
from beam_volumes.errors import ConservationError, DestinationError
from beam_volumes.geometry import Box
from beam_volumes.parcels import Parcel
from beam_volumes.provenance import Launch
from beam_volumes.receipts import receipts
from beam_volumes.runs import inspect_destination, take
from beam_volumes.storage import Folder
from tests.beam_volumes.layers.layer_volumes import by_cloudvolume, random_voxels, stored_layer

BOUNDS = Box.of_shape((32, 32, 12), (-8, 4, 2))
BLENDED = {
    "processing_chunk_sizes": [[16, 16, 4], [8, 8, 4]],
    "processing_blend_pads": [[4, 4, 0], [2, 2, 0]],
    "processing_crop_pads": [[0, 0, 0], [1, 1, 2]],
}


def planned(folder: Path, **arguments: Any) -> ApplyPlan:
    """Return the plan of a run that copies `src` to `dst`; the destination is claimed."""
    content = {
        "@type": "build_subchunkable_apply_flow",
        "bbox": {
            "@type": "BBox3D.from_coords",
            "start_coord": list(BOUNDS.start),
            "end_coord": list(BOUNDS.stop),
            "resolution": [4, 4, 40],
        },
        "dst_resolution": [4, 4, 40],
        "fn": {"@type": "lambda", "lambda_str": "lambda src: src"},
        "op_kwargs": {"src": {"@type": "build_cv_layer", "path": str(folder / "src")}},
        "dst": {
            "@type": "build_cv_layer",
            "path": str(folder / "dst"),
            "info_reference_path": str(folder / "src"),
        },
        **arguments,
    }
    flow = build_flow(FlowSpec(content)).target
    cut = flow.plan()
    facts = planning.identity(flow, cut, FlowSpec(content))
    claim = inspect_destination(planning.destination(flow, cut), facts, resume=True, overwrite=False)
    take(claim)
    return ApplyPlan(
        claim=claim,
        spec=FlowSpec(content),
        subchunks=cut,
        kinds=tuple(output.kind for output in flow.outputs),
        infos=infos_of(flow.outputs),
        deferred=planning.deferred(flow, cut),
        batch=1,
        region=planning.plan_region(flow, cut),
        cache_bytes=2**20,
        threads=1,
        inline_bytes=0,
        picture=False,
        launch=Launch.here(),
    )


@pytest.fixture
def source(tmp_path: Path) -> Any:
    voxels = random_voxels((1, *BOUNDS.shape), "uint8")
    stored_layer(tmp_path / "src", voxels, BOUNDS.start, chunk=(16, 16, 4))
    yield voxels
    let_go()


def run(plan: ApplyPlan) -> tuple[Any, list[Any]]:
    """Do what the steps of a run do; return the counts and what was written."""
    counts, written, waiting = [], [], dict[int, list[Parcel]]()
    for region in range(len(plan.reading.regions)):
        if plan.needs_region(region):
            parcels, done, count = apply_region(plan, region)
            counts.append(count)
            written += done
            for owner, parcel in parcels.items():
                waiting.setdefault(owner.number, []).append(parcel)
    written += [reduce_box(plan, owner, parcels) for owner, parcels in waiting.items()]
    return merge_counts(counts), written


def test_chunks_that_do_not_overlap_are_written_at_once(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, processing_chunk_sizes=[[16, 16, 4]])
    applied = apply_region(plan, 0)
    assert not applied.parcels
    assert [written.receipt.shard for written in applied.written] == [0]
    assert [receipt.shard for receipt in receipts(plan.claim)] == [0]
    assert (applied.counts.tops, applied.counts.chunks, applied.counts.pieces) == (1, 1, 0)


def test_chunks_that_overlap_meet_in_output_boxes(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, **BLENDED)
    counts, written = run(plan)
    assert counts.tops == len(plan.subchunks) == 12
    assert counts.chunks == plan.subchunks.count_bottom_chunks()
    assert counts.pieces == sum(each.pieces for each in written)
    assert sorted(each.receipt.shard for each in written) == list(range(len(plan.subchunks.owners)))
    finish_apply(plan, counts, written, 0.0)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "dst"), source)
    assert not Folder(str(tmp_path / "dst")).exists(".beam_volumes")


@pytest.mark.parametrize("lost", ["counts", "written"])
def test_a_run_that_has_lost_something_is_not_committed(tmp_path: Path, source: Any, lost: str) -> None:
    plan = planned(tmp_path, **BLENDED)
    counts, written = run(plan)
    if lost == "counts":
        counts = counts._replace(chunks=counts.chunks - 1)
    else:
        written = written[1:]
    with pytest.raises(ConservationError, match="something was lost or came twice"):
        finish_apply(plan, counts, written, 0.0)
    assert not Folder(plan.claim.url).exists(plan.claim.report)


def test_what_another_try_has_made_is_taken_up(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, **BLENDED)
    first = apply_region(plan, 0)
    # The function would fail now.
    broken = replace(plan, spec=replace(plan.spec, content={**plan.spec.content, "fn": None}))
    let_go()
    again = apply_region(broken, 0)
    assert again.parcels == first.parcels
    assert again.counts == first.counts._replace(
        reused=1,
        read_seconds=0,
        function_seconds=0,
        blend_seconds=0,
        write_seconds=0,
        peak_memory_bytes=again.counts.peak_memory_bytes,
    )


def test_what_another_try_has_written_is_not_written_again(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, processing_chunk_sizes=[[16, 16, 4], [8, 8, 4]])
    first = apply_region(plan, 0)
    again = apply_region(plan, 0)
    assert (again.counts.reused, again.counts.chunks) == (1, first.counts.chunks)
    assert [written.receipt for written in again.written] == [written.receipt for written in first.written]


def test_a_pack_is_whole_whatever_was_finished_when_it_was_made(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, **BLENDED)
    for region in range(4):
        apply_region(plan.with_finished([0, 1]), region)
    pieces = [
        parcel for region in range(4) for owner, parcel in apply_region(plan, region).parcels.items() if not owner[1]
    ]
    assert reduce_box(plan, 0, pieces).receipt.shard == 0


def test_batches_are_the_same_in_each_try(tmp_path: Path, source: Any) -> None:
    plan = replace(planned(tmp_path, **BLENDED), region=(2, 1, 1))
    assert replace(plan, batch=1).with_finished([0, 2, 3]).tops_needed(0) == [0, 1]
    chunks = replace(plan, **{"subchunks": planned_plain(tmp_path)})
    assert replace(chunks, batch=1).with_finished([0]).tops_needed(0) == [1]
    assert replace(chunks, batch=4).with_finished([0]).tops_needed(0) == [0, 1]
    assert replace(chunks, batch=4).with_finished([0, 1]).tops_needed(0) == []


def planned_plain(folder: Path) -> Any:
    """Return the cut of a run whose chunks do not overlap."""
    content = {**planned(folder, **BLENDED).spec.content, "processing_chunk_sizes": [[16, 16, 4]]}
    content = {**content, "processing_blend_pads": [0, 0, 0], "processing_crop_pads": [0, 0, 0]}
    return build_flow(FlowSpec(content)).target.plan()


def test_a_pack_of_other_elements_is_not_taken_up(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, **BLENDED)
    assert plan.region == (1, 1, 1)
    apply_region(replace(plan, region=(2, 1, 1)), 0)
    counts = apply_region(plan, 0).counts
    assert (counts.reused, counts.tops) == (0, 1)


def test_finished_boxes_are_left_alone(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, **BLENDED)
    run(plan)
    plan = plan.with_finished(receipt.shard for receipt in receipts(plan.claim) if receipt.shard != 5)
    assert plan.planned["units"] == 1
    # Chunks overlap along x and y alone.
    assert [region for region in range(12) if plan.needs_region(region)] == [4, 5, 6, 7]
    counts, written = run(plan)
    assert [each.receipt.shard for each in written] == [5]
    assert plan.planned["tops"] == counts.tops


def test_a_stored_chunk_is_read_once_for_the_chunks_of_an_element(
    tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(planned(tmp_path, **BLENDED), region=(1, 1, 3))
    opened: Counter[str] = Counter()
    read = Folder.read

    def counted(folder: Folder, name: str, *others: Any, **more: Any) -> Any:
        found = read(folder, name, *others, **more)
        if folder.url.endswith("/src") and found is not None:
            opened[name] += 1
        return found

    monkeypatch.setattr(Folder, "read", counted)
    applied = apply_region(plan, 0)
    assert applied.counts.chunks > 12
    del opened["info"]
    assert len(opened) == 2 * 2 * 3
    assert set(opened.values()) == {1}


def test_chunks_that_inputs_lack_are_counted(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, processing_chunk_sizes=[[16, 16, 4]])
    stored = Folder(str(tmp_path / "src"))
    stored.delete([name for name in stored.list("4_4_40/") if "-8-8_4-20_" in name][:2])
    counts, written = run(plan)
    assert counts.missing_chunks == 2
    finish_apply(plan, counts, written, 0.0)
    assert (by_cloudvolume(tmp_path / "dst") == 0).sum() > 2 * 16 * 16 * 4 - 1
    report = Folder(plan.claim.url).read_json(plan.claim.report)
    assert report is not None
    assert report["stages"]["chunks"]["missing_chunks_of_inputs_read_as_0"] == 2


def test_a_run_that_was_replaced_writes_no_more(tmp_path: Path, source: Any) -> None:
    plan = planned(tmp_path, processing_chunk_sizes=[[16, 16, 4]])
    Folder(plan.claim.url).delete_folder(plan.claim.records)
    with pytest.raises(DestinationError, match="expected this run's claim on the destination, but it is gone"):
        apply_region(plan, 0)


@pytest.mark.parametrize("region", [(1, 1, 1), (1, 1, 3), (2, 2, 2), (5, 1, 1)])
def test_elements_have_each_chunk_once(tmp_path: Path, source: Any, region: Any) -> None:
    plan = replace(planned(tmp_path, **BLENDED), region=region)
    tops = [top for number in range(len(plan.reading.regions)) for top in plan.tops(number)]
    assert sorted(tops) == list(range(len(plan.subchunks)))


def test_elements_are_large_where_chunks_are_little_work(tmp_path: Path, source: Any) -> None:
    large = {"start_coord": [0, 0, 0], "end_coord": [256, 256, 256], "resolution": [4, 4, 40]}
    content = {
        **planned(tmp_path, **BLENDED).spec.content,
        "processing_chunk_sizes": [[16, 16, 2]],
        "processing_blend_pads": [0, 0, 0],
        "processing_crop_pads": [1, 1, 2],
        "bbox": {"@type": "BBox3D.from_coords", **large},
    }
    flow = build_flow(FlowSpec(content)).target
    assert planning.plan_region(flow, flow.plan()) == (4, 1, 128)
