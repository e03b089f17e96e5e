"""Apply a function in chunks of two levels, with crop and blend at both, beside the same work without the rest.

    python -m benchmarks.apply [--size=2048,2048] [--slices=64] [--model_slices=12] [--rounds=3] [--processes=2]

The volume is an image of uint8 in files of 1024 x 1024 x 1. Two functions are applied with the same chunks (`CHUNKS`):

- the identity, beside a loop in plain numpy over the same chunks, slice by slice, in one process. It reads no slices
  around its own: the identity needs none. Both results must be the source, voxel for voxel;
- a 3D convolution of three layers with 16 channels (TorchScript), beside that function alone: called as often, for
  chunks of the same shape, in as many processes, with no reading, blending or writing. What is above 1 in the ratio of
  wall seconds is the overhead.

Each is a command, with all that it takes to start; megavoxels of the result a second are printed at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cloudvolume import CloudVolume

from beam_volumes.geometry import BBox3D, Box
from beam_volumes.layers import build_cv_layer
from beam_volumes.subchunk_planning import plan_subchunks
from beam_volumes.subchunk_request import SubchunkRequest
from benchmarks.side_by_side import Contender, Measurement, compare

RESOLUTION = (16, 16, 40)
CHUNKS: dict[str, Any] = {
    "processing_chunk_sizes": [[1024, 1024, 1], [256, 256, 1]],
    "processing_crop_pads": [[112, 112, 0], [16, 16, 2]],
    "processing_blend_pads": [[16, 16, 0], [16, 16, 0]],
    "processing_blend_modes": ["linear", "quadratic"],
}
"""1024 + 2 * 112 + 2 * 16 = 1280, five chunks of 256."""


class Convolution(torch.nn.Module):
    """Three 3D convolutions with 16 channels, from uint8 to uint8."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for n, m in ((1, 16), (16, 16), (16, 1)):
            layers += [torch.nn.Conv3d(n, m, 3, padding=1), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        """Return NCXYZ of the same shape."""
        return (torch.sigmoid(self.layers(src.to(torch.float32) / 255)) * 255).round().to(torch.uint8)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the sources and the model, measure, compare what was written, print."""
    parser = argparse.ArgumentParser(description="Apply functions in chunks, beside the functions alone.")
    parser.add_argument("--size", default="2048,2048", help="voxels of the volume, x,y")
    parser.add_argument("--slices", type=int, default=64, help="of the volume to which the identity is applied")
    parser.add_argument("--model_slices", type=int, default=12, help="of the volume to which the model is applied")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", help="where to work; by default a temporary folder")
    options = parser.parse_args(argv)
    x, y = (int(n) for n in options.size.split(","))
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as folder:
        _compare_identity(Path(folder), Box.of_shape((x, y, options.slices)), options)
        _compare_model(Path(folder), Box.of_shape((x, y, options.model_slices)), options)


def _compare_identity(folder: Path, bounds: Box, options: argparse.Namespace) -> None:
    source = _make_source(folder / "identity", bounds)
    identity = {"@type": "lambda", "lambda_str": "lambda src: src"}
    ours = _ours(folder / "identity", bounds, identity, options)
    loop = [sys.executable, "-m", "benchmarks.apply_alone", "identity", f"--source={source}", f"--dst={folder}/plain"]
    contenders = [ours, Contender("plain numpy, 1 process", loop, lambda: _remove(folder / "plain"))]
    runs = compare(f"identity, {bounds.voxels / 1e6:.0f} megavoxels", contenders, options.rounds)
    for made in (folder / "identity" / "dst", folder / "plain"):
        _check_equal(source, made, bounds)
    _print_speed(runs, bounds)


def _compare_model(folder: Path, bounds: Box, options: argparse.Namespace) -> None:
    _make_source(folder / "model", bounds)
    torch.manual_seed(0)
    model = folder / "model.pt"
    torch.jit.save(torch.jit.script(Convolution().eval()), str(model))
    fn = {"@type": "torch_model", "path": str(model), "device": "cpu"}
    ours = _ours(folder / "model", bounds, fn, options)
    plan = plan_subchunks(SubchunkRequest(**CHUNKS), bounds)
    shape = ",".join(str(n) for n in plan.bottom.whole)
    alone = [sys.executable, "-m", "benchmarks.apply_alone", "model", f"--model={model}", f"--shape={shape}"]
    alone += [f"--count={plan.count_bottom_chunks()}", f"--processes={options.processes}"]
    contenders = [ours, Contender("the model alone", alone, lambda: None)]
    runs = compare(f"three 3D convolutions, {bounds.voxels / 1e6:.0f} megavoxels", contenders, options.rounds)
    _print_speed(runs, bounds)


def _make_source(folder: Path, bounds: Box) -> Path:
    """Write an image as the benchmark's source, slice by slice."""
    made = build_cv_layer(
        f"made://image?size={','.join(str(n) for n in bounds.shape)}&resolution=16,16,40&chunk=1024,1024,1",
        default_desired_resolution=RESOLUTION,
    )
    layer = build_cv_layer(
        str(folder / "src"),
        default_desired_resolution=RESOLUTION,
        info_scales=[RESOLUTION],
        info_bbox=BBox3D.from_coords(bounds.start, bounds.stop, RESOLUTION),
        info_data_type="uint8",
        info_encoding="raw",
        info_chunk_size=[1024, 1024, 1],
    )
    x, y, depth = bounds.shape
    for z in range(depth):
        layer[0:x, 0:y, z : z + 1] = made[0:x, 0:y, z : z + 1]
    return folder / "src"


def _ours(folder: Path, bounds: Box, fn: dict[str, Any], options: argparse.Namespace) -> Contender:
    spec = folder / "spec.json"
    dst = {
        "@type": "build_cv_layer",
        "path": str(folder / "dst"),
        "info_reference_path": str(folder / "src"),
    }
    target = {
        "@type": "build_subchunkable_apply_flow",
        "bbox": {
            "@type": "BBox3D.from_coords",
            "start_coord": bounds.start,
            "end_coord": bounds.stop,
            "resolution": RESOLUTION,
        },
        "dst_resolution": RESOLUTION,
        **CHUNKS,
        "fn": fn,
        "op_kwargs": {"src": {"@type": "build_cv_layer", "path": str(folder / "src")}},
        "dst": dst,
    }
    spec.write_text(json.dumps({"@type": "mazepa.execute", "target": target}))
    command = [sys.executable, "-m", "pipelines.apply", f"--spec={spec}", f"--processes={options.processes}"]
    return Contender("apply", command, lambda: _remove(folder / "dst"))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _check_equal(source: Path, made: Path, bounds: Box) -> None:
    expected, found = (CloudVolume(f"file://{path}", progress=False) for path in (source, made))
    for z in range(bounds.shape[2]):
        if not np.array_equal(expected[:, :, z], found[:, :, z]):
            raise RuntimeError(f"{made}: slice {z} is not that of the source")


def _print_speed(runs: dict[str, list[Measurement]], bounds: Box) -> None:
    for name, measured in runs.items():
        speeds = sorted(bounds.voxels / 1e6 / m.wall_seconds for m in measured)
        cpu = sorted(m.cpu_seconds * 1e6 / bounds.voxels for m in measured)
        middle = len(measured) // 2
        print(f"{name}: {speeds[middle]:.3f} megavoxels a second, {cpu[middle]:.3f} us of CPU a voxel")


if __name__ == "__main__":
    main()
