"""What a spec asks for: a function, what it takes, what is written, and how the volume is cut for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from beam_volumes.applying.flow_request import (
    NOT_GIVEN,
    FlowRequest,
    IgnoredArguments,
    argument_faults,
    call_faults,
    wrong_forms,
)
from beam_volumes.applying.operation import CallableOperation, operation_of
from beam_volumes.applying.outputs import Output, outputs_of
from beam_volumes.applying.torch_model import TorchModel
from beam_volumes.builder import register
from beam_volumes.builder.arguments import unknown_arguments
from beam_volumes.errors import GeometryError, OptionError, VolumeError, fault_report
from beam_volumes.geometry import BBox3D, Box, Vec, Vec3D, VolumetricIndex
from beam_volumes.geometry.exact import exact, quotient
from beam_volumes.layers.build import taking
from beam_volumes.layers.indexing import as_vec
from beam_volumes.reading_plan import Lattice
from beam_volumes.subchunk_planning import Corner, plan_subchunks
from beam_volumes.subchunk_request import PostpadRequest, SubchunkRequest
from beam_volumes.subchunks import BottomChunk, SubchunkPlan, grown


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
        return None if self.asked.dst is NOT_GIVEN else self.asked.dst

    @property
    def model(self) -> TorchModel | None:
        """The model that is applied, by `fn` or by an operation of it; None for another function."""
        fn = self.asked.op.fn if isinstance(self.asked.op, CallableOperation) else self.asked.fn
        return fn if isinstance(fn, TorchModel) else None

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
        if faults := wrong_forms(self.request, self.asked):
            raise OptionError(fault_report([*self.faults, *faults]))
        faults = [*self.faults, *argument_faults(self.request, self.asked)]
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
                faults += call_faults(self.asked)
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


def input_index(flow: ApplyFlow, plan: SubchunkPlan, box: Box | None = None) -> VolumetricIndex:
    """Return what is read for chunks of the top level, all their pads with it, at the function's resolution.

    Args:
        flow: what is run.
        plan: how it is cut.
        box: of whole chunks of the top level; None for a chunk with neighbours at all sides, if there is one.

    """
    *upper, bottom = plan.levels
    pads = [bottom.blend, *(level.blend for level in upper), *(level.crop for level in upper)]
    x, y, z = (sum(along) for along in zip(*pads, strict=True))
    return function_index(flow, plan, grown(box or plan.top_chunk(plan.typical_top).box, (x, y, z)))


def function_index(flow: ApplyFlow, plan: SubchunkPlan, box: Box) -> VolumetricIndex:
    """Return what the function takes for a box, without the bottom level's crop, at the function's resolution."""
    operation = flow.operation(plan.bottom.crop)
    idx = flow.index(box)
    if isinstance(operation, CallableOperation):
        return operation.input_index(idx)
    return replace(idx.padded(plan.bottom.crop), resolution=operation.get_input_resolution(flow.resolution))


def first_chunk(plan: SubchunkPlan) -> BottomChunk:
    """Return the first chunk that the function takes; all have its shape."""
    return next(plan.bottom_chunks(0))


def chunk_index(flow: ApplyFlow, plan: SubchunkPlan) -> VolumetricIndex:
    """Return what the function takes for the first chunk."""
    return function_index(flow, plan, first_chunk(plan).box)


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
