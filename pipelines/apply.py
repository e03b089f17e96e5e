"""Apply a function or a torch model to a volume in chunks, with crop and blend at several levels.

python -m pipelines.apply --spec=run.cue
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from beam_volumes.applying import planning
from beam_volumes.applying.chunk_function import batch_of
from beam_volumes.applying.memory_planning import plan_worker_memory
from beam_volumes.applying.outputs import infos_of
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.report import settle
from beam_volumes.applying.specs import build_flow, read_flow
from beam_volumes.applying.trial import try_function
from beam_volumes.places import scratch_folder
from beam_volumes.provenance import Launch
from beam_volumes.runs import inspect_destination
from pipelines.asked_workers import beam_defaults, resource_hints
from pipelines.options import option
from pipelines.running import Job, Setting, run
from pipelines.shared_options import Running, Scratch
from transforms.apply import apply_in_chunks

_TEMPLATE = "BEAM_VOLUMES_IMAGE"
"""Set where a template is launched."""


@dataclass(frozen=True, kw_only=True)
class Config(Scratch, Running):
    """The options of a function applied in chunks."""

    spec: str = option("File that says what to do: .cue, .json or .yaml; see docs/apply.md.", placeholder="FILE")
    set: tuple[str, ...] = option(
        "Values of the spec to replace, such as target.dst.path=gs://bucket/b, one or several.", ()
    )
    import_: tuple[str, ...] = option("Modules of yours that register what the spec names, such as my_package.ops.", ())
    allow_code: bool = option(
        "Let a spec from elsewhere, or that of a template, hold code (lambda); a local file may in any case.", False
    )
    dry_fn: bool = option("Try the function on a chunk of zeros before anything is written.", True)
    memory_target: int = option("Bytes that one worker may use.", 3_500_000_000, least=1)
    scratch: str | None = option(
        "Folder for intermediate files; by default the first of level_intermediaries_dirs, else beside the volume.",
        None,
        identity=False,
    )


def plan(config: Config, setting: Setting) -> Job:
    """Read the spec, look at its volumes, and plan the run; writes nothing.

    Raises:
        VolumeError: the spec has faults, or what it names does not fit.

    """
    # What a template is given comes from whoever may launch it.
    spec = read_flow(config.spec, config.set, config.import_, config.allow_code, local_code=_TEMPLATE not in os.environ)
    asked = build_flow(spec)
    flow, cut = asked.target, asked.target.plan()
    planning.check_inputs(flow, cut)
    scratch = scratch_folder(config.scratch) if config.scratch else flow.intermediaries
    setting.check_reachable(planning.places(flow, scratch), None)
    facts = {"import": [*config.import_], **planning.identity(flow, cut, spec)}
    destination = planning.destination(flow, cut)
    claim = inspect_destination(destination, facts, resume=config.resume, overwrite=config.overwrite, scratch=scratch)
    trial = try_function(flow, cut) if config.dry_fn and claim.state != "complete" else None
    processes = config.processes or asked.workers.processes or setting.workers or 1
    # Where there is one process, it is this one.
    runs_beam = not setting.local or processes == 1
    memory = plan_worker_memory(flow, cut, trial, config.memory_target, runs_beam=runs_beam)
    applying = ApplyPlan(
        claim=claim,
        spec=spec,
        subchunks=cut,
        kinds=tuple(output.kind for output in flow.outputs),
        infos=infos_of(flow.outputs),
        deferred=planning.deferred(flow, cut),
        batch=batch_of(flow.operation(cut.bottom.crop)),
        region=planning.plan_region(flow, cut),
        cache_bytes=memory.cache,
        threads=max(1, (os.cpu_count() or 1) // processes) if setting.local else 1,
        inline_bytes=setting.inline_bytes,
        picture=setting.local,
        launch=Launch.here("torch"),
    ).taken_up()
    return Job(
        claim=claim,
        summary=partial(planning.summary, flow, applying, memory, trial),
        stages={"chunks": applying.planned["tops"], "boxes": applying.planned["units"]},
        build=partial(apply_in_chunks, applying, resource_hints(asked.workers, flow.model)),
        settle=partial(settle, applying),
        processes=processes,
        modules=("beam_volumes.applying.processing", "torch"),
        warnings=planning.warnings(asked, local=setting.local),
        beam_defaults=beam_defaults(asked.workers),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(Config, plan, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
