"""What a spec says of how its flow is run: `mazepa.execute` and `mazepa.execute_on_gcp_with_sqs`.

Both mean here: run this flow, as one job. What they say of workers becomes options of that job where it has a meaning;
what has none is ignored, and named along with why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from beam_volumes.applying.flow import ApplyFlow
from beam_volumes.applying.worker_resources import GroupRequest, Workers, asked, count, mapping, text, together
from beam_volumes.builder import register
from beam_volumes.builder.arguments import unknown_arguments
from beam_volumes.errors import OptionError
from beam_volumes.layers.build import taking

_QUEUE = "Beam has no queue"
_CLUSTER = "Dataflow starts its own machines, and stops them when the job ends"
_RETRY = "Beam does again what failed, and a job fails with what fails always"
_CHECKPOINT = "the same command again does only what is missing"
_LOCKS = "workers share no locks: --processes says how many work at once"
_SHOWN = "progress is always told, and --plan estimates"
_ENDS = "a job stops by itself when it is cancelled"
_NAME = "the job is named by --job_name"
_ALIKE = "all workers are alike: together they have what all groups ask for"

_WHY_IGNORED = {
    "batch_gap_sleep_sec": _QUEUE,
    "checkpoint": _CHECKPOINT,
    "checkpoint_interval_sec": _CHECKPOINT,
    "do_dryrun_estimation": _SHOWN,
    "exec_queue": _QUEUE,
    "execution_id": _NAME,
    "extra_ctx_managers": _QUEUE,
    "idle_worker_timeout": _CLUSTER,
    "local_test_queues_dir": _QUEUE,
    "max_batch_len": _QUEUE,
    "max_task_retry": _RETRY,
    "outcome_queue": _QUEUE,
    "provisioning_model": "Dataflow has --flexrs_goal for cheaper machines",
    "raise_on_failed_checkpoint": _CHECKPOINT,
    "raise_on_failed_task": _RETRY,
    "require_interrupt_confirm": _ENDS,
    "resource_monitor_interval": "Dataflow's page of the job shows what machines do",
    "semaphores_spec": _LOCKS,
    "show_progress": _SHOWN,
    "sqs_based_scaling": "Dataflow has --autoscaling_algorithm",
    "state_constructor": _QUEUE,
    "suppress_worker_logs": "Dataflow's page of the job has the logs",
    "task_queue": _QUEUE,
    "worker_cluster_name": _CLUSTER,
    "worker_cluster_project": "Dataflow must be told --project before a spec is read",
    "worker_cluster_region": "Dataflow must be told --region before a spec is read",
    "worker_lease_sec": _QUEUE,
    "write_progress_summary": _SHOWN,
}
_WHY_IGNORED_OF_GROUPS = {
    **_WHY_IGNORED,
    "nudge_node_pools": _CLUSTER,
    "num_procs": "Dataflow has one process for each vCPU of a machine",
    "preferred_zones": "Dataflow has --worker_zone",
    "queue_tags": _ALIKE,
    "required_zones": "Dataflow has --worker_zone",
    "termination_grace_seconds": _CLUSTER,
}

_OWN_NAMES = {
    "labels": "worker_labels",
    "replicas": "worker_replicas",
    "resource_limits": "worker_resources",
    "resource_requests": "worker_resource_requests",
}


@dataclass(frozen=True)
class Execution:
    """A flow, and how it is run.

    Attributes:
        target: the flow.
        local: whether the spec asks for a run on this machine.
        workers: what the spec says of its workers.
        ignored: arguments that have no meaning here, and why.

    """

    target: ApplyFlow
    local: bool = True
    workers: Workers = field(default_factory=Workers)
    ignored: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no flow."""
        if isinstance(self.target, ApplyFlow):
            return
        several = isinstance(self.target, (list, tuple))
        came = f"{len(self.target)} of them" if several else type(self.target).__name__
        raise OptionError(
            f'target: expected one flow, such as {{"@type": "build_subchunkable_apply_flow", ...}}, came {came}: '
            f"{'give each a spec of its own, and run one after another' if several else 'give one'}"
        )


@dataclass(frozen=True)
class QueueRequest:
    """The arguments that both have: what each means in zetta_utils, it does not here."""

    batch_gap_sleep_sec: float | None = None
    checkpoint: str | None = None
    checkpoint_interval_sec: float | None = None
    do_dryrun_estimation: bool = True
    max_batch_len: int | None = None
    max_task_retry: int | None = None
    raise_on_failed_checkpoint: bool = True
    require_interrupt_confirm: bool = True
    show_progress: bool = True
    write_progress_summary: bool = False


@dataclass(frozen=True)
class LocalRequest:
    """The other arguments of `mazepa.execute`."""

    exec_queue: Any = None
    execution_id: str | None = None
    outcome_queue: Any = None
    raise_on_failed_task: bool = True
    state_constructor: Any = None
    task_queue: Any = None


