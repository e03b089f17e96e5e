"""The steps of planning a run: what is checked, a try of the function, memory, and what the run will take."""

from __future__ import annotations

import faulthandler
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from beam_volumes.applying import inputs
from beam_volumes.applying.chunk_function import ChunkFunction, batch_of, reads_ahead
from beam_volumes.applying.deferred import DeferredLayers
from beam_volumes.applying.execution import Execution
from beam_volumes.applying.flow import ApplyFlow, function_index, input_index
from beam_volumes.applying.model_memory import use_large_pages
from beam_volumes.applying.operation import CallableOperation
from beam_volumes.applying.outputs import Output
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.region import Region
from beam_volumes.applying.specs import FlowSpec
from beam_volumes.applying.torch_model import TorchModel
from beam_volumes.block_reading import Clock
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Vec, shape_text
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import join
from beam_volumes.storage.urls import redacted
from beam_volumes.subchunk_flow import checked_result
from beam_volumes.subchunk_memory import PlannedMemory, plan_memory
from beam_volumes.subchunks import BottomChunk, SubchunkPlan
from beam_volumes.volume_estimate import VCPU_HOUR_USD

_REGION_VOXELS = 2**24
"""That the function takes for one element, where a chunk of the top level is less: seconds of work, mostly."""

_LEAST_REGIONS = 64
"""That keep the cores of one machine busy to the end."""

_PROCESS_BYTES = 250_000_000
"""A worker process that has loaded torch, with the layers of a run, before it has any voxel."""

_BEAM_BYTES = 120_000_000
"""Of one that runs Beam, besides."""

_DOWNSAMPLING_BYTES = 115_000_000
"""Of one that averages what it reads: Numba, and what it needs."""

_ENCODING = 3
"""While a chunk is stored, it is there so many times besides: in order, encoded, and compressed."""

_SECONDS_TO_TRY_AGAIN = 5.0
"""Of CPU: what takes longer is called once."""

_STANDARD_ERROR = 2

_NOT_OF_VOXELS = "level_intermediaries_dirs"


@dataclass(frozen=True)
class Trial:
    """What a try of the function on one chunk of zeros has shown.

    Attributes:
        seconds: of CPU, for that chunk.
        function_bytes: what the function needs for a batch besides what it takes and returns, as far as that is known.

    """

    seconds: float
    function_bytes: int


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


def check_inputs(flow: ApplyFlow, plan: SubchunkPlan) -> None:
    """Refuse layers that cannot be read for the chunks of a run; nothing is read.

    Raises:
        OptionError: a layer has no such resolution, or an output no whole voxels for the box of the run.

    """
    inputs.check_reads(flow.op_kwargs, function_index(flow, plan, _bottom(plan).box))
    for output in flow.outputs:
        output.check_box(plan.bounds)
    if any(plan.gap):
        _check_step(flow, plan)


def _check_step(flow: ApplyFlow, plan: SubchunkPlan) -> None:
    """Refuse gaps behind which chunks are not of whole voxels in some layer, where the first one is."""
    x, y, z = (min(1, n - 1) for n in plan.shape)
    # All others are as far from each other as this one is from the first.
    second = x + plan.shape[0] * (y + plan.shape[1] * z)
    try:
        for top in (0, second):
            inputs.check_reads(flow.op_kwargs, function_index(flow, plan, next(plan.bottom_chunks(top)).box))
            for output in flow.outputs:
                output.check_box(plan.top_chunk(top).box)
    except OptionError as error:
        raise OptionError(
            f"processing_gap: expected chunks, with the gaps between them, of whole voxels in each layer, came gaps of "
            f"{list(plan.gap)}: choose others, as {error}"
        ) from error


def try_function(flow: ApplyFlow, plan: SubchunkPlan) -> Trial:
    """Call the function once, for a chunk whose layers are 0 everywhere, and check what it returns.

    Raises:
        FunctionError: it fails, or returns something else than the outputs take.

    """
    # For this process, and those that it starts.
    use_large_pages()
    function = ChunkFunction(flow, plan.bottom.crop, inputs.blanked(flow.op_kwargs))
    if not faulthandler.is_enabled():
        # Where a library crashes, the line that called it is printed.
        faulthandler.enable(_STANDARD_ERROR)
    seconds = _try_once(function, flow, plan)
    if seconds < _SECONDS_TO_TRY_AGAIN:
        # The first call imports and compiles, too.
        seconds = min(seconds, _try_once(function, flow, plan))
    return Trial(seconds, _measured(flow, plan))


