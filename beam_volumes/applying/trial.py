"""A try of the function of a flow, on one chunk of zeros, before anything is read or written."""

from __future__ import annotations

import faulthandler
import time
from dataclasses import dataclass

from beam_volumes.applying import inputs
from beam_volumes.applying.chunk_function import ChunkFunction
from beam_volumes.applying.flow import ApplyFlow, chunk_index, first_chunk
from beam_volumes.applying.model_memory import use_large_pages
from beam_volumes.block_reading import Clock
from beam_volumes.subchunk_flow import checked_result
from beam_volumes.subchunks import SubchunkPlan

_SECONDS_TO_TRY_AGAIN = 5.0
"""Of CPU: what takes longer is called once."""

_STANDARD_ERROR = 2


@dataclass(frozen=True)
class Trial:
    """What a try of the function on one chunk of zeros has shown.

    Attributes:
        seconds: of CPU, for that chunk.
        function_bytes: what the function needs for a batch besides what it takes and returns, as far as that is known.

    """

    seconds: float
    function_bytes: int


def try_function(flow: ApplyFlow, plan: SubchunkPlan) -> Trial:
    """Call the function, for a chunk whose layers are 0 everywhere, and check what it returns.

    It is called once, or twice where that is quick; once where there is no destination: it has other effects then.

    Raises:
        FunctionError: it fails, or returns something else than the outputs take.

    """
    # For this process, and those that it starts.
    use_large_pages()
    function = ChunkFunction(flow, plan.bottom.crop, inputs.blanked(flow.op_kwargs))
    if not faulthandler.is_enabled():
        # Where a library crashes, the line that called it is printed.
        faulthandler.enable(_STANDARD_ERROR)
    seconds = _try_once(function, flow, plan)
    if flow.outputs and seconds < _SECONDS_TO_TRY_AGAIN:
        # The first call imports and compiles, too.
        seconds = min(seconds, _try_once(function, flow, plan))
    return Trial(seconds, _measured(flow, plan))


def _try_once(function: ChunkFunction, flow: ApplyFlow, plan: SubchunkPlan) -> float:
    """Return the seconds of CPU that a call takes."""
    started = time.process_time()
    (result,) = function.results([first_chunk(plan)], Clock())
    for values, output in zip(result.values, flow.outputs, strict=True):
        checked_result(values, output.kind, first_chunk(plan), result.box)
    return time.process_time() - started


def _measured(flow: ApplyFlow, plan: SubchunkPlan) -> int:
    # What is needed on a GPU is none of the worker's memory.
    if flow.model is None or flow.model.uses_gpu:
        return 0
    return flow.model.measure(inputs.blank_kwargs(flow.op_kwargs, chunk_index(flow, plan)))
