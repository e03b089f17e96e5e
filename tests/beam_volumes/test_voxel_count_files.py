import hashlib
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import crc32c
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapbuffer import IntMap

from beam_volumes import runs, voxel_count_files
from beam_volumes.additions import DerivedFiles
from beam_volumes.errors import DestinationError
from beam_volumes.size_histogram import Subject
from beam_volumes.voxel_count_files import CountTotals, regrouped, write_count_files
from beam_volumes.voxel_counts import BOXED_COUNTS, COUNTS, Table

SUBJECT = Subject("file:///data/seg, scale 4_4_40", 640.0)


def made(rows: int, first: int = 0, boxes: bool = True) -> Table:
    rng = np.random.default_rng(rows)
    table = np.zeros(rows, BOXED_COUNTS if boxes else COUNTS)
    table["label"] = first + np.cumsum(rng.integers(1, 2**40, rows)) - (1 if first else 0)
    if rows and not first:
        table["label"][0] = 0
    table["voxels"] = rng.integers(1, 10**6, rows)
    if boxes:
        table["start"] = rng.integers(-1_000, 1_000, (rows, 3))
        table["stop"] = table["start"] + 5
    return table


def allow() -> None:
    """Find nothing against writing."""


def write(path: Path, table: Table, parts: int = 1, check: Callable[[], None] = allow) -> CountTotals:
    """Write the files; `check` stands for a look at the claim."""
    counts = DerivedFiles(f"file://{path}", "count_voxels", "stats", (), "report.json")
    claim = runs.Claim.of(counts, {}, "new", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "check_claim", lambda _: check())
        return write_count_files(claim, "stats/", np.array_split(table, parts), SUBJECT)


def visible(path: Path) -> set[str]:
    return {file.name for file in (path / "stats").glob("voxel_counts*")}


def hashes(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (path / "stats").iterdir()}


def test_the_files_hold_the_counts(tmp_path: Path) -> None:
    table = made(1_000)
    totals = write(tmp_path, table, 3)
    with (tmp_path / "stats/voxel_counts.im").open("rb") as file:
        found = IntMap(file.read())
    assert found.todict() == dict(zip(table["label"].tolist(), table["voxels"].tolist(), strict=True))
    assert found[0] == table["voxels"][0]
    frame = pq.read_table(tmp_path / "stats/voxel_counts.parquet")
    assert {field.name: str(field.type) for field in frame.schema} == {
        "label": "uint64",
        "voxels": "uint64",
        "volume_nm3": "double",
        "background": "bool",
        **dict.fromkeys(("x0", "y0", "z0", "x1", "y1", "z1"), "int64"),
    }
    columns = frame.to_pydict()
    assert columns["label"] == table["label"].tolist()
    assert columns["voxels"] == table["voxels"].tolist()
    assert columns["volume_nm3"] == [640.0 * n for n in table["voxels"].tolist()]
    assert columns["background"] == [True] + 999 * [False]
    assert [columns[name] for name in ("x0", "y0", "z0")] == table["start"].T.tolist()
    assert [columns[name] for name in ("x1", "y1", "z1")] == table["stop"].T.tolist()
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "stats").iterdir()}
    objects = table["voxels"][1:]
    median = int(np.sort(objects)[499])
    assert totals == CountTotals(
        labels=1_000,
        objects=999,
        voxels=int(table["voxels"].sum()),
        background_voxels=int(table["voxels"][0]),
        median_voxels=totals.median_voxels,
        bytes=sizes,
        crc32c={file.name: crc32c.crc32c(file.read_bytes()) for file in (tmp_path / "stats").iterdir()},
    )
    assert median * 0.999 <= totals.median_voxels <= median
    assert set(sizes) == {"voxel_counts.im", "voxel_counts.parquet", "voxel_counts.png"}


