"""The function of a flow, called for bottom chunks: layers are read, chunks batched, results given to outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from beam_volumes.applying.failures import failures_told
from beam_volumes.applying.flow import ApplyFlow
from beam_volumes.applying.inputs import single_layers
from beam_volumes.applying.operation import CallableOperation, results
from beam_volumes.applying.outputs import Output, shared_procs
from beam_volumes.applying.reading_ahead import map_ahead
from beam_volumes.blending import Voxels
from beam_volumes.block_reading import Clock
from beam_volumes.errors import FunctionError
from beam_volumes.geometry import Box, Vec, VolumetricIndex
from beam_volumes.layers import VolumetricLayerSet
from beam_volumes.layers.tensors import to_array
from beam_volumes.source_checks import is_on_this_machine
from beam_volumes.subchunk_flow import Result
from beam_volumes.subchunks import BottomChunk, grown

_Made = tuple[BottomChunk, Box, Any]
"""A chunk, and what was made of it, for which box."""


class ChunkFunction:
    """Calls the operation of a flow.

    Args:
        flow: with its layers.
        crop: of the bottom level.
        op_kwargs: what the operation takes; None for the flow's own.

    """

    def __init__(self, flow: ApplyFlow, crop: Vec, op_kwargs: Mapping[str, Any] | None = None) -> None:
        self.operation = flow.operation(crop)
        self._flow, self._shared = flow, shared_procs(flow.dst)
        self._op_kwargs = flow.op_kwargs if op_kwargs is None else op_kwargs

    @property
    def batch(self) -> int:
        """Chunks that are taken at once."""
        return batch_of(self.operation)

    def results(self, chunks: Iterable[BottomChunk], clock: Clock) -> Iterator[Result]:
        """Yield what the function makes of chunks, in order; see `beam_volumes.subchunk_flow.Process`.

        Raises:
            FunctionError: the function, or a processor, has failed, or the function returns something else than data
                for each output.
            VolumeError: a layer cannot be read.

        """
        clock.lap("blend")
        is_function = isinstance(self.operation, CallableOperation)
        for found in self._by_function(chunks, clock) if is_function else self._by_operation(chunks, clock):
            while found:
                chunk, box, values = found.pop(0)
                yield Result(box, self._outputs(chunk, box, values))
                # Or it would stay while the next one is made.
                del values
                clock.lap("blend")

    def _by_operation(self, chunks: Iterable[BottomChunk], clock: Clock) -> Iterator[list[_Made]]:
        """Yield what an operation of the user's writes for each chunk."""
        is_set = isinstance(self._flow.dst, VolumetricLayerSet)
        for chunk in chunks:
            with failures_told("the function", _named(chunk)):
                written = results(self.operation, self._index(chunk), self._flow.dst, self._op_kwargs)
            clock.lap("function")
            yield [(chunk, chunk.box, written if is_set else written.get(""))]

    def _by_function(self, chunks: Iterable[BottomChunk], clock: Clock) -> Iterator[list[_Made]]:
        """Yield what the function makes of each batch of chunks, uncropped."""
        operation, ahead = self.operation, reads_ahead(self._flow)
        for batch, calls in map_ahead(self._read, _batches(chunks, self.batch), ahead=ahead):
            clock.lap("read")
            boxes = [grown(chunk.box, operation.crop_pad) for chunk in batch]
            with failures_told("the function", _named(batch[0])):
                found = [*zip(batch, boxes, self._called(calls), strict=True)]
            # Or they would stay until the next ones are there.
            calls.clear()
            clock.lap("function")
            yield found

    def _called(self, calls: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        fn = self.operation.fn
        many = getattr(fn, "batched", None)
        return many(calls) if many and len(calls) > 1 else [fn(**call) for call in calls]

    def _read(self, batch: Sequence[BottomChunk]) -> list[dict[str, Any]]:
        calls = []
        for chunk in batch:
            with failures_told("one of the processors of op_kwargs", _named(chunk)):
                calls.append(self.operation.read(self._index(chunk), self._op_kwargs))
        return calls

    def _index(self, chunk: BottomChunk) -> VolumetricIndex:
        return self._flow.index(chunk.box, chunk.id)

    def _outputs(self, chunk: BottomChunk, box: Box, made: Any) -> list[Voxels]:
        """Return a result, through the processors that take it whole, by output."""
        with failures_told("one of the processors of dst", _named(chunk)):
            return self._processed(chunk, box, made)

    def _processed(self, chunk: BottomChunk, box: Box, made: Any) -> list[Voxels]:
        outputs = self._flow.outputs
        if not outputs:
            return []
        if not isinstance(self._flow.dst, VolumetricLayerSet):
            return [_array(outputs[0].processed(box, self._given(outputs[0], box, made)), chunk)]
        if not isinstance(made, Mapping) or set(made) - {output.name for output in outputs}:
            came = f"the names {', '.join(map(str, made))}" if isinstance(made, Mapping) else type(made).__name__
            raise FunctionError(
                f"the function's result for chunk {chunk.id} ({box}): expected a dictionary with data for each layer "
                f"of dst, {', '.join(output.name for output in outputs)}, came {came}: return that"
            )
        for proc in self._shared:
            made = proc(made)
        return [
            _array(output.processed(box, self._given(output, box, made.get(output.name))), chunk) for output in outputs
        ]

    def _given(self, output: Output, box: Box, made: Any) -> Any:
        """Return what was made for an output; 0 where an operation has written nothing."""
        if made is None and not isinstance(self.operation, CallableOperation):
            return np.zeros((output.kind.channels, *box.shape), output.kind.data_type)
        return made


def batch_of(operation: Any) -> int:
    """Return how many chunks an operation takes at once."""
    fn: Any = operation.fn if isinstance(operation, CallableOperation) else None
    return int(fn.batch) if hasattr(fn, "batched") else 1


def reads_ahead(flow: ApplyFlow) -> bool:
    """Whether a batch is read while the function has the one before: where the processor would wait for either."""
    names = [layer.name for layer in single_layers(flow.op_kwargs).values()]
    is_far = any(not is_on_this_machine(name) and not name.startswith("made://") for name in names)
    return is_far or (flow.model is not None and flow.model.uses_gpu)


def _batches(chunks: Iterable[BottomChunk], size: int) -> Iterator[list[BottomChunk]]:
    taken = iter(chunks)
    while batch := list(itertools.islice(taken, size)):
        yield batch


def _array(data: Any, chunk: BottomChunk) -> Voxels:
    if not hasattr(data, "shape"):
        raise FunctionError(
            f"the function's result for chunk {chunk.id} ({chunk.box}): expected a tensor, came "
            f"{type(data).__name__}: return one, CXYZ"
        )
    return to_array(data)


def _named(chunk: BottomChunk) -> str:
    return f"chunk {chunk.id} ({chunk.read_box})"
