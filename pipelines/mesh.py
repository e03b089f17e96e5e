"""Mesh every object of a segmentation, with levels of detail, in one run.

python -m pipelines.mesh --layer=file:///tmp/neurons --num_lods=3 --dust_threshold=100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from beam_volumes import export_planning
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Vec
from beam_volumes.meshing import mesh_planning as planning
from beam_volumes.meshing.mesh_folder import MeshFolder
from beam_volumes.meshing.mesh_plan import MeshPlan, Simplification
from beam_volumes.meshing.mesh_report import settle
from beam_volumes.places import is_proofreading, writable
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from beam_volumes.sources import describe_source
from beam_volumes.voxel_count_planning import check_labels
from pipelines.asking import ask
from pipelines.options import identity, option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Asking, Reading, Running
from transforms.mesh import write_meshes_of


@dataclass(frozen=True, kw_only=True)
class Config(Reading, Asking, Running):
    """The options of a meshing run."""

    layer: str = option("Segmentation to mesh: Precomputed, or graphene://.", placeholder="URL")
    dst: str | None = option(
        "Precomputed volume to which the meshes are added; by default --layer.", None, identity=False, placeholder="URL"
    )
    mesh_dir: str = option("Folder of the meshes, in the volume.", "mesh", identity=False)
    mip: int = option("Mip to mesh.", 0, least=0)
    timestamp: int | None = option("UNIX second at which a graphene:// volume is meshed.", None, least=1)
    stop_layer: int | None = option("Mesh the ids of this layer (2 is level 2) instead of root ids.", None, least=2)
    num_lods: int = option("Levels of detail, each of cells twice as long as the one before.", 3, least=1)
    dust_threshold: int = option("Fewest voxels of an object, counted in the whole volume.", 0, least=0)
    labels: str | None = option("Labels to mesh, such as 17,42, or a file of them; by default all.", None)
    exclude: str | None = option("Labels not to mesh, or a file of them.", None)
    cell_size: Vec | None = option(
        "Voxels of a cell of the finest level; by default up to 256,256,256, as the memory allows.", None, least=1
    )
    simplification_factor: float = option("Triangles of marching cubes for each one of the finest level.", 6, least=1)
    max_error: float | None = option(
        "How far the finest level may be off, nm, each coarser one twice as far; simplification stops there.",
        None,
        least=0,
    )
    lod_factor: float = option("Triangles of a level of detail for each one of the next coarser.", 4, least=1)
    fill_holes: bool = option("Drop the walls of cavities within objects.", False)
    close_borders: bool = option("Close objects where they meet the faces of the volume.", True)
    format: Literal["multires", "legacy"] = option("Multi-resolution Draco, or the single level of old.", "multires")
    sharded: bool = option("Write shards; false gives each object files of its own.", True)
    vertex_quantization_bits: Literal[10, 16] = option("Of each coordinate within a cell.", 16)
    max_fragment_bytes: int = option(
        "Largest fragment; an object with a larger one gets one more, finer level of smaller ones.",
        4_000_000,
        least=1_000,
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work whatever the layer is."""
        super().__post_init__()
        asked = [f"--{name}" for name in ("timestamp", "stop_layer") if getattr(self, name) is not None]
        if is_proofreading(self.layer):
            if self.dst is None:
                raise OptionError(
                    "--dst: expected a Precomputed volume to add the meshes to, because nothing can be written to "
                    f"{self.layer}: export the segmentation first, and name its place"
                )
        elif asked:
            raise OptionError(f"{', '.join(asked)}: expected a graphene:// volume with it, as --layer")
        if self.format == "legacy" and self.num_lods != Config.num_lods and self.num_lods != 1:
            raise OptionError(
                f"--num_lods: expected none with --format=legacy, which has one level, came {self.num_lods}"
            )


def plan(config: Config, setting: Setting) -> Job:
    """Look at the layer, and plan its meshes; writes nothing.

    Raises:
        VolumeError: an option does not fit the layer.

    """
    place = config.dst or config.layer
    places = [("layer", config.layer), ("dst", config.dst), ("scratch", config.scratch)]
    setting.check_reachable(places, config.token_env)
    asked = ask(config.layer, (config.timestamp, config.stop_layer), config, setting)
    url = writable("dst" if config.dst else "layer", place)
    source = describe_source(config.layer, config.mip, asked.graph, option="layer")
    setting.check_reachable([("layer", source.voxels_url)], None)
    check_labels(source)
    bounds = export_planning.bounds_in(source, config.bounds)
    cells, block = planning.plan_cells(
        source, bounds, config.cell_size, config.memory_target, close_borders=config.close_borders
    )
    choice = planning.choose(config.dust_threshold, config.labels, config.exclude)
    facts = {
        **identity(config),
        "source_version": export_planning.source_version(source),
        "labels_listed": planning.choice_identity(choice),
        "cell": cells.cell,
    }
    scratch = config.scratch and writable("scratch", config.scratch)
    destination = MeshFolder(url, config.mesh_dir, "mesh")
    claim = inspect_destination(destination, facts, resume=config.resume, overwrite=config.overwrite, scratch=scratch)
    export_planning.check_holes(claim, fill_missing=config.fill_missing)
    meshes = MeshPlan(
        claim=claim,
        source=source,
        server=asked.server,
        bounds=bounds,
        cells=cells,
        block=block,
        num_lods=1 if config.format == "legacy" else config.num_lods,
        bits=config.vertex_quantization_bits,
        simplification=Simplification(config.simplification_factor, config.lod_factor, config.max_error),
        fill_holes=config.fill_holes,
        max_fragment_bytes=config.max_fragment_bytes,
        mesh_format=config.format,
        sharded=config.sharded,
        folder=config.mesh_dir,
        index=None,
        fragments=None,
        fill_missing=config.fill_missing,
        lookahead_bytes=config.memory_target // 8,
        surface_bytes=config.memory_target // 8,
        table_bytes=config.memory_target // 8,
        inline_bytes=setting.inline_bytes,
        launch=Launch.here(),
    )
    return Job(
        claim=claim,
        summary=partial(planning.summary, meshes, choice),
        stages={"labels": len(cells), "cells": len(cells)},
        build=partial(write_meshes_of, meshes, choice),
        settle=partial(settle, meshes),
        processes=asked.workers or 1,
        modules=("beam_volumes.meshing.levels", "beam_volumes.meshing.assembly"),
        warnings=asked.warnings,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
