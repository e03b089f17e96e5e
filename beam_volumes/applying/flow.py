"""What a spec asks for: a function, what it takes, what is written, and how the volume is cut for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from beam_volumes.applying.operation import CallableOperation, operation_of
from beam_volumes.applying.outputs import Output, outputs_of
from beam_volumes.builder import arguments as builder_arguments
from beam_volumes.builder import register
from beam_volumes.builder.arguments import unknown_arguments
from beam_volumes.errors import GeometryError, OptionError, VolumeError, fault_report
from beam_volumes.geometry import BBox3D, Box, Vec, Vec3D, VolumetricIndex
from beam_volumes.geometry.exact import exact, quotient
from beam_volumes.layers import VolumetricLayer, VolumetricLayerSet
from beam_volumes.layers.build import taking
from beam_volumes.layers.indexing import as_vec
from beam_volumes.places import writable
from beam_volumes.reading_plan import Lattice
from beam_volumes.subchunk_planning import Corner, plan_subchunks
from beam_volumes.subchunk_request import PostpadRequest, SubchunkRequest, missing_arguments
from beam_volumes.subchunks import SubchunkPlan, grown

_NOT_GIVEN: Any = object()


_ALIKE = "all workers are alike"
_IGNORED = {
    "allow_cache_up_to_level": "what is read again is kept, as far as --memory_target allows",
    "fn_semaphores": "workers share no locks: --processes says how many work at once",
    "generate_ng_link": "the report names what was written",
    "op_worker_type": _ALIKE,
    "print_summary": "--plan prints one",
    "reduction_worker_type": _ALIKE,
    "task_stack_size": "an element is a chunk of the top level",
}


@dataclass(frozen=True)
class IgnoredArguments:
    """Arguments of zetta_utils that have no meaning here: a spec may hold them, and the run says so."""

    allow_cache_up_to_level: int | None = None
    fn_semaphores: Any = None
    generate_ng_link: bool = False
    op_worker_type: str | None = None
    print_summary: bool = True
    reduction_worker_type: str | None = None
    task_stack_size: int | None = None

    def named(self) -> dict[str, str]:
        """Return those that are given, and why they are ignored."""
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return {name: _IGNORED[name] for name in given}


@dataclass(frozen=True)
class FlowRequest:
    """The arguments of a flow that do not say how the volume is cut.

    Attributes:
        dst: the layer, or layer set, that is written; None for a function that does something else with its data.
        dst_resolution: of chunks, nm per voxel along x, y and z.
        fn: takes `op_kwargs`, in which tensors (CXYZ) stand for layers; returns a tensor of the same x, y and z.
        op: an operation, which reads and writes by itself; instead of `fn`.
        op_kwargs: layers, layer sets, lists and dictionaries of them, and plain values.
        bbox: what is processed.
        start_coord: what is processed, along with `end_coord` and `coord_resolution`; instead of `bbox`.
        end_coord: up to here, not including it.
        coord_resolution: of these two, nm.
        auto_bbox: all of the destination is processed.
        level_intermediaries_dirs: scratch folders, level by level; of them the first is used. With mode defer its
            chunks stay there.

    """

    dst: Any = _NOT_GIVEN
    dst_resolution: Sequence[float] | None = None
    fn: Callable[..., Any] | None = None
    op: Any = None
    op_kwargs: Mapping[str, Any] = field(default_factory=dict)
    bbox: BBox3D | None = None
    start_coord: Sequence[float] | None = None
    end_coord: Sequence[float] | None = None
    coord_resolution: Sequence[float] | None = None
    auto_bbox: bool = False
    level_intermediaries_dirs: Sequence[str | None] | None = None


@dataclass(frozen=True)
class ApplyFlow:
    """A function that is applied to a volume in chunks; made by `build_subchunkable_apply_flow`.

    Attributes:
        request: how the volume is cut.
        asked: the rest.
        faults: what is wrong with the arguments, told along with what `plan` finds.
        ignored: arguments that have no meaning here, and why.

    """

    request: SubchunkRequest
    asked: FlowRequest
    faults: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)

    @property
    def resolution(self) -> Vec3D[float]:
        """Of chunks, nm per voxel."""
        assert self.asked.dst_resolution is not None, "plan() has refused it"
        return as_vec(self.asked.dst_resolution, "dst_resolution")

    @property
    def op_kwargs(self) -> Mapping[str, Any]:
        """What the function takes."""
        return self.asked.op_kwargs

    @property
    def dst(self) -> Any:
        """What is written; None for nothing."""
        return None if self.asked.dst is _NOT_GIVEN else self.asked.dst

    def operation(self, crop: Vec) -> Any:
        """Return the operation: that of `op`, or `fn` as one; with the crop of the bottom level."""
        return operation_of(self.asked.fn, self.asked.op).with_added_crop_pad(Vec3D(*crop))

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """The layers that are written."""
        return outputs_of(self.dst, self.resolution)

    @property
    def intermediaries(self) -> str | None:
        """The folder of what is made on the way; None where the spec names none."""
        return next((folder for folder in self.asked.level_intermediaries_dirs or () if folder), None)

    def index(self, box: Box, chunk_id: int = 0) -> VolumetricIndex:
        """Return a box of voxels of the destination as an index."""
        return VolumetricIndex.from_coords(box.start, box.stop, self.resolution, chunk_id=chunk_id)

    def plan(self) -> SubchunkPlan:
        """Return how the volume is cut.

        Raises:
            OptionError: all that is wrong with the arguments, each fault with the value to use instead.

        """
        return self._plan

    @cached_property
    def _plan(self) -> SubchunkPlan:
        if faults := _wrong_forms(self.request, self.asked):
            raise OptionError(fault_report([*self.faults, *faults]))
        faults = [*self.faults, *_argument_faults(self.request, self.asked)]
        bounds = lattice = None
        is_segmentation = False
        if _is_resolution(self.asked.dst_resolution, faults):
            try:
                lattice = _common_cells(self.outputs)
                is_segmentation = any(output.is_segmentation for output in self.outputs)
                bounds = self._bounds(faults)
            except OptionError as error:
                faults.append(str(error))
        if bounds is None and not faults:
            faults.append("bbox: expected, but not given")
        try:
            if (self.asked.fn is None) != (self.asked.op is None):
                operation_of(self.asked.fn, self.asked.op)
                faults += _call_faults(self.asked)
        except OptionError as error:
            faults.append(str(error))
        plan = plan_subchunks(self.request, bounds, lattice, is_segmentation=is_segmentation, faults=faults)
        if plan.top.mode == "defer" and not self.intermediaries:
            raise OptionError(
                "level_intermediaries_dirs: expected a folder where the chunks of mode defer are left, came none: give "
                "one"
            )
        return plan

    def _bounds(self, faults: list[str]) -> tuple[Corner, Corner] | None:
        """Return what is to be processed, in voxels of the destination."""
        asked = self.asked
        if asked.auto_bbox:
            if not self.outputs:
                # That is told with the other arguments.
                return None
            boxes = {output.bounds for output in self.outputs}
            if len(boxes) != 1:
                faults.append(
                    f"auto_bbox: expected layers of the same bounds, came {', '.join(str(b) for b in sorted(boxes))}: "
                    "give bbox"
                )
                return None
            box = boxes.pop()
            return box.start, box.stop
        try:
            bbox = asked.bbox
            if bbox is None and None not in (asked.start_coord, asked.end_coord, asked.coord_resolution):
                bbox = BBox3D.from_coords(asked.start_coord, asked.end_coord, asked.coord_resolution)  # type: ignore[arg-type]
        except GeometryError as error:
            faults.append(f"start_coord, end_coord: {error}")
            return None
        if bbox is None:
            return None
        if not isinstance(bbox, BBox3D):
            faults.append(f'bbox: expected a box, such as {{"@type": "BBox3D.from_coords", ...}}, came {bbox!r}')
            return None
        sides = [
            (quotient(a, exact(r)), quotient(b, exact(r)))
            for (a, b), r in zip(bbox.sides, self.resolution, strict=True)
        ]
        return [Fraction(a) for a, _ in sides], [Fraction(b) for _, b in sides]


def input_index(flow: ApplyFlow, plan: SubchunkPlan) -> VolumetricIndex:
    """Return what is read for one chunk of the top level, all its pads with it, at the function's resolution."""
    *upper, bottom = plan.levels
    pads = [bottom.blend, *(level.blend for level in upper), *(level.crop for level in upper)]
    x, y, z = (sum(along) for along in zip(*pads, strict=True))
    return function_index(flow, plan, grown(plan.top_chunk(plan.typical_top).box, (x, y, z)))


