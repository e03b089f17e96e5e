"""Long lists of numbers stand in files, and are the same there."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import number_lists
from beam_volumes.errors import SourceError
from beam_volumes.number_lists import NumberList
from beam_volumes.storage import Folder


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.lists(st.integers(0, 2**64 - 1), max_size=5))
@settings(derandomize=True, deadline=None)
def test_a_list_is_a_sorted_set(numbers: list[int], others: list[int]) -> None:
    found = NumberList.of(numbers)
    assert found == NumberList.of(np.array(numbers, np.uint64))
    assert found.array.tolist() == sorted(set(numbers))
    assert len(found) == len(set(numbers))
    assert [n for n in (*numbers, *others) if n in found] == [n for n in (*numbers, *others) if n in numbers]


@pytest.mark.parametrize(("count", "is_kept"), [(1_000, False), (1_001, True)])
def test_a_long_list_is_read_once_of_its_file(
    count: int, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = NumberList.of(range(7, 7 + 3 * count, 3))
    kept = pickle.loads(pickle.dumps(whole.kept(f"file://{tmp_path}", "a.list")))
    assert (tmp_path / "a.list").exists() == is_kept
    assert (len(pickle.dumps(kept)) < 300) == is_kept
    assert kept.kept("file:///elsewhere", "b.list") == kept
    reads, read = list[str](), Folder.read

    def counted(folder: Folder, name: str) -> bytes | None:
        reads.append(name)
        return read(folder, name)

    monkeypatch.setattr(Folder, "read", counted)
    assert kept.array.tolist() == whole.array.tolist()
    assert (10 in kept, 11 in kept, len(kept)) == (True, False, count)
    assert len(reads) == is_kept


@pytest.mark.parametrize(("damage", "message"), [(None, "it is gone"), (b"12345678", "came 8 other bytes")])
def test_a_list_that_is_damaged_is_told(damage: bytes | None, message: str, tmp_path: Path) -> None:
    kept = NumberList.of(range(2_000)).kept(f"file://{tmp_path}", "a.list")
    number_lists._read.cache_clear()
    (tmp_path / "a.list").unlink()
    if damage:
        (tmp_path / "a.list").write_bytes(damage)
    with pytest.raises(SourceError, match=rf"a\.list: expected the list of numbers .* {message}: give the same"):
        _ = kept.array
