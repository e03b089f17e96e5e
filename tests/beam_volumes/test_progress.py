"""Progress of several processes in one file: nothing is lost, and half a line is not taken for a whole one."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.process_pool import ProcessPool, Task
from beam_volumes.progress import ProgressLog, ProgressReader

STAGES = st.sampled_from(["regions", "shards", "chunks read"])


def test_a_file_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert ProgressReader(str(tmp_path / "progress")).totals() == {}


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    ProgressLog(None).add("regions", 3)
    assert list(tmp_path.iterdir()) == []


@given(news=st.lists(st.tuples(STAGES, st.integers(0, 10**12), st.booleans()), max_size=20))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_totals_are_sums_whenever_they_are_looked_at(news: list[tuple[str, int, bool]]) -> None:
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "progress")
        log, often, expected = ProgressLog(path), ProgressReader(path), Counter[str]()
        for stage, done, look in news:
            log.add(stage, done)
            expected[stage] += done
            if look:
                assert often.totals() == dict(expected)
        assert often.totals() == dict(expected)
        assert ProgressReader(path).totals() == dict(expected)


@given(cut=st.integers(0, 26))
@settings(derandomize=True, deadline=None)
def test_the_end_of_a_line_that_is_on_its_way_is_waited_for(cut: int) -> None:
    text = b"12 regions\n3 shards\n4 regions\n"
    whole = {0: {}, 1: {"regions": 12}, 2: {"regions": 12, "shards": 3}}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "progress"
        path.write_bytes(text[:cut])
        reader = ProgressReader(str(path))
        assert reader.totals() == whole[text[:cut].count(b"\n")]
        path.write_bytes(text)
        assert reader.totals() == {"regions": 16, "shards": 3}


def test_totals_belong_to_the_caller(tmp_path: Path) -> None:
    path = str(tmp_path / "progress")
    ProgressLog(path).add("regions", 1)
    reader = ProgressReader(path)
    reader.totals()["regions"] = 100
    assert reader.totals() == {"regions": 1}


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "progress")
    log = ProgressLog(path)
    with ProcessPool(2) as pool:
        for _ in range(100):
            for worker in range(pool.capacity):
                pool.submit(Task(log.add, (f"stage {worker}", 7), "an addition"))
            while pool.in_flight:
                log.add("here", 1)
                pool.next_result()
    expected = {"here": 400} | {f"stage {worker}": 700 for worker in range(4)}
    assert ProgressReader(path).totals() == expected
