"""What each option of a flow does, in runs over small volumes whose voxels numpy computes."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.builder import REGISTRY
from beam_volumes.geometry import BBox3D, Box
from tests.beam_volumes.applying.test_deferred import blended_by_a_user
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, by_cloudvolume, window
from tests.pipelines.apply_runs import (
    BOX,
    TWO_LEVELS,
    Spec,
    applied,
    bbox,
    check_close,
    code,
    counting,
    expected,
    flow,
    layer,
    like,
    report,
    run,
    stored,
    uniform,
)
from tests.pipelines.conftest import check_refusal

COARSE = (8, 8, 40)
OLD = 201
"""In `dst`, where nothing is written."""


def done(folder: Path, stage: str) -> int:
    return int(report(folder)["stages"][stage]["done"])


def copied(folder: Path, box: Box, **arguments: Any) -> None:
    """Make sure that a flow has copied a box, and has left all else as it stood."""
    source = stored(folder / "src", counting())
    wanted = stored(folder / "dst", np.full_like(source, OLD))
    result = applied(folder, flow(folder, None, dst=layer(folder / "dst"), **arguments))
    part = (slice(None), *box.intersection(BOX).slices(BOX.start))
    wanted[part] = source[part]
    np.testing.assert_array_equal(result, wanted)


def test_expand_bbox_resolution(tmp_path: Path) -> None:
    """From (-12.5, 5.5, -3) to (6.5, 40.5, 7), in voxels."""
    fine = bbox(Box((-25, 11, -3), (13, 81, 7)), (2, 2, 40))
    copied(tmp_path, Box((-13, 5, -3), (7, 41, 7)), bbox=fine, expand_bbox_resolution=True)


def test_expand_bbox_backend(tmp_path: Path) -> None:
    """Stored chunks of 8 x 8 x 4 begin at (-13, 5, -3)."""
    place: Spec = {"bbox": bbox(Box((-10, 13, -2), (4, 30, 5))), "expand_bbox_backend": True}
    copied(tmp_path, Box((-13, 13, -3), (11, 37, 5)), **place, processing_chunk_sizes=[[24, 12, 4]])


def test_expand_bbox_processing(tmp_path: Path) -> None:
    """The start stays where it is."""
    place: Spec = {"bbox": bbox(Box((-10, 6, -2), (10, 8, 4))), "expand_bbox_processing": True}
    copied(tmp_path, Box((-10, 6, -2), (28, 14, 4)), **place, processing_chunk_sizes=[[19, 8, 3]])


def test_expand_bbox_processing_beyond_the_dataset(tmp_path: Path) -> None:
    """It is true unless said otherwise; what is written beyond the bounds is dropped."""
    place: Spec = {"bbox": bbox(Box((-23, 6, -2), (10, 40, 6)))}
    source = stored(tmp_path / "src", counting())
    wanted = stored(tmp_path / "dst", np.full_like(source, OLD))
    target = flow(tmp_path, None, **place, processing_chunk_sizes=[[32, 32, 8]], dst=layer(tmp_path / "dst"))
    del target["expand_bbox_processing"]
    part = (slice(None), *Box((-13, 6, -2), (27, 41, 6)).slices(BOX.start))
    wanted[part] = source[part]
    np.testing.assert_array_equal(applied(tmp_path, target), wanted)


def test_shrink_processing_chunk(tmp_path: Path) -> None:
    """The function gets the box alone, which is smaller than the chunk along x and y."""
    source = stored(tmp_path / "src", uniform())
    box = Box((-10, 6, -2), (2, 14, 4))
    target = flow(
        tmp_path,
        box,
        fn=code("lambda src: src + src.amax()"),
        processing_chunk_sizes=[[20, 18, 3]],
        shrink_processing_chunk=True,
    )
    wanted = expected({"processing_chunk_sizes": [[12, 8, 3]]}, lambda v: v + v.max(), source, box)
    check_close(applied(tmp_path, target), window(wanted, box.start, BOX))


def test_auto_divisibility(tmp_path: Path) -> None:
    """21 + 2 * (4 + 2) holds 4 whole chunks of 8, in which 20 are left; and so on: the sizes of TWO_LEVELS."""
    source = stored(tmp_path / "src", uniform())
    sizes = {**TWO_LEVELS, "processing_chunk_sizes": [[21, 23, 7], [8, 6, 3]]}
    fn = code("lambda src: src * src.mean()")
    target = flow(tmp_path, fn=fn, **sizes, auto_divisibility=True, expand_bbox_processing=True)
    wanted = expected(flow(tmp_path, **TWO_LEVELS), lambda v: v * v.mean(), source)
    check_close(applied(tmp_path, target), wanted)


def test_auto_bbox(tmp_path: Path) -> None:
    copied(tmp_path, BOX, auto_bbox=True)


def test_coordinates_instead_of_a_box(tmp_path: Path) -> None:
    place: Spec = {"start_coord": [-13, 11, 1], "end_coord": [7, 29, 6], "coord_resolution": list(RESOLUTION)}
    copied(tmp_path, Box((-13, 11, 1), (7, 29, 6)), **place)


def test_coordinates_in_another_resolution(tmp_path: Path) -> None:
    place: Spec = {"start_coord": [-6, 6, -3], "end_coord": [4, 15, 2], "coord_resolution": list(COARSE)}
    copied(tmp_path, Box((-12, 12, -3), (8, 30, 2)), **place)


def test_skip_intermediaries(tmp_path: Path) -> None:
    sizes: Spec = {
        "processing_chunk_sizes": [[20, 18, 5], [10, 6, 1]],
        "processing_crop_pads": [[0, 0, 0], [2, 3, 1]],
        "level_intermediaries_dirs": None,
    }
    copied(tmp_path, BOX, bbox=bbox(BOX), **sizes, skip_intermediaries=True)


@pytest.mark.parametrize(
    ("sizes", "boxes"),
    [
        ({}, 3 * 3 * 3),
        ({"max_reduction_chunk_size": [40, 40, 12]}, 1),
        ({"max_reduction_chunk_size": [[23, 15, 4], [8, 8, 4]]}, 3 * 5 * 3),
        ({"max_reduction_chunk_sizes": [[8, 40, 12], [8, 8, 4]]}, 5),
        ({"max_reduction_chunk_sizes": [1, 1, 1]}, 5 * 5 * 3),
    ],
)
def test_output_boxes_are_as_large_as_they_may_be(sizes: Any, boxes: int, tmp_path: Path) -> None:
    """Of whole stored chunks, 8 x 8 x 4, at least one: 16 x 16 x 4 in a chunk of the top level, 20 x 18 x 5."""
    source = stored(tmp_path / "src", uniform())
    target = flow(tmp_path, fn=code("lambda src: src * src.mean()"), **TWO_LEVELS, **sizes)
    wanted = expected({**TWO_LEVELS}, lambda v: v * v.mean(), source)
    check_close(applied(tmp_path, target), wanted)
    assert done(tmp_path, "boxes") == boxes


def test_sizes_with_their_pads(tmp_path: Path) -> None:
    """8, 6 and 3 of the bottom are left between the pads; 26 - 6 of the top, which hold 3 chunks of 8 if 18."""
    source = stored(tmp_path / "src", uniform())
    box = Box.of_shape((36, 40, 8), BOX.start)
    target = {
        "@type": "build_postpad_subchunkable_apply_flow",
        "bbox": bbox(box),
        "dst_resolution": list(RESOLUTION),
        "processing_input_sizes": [[26, 26, 7], [16, 14, 5]],
        "processing_crop": [1, 2, 0],
        "processing_blend": [3, 2, 1],
        "processing_blend_mode": "bump",
        "level_intermediaries_dirs": [str(tmp_path / "scratch")] * 2,
        "max_reduction_chunk_size": [16, 16, 4],
        "fn": code("lambda src: src * src.mean()"),
        "op_kwargs": {"src": layer(tmp_path / "src")},
        "dst": like(tmp_path / "dst", tmp_path / "src"),
    }
    sizes: Spec = {
        "processing_chunk_sizes": [[18, 20, 4], [8, 6, 3]],
        "processing_crop_pads": [[0, 0, 0], [1, 2, 0]],
        "processing_blend_pads": [[3, 2, 1]] * 2,
        "processing_blend_modes": "bump",
    }
    wanted = window(expected(sizes, lambda v: v * v.mean(), source, box), box.start, BOX)
    check_close(applied(tmp_path, target), wanted)


def test_an_operation_of_a_function(tmp_path: Path) -> None:
    """With a crop of its own, besides that of the chunks, and data at half the resolution nm per voxel."""
    source = stored(tmp_path / "src", counting(shape=(40, 36, 10)), (-12, 4, -3))
    target = flow(
        tmp_path,
        bbox=bbox(Box((-6, 2, -3), (14, 20, 7)), COARSE),
        dst_resolution=list(COARSE),
        processing_chunk_sizes=[[10, 9, 5]],
        processing_crop_pads=[[1, 2, 0]],
        processing_blend_pads=[[2, 1, 1]],
        op={
            "@type": "VolumetricCallableOperation",
            # The largest of 3 x 3 pairs of voxels, those of even places: it needs one voxel around.
            "fn": code(
                "lambda src: torch.nn.functional.max_pool3d(src[:, ::2, ::2].float(), (3, 3, 1), 1, (1, 1, 0)).byte()"
            ),
            "crop_pad": [1, 1, 0],
            "res_change_mult": [2, 2, 1],
        },
        dst=like(tmp_path / "dst", tmp_path / "src", info_add_scales=[COARSE], info_add_scales_mode="replace"),
    )
    assert run(tmp_path, target) == 0
    coarse = np.pad(source[:, ::2, ::2], ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(coarse, (3, 3), (1, 2))
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "dst", COARSE), windows.max((-1, -2)))


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user, that registers `my_op` and is nowhere imported."""
    code = """
        from dataclasses import dataclass, replace
        from pathlib import Path

        from beam_volumes import builder


        @builder.register("my_op")
        @dataclass(frozen=True)
        class MyOp:
            # The difference to the voxel before along x, which it reads itself.
            notes: str = ""
            crop_pad: tuple = (0, 0, 0)

            def get_input_resolution(self, dst_resolution):
                return dst_resolution

            def with_added_crop_pad(self, crop_pad):
                return replace(self, crop_pad=tuple(a + b for a, b in zip(self.crop_pad, crop_pad)))

            def __call__(self, idx, dst, src):
                padded = idx.padded(self.crop_pad).padded((1, 0, 0))
                if self.notes:
                    Path(self.notes, f"{idx.chunk_id}").write_text(f"{padded.pformat()} {int(src[padded].sum())}")
                if dst is not None:
                    data = src[padded].float()
                    data = data[:, 1:-1] - data[:, :-2]
                    x, y, z = (slice(c, n - c) for c, n in zip(self.crop_pad, data.shape[1:]))
                    dst[idx] = data[:, x, y, z]
    """
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "ops_of_a_user.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield "ops_of_a_user"
    REGISTRY.pop("my_op", None)


