"""How much memory a model needs on a CPU, found out by trying it in a process of its own."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beam_volumes.child_process import Answer, Child, ChildTraceback, peak_memory_bytes
from beam_volumes.errors import FunctionError

if TYPE_CHECKING:
    from beam_volumes.applying.torch_model import TorchModel

_TRIALS, _SECONDS = 10, 5.0
"""The heap grows for as many forwards: what is freed is not always where the next tensor fits. With large tensors, of
which few forwards are done in this time, it hardly does."""


def use_large_pages() -> None:
    """Let torch, from its first tensor in this process on, have pages of 2 MB for what is as large, if Linux has them.

    Measured with three 3D convolutions of 16 channels: a forward takes 35 % less CPU for 1 x 128 x 144 x 18 voxels, and
    40 % less for 1 x 192 x 192 x 28; the process holds 323 MB, not 390, and 441 MB, not 477. The environment may say 0.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def forward_bytes(model: TorchModel, call: Mapping[str, Any]) -> int:
    """Return the bytes that a process has to have for the model and forwards of a whole batch, found in a new process.

    It is by how much the memory of a process that has torch, and holds the chunks, has grown at most while the
    model was loaded, and during ten forwards by one thread, or as many as five seconds are enough for, less the result.
    Chunks and result are not in it. What torch's kernels reorder and keep is, and what the heap cannot use again, which
    is not the same from one process to the next. Elsewhere than on Linux it is less, by what starting needed besides.

    Args:
        model: a `TorchModel` that runs on a CPU; only one that can be pickled, as those are.
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
    use_large_pages()
    with contextlib.suppress(OSError):
        # The peak of starting does not count.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident_bytes()
    returned = _run(model, call)
    return max(0, peak_memory_bytes() - before - returned)


def _run(model: TorchModel, call: dict[str, Any]) -> int:
    """Call a model for a batch some times, and return the bytes of its results."""
    returned, until = 0, time.monotonic() + _SECONDS
    for trial in range(_TRIALS):
        returned = max(returned, sum(result.nbytes for result in model.batched([call] * model.batch)))
        if trial and time.monotonic() > until:
            break
    return returned


def _resident_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return peak_memory_bytes()
