"""Memory does not grow with the volume."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    report = json.loads((tmp_path / "image/report.json").read_text())
    shutil.rmtree(tmp_path / "image")
    assert report["stages"]["regions"]["voxels"] == 2**32
    assert report["stages"]["regions"]["encoded_bytes"] == 2**32
    assert report["stages"]["shards"]["planned"] == 16
    # The usage is that of the launcher or of its largest worker, in kilobytes.
    assert 100_000_000 < usage.ru_maxrss * 1024 < MEMORY_TARGET + SPARE
    assert report["peak_memory_bytes"] < MEMORY_TARGET + SPARE