def test_row_groups_are_bounded_and_bytes_do_not_depend_on_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voxel_count_files, "GROUP_ROWS", 100)
    table = made(1_050, boxes=False)
    write(tmp_path / "a", table, 1)
    write(tmp_path / "b", table, 77)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    with pq.ParquetFile(tmp_path / "a/stats/voxel_counts.parquet") as file:
        metadata = file.metadata
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100] * 10 + [50]
        assert file.read().column_names == ["label", "voxels", "volume_nm3", "background"]


def test_more_labels_than_a_map_can_hold_make_no_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, made(10))
    monkeypatch.setattr(voxel_count_files, "MOST_ENTRIES", 9)
    totals = write(tmp_path, made(10))
    assert sorted(totals.bytes) == ["voxel_counts.parquet", "voxel_counts.png"]
    assert sorted(hashes(tmp_path)) == sorted(totals.bytes)


def test_no_background_and_no_label_at_all(tmp_path: Path) -> None:
    assert write(tmp_path / "a", made(5, first=9)).background_voxels == 0
    totals = write(tmp_path / "b", made(0))
    assert (totals.labels, totals.objects, totals.voxels) == (0, 0, 0)
    assert pq.read_table(tmp_path / "b/stats/voxel_counts.parquet").num_rows == 0


@pytest.mark.parametrize("most_entries", [2**32 - 1, 9])
def test_each_file_is_allowed_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_entries: int
) -> None:
    monkeypatch.setattr(voxel_count_files, "MOST_ENTRIES", most_entries)
    seen = list[set[str]]()
    write(tmp_path, made(10), check=lambda: seen.append(visible(tmp_path)))
    table, both = {"voxel_counts.parquet"}, {"voxel_counts.parquet", "voxel_counts.im"}
    without_map, with_map = [set(), set(), table, table], [set(), set(), table, table, both]
    assert seen == (with_map if most_entries > 9 else without_map)


@pytest.mark.parametrize("allowed", [0, 1, 2, 3, 4])
def test_nothing_takes_a_place_once_it_is_forbidden(tmp_path: Path, allowed: int) -> None:
    left = iter(range(allowed))

    def check() -> None:
        if next(left, None) is None:
            raise DestinationError("another run")

    write(tmp_path, made(20))
    before = hashes(tmp_path)
    with pytest.raises(DestinationError, match="another run"):
        write(tmp_path, made(10), check=check)
    after = hashes(tmp_path)
    replaced = {0: 0, 1: 0, 2: 1, 3: 1, 4: 2}[allowed]
    assert len(after) == 3
    assert sum(after[name] != before[name] for name in before) == replaced


def test_long_writing_is_checked_all_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxel_count_files, "GROUP_ROWS", 100)
    monkeypatch.setattr(runs, "_SECONDS_BETWEEN_CHECKS", -1.0)
    calls = list[int]()
    write(tmp_path, made(1_000), check=lambda: calls.append(1))
    assert len(calls) == 10 + 1 + 10 + 1 + 1


def test_a_full_temporary_folder_is_told_of(tmp_path: Path) -> None:
    write(tmp_path, made(10))
    before, limits = hashes(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            DestinationError,
            match=rf"^{tempfile.gettempdir()}: expected to write 320,000 bytes or more .* came File too large: "
            "set TMPDIR, or give the workers a larger disk",
        ):
            write(tmp_path, made(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert hashes(tmp_path) == before


@given(sizes=st.lists(st.integers(0, 30), max_size=12), rows=st.integers(1, 20))
@settings(derandomize=True, deadline=None)
def test_regrouping_keeps_rows_and_order(sizes: list[int], rows: int) -> None:
    whole = made(sum(sizes), boxes=False)
    parts = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    groups = list(regrouped(parts, rows))
    assert [len(g) for g in groups[:-1]] == [rows] * (len(groups) - 1)
    assert all(0 < len(g) <= rows for g in groups)
    np.testing.assert_array_equal(np.concatenate([np.empty(0, COUNTS), *groups]), whole)
