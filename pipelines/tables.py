"""What a pipeline prints of its plan and of its report: rows of a name and a value."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from beam_volumes.precomputed.info import Json

_BORDERS = len("│ ") + len(" │ ") + len(" │")


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """Print rows as a table, or as lines `name: value` where that would wrap or a program reads them."""
    names = max(len(name) for name, _ in rows)
    values = max(len(value) for _, value in rows)
    # Locations may look like markup.
    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal and names + values + _BORDERS <= console.width:
        table = Table(title=title, show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    print(f"{title}:")
    for name, value in rows:
        print(f"  {f'{name}:':<{names + 1}} {value}")


def report_rows(report: Json) -> list[tuple[str, str]]:
    """Return what is printed of the content of `report.json`."""
    rows, scales = [("wall seconds", _text(report["wall_seconds"]))], report.get("scales", [])
    for part, counts in {**report["stages"], "server": report.get("server", {})}.items():
        rows += [(f"{part}: {name.replace('_', ' ')}", _text(value)) for name, value in counts.items()]
    return [
        *rows,
        *(_scale_row(scale) for scale in scales if len(scales) > 1),
        ("peak memory of a worker, bytes", _text(report["peak_memory_bytes"])),
        *([("holes", _text(len(report["holes"])))] if "holes" in report else []),
    ]


def _scale_row(scale: Json) -> tuple[str, str]:
    parts = [f"{scale[name]:,} {name}" for name in ("chunks", "shards", "bytes")]
    return f"mip {scale['mip']}, {scale['key']}", f"{', '.join(parts)}, {scale['encoding']}"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
