"""Memory does not grow with the volume, nor with the mips that are made of it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipelines.conftest import ROOT, children, peak_memory_bytes

MEMORY_TARGET = 400_000_000
DISK = 12_000_000_000


@pytest.mark.parametrize(
    ("source", "method"),
    [("image?size=2048,2048,1024", "average"), ("neurons?size=2048,2048,1024&dtype=uint8", "mode")],
)
def test_nine_mips_of_four_gigavoxels(source: str, method: str, tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < DISK:
        pytest.skip(f"needs {DISK:,} bytes of disk")
    command = [
        *(sys.executable, "-m", "pipelines.export", f"--src=made://{source}", f"--dst=file://{tmp_path}/volume"),
        *("--num_mips=9", f"--method={method}", "--encoding=raw", "--compress=none"),
        *(f"--memory_target={MEMORY_TARGET}", "--processes=2"),
    ]
    peaks: dict[int, int] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in [process.pid, *children(process)]:
                peaks[pid] = max(peaks.get(pid, 0), peak_memory_bytes(pid))
            time.sleep(0.2)
    assert process.returncode == 0
    report = json.loads((tmp_path / "volume/report.json").read_text())
    scales = json.loads((tmp_path / "volume/info").read_text())["scales"]
    shutil.rmtree(tmp_path / "volume")
    assert [scale["size"] for scale in scales][::3] == [
        [2048, 2048, 1024],
        [256, 256, 1024],
        [32, 32, 1024],
        [4, 4, 1024],
    ]
    stages = report["stages"]
    assert stages["regions"]["voxels_read"] == 2**32
    assert stages["rendering"]["voxels"] == sum(2**32 // 4**mip for mip in range(10))
    assert stages["cells"]["done"] == stages["cells"]["planned"] > 0
    assert 100_000_000 < max(peaks.values()) < MEMORY_TARGET
    assert 100_000_000 < report["peak_memory_bytes"] < MEMORY_TARGET
