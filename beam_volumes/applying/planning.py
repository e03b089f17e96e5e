"""The steps of planning a run: what is checked, a try of the function, memory, and what the run will take."""

from __future__ import annotations

import itertools
import math

from beam_volumes.applying import inputs
from beam_volumes.applying.chunk_function import batch_of
from beam_volumes.applying.deferred import DeferredLayers
from beam_volumes.applying.execution import Execution
from beam_volumes.applying.flow import ApplyFlow, chunk_index, first_chunk, function_index, input_index
from beam_volumes.applying.memory_planning import MemoryPlan
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.region import Region
from beam_volumes.applying.specs import FlowSpec
from beam_volumes.applying.trial import Trial
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Vec, shape_text
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import join
from beam_volumes.subchunks import SubchunkPlan
from beam_volumes.volume_estimate import VCPU_HOUR_USD

_REGION_VOXELS = 2**24
"""That the function takes for one element, where a chunk of the top level is less: seconds of work, mostly."""

_LEAST_REGIONS = 64
"""That keep the cores of one machine busy to the end."""

_NOT_OF_VOXELS = "level_intermediaries_dirs"


def check_inputs(flow: ApplyFlow, plan: SubchunkPlan) -> None:
    """Refuse layers that cannot be read for the chunks of a run; nothing is read.

    Raises:
        OptionError: a layer has no such resolution, or an output no whole voxels for the box of the run.

    """
    inputs.check_reads(flow.op_kwargs, chunk_index(flow, plan))
    for output in flow.outputs:
        output.check_box(plan.bounds)
    _check_steps(flow, plan)
    if any(plan.gap):
        _check_gap(flow, plan)
    _check_apart(flow, plan)


def _check_apart(flow: ApplyFlow, plan: SubchunkPlan) -> None:
    """Refuse to read what the run writes: a chunk that is tried again, or its neighbour, would get what was written."""
    for read in inputs.planned_reads(flow.op_kwargs, input_index(flow, plan, plan.bounds)):
        volume = read.layer.backend.volume
        for output in flow.outputs:
            same = (output.url, output.scale) == (volume.path, str(volume.scale(read.mip)["key"]))
            if same and output.stored_box(plan.bounds).intersection(read.stored.box).voxels:
                raise OptionError(
                    f"op_kwargs.{read.path}: expected voxels that the run does not write, came those of scale "
                    f"{output.scale} of {output.url}, where dst is: a chunk that is tried again would be made of what "
                    "was written before: write to another volume"
                )


def _check_gap(flow: ApplyFlow, plan: SubchunkPlan) -> None:
    """Refuse gaps behind which chunks are not of whole voxels in some output, where the first one is."""
    x, y, z = (min(1, n - 1) for n in plan.shape)
    # All others are as far from each other as this one is from the first.
    second = x + plan.shape[0] * (y + plan.shape[1] * z)
    try:
        for output, top in itertools.product(flow.outputs, (0, second)):
            output.check_box(plan.top_chunk(top).box)
    except OptionError as error:
        raise OptionError(_wrong_gap(plan, error)) from error


def _wrong_gap(plan: SubchunkPlan, error: OptionError) -> str:
    return (
        f"processing_gap: expected chunks, with the gaps between them, of whole voxels in each layer, came gaps of "
        f"{list(plan.gap)}: choose others, as {error}"
    )


def _check_steps(flow: ApplyFlow, plan: SubchunkPlan) -> None:
    """Refuse chunks that are not of whole voxels in each input, where the first one is."""
    first = first_chunk(plan).box
    for axis in range(3):
        for step in _steps(plan, axis):
            x, y, z = (step if axis == along else 0 for along in range(3))
            box = first.translated((x, y, z))
            try:
                inputs.check_reads(flow.op_kwargs, function_index(flow, plan, box))
            except OptionError as error:
                if plan.gap[axis] and step >= plan.top.chunk[axis]:
                    raise OptionError(_wrong_gap(plan, error)) from error
                raise OptionError(
                    "processing_chunk_sizes: expected sizes with which all chunks are of whole voxels in each input, "
                    f"came {[list(level.chunk) for level in plan.levels]}, with which the first one is, and not one "
                    f"that begins {step} voxels further along {'xyz'[axis]}: choose sizes, and pads, that are "
                    f"multiples of as many voxels as one of the coarsest input is, as {error}"
                ) from error


