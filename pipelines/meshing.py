"""What the pipelines that mesh have in common: a look at the layer, the plan, and the job that is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from beam_volumes import export_planning
from beam_volumes.geometry import Box, Grid
from beam_volumes.meshing import mesh_planning as planning
from beam_volumes.meshing.labels import LabelChoice
from beam_volumes.meshing.mesh_folder import MeshFolder
from beam_volumes.meshing.mesh_input import MeshInput, VoxelInput
from beam_volumes.meshing.mesh_output import MeshOutput, MultiresMeshes
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.mesh_report import settle
from beam_volumes.places import scratch_folder, writable
from beam_volumes.precomputed.info import Json
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from beam_volumes.sources import Source, describe_source
from beam_volumes.spatial_index.files import IndexFiles
from beam_volumes.spatial_index.planning import plan_index
from beam_volumes.voxel_count_planning import check_labels
from pipelines.asking import Asked, ask
from pipelines.mesh_options import Forging, Storing
from pipelines.options import identity
from pipelines.running import Job, Setting
from pipelines.shared_options import Running
from transforms.mesh import write_meshes_of


class Layer(NamedTuple):
    """A segmentation that is meshed, and where its meshes go.

    Attributes:
        option: the one that names the volume of the meshes.

    """

    asked: Asked
    source: Source
    url: str
    bounds: Box
    option: str = "layer"


def look_at_layer(config: Forging, setting: Setting, scratch: str | None) -> Layer:
    """Look at the segmentation that a Config names.

    Raises:
        VolumeError: it cannot be meshed.

    """
    setting.check_reachable([("layer", config.layer), ("dst", config.dst), ("scratch", scratch)], config.token_env)
    asked = ask(config.layer, (config.timestamp, config.stop_layer), config, setting)
    option = "dst" if config.dst else "layer"
    url = writable(option, config.dst or config.layer)
    source = describe_source(config.layer, config.mip, asked.graph, option="layer")
    setting.check_reachable([("layer", source.voxels_url)], None)
    check_labels(source)
    return Layer(asked, source, url, export_planning.bounds_in(source, config.bounds), option)


def stages(plan: MeshPlan) -> dict[str, int | None]:
    """Return what progress is shown of, step by step, and how much there is of it, where that is known beforehand."""
    planned = plan.planned
    # Where not all cells are looked at, there may be parts that no label belongs to.
    parts = plan.label_parts if plan.label_parts == 1 or planned["counted"] == len(plan.cells) else None
    levels: dict[str, int | None] = {"parts of levels": None} if plan.num_lods > 1 else {}
    shards: dict[str, int | None] = {"shards": None} if plan.output.has_manifests else {}
    return {"labels": planned["counted"], "parts of labels": parts, "cells": planned["cells"], **levels, **shards}


@dataclass(frozen=True, kw_only=True)
class Meshing:
    """What a pipeline is asked to mesh.

    Attributes:
        task: the pipeline's name.
        layer: what is meshed.
        choice: the labels.
        cells: of the finest level.
        input: what is read of them.
        output: what is written.
        index: what is written of a spatial index; None for nothing.
        mesh_dir: the folder of the meshes, below the volume.
        scratch: the folder for intermediate files; None for one beside the volume.
        max_error: of the finest level, nm; None for the longest edge of a voxel.
        fill_holes: whether cavities are dropped.
        fill_missing: whether what is missing of the input is accepted.
        facts: what identifies the run besides its options.

    """

    task: str
    layer: Layer
    choice: LabelChoice
    cells: Grid
    input: MeshInput
    output: MeshOutput
    index: IndexFiles | None
    mesh_dir: str
    scratch: str | None
    max_error: float | None
    fill_holes: bool
    fill_missing: bool
    facts: Json


def meshing_of_voxels(
    task: str, config: Forging, output: MeshOutput, layer: Layer, mesh_dir: str, scratch: str | None
) -> Meshing:
    """Return what a pipeline is asked to mesh that reads voxels.

    Raises:
        VolumeError: an option does not fit the layer.

    """
    source, bounds = layer.source, layer.bounds
    sizes = planning.plan_cells(
        source, bounds, config.cell_size, config.memory_target, close_borders=config.close_borders
    )
    return Meshing(
        task=task,
        layer=layer,
        choice=planning.choose(config.dust_threshold, config.labels, config.exclude),
        cells=sizes.cells,
        input=VoxelInput(sizes.block, config.simplification_factor, config.memory_target // 8),
        output=output,
        index=plan_index(config.spatial_index, source, sizes.tasks(bounds), layer.url, mesh_dir),
        mesh_dir=mesh_dir,
        scratch=scratch,
        max_error=config.max_error,
        fill_holes=config.fill_holes,
        fill_missing=config.fill_missing,
        facts={},
    )


def multires_meshes(config: Storing, *, segment_properties: bool = False) -> MultiresMeshes:
    """Return what is written of multi-resolution meshes."""
    return MultiresMeshes(
        config.num_lods,
        config.vertex_quantization_bits,
        config.lod_factor,
        config.max_fragment_bytes,
        config.sharded,
        segment_properties,
    )


def plan_meshes(config: Running, setting: Setting, meshing: Meshing) -> MeshPlan:
    """Return the plan of a meshing run; writes nothing.

    Raises:
        VolumeError: an option does not fit what stands at the destination.

    """
    layer, choice = meshing.layer, meshing.choice
    facts: Json = {
        **identity(config),
        "source_version": export_planning.source_version(layer.source),
        "labels_listed": planning.choice_identity(choice),
        "cell": list(meshing.cells.cell),
        "spatial_index": meshing.index is not None,
        **meshing.facts,
    }
    scratch = scratch_folder(meshing.scratch)
    destination = MeshFolder(layer.url, meshing.mesh_dir, meshing.task, volume_option=layer.option)
    claim = inspect_destination(destination, facts, resume=config.resume, overwrite=config.overwrite, scratch=scratch)
    export_planning.check_holes(claim, fill_missing=meshing.fill_missing)
    return MeshPlan(
        claim=claim,
        source=layer.source,
        server=layer.asked.server,
        bounds=layer.bounds,
        cells=meshing.cells,
        input=meshing.input,
        output=meshing.output,
        max_error_nm=max(layer.source.resolution_nm) if meshing.max_error is None else meshing.max_error,
        fill_holes=meshing.fill_holes,
        folder=meshing.mesh_dir,
        index=meshing.index,
        picture=setting.local and meshing.output.has_manifests,
        fill_missing=meshing.fill_missing,
        listed=None if choice.labels is None else len(np.setdiff1d(choice.labels.array, choice.exclude.array)),
        inline_bytes=setting.inline_bytes,
        launch=Launch.here(),
    )


def meshing_job(
    plan: MeshPlan,
    meshing: Meshing,
    summary: Callable[[MeshPlan, LabelChoice], list[tuple[str, str]]] = planning.summary,
) -> Job:
    """Return the job of a plan."""
    assembly = ["beam_volumes.meshing.assembly"] if plan.output.has_manifests else []
    return Job(
        claim=plan.claim,
        summary=partial(summary, plan, meshing.choice),
        stages=stages(plan),
        build=partial(write_meshes_of, plan, meshing.choice),
        settle=partial(settle, plan),
        processes=meshing.layer.asked.workers or 1,
        modules=("beam_volumes.meshing.levels", *assembly),
        warnings=[*meshing.layer.asked.warnings, *_warnings(plan)],
    )


def _warnings(plan: MeshPlan) -> list[str]:
    """Return what a user should know of the destination before the run starts."""
    if plan.remade is not None:
        return [
            f"of {len(plan.cells):,} boxes {len(plan.remade.cells):,} lack files in {plan.claim.place}: these are "
            "made anew, and no others"
        ]
    destination = plan.claim.destination
    named = destination.warnings() if isinstance(destination, MeshFolder) else []
    return named if plan.claim.state != "complete" else []
