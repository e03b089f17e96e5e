"""Make the coarser mips of a Precomputed volume, all of them in one run that reads each voxel once.

python -m pipelines.downsample --layer=file:///tmp/neurons --num_mips=3
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from beam_volumes import export_planning as planning
from beam_volumes.additions import NewScales
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Vec
from beam_volumes.places import scratch_folder, writable
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from beam_volumes.scale_planning import plan_mips
from beam_volumes.shard_assembly import finished_shards
from beam_volumes.sources import describe_source
from beam_volumes.volume_estimate import summary
from beam_volumes.volume_plan import VolumePlan, finished_bits
from beam_volumes.volume_report import settle
from pipelines.options import identity, option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import (
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
class Config(Pyramid, EncodingLevel, Reading, Writing, Sizing, Scratch, Running):
    """The options of a downsampling."""

    layer: str = option("Precomputed volume to which the mips are added.", identity=False, placeholder="URL")
    mip: int = option("Mip to start from; coarser ones must not be there yet.", 0, least=0)
    chunk_size: Vec | None = option("Shape of a chunk, voxels; by default that of --mip.", None, least=1)
    encoding: Encodings = option(
        "Encoding of chunks, mip by mip, the last one for all that follow; auto is the smallest lossless one that "
        "Neuroglancer reads.",
        ("auto",),
    )


def plan(config: Config, setting: Setting) -> Job:
    """Look at the volume, and plan its mips; writes nothing.

    Raises:
        VolumeError: an option does not fit the volume.

    """
    setting.check_reachable([("layer", config.layer), ("scratch", config.scratch)], None)
    url = writable("layer", config.layer)
    source = describe_source(url, config.mip, option="layer")
    options = mip_options(config, config.chunk_size or source.chunk)
    mips = plan_mips(source, planning.bounds_in(source, config.bounds), options, base_written=False)
    if not mips.factors:
        raise OptionError(
            f"--num_mips: expected a volume larger than one chunk of {options.chunk}, or a number of mips, came "
            f"{config.num_mips} and a volume of {source.box.shape}: there is nothing to make"
        )
    targets = mips.targets(url, options, config.mip)
    entries = [target.scale.to_info() for target in targets]
    facts = {**identity(config), "source_version": planning.source_version(source), "scales": entries}
    destination = NewScales.planned(url, config.mip, entries)
    scratch = scratch_folder(config.scratch)
    claim = inspect_destination(destination, facts, resume=config.resume, overwrite=config.overwrite, scratch=scratch)
    planning.check_holes(claim, fill_missing=config.fill_missing)
    downsampling = VolumePlan(
        claim=claim,
        source=source,
        server=None,
        targets=targets,
        base_mip=config.mip,
        translate=(0, 0, 0),
        pyramid=mips.pyramid(source, options),
        fill_missing=config.fill_missing,
        lookahead_bytes=0,
        inline_bytes=setting.inline_bytes,
        launch=Launch.here(),
        finished=finished_bits(targets, finished_shards(claim, targets)),
    )
    return Job(
        claim=claim,
        summary=partial(summary, downsampling, mips.choices),
        stages={k: v for k, v in downsampling.planned.items() if k != "voxels"},
        build=partial(write_volume, downsampling),
        settle=partial(settle, downsampling),
        processes=setting.workers or 1,
        warnings=mips.warnings(source),
        modules=("beam_volumes.export", "beam_volumes.downsampling_kernels"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
