"""What is left of a command line for Apache Beam: checked, where Beam itself warns and runs with defaults."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
    _BeamArgumentParser,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import PipelineRunner, create_runner

from beam_volumes.errors import OptionError

LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_LOCAL_NAMES = ("directrunner", "direct", "fnapirunner", "fnapi", "switchingdirectrunner", "switchingdirect")
_REFUSED = {
    "dask": "it computes only the last step's graph and loses what finish_bundle yields",
    "prism": "it is a program that Beam downloads when the job starts",
    "bundlebaseddirect": "it does not run every kind of step",
    "interactive": "it is meant for notebooks",
}

# Machine types whose names do not end in their vCPUs: shared cores, and those named by accelerators (vCPUs for each).
_MACHINES = {"f1-micro": 1, "g1-small": 1, "e2-micro": 2, "e2-small": 2, "e2-medium": 2, "a2-megagpu-16g": 96}
_GPUS = {"a2-highgpu": 12, "a2-ultragpu": 12, "a3-highgpu": 26}
_CUSTOM = re.compile(r"(?:[a-z0-9]+-)?custom-([0-9]+)-[0-9]+(?:-ext)?")
_PREDEFINED = re.compile(r"[a-z0-9]+-[a-z0-9]+-([0-9]+)(?:-lssd|-metal)?")
_GPU = re.compile(r"(a[23]-[a-z]+gpu)-([0-9]+)g")


class _Parser(_BeamArgumentParser):
    """Beam's own parser of options, except that an error is an OptionError and not a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"Apache Beam: {message}")


def known_names() -> set[str]:
    """Return every option of Apache Beam in this process, with its dashes."""
    return set(_parser()._option_string_actions)


def unknown_arguments(args: Sequence[str]) -> list[str]:
    """Return the arguments that Apache Beam does not know, in order.

    Raises OptionError for a value of the wrong type, and for an option given twice with different values.
    """
    parser = _parser()
    _check_repeated(parser, args)
    return parser.parse_known_args(list(args))[1]


def beam_options(args: Sequence[str]) -> PipelineOptions:
    """Return the checked options of Apache Beam; a local run always names the in-memory engine.

    Raises OptionError for a runner that does not exist, cannot be used here, or lacks options, and for local runs in
    Beam's threaded and process modes, which lose elements without a word (Beam 2.77).
    """
    options = PipelineOptions(list(args))
    # Steps live in modules, never in __main__: there is no session to pickle.
    options.view_as(SetupOptions).save_main_session = False
    if is_local(options):
        _check_local(options)
        # "DirectRunner" would try Prism first, another engine with a download.
        options.view_as(StandardOptions).runner = LOCAL_RUNNER
    else:
        _check_distributed(options)
        _work_on_one_element_at_a_time(options.view_as(DebugOptions))
    return options


def with_defaults(options: PipelineOptions, defaults: Mapping[str, Any]) -> PipelineOptions:
    """Return options with values for those that the command line does not give."""
    given = options.get_all_options(drop_default=True)
    return PipelineOptions.from_dictionary({**defaults, **given})


def is_local(options: PipelineOptions) -> bool:
    """Whether the job runs in this process, in memory: no `--runner`, DirectRunner or FnApiRunner."""
    return _short_name(options) in _LOCAL_NAMES


def workers_at_most(options: PipelineOptions) -> int | None:
    """Return the greatest number of worker processes that the job can have; None where the options do not bound it.

    On Dataflow that is `--max_num_workers` machines with one Python process per vCPU of `--machine_type`, or one per
    machine under `--experiments=no_use_multiple_sdk_containers`; without both of the former nothing is known. A local
    run has one (its process pools apart).
    """
    if is_local(options):
        return 1
    workers = options.view_as(WorkerOptions)
    machines = workers.max_num_workers
    if machines is None and workers.autoscaling_algorithm == "NONE":
        machines = workers.num_workers
    each = _processes_per_machine(options)
    return None if machines is None or each is None else int(machines) * each


def vcpus(machine_type: str | None) -> int | None:
    """Return the vCPUs of a Compute Engine machine type such as `n1-standard-4`; None where its name does not tell."""
    name = (machine_type or "").rsplit("/", 1)[-1]
    if name in _MACHINES:
        return _MACHINES[name]
    if (gpu := _GPU.fullmatch(name)) and gpu[1] in _GPUS:
        return _GPUS[gpu[1]] * int(gpu[2])
    match = _CUSTOM.fullmatch(name) or _PREDEFINED.fullmatch(name)
    return int(match[1]) if match else None