def function_index(flow: ApplyFlow, plan: SubchunkPlan, box: Box) -> VolumetricIndex:
    """Return what the function takes for a box, without the bottom level's crop, at the function's resolution."""
    operation = flow.operation(plan.bottom.crop)
    idx = flow.index(box)
    if isinstance(operation, CallableOperation):
        return operation.input_index(idx)
    return replace(idx.padded(plan.bottom.crop), resolution=operation.get_input_resolution(flow.resolution))


def _argument_faults(request: SubchunkRequest, asked: FlowRequest) -> list[str]:
    """Return what is missing of the arguments, or contradicts others."""
    given = {f.name for f in fields(asked) if getattr(asked, f.name) not in (None, False)}
    given |= {f.name for f in fields(request) if getattr(request, f.name) not in (None, False, ())}
    # That there are no sizes is told where they are read.
    given |= {"processing_chunk_sizes"}
    faults = missing_arguments(given - ({"dst"} if asked.dst is _NOT_GIVEN else set()))
    if asked.dst is _NOT_GIVEN:
        faults.insert(0, "dst: expected the layer that is written, or null for none, but not given: name one")
    levels, folders = len(request.processing_chunk_sizes), asked.level_intermediaries_dirs
    if folders is not None and len(folders) not in (1, levels):
        faults.append(
            f"level_intermediaries_dirs: expected {levels} folders, as many as processing_chunk_sizes has levels, or "
            f"one for all, came {len(folders)}: give so many; the first is used"
        )
    try:
        for folder in filter(None, folders or ()):
            writable("level_intermediaries_dirs", folder)
    except OptionError as error:
        faults.append(str(error).removeprefix("--"))
    return faults


