"""What zetta_utils loses, damages or tells too late, and what is right here: one test, or more, for each of ten faults.

The semantics are otherwise those of its `build_subchunkable_apply_flow`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.geometry import Box
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, by_cloudvolume, random_voxels, window
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
from tests.pipelines.conftest import check_refusal, only_error


def test_1_runs_whose_boxes_share_chunks_keep_what_the_other_has_written(tmp_path: Path) -> None:
    """The boxes end at x = 7, within the chunks from 3 to 11."""
    source = stored(tmp_path / "src", counting())
    left = flow(tmp_path, Box(BOX.start, (7, 41, 7)), fn=code("lambda src: src + 1"))
    right = flow(tmp_path, Box((7, 5, -3), BOX.stop), fn=code("lambda src: src + 2"))
    assert run(tmp_path, left) == 0
    result = applied(tmp_path, right)
    np.testing.assert_array_equal(result[:, :20], source[:, :20] + 1)
    np.testing.assert_array_equal(result[:, 20:], source[:, 20:] + 2)


def test_2_zeros_take_the_place_of_what_stood_there(tmp_path: Path) -> None:
    stored(tmp_path / "src", counting())
    stood = stored(tmp_path / "dst", counting(seed=1) + np.uint8(1))
    box = Box((-5, 13, 1), (3, 29, 5))
    sizes: Any = {"processing_chunk_sizes": [[8, 8, 4]], "dst": layer(tmp_path / "dst")}
    result = applied(tmp_path, flow(tmp_path, box, fn=code("lambda src: src * 0"), **sizes))
    stood[(slice(None), *box.slices(BOX.start))] = 0
    np.testing.assert_array_equal(result, stood)


@pytest.mark.parametrize("data_type", ["int16", "float32"])
def test_3_of_negative_values_max_is_the_largest(data_type: str, tmp_path: Path) -> None:
    values = random_voxels((1, *BOX.shape), data_type)
    source = stored(tmp_path / "src", -1 - abs(values // 2))
    # Chunks yield other values where they overlap.
    target = flow(
        tmp_path,
        fn=code("lambda src: torch.minimum(src, src.amin() // 2 + torch.zeros_like(src))"),
        **TWO_LEVELS,
        processing_blend_modes="max",
    )
    wanted = expected(target, lambda v: np.minimum(v, v.min() // 2), source)
    assert wanted.max() < 0
    np.testing.assert_array_equal(applied(tmp_path, target), wanted)


@pytest.mark.parametrize("data_type", ["int32", "uint16", "uint32"])
def test_4_wide_integers_are_blended_exactly(data_type: str, tmp_path: Path) -> None:
    source = stored(tmp_path / "src", random_voxels((1, *BOX.shape), data_type))
    assert abs(source.astype(np.int64)).max() > (2**15 if data_type == "uint16" else 2**30)
    result = applied(tmp_path, flow(tmp_path, **TWO_LEVELS, processing_blend_modes="linear"))
    np.testing.assert_array_equal(result, source)


def test_4_ids_are_not_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path / "src", random_voxels((1, *BOX.shape), "uint64"), info_type="segmentation")
    status = run(tmp_path, flow(tmp_path, processing_blend_pads=[[2, 2, 0]]))
    check_refusal(
        status,
        r"processing_blend_pads\[0\]: expected no blend for a segmentation, whose values are ids, and the mean of two "
        r"ids is a third one, came \[2, 2, 0\] with mode quadratic: use \[0, 0, 0\] and a larger crop_pad, or mode max",
        capsys,
    )
    assert not (tmp_path / "dst").exists()


def test_4_numbers_too_large_for_any_float_are_not_blended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path / "src", random_voxels((1, *BOX.shape), "int64"))
    assert run(tmp_path, flow(tmp_path, processing_blend_pads=[[2, 2, 0]])) == 1
    line = only_error(capsys.readouterr().err)
    assert "blending: expected values of int64 within -70368744177664 and 70368744177664" in line
    assert "blend ids and other large numbers with mode max, or crop instead" in line


@pytest.mark.parametrize("levels", [1, 2])
def test_5_gaps_stay_as_they_were_and_chunks_are_whole(levels: int, tmp_path: Path) -> None:
    source = stored(tmp_path / "src", counting())
    wanted = stored(tmp_path / "dst", np.full_like(source, 201))
    sizes: Spec = {
        "processing_chunk_sizes": [[12, 16, 3], [4, 8, 1]][:levels],
        "processing_blend_pads": [[0, 0, 0], [2, 3, 0]][:levels],
        "processing_gap": [2, 4, 0],
    }
    # 3 x (12 + 2) - 2 voxels, 2 x (16 + 4) - 4, 3 x 3.
    box = Box.of_shape((40, 36, 9), BOX.start)
    result = applied(tmp_path, flow(tmp_path, box, **sizes, dst=layer(tmp_path / "dst")))
    for x in (0, 14, 28):
        for y in (0, 20):
            part = (slice(None), slice(x, x + 12), slice(y, y + 16), slice(0, 9))
            wanted[part] = source[part]
    np.testing.assert_array_equal(result, wanted)
    assert report(tmp_path)["stages"]["chunks"]["done"] == 18


def test_5_output_boxes_in_gaps_are_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stored chunks of 2 x 4 x 3, of which some lie in gaps altogether."""
    source = stored(tmp_path / "src", counting())
    wanted = stored(tmp_path / "dst", np.full_like(source, 201), chunk=(2, 4, 3))
    target = flow(
        tmp_path,
        Box.of_shape((40, 36, 9), BOX.start),
        processing_chunk_sizes=[[26, 16, 9]],
        processing_gap=[14, 4, 0],
        max_reduction_chunk_size=[1, 1, 1],
        dst=layer(tmp_path / "dst"),
    )
    result = applied(tmp_path, target)
    for y in (0, 20):
        part = (slice(None), slice(0, 26), slice(y, y + 16), slice(0, 9))
        wanted[part] = source[part]
    np.testing.assert_array_equal(result, wanted)
    assert report(tmp_path)["stages"]["boxes"]["done"] == 13 * 8 * 3
    capsys.readouterr()
    assert run(tmp_path, target, "--plan") == 0
    assert "output boxes left: 0 of 312" in " ".join(capsys.readouterr().out.split())
    assert run(tmp_path, target) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("coarse", ["op_kwargs.src", "dst"])
