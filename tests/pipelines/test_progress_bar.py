"""What a local run shows of its progress: whole lines in a file, bars on a terminal, and no error for any log."""

import operator
import threading
from pathlib import Path

import pytest

from beam_volumes.progress import ProgressLog, ProgressReader
from pipelines import progress_bar
from pipelines.progress_bar import ProgressBar


@pytest.fixture(autouse=True)
def no_colour_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress_bar, "_SECONDS_BETWEEN_LOOKS", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "progress")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released at each look at the log."""
    looks = threading.Semaphore(0)

    class Reader(ProgressReader):
        def totals(self) -> dict[str, int]:
            looks.release()
            return super().totals()

    monkeypatch.setattr(progress_bar, "ProgressReader", Reader)
    return looks


def test_a_file_gets_one_line_at_the_end_of_a_short_run(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar({"regions": 3, "shards": 2}, path):
        ProgressLog(path).add("regions", 3)
        ProgressLog(path).add("shards", 1)
        ProgressLog(path).add("shards", 1)
    captured = capsys.readouterr()
    assert captured.err == "regions 3/3, shards 2/2\n"
    assert captured.out == ""


def test_of_stages_that_nobody_can_count_beforehand_what_was_done_is_told(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ProgressLog(path).add("parts", 5)
    with ProgressBar({"regions": 3, "parts": None, "shards": None}, path):
        pass
    assert capsys.readouterr().err == "regions 0/3, parts 5, shards 0\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    with ProgressBar({"regions": 3, "parts": None}, path):
        pass
    shown = capsys.readouterr().err
    assert "5/5" in shown.split("parts")[-1]


def test_a_file_gets_a_line_now_and_then(
    path: str, looks: threading.Semaphore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_bar, "_SECONDS_BETWEEN_LINES", 0.0)
    ProgressLog(path).add("regions", 2)
    with ProgressBar({"regions": 3}, path):
        # A second look begins after the first line.
        assert looks.acquire(timeout=5)
        assert looks.acquire(timeout=5)
        ProgressLog(path).add("regions", 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "regions 2/3"
    assert lines[-1] == "regions 3/3"


def test_a_line_is_not_broken_nor_read_as_markup(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {f"a stage with a long name [bold] {i}": 10**12 for i in range(8)}
    with ProgressBar(stages, path):
        pass
    assert capsys.readouterr().err == ", ".join(f"{name} 0/{10**12}" for name in stages) + "\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_of_other_stages_or_of_none_is_no_error(
    terminal: bool, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    # What a thread raises comes as a warning, which is an error here.
    with ProgressBar({"regions": 3}, path):
        ProgressLog(path).add("a stage that nobody planned", 4)
    with ProgressBar({}, path):
        ProgressLog(path).add("regions", 4)
    shown = capsys.readouterr().err
    assert "0/3" in shown
    assert "nobody" not in shown


def test_a_terminal_gets_bars(
    path: str, looks: threading.Semaphore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    with ProgressBar({"regions": 300, "shards": 20}, path):
        ProgressLog(path).add("regions", 270)
        assert looks.acquire(timeout=5)
        ProgressLog(path).add("regions", 30)
        ProgressLog(path).add("shards", 20)
    last = capsys.readouterr().err.split("regions")[-1]
    assert "300/300" in last
    assert "20/20" in last
    # The cursor is shown again.
    assert last.rstrip().endswith("\x1b[?25h")


def test_it_ends_with_the_run_that_fails(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLog(path).add("regions", 1)
    with pytest.raises(ZeroDivisionError), ProgressBar({"regions": 3}, path):
        operator.truediv(1, 0)
    assert capsys.readouterr().err == "regions 1/3\n"
    assert "progress" not in {thread.name for thread in threading.enumerate()}
