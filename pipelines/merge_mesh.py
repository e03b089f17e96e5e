"""Merge the fragments of `forge_mesh`, or of other tools, to multi-resolution meshes.

python -m pipelines.merge_mesh --layer=file:///tmp/neurons --num_lods=3
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from beam_volumes.errors import OptionError
from beam_volumes.meshing import merge_planning
from beam_volumes.meshing import mesh_planning as planning
from beam_volumes.meshing.fragment_source import find_fragments
from beam_volumes.places import writable
from beam_volumes.sources import describe_source
from beam_volumes.spatial_index.planning import plan_index
from pipelines.asking import Asked
from pipelines.mesh_options import Choosing, Indexing, Storing
from pipelines.meshing import Layer, Meshing, meshing_job, multires_meshes, plan_meshes
from pipelines.options import option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Running, Scratch


@dataclass(frozen=True, kw_only=True)
class Config(Choosing, Storing, Indexing, Scratch, Running):
    """The options of merging."""

    layer: str = option("Precomputed segmentation with fragments.", identity=False, placeholder="URL")
    fragments_dir: str = option("Folder of the volume with the fragments.", "mesh_fragments")
    mesh_dir: str = option("Folder of the volume that the meshes go to.", "mesh", identity=False)
    spatial_index_db: str | None = option(
        "Database of `index_mesh`, where the files of --labels are looked up; without it all files are opened.",
        None,
        identity=False,
        placeholder="URL",
    )

    fill_holes: bool = option("Drop the walls of cavities that reach over several boxes.", False)
    fill_missing: bool = option(
        "Take a box whose file of fragments is missing for empty, even if the spatial index does not say so; the "
        "report lists them.",
        False,
        identity=False,
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work whatever the layer is."""
        super().__post_init__()
        ours, theirs = (f"{folder.strip('/')}/" for folder in (self.mesh_dir, self.fragments_dir))
        if ours.startswith(theirs) or theirs.startswith(ours):
            raise OptionError(
                f"--mesh_dir: expected another folder than that of the fragments, neither in it nor around it, came "
                f"{self.mesh_dir} and {self.fragments_dir}: fragments stay as they are"
            )
        if self.spatial_index_db is not None and self.labels is None:
            raise OptionError("--spatial_index_db: expected --labels with it: for all labels, all files are opened")
        if self.spatial_index_db is not None and self.spatial_index:
            raise OptionError(
                "--spatial_index: expected none with --spatial_index_db, with which boxes are left out that an index "
                "tells of: leave one of the two out"
            )


def plan(config: Config, setting: Setting) -> Job:
    """Look at the fragments, and plan their meshes; writes nothing.

    Raises:
        VolumeError: an option does not fit them.

    """
    setting.check_reachable([("layer", config.layer), ("scratch", config.scratch)], None)
    url = writable("layer", config.layer)
    found = find_fragments(url, config.fragments_dir)
    source = describe_source(url, found.mip, option="layer")
    files, cells = found.cells_of(source)
    warnings = list[str]()
    if config.spatial_index_db is not None:
        warnings = found.check_database(config.spatial_index_db)
        files = found.only_of(files, config.spatial_index_db, planning.labels_of("labels", config.labels or ""))
    layer = Layer(Asked(None, None, warnings, setting.workers), source, url, files.tasks.bounds)
    # Boxes that are left out would be missing in the index.
    asked = config.spatial_index if files.wanted is None else False
    meshing = Meshing(
        task="merge_mesh",
        layer=layer,
        choice=planning.choose(0, config.labels, config.exclude),
        cells=cells,
        input=files,
        output=multires_meshes(config),
        index=plan_index(asked, source, files.tasks, url, config.mesh_dir),
        mesh_dir=config.mesh_dir,
        scratch=config.scratch,
        max_error=config.max_error,
        fill_holes=config.fill_holes,
        fill_missing=config.fill_missing,
        facts={
            "fragments_version": found.version,
            # What an interrupted run has counted is of these alone.
            **({} if files.wanted is None else {"boxes_of_spatial_index_db": files.wanted.crc32c}),
        },
    )
    return meshing_job(plan_meshes(config, setting, meshing), meshing, merge_planning.summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
