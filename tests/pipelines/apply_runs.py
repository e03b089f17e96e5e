"""Runs that apply a function to small volumes: their specs, and plain numpy's view of what comes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Box, Vec
from pipelines import apply
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, by_cloudvolume, stored_layer, window
from tests.beam_volumes.subchunk_plans import make_plan, plain_volume

Voxels = npt.NDArray[Any]
Spec = dict[str, Any]

CHUNK = (8, 8, 4)
"""Of stored volumes, in voxels."""
BOX = Box.of_shape((40, 36, 10), (-13, 5, -3))
"""Whole chunks of the top level of all of the following; its corners are within stored chunks."""

ONE_LEVEL: Spec = {"processing_chunk_sizes": [[20, 18, 5]], "processing_crop_pads": [[3, 2, 1]]}
# 20 + 2 * (4 + 2) = 32, 18 + 2 * (3 + 0) = 24 and 5 + 2 * (1 + 1) = 9: whole chunks of the next level.
TWO_LEVELS: Spec = {
    "processing_chunk_sizes": [[20, 18, 5], [8, 6, 3]],
    "processing_crop_pads": [[2, 0, 1], [1, 2, 0]],
    "processing_blend_pads": [[4, 3, 1], [3, 2, 1]],
}
# 8 + 2 * (4 + 1) = 18, 6 + 2 * (3 + 2) = 16, 3 + 2 * (1 + 0) = 5.
THREE_LEVELS: Spec = {
    "processing_chunk_sizes": [[20, 18, 5], [8, 6, 3], [9, 8, 5]],
    "processing_crop_pads": [[2, 0, 1], [1, 2, 0], [0, 1, 1]],
    "processing_blend_pads": [[4, 3, 1], [4, 3, 1], [2, 1, 0]],
}


def layer(path: Path, **arguments: Any) -> Spec:
    """Return the spec of a layer that stands, or is described by `arguments`."""
    return {"@type": "build_cv_layer", "path": str(path), **arguments}


def like(path: Path, reference: Path, **arguments: Any) -> Spec:
    """Return the spec of a layer made after another one."""
    return layer(path, info_reference_path=str(reference), on_info_exists="overwrite", **arguments)


def code(text: str) -> Spec:
    """Return the spec of a function."""
    return {"@type": "lambda", "lambda_str": text}


def bbox(box: Box, resolution: Any = RESOLUTION) -> Spec:
    """Return the spec of a box of voxels."""
    return {
        "@type": "BBox3D.from_coords",
        "start_coord": list(box.start),
        "end_coord": list(box.stop),
        "resolution": list(resolution),
    }


def flow(folder: Path, box: Box | None = BOX, **arguments: Any) -> Spec:
    """Return a flow that copies a box of `src` in a folder to `dst` in it, but for what `arguments` say."""
    place = {} if box is None else {"bbox": bbox(box)}
    return {
        "@type": "build_subchunkable_apply_flow",
        **place,
        "dst_resolution": list(RESOLUTION),
        "processing_chunk_sizes": [[20, 18, 5]],
        "expand_bbox_processing": False,
        "level_intermediaries_dirs": [str(folder / "scratch")],
        "op_kwargs": {"src": layer(folder / "src")},
        "dst": like(folder / "dst", folder / "src"),
        **({} if "op" in arguments else {"fn": code("lambda src: src")}),
        **arguments,
    }


def run(folder: Path, target: Spec, *options: str, processes: int = 1) -> int:
    """Run a flow; return the exit status."""
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"@type": "mazepa.execute", "target": target}))
    return apply.main([f"--spec={spec}", f"--processes={processes}", *options])


def stored(path: Path, voxels: Voxels, offset: Vec = BOX.start, **others: Any) -> Voxels:
    """Write a volume of CXYZ voxels; return them."""
    stored_layer(path, voxels, offset, **{"chunk": CHUNK, **others})
    return voxels


def applied(folder: Path, target: Spec, *options: str) -> Voxels:
    """Run a flow, which must succeed; return all of `dst`, CXYZ."""
    assert run(folder, target, *options) == 0
    return by_cloudvolume(folder / "dst", fill_missing=True)


def expected(
    target: Spec, function: Callable[[Voxels], Voxels], voxels: Voxels, box: Box = BOX, offset: Vec = BOX.start
) -> Voxels:
    """Return what a flow makes of a box, CXYZ float64, in the plainest way.

    Args:
        target: the flow.
        function: what it applies, for arrays CXYZ.
        voxels: of its only input, whose first is at `offset`; 0 beyond.
        box: in voxels.
        offset: of the first voxel.

    """
    options = {name: value for name, value in target.items() if name in ("processing_gap", "max_reduction_chunk_size")}
    plan = make_plan(
        box,
        target["processing_chunk_sizes"],
        target.get("processing_crop_pads", (0, 0, 0)),
        target.get("processing_blend_pads", (0, 0, 0)),
        target.get("processing_blend_modes", "quadratic"),
        **options,
    )
    return plain_volume(plan, lambda read: function(window(voxels, offset, read)), voxels.shape[0])


def report(folder: Path) -> Any:
    """Return the report of the only run over `dst`."""
    [file] = (folder / "dst").glob("*/apply/*/report.json")
    return json.loads(file.read_text())


def uniform(channels: int = 1, shape: Vec = BOX.shape, seed: int = 0) -> Voxels:
    """Return float32 voxels from 0 up to 1."""
    return np.random.default_rng(seed).random((channels, *shape), np.float32)


def counting(data_type: str = "uint8", shape: Vec = BOX.shape, seed: int = 0) -> Voxels:
    """Return integers from 0 up to 200, of one channel."""
    return np.random.default_rng(seed).integers(0, 201, (1, *shape)).astype(data_type)


def check_close(found: Voxels, wanted: Voxels) -> None:
    """Make sure that floats are the same within 1e-5, and there are as many of them."""
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert found.shape == wanted.shape