def _steps(plan: SubchunkPlan, axis: int) -> list[int]:
    """Return how far from the first chunk of the bottom level a few others are along an axis, less than all of them.

    All others are as far from it as some of these together, taken several times: what is whole for these is for all.
    """
    starts = sorted(
        {start for position in range(min(2, plan.shape[axis])) for start in _bottom_starts(plan, axis, position)}
    )
    steps, common = list[int](), 0
    for start in starts:
        step = start - starts[0]
        if math.gcd(common, step) != common:
            steps.append(step)
            common = math.gcd(common, step)
    return steps


def _bottom_starts(plan: SubchunkPlan, axis: int, position: int) -> list[int]:
    """Return where the bottom chunks of a chunk of the top level begin along one axis, as `bottom_chunks` has them."""
    top = plan.top_chunk(position * math.prod(plan.shape[:axis]))
    found = {(top.box.start[axis], top.wanted.start[axis], top.wanted.stop[axis])}
    for upper, lower in itertools.pairwise(plan.levels):
        pad, chunk, blend = upper.blend[axis] + upper.crop[axis], lower.chunk[axis], lower.blend[axis]
        below = {
            (start, max(low, start - blend), min(high, start + chunk + blend))
            for at, low, high in found
            for start in range(at - pad, at + upper.chunk[axis] + pad, chunk)
        }
        found = {(start, low, high) for start, low, high in below if low < high}
    return [start for start, _, _ in found]


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
    idx = chunk_index(flow, plan)
    facts: Json = {
        "spec": {key: value for key, value in spec.recorded.items() if key not in (*flow.ignored, _NOT_OF_VOXELS)},
        "bounds": str(plan.bounds),
        "inputs": inputs.versions(flow.op_kwargs, idx),
    }
    if flow.model is not None:
        facts["model"] = flow.model.version()
    return facts


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
    models = [flow.model.path] if flow.model else []
    return [*(("spec", place) for place in (*volumes, *models)), ("scratch", scratch)]


def warnings(asked: Execution, *, local: bool) -> list[str]:
    """Return what the user should know of a spec before its run starts."""
    found = _outside(asked.target, asked.target.plan())
    found += [f"{name} is ignored: {why}" for name, why in {**asked.target.ignored, **asked.ignored}.items()]
    if local and not asked.local:
        found.append(
            "the spec asks for workers of Google Cloud, and this run is on this machine: give --runner=DataflowRunner "
            "--project=P --region=R --temp_location=gs://BUCKET/tmp for them"
        )
    return found


def _outside(flow: ApplyFlow, plan: SubchunkPlan) -> list[str]:
    """Return a warning if there are chunks that are processed for nothing."""
    within = []
    for output in flow.outputs:
        axes = zip(plan.shape, plan.bounds.start, plan.top.chunk, plan.gap, *output.bounds, strict=True)
        counts = [
            sum(first + i * (chunk + gap) < stop and first + i * (chunk + gap) + chunk > start for i in range(n))
            for n, first, chunk, gap, start, stop in axes
        ]
        within.append(math.prod(counts))
    outside = len(plan) - max(within, default=len(plan))
    if not outside:
        return []
    return [
        f"{outside:,} of the {len(plan):,} chunks of the top level lie outside of dst, and write nothing: see to the "
        "bbox, and to its resolution"
    ]


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
        ("calls of the function left", f"{planned['chunks']:,}, for {shape_text(cut.bottom.whole)} voxels each"),
        ("voxels that the function takes for each of the result", f"{processed / max(cut.bounds.voxels, 1):.2f}"),
        ("output boxes left", f"{planned['units']:,} of {plan.units:,}, {shape_text(cut.owners.cell)} at most"),
        ("memory per worker, bytes", f"{memory.total:,}"),
        ("of it stored chunks that are kept", f"{memory.cache:,}"),
    ]
    if not planned["chunks"]:
        return rows
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
