"""Forge the fragments of meshes, box by box, and their spatial index: what `merge_mesh` and other tools go on from.

python -m pipelines.forge_mesh --layer=file:///tmp/neurons --dust_threshold=100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from beam_volumes.meshing import mesh_planning as planning
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.mesh_report import settle
from beam_volumes.meshing.remaking import remaking
from beam_volumes.spatial_index.planning import plan_index
from pipelines.meshing import Forging, Kind, Storing, look_at_layer, plan_meshes, stages
from pipelines.options import option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Running, Scratch
from transforms.mesh import write_meshes_of


@dataclass(frozen=True, kw_only=True)
class Config(Forging, Scratch, Running):
    """The options of forging."""

    mesh_dir: str = option("Folder of the volume that the fragments go to.", "mesh_fragments", identity=False)
    sharded: bool = option(
        "Write one file for each box, for merge_mesh; false writes legacy meshes: a file for each object in a box, and "
        "manifests.",
        True,
    )


def plan(config: Config, setting: Setting) -> Job:
    """Look at the layer, and plan its fragments; writes nothing.

    Raises:
        VolumeError: an option does not fit the layer.

    """
    layer = look_at_layer(config, setting, config.scratch)
    cells = planning.plan_cells(
        layer.source, layer.bounds, config.cell_size, config.memory_target, close_borders=config.close_borders
    )
    index = plan_index(config.spatial_index, layer.source, cells.tasks(layer.bounds), layer.url, config.mesh_dir)
    kind = Kind("forge_mesh", "fragments" if config.sharded else "legacy", Storing(), index)
    whole, choice = plan_meshes(config, setting, layer, cells, kind)
    fragments = remaking(whole, config.dust_threshold)
    return Job(
        claim=fragments.claim,
        summary=partial(planning.summary, fragments, choice),
        stages=stages(fragments),
        build=partial(write_meshes_of, fragments, choice),
        settle=partial(settle, fragments),
        processes=layer.asked.workers or 1,
        modules=("beam_volumes.meshing.levels",),
        warnings=[*layer.warnings(fragments), *_missing(fragments)],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


def _missing(plan: MeshPlan) -> list[str]:
    if plan.remade is None:
        return []
    return [
        f"of {len(plan.cells):,} boxes {len(plan.remade.cells):,} lack files in {plan.claim.place}: these are made "
        "anew, and no others"
    ]


if __name__ == "__main__":
    sys.exit(main())
