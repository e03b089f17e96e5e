"""What runs over small volumes write where: through processors, at other resolutions, moved, sharded, several."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.geometry import Box
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, by_cloudvolume, by_tensorstore, window
from tests.pipelines.apply_runs import (
    BOX,
    TWO_LEVELS,
    Spec,
    applied,
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

COARSE = (8, 8, 40)
SHARDING = {
    "hash": "identity",
    "preshift_bits": 1,
    "minishard_bits": 2,
    "shard_bits": 5,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
"""Shards of 2 x 2 x 2 chunks."""


def layer_set(layers: Spec, **arguments: Any) -> Spec:
    return {"@type": "build_layer_set", "layers": layers, **arguments}


@pytest.mark.parametrize("mode", ["img", "segmentation"])
def test_an_output_in_another_resolution(mode: str, tmp_path: Path) -> None:
    """Blended at 4 nm, and made coarser where whole output boxes are written."""
    source = stored(tmp_path / "src", counting(shape=(40, 36, 10)) // 100, (-12, 4, -3))
    dst: Spec = {"info_add_scales": [COARSE], "info_add_scales_mode": "replace"}
    dst |= {"data_resolution": COARSE, "interpolation_mode": mode}
    target = flow(
        tmp_path,
        Box((-12, 4, -3), (28, 40, 7)),
        **TWO_LEVELS,
        dst=like(tmp_path / "dst", tmp_path / "src", **dst),
    )
    assert run(tmp_path, target) == 0
    blocks = source.reshape(1, 20, 2, 18, 2, 10).transpose(0, 1, 3, 5, 4, 2).reshape(1, 20, 18, 10, 4)
    if mode == "img":
        wanted = np.rint(blocks.mean(-1))
    else:
        votes = (blocks[..., None] == blocks[..., None, :]).sum(-1)
        wanted = np.take_along_axis(blocks, votes.argmax(-1)[..., None], -1)[..., 0]
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "dst", COARSE), wanted)


def test_write_procs_take_results_uncropped_once_and_read_procs_of_the_destination_nothing(tmp_path: Path) -> None:
    source = stored(tmp_path / "src", uniform())
    procs: Spec = {
        "write_procs": [code("lambda data: data + data.amax()"), code("lambda data: data * 2")],
        "read_procs": [code("lambda data: data * 0")],
    }
    target = flow(tmp_path, **TWO_LEVELS, dst=like(tmp_path / "dst", tmp_path / "src", **procs))
    wanted = expected(target, lambda v: (v + v.max()) * 2, source)
    check_close(applied(tmp_path, target), wanted)


def test_joint_write_procs_and_read_procs(tmp_path: Path) -> None:
    """Inverted on reading, then doubled; inverted again on writing."""
    source = stored(tmp_path / "src", counting())
    invert = {"@type": "InvertProcessor"}
    target = flow(
        tmp_path,
        **TWO_LEVELS,
        op_kwargs={"src": layer(tmp_path / "src", read_procs=[invert, code("lambda data: data // 2")])},
        dst=like(tmp_path / "dst", tmp_path / "src", write_procs=[code("lambda data: data + 1"), invert]),
    )
    halves = (257 - source.astype(int)) % 256 // 2
    np.testing.assert_array_equal(applied(tmp_path, target), (257 - (halves + 1)) % 256)


def test_a_destination_that_is_moved(tmp_path: Path) -> None:
    """By (3, -2, 1) voxels: what would lie beyond the bounds is dropped."""
    source = stored(tmp_path / "src", counting())
    move = {"@type": "VolumetricIndexTranslator", "offset": [3, -2, 1], "resolution": list(RESOLUTION)}
    target = flow(tmp_path, **TWO_LEVELS, dst=like(tmp_path / "dst", tmp_path / "src", index_procs=[move]))
    np.testing.assert_array_equal(applied(tmp_path, target), window(source, (-10, 3, -2), BOX))


def test_a_sharded_destination_is_blended(tmp_path: Path) -> None:
    """Output boxes are whole shards, each of which is written once."""
    source = stored(tmp_path / "src", uniform())
    sharded = {"info_scales": [RESOLUTION], "info_extra_scale_data": {"sharding": SHARDING}}
    dst = {
        "@type": "build_ts_layer",
        "path": str(tmp_path / "dst"),
        "info_reference_path": str(tmp_path / "src"),
        "info_inherit_all_params": True,
        **sharded,
    }
    target = flow(
        tmp_path,
        **TWO_LEVELS,
        processing_blend_modes="bump",
        fn=code("lambda src: src * src.mean()"),
        dst=dst,
    )
    assert run(tmp_path, target) == 0
    check_close(by_tensorstore(tmp_path / "dst"), expected(target, lambda v: v * v.mean(), source))
    shards = list((tmp_path / "dst" / "4_4_40").glob("*.shard"))
    # 40 x 36 x 10 voxels in shards of 16 x 16 x 8.
    assert report(tmp_path)["stages"]["boxes"]["done"] == len(shards) == 3 * 3 * 2


def test_a_layer_set_with_processors(tmp_path: Path) -> None:
    """Those of the set come first, and take the dictionary; the index of all layers is moved along x."""
    source = stored(tmp_path / "src", counting() // 4)
    move = {"@type": "VolumetricIndexTranslator", "offset": [8, 0, 0], "resolution": list(RESOLUTION)}
    dst = layer_set(
        {
            "a": like(tmp_path / "a", tmp_path / "src", write_procs=[code("lambda data: data * 2")]),
            "b": like(tmp_path / "b", tmp_path / "src"),
        },
        write_procs=[code("lambda data: {'a': data['b'] + 1, 'b': data['a'] + 2}")],
        index_procs=[move],
    )
    fn = code("lambda src: {'a': src, 'b': src + 3}")
    assert run(tmp_path, flow(tmp_path, **TWO_LEVELS, fn=fn, dst=dst)) == 0
    moved = (BOX.start[0] + 8, *BOX.start[1:])
    a, b = (by_cloudvolume(tmp_path / name, fill_missing=True) for name in "ab")
    np.testing.assert_array_equal(a, window((source + 4) * 2, moved, BOX))
    np.testing.assert_array_equal(b, window(source + 2, moved, BOX))


def test_a_function_of_torch_with_some_of_its_arguments(tmp_path: Path) -> None:
    source = stored(tmp_path / "src", counting())
    fn = {"@type": "torch.add", "@mode": "partial", "other": 7}
    target = flow(tmp_path, fn=fn, op_kwargs={"input": layer(tmp_path / "src")})
    np.testing.assert_array_equal(applied(tmp_path, target), source + 7)


def test_a_run_that_reads_what_it_writes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = stored(tmp_path / "src", counting())
    target = flow(tmp_path, fn=code("lambda src: src + 1"), dst=layer(tmp_path / "src"))
    assert run(tmp_path, target) == 2
    message = (
        f"op_kwargs.src: expected voxels that the run does not write, came those of scale 4_4_40 of file://{tmp_path}"
    )
    assert message in capsys.readouterr().err
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "src"), source)


def test_one_part_of_a_volume_may_be_made_of_another(tmp_path: Path) -> None:
    source = stored(tmp_path / "src", counting())
    width = BOX.shape[0] // 2
    half = Box(BOX.start, (BOX.start[0] + width, *BOX.stop[1:]))
    aside = {"@type": "VolumetricIndexTranslator", "offset": [width, 0, 0], "resolution": list(RESOLUTION)}
    dst = layer(tmp_path / "src", index_procs=[aside])
    assert run(tmp_path, flow(tmp_path, half, dst=dst)) == 0
    expected = np.concatenate([source[:, :width], source[:, :width]], axis=1)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "src"), expected)
