"""Rows of a plan or a report, as a terminal and as a program get them."""

from io import StringIO

import pytest
from rich.console import Console

from pipelines.tables import print_rows, report_rows

ROWS = [("source", "gs://bucket/[red]:smile:/seg, mip 0"), ("voxels per chunk", "16")]


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> StringIO:
    """Make consoles write to what is returned, as if it were a terminal."""
    out = StringIO()

    def console(**options: bool) -> Console:
        return Console(file=out, force_terminal=True, width=width, color_system=None, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("pipelines.tables.Console", console)
    return out


PLAIN = """\
plan:
  source:           gs://bucket/[red]:smile:/seg, mip 0
  voxels per chunk: 16
"""


def test_a_program_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("plan", ROWS)
    assert capsys.readouterr() == (PLAIN, "")


def test_a_terminal_that_is_wide_enough_gets_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = len("voxels per chunk") + len(ROWS[0][1]) + 7
    out = on_terminal(monkeypatch, needed)
    print_rows("plan", ROWS)
    lines = out.getvalue().splitlines()
    assert "│ source           │ gs://bucket/[red]:smile:/seg, mip 0 │" in lines
    assert f"│ voxels per chunk │ {'16':>35} │" in lines
    assert {len(line) for line in lines[1:]} == {needed}
    assert capsys.readouterr() == ("", "")


def test_a_narrow_terminal_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = on_terminal(monkeypatch, len("voxels per chunk") + len(ROWS[0][1]) + 6)
    print_rows("plan", ROWS)
    assert (out.getvalue(), capsys.readouterr().out) == ("", PLAIN)


def test_a_report_is_told_in_rows() -> None:
    report = {
        "wall_seconds": 1234.5,
        "stages": {"regions": {"planned": 2000, "read_seconds": 0.25}, "shards": {"done": 3}},
        "server": {"ids_asked": 7},
        "peak_memory_bytes": 10**6,
        "holes": ["0,0,0,1,1,1"],
        "shards": [],
    }
    assert report_rows(report) == [
        ("wall seconds", "1,234.5"),
        ("regions: planned", "2,000"),
        ("regions: read seconds", "0.25"),
        ("shards: done", "3"),
        ("server: ids asked", "7"),
        ("peak memory of a worker, bytes", "1,000,000"),
        ("holes", "1"),
    ]
    del report["server"]
    assert ("shards: done", "3") in report_rows(report)


def test_each_of_several_scales_is_told_in_a_row() -> None:
    scale = {"mip": 3, "key": "64_64_40", "encoding": "raw", "chunks": 1000, "shards": 4, "bytes": 20000}
    report = {"wall_seconds": 1, "stages": {}, "peak_memory_bytes": 0, "holes": [], "scales": [scale]}
    assert len(report_rows(report)) == 3, "one scale is told with its stages"
    report["scales"] = [scale, {**scale, "mip": 4, "key": "128_128_40"}]
    assert report_rows(report)[1:3] == [
        ("mip 3, 64_64_40", "1,000 chunks, 4 shards, 20,000 bytes, raw"),
        ("mip 4, 128_128_40", "1,000 chunks, 4 shards, 20,000 bytes, raw"),
    ]