def _wrong_forms(request: SubchunkRequest, asked: FlowRequest) -> list[str]:
    """Return which arguments are nothing that can be looked at together with others."""
    faults = [
        f"{each.name}: expected true or false, came {value!r}"
        for given in (request, asked)
        for each in fields(given)
        if isinstance(each.default, bool) and not isinstance(value := getattr(given, each.name), bool)
    ]
    if not isinstance(request.processing_chunk_sizes, Sequence):
        sizes = request.processing_chunk_sizes
        faults.append(f"processing_chunk_sizes: expected a list of sizes, the largest first, came {sizes!r}")
    dst, folders = asked.dst, asked.level_intermediaries_dirs
    if dst is not _NOT_GIVEN and not isinstance(dst, VolumetricLayer | VolumetricLayerSet | None):
        faults.append(
            'dst: expected a layer, such as {"@type": "build_cv_layer", ...}, or a layer set, or null, came '
            f"{type(dst).__name__}: give one"
        )
    if not isinstance(asked.op_kwargs, Mapping):
        faults.append(
            f"op_kwargs: expected arguments by name, came {type(asked.op_kwargs).__name__}: give a dictionary"
        )
    listed = isinstance(folders, list | tuple) and all(isinstance(folder, str | None) for folder in folders)
    if folders is not None and not listed:
        faults.append(f"level_intermediaries_dirs: expected a list of folders, came {folders!r}: give [FOLDER, FOLDER]")
    return faults


def _call_faults(asked: FlowRequest) -> list[str]:
    """Return what of `op_kwargs` the function does not take, or lacks, as far as it tells."""
    fn = asked.op.fn if isinstance(asked.op, CallableOperation) else asked.fn
    if not callable(fn):
        return []
    unknown = unknown_arguments("fn", fn, asked.op_kwargs)
    lacking = builder_arguments.missing_arguments("fn", fn, asked.op_kwargs)
    faults = [f"op_kwargs.{name}: {why}" for name, why in unknown.items()]
    return [*faults, f"op_kwargs: {lacking}"] if lacking else faults


