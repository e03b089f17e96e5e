"""Export a volume, or a proofreading volume as it was at one moment, as a sharded Precomputed volume.

python -m pipelines.export --src="made://neurons?size=256,256,64" --dst=file:///tmp/neurons
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from beam_volumes import export_planning as planning
from beam_volumes.destinations import NewVolume
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Vec
from beam_volumes.places import destination, is_proofreading, scratch_folder
from beam_volumes.precomputed.info import volume_info
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from beam_volumes.scale_planning import plan_mips
from beam_volumes.shard_assembly import finished_shards
from beam_volumes.sources import describe_source
from beam_volumes.volume_estimate import summary
from beam_volumes.volume_plan import VolumePlan, finished_bits
from beam_volumes.volume_report import settle
from pipelines.asking import ask
from pipelines.options import identity, option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import (
    Asking,
    EncodingLevel,
    Encodings,
    Pyramid,
    Reading,
    Running,
    Scratch,
    Sizing,
    Writing,
    mip_options,
)
from transforms.volume import write_volume


@dataclass(frozen=True, kw_only=True)
class Config(Pyramid, EncodingLevel, Reading, Writing, Asking, Sizing, Scratch, Running):
    """The options of an export."""

    src: str = option("Volume to read: graphene://, made://, or any that CloudVolume reads.", placeholder="URL")
    dst: str = option("Place of the Precomputed volume to write.", identity=False, placeholder="URL")
    mip: int = option("Mip of the source to export; it becomes mip 0 of the destination.", 0, least=0)
    timestamp: int | None = option("UNIX second at which a graphene:// volume is exported.", None, least=1)
    agglomerate: bool = option("Export root ids of a graphene:// volume; false exports its supervoxels.", True)
    stop_layer: int | None = option("Export the ids of this layer (2 is level 2) instead of root ids.", None, least=2)
    chunk_size: Vec = option("Shape of a chunk, voxels.", (128, 128, 32), least=1)
    encoding: Encodings | None = option(
        "Encoding of chunks, mip by mip, the last one for all that follow; auto is the smallest lossless one that "
        "Neuroglancer reads; by default compressed_segmentation for ids of 32 and 64 bits, and raw for the rest.",
        None,
    )
    num_mips: int | Literal["auto"] = option(
        "Coarser mips to make as well; auto goes on until the volume fits one chunk.", 0, least=0
    )
    translate: Vec = option("Voxels by which the volume is moved.", (0, 0, 0))
    clean_info: bool = option("Leave out of info what was derived from the source: meshes, skeletons.", True)

    def __post_init__(self) -> None:
        """Refuse what cannot work whatever the source is."""
        super().__post_init__()
        asked = [f"--{name}" for name in ("timestamp", "stop_layer") if getattr(self, name) is not None]
        if asked and not is_proofreading(self.src):
            raise OptionError(f"{', '.join(asked)}: expected a graphene:// volume with it, as --src")
        if asked and not self.agglomerate:
            raise OptionError(f"{', '.join(asked)}: expected none with --agglomerate=false: supervoxels have no time")


def plan(config: Config, setting: Setting) -> Job:
    """Look at source and destination, and plan the export; writes nothing.

    Raises:
        VolumeError: an option does not fit the source or the destination.

    """
    setting.check_reachable([("src", config.src), ("dst", config.dst), ("scratch", config.scratch)], config.token_env)
    question = (config.timestamp, config.stop_layer) if config.agglomerate else None
    graph, server, warnings, workers = ask(config.src, question, config, setting)
    source = describe_source(config.src, config.mip, graph)
    setting.check_reachable([("src", source.voxels_url)], None)
    bounds = planning.bounds_in(source, config.bounds)
    url = destination(config.dst, source)
    options = mip_options(config, config.chunk_size)
    mips = plan_mips(source, bounds.translated(config.translate), options, config.translate)
    targets = mips.targets(url, options, 0)
    facts = {
        **identity(config),
        "source_version": planning.source_version(source),
        "encodings": [target.scale.encoding for target in targets],
    }
    scratch = scratch_folder(config.scratch)
    info = volume_info(source.info, source.layer_type, [target.scale for target in targets], clean=config.clean_info)
    claim = inspect_destination(
        NewVolume(url, info), facts, resume=config.resume, overwrite=config.overwrite, scratch=scratch
    )
    planning.check_holes(claim, fill_missing=config.fill_missing)
    export = VolumePlan(
        claim=claim,
        source=source,
        server=server,
        targets=targets,
        translate=config.translate,
        base_mip=0,
        pyramid=mips.pyramid(source, options, config.translate),
        fill_missing=config.fill_missing,
        lookahead_bytes=config.memory_target // 8,
        inline_bytes=setting.inline_bytes,
        launch=Launch.here(),
        finished=finished_bits(targets, finished_shards(claim, targets)),
    )
    return Job(
        claim=claim,
        summary=partial(summary, export, mips.choices),
        stages={k: v for k, v in export.planned.items() if k != "voxels"},
        build=partial(write_volume, export),
        settle=partial(settle, export),
        processes=workers or 1,
        modules=("beam_volumes.export", "beam_volumes.segmentation_encoder_kernels"),
        warnings=warnings + mips.warnings(source),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
