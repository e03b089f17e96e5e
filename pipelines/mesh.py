"""Mesh every object of a segmentation, with levels of detail, in one run.

python -m pipelines.mesh --layer=file:///tmp/neurons --num_lods=3 --dust_threshold=100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

from beam_volumes.errors import OptionError
from beam_volumes.meshing import mesh_planning as planning
from beam_volumes.meshing.mesh_report import settle
from beam_volumes.spatial_index.planning import plan_index
from pipelines.meshing import Forging, Kind, Storing, look_at_layer, plan_meshes, stages
from pipelines.options import option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Running, Scratch
from transforms.mesh import write_meshes_of


@dataclass(frozen=True, kw_only=True)
class Config(Forging, Storing, Scratch, Running):
    """The options of a meshing run."""

    mesh_dir: str = option("Folder of the meshes, in the volume.", "mesh", identity=False)
    format: Literal["multires", "legacy"] = option(
        "Multi-resolution Draco, or fragments of one level with manifests.", "multires"
    )

    segment_properties: bool = option("Write a table of labels and their voxels, which Neuroglancer shows.", False)

    def __post_init__(self) -> None:
        """Refuse what would do nothing."""
        super().__post_init__()
        names = [*(field.name for field in fields(Storing)), "segment_properties"]
        idle = [f"--{name}" for name in names if getattr(self, name) != getattr(Config, name)]
        if self.format == "legacy" and idle:
            raise OptionError(
                f"{', '.join(idle)}: expected none with --format=legacy, whose meshes have one level of detail and are "
                "files: leave it out"
            )


def plan(config: Config, setting: Setting) -> Job:
    """Look at the layer, and plan its meshes; writes nothing.

    Raises:
        VolumeError: an option does not fit the layer.

    """
    layer = look_at_layer(config, setting, config.scratch)
    cells = planning.plan_cells(
        layer.source, layer.bounds, config.cell_size, config.memory_target, close_borders=config.close_borders
    )
    index = plan_index(config.spatial_index, layer.source, cells.tasks(layer.bounds), layer.url, config.mesh_dir)
    kind = Kind("mesh", config.format, config, index, segment_properties=config.segment_properties)
    meshes, choice = plan_meshes(config, setting, layer, cells, kind)
    return Job(
        claim=meshes.claim,
        summary=partial(planning.summary, meshes, choice),
        stages=stages(meshes),
        build=partial(write_meshes_of, meshes, choice),
        settle=partial(settle, meshes),
        processes=layer.asked.workers or 1,
        modules=("beam_volumes.meshing.levels", "beam_volumes.meshing.assembly"),
        warnings=layer.warnings(meshes),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
