"""Memory does not grow with the volume."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipelines.conftest import peak_memory_bytes

MEMORY_TARGET = 400_000_000
SPARE = 500_000_000
DISK = 12_000_000_000


def test_four_gigavoxels_and_a_shuffle_larger_than_memory(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < DISK:
        pytest.skip(f"needs {DISK:,} bytes of disk")
    command = [
        *(sys.executable, "-m", "pipelines.export", "--src=made://image?size=2048,2048,1024", "--compress=none"),
        *(f"--dst=file://{tmp_path}/image", f"--memory_target={MEMORY_TARGET}", "--processes=2"),
    ]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, peak_memory_bytes(process.pid))
            time.sleep(0.2)
    assert process.returncode == 0
    report = json.loads((tmp_path / "image/report.json").read_text())
    shutil.rmtree(tmp_path / "image")
    assert report["stages"]["regions"]["voxels_read"] == 2**32
    assert report["stages"]["rendering"]["encoded_bytes"] == 2**32
    assert report["stages"]["shards"]["planned"] == 16
    assert 100_000_000 < peak < MEMORY_TARGET + SPARE
    assert 100_000_000 < report["peak_memory_bytes"] < MEMORY_TARGET + SPARE
