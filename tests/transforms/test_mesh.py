"""How the steps of meshing are wired: which elements come out of each, not what is in them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from beam_volumes.meshing.labels import LabelChoice, chosen_labels
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.runs import take
from pipelines.mesh import Config, plan
from pipelines.meshing import plan_meshes
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.mesh_cases import without_pictures, write_labels
from transforms.mesh import ChooseLabels, write_meshes_of
from transforms.pool import Execution

ONE = Execution(1, None)


@pytest.fixture
def labels() -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Cells of 8 along x: label 7 in the first two, 8 in the third alone, 9 up to the plane before it."""
    found = np.zeros((23, 7, 7), np.uint16)
    found[2:12, 2:4, 2:4] = 7
    found[17:20, 2:4, 2:4] = 8
    found[13:16, 5, 5] = 9
    return found


@pytest.fixture
def planned(tmp_path: Path, labels: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[MeshPlan]:
    """A plan that is claimed, with two levels of detail."""
    write_labels(tmp_path / "layer", labels, (0, 0, 0))
    made = list[MeshPlan]()

    def keep(*args: Any) -> Any:
        found = plan_meshes(*args)
        made.append(found[0])
        return found

    monkeypatch.setattr("pipelines.mesh.plan_meshes", keep)
    config = parse(Config, [f"--layer=file://{tmp_path}/layer", "--num_lods=2", "--cell_size=8,8,8"])[0]
    take(plan(config, Setting(local=True, workers=1, inline_bytes=2**20)).claim)
    with without_pictures():
        yield made[0]


def choice(dust_threshold: int) -> LabelChoice:
    return LabelChoice(dust_threshold, None, np.empty(0, np.uint64))


def test_cells_are_told_of_what_is_in_them_and_of_what_touches_them(planned: MeshPlan) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        chosen = pipeline | ChooseLabels(planned, choice(0), ONE)
        told = chosen.cells | beam.Map(lambda cell: (cell[0], rows(planned, cell[1])))
        assert_that(chosen.labels, equal_to([3]), "labels")
        # The last voxels of the second cell, x = 15, are the first of the cubes of the third one.
        expected = [((0, 0), {7: 40}), ((0, 1), {7: 40, 9: 3}), ((0, 2), {8: 12, 9: 3})]
        assert_that(told, equal_to(expected), "cells")


def test_dust_is_told_to_no_cell(planned: MeshPlan) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        chosen = pipeline | ChooseLabels(planned, choice(12), ONE)
        told = chosen.cells | beam.Map(lambda cell: (cell[0], rows(planned, cell[1])))
        assert_that(chosen.labels, equal_to([2]), "labels")
        assert_that(told, equal_to([((0, 0), {7: 40}), ((0, 1), {7: 40}), ((0, 2), {8: 12})]), "cells")


def rows(planned: MeshPlan, parcels: Any) -> dict[int, int]:
    return dict(chosen_labels(planned, list(parcels)).tolist())


def test_a_whole_run_counts_what_each_step_has_done(planned: MeshPlan) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    write_meshes_of(planned, choice(0), pipeline, ONE)
    result = pipeline.run()
    result.wait_until_finish()
    found = {str(c.key.metric.name): c.committed for c in result.metrics().query()["counters"]}
    steps = {name: found[name] for name in ("labels", "parts of labels", "cells", "shards")}
    assert steps == {"labels": 3, "parts of labels": 1, "cells": 3, "shards": 1}
    assert 1 <= found["parts of levels"] <= 3 * planned.parts(1)
