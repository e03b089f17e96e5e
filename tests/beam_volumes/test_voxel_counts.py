import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.voxel_counts import BOXED_COUNTS, COUNTS, LabelCounter, Table, add_up


def counted(voxels: npt.NDArray[np.generic], origin: tuple[int, int, int] = (0, 0, 0)) -> Table:
    """Count with numpy alone."""
    labels, counts = np.unique(voxels, return_counts=True)
    table = np.zeros(len(labels), BOXED_COUNTS)
    table["label"], table["voxels"] = labels, counts
    for row, label in zip(table, labels, strict=True):
        places = np.argwhere(voxels == label)[:, :3] + origin
        row["start"], row["stop"] = places.min(axis=0), places.max(axis=0) + 1
    return table


def count(voxels: npt.NDArray[np.generic], most_bytes: int = 2**20, **options: bool) -> tuple[Table, int]:
    """Count with a LabelCounter; return the sum of what it gave, and how often it was full."""
    tables: list[Table] = []
    counter = LabelCounter(most_bytes, tables.append, with_boxes=options.get("with_boxes", True))
    counter.add(voxels, (-3, 5, 2**40))
    fulls = len(tables)
    return add_up([*tables, counter.take()]), fulls


def assert_same(came: Table, expected: Table) -> None:
    np.testing.assert_array_equal(came, expected, strict=True)


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    data_type=st.sampled_from(["uint8", "uint16", "uint32", "uint64"]),
    labels=st.integers(1, 300),
    most_bytes=st.sampled_from([1, 1_000, 100_000]),
    seed=st.integers(0, 9),
)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_counts_equal_those_of_numpy(
    shape: tuple[int, int, int], data_type: str, labels: int, most_bytes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    highest = np.iinfo(data_type).max
    choice = rng.integers(0, highest, labels, dtype=data_type, endpoint=True)
    choice[0], choice[-1] = 0, highest
    voxels = np.asfortranarray(rng.choice(choice, shape))
    expected = counted(voxels, (-3, 5, 2**40))
    assert_same(count(voxels, most_bytes)[0], expected)
    without = count(voxels, most_bytes, with_boxes=False)[0]
    assert without.dtype == COUNTS
    assert without.tolist() == expected[["label", "voxels"]].tolist()


def test_root_ids_that_share_their_high_bits() -> None:
    voxels = (np.arange(20_000, dtype=np.uint64) + 0x0900_0000_0000_0000).reshape(20, 20, 50)
    assert_same(count(np.asfortranarray(voxels))[0], counted(voxels, (-3, 5, 2**40)))


def test_memory_stays_bounded_by_setting_tables_aside() -> None:
    voxels = np.arange(64**3, dtype=np.uint64).reshape(64, 64, 64)
    tables: list[Table] = []
    counter = LabelCounter(64 * 1024 * 2, tables.append, with_boxes=True)
    counter.add(voxels, (0, 0, 0))
    tables.append(counter.take())
    assert max(map(len, tables)) == 512
    assert len(tables) == 512
    assert all((np.diff(t["label"].astype(np.int64)) > 0).all() for t in tables)


def test_blocks_of_a_region_are_summed() -> None:
    voxels = np.random.default_rng(1).integers(0, 50, (40, 30, 20), dtype=np.uint32)
    full: list[Table] = []
    counter = LabelCounter(2**20, full.append, with_boxes=True)
    counter.add(voxels[:13], (100, 200, 300))
    counter.add(voxels[13:, :, :7], (113, 200, 300))
    counter.add(voxels[13:, :, 7:, np.newaxis], (113, 200, 307))
    assert_same(counter.take(), counted(voxels, (100, 200, 300)))
    assert not full
    assert len(counter.take()) == 0


def test_any_order_in_memory_is_counted() -> None:
    voxels = np.random.default_rng(2).integers(0, 9, (7, 8, 9), dtype=np.uint16)
    expected = counted(voxels, (-3, 5, 2**40))
    for array in (voxels, np.asfortranarray(voxels), np.asfortranarray(voxels[::-1])[::-1], voxels[..., np.newaxis]):
        assert_same(count(array)[0], expected)


def test_counts_beyond_what_floats_hold_are_exact() -> None:
    rows = [(7, 2**60 + 1, (0, 0, 0), (1, 1, 1)), (7, 2**60 + 1, (-5, 0, 2), (1, 9, 3)), (1, 1, (0, 0, 0), (1, 1, 1))]
    expected = [(1, 1, [0, 0, 0], [1, 1, 1]), (7, 2**61 + 2, [-5, 0, 0], [1, 9, 3])]
    assert [
        (label, voxels, list(start), list(stop))
        for label, voxels, start, stop in add_up([np.array(rows, BOXED_COUNTS)]).tolist()
    ] == expected


@pytest.mark.parametrize(
    "voxels", [np.zeros((2, 2, 2), np.int32), np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2, 2), np.uint8)]
)
def test_what_are_no_labels_is_refused(voxels: npt.NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match=r"expected labels of an unsigned type, XYZ, came (int32|float32|uint8)"):
        count(voxels)
