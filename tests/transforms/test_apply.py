"""How the steps of a function applied in chunks are wired: which elements come out of each, not what is in them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.runs import take
from pipelines.apply import Config, plan
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.apply_runs import Spec, counting, flow, report, stored
from transforms.apply import ApplyInChunks, apply_in_chunks
from transforms.pool import Execution

ONE = Execution(1, None)
SIZES: Spec = {"processing_chunk_sizes": [[20, 18, 5]], "processing_blend_pads": [[2, 2, 0]]}
"""8 chunks of the top level; 27 output boxes, of which some hold voxels of one chunk alone."""


def claimed(folder: Path, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> ApplyPlan:
    """Return the plan of a run that has claimed its destination; what goes through the shuffle goes by reference."""
    made = list[ApplyPlan]()

    def keep(plan: ApplyPlan, hints: Mapping[str, Any], *_: Any) -> None:
        made.append(plan)

    monkeypatch.setattr("pipelines.apply.apply_in_chunks", keep)
    stored(folder / "src", counting())
    spec = folder / "spec.json"
    spec.write_text(json.dumps(flow(folder, **{**SIZES, **arguments})))
    job = plan(parse(Config, [f"--spec={spec}"])[0], Setting(local=True, workers=1, inline_bytes=0))
    take(job.claim)
    job.build(beam.Pipeline(runner=FnApiRunner()), ONE)
    return made[0]


def pipeline() -> beam.Pipeline:
    return beam.Pipeline(runner=FnApiRunner())


def alone(plan: ApplyPlan) -> list[int]:
    """Return the output boxes for which one chunk alone has voxels."""
    return [owner for owner in range(plan.units) if len(plan.subchunks.tops_of(owner)) == 1]


def test_each_output_box_is_written_once_of_all_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = claimed(tmp_path, monkeypatch)
    assert (made.units, len(alone(made))) == (27, 8)
    with pipeline() as p:
        done = p | beam.Create([*range(8)]) | ApplyInChunks(made, ONE)
        at_once = done.written | beam.Filter(lambda unit: not unit.pieces)
        counts = done.counts | beam.Map(lambda c: (c.regions, c.tops, c.chunks)) | beam.combiners.Count.PerElement()
        sent = done.counts | "Sent" >> beam.Map(lambda c: c.pieces)
        taken = done.written | "Taken" >> beam.Map(lambda unit: -unit.pieces)
        left = (sent, taken) | beam.Flatten() | beam.CombineGlobally(sum)
        assert_that(done.written | beam.Map(lambda unit: unit.receipt.shard), equal_to([*range(27)]), "written")
        assert_that(at_once | "Alone" >> beam.Map(lambda unit: unit.receipt.shard), equal_to(alone(made)), "at once")
        assert_that(counts, equal_to([((1, 1, 1), 8)]), "counts")
        assert_that(left, equal_to([0]), "pieces")


def test_chunks_are_units_where_nothing_is_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = claimed(tmp_path, monkeypatch, dst=None)
    with pipeline() as p:
        done = p | beam.Create([*range(8)]) | ApplyInChunks(made, ONE)
        written = done.written | beam.Map(lambda unit: (unit.receipt.shard, unit.receipt.bytes, unit.pieces))
        assert_that(written, equal_to([(top, 0, 0) for top in range(8)]))


def test_a_second_try_takes_up_what_the_first_has_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = claimed(tmp_path, monkeypatch)
    for reused in (0, 1):
        with pipeline() as p:
            done = p | beam.Create([*range(8)]) | ApplyInChunks(made, ONE)
            assert_that(done.counts | beam.Map(lambda c: c.reused), equal_to([reused] * 8), "reused")
            assert_that(done.written | beam.Map(lambda unit: unit.receipt.shard), equal_to([*range(27)]), "written")


def test_hints_are_of_the_step_that_calls_the_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = claimed(tmp_path, monkeypatch)
    p = beam.Pipeline(runner=FnApiRunner())
    _ = p | beam.Create([0]) | ApplyInChunks(made, ONE, {"min_ram": "4GB"})
    environments = p.to_runner_api().components
    hinted = [
        transform.unique_name
        for transform in environments.transforms.values()
        if transform.environment_id and environments.environments[transform.environment_id].resource_hints
    ]
    assert hinted
    assert all("/Process chunks" in name for name in hinted), hinted


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are added up, and the report is committed last."""
    made = claimed(tmp_path, monkeypatch)
    with pipeline() as p:
        apply_in_chunks(made, {}, p, ONE)
    stages = report(tmp_path)["stages"]
    assert [stages["chunks"][name] for name in ("planned", "done", "chunks_of_the_function")] == [8, 8, 8]
    assert [stages["boxes"][name] for name in ("planned", "done", "done_by_an_interrupted_run")] == [27, 27, 0]
    assert stages["pieces"]["made"] >= 2 * (27 - len(alone(made)))
