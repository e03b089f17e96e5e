from typing import Any

import pytest

from beam_volumes.errors import OptionError, fault_report
from beam_volumes.geometry import Box
from beam_volumes.reading_plan import Lattice
from beam_volumes.subchunk_planning import plan_subchunks
from beam_volumes.subchunk_request import SubchunkRequest, missing_arguments
from tests.beam_volumes.subchunk_specs import BOX, CHUNKS, chunks, faults, plan

OFF = "set expand_bbox_processing: false (it is true unless said otherwise)"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"expand_bbox_backend": True},
            f"expand_bbox_backend, expand_bbox_processing: expected at most one of them, came both: {OFF}",
        ),
        (
            {"expand_bbox_backend": True, "auto_divisibility": True},
            "expand_bbox_backend, auto_divisibility: expected at most one of them, came both: leave one out",
        ),
        (
            {"expand_bbox_backend": True, "processing_gap": [1, 0, 0]},
            "expand_bbox_backend, processing_gap: expected at most one of them, came both: leave one out",
        ),
        (
            {"shrink_processing_chunk": True},
            f"shrink_processing_chunk, expand_bbox_processing: expected at most one of them, came both: {OFF}",
        ),
        (
            {"shrink_processing_chunk": True, "auto_divisibility": True},
            "shrink_processing_chunk, auto_divisibility: expected at most one of them, came both: leave one out",
        ),
        (
            {"shrink_processing_chunk": True, "processing_gap": [1, 0, 0]},
            "shrink_processing_chunk, processing_gap: expected at most one of them, came both: leave one out",
        ),
        (
            {"auto_divisibility": True, "processing_gap": [1, 0, 0]},
            "processing_gap, auto_divisibility: expected at most one of them, came both: leave one out",
        ),
        (
            {"auto_divisibility": True, "expand_bbox_processing": False},
            "auto_divisibility: expected expand_bbox_processing: true along with it, as chunks of other sizes need "
            "another bounding box, came false: set it true",
        ),
        (
            {"processing_gap": [1, 0, 0], "processing_blend_pads": [[128, 0, 0], [0, 0, 0]]},
            "processing_gap, processing_blend_pads[0]: expected no blend at the top level, whose chunks do not touch, "
            "came [128, 0, 0]: use [0, 0, 0]",
        ),
        (
            {"skip_intermediaries": True, "processing_blend_pads": [[0, 0, 0], [8, 0, 0]]},
            "skip_intermediaries, processing_blend_pads[1]: expected no blend at any level, came [8, 0, 0]: set "
            "skip_intermediaries: false, or use [0, 0, 0]",
        ),
        (
            {"skip_intermediaries": True, "processing_crop_pads": [[128, 0, 0], [0, 0, 0]]},
            "skip_intermediaries, processing_crop_pads[0]: expected no crop above the bottom level, came [128, 0, 0]: "
            "set skip_intermediaries: false, or use [0, 0, 0]",
        ),
        (
            {"skip_intermediaries": True, "processing_blend_modes": ["defer", "max"]},
            "skip_intermediaries, processing_blend_modes[0]: expected a mode other than 'defer', which leaves "
            "intermediaries to be blended by others: set skip_intermediaries: false",
        ),
        (
            {"processing_blend_modes": ["linear", "defer"]},
            "processing_blend_modes[1]: expected one of linear, quadratic, bump, max below the top level, came "
            "'defer': chunks can be left unblended at the top alone",
        ),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], expected: str) -> None:
    assert expected in faults(BOX, Lattice((1024, 1024, 1), (0, 0, 0)), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"skip_intermediaries": True, "processing_crop_pads": [[0, 0, 0], [9, 9, 9]]},
        {"processing_blend_modes": ["defer", "max"]},
        {"processing_gap": [1, 0, 0], "processing_blend_pads": [[0, 0, 0], [8, 0, 0]]},
        {"expand_bbox_resolution": True, "auto_divisibility": True},
    ],
)
def test_what_does_go_together(options: dict[str, Any]) -> None:
    assert plan(**options).levels[1].chunk == (256, 256, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"processing_chunk_sizes": []}, "processing_chunk_sizes: expected at least one size, came none"),
        ({"processing_chunk_sizes": [64, 64, 1]}, "expected a list of sizes, the largest first, came one size: use "),
        (
            {"processing_chunk_sizes": 64},
            "processing_chunk_sizes: expected three whole numbers, or a list of such, came 64",
        ),
        (
            {"processing_chunk_sizes": [[64, 0, 1]]},
            "processing_chunk_sizes[0]: expected three whole numbers, each at least 1, came [64, 0, 1]",
        ),
        ({"processing_chunk_sizes": [[64, 64]]}, "processing_chunk_sizes[0]: expected three whole numbers"),
        ({"processing_chunk_sizes": [[64.5, 64, 1]]}, "came [64.5, 64, 1]"),
        ({"processing_chunk_sizes": [["64", 64, 1]]}, "came ['64', 64, 1]"),
        (
            {"processing_crop_pads": [[0, 0, 0], [0, -1, 0]]},
            "processing_crop_pads[1]: expected three whole numbers, each at least 0, came [0, -1, 0]",
        ),
        (
            {"processing_crop_pads": [[0, 0, 0]]},
            "processing_crop_pads: expected 2 pads, as many as processing_chunk_sizes has levels",
        ),
        (
            {"processing_blend_pads": [[0, 0, 0]] * 3},
            "processing_blend_pads: expected 2 pads, as many as processing_chunk_sizes has levels",
        ),
        ({"processing_blend_modes": ["max"]}, "processing_blend_modes: expected 2 modes"),
        (
            {"processing_blend_modes": "cubic"},
            "processing_blend_modes: expected modes out of linear, quadratic, bump, max, defer, came 'cubic'",
        ),
        ({"processing_gap": [1, 2]}, "processing_gap: expected three whole numbers, each at least 0, came [1, 2]"),
        (
            {"max_reduction_chunk_size": [0, 1, 1]},
            "max_reduction_chunk_size: expected three whole numbers, each at least 1",
        ),
    ],
)
def test_values_of_wrong_forms(options: dict[str, Any], expected: str) -> None:
    (fault,) = faults(**options)
    assert expected in fault


