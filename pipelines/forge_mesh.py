"""Forge the fragments of meshes, box by box, and their spatial index: what `merge_mesh` and other tools go on from.

python -m pipelines.forge_mesh --layer=file:///tmp/neurons --dust_threshold=100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from beam_volumes.meshing.mesh_output import FragmentPacks, LegacyMeshes
from beam_volumes.meshing.remaking import remaking
from pipelines.mesh_options import Forging
from pipelines.meshing import look_at_layer, meshing_job, meshing_of_voxels, plan_meshes
from pipelines.options import option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Running, Scratch


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
    output = FragmentPacks() if config.sharded else LegacyMeshes()
    meshing = meshing_of_voxels("forge_mesh", config, output, layer, config.mesh_dir, config.scratch)
    whole = plan_meshes(config, setting, meshing)
    return meshing_job(remaking(whole, config.dust_threshold) if config.sharded else whole, meshing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
