"""Memory does not grow with the object: one that fills a volume costs a worker no more than a cell does."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.pipelines.conftest import ROOT, children, peak_memory_bytes
from tests.pipelines.mesh_cases import write_labels
from tests.pipelines.mesh_reading import MeshReader

MOST = 2_000_000_000
SIZE = 2048


def test_an_object_of_eight_gigavoxels(tmp_path: Path) -> None:
    # What is meshed is computed; a small volume stands where its meshes go.
    write_labels(tmp_path / "layer", np.zeros((16, 16, 16), np.uint8))
    command = [
        *(sys.executable, "-m", "pipelines.mesh", f"--layer=made://solid?size={SIZE},{SIZE},{SIZE}&dtype=uint32"),
        *(f"--dst=file://{tmp_path}/layer", "--num_lods=5", "--processes=2"),
    ]
    peaks: dict[int, int] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in [process.pid, *children(process)]:
                peaks[pid] = max(peaks.get(pid, 0), peak_memory_bytes(pid))
            time.sleep(0.2)
    assert process.returncode == 0
    report = json.loads((tmp_path / "layer/mesh/report.json").read_text())
    assert report["stages"]["cells"]["done"] == 512
    assert report["stages"]["surfaces"]["triangles_of_marching_cubes"] > 6 * 2 * (SIZE - 1) ** 2
    assert 100_000_000 < max(peaks.values()) < MOST
    assert 100_000_000 < report["peak_memory_bytes"] < MOST
    mesh = MeshReader(tmp_path / "layer").mesh(1)
    extent = np.array([SIZE * 16, SIZE * 16, SIZE * 40])
    for lod in range(5):
        surface = mesh.surface(lod)
        assert len(surface.open_edges) == 0
        assert surface.volume_nm3 / np.prod(extent.astype(float)) - 1 < 0.001
