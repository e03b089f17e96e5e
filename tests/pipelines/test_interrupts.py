"""Ctrl-C before a command has begun: one line, and no traceback of what was being imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from templates.generate import PIPELINES
from tests.pipelines.conftest import ROOT, SECONDS, started, wait_until

_SLOW = """\
import pathlib, time
pathlib.Path({began!r}).touch()
try:
    time.sleep(60)
except BaseException as error:
    raise ImportError("libraries raise what they like") from error
"""


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_ctrl_c_while_libraries_are_imported(pipeline: str, tmp_path: Path) -> None:
    began = tmp_path / "began"
    (tmp_path / "apache_beam.py").write_text(_SLOW.format(began=str(began)))
    with started(pipeline, "--help", env={**os.environ, "PYTHONPATH": str(tmp_path)}) as process:
        wait_until(began.exists, process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (130, "", "stopped: nothing has begun\n")


def test_ctrl_c_of_a_program_that_imports_a_pipeline_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import os, pipelines\nos.kill(os.getpid(), 2)")
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.endswith(b"\nKeyboardInterrupt\n")
