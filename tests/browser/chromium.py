"""A headless Chromium, driven over the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/ ."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SECONDS = 120.0
"""Nothing here takes so long, unless it hangs."""

_PAUSE_SECONDS = 0.05

_FLAGS = [
    "--headless=new",
    # The sandbox needs a user other than root; the pages are our own.
    "--no-sandbox",
    # WebGL 2 on the processor, for machines without graphics.
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    # Containers give shared memory of 64 MB.
    "--disable-dev-shm-usage",
    # Ask nobody for anything but the page.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
    *("--no-first-run", "--no-default-browser-check", "--disable-extensions"),
    "--remote-debugging-port=0",
]


class Response(NamedTuple):
    """What a server answered to the page or to one of its workers."""

    url: str
    status: int


class Message(NamedTuple):
    """A line of the console; `level` is the page's own, the browser's, or `exception`."""

    level: str
    text: str


def chromium() -> str | None:
    """Return the program, where it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One page in a browser of its own, which lives while this is entered.

    Args:
        program: the browser.
        folder: an empty folder for its profile.
        width, height: pixels of the page.

    """

    def __init__(self, program: str, folder: Path, width: int = 1000, height: int = 800) -> None:
        self.console: list[Message] = []
        self.responses: list[Response] = []
        self.failures: list[str] = []
        """Requests without an answer."""
        self._program, self._folder, self._size = program, folder, (width, height)
        self._numbers = itertools.count(1)
        self._session: str | None = None  # The browser's own.

    def __enter__(self) -> Self:
        """Start the browser."""
        with contextlib.ExitStack() as stack:
            self._start()
            stack.callback(self._stop)
            # What nobody has read would otherwise stand before the answer to the end of the connection.
            limits: dict[str, None] = {"max_size": None, "max_queue": None}
            self._socket = stack.enter_context(connect(self._address(), compression=None, proxy=None, **limits))
            self._attach()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the browser."""
        self._open.close()

    def send(self, method: str, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Give a command to the page, or to another session; return its result."""
        number = self._post(method, session or self._session, parameters)
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        """Go to a page."""
        result = self.send("Page.navigate", url=url)
        assert "errorText" not in result, result

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what it promises, in the page."""
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Look again and again."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"it did not happen; the console says {self.console}"
            assert self._process.poll() is None, f"the browser has stopped: {self._log()}"
            time.sleep(_PAUSE_SECONDS)

    def screenshot(self) -> bytes:
        """Return the page as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def _start(self) -> None:
        width, height = self._size
        size, profile = f"--window-size={width},{height}", f"--user-data-dir={self._folder / 'profile'}"
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [self._program, *_FLAGS, size, profile, "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "HOME": str(self._folder)},
            )

    def _address(self) -> str:
        """Return where the browser listens, as soon as it does."""
        port = self._folder / "profile/DevToolsActivePort"
        deadline = time.monotonic() + SECONDS
        while not (port.exists() and len(port.read_text().split()) == 2):
            assert time.monotonic() < deadline, f"the browser does not start: {self._log()}"
            assert self._process.poll() is None, f"the browser does not start: {self._log()}"
            time.sleep(_PAUSE_SECONDS)
        number, path = port.read_text().split()
        return f"ws://127.0.0.1:{number}{path}"

    def _attach(self) -> None:
        targets = self.send("Target.getTargets")["targetInfos"]
        [page] = [target["targetId"] for target in targets if target["type"] == "page"]
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.send("Page.enable")
        self._listen(self._session)

    def _listen(self, session: str) -> None:
        """Ask to be told what happens in a page or a worker from its first moment, and of workers that it starts."""
        for domain in ("Runtime", "Log", "Network"):
            self._post(f"{domain}.enable", session, {})
        self._post(
            "Target.setAutoAttach", session, {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        )
        self._post("Runtime.runIfWaitingForDebugger", session, {})

    def _post(self, method: str, session: str | None, parameters: dict[str, Any]) -> int:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message if session is None else message | {"sessionId": session}))
        return number

    def _receive(self, deadline: float, method: str) -> dict[str, Any]:
        """Return the next message; what is no answer but an event is noted, too."""
        try:
            message: dict[str, Any] = json.loads(self._socket.recv(timeout=max(deadline - time.monotonic(), 0)))
        except (TimeoutError, ConnectionClosed) as error:
            raise AssertionError(f"no answer to {method}: {error}; {self._log()}") from error
        if "method" in message:
            self._note(message["method"], message["params"])
        return message

    def _note(self, event: str, told: dict[str, Any]) -> None:
        if event == "Target.attachedToTarget":
            self._listen(told["sessionId"])
        elif event == "Runtime.consoleAPICalled":
            parts = [str(part.get("value", part.get("description"))) for part in told["args"]]
            self.console.append(Message(told["type"], " ".join(parts)))
        elif event == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.console.append(Message("exception", str(details.get("exception", details))))
        elif event == "Log.entryAdded":
            entry = told["entry"]
            self.console.append(Message(entry["level"], f"{entry['text']} {entry.get('url', '')}"))
        elif event == "Network.responseReceived":
            self.responses.append(Response(told["response"]["url"], told["response"]["status"]))
        elif event == "Network.loadingFailed" and not told.get("canceled"):
            self.failures.append(told["errorText"])

    def _log(self) -> str:
        return (self._folder / "log").read_text()[-2000:]

    def _stop(self) -> None:
        # All its processes are in a session of their own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
