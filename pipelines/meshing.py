"""What the pipelines that mesh have in common: options, and the plan that is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from beam_volumes import export_planning
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.meshing import mesh_planning as planning
from beam_volumes.meshing.labels import LabelChoice
from beam_volumes.meshing.mesh_folder import MeshFolder
from beam_volumes.meshing.mesh_plan import FragmentFiles, MeshPlan, Simplification
from beam_volumes.places import is_proofreading, scratch_folder, writable
from beam_volumes.precomputed.info import Json
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from beam_volumes.sources import Source, describe_source
from beam_volumes.spatial_index.files import IndexFiles
from beam_volumes.volume_plan import Server
from beam_volumes.voxel_count_planning import check_labels
from pipelines.asking import Asked, ask
from pipelines.options import identity, option
from pipelines.running import Setting
from pipelines.shared_options import Asking, Options, Reading


@dataclass(frozen=True, kw_only=True)
class Choosing(Options):
    """Which labels are meshed, and how exactly."""

    labels: str | None = option(
        "Labels to mesh, such as 17,42, or a file of them; by default all. (Those of a Dataflow job are --label.)", None
    )
    exclude: str | None = option("Labels not to mesh, or a file of them.", None)
    max_error: float | None = option(
        "How far the finest level may be off, nm, and each coarser one twice as far, which ends simplification; by "
        "default the longest edge of a voxel.",
        None,
        least=0,
    )


@dataclass(frozen=True, kw_only=True)
class Indexing(Options):
    """Whether there is a spatial index."""

    spatial_index: bool | None = option(
        "Write files that tell which objects are in which box (*.spatial), too, for CloudVolume, index_mesh and "
        "merge_mesh; by default where all of the volume is meshed, without --bounds.",
        None,
        identity=False,
    )


@dataclass(frozen=True, kw_only=True)
class Forging(Choosing, Reading, Asking, Indexing):
    """How voxels become surfaces."""

    layer: str = option("Segmentation to mesh: Precomputed, or graphene://.", placeholder="URL")
    dst: str | None = option(
        "Precomputed volume to which the meshes are added; by default --layer.", None, identity=False, placeholder="URL"
    )
    mip: int = option("Mip to mesh.", 0, least=0)
    timestamp: int | None = option("UNIX second at which a graphene:// volume is meshed.", None, least=1)
    stop_layer: int | None = option("Mesh the ids of this layer (2 is level 2) instead of root ids.", None, least=2)
    dust_threshold: int = option("Fewest voxels of an object, counted in the whole volume.", 0, least=0)
    cell_size: Vec | None = option(
        "Voxels of a cell of the finest level; by default up to 256,256,256, as the memory allows.", None, least=1
    )
    memory_target: int = option(
        "Bytes that one worker may use; decides the size of cells where --cell_size does not.",
        3_500_000_000,
        identity=False,
        least=1,
    )
    simplification_factor: float = option("Triangles of marching cubes for each one of the finest level.", 6, least=1)
    fill_holes: bool = option("Drop the walls of cavities within objects.", False)
    close_borders: bool = option("Close objects where they meet the faces of the volume.", True)

    def __post_init__(self) -> None:
        """Refuse what cannot work whatever the layer is."""
        super().__post_init__()
        if self.dust_threshold >= 2**63:
            raise OptionError(f"--dust_threshold: expected fewer voxels than 2^63, came {self.dust_threshold}")
        asked = [f"--{name}" for name in ("timestamp", "stop_layer") if getattr(self, name) is not None]
        if is_proofreading(self.layer):
            if self.dst is None:
                raise OptionError(
                    "--dst: expected a Precomputed volume to add the meshes to, because nothing can be written to "
                    f"{self.layer}: export the segmentation first, and name its place"
                )
        elif asked:
            raise OptionError(f"{', '.join(asked)}: expected a graphene:// volume with it, as --layer")


@dataclass(frozen=True, kw_only=True)
class Storing(Options):
    """How multi-resolution meshes are stored."""

    num_lods: int = option("Levels of detail, each of cells twice as long as the one before.", 3, least=1)
    lod_factor: tuple[float, ...] = option(
        "Triangles of a level of detail for each one of the next coarser, level by level; the last one goes on.",
        (4.0,),
        least=1,
    )
    sharded: bool = option("Write shards; false gives each object files of its own.", True)
    vertex_quantization_bits: Literal[10, 16] = option("Of each coordinate within a cell.", 16)
    max_fragment_bytes: int = option(
        "Largest fragment; an object with larger ones gets finer levels, up to four, of smaller ones.",
        4_000_000,
        least=1_000,
    )

    def __post_init__(self) -> None:
        """Refuse factors of levels that there are not."""
        super().__post_init__()
        if len(self.lod_factor) > max(self.num_lods - 1, 1):
            raise OptionError(
                f"--lod_factor: expected at most one for each of the levels after the first, of which --num_lods="
                f"{self.num_lods} makes {self.num_lods - 1}, came {len(self.lod_factor)}: leave some out, or make more "
                "levels"
            )


class Layer(NamedTuple):
    """A segmentation that is meshed, and where its meshes go."""

    asked: Asked
    source: Source
    url: str
    bounds: Box

    @property
    def server(self) -> Server | None:
        """Who is asked for roots."""
        return self.asked.server

    def warnings(self, plan: MeshPlan) -> list[str]:
        """Tell what a user should know before the run starts."""
        destination = plan.claim.destination
        named = destination.warnings() if isinstance(destination, MeshFolder) else []
        return [*self.asked.warnings, *(named if plan.claim.state not in ("complete", "incomplete") else [])]


def look_at_layer(config: Forging, setting: Setting, scratch: str | None) -> Layer:
    """Look at the segmentation that a Config names.

    Raises:
        VolumeError: it cannot be meshed.

    """
    setting.check_reachable([("layer", config.layer), ("dst", config.dst), ("scratch", scratch)], config.token_env)
    asked = ask(config.layer, (config.timestamp, config.stop_layer), config, setting)
    url = writable("dst" if config.dst else "layer", config.dst or config.layer)
    source = describe_source(config.layer, config.mip, asked.graph, option="layer")
    setting.check_reachable([("layer", source.voxels_url)], None)
    check_labels(source)
    return Layer(asked, source, url, export_planning.bounds_in(source, config.bounds))


def stages(plan: MeshPlan) -> dict[str, int | None]:
    """Return what progress is shown of, step by step, and how much there is of it, where that is known beforehand."""
    planned = plan.planned
    # Where not all cells are looked at, there may be parts that no label belongs to.
    parts = plan.label_parts if plan.label_parts == 1 or planned["counted"] == len(plan.cells) else None
    levels: dict[str, int | None] = {"parts of levels": None} if plan.num_lods > 1 else {}
    shards: dict[str, int | None] = {"shards": None} if plan.mesh_format != "fragments" else {}
    return {"labels": planned["counted"], "parts of labels": parts, "cells": planned["cells"], **levels, **shards}


class Kind(NamedTuple):
    """What a pipeline makes.

    Attributes:
        task: its name.
        mesh_format: see `MeshPlan`.
        spatial_index: what is written of it; None for nothing.
        fragments: what it merges; None for voxels.
        fragments_version: see `FragmentSource`.
        storing: how multi-resolution meshes are stored.
        segment_properties: whether a table of the labels is written.

    """

    task: str
    mesh_format: Literal["multires", "legacy", "fragments"]
    storing: Storing
    spatial_index: IndexFiles | None = None
    fragments: FragmentFiles | None = None
    segment_properties: bool = False
    fragments_version: str = ""


def plan_meshes(
    config: Any, setting: Setting, layer: Layer, cells: planning.CellSizes, kind: Kind
) -> tuple[MeshPlan, LabelChoice]:
    """Return the plan of a meshing run, and which labels it meshes; writes nothing.

    Raises:
        VolumeError: an option does not fit the layer, or what stands at the destination.

    """
    choice = planning.choose(getattr(config, "dust_threshold", 0), config.labels, config.exclude)
    facts: Json = {
        **identity(config),
        "source_version": export_planning.source_version(layer.source),
        "labels_listed": planning.choice_identity(choice),
        "cell": list(cells.cells.cell),
        "spatial_index": kind.spatial_index is not None,
        **({"fragments_version": kind.fragments_version} if kind.fragments else {}),
    }
    scratch = scratch_folder(config.scratch)
    destination = MeshFolder(
        layer.url, config.mesh_dir, kind.task, volume_option="dst" if getattr(config, "dst", None) else "layer"
    )
    claim = inspect_destination(destination, facts, resume=config.resume, overwrite=config.overwrite, scratch=scratch)
    fill_missing = getattr(config, "fill_missing", False)
    export_planning.check_holes(claim, fill_missing=fill_missing)
    # Of what is merged, none takes such a share.
    share = getattr(config, "memory_target", Forging.memory_target) // 8
    storing = kind.storing
    plan = MeshPlan(
        claim=claim,
        source=layer.source,
        server=layer.server,
        bounds=layer.bounds,
        cells=cells.cells,
        block=cells.block,
        num_lods=storing.num_lods if kind.mesh_format == "multires" else 1,
        bits=storing.vertex_quantization_bits,
        simplification=Simplification(
            getattr(config, "simplification_factor", 1.0),
            storing.lod_factor,
            max(layer.source.resolution_nm) if config.max_error is None else config.max_error,
        ),
        fill_holes=getattr(config, "fill_holes", False),
        max_fragment_bytes=storing.max_fragment_bytes,
        mesh_format=kind.mesh_format,
        sharded=storing.sharded,
        folder=config.mesh_dir,
        index=kind.spatial_index,
        fragments=kind.fragments,
        segment_properties=kind.segment_properties,
        picture=setting.local and kind.mesh_format != "fragments",
        fill_missing=fill_missing,
        lookahead_bytes=share,
        surface_bytes=share,
        table_bytes=share,
        listed=None if choice.labels is None else len(np.setdiff1d(choice.labels.array, choice.exclude.array)),
        inline_bytes=setting.inline_bytes,
        launch=Launch.here(),
    )
    return plan, choice