def test_an_operation_of_a_user(
    user_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, user_module, raising=False)
    source = stored(tmp_path / "src", counting())
    target = flow(
        tmp_path,
        **TWO_LEVELS,
        processing_blend_modes="linear",
        op={"@type": "my_op"},
        dst=like(tmp_path / "dst", tmp_path / "src", info_data_type="float32"),
    )
    check_refusal(run(tmp_path, target), "my_op", capsys)
    result = applied(tmp_path, target, f"--import={user_module}")
    before = np.pad(source, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    check_close(result, source - before.astype(np.float32))


def test_no_destination(user_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, user_module, raising=False)
    source = stored(tmp_path / "src", counting())
    notes = tmp_path / "notes"
    notes.mkdir()
    target = flow(tmp_path, op={"@type": "my_op", "notes": str(notes)}, dst=None)
    assert run(tmp_path, target, f"--import={user_module}", "--dry_fn=false") == 0
    wanted = {}
    for z in range(2):
        for y in range(2):
            for x in range(2):
                start = (-13 + 20 * x, 5 + 18 * y, -3 + 5 * z)
                box = Box((start[0] - 1, start[1], start[2]), (start[0] + 21, start[1] + 18, start[2] + 5))
                text = " - ".join(f"({', '.join(f'{float(n)}' for n in corner)})" for corner in (box.start, box.stop))
                wanted[str(x + 2 * y + 4 * z)] = f"{text} {window(source, BOX.start, box).sum(dtype=int)}"
    assert {path.name: path.read_text() for path in notes.iterdir()} == wanted


def test_an_input_in_another_resolution(tmp_path: Path) -> None:
    """Images become averages, rounded; the first voxel of the coarse ones is one of an even place."""
    source = stored(tmp_path / "src", counting(shape=(40, 36, 10)), (-12, 4, -3))
    coarse = layer(tmp_path / "src", data_resolution=list(RESOLUTION), interpolation_mode="img")
    dst = like(tmp_path / "dst", tmp_path / "src", info_add_scales=[COARSE], info_add_scales_mode="replace")
    target = flow(
        tmp_path,
        bbox=bbox(Box((-6, 2, -3), (14, 20, 7)), COARSE),
        dst_resolution=list(COARSE),
        processing_chunk_sizes=[[10, 9, 5]],
        processing_blend_pads=[[2, 1, 1]],
        op_kwargs={"src": coarse},
        dst=dst,
    )
    assert run(tmp_path, target) == 0
    means = source.reshape(1, 20, 2, 18, 2, 10).mean((2, 4))
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "dst", COARSE), np.rint(means))


