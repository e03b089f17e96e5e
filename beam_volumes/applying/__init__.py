"""A function or a model applied to volumes in chunks: what a run of apply reads, calls, reduces and writes.

Importing it registers what specs name: flows, operations, models, and layers.
"""

from beam_volumes.applying.execution import Execution, execute, execute_on_gcp_with_sqs
from beam_volumes.applying.flow import (
    ApplyFlow,
    build_postpad_subchunkable_apply_flow,
    build_subchunkable_apply_flow,
)
from beam_volumes.applying.operation import CallableOperation
from beam_volumes.applying.torch_model import TorchModel

__all__ = [
    "ApplyFlow",
    "CallableOperation",
    "Execution",
    "TorchModel",
    "build_postpad_subchunkable_apply_flow",
    "build_subchunkable_apply_flow",
    "execute",
    "execute_on_gcp_with_sqs",
]
