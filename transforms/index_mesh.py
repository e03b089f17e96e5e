"""Loading a spatial index: files to rows of a database, batch by batch, and the end of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from beam_volumes.process_pool import Task
from beam_volumes.spatial_index.load import (
    LoadPlan,
    LoadStatistics,
    ReadFiles,
    load_files,
    read_files,
    write_files,
)
from transforms.pool import Execution, PooledDoFn


@dataclass
class LoadIndexFiles(beam.PTransform):
    """Load batches of index files into the database.

    Element in: the index of a batch of `plan`. Element out: its statistics. Precondition: the destination is claimed,
    which makes the tables. Memory per element: eight bytes for each label of a batch, and the text of a few files.
    """

    plan: LoadPlan
    execution: Execution

    def expand(self, batches: beam.PCollection[int]) -> beam.PCollection[LoadStatistics]:
        """Read and write in the same step; a database of one writer is written by the process that gathers results."""
        fn = _ReadFn if self.plan.one_writer else _LoadFn
        return batches | "Load files" >> beam.ParDo(fn(self.plan, self.execution)).with_output_types(LoadStatistics)


class _LoadFn(PooledDoFn):
    """Runs `load_files`."""

    def __init__(self, plan: LoadPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def task(self, element: int) -> Task:
        return Task(load_files, (self._plan, element), f"batch {element}")

    def outputs(self, task: Task, result: LoadStatistics) -> Iterator[LoadStatistics]:
        self.count("files", result.files)
        yield result


class _ReadFn(PooledDoFn):
    """Runs `read_files` in the pool, and writes here."""

    def __init__(self, plan: LoadPlan, execution: Execution) -> None:
        super().__init__(execution)
        self._plan = plan

    def task(self, element: int) -> Task:
        return Task(read_files, (self._plan, element), f"batch {element}")

    def outputs(self, task: Task, result: ReadFiles) -> Iterator[LoadStatistics]:
        statistics = write_files(self._plan, result)
        self.count("files", statistics.files)
        yield statistics
