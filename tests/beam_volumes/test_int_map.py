import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mapbuffer import IntMap

from beam_volumes.int_map import MOST_ENTRIES, IntMapWriter, eytzinger_places, file_bytes


def written(keys: list[int], values: list[int], at_a_time: int) -> bytes:
    out = io.BytesIO()
    writer = IntMapWriter(out, len(keys))
    entries = np.array([keys, values], np.uint64).T.reshape(-1, 2)
    for start in range(0, len(keys), at_a_time):
        writer.write(entries[start : start + at_a_time])
    writer.finish()
    return out.getvalue()


@given(keys=st.sets(st.integers(0, 2**64 - 1), max_size=300), at_a_time=st.integers(1, 100))
@example(keys=set(range(1_023)), at_a_time=64)
@example(keys=set(range(1_024)), at_a_time=1_024)
@example(keys=set(range(1_025)), at_a_time=2_000)
@settings(derandomize=True, deadline=None)
def test_the_bytes_are_those_of_mapbuffer(keys: set[int], at_a_time: int) -> None:
    ordered = sorted(keys)
    values = [2**64 - 1 - key for key in ordered]
    data = written(ordered, values, at_a_time)
    assert data == IntMap(dict(zip(ordered, values, strict=True))).tobytes()
    assert len(data) == file_bytes(len(keys))


def test_mapbuffer_finds_every_key() -> None:
    keys = list(range(0, 20_000, 7))
    found = IntMap(written(keys, [key * 3 for key in keys], 512))
    assert [int(found[key]) for key in keys] == [key * 3 for key in keys]
    assert 8 not in found


def test_places_in_the_largest_map_are_exact() -> None:
    # A full tree: its lowest leaf, that one's parent, the root, the parent of the highest leaf, and that one.
    ranks = np.array([0, 1, 2**31 - 1, MOST_ENTRIES - 2, MOST_ENTRIES - 1], np.uint64)
    assert eytzinger_places(ranks, MOST_ENTRIES).tolist() == [2**31 - 1, 2**30 - 1, 0, 2**31 - 2, 2**32 - 2]


def test_a_map_of_too_many_or_too_few_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 4,294,967,295 entries, came 4,294,967,296"):
        IntMapWriter(io.BytesIO(), 2**32)
    writer = IntMapWriter(io.BytesIO(), 3)
    writer.write(np.ones((2, 2), np.uint64))
    with pytest.raises(ValueError, match="expected 3 entries, came 2"):
        writer.finish()