def _parser() -> _Parser:
    parser = _Parser(allow_abbrev=False, add_help=False)
    # Beam itself takes the last of several classes of one name (a module that was loaded again).
    for subclass in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        try:
            subclass._add_argparse_args(parser)
        except argparse.ArgumentError as error:
            raise OptionError(
                f"an option of Apache Beam is declared twice, by {subclass.__module__}.{subclass.__name__} too "
                f"({error}): no pipeline runs in such a process; remove one of the two PipelineOptions classes"
            ) from error
    return parser


def _check_repeated(parser: _Parser, args: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for argument, following in itertools.pairwise([*args, ""]):
        name, equals, value = argument.partition("=")
        action = parser._option_string_actions.get(name)
        if not isinstance(action, argparse._StoreAction):
            continue
        came = value if equals else following
        before = seen.setdefault(action.dest, came)
        if before != came:
            raise OptionError(f"{name}: expected one value, came {before!r} and {came!r}")


def _short_name(options: PipelineOptions) -> str:
    runner = options.view_as(StandardOptions).runner or "DirectRunner"
    return runner.rsplit(".", 1)[-1].lower()


def _check_local(options: PipelineOptions) -> None:
    direct = options.view_as(DirectOptions)
    for name, value, allowed in (
        ("direct_running_mode", direct.direct_running_mode, "in_memory"),
        ("direct_num_workers", direct.direct_num_workers, 1),
    ):
        if value != allowed:
            raise OptionError(
                f"--{name}: expected {allowed}, came {value}: Beam's local threads and processes lose elements without "
                f"a word; leave the option out, and use --processes to say how many cores to take"
            )


def _check_distributed(options: PipelineOptions) -> None:
    runner = options.view_as(StandardOptions).runner
    short = _short_name(options).removesuffix("runner")
    if short in _REFUSED:
        raise OptionError(
            f"--runner: {runner} cannot run this pipeline: {_REFUSED[short]}; name FnApiRunner for a local run"
        )
    try:
        instance = create_runner(runner)
    except ImportError as error:
        hint = "; install it with: pip install 'beam-volumes[gcp]'" if short.endswith("dataflow") else ""
        raise OptionError(f"--runner: {runner} cannot be loaded ({error}){hint}") from error
    except (ValueError, AttributeError) as error:
        names = ["FnApiRunner", "DataflowRunner", "FlinkRunner", "SparkRunner", "PortableRunner"]
        near = get_close_matches(runner, names, n=1) or names
        raise OptionError(f"--runner: expected one of {', '.join(near)}, came {runner!r}") from error
    errors = _validation_errors(options, instance)
    if errors:
        raise OptionError(f"--runner={runner}: {'; '.join(' '.join(str(error).split()) for error in errors)}")


def _work_on_one_element_at_a_time(options: DebugOptions) -> None:
    """Use one thread in each process: memory, and a process's share of a server, are planned for one element."""
    threads = options.number_of_worker_harness_threads
    if threads not in (None, 1):
        raise OptionError(
            f"--number_of_worker_harness_threads: expected 1, came {threads}: memory is planned for one element in "
            "each process; more machines, or more vCPUs in each, do more at once"
        )
    options.number_of_worker_harness_threads = 1


class _OfflineValidator(PipelineOptionsValidator):
    """Beam's checks, except those that ask Google Cloud; Beam makes them itself when the pipeline is built."""

    def __init__(self, options: PipelineOptions, runner: PipelineRunner) -> None:
        super().__init__(options, runner)
        self.OPTIONS = [cls for cls in PipelineOptionsValidator.OPTIONS if cls is not GoogleCloudOptions]


def _validation_errors(options: PipelineOptions, runner: PipelineRunner) -> list[str]:
    validator = _OfflineValidator(options, runner)
    errors = list(validator.validate())
    if not validator.is_service_runner():
        return errors
    google = options.view_as(GoogleCloudOptions)
    errors += validator.validate_cloud_options(google)
    # Beam takes one location for the other where one is wrong, and makes a bucket of its own where both are missing.
    given = [name for name in ("temp_location", "staging_location") if getattr(google, name) is not None]
    for name in given or ["temp_location"]:
        errors += validator.validate_gcs_path(google, name)
    return errors


def _processes_per_machine(options: PipelineOptions) -> int | None:
    if "no_use_multiple_sdk_containers" in (options.view_as(DebugOptions).experiments or []):
        return 1
    parallelism = int(options.view_as(PortableOptions).sdk_worker_parallelism)
    return parallelism if parallelism > 1 else vcpus(options.view_as(WorkerOptions).machine_type)
