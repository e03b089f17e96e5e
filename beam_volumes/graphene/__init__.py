"""The client of a proofreading server (PyChunkGraph): which root a supervoxel had at a moment.

Protocol: https://github.com/CAVEconnectome/PyChunkedGraph, `pychunkedgraph/app/segmentation`.
"""

from beam_volumes.graphene.checks import RootQuestion, check_timestamp
from beam_volumes.graphene.client import RootClient
from beam_volumes.graphene.limits import Limits, Statistics
from beam_volumes.graphene.table import GrapheneTable, GraphInfo
from beam_volumes.graphene.tokens import Token, find_token

__all__ = [
    "GraphInfo",
    "GrapheneTable",
    "Limits",
    "RootClient",
    "RootQuestion",
    "Statistics",
    "Token",
    "check_timestamp",
    "find_token",
]