def test_numbers_of_json_may_be_floats() -> None:
    assert chunks(plan(processing_chunk_sizes=[[1024.0, 1024, 1]])) == [(1024, 1024, 1)]


def test_all_faults_are_told_at_once() -> None:
    request = SubchunkRequest(
        [[1000, 1024, 1], [256, 256, 1]],
        [[0, 0, 0], [8, 8, 0]],
        [[600, 0, 0], [0, 0, 2]],
        ["linear", "defer"],
        processing_gap=[4, 0, 0],
        skip_intermediaries=True,
        expand_bbox_backend=True,
        shrink_processing_chunk=True,
    )
    with pytest.raises(OptionError) as caught:
        plan_subchunks(request, BOX, CHUNKS, is_segmentation=True, faults=["fn, op: expected one of them, came both"])
    text = str(caught.value)
    assert text.startswith("the spec has 14 faults:\n1. fn, op: expected one of them, came both\n2. ")
    for word in ("[600, 0, 0]: use [500, 0, 0]", "values are ids", "expand_bbox_backend, processing_gap", "'defer'"):
        assert word in text


def test_a_wrong_form_does_not_hide_other_faults() -> None:
    found = faults(processing_crop_pads=[[1, 2]], processing_gap=[-1, 0, 0], expand_bbox_backend=True)
    assert [fault.split(":")[0] for fault in found] == [
        "processing_crop_pads[0]",
        "processing_gap",
        "expand_bbox_backend, expand_bbox_processing",
    ]


def test_ids_are_not_blended_by_weights() -> None:
    request = SubchunkRequest([[64, 64, 8]], processing_blend_pads=[8, 8, 0], processing_blend_modes="linear")
    with pytest.raises(OptionError, match=r"expected no blend for a segmentation, whose values are ids, and the mean"):
        plan_subchunks(request, BOX, is_segmentation=True)
    for other in (
        SubchunkRequest([[64, 64, 8]], processing_blend_pads=[8, 8, 0], processing_blend_modes="max"),
        SubchunkRequest([[64, 64, 8]], processing_crop_pads=[8, 8, 0]),
    ):
        assert plan_subchunks(other, BOX, is_segmentation=True).top.chunk == (64, 64, 8)


def test_an_empty_bounding_box_is_refused() -> None:
    assert faults(Box((5, 5, 5), (9, 5, 9))) == [
        "bbox: expected at least one voxel along each axis, came [5, 5, 5] - [9, 5, 9]"
    ]


def test_without_a_bounding_box_the_rest_is_checked() -> None:
    request = SubchunkRequest([[64, 64, 8], [7, 64, 8]])
    with pytest.raises(OptionError, match=r"(?s)^the spec has 2 faults:\n1\. no box\n2\. processing_chunk_sizes\[1\]"):
        plan_subchunks(request, None, faults=["no box"])


@pytest.mark.parametrize(
    ("given_arguments", "expected"),
    [
        ("fn bbox", []),
        ("op start_coord end_coord coord_resolution", []),
        ("fn auto_bbox", []),
        ("fn op bbox", ["fn, op: expected one of them, came both: leave one out"]),
        ("bbox", ["fn, op: expected one of them, came neither: give the function to apply as fn"]),
        (
            "fn",
            [
                "bbox: expected, but not given: give bbox, or start_coord, end_coord and coord_resolution, or "
                "auto_bbox: true for all of the destination"
            ],
        ),
        ("fn start_coord", ["end_coord, coord_resolution: expected along with start_coord, but not given"]),
        *(
            (
                f"fn {names}",
                [
                    f"{', '.join(names.split())}: expected one way to say what is processed, bbox, or auto_bbox, or "
                    "start_coord, end_coord, coord_resolution: leave the others out"
                ],
            )
            for names in (
                "bbox auto_bbox",
                "bbox start_coord end_coord coord_resolution",
                "bbox coord_resolution",
                "auto_bbox end_coord",
            )
        ),
    ],
)
def test_arguments_that_are_missing_or_contradict(given_arguments: str, expected: list[str]) -> None:
    always = {"dst", "dst_resolution", "processing_chunk_sizes"}
    assert missing_arguments({*given_arguments.split(), *always}) == expected


def test_what_needs_a_destination_or_must_be_given() -> None:
    assert missing_arguments({"fn", "auto_bbox", "expand_bbox_backend"}) == [
        "dst_resolution: expected, but not given: say at which resolution chunks are processed and written, as "
        "[x, y, z] in nm",
        "processing_chunk_sizes: expected, but not given: say how the volume is cut, as [[1024, 1024, 1]], the largest "
        "chunks first",
        "auto_bbox: expected a destination, whose bounds are meant, came dst: null: leave auto_bbox out",
        "expand_bbox_backend: expected a destination, whose chunks are meant, came dst: null: leave "
        "expand_bbox_backend out",
    ]


def test_one_fault_is_told_as_it_is() -> None:
    assert fault_report(["a: b"]) == "a: b"
