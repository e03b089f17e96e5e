from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import CorruptDataError, SourceError
from beam_volumes.payloads import PackReader, PackWriter
from beam_volumes.storage import Folder
from beam_volumes.voxel_count_runs import Run, RunMerge, append_run
from beam_volumes.voxel_counts import BOXED_COUNTS, COUNTS, Table, add_up


def made_table(rng: np.random.Generator, rows: int, highest: int, boxes: bool = True) -> Table:
    table = np.zeros(rows, BOXED_COUNTS if boxes else COUNTS)
    table["label"] = np.sort(rng.choice(highest, rows, replace=False)).astype(np.uint64) << np.uint64(40)
    table["voxels"] = rng.integers(1, 2**50, rows)
    if boxes:
        table["start"] = rng.integers(-100, 100, (rows, 3))
        table["stop"] = table["start"] + rng.integers(1, 50, (rows, 3))
    return table


def write_run(url: str, name: str, parts: Iterable[Table]) -> Run:
    with PackWriter(Folder(url), name) as pack:
        payload = append_run(pack, parts)
        pack.finish(b"")
    return Run(name, payload)


def write_runs(folder: Path, tables: list[Table]) -> list[Run]:
    return [write_run(f"file://{folder}", f"run-{i}", np.array_split(t, 3)) for i, t in enumerate(tables)]


def merged(folder: Path, runs: list[Run], window_bytes: int = 1, row: np.dtype[np.void] = BOXED_COUNTS) -> Table:
    with PackReader(f"file://{folder}") as packs:
        return np.concatenate([np.empty(0, row), *RunMerge(packs, runs, row, window_bytes)])


def assert_same(came: Table, expected: Table) -> None:
    np.testing.assert_array_equal(came, expected, strict=True)


@given(
    sizes=st.lists(st.integers(0, 700), min_size=0, max_size=12),
    highest=st.sampled_from([700, 5_000, 10**6]),
    boxes=st.booleans(),
    window_bytes=st.sampled_from([1, 50_000]),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_merge_of_runs_is_their_sum(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], highest: int, boxes: bool, window_bytes: int
) -> None:
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(len(sizes))
    tables = [made_table(rng, size, highest, boxes) for size in sizes]
    row = BOXED_COUNTS if boxes else COUNTS
    expected = add_up(tables) if tables else np.empty(0, row)
    assert_same(merged(folder, write_runs(folder, tables), window_bytes, row), expected)


def test_many_runs_are_merged_with_few_rows_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    tables = [made_table(rng, 500, 20_000, boxes=False) for _ in range(300)]
    runs = write_runs(tmp_path, tables)
    with PackReader(f"file://{tmp_path}") as packs:
        merge = RunMerge(packs, runs, COUNTS, 1)
        parts = list(merge)
    assert_same(np.concatenate(parts), add_up(tables))
    assert merge.rows_in == 150_000
    assert merge.rows_out == len(add_up(tables))
    assert merge.most_rows_held <= 300 * 64
    assert max(map(len, parts)) <= merge.most_rows_held


def test_windows_share_the_memory(tmp_path: Path) -> None:
    tables = [made_table(np.random.default_rng(i), 50_000, 10**6, boxes=False) for i in range(4)]
    runs = write_runs(tmp_path, tables)
    with PackReader(f"file://{tmp_path}") as packs:
        merge = RunMerge(packs, runs, COUNTS, 160_000)
        assert sum(map(len, merge)) == len(add_up(tables))
        assert merge.most_rows_held == 10_000


def test_runs_that_do_not_overlap_follow_on_each_other(tmp_path: Path) -> None:
    whole = made_table(np.random.default_rng(3), 5_000, 10**6)
    runs = write_runs(tmp_path, [whole[3_000:], whole[:1_000], whole[1_000:3_000]])
    assert_same(merged(tmp_path, runs), whole)


def test_the_merge_of_merges_is_the_same(tmp_path: Path) -> None:
    tables = [made_table(np.random.default_rng(i), 500, 2_000) for i in range(9)]
    runs, url = write_runs(tmp_path, tables), f"file://{tmp_path}"

    def parts(chosen: list[Run]) -> Iterator[Table]:
        with PackReader(url) as packs:
            yield from RunMerge(packs, chosen, BOXED_COUNTS, 1)

    halves = [write_run(url, "low", parts(runs[:4])), write_run(url, "high", parts(runs[4:]))]
    assert_same(merged(tmp_path, halves), add_up(tables))


def test_a_run_that_was_altered_is_told_of_and_removed(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [made_table(np.random.default_rng(0), 1_000, 2_000)])
    with (tmp_path / "run-0").open("r+b") as file:
        file.seek(5_000)
        file.write(b"\xff\xff")
    with pytest.raises(CorruptDataError, match="run-0: expected 64000 bytes at 0 with crc32c"):
        merged(tmp_path, runs)
    assert not (tmp_path / "run-0").exists()


def test_a_run_that_was_cut_short_is_told_of(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [made_table(np.random.default_rng(0), 1_000, 2_000)])
    with (tmp_path / "run-0").open("r+b") as file:
        file.truncate(6_400)
    with pytest.raises(CorruptDataError, match="run-0: expected 64000 bytes"):
        merged(tmp_path, runs)


def test_a_run_that_is_gone_is_told_of(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [made_table(np.random.default_rng(0), 10, 20)])
    (tmp_path / "run-0").unlink()
    with pytest.raises(SourceError, match=r"run-0: cannot be read \(No such file or directory\)"):
        merged(tmp_path, runs)
