import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.geometry import Box, Vec
from beam_volumes.parcels import Owner, ParcelWriter
from beam_volumes.subchunk_flow import one_by_one, pieces_of, reduce_pieces
from beam_volumes.subchunk_memory import Input, plan_memory
from beam_volumes.subchunks import SubchunkPlan, VoxelKind
from tests.beam_volumes.subchunk_plans import Values, make_plan, process_chunk

BYTES = VoxelKind(1, "uint8")

THREE = [(120, 120, 20), (66, 66, 12), (38, 38, 8)]


def peak(action: Callable[[], Any]) -> int:
    """Return the most bytes held in arrays at any time, beyond those from before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def two_levels(mode: str = "linear") -> SubchunkPlan:
    return make_plan(
        Box.of_shape((360, 360, 60)), [(120, 120, 20), (34, 34, 8)], (2, 2, 0), [(6, 6, 2), (4, 4, 2)], mode
    )


def test_the_figures_of_two_levels() -> None:
    planned = plan_memory(
        two_levels(), [VoxelKind(2, "uint8")], [Input(VoxelKind(1, "float32")), Input(BYTES, (1, 0, 0), (2, 2, 1))]
    )
    assert planned.inputs == 46 * 46 * 12 * 4 + 96 * 92 * 12
    read, padded, above = 46 * 46 * 12 * 2, 42 * 42 * 12 * 2 * 4, 132 * 132 * 24 * 2 * 4
    assert planned.outputs == read + padded
    assert planned.accumulators == (above, 0)
    # What no other chunk reaches into is of one byte a voxel, and the largest piece; what is around it is to be summed.
    final = (120 - 2 * 6) * (120 - 2 * 6) * (20 - 2 * 2) * 2
    pieces = above - 4 * final + final
    assert planned.sending == 2 * final + pieces
    assert planned.chunk == above + planned.sending
    parts = 2 * 4 * ((120 + 2 * 6) * (120 + 2 * 6) * (20 + 2 * 2))
    assert planned.reduction == parts - 4 * final + final + 120 * 120 * 20 * 2 * (4 + 1)
    assert planned.element == max(planned.chunk, planned.reduction)


@pytest.mark.parametrize(
    ("kind", "mode", "chunks", "crops", "blends"),
    [
        (VoxelKind(2, "uint8"), "linear", [(120, 120, 20), (34, 34, 8)], (2, 2, 0), [(6, 6, 2), (4, 4, 2)]),
        (VoxelKind(1, "float32"), "bump", [(120, 120, 20), (64, 64, 12)], [(2, 2, 0), (9, 9, 3)], (2, 2, 2)),
        (VoxelKind(1, "int32"), "quadratic", [(120, 120, 20), (60, 60, 20)], (0, 0, 0), [(0, 0, 0), (30, 30, 10)]),
        (VoxelKind(3, "uint16"), "max", [(120, 120, 20), (34, 34, 8)], (2, 2, 0), [(6, 6, 2), (4, 4, 2)]),
        (VoxelKind(1, "uint8"), "linear", [(120, 120, 20)], (8, 8, 2), (16, 16, 4)),
        (VoxelKind(1, "uint8"), "linear", [(120, 120, 20)], (8, 8, 2), (0, 0, 0)),
        (VoxelKind(1, "uint8"), "linear", THREE, (0, 0, 0), [(6, 6, 2), (5, 5, 2), (3, 3, 1)]),
        (VoxelKind(1, "int64"), "linear", THREE, (0, 0, 0), [(6, 6, 2), (5, 5, 2), (0, 0, 0)]),
    ],
)
def test_what_is_planned_is_what_is_held(
    kind: VoxelKind, mode: str, chunks: list[Vec], crops: Any, blends: Any, tmp_path: Path
) -> None:
    plan = make_plan(Box.of_shape((360, 360, 60)), chunks, crops, blends, mode)
    planned = plan_memory(plan, [kind], [Input(VoxelKind(1, "float32"))])

    def read(box: Box) -> Values:
        return np.zeros((1, *box.shape), np.float32)

    def function(values: Values) -> Values:
        return np.zeros((kind.channels, *values.shape[1:]), kind.data_type)

    process = one_by_one(read, function)
    top = 13

    def send() -> None:
        with ParcelWriter(f"file://{tmp_path}", "pack", 0) as out:
            for piece in pieces_of(plan, process_chunk(plan, top, process, kind), kind):
                data = np.ascontiguousarray(piece.values.transpose(0, 3, 2, 1))
                out.add(Owner(0, piece.owner), 0, piece.box, data.data.cast("B"))
                del piece, data
            out.finish({})

    assert 0.9 < peak(send) / planned.chunk < 1.1
    pieces = [
        piece
        for other in plan.tops_of(top)
        for piece in pieces_of(plan, process_chunk(plan, other, process, kind), kind, {top})
    ]
    held = sum(piece.values.nbytes for piece in pieces) + peak(lambda: reduce_pieces(plan, top, pieces, kind))
    assert 0.9 < held / planned.reduction < 1.1


def test_batches_and_functions_need_more() -> None:
    plan = two_levels()
    alone = plan_memory(plan, [BYTES], [Input(BYTES)])
    more = plan_memory(plan, [BYTES], [Input(BYTES)], batch=4, function_bytes=10**9)
    read, padded = 46 * 46 * 12, 42 * 42 * 12 * 4
    assert (more.inputs, more.outputs) == (4 * read, 4 * read + padded)
    assert more.chunk == alone.accumulators[0] + 8 * read + 10**9


def test_inputs_of_other_resolutions() -> None:
    planned = plan_memory(two_levels(), [BYTES], [Input(BYTES, scale=(Fraction(1, 8), Fraction(1, 8), 1))])
    assert planned.inputs == 6 * 6 * 12


def test_a_volume_of_one_chunk_needs_no_more_than_is_wanted() -> None:
    plan = make_plan(Box.of_shape((20, 20, 4)), [(20, 20, 4), (10, 10, 2)], (0, 0, 0), [(5, 5, 1), (2, 2, 1)])
    planned = plan_memory(plan, [BYTES], [])
    assert planned.accumulators == (20 * 20 * 4 * 4, 0)
    assert planned.reduction == 20 * 20 * 4
    # It is written at once.
    assert planned.sending == 20 * 20 * 4
    assert plan_memory(plan, [BYTES], [], writing_bytes=1000).sending == 20 * 20 * 4 + 1000


def test_reading_and_writing_need_more_where_they_are_most() -> None:
    alone = plan_memory(two_levels(), [BYTES], [Input(BYTES)])
    more = plan_memory(two_levels(), [BYTES], [Input(BYTES)], reading_bytes=10**8, writing_bytes=10**9)
    assert more.chunk == alone.accumulators[0] + alone.inputs + 10**8
    # Pieces have gone when what is made of them is written.
    assert more.reduction == 120 * 120 * 20 * 4 + 10**9


def test_outputs_are_added_up() -> None:
    plan, other = two_levels(), VoxelKind(2, "float64")
    one, two, both = (plan_memory(plan, kinds, []) for kinds in ([BYTES], [other], [BYTES, other]))
    assert both.chunk == one.chunk + two.chunk
    assert both.reduction == one.reduction + two.reduction


def test_chunks_that_are_left_are_rounded_whole() -> None:
    plan = make_plan(
        Box.of_shape((360, 360, 60)),
        [(120, 120, 20), (34, 34, 8)],
        (2, 2, 0),
        [(6, 6, 2), (4, 4, 2)],
        ["defer", "linear"],
    )
    assert plan_memory(plan, [BYTES], [], writing_bytes=500).sending == 132 * 132 * 24 + 500
