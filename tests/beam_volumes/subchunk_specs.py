"""What specs ask of chunks, and the plan or the faults of that."""

from typing import Any

import pytest

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.reading_plan import Lattice
from beam_volumes.subchunk_planning import plan_subchunks
from beam_volumes.subchunk_request import SubchunkRequest
from beam_volumes.subchunks import SubchunkPlan

BOX = Box.of_shape((1024, 1024, 10), (29696, 16384, 2000))
CHUNKS = Lattice((64, 64, 16), (0, 0, 0))


def plan(bounds: Any = BOX, destination: Lattice | None = None, **options: Any) -> SubchunkPlan:
    options.setdefault("processing_chunk_sizes", [[1024, 1024, 1], [256, 256, 1]])
    return plan_subchunks(SubchunkRequest(**options), bounds, destination)


def faults(bounds: Any = BOX, destination: Lattice | None = None, **options: Any) -> list[str]:
    """Return the faults, one by one."""
    with pytest.raises(OptionError) as caught:
        plan(bounds, destination, **options)
    text = str(caught.value)
    first, *rest = text.split("\n")
    if not rest:
        return [first]
    assert first == f"the spec has {len(rest)} faults:"
    assert [line.split(". ")[0] for line in rest] == [str(i) for i in range(1, len(rest) + 1)]
    return [line.split(". ", 1)[1] for line in rest]


def chunks(made: SubchunkPlan) -> list[Vec]:
    return [level.chunk for level in made.levels]
