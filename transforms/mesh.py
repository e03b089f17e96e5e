"""Meshing: labels chosen, cells forged, levels of detail made of them, and shards of meshes written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam import typehints

from beam_volumes.meshing.assembly import WrittenMeshes, write_meshes
from beam_volumes.meshing.cell_output import SHARDS
from beam_volumes.meshing.elements import ElementOutput
from beam_volumes.meshing.labels import LabelChoice, choose_labels, count_cell
from beam_volumes.meshing.levels import forge_cell, join_cells
from beam_volumes.meshing.mesh_counts import MeshCounts, merge_mesh_counts
from beam_volumes.meshing.mesh_picture import Drawing, draw
from beam_volumes.meshing.mesh_plan import MeshPlan, PartKey
from beam_volumes.meshing.mesh_report import MeshTotals, finish_meshes
from beam_volumes.meshing.segment_properties import check_number, write_properties
from beam_volumes.parcels import Parcel
from beam_volumes.process_pool import Task, acquire, release
from transforms.finish import Finish
from transforms.pool import Execution, PooledDoFn
from transforms.regions import ListRegions

_COUNTS, _PIECES = "counts", "pieces"

_KEYED = typehints.Tuple[typehints.Tuple[int, int], Parcel]
"""A coder of two integers for the key: deterministic, as keys must be, and short."""

Grouped = tuple[tuple[int, int], Iterable[Parcel]]


class StepOutput(NamedTuple):
    """What comes of a step.

    Attributes:
        parcels: for those who take them next: cells, parts of the labels, or shards.
        pieces: for the elements of the next level.
        counts: of each element.

    """

    parcels: beam.PCollection[tuple[tuple[int, int], Parcel]]
    pieces: beam.PCollection[tuple[tuple[int, int], Parcel]]
    counts: beam.PCollection[MeshCounts]


def write_meshes_of(plan: MeshPlan, choice: LabelChoice, root: beam.Pipeline, execution: Execution) -> None:
    """Wire a whole meshing run.

    Precondition: the destination is claimed, in whose scratch folder long lists are put.
    """
    plan, choice = plan.kept(), choice.kept(plan.claim.scratch)
    chosen = root | "Choose labels" >> ChooseLabels(plan, choice, execution)
    steps = [chosen.counted, chosen.added_up]
    levels = [_step("Forge cells", chosen.cells, _ForgeFn(plan, execution), chosen.labels)]
    for level in range(1, plan.num_lods):
        grouped = levels[-1].pieces | f"Group by cell, level {level}" >> beam.GroupByKey()
        levels.append(_step(f"Join cells, level {level}", grouped, _JoinFn(plan, execution), chosen.labels))
    parcels = [part.parcels for part in levels] | "Fragments of all levels" >> beam.Flatten()
    written = parcels | "Write meshes" >> WriteMeshes(plan, chosen.labels, execution)
    counts = [part.counts for part in steps + levels] | "Counts of all steps" >> beam.Flatten()
    # Nothing comes here unless the table is wanted.
    listed = (
        chosen.added_up.pieces
        | "Group all labels" >> beam.GroupByKey()
        | "List labels"
        >> beam.ParDo(_ListFn(plan, execution), labels=beam.pvalue.AsSingleton(chosen.labels)).with_output_types(int)
    )
    _ = root | "Finish" >> Finish(partial(_finish, plan, execution), counts, merge_mesh_counts, (written, listed))


class ChosenLabels(NamedTuple):
    """Which labels are meshed.

    Attributes:
        cells: each cell with labels, and its parcels of those that are meshed.
        labels: one element, how many are meshed in all.
        counted, added_up: of the two steps that it takes, cell by cell and part by part of the labels.

    """

    cells: beam.PCollection[Grouped]
    labels: beam.PCollection[int]
    counted: StepOutput
    added_up: StepOutput


@dataclass
class ChooseLabels(beam.PTransform):
    """Count the labels of all cells, and tell each cell which of its labels are meshed.

    Element in: none. Elements out: see `ChosenLabels`. Memory per element: the labels of a cell, or a part of all.
    """

    plan: MeshPlan
    choice: LabelChoice
    execution: Execution

    def expand(self, root: beam.Pipeline) -> ChosenLabels:
        """Group counts on the part of the labels that they belong to, and what is decided there on cells."""
        plan, execution = self.plan, self.execution
        counted = _step("Count labels", root | "List cells" >> ListRegions(plan), _CountFn(plan, execution))
        grouped = counted.parcels | "Group by part of labels" >> beam.GroupByKey()
        chosen = _step("Add up labels", grouped, _ChooseFn(plan, self.choice, execution))
        labels = (
            chosen.counts
            | "Labels of a part" >> beam.Map(_labels_of).with_output_types(int)
            | "Number of labels" >> beam.CombineGlobally(sum)
            # All that is meshed waits for it.
            | "Check number" >> beam.Map(partial(check_number, plan)).with_output_types(int)
        )
        cells = chosen.parcels | "Group by cell" >> beam.GroupByKey()
        return ChosenLabels(cells, labels, counted, chosen)


@dataclass
class WriteMeshes(beam.PTransform):
    """Group fragments on their shard and write each shard.

    Element in: (shard, one element's parcel for it). Element out: what was written. Precondition: `labels` is the
    number of labels that the fragments were sent by. Memory per element: the table of its fragments, and one of them.
    """

    plan: MeshPlan
    labels: beam.PCollection[int]
    execution: Execution

    def expand(self, parcels: beam.PCollection[tuple[tuple[int, int], Parcel]]) -> beam.PCollection[WrittenMeshes]:
        """Group, then run `write_meshes`."""
        fn = _WriteFn(self.plan, self.execution)
        return (
            parcels
            | "Group by shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(fn, labels=beam.pvalue.AsSingleton(self.labels)).with_output_types(WrittenMeshes)
        )


class _MeshFn(PooledDoFn):
    """Runs what makes an `ElementOutput`; `stage` is counted."""

    stage: str

    def __init__(self, plan: MeshPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def outputs(self, task: Task, result: ElementOutput) -> Iterator[Any]:
        self.count(self.stage, 1)
        for owner, parcel in result.parcels:
            keyed = (owner, parcel)
            yield keyed if owner.stream == SHARDS else beam.pvalue.TaggedOutput(_PIECES, keyed)
        yield beam.pvalue.TaggedOutput(_COUNTS, result.counts)


class _CountFn(_MeshFn):
    """Runs `count_cell`."""

    stage = "labels"

    def task(self, element: int) -> Task:
        return Task(count_cell, (self._plan, element), f"cell {self._plan.own_voxels(element)}")


class _ChooseFn(_MeshFn):
    """Runs `choose_labels`."""

    stage = "parts of labels"

    def __init__(self, plan: MeshPlan, choice: LabelChoice, execution: Execution) -> None:
        super().__init__(plan, execution)
        self._choice = choice

    def task(self, element: Grouped) -> Task:
        (_, part), parcels = element
        return Task(choose_labels, (self._plan, self._choice, part, list(parcels)), f"part {part} of the labels")


class _LabelledFn(_MeshFn):
    """Is told the number of labels that are meshed, on which the sharding depends."""

    def process(self, element: Any, labels: int) -> Iterator[Any]:  # type: ignore[override]
        self._labels = labels
        yield from super().process(element)


class _ForgeFn(_LabelledFn):
    """Runs `forge_cell`."""

    stage = "cells"

    def task(self, element: Grouped) -> Task:
        (_, cell), parcels = element
        args = (self._plan, self._labels, cell, list(parcels))
        return Task(forge_cell, args, f"cell {self._plan.own_voxels(cell)}")


class _JoinFn(_LabelledFn):
    """Runs `join_cells`."""

    stage = "parts of levels"

    def task(self, element: Grouped) -> Task:
        (stream, number), parcels = element
        key = PartKey(-stream, number)
        args = (self._plan, self._labels, key, list(parcels))
        return Task(join_cells, args, f"level of detail {key.level}, cell {self._plan.position(key)}")


class _WriteFn(PooledDoFn):
    """Runs `write_meshes`."""

    def __init__(self, plan: MeshPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def process(self, element: Grouped, labels: int) -> Iterator[WrittenMeshes]:  # type: ignore[override]
        self._labels = labels
        yield from super().process(element)

    def task(self, element: Grouped) -> Task:
        (_, shard), parcels = element
        return Task(write_meshes, (self._plan, self._labels, shard, list(parcels)), f"shard {shard} of the meshes")

    def outputs(self, task: Task, result: WrittenMeshes) -> Iterator[WrittenMeshes]:
        self.count("shards", 1)
        yield result


class _ListFn(PooledDoFn):
    """Runs `write_properties`; waits until the number of labels is known, as it may be too large."""

    def __init__(self, plan: MeshPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def process(self, element: Grouped, labels: int) -> Iterator[int]:  # type: ignore[override]
        yield from super().process(element)

    def task(self, element: Grouped) -> Task:
        return Task(write_properties, (self._plan, list(element[1])), "the table of labels")

    def outputs(self, task: Task, result: int) -> Iterator[int]:
        yield result


def _finish(
    plan: MeshPlan,
    execution: Execution,
    counts: MeshCounts,
    written: Iterable[WrittenMeshes],
    listed: Iterable[int],
    started: float,
) -> None:
    """Run `finish_meshes`."""
    finish_meshes(plan, MeshTotals(counts, sorted(written), sum(listed)), started, partial(_drawn, execution))


def _drawn(execution: Execution, drawing: Drawing) -> bytes:
    """Return the picture; the processes of the pool have loaded most of what that takes."""
    pool = acquire(execution.processes)
    try:
        pool.submit(Task(draw, (drawing,), "the picture"))
        picture: bytes = pool.next_result()[1]
    finally:
        release(pool)
    return picture


def _step(
    label: str, elements: beam.PCollection[Any], fn: _MeshFn, labels: beam.PCollection[int] | None = None
) -> StepOutput:
    """Apply `fn` as the step `label`; it is told the number of labels where that is given."""
    told = {} if labels is None else {"labels": beam.pvalue.AsSingleton(labels)}
    done = elements | label >> beam.ParDo(fn, **told).with_outputs(_COUNTS, _PIECES, main="parcels")
    done.parcels.element_type = _KEYED
    done[_PIECES].element_type = _KEYED
    return StepOutput(done.parcels, done[_PIECES], done[_COUNTS])


def _labels_of(counts: MeshCounts) -> int:
    return counts.labels
