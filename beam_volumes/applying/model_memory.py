"""How much memory a model needs, found out by trying it in a process of its own."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beam_volumes.child_process import Answer, Child, ChildTraceback, peak_memory_bytes
from beam_volumes.errors import FunctionError

if TYPE_CHECKING:
    from beam_volumes.applying.torch_model import TorchModel

_TRIALS = 10
"""The heap grows for as many forwards: what is freed is not always where the next tensor fits."""


def forward_bytes(model: TorchModel, call: Mapping[str, Any]) -> int:
    """Return the bytes that a process has to have for forwards of one chunk, found in a new process.

    On a CPU it is by how much the memory of a process that has loaded the model, and holds the chunk, has grown at most
    during ten forwards by one thread, less the result. The model itself, chunk and result are not in it. What torch's
    kernels reorder and keep is, and what the heap cannot use again, which for tensors below 32 MB is much, and not the
    same from one process to the next. Measured with three 3D convolutions of 16 channels: for 1 x 96 x 96 x 20 voxels
    125 to 141 MB, of which 35 MB are tensors that live at once; for 1 x 128 x 128 x 40, with tensors of 42 MB, 142 MB,
    of which 123 MB are tensors. Elsewhere than on Linux it is less, by what loading needed besides.

    On a GPU it is the most that torch's tensors need there during the forwards, chunk and result among them; what torch
    keeps besides for itself, and CUDA's own, is not in it.

    Args:
        model: a `TorchModel`; only one that can be pickled, as those are.
        call: the arguments for one chunk, picklable.

    Raises:
        FunctionError: there is too little memory for it.
        VolumeError: what the call itself raises.

    """
    child = Child()
    answer: Answer | None = None
    try:
        with contextlib.suppress(EOFError, OSError):
            answer = pickle.loads(child.call(pickle.dumps((_tried, (model, dict(call))), pickle.HIGHEST_PROTOCOL)))
    finally:
        ending = child.end()
    if answer is None:
        raise FunctionError(
            f"{model.path}: expected that a chunk goes through the model, came the end of the process that tried it, "
            f"which {ending}: give smaller processing_chunk_sizes, or use a machine with more memory"
        )
    if answer.error is not None:
        raise answer.error from ChildTraceback(answer.traceback)
    return int(answer.result)


def _tried(model: TorchModel, call: dict[str, Any]) -> int:
    model.load()
    if model.uses_gpu:
        return _tried_on_gpu(model, call)
    with contextlib.suppress(OSError):
        # The peak of loading does not count.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident_bytes()
    returned = _run(model, call)
    return max(0, peak_memory_bytes() - before - returned)


def _tried_on_gpu(model: TorchModel, call: dict[str, Any]) -> int:
    import torch

    device = model.device or "cuda"
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _run(model, call)
    return int(torch.cuda.max_memory_allocated(device) - before)


def _run(model: Callable[..., Any], call: dict[str, Any]) -> int:
    """Call a model some times, and return the bytes of its result."""
    return max(int(model(**call).nbytes) for _ in range(_TRIALS))


def _resident_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return peak_memory_bytes()
