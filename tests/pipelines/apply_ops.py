"""Functions of a user, which count their calls, wait, and fail."""

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import torch

from beam_volumes import builder


@builder.register("halved_of_test")
def halved(src: torch.Tensor, *, log: str, seconds: float = 0.0) -> torch.Tensor:
    """Note the call, and wait."""
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return src // 2 + 7


@builder.register("stopped_of_test")
def stopped(src: torch.Tensor, *, log: str, after: int) -> torch.Tensor:
    """Go on for so many calls, and then wait until a file says that the rest may be done."""
    result = halved(src, log=log)
    while Path(log).read_text().count("\n") > after and not Path(f"{log}.go").exists():
        Path(f"{log}.{os.getpid()}").touch()
        time.sleep(0.01)
    return result


@builder.register("pair_of_test")
def pair(src: torch.Tensor, *, log: str, after: int) -> dict[str, torch.Tensor]:
    """Return what two layers take."""
    result = stopped(src, log=log, after=after)
    return {"left": result, "right": result + 1}


@builder.register("looking_of_test")
def looking(src: torch.Tensor, *, log: str, after: int) -> None:
    """Return nothing."""
    stopped(src, log=log, after=after)


@builder.register("ending_of_test")
def ending(src: torch.Tensor, *, how: str) -> Any:
    """End in a bad way where there is anything but zeros."""
    if not src.any():
        return src
    if how == "exit":
        os._exit(3)
    if how == "crash":
        ctypes.string_at(0)
    raise ValueError("wrong: https://user:hunter2@host/x?key=hunter2")


@builder.register("keyed_of_test")
def keyed(src: torch.Tensor, *, url: str, api_token: str, accounts: dict[str, list[str]]) -> torch.Tensor:
    """Return what came."""
    return src
