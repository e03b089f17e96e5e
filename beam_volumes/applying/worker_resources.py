"""What the workers of a job are to be, as specs ask for them in the terms of Kubernetes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from beam_volumes.errors import OptionError

_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")
_UNITS = {
    **{unit: Fraction(1000) ** power for power, unit in enumerate(_DECIMAL)},
    **{unit: Fraction(1024) ** power for power, unit in enumerate(_BINARY)},
    "m": Fraction(1, 1000),
}
_QUANTITY = re.compile(rf"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{{1,2}})?)({'|'.join(sorted(_UNITS, reverse=True))})")
_GPU = "nvidia.com/gpu"
_RESOURCES = ("memory", "cpu", _GPU)


@dataclass(frozen=True)
class Workers:
    """What the workers of a job are to be; None where the spec does not say.

    Attributes:
        max_num_workers: machines, at most.
        memory_bytes: of each machine, at least.
        cpus: of each machine, at least.
        gpus: of each machine.
        gpu_type: as Compute Engine names it: `nvidia-tesla-t4`.
        image: of the container that runs on them.
        labels: of the job.
        processes: of a local run.

    """

    max_num_workers: int | None = None
    memory_bytes: int | None = None
    cpus: int | None = None
    gpus: int | None = None
    gpu_type: str | None = None
    image: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    processes: int | None = None


@dataclass(frozen=True)
class GroupRequest:
    """What a group of `worker_groups` has; see `RemoteRequest`."""

    gpu_accelerator_type: str | None = None
    labels: Mapping[str, str] | None = None
    max_replicas: int | None = None
    replicas: int | None = None
    resource_limits: Mapping[str, Any] | None = None
    resource_requests: Mapping[str, Any] | None = None

    idle_worker_timeout: int | None = None
    nudge_node_pools: bool | None = None
    num_procs: int | None = None
    preferred_zones: Any = None
    provisioning_model: str | None = None
    queue_tags: Any = None
    required_zones: Any = None
    semaphores_spec: Mapping[str, int] | None = None
    sqs_based_scaling: bool | None = None
    termination_grace_seconds: int | None = None


def asked(group: GroupRequest, names: Mapping[str, str], without: dict[str, str]) -> Workers:
    """Return what one kind of workers is to be.

    Args:
        group: what was given.
        names: of its fields, in messages.
        without: to which resources are added that mean nothing here, and why.

    Raises:
        OptionError: a value is none that it can be.

    """
    resources: dict[str, tuple[str, Any]] = {}
    for argument in ("resource_limits", "resource_requests"):
        where = names[argument]
        for key, value in mapping(getattr(group, argument), where).items():
            if key in _RESOURCES:
                resources[key] = (f"{where}.{key}", value)
            else:
                without[f"{where}.{key}"] = "--machine_type and --disk_size_gb say what else machines have"
    memory, cpu, gpu = (resources.get(key) for key in _RESOURCES)
    most, argument = (
        (group.replicas, "replicas") if group.max_replicas is None else (group.max_replicas, "max_replicas")
    )
    labels = mapping(group.labels, names["labels"])
    return Workers(
        max_num_workers=count(most, names.get(argument, argument)),
        memory_bytes=_quantity(memory[1], memory[0], "memory, such as 18560Mi or 16Gi") if memory else None,
        cpus=_quantity(cpu[1], cpu[0], "vCPUs, such as 4 or 500m") if cpu else None,
        gpus=_quantity(gpu[1], gpu[0], "a number of GPUs") if gpu else None,
        gpu_type=text(group.gpu_accelerator_type, names.get("gpu_accelerator_type", "")),
        labels={key: str(value) for key, value in labels.items()},
    )


def together(kinds: Sequence[Workers]) -> Workers:
    """Return workers of one kind that can do what each of these can, as many as all of them.

    Raises:
        OptionError: they have GPUs of several types.

    """

    def most(name: str, of: Callable[[list[int]], int] = max) -> int | None:
        given = [value for workers in kinds if (value := getattr(workers, name)) is not None]
        return of(given) if given else None

    types = sorted({workers.gpu_type for workers in kinds if workers.gpu_type is not None})
    if len(types) > 1:
        raise OptionError(
            f"worker_groups: expected one gpu_accelerator_type, since workers are alike, came {', '.join(types)}: "
            "choose one"
        )
    labels: dict[str, str] = {}
    for workers in kinds:
        labels.update(workers.labels)
    return Workers(
        max_num_workers=most("max_num_workers", sum),
        memory_bytes=most("memory_bytes"),
        cpus=most("cpus"),
        gpus=most("gpus"),
        gpu_type=types[0] if types else None,
        labels=labels,
    )


def count(value: object, what: str) -> int | None:
    """Return a number from 1, or None; what is neither is an OptionError that names it as `what`."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise OptionError(f"{what}: expected a number from 1, came {value!r}: give one")
    return value


def text(value: object, what: str) -> str | None:
    """Return text, or None; what is neither is an OptionError that names it as `what`."""
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{what}: expected text, came {value!r}: quote it")
    return value


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """Return values by name, for None none; what is neither is an OptionError that names it as `what`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(f"{what}: expected values by name, came {value!r}: give a dictionary")
    return value


def _quantity(value: object, what: str, expected: str) -> int:
    """Return a quantity as Kubernetes writes it (`18560Mi`, `1.5G`, `129e6`, `500m`, a number), rounded up."""
    match = _QUANTITY.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if match is None:
        raise OptionError(f"{what}: expected {expected}, came {value!r}: correct it")
    return math.ceil(Fraction(match[1]) * _UNITS[match[2]])
