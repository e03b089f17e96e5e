"""What a spec asks of the workers of its run, in the words of Apache Beam."""

from __future__ import annotations

from typing import Any

from beam_volumes.applying.torch_model import TorchModel
from beam_volumes.applying.worker_resources import Workers

_GPU_TYPE = "nvidia-tesla-t4"
"""Where a spec asks for a GPU, and does not say which."""


def beam_defaults(workers: Workers) -> dict[str, Any]:
    """Return values of Beam's options, for those that the command line does not give."""
    found = {
        "max_num_workers": workers.max_num_workers,
        "sdk_container_image": workers.image,
        "labels": [f"{key}={value}" for key, value in workers.labels.items()] or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def resource_hints(workers: Workers, model: TorchModel | None) -> dict[str, Any]:
    """Return what the step that runs the function, or the model that it is, needs of a machine."""
    is_for_gpu = model is not None and (model.device or "").startswith("cuda")
    gpus = workers.gpus if workers.gpus is not None else int(is_for_gpu)
    hints: dict[str, Any] = {}
    if workers.memory_bytes is not None:
        hints["min_ram"] = f"{workers.memory_bytes}B"
    if workers.cpus is not None:
        hints["cpu_count"] = str(workers.cpus)
    if gpus:
        kind = workers.gpu_type or _GPU_TYPE
        hints["accelerator"] = f"type:{kind};count:{gpus};install-nvidia-driver"
    return hints