@dataclass(frozen=True)
class RemoteRequest:
    """The other arguments of `mazepa.execute_on_gcp_with_sqs`.

    Attributes:
        debug: one process, in a local run; nothing else has it.
        local_test: run on this machine.
        num_procs: processes of a local run.
        worker_groups: by name, arguments like these of several kinds of workers.
        worker_image: of the container that runs on workers.
        worker_labels: of the job.
        worker_replicas: machines, at most.
        worker_resource_requests: of each machine, at least; what is not in them is taken of `worker_resources`.
        worker_resources: memory (`18560Mi`), cpu, and nvidia.com/gpu of each machine.

    """

    debug: bool = False
    local_test: bool = False
    num_procs: int | None = None
    worker_groups: Mapping[str, Mapping[str, Any]] | None = None
    worker_image: str | None = None
    worker_labels: Mapping[str, str] | None = None
    worker_replicas: int | None = None
    worker_resource_requests: Mapping[str, Any] | None = None
    worker_resources: Mapping[str, Any] | None = None

    extra_ctx_managers: Any = ()
    idle_worker_timeout: int | None = None
    local_test_queues_dir: str | None = None
    provisioning_model: str | None = None
    resource_monitor_interval: float | None = None
    semaphores_spec: Mapping[str, int] | None = None
    sqs_based_scaling: bool | None = None
    suppress_worker_logs: bool | None = None
    worker_cluster_name: str | None = None
    worker_cluster_project: str | None = None
    worker_cluster_region: str | None = None
    worker_lease_sec: float | None = None


@register("mazepa.execute")
@taking(QueueRequest, LocalRequest)
def execute(target: Any, **arguments: Any) -> Execution:
    """Return a flow that is run on this machine, unless the command line says otherwise.

    Args:
        target: the flow.
        arguments: see `QueueRequest` and `LocalRequest`; they are ignored.

    Raises:
        OptionError: the target is no flow, or an argument is not known.

    """
    queue, local = _requests("mazepa.execute", execute, arguments, QueueRequest, LocalRequest)
    return Execution(target, ignored={**_named(queue), **_named(local)})


@register("mazepa.execute_on_gcp_with_sqs")
@taking(QueueRequest, RemoteRequest)
def execute_on_gcp_with_sqs(target: Any, **arguments: Any) -> Execution:
    """Return a flow that is run by workers of Google Cloud; on this machine with `local_test`.

    Args:
        target: the flow.
        arguments: see `QueueRequest` and `RemoteRequest`.

    Raises:
        OptionError: the target is no flow, or an argument is not known, or has a value that it cannot have.

    """
    name = "mazepa.execute_on_gcp_with_sqs"
    queue, remote = _requests(name, execute_on_gcp_with_sqs, arguments, QueueRequest, RemoteRequest)
    if remote.debug and not remote.local_test:
        raise OptionError("debug: expected with local_test: true, came without: leave it out, or run locally")
    without = {**_named(queue), **_named(remote)}
    own = GroupRequest(
        labels=remote.worker_labels,
        replicas=remote.worker_replicas,
        resource_limits=remote.worker_resources,
        resource_requests=remote.worker_resource_requests,
    )
    kinds = [asked(own, _OWN_NAMES, without)]
    groups = mapping(remote.worker_groups, "worker_groups")
    for group, content in groups.items():
        where = f"worker_groups.{group}"
        (found,) = _requests(where, GroupRequest, mapping(content, where), GroupRequest)
        without.update({f"{where}.{key}": why for key, why in _named(found, _WHY_IGNORED_OF_GROUPS).items()})
        kinds.append(asked(found, {field.name: f"{where}.{field.name}" for field in fields(found)}, without))
    if len(groups) > 1:
        without["worker_groups"] = _ALIKE
    workers = replace(
        together(kinds),
        image=text(remote.worker_image, "worker_image"),
        processes=1 if remote.debug else count(remote.num_procs, "num_procs"),
    )
    return Execution(target, remote.local_test, workers, without)


def _requests(name: str, function: Callable[..., Any], arguments: Mapping[str, Any], *kinds: type[Any]) -> list[Any]:
    """Return arguments as the requests that they are of."""
    if faults := unknown_arguments(name, function, arguments):
        raise OptionError("; ".join(f"{argument}: {fault}" for argument, fault in faults.items()))
    names = [{field.name for field in fields(kind)} for kind in kinds]
    return [
        kind(**{key: value for key, value in arguments.items() if key in own})
        for kind, own in zip(kinds, names, strict=True)
    ]


def _named(request: Any, why: Mapping[str, str] = _WHY_IGNORED) -> dict[str, str]:
    """Return the arguments of a request that are given and have no meaning here, and why."""
    return {
        each.name: why[each.name]
        for each in fields(request)
        if each.name in why and getattr(request, each.name) != each.default
    }
