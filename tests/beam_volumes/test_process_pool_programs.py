"""What is left of the pool when its program ends, is killed or stopped: nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("never_hangs")

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
import pool_tasks
from beam_volumes.process_pool import Task, acquire, release

pool = acquire(2)
for i in range(pool.capacity):
    pool.submit(Task(pool_tasks.begin, (f"{sys.argv[2]} {i}",), f"task {i}"))
pids = [int(pool_tasks.read_once_there(f"{sys.argv[2]} {i}")) for i in range(2)]
"""
"""A program whose two processes are at work; what it does then is appended, and to say that it is ready."""

READY = 'print("ready", flush=True)'
WAIT = f"{READY}\npool.next_result()"


def program(tmp_path: Path, rest: str) -> subprocess.Popen[str]:
    """Start PROGRAM and what it does then; return when its processes are at work.

    They hold its standard error, so that `communicate` returns only when all have ended.
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM + rest, str(Path(__file__).parent), str(tmp_path / "task")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the packages are, whether or not they are installed.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ends_within(process: subprocess.Popen[str], seconds: float) -> str:
    """Wait for a program and all its processes; return what it wrote to standard error."""
    try:
        return process.communicate(timeout=seconds)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_program_that_is_killed(how: signal.Signals, tmp_path: Path) -> None:
    process = program(tmp_path, WAIT)
    process.send_signal(how)
    assert ends_within(process, 5) == ""
    assert process.returncode == -how


def test_ctrl_c_ends_a_program_and_its_processes(tmp_path: Path) -> None:
    process = program(tmp_path, WAIT)
    # As a terminal does: to all of them.
    os.killpg(process.pid, signal.SIGINT)
    told = ends_within(process, 5)
    assert process.returncode == -signal.SIGINT
    # Children say nothing.
    assert told.count("Traceback") == 1
    assert told.endswith("\nKeyboardInterrupt\n")


def test_ctrl_c_may_be_survived(tmp_path: Path) -> None:
    """A program that handles it finds its pool, and the processes in it, as they were."""
    process = program(
        tmp_path,
        f"""
try:
    {READY}
    pool.next_result()
except KeyboardInterrupt:
    for pid in pids:
        os.kill(pid, 0)
    pool.discard()
    pool.submit(Task(abs, (-4,), "after"))
    print(pool.next_result()[1])
    release(pool)
""",
    )
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=5)
    assert (out, err, process.returncode) == ("4\n", "", 0)


@pytest.mark.parametrize(("rest", "status"), [("", 0), ("sys.exit(3)", 3), ("raise SystemExit(4)", 4)])
def test_a_program_that_ends_ends_its_processes(rest: str, status: int, tmp_path: Path) -> None:
    process = program(tmp_path, f"{READY}\n{rest}")
    assert ends_within(process, 5) == ""
    assert process.returncode == status


def test_a_fork_of_the_program_does_not_end_its_processes(tmp_path: Path) -> None:
    process = program(
        tmp_path,
        f"""
{READY}
pool.discard()
pool.submit(Task(os.getpid, (), "before"))
pid = pool.next_result()[1]
if os.fork() == 0:
    sys.exit(0)
os.wait()
os.kill(pid, 0)
pool.submit(Task(abs, (-5,), "after"))
print(pool.next_result()[1])
""",
    )
    out, err = process.communicate(timeout=5)
    assert (out, err, process.returncode) == ("5\n", "", 0)
