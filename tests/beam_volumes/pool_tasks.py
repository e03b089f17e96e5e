"""Functions that tests hand to other processes, which can import this module but not the tests."""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class FramedError(Exception):
    """Made of more than a text."""

    def __init__(self, text: str, frame: dict[str, int]) -> None:
        super().__init__(text, frame)


class OddError(Exception):
    """Its pickle cannot be read: what it is made of is not its args."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class HolderError(Exception):
    """Its pickle cannot be written."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.file = sys.stderr


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Trap:
    """Its pickle raises where it is read."""

    def __reduce__(self) -> Any:
        return int, ("a trap",)


def fail(kind: type[Exception], *args: Any) -> NoReturn:
    raise kind(*args)


def fail_with_note() -> NoReturn:
    error = ValueError("bad")
    error.add_note("a note")
    raise error


def make_trap() -> Trap:
    return Trap()


def make_function() -> Callable[[], None]:
    return lambda: None


def say(text: str) -> None:
    print(text)  # noqa: T201 - where it goes is what is tested
    logging.getLogger("a library").info("told")


def allocate(size: int) -> int:
    return len(bytearray(size))


def knows(module: str) -> bool:
    return module in sys.modules


def write_whole(path: str | Path, text: str) -> None:
    """Write a file that is never seen in part."""
    Path(f"{path}.new").write_text(text, encoding="utf-8")
    os.rename(f"{path}.new", path)


def read_once_there(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.002)
    return Path(path).read_text(encoding="utf-8")


def begin(path: str) -> None:
    """Tell this process's id, then take long."""
    write_whole(path, str(os.getpid()))
    time.sleep(60)


def meet(folder: str, size: int) -> int:
    """Return this process's id when this runs in `size` processes."""
    write_whole(Path(folder) / str(os.getpid()), "")
    while len([name for name in os.listdir(folder) if name.isdigit()]) < size:
        time.sleep(0.002)
    return os.getpid()


def hang_up() -> None:
    os.closerange(3, 64)
    time.sleep(60)


def leave_a_fork(path: str) -> NoReturn:
    """End, while another process keeps all that was open."""
    if os.fork() == 0:
        begin(path)
    os._exit(4)