def _is_resolution(resolution: Sequence[float] | None, faults: list[str]) -> bool:
    if resolution is None:
        return False
    try:
        as_vec(resolution, "dst_resolution")
    except VolumeError as error:
        faults.append(str(error))
        return False
    return True


def _common_cells(outputs: Sequence[Output]) -> Lattice | None:
    """Return the smallest boxes that all outputs store as whole objects; None where nothing is written.

    Raises:
        OptionError: there are none.

    """
    cells: Lattice | None = None
    for output in outputs:
        cells = output.cells if cells is None else cells.common(output.cells)
        if cells is None:
            raise OptionError(
                f"dst: expected layers whose chunks have common corners, came {output.layer.name} with others: give "
                "them the same voxel offset, or write them one by one"
            )
    return cells


@register("build_subchunkable_apply_flow")
@taking(SubchunkRequest, FlowRequest, IgnoredArguments)
def build_subchunkable_apply_flow(
    max_reduction_chunk_sizes: Any = None, op_args: Sequence[Any] = (), **arguments: Any
) -> ApplyFlow:
    """Return a function applied to a volume in chunks.

    Nothing is read but the `info` of layers. What is wrong with the arguments is told by `ApplyFlow.plan`, all of it.

    Args:
        max_reduction_chunk_sizes: the older name of `max_reduction_chunk_size`.
        op_args: must be empty.
        arguments: see `SubchunkRequest`, `FlowRequest` and `IgnoredArguments`.

    Raises:
        OptionError: an argument is not known.

    """
    faults = _op_args_faults(op_args)
    if max_reduction_chunk_sizes is not None:
        if arguments.get("max_reduction_chunk_size") is not None:
            faults.append("max_reduction_chunk_size, max_reduction_chunk_sizes: expected one of them, came both")
        arguments["max_reduction_chunk_size"] = max_reduction_chunk_sizes
    cut, asked, ignored = _sorted("build_subchunkable_apply_flow", build_subchunkable_apply_flow, arguments)
    return ApplyFlow(SubchunkRequest(**cut), FlowRequest(**asked), tuple(faults), ignored)


@register("build_postpad_subchunkable_apply_flow")
@taking(PostpadRequest, FlowRequest, IgnoredArguments)
def build_postpad_subchunkable_apply_flow(op_args: Sequence[Any] = (), **arguments: Any) -> ApplyFlow:
    """Return a function applied to a volume in chunks whose sizes are given with their pads.

    Args:
        op_args: must be empty.
        arguments: see `PostpadRequest`, `FlowRequest` and `IgnoredArguments`.

    Raises:
        OptionError: an argument is not known, or the sizes leave nothing between the pads.

    """
    cut, asked, ignored = _sorted(
        "build_postpad_subchunkable_apply_flow", build_postpad_subchunkable_apply_flow, arguments
    )
    return ApplyFlow(PostpadRequest(**cut).request(), FlowRequest(**asked), tuple(_op_args_faults(op_args)), ignored)


def _sorted(
    name: str, function: Callable[..., Any], arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return arguments that say how a volume is cut, the others, and why some are ignored."""
    if faults := unknown_arguments(name, function, arguments):
        raise OptionError("; ".join(f"{argument}: {fault}" for argument, fault in faults.items()))
    asked = {f.name: arguments[f.name] for f in fields(FlowRequest) if f.name in arguments}
    ignored = {f.name: arguments[f.name] for f in fields(IgnoredArguments) if f.name in arguments}
    cut = {key: value for key, value in arguments.items() if key not in asked and key not in ignored}
    return cut, asked, IgnoredArguments(**ignored).named()


def _op_args_faults(op_args: Sequence[Any]) -> list[str]:
    return ["op_args: expected none, as arguments have names, came some: give them as op_kwargs"] if op_args else []