def test_layers_in_sets_lists_and_dictionaries(tmp_path: Path) -> None:
    first, second = (stored(tmp_path / name, counting(seed=n)) for n, name in enumerate(("src", "b")))
    text = "lambda images, pair, more, factor: images[0] // 4 + images[1] // 4 + more['c']['d'] // factor + pair['e']"
    halved = layer(tmp_path / "b", read_procs=[code("lambda data: data // 4")])
    target = flow(
        tmp_path,
        **TWO_LEVELS,
        fn=code(text),
        op_kwargs={
            "images": [layer(tmp_path / "src"), layer(tmp_path / "b")],
            "pair": {"@type": "build_layer_set", "layers": {"e": halved, "f": layer(tmp_path / "b")}},
            "more": {"c": {"d": layer(tmp_path / "src")}},
            "factor": 4,
        },
    )
    wanted = first // 4 + second // 4 + first // 4 + second // 4
    np.testing.assert_array_equal(applied(tmp_path, target), wanted)


def test_pieces_that_are_left_can_be_blended_by_users(tmp_path: Path) -> None:
    source = stored(tmp_path / "src", uniform())
    target = flow(
        tmp_path,
        **TWO_LEVELS,
        processing_blend_modes=["defer", "linear"],
        fn=code("lambda src: src * src.mean()"),
    )
    assert run(tmp_path, target) == 0
    blended = {**target, "processing_blend_modes": ["quadratic", "linear"]}
    wanted = expected(blended, lambda v: v * v.mean(), source)
    found = blended_by_a_user(tmp_path / "scratch", BOX, (20, 18, 5), (4, 3, 1), "quadratic")
    check_close(found, wanted)
    assert not list((tmp_path / "dst").glob("4_4_40/*.gz"))


