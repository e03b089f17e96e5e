"""Mesh every object of a segmentation, with levels of detail, in one run.

python -m pipelines.mesh --layer=file:///tmp/neurons --num_lods=3 --dust_threshold=100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from beam_volumes.errors import OptionError
from beam_volumes.meshing.mesh_output import LegacyMeshes
from pipelines.mesh_options import Forging, Storing
from pipelines.meshing import look_at_layer, meshing_job, meshing_of_voxels, multires_meshes, plan_meshes
from pipelines.options import option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Running, Scratch


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
    legacy = config.format == "legacy"
    output = LegacyMeshes() if legacy else multires_meshes(config, segment_properties=config.segment_properties)
    layer = look_at_layer(config, setting, config.scratch)
    meshing = meshing_of_voxels("mesh", config, output, layer, config.mesh_dir, config.scratch)
    return meshing_job(plan_meshes(config, setting, meshing), meshing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
