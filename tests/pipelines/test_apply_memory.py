"""The memory that a run is planned to take, `--plan`'s figure for one worker, is what its workers take.

Measured is the most that a worker process has held at once, of all its libraries and voxels, as the kernel tells it
(VmHWM): by the worker itself for the report, and from outside. It is to be within 20 % of the figure. The process that
launches the run is measured too, and may not hold more than a small part of a volume.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from beam_volumes.geometry import Vec
from tests.pipelines.apply_runs import Spec, code
from tests.pipelines.conftest import ROOT, children, peak_memory_bytes, rows_of

RESOLUTION = [16, 16, 40]
SOURCE = "made://solid?size=8192,8192,8192&dtype=uint8&resolution=16,16,40&chunk=128,128,8"
"""Computed where it is read, with hardly any memory of its own."""
FINE = "made://solid?size=16384,16384,8192&dtype=uint8&resolution=8,8,40&chunk=256,256,8"
COPY = code("lambda src: src")
LAUNCHER = 1_300_000_000
"""It tries the function once; hardly anything goes through it."""


class Convolutions(torch.nn.Module):
    """Three 3D convolutions with 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for n, m in ((1, 16), (16, 16), (16, 1)):
            layers += [torch.nn.Conv3d(n, m, 3, padding=1), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.sigmoid(self.layers(src.to(torch.float32)))
        return found


def check(folder: Path, size: Vec, data_type: str, target: Spec) -> None:
    """Plan and run a flow over a volume of `size` voxels in two processes, and compare their memory with the plan."""
    box = {"@type": "BBox3D.from_coords", "start_coord": [0, 0, 0], "end_coord": list(size), "resolution": RESOLUTION}
    dst = {
        "@type": "build_cv_layer",
        "path": str(folder / "dst"),
        "info_scales": [RESOLUTION],
        "info_bbox": box,
        "info_data_type": data_type,
        "info_encoding": "raw",
        "info_chunk_size": [128, 128, 8],
    }
    arguments = {"bbox": box, "dst_resolution": RESOLUTION, "dst": dst, "op_kwargs": {"src": source(SOURCE)}, **target}
    spec = folder / "spec.json"
    flow = {"@type": "build_subchunkable_apply_flow", **arguments, "level_intermediaries_dirs": [str(folder / "tmp")]}
    spec.write_text(json.dumps({"@type": "mazepa.execute", "target": flow}))
    command = [sys.executable, "-m", "pipelines.apply", f"--spec={spec}", "--processes=2"]
    printed = subprocess.run([*command, "--plan"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    planned = int(rows_of(printed)["memory per worker, bytes"].replace(",", ""))
    peaks: dict[int, int] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in [process.pid, *children(process)]:
                peaks[pid] = max(peaks.get(pid, 0), peak_memory_bytes(pid))
            time.sleep(0.1)
    assert process.returncode == 0
    launcher = peaks.pop(process.pid)
    [file] = (folder / "dst").glob("*/apply/*/report.json")
    report = json.loads(file.read_text())
    assert report["stages"]["boxes"]["done"] == report["stages"]["boxes"]["planned"] > 0
    assert report["peak_memory_bytes"] == pytest.approx(planned, rel=0.2)
    assert max(peaks.values()) == pytest.approx(planned, rel=0.2)
    assert launcher < LAUNCHER


def source(path: str, **arguments: Any) -> Spec:
    return {"@type": "build_cv_layer", "path": path, **arguments}


def levels(chunks: Sequence[Vec], crops: Sequence[Vec], blends: Sequence[Vec]) -> Spec:
    return {
        "processing_chunk_sizes": chunks,
        "processing_crop_pads": crops,
        "processing_blend_pads": blends,
        "processing_blend_modes": "quadratic",
    }


@pytest.mark.parametrize(
    ("batch", "size", "cut"),
    [
        # 384 + 2 * 32 = 2 * 224 and 12 + 2 * 4 = 20; the model takes 272 x 272 x 28 at a time.
        (1, (384, 384, 24), levels([(384, 384, 12), (224, 224, 20)], [(16, 16, 2)] * 2, [(16, 16, 2), (8, 8, 2)])),
        # 128 + 2 * 32 = 2 * 96, 192 + 2 * 16 = 2 * 112 and 16 + 2 * 4 = 2 * 12; 128 x 144 x 18, four together.
        (4, (128, 192, 32), levels([(128, 192, 16), (96, 112, 12)], [(16, 16, 2), (8, 8, 2)], [(16, 0, 2), (8, 8, 1)])),
    ],
)
def test_convolutions_blended_at_two_levels(batch: int, size: Vec, cut: Spec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # Of torch, that the newer form is to be preferred.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Convolutions().eval()).save(str(tmp_path / "model.pt"))
    model = {"@type": "torch_model", "path": str(tmp_path / "model.pt"), "device": "cpu", "batch": batch}
    check(tmp_path, size, "float32", {**cut, "fn": model})


def test_a_large_chunk_of_the_top_level(tmp_path: Path) -> None:
    cut = levels([(1024, 1024, 48), (256, 256, 8)], [(0, 0, 0), (16, 16, 2)], [(128, 128, 8), (16, 16, 2)])
    check(tmp_path, (2048, 1024, 48), "uint8", {**cut, "fn": COPY})


def test_large_output_boxes(tmp_path: Path) -> None:
    cut = levels([(512, 512, 48), (160, 160, 8)], [(0, 0, 0), (16, 16, 2)], [(64, 64, 8), (16, 16, 2)])
    check(tmp_path, (1024, 1024, 96), "uint8", {**cut, "fn": COPY, "max_reduction_chunk_size": [1024, 1024, 96]})


def test_a_volume_that_is_much_larger_than_what_a_worker_may_hold(tmp_path: Path) -> None:
    cut = levels([(512, 512, 256)], [(0, 0, 0)], [(0, 0, 32)])
    check(tmp_path, (512, 512, 1024), "uint8", {**cut, "fn": COPY})


def test_reading_what_is_interpolated(tmp_path: Path) -> None:
    cut = levels([(512, 512, 48)], [(0, 0, 0)], [(0, 0, 0)])
    fine = source(FINE, data_resolution=[8, 8, 40], interpolation_mode="img")
    check(tmp_path, (1024, 512, 48), "uint8", {**cut, "fn": COPY, "op_kwargs": {"src": fine}})