@pytest.mark.parametrize("build", ["build_cv_layer", "build_ts_layer"])
def test_functions_may_change_what_they_get(build: str, tmp_path: Path) -> None:
    """Stored chunks are as large as those of the top level, and kept for the chunks that read them again."""
    source = stored(tmp_path / "src", counting(), chunk=(20, 18, 5), cv_kwargs={"compress": False})
    src = {**layer(tmp_path / "src"), "@type": build}
    target = flow(
        tmp_path,
        processing_chunk_sizes=[[20, 18, 5], [10, 9, 5]],
        processing_crop_pads=[[10, 9, 5], [10, 9, 5]],
        processing_blend_pads=[[10, 9, 0], [5, 4, 0]],
        fn=code("lambda src, again: src.add_(again.sub_(again)).add_(1)"),
        op_kwargs={"src": src, "again": src},
    )
    np.testing.assert_array_equal(applied(tmp_path, target), source + 1)


@pytest.mark.parametrize(
    "text",
    [
        "lambda src: src > 100",
        "lambda src: (src > 100).int()",
        "lambda src: np.asfortranarray(src.numpy() > 100)",
        "lambda src: (src.permute(3, 2, 1, 0) > 100).byte().permute(3, 2, 1, 0)",
    ],
)
def test_results_of_other_types_and_strides(text: str, tmp_path: Path) -> None:
    source = stored(tmp_path / "src", counting())
    target = flow(tmp_path, fn=code(text), processing_blend_pads=[[3, 2, 1]])
    np.testing.assert_array_equal(applied(tmp_path, target), source > 100)


def test_resolutions_that_are_no_integers(tmp_path: Path) -> None:
    resolution = (7.2, 7.2, 40.5)
    there: Spec = {"info_scales": [resolution], "info_bbox": BBox3D.from_coords(BOX.start, BOX.stop, resolution)}
    source = stored(tmp_path / "src", counting(), **there, default_desired_resolution=resolution)
    target = flow(tmp_path, bbox=bbox(BOX, resolution), dst_resolution=resolution, **TWO_LEVELS)
    assert run(tmp_path, target) == 0
    [scale] = (path for path in (tmp_path / "dst").iterdir() if path.name.startswith("7.2"))
    assert scale.name == "7.2_7.2_40.5"
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "dst", resolution), source)


def test_chunks_outside_of_the_destination_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = stored(tmp_path / "src", counting())
    far = Box(BOX.start, (BOX.start[0] + 80, BOX.start[1] + 72, BOX.stop[2]))
    np.testing.assert_array_equal(applied(tmp_path, flow(tmp_path, far)), source)
    assert "warning: 24 of the 32 chunks of the top level lie outside of dst" in capsys.readouterr().err
    assert run(tmp_path, flow(tmp_path, dst=like(tmp_path / "other", tmp_path / "src"))) == 0
    assert "warning" not in capsys.readouterr().err