def test_5_gaps_must_be_whole_voxels_of_each_layer(
    coarse: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first chunk is of whole voxels of 8 nm, the second one is not."""
    resolution = [8, 8, 40]
    stored(tmp_path / "src", counting(), (0, 0, 0))
    halves = {"info_add_scales": [resolution], "info_add_scales_mode": "replace"}
    read = {"data_resolution": resolution, "interpolation_mode": "img"}
    target = flow(tmp_path, Box.of_shape((14, 16, 10)), processing_chunk_sizes=[[4, 16, 10]], processing_gap=[1, 0, 0])
    if coarse == "dst":
        target["dst"] = like(tmp_path / "dst", tmp_path / "src", **halves, **read)
    else:
        target["op_kwargs"] = {"src": like(tmp_path / "coarse", tmp_path / "src", **halves, **read)}
    message = (
        "processing_gap: expected chunks, with the gaps between them, of whole voxels in each layer, came gaps of "
        rf"\[1, 0, 0\]: choose others, as {coarse}.*: expected .*whole voxels"
    )
    check_refusal(run(tmp_path, target), message, capsys)
    assert not (tmp_path / "dst").exists()


def test_6_a_layer_set_is_blended(tmp_path: Path) -> None:
    """Layers of other types and chunks; the second one is stored in larger chunks from another corner on."""
    source = stored(tmp_path / "src", uniform(2))
    bytes_of_it: Spec = {"info_data_type": "uint8", "info_num_channels": 1, "info_chunk_size": [16, 12, 4]}
    around = Box((-29, -7, -3), (35, 41, 9))
    target = flow(
        tmp_path,
        fn=code("lambda src: {'a': src * src.mean(), 'b': (src[:1] * 0 + src.mean() * 200).to(torch.uint8)}"),
        **TWO_LEVELS,
        processing_blend_modes="linear",
        dst={
            "@type": "build_layer_set",
            "layers": {
                "a": like(tmp_path / "a", tmp_path / "src"),
                "b": layer(
                    tmp_path / "b", info_scales=[RESOLUTION], info_bbox=bbox(around), info_encoding="raw", **bytes_of_it
                ),
            },
        },
    )
    assert run(tmp_path, target) == 0
    smooth = expected(target, lambda v: v * v.mean(dtype=np.float64), source)
    check_close(by_cloudvolume(tmp_path / "a"), smooth)
    patches = expected(target, lambda v: np.full(v.shape, np.floor(v.mean(dtype=np.float64) * 200)), source)[:1]
    stored_patches = by_cloudvolume(tmp_path / "b", fill_missing=True)
    # Some sums lie just where they may be rounded up or down.
    close = abs(patches - np.floor(patches) - 0.5) < 1e-3
    inside = stored_patches[(slice(None), *BOX.intersection(around).slices(around.start))][..., :10]
    wanted = np.where(close, inside, np.rint(patches))
    assert close.mean() < 0.01
    np.testing.assert_array_equal(stored_patches, window(wanted, BOX.start, around))


def test_7_downsampling_again_and_again_does_not_darken(tmp_path: Path) -> None:
    """Four runs, each of which halves the mip that the one before has written into the same volume."""
    voxels = np.random.default_rng(0).integers(80, 122, (1, 64, 64, 8)).astype("uint8")
    stored(tmp_path / "dst", voxels, (0, 0, 0))
    means = [voxels.mean()]
    for _ in range(4):
        means.append(_halved(tmp_path, len(means)).mean())
    # Truncated, each mip would be darker by 3/8 of a level.
    np.testing.assert_allclose(means, means[0], atol=0.15)


def _halved(folder: Path, mip: int) -> Any:
    before, after = ([4 * 2**n, 4 * 2**n, 40] for n in (mip - 1, mip))
    size = [64 >> mip, 64 >> mip, 8]
    target = flow(
        folder,
        Box.of_shape((size[0], size[1], size[2])),
        bbox=bbox(Box.of_shape((64, 64, 8))),
        dst_resolution=after,
        processing_chunk_sizes=[size],
        op_kwargs={"src": layer(folder / "dst", data_resolution=before, interpolation_mode="img")},
        dst=layer(folder / "dst", info_add_scales=[after], info_extend_if_exists=True),
    )
    assert run(folder, target) == 0
    return by_cloudvolume(folder / "dst", (after[0], after[1], after[2]))


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            "lambda src: src.float()",
            r"the function's result for chunk \d+ .*: expected the destination's type uint8, came float32: round, clip "
            "and convert in the function, or in one of write_procs",
        ),
        (
            "lambda src: src[:, 1:]",
            r"expected the shape \(1, 26, 22, 7\), 1 channels, and x, y, z of the chunk with twice its crop_pad and "
            r"blend_pad, came \(1, 25, 22, 7\): return that, uncropped",
        ),
        (
            "lambda src: 1 / 0",
            r"the function has failed for chunk .*: ZeroDivisionError: division by zero .*lambda_str",
        ),
    ],
)
def test_8_a_function_that_cannot_work_is_told_before_anything_is_written(
    fn: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path / "src", counting())
    target = flow(tmp_path, fn=code(fn), processing_crop_pads=[[3, 2, 1]])
    check_refusal(run(tmp_path, target), message, capsys)
    assert not (tmp_path / "dst").exists()
    # It is the job that fails without the try.
    assert run(tmp_path, target, "--dry_fn=false") == 1
    assert "error: " in capsys.readouterr().err
    assert (tmp_path / "dst" / "info").exists()


def test_8_a_function_that_fails_on_nothing_but_zeros_is_not_tried(tmp_path: Path) -> None:
    """What divides by the mean of its chunk cannot take zeros."""
    source = stored(tmp_path / "src", counting() + np.uint8(1))
    target = flow(tmp_path, fn=code("lambda src: src // (src.amax() if src.any() else 1 / 0) * src"))
    assert run(tmp_path, target) == 2
    result = applied(tmp_path, target, "--dry_fn=false")
    np.testing.assert_array_equal(result, expected(target, lambda v: v // v.max() * v, source))


@pytest.mark.parametrize("levels", [1, 2])
def test_9_chunks_of_one_slice_are_cropped_in_z(levels: int, tmp_path: Path) -> None:
    """Each slice becomes the sum of those around it."""
    source = stored(tmp_path / "src", counting() // 5)
    target = flow(
        tmp_path,
        fn=code("lambda src: src + src.roll(1, 3) + src.roll(-1, 3)"),
        processing_chunk_sizes=[[20, 18, 1], [10, 6, 1]][:levels],
        processing_crop_pads=[[0, 0, 1], [0, 0, 1]][2 - levels :],
    )
    padded = np.pad(source, ((0, 0), (0, 0), (0, 0), (1, 1)))
    np.testing.assert_array_equal(applied(tmp_path, target), padded[..., :-2] + source + padded[..., 2:])


def _older(folder: Path) -> Any:
    dst: Spec = {"on_info_exists": "overwrite", "info_reference_path": str(folder / "src")}
    return {"max_reduction_chunk_sizes": [[16, 16, 4], [8, 8, 4]], "dst": layer(folder / "dst", **dst)}


def _newer(folder: Path) -> Any:
    scales: Spec = {"info_scales": [RESOLUTION], "info_inherit_all_params": True, "info_overwrite": True}
    dst = layer(folder / "dst", info_reference_path=str(folder / "src"), **scales)
    return {"max_reduction_chunk_size": [16, 16, 4], "dst": dst}


@pytest.mark.parametrize("spelled", [_older, _newer])
def test_10_specs_in_both_spellings(spelled: Any, tmp_path: Path) -> None:
    source = stored(tmp_path / "src", counting())
    result = applied(tmp_path, flow(tmp_path, **TWO_LEVELS, **spelled(tmp_path)))
    np.testing.assert_array_equal(result, source)
    # Of whole stored chunks, which begin at (-13, 5, -3): 3 x 3 x 3.
    assert report(tmp_path)["stages"]["boxes"]["done"] == 27


def test_10_both_spellings_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path / "src", counting())
    sizes: Spec = {"max_reduction_chunk_size": [16, 16, 4], "max_reduction_chunk_sizes": [16, 16, 4]}
    check_refusal(
        run(tmp_path, flow(tmp_path, **sizes)),
        "max_reduction_chunk_size, max_reduction_chunk_sizes: expected one of them, came both",
        capsys,
    )
