"""The arguments of a flow that do not say how the volume is cut, and what can be wrong with all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from beam_volumes.applying.operation import CallableOperation
from beam_volumes.builder import arguments as builder_arguments
from beam_volumes.errors import OptionError
from beam_volumes.geometry import BBox3D
from beam_volumes.layers import VolumetricLayer, VolumetricLayerSet
from beam_volumes.places import writable
from beam_volumes.subchunk_request import SubchunkRequest, missing_arguments

NOT_GIVEN: Any = object()
"""Where null would mean something."""

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

    dst: Any = NOT_GIVEN
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


def argument_faults(request: SubchunkRequest, asked: FlowRequest) -> list[str]:
    """Return what is missing of the arguments, or contradicts others."""
    given = {f.name for f in fields(asked) if getattr(asked, f.name) not in (None, False)}
    given |= {f.name for f in fields(request) if getattr(request, f.name) not in (None, False, ())}
    # That there are no sizes is told where they are read.
    given |= {"processing_chunk_sizes"}
    faults = missing_arguments(given - ({"dst"} if asked.dst is NOT_GIVEN else set()))
    if asked.dst is NOT_GIVEN:
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


def wrong_forms(request: SubchunkRequest, asked: FlowRequest) -> list[str]:
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
    if dst is not NOT_GIVEN and not isinstance(dst, VolumetricLayer | VolumetricLayerSet | None):
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


def call_faults(asked: FlowRequest) -> list[str]:
    """Return what of `op_kwargs` the function does not take, or lacks, as far as it tells."""
    fn = asked.op.fn if isinstance(asked.op, CallableOperation) else asked.fn
    if not callable(fn):
        return []
    unknown = builder_arguments.unknown_arguments("fn", fn, asked.op_kwargs)
    lacking = builder_arguments.missing_arguments("fn", fn, asked.op_kwargs)
    faults = [f"op_kwargs.{name}: {why}" for name, why in unknown.items()]
    return [*faults, f"op_kwargs: {lacking}"] if lacking else faults
