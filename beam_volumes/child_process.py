"""One child process that runs calls, and the loop that runs in it.

Children are started with `subprocess` and not with `multiprocessing`, whose children import the parent's `__main__`
again, and Beam with it: a child imports what the functions that it runs need, and no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from beam_volumes.errors import VolumeError

SECONDS_TO_DIE = 2.0
"""Between the polite signal and the final one."""

_SECONDS_BETWEEN_LOOKS = 1.0
"""A dead child shows at once as an end of file, unless a process that it had forked keeps the socket open."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_PROGRAM = """\
import sys
sys.path[:] = sys.argv[4:]
from beam_volumes.child_process import serve
serve(*map(int, sys.argv[1:4]))
"""

_PR_SET_PDEATHSIG = 1


class Answer(NamedTuple):
    """What a call came to; `traceback` is the text of the error's."""

    result: Any
    error: Exception | None
    traceback: str
    peak_memory_bytes: int


class Child:
    """A running child process. It dies with the thread that made it; all but `process` is for that thread only.

    Its standard output goes to standard error, as what it prints is never the output of the command.

    Attributes:
        process: for signals, which may come from any thread.

    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            level = logging.getLogger().getEffectiveLevel()
            arguments = [str(n) for n in (theirs.fileno(), os.getpid(), level)]
            flags = [f"-W{option}" for option in sys.warnoptions]
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-c", _PROGRAM, *arguments, *sys.path],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=2,
                # One thread each: the cores are taken by the other children.
                env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, "1")},
            )
            self._connection = Connection(ours.detach())

    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.poll() is None

    def call(self, call: bytes) -> bytes:
        """Run a pickled (function, arguments) and return the pickled `Answer`.

        Raises:
            EOFError, OSError: the process has ended before it answered, or hung up.

        """
        self._connection.send_bytes(call)
        while not self._connection.poll(_SECONDS_BETWEEN_LOOKS):
            if not self.alive() and not self._connection.poll():
                raise EOFError
        return self._connection.recv_bytes()

    def end(self) -> str:
        """Hang up, so that the process ends; return how it ended, as the rest of a sentence."""
        self._connection.close()
        return self.wait(time.monotonic() + SECONDS_TO_DIE)

    def wait(self, deadline: float) -> str:
        """Wait until the process ends, which it must by `deadline`; return how it ended."""
        try:
            status = self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "hung up"
        if status >= 0:
            return (
                f"ended with exit status {status}: the code that it ran has ended it: mend that, and give the same "
                "command again"
            )
        names = {int(s): s.name for s in signal.Signals}
        reason = (
            " (probably out of memory: give the same command again with fewer --processes)"
            if status == -signal.SIGKILL
            else ": the code that it ran has crashed, at the line that is printed above: mend that, and give the same "
            "command again"
            if status == -signal.SIGSEGV
            else ""
        )
        return f"was killed by {names.get(-status, f'signal {-status}')}{reason}"


class ChildTraceback(Exception):  # noqa: N818 - it is never raised: it is shown as the cause of another
    """Carries the text of a traceback, which cannot travel itself."""

    def __str__(self) -> str:
        """Return the text set off from what stands around it."""
        return f'\n"""\n{self.args[0]}"""'


@contextlib.contextmanager
def naming(label: str) -> Iterator[None]:
    """Add a note to what is raised inside: in which element it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {label}")
        raise


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held at once."""
    # Not ru_maxrss where it can be helped: on Linux a child starts with its parent's.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def serve(handle: int, parent: int, log_level: int) -> NoReturn:
    """Run the calls that come on a socket until its other end is closed; the main program of a child.

    Args:
        handle: file descriptor of the socket.
        parent: process id of the parent.
        log_level: of the root logger, which writes to standard error.

    """
    # The parent decides what becomes of Ctrl-C, which the terminal sends to all processes; it is blocked until here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.set_inheritable(handle, False)
    if sys.platform == "linux":
        # Without it a child ends at the end of its call, not at once, when its parent is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Where a library crashes, its caller's line is printed.
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(level=log_level, format="%(levelname)s %(name)s: %(message)s")
    connection = Connection(handle)
    with contextlib.suppress(EOFError, OSError):
        while os.getppid() == parent:
            connection.send_bytes(_answer(connection.recv_bytes()))
    # No exit handlers: threads that libraries have left behind could keep the process for ever.
    os._exit(0)


def _answer(call: bytes) -> bytes:
    try:
        function, args = pickle.loads(call)
        result = function(*args)
        return pickle.dumps(Answer(result, None, "", peak_memory_bytes()), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        text = "".join(traceback.format_exception(error))
        return pickle.dumps(Answer(None, _portable(error), text, peak_memory_bytes()))


def _portable(error: Exception) -> Exception:
    """Return `error` if it comes out of a pickle as it went in, and else a VolumeError that tells of it."""
    # Many classes of errors do not: what they are made of is not what they call their args.
    with contextlib.suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    # Not str(error), which may itself raise.
    return VolumeError("".join(traceback.format_exception_only(error)).strip())
