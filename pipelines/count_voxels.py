"""Count the voxels of every object of a segmentation, with boxes on request.

python -m pipelines.count_voxels --layer=file:///tmp/neurons --mip=0 --bounding_boxes
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import apache_beam as beam

from beam_volumes import voxel_count_planning as planning
from beam_volumes.additions import DerivedFiles
from beam_volumes.export_planning import bounds_in, check_holes, source_version
from beam_volumes.places import scratch_folder, writable
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from beam_volumes.sources import describe_source
from beam_volumes.voxel_count_files import FILES, REPORT
from beam_volumes.voxel_count_plan import FOLDER, CountPlan
from beam_volumes.voxel_count_report import finish_count, settle
from beam_volumes.voxel_counting import merge_statistics
from pipelines.options import identity, option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Reading, Running, Scratch
from transforms.count_voxels import CountVoxels
from transforms.finish import Finish
from transforms.pool import Execution
from transforms.regions import ListRegions


@dataclass(frozen=True, kw_only=True)
class Config(Reading, Scratch, Running):
    """The options of a count."""

    layer: str = option(
        "Precomputed segmentation to count; the files are written into it.", identity=False, placeholder="URL"
    )
    mip: int = option("Mip to count; the files are written into its folder, as stats/voxel_counts.*.", 0, least=0)
    bounding_boxes: bool = option("Find also the box of each label, in voxels of that mip.", False)
    memory_target: int = option("Bytes that one worker may use.", 3_500_000_000, identity=False, least=1)


def plan(config: Config, setting: Setting) -> Job:
    """Look at the layer, and plan the count; writes nothing.

    Raises:
        VolumeError: an option does not fit the layer.

    """
    setting.check_reachable([("layer", config.layer), ("scratch", config.scratch)], None)
    url = writable("layer", config.layer)
    source = describe_source(url, config.mip, option="layer")
    planning.check_labels(source)
    bounds = bounds_in(source, config.bounds)
    key = source.info["scales"][config.mip]["key"]
    names = tuple(f"{FOLDER}/{name}" for name in FILES)
    destination = DerivedFiles(url, "count_voxels", key, names, f"{FOLDER}/{REPORT}")
    facts = {**identity(config), "source_version": source_version(source)}
    scratch = scratch_folder(config.scratch)
    claim = inspect_destination(destination, facts, resume=config.resume, overwrite=config.overwrite, scratch=scratch)
    check_holes(claim, fill_missing=config.fill_missing)
    memory = planning.share_memory(config.memory_target)
    count = CountPlan(
        claim=claim,
        source=source,
        scale_key=key,
        reading=planning.plan_reading_of(source, bounds, config.memory_target),
        with_boxes=config.bounding_boxes,
        fill_missing=config.fill_missing,
        table_bytes=memory.table_bytes,
        window_bytes=memory.window_bytes,
        launch=Launch.here(),
    )
    return Job(
        claim=claim,
        summary=partial(planning.summary, count),
        stages={k: v for k, v in count.planned.items() if k != "voxels"},
        build=partial(build, count),
        settle=partial(settle, count),
        processes=setting.workers or 1,
        modules=("beam_volumes.voxel_counting", "beam_volumes.voxel_count_kernels"),
    )


def build(plan: CountPlan, root: beam.Pipeline, execution: Execution) -> None:
    """Wire the count: regions are counted, counts merged and written, and all of it proved."""
    regions = root | "List regions" >> ListRegions(plan)
    written = regions | "Count voxels" >> CountVoxels(plan, execution)
    _ = root | "Finish" >> Finish(partial(finish_count, plan), written.statistics, merge_statistics, (written.counts,))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
