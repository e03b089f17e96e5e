"""What a process keeps from one element of a run to the next: the flow, with open layers and loaded models."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from beam_volumes.applying.chunk_function import ChunkFunction
from beam_volumes.applying.flow import ApplyFlow, input_index
from beam_volumes.applying.inputs import single_layers, with_caches
from beam_volumes.applying.model_memory import use_large_pages
from beam_volumes.applying.outputs import Output, settle
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.specs import build_flow
from beam_volumes.block_reading import Clock
from beam_volumes.errors import SourceError
from beam_volumes.layers.chunked_backend import ChunkedBackend
from beam_volumes.subchunk_flow import Process, Result
from beam_volumes.subchunks import BottomChunk


class Worker:
    """A flow that is ready to process chunks.

    Raises:
        SourceError: the file of the model is another than when the run was planned, or cannot be read.

    """

    def __init__(self, plan: ApplyPlan) -> None:
        use_large_pages()
        self.flow = build_flow(plan.spec).target
        _check_model(self.flow, plan)
        settle(self.flow.dst, plan.infos)
        self.outputs: tuple[Output, ...] = self.flow.outputs
        self._function = ChunkFunction(self.flow, plan.subchunks.bottom.crop)
        with_caches(self.flow.op_kwargs, input_index(self.flow, plan.subchunks), plan.cache_bytes)
        # Who only exports does not load it.
        import torch

        torch.set_num_threads(plan.threads)

    @property
    def missing_chunks(self) -> int:
        """How many chunks of inputs were missing so far, and read as 0."""
        backends = {id(layer.backend): layer.backend for layer in single_layers(self.flow.op_kwargs).values()}
        return sum(each.missing_chunks for each in backends.values() if isinstance(each, ChunkedBackend))

    def process(self, clock: Clock) -> Process:
        """Return what yields the function's results; seconds of reading and of the function go to `clock`."""

        def process(chunks: Iterable[BottomChunk]) -> Iterator[Result]:
            return self._function.results(chunks, clock)

        return process


def _check_model(flow: ApplyFlow, plan: ApplyPlan) -> None:
    """Refuse a model that was replaced since the run was planned: the volume would be one of two models."""
    expected = plan.claim.identity.get("model")
    if flow.model is None or expected is None:
        return
    if (version := flow.model.version()) != expected:
        raise SourceError(
            f"{flow.model.path}: expected the model with which this run was planned, {expected}, came another, "
            f"{version}: put the former back and run the same command again, or start anew with --overwrite"
        )


_WORKERS: dict[str, Worker] = {}

_BUILDING = threading.Lock()
"""Threads of one process share a worker."""


def worker_of(plan: ApplyPlan) -> Worker:
    """Return this process's flow for a run; that of an earlier run is let go."""
    with _BUILDING:
        worker = _WORKERS.get(plan.claim.key)
        if worker is None:
            let_go()
            worker = _WORKERS[plan.claim.key] = Worker(plan)
        # Another thread may let it go meanwhile.
        return worker


def let_go() -> None:
    """Forget what this process has open: it may be what failed."""
    _WORKERS.clear()
