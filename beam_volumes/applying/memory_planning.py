"""The memory of a worker that applies a function: planned before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from beam_volumes.applying import inputs
from beam_volumes.applying.chunk_function import batch_of, reads_ahead
from beam_volumes.applying.flow import ApplyFlow, chunk_index, input_index
from beam_volumes.applying.outputs import Output
from beam_volumes.applying.trial import Trial
from beam_volumes.errors import OptionError
from beam_volumes.geometry import shape_text
from beam_volumes.subchunk_memory import PlannedMemory, plan_memory
from beam_volumes.subchunks import SubchunkPlan

_PROCESS_BYTES = 250_000_000
"""A worker process that has loaded torch, with the layers of a run, before it has any voxel."""

_BEAM_BYTES = 120_000_000
"""Of one that runs Beam, besides."""

_DOWNSAMPLING_BYTES = 115_000_000
"""Of one that averages what it reads: Numba, and what it needs."""

_ENCODING = 3
"""While a chunk is stored, it is there so many times besides: in order, encoded, and compressed."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one worker process.

    Attributes:
        process: before it has any voxel.
        element: what one element of the run holds.
        cache: of stored chunks that are kept.

    """

    process: int
    element: PlannedMemory
    cache: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.process + self.element.element + self.cache


def plan_worker_memory(
    flow: ApplyFlow, plan: SubchunkPlan, trial: Trial | None, memory_target: int, *, runs_beam: bool
) -> MemoryPlan:
    """Return the bytes that a worker process needs, with as much of `memory_target` as helps for stored chunks.

    Args:
        flow: what is run.
        plan: how it is cut.
        trial: what a try of the function has shown, if there was one.
        memory_target: bytes.
        runs_beam: whether the process that works is one that runs Beam, not a child of one.

    Raises:
        OptionError: it needs more.

    """
    idx, operation = chunk_index(flow, plan), flow.operation(plan.bottom.crop)
    taken = inputs.planned_inputs(flow.op_kwargs, idx, plan.bottom.whole)
    function, reading = trial.function_bytes if trial else 0, inputs.reading_bytes(flow.op_kwargs, idx)
    if reads_ahead(flow):
        # The next batch is read while the function has this one.
        taken, function = [*taken, *taken], function + reading
    element = plan_memory(
        plan,
        [output.kind for output in flow.outputs],
        taken,
        batch=batch_of(operation),
        function_bytes=function,
        reading_bytes=reading,
        writing_bytes=max((_writing_bytes(output) for output in flow.outputs), default=0),
    )
    process = _PROCESS_BYTES + (_BEAM_BYTES if runs_beam else 0)
    process += _DOWNSAMPLING_BYTES if inputs.are_downsampled(flow.op_kwargs, idx) else 0
    least = MemoryPlan(process, element, 0)
    if least.total > memory_target:
        raise OptionError(
            f"--memory_target: expected at least {least.total:,} bytes for one chunk of the top level, "
            f"{shape_text(plan.top.chunk)} voxels with its pads, came {memory_target:,}: raise it, with fewer "
            "--processes, or choose smaller processing_chunk_sizes or max_reduction_chunk_size"
        )
    cache = min(inputs.cache_bytes(flow.op_kwargs, input_index(flow, plan)), memory_target - least.total)
    return replace(least, cache=cache)


def _writing_bytes(output: Output) -> int:
    """Return what writing a box needs besides its voxels: one stored chunk is encoded at a time."""
    sides = zip(output.stored_cells.cell, output.stored_bounds.shape, strict=True)
    voxels = math.prod(min(cell, bounds) for cell, bounds in sides)
    return _ENCODING * voxels * output.kind.channels * np.dtype(output.kind.data_type).itemsize
