"""How the steps of meshing are wired: which elements come out of each, not what is in them."""

import gc
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from beam_volumes import number_lists
from beam_volumes.meshing import mesh_plan
from beam_volumes.meshing.label_rows import LABEL_ROW
from beam_volumes.meshing.labels import LabelChoice, choose_labels, chosen_labels, count_cell
from beam_volumes.meshing.mesh_input import FragmentFiles
from beam_volumes.meshing.mesh_plan import MeshPlan, Remade
from beam_volumes.number_lists import NumberList
from beam_volumes.parcels import Owner, Parcel, ParcelWriter
from beam_volumes.runs import take
from beam_volumes.storage import Folder
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
def planned(tmp_path: Path, labels: Any) -> Iterator[MeshPlan]:
    """A plan that is claimed, with two levels of detail."""
    write_labels(tmp_path / "layer", labels, (0, 0, 0))
    with without_pictures():
        yield claimed(f"--layer=file://{tmp_path}/layer", "--num_lods=2")


def claimed(*options: str) -> MeshPlan:
    """Return the plan of a run with cells of 8 x 8 x 8, which has claimed its destination."""
    made = list[MeshPlan]()

    def keep(*args: Any) -> Any:
        made.append(plan_meshes(*args))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.mesh.plan_meshes", keep)
        config = parse(Config, ["--cell_size=8,8,8", *options])[0]
        take(plan(config, Setting(local=True, workers=1, inline_bytes=2**11)).claim)
    return made[0]


def choice(dust_threshold: int) -> LabelChoice:
    return LabelChoice(dust_threshold, None, NumberList.of(()))


@pytest.mark.parametrize("cells_per_part", [1, 2, 128])
def test_cells_are_told_of_what_is_in_them_and_of_what_touches_them(
    cells_per_part: int, planned: MeshPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_plan, "_CELLS_PER_LABEL_PART", cells_per_part)
    assert planned.label_parts == max(3 // cells_per_part, 1)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        chosen = pipeline | ChooseLabels(planned, choice(0), ONE)
        told = chosen.cells | beam.Map(lambda cell: (cell[0], rows(planned, cell[1])))
        assert_that(chosen.labels, equal_to([3]), "labels")
        # The last voxels of the second cell, x = 15, are the first of the cubes of the third one.
        expected = [((0, 0), {7: 40}), ((0, 1), {7: 40, 9: 3}), ((0, 2), {8: 12, 9: 3})]
        assert_that(told, equal_to(expected), "cells")


@pytest.mark.parametrize("cells_per_part", [1, 128])
def test_dust_is_told_to_no_cell(cells_per_part: int, planned: MeshPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_plan, "_CELLS_PER_LABEL_PART", cells_per_part)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        chosen = pipeline | ChooseLabels(planned, choice(12), ONE)
        told = chosen.cells | beam.Map(lambda cell: (cell[0], rows(planned, cell[1])))
        assert_that(chosen.labels, equal_to([2]), "labels")
        assert_that(told, equal_to([((0, 0), {7: 40}), ((0, 1), {7: 40}), ((0, 2), {8: 12})]), "cells")


def test_cells_without_labels_are_spread_over_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part tells those whose home it is, and no other without labels that are meshed."""
    monkeypatch.setattr(mesh_plan, "_CELLS_PER_LABEL_PART", 2)
    labels = np.zeros((71, 7, 7), np.uint16)
    labels[2, 2, 2] = 7
    write_labels(tmp_path / "layer", labels, (0, 0, 0))
    planned = claimed(f"--layer=file://{tmp_path}/layer")
    assert (len(planned.cells), planned.label_parts) == (9, 4)
    heard = dict[int, list[Parcel]]()
    for cell in range(9):
        for owner, parcel in count_cell(planned, cell).parcels:
            heard.setdefault(owner.number, []).append(parcel)
    cells = {part: {int(n) for parcel in parcels for n in parcel.pieces["chunk"]} for part, parcels in heard.items()}
    assert {part: found - {0} for part, found in cells.items()} == {0: {4, 8}, 1: {1, 5}, 2: {2, 6}, 3: {3, 7}}
    told = [
        owner.number
        for part, parcels in heard.items()
        for owner, _ in choose_labels(planned, choice(2), part, parcels).parcels
    ]
    assert sorted(told) == list(range(9))


def test_a_part_takes_little_memory_for_each_cell(tmp_path: Path) -> None:
    """Here for 20,000 of them, which have one label each, and all of which are told of it."""
    write_labels(tmp_path / "layer", np.zeros((8, 8, 8), np.uint8))
    planned = claimed("--layer=made://solid?size=256,256,256&dtype=uint32", f"--dst=file://{tmp_path}/layer")
    assert len(planned.cells) > 20_000
    heard = list[Parcel]()
    for cell in range(20_000):
        with ParcelWriter(planned.claim.scratch, f"{cell}", 100) as out:
            row = np.array([(cell % 1_000 + 1, 5)], LABEL_ROW)
            out.add(Owner(0, 0), cell, planned.own_voxels(cell), row.tobytes())
            heard += [parcel for _, parcel in out.finish({})]
    gc.collect()
    tracemalloc.start()
    made = choose_labels(planned, choice(100), 0, heard)
    count = sum(np.frombuffer(parcel.data, LABEL_ROW)["voxels"].tolist() == [100] for _, parcel in made.parcels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 20_000 * 600


def test_a_graph_is_small_however_many_labels_are_listed(planned: MeshPlan) -> None:
    """They are in scratch, where a worker reads them."""
    few, many = (NumberList.of(range(7, 7 + count)) for count in (1, 1_000_000))
    files = FragmentFiles("file:///fragments", planned.cells, None, few)
    sizes = []
    for listed in (few, many):
        pipeline = beam.Pipeline(runner=FnApiRunner())
        found = replace(planned, input=replace(files, wanted=listed), remade=Remade(listed, listed))
        write_meshes_of(found, LabelChoice(0, listed, listed), pipeline, ONE)
        sizes.append(pipeline.to_runner_api().ByteSize())
    assert sizes[1] < sizes[0] + 20_000
    scratch = Folder(planned.claim.scratch)
    assert sorted(scratch.list()) == ["cells.list", "counted.list", "exclude.list", "labels.list", "wanted.list"]


def test_long_lists_of_labels_are_gone_by(planned: MeshPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_lists, "_SHORT", 0)
    listed = LabelChoice(0, NumberList.of([7, 8]), NumberList.of([8])).kept(planned.claim.scratch)
    assert listed.exclude.data == b""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        chosen = pipeline | ChooseLabels(planned, listed, ONE)
        told = chosen.cells | beam.Map(lambda cell: (cell[0], rows(planned, cell[1])))
        assert_that(told, equal_to([((0, 0), {7: 40}), ((0, 1), {7: 40}), ((0, 2), {})]), "cells")


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