def _try_once(function: ChunkFunction, flow: ApplyFlow, plan: SubchunkPlan) -> float:
    """Return the seconds of CPU that a call takes."""
    started = time.process_time()
    (result,) = function.results([_bottom(plan)], Clock())
    for values, output in zip(result.values, flow.outputs, strict=True):
        checked_result(values, output.kind, _bottom(plan), result.box)
    return time.process_time() - started


def _measured(flow: ApplyFlow, plan: SubchunkPlan) -> int:
    operation = flow.operation(plan.bottom.crop)
    if not isinstance(operation, CallableOperation) or not isinstance(operation.fn, TorchModel):
        return 0
    if operation.fn.uses_gpu:
        # What it needs there is none of the worker's memory.
        return 0
    idx = function_index(flow, plan, _bottom(plan).box)
    return operation.fn.measure(inputs.blank_kwargs(flow.op_kwargs, idx))


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
    idx, operation = function_index(flow, plan, _bottom(plan).box), flow.operation(plan.bottom.crop)
    taken = inputs.planned_inputs(flow.op_kwargs, idx, plan.bottom.whole)
    function, reading = trial.function_bytes if trial else 0, inputs.reading_bytes(flow.op_kwargs, idx)
    if reads_ahead(flow, operation):
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


def plan_region(flow: ApplyFlow, plan: SubchunkPlan) -> Vec:
    """Return how many chunks of the top level an element takes along x, y and z.

    They follow each other along the axis on which they read most of the same voxels, which are kept meanwhile: as many
    as fill a batch of the function; more where these are little work, and there are enough elements for many workers.
    """
    chunks = plan.count_bottom_chunks(plan.typical_top)
    batch = batch_of(flow.operation(plan.bottom.crop))
    small = _REGION_VOXELS // (chunks * math.prod(plan.bottom.whole))
    wanted = max(-(-batch // chunks), min(small, len(plan) // _LEAST_REGIONS), 1)
    pads = [sum(level.crop[axis] + level.blend[axis] for level in plan.levels) for axis in range(3)]
    axes = sorted(range(3), key=lambda axis: (-pads[axis] / plan.top.chunk[axis], axis))
    region = [1, 1, 1]
    for axis in axes:
        region[axis] = min(-(-wanted // math.prod(region)), plan.shape[axis])
    x, y, z = region
    return (x, y, z)


def identity(flow: ApplyFlow, plan: SubchunkPlan, spec: FlowSpec) -> Json:
    """Return what the voxels that a run writes depend on: the spec, the volumes that are read, and models.

    Raises:
        SourceError: the file of a model cannot be read.

    """
    idx = function_index(flow, plan, _bottom(plan).box)
    facts: Json = {
        "spec": {key: value for key, value in spec.recorded.items() if key not in (*flow.ignored, _NOT_OF_VOXELS)},
        "bounds": str(plan.bounds),
        "inputs": inputs.versions(flow.op_kwargs, idx),
    }
    operation = flow.operation(plan.bottom.crop)
    if isinstance(operation, CallableOperation) and isinstance(operation.fn, TorchModel):
        facts["model"] = operation.fn.version()
    return facts


def is_for_gpu(flow: ApplyFlow, plan: SubchunkPlan) -> bool:
    """Whether the function is a model that asks for a GPU, or takes one where there is one and is tried on one."""
    operation = flow.operation(plan.bottom.crop)
    fn = operation.fn if isinstance(operation, CallableOperation) else None
    return isinstance(fn, TorchModel) and (fn.device or "").startswith("cuda")


def destination(flow: ApplyFlow, plan: SubchunkPlan) -> Region:
    """Return where a run writes.

    Raises:
        OptionError: there is nothing to write there.

    """
    if plan.top.mode == "defer":
        return Region.planned((), plan.bounds, flow.intermediaries)
    return Region.planned(flow.outputs, plan.bounds, flow.intermediaries)


def deferred(flow: ApplyFlow, plan: SubchunkPlan) -> tuple[DeferredLayers, ...]:
    """Return where the chunks of the top level are left, by output; none where they are reduced.

    Raises:
        OptionError: the folder is no place for them.

    """
    folder = flow.intermediaries
    if plan.top.mode != "defer" or folder is None:
        return ()
    return tuple(
        DeferredLayers.planned(plan, output.kind, flow.resolution, join(folder, output.name) if output.name else folder)
        for output in flow.outputs
    )


def places(flow: ApplyFlow, scratch: str | None) -> list[tuple[str, str | None]]:
    """Return what the workers of a run must reach, and the options that name it."""
    volumes = [layer.name for layer in inputs.single_layers(flow.op_kwargs).values()]
    volumes += [output.url for output in flow.outputs]
    fn = flow.asked.fn
    models = [fn.path] if isinstance(fn, TorchModel) else []
    return [*(("spec", place) for place in (*volumes, *models)), ("scratch", scratch)]


def warnings(asked: Execution, plan: SubchunkPlan, *, local: bool) -> list[str]:
    """Return what the user should know of a spec before its run starts."""
    found = _read_and_written(asked.target, plan)
    found += [f"{name} is ignored: {why}" for name, why in {**asked.target.ignored, **asked.ignored}.items()]
    if local and not asked.local:
        found.append(
            "the spec asks for workers of Google Cloud, and this run is on this machine: give --runner=DataflowRunner "
            "--project=P --region=R --temp_location=gs://BUCKET/tmp for them"
        )
    return found


def _read_and_written(flow: ApplyFlow, plan: SubchunkPlan) -> list[str]:
    """Return a warning for each layer that is read of a scale that is written."""
    written = {(output.url, output.scale) for output in flow.outputs}
    found = []
    for read in inputs.planned_reads(flow.op_kwargs, function_index(flow, plan, _bottom(plan).box)):
        scale = str(read.layer.backend.volume.scale(read.mip)["key"])
        if (read.layer.name, scale) in written:
            found.append(
                f"op_kwargs.{read.path} reads scale {scale} of {redacted(read.layer.name)}, which the run writes: a "
                "chunk may get what its neighbours have written already, and what it has itself where it is tried "
                "again: write to another volume"
            )
    return found


def _bottom(plan: SubchunkPlan) -> BottomChunk:
    return next(plan.bottom_chunks(0))


def summary(flow: ApplyFlow, plan: ApplyPlan, memory: MemoryPlan, trial: Trial | None) -> list[tuple[str, str]]:
    """Return what `--plan` prints, row by row."""
    cut, planned = plan.subchunks, plan.planned
    rows = [("destination", f"{plan.claim.place} ({plan.claim.state})")]
    rows += [(f"input {name}", layer.name) for name, layer in inputs.single_layers(flow.op_kwargs).items()]
    rows += [
        (f"output {output.name}".strip(), f"{output.url}, {output.kind.channels} x {output.kind.data_type}")
        for output in flow.outputs
    ]
    rows.append(("voxels", f"{cut.bounds} = {shape_text(cut.bounds.shape)} at {flow.resolution.pformat()} nm"))
    for number, level in enumerate(cut.levels):
        pads = f"crop {shape_text(level.crop)}, blend {shape_text(level.blend)}"
        mode = f", {level.mode}" if level.overlaps else ""
        rows.append((f"chunks of level {number}", f"{shape_text(level.chunk)}, {pads}{mode}"))
    processed = cut.count_bottom_chunks() * _voxels(cut)
    rows += [
        ("chunks of the top level left", f"{planned['tops']:,} of {len(cut):,}"),
        ("chunks for the function left", f"{planned['chunks']:,} of {shape_text(cut.bottom.whole)}"),
        ("voxels that the function takes for each of the result", f"{processed / max(cut.bounds.voxels, 1):.2f}"),
        ("output boxes left", f"{planned['units']:,} of {plan.units:,}, {shape_text(cut.owners.cell)} at most"),
        ("memory per worker, bytes", f"{memory.total:,}"),
        ("of it stored chunks that are kept", f"{memory.cache:,}"),
    ]
    if trial is None:
        return [*rows, ("CPU hours, estimated", "not known without a try of the function (--dry_fn)")]
    hours = trial.seconds * planned["chunks"] / 3600
    return [
        *rows,
        ("CPU hours of the function, estimated", f"{hours:,.4f}"),
        ("Dataflow USD, at an assumed price", f"{hours * VCPU_HOUR_USD:,.4f} ({VCPU_HOUR_USD} a vCPU hour)"),
    ]


def _voxels(plan: SubchunkPlan) -> int:
    x, y, z = plan.bottom.whole
    return x * y * z
