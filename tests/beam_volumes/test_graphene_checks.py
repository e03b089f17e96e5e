import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.errors import OptionError, ServerError
from beam_volumes.graphene import Limits, RootQuestion, check_timestamp
from beam_volumes.graphene.checks import check_ages, check_roots
from beam_volumes.graphene.limits import RateLimit, Statistics

ROOTS = RootQuestion(timestamp=1_700_000_000, stop_layer=None, n_layers=6)
NOW = 1_800_000_000.5


def ids(layer: int, *numbers: int) -> np.ndarray:
    return np.array([(layer << 56) + n for n in numbers], np.uint64)


def answer(roots: np.ndarray) -> bytes:
    return roots.astype("<u8").tobytes()


@given(st.lists(st.integers(1, 2**56 - 1), max_size=20), st.integers(2, 9), st.data())
@settings(derandomize=True, deadline=None)
def test_right_answers_are_returned_as_they_came(numbers: list[int], n_layers: int, data: st.DataObject) -> None:
    stop_layer = data.draw(st.none() | st.integers(2, n_layers - 1)) if n_layers > 2 else None
    question = RootQuestion(5, stop_layer, n_layers)
    legal = [n_layers] if stop_layer is None else [2] if stop_layer == 2 else list(range(stop_layer, n_layers + 1))
    assert list(question.layers) == legal
    layers = data.draw(st.lists(st.sampled_from(legal), min_size=len(numbers), max_size=len(numbers)))
    roots = np.array([(la << 56) + n for la, n in zip(layers, numbers, strict=True)], np.uint64)
    got = check_roots(ids(1, *numbers), answer(roots), question, "here")
    assert got.dtype == np.uint64
    assert got.flags.writeable
    assert got.tolist() == roots.tolist()


@given(st.integers(1, 12), st.integers(2, 9), st.none() | st.integers(2, 8), st.integers(0, 12), st.data())
@settings(derandomize=True, deadline=None)
def test_one_answer_on_a_wrong_layer_fails_the_batch(
    count: int, n_layers: int, stop_layer: int | None, layer: int, data: st.DataObject
) -> None:
    question = RootQuestion(5, stop_layer, n_layers)
    roots = ids(question.layers[-1], *range(count))
    place = data.draw(st.integers(0, count - 1))
    roots[place] = (layer << 56) + 7
    if layer in question.layers:
        assert check_roots(ids(1, *range(count)), answer(roots), question, "here").tolist() == roots.tolist()
        return
    with pytest.raises(
        ServerError, match=f"here, timestamp 5: .* came 1 of {count} on layers {layer}: {2**56 + place} "
    ):
        check_roots(ids(1, *range(count)), answer(roots), question, "here")


def test_zeros_are_listed_up_to_five() -> None:
    asked, roots = ids(1, *range(1, 10)), ids(6, *range(1, 10))
    roots[2:9] = 0
    first = 2**56
    listed = ", ".join(f"{first + n} -> 0" for n in range(3, 8))
    message = (
        f"region 0, timestamp 1700000000: expected an id for each supervoxel, came 0 for 7 of 9: {listed}, ...; the "
    )
    with pytest.raises(ServerError, match=f"^{re.escape(message)}"):
        check_roots(asked, answer(roots), ROOTS, "region 0")


@pytest.mark.parametrize("size", [0, 8, 15, 17, 24])
def test_bytes_that_are_not_one_id_for_each_are_refused(size: int) -> None:
    message = rf"region 0, timestamp 1700000000: expected 16 bytes, 8 for each of 2 ids \(the first {2**56 + 1}, "
    with pytest.raises(ServerError, match=f"{message}.*came {size}$"):
        check_roots(ids(1, 1, 2), bytes(size), ROOTS, "region 0")


def test_the_bare_watershed_is_refused() -> None:
    asked = ids(1, 1, 2)
    with pytest.raises(ServerError, match=r"expected ids on layer 6, came 2 of 2 on layers 1: .*after the graph had"):
        check_roots(asked, answer(asked), ROOTS, "region 0")


def test_younger_roots_are_refused() -> None:
    roots = ids(6, 1, 2, 3)
    check_ages(roots, np.array([0, 1_700_000_000.0005, 1_700_000_000]), 1_700_000_000, "here")
    with pytest.raises(ServerError, match=rf"here, timestamp 1700000000: .* 1 of 3 .* {roots[1]} at 1700000000.500; "):
        check_ages(roots, np.array([0, 1_700_000_000.5, 1_700_000_000]), 1_700_000_000, "here")


@pytest.mark.parametrize(
    ("oldest", "timestamp", "message"),
    [
        (
            1.0,
            None,
            "--timestamp: expected a UNIX second, .*state of the volume is wanted, none came: now",
        ),
        (
            None,
            None,
            "--timestamp: expected a UNIX second, .*state of the volume is wanted, none came: now",
        ),
        (
            1.0,
            1_800_000_001,
            r"--timestamp: .* came 1800000001 \(2027-01-15 08:00:01 UTC\), .*in the future: now is 18",
        ),
        (1.0, 1_705_911_001_000, r"--timestamp: .* came 1705911001000 \(no date; milliseconds\?\), .*in the future"),
        (
            1_600_000_000.25,
            1_600_000_000,
            r"--timestamp: expected a UNIX second from 1600000001 \(2020-09-13 12:26:41 UTC\) .* came 1600000000 ",
        ),
    ],
)
def test_timestamps_without_a_settled_state_are_refused(
    oldest: float | None, timestamp: int | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        check_timestamp(oldest, timestamp, NOW)


def test_what_is_doubtful_about_a_timestamp_is_told() -> None:
    assert check_timestamp(1_600_000_000.25, 1_600_000_001, NOW) == []
    assert check_timestamp(1_600_000_000, 1_600_000_000, NOW) == []
    assert check_timestamp(1.0, 1_799_999_900, NOW) == [
        "--timestamp=1799999900 was 100 s ago: edits of the last 10 minutes may still be being written, so that parts "
        "of the volume may be of different states"
    ]
    assert check_timestamp(1.0, 1_799_999_400, NOW) == []
    (warning,) = check_timestamp(None, 5, NOW)
    assert "does not tell when its graph was ingested" in warning


def test_limits_are_shared() -> None:
    limits = Limits(max_requests_in_flight=16, max_ids_per_second=30_000, tries=3)
    assert limits.share(1) == limits
    assert limits.share(3) == Limits(max_requests_in_flight=5, max_ids_per_second=10_000, tries=3)
    assert limits.share(16) == Limits(max_requests_in_flight=1, max_ids_per_second=1875, tries=3)
    assert Limits().share(4) == Limits(max_requests_in_flight=4, max_ids_per_second=None)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(), r"--max_requests_in_flight: expected at least the number of worker processes, 17, .* came 16: "),
        (
            Limits(max_requests_in_flight=17, max_ids_per_second=16),
            r"--max_ids_per_second: expected at least the number of worker processes, 17, .* came 16: ",
        ),
    ],
)
def test_a_share_too_small_to_be_kept_is_refused(limits: Limits, message: str) -> None:
    assert limits.share(16).max_requests_in_flight == 1
    with pytest.raises(OptionError, match=f"{message}.*--processes of a local run; --max_num_workers times"):
        limits.share(17)


def test_a_batch_is_no_more_than_a_second_may_bring() -> None:
    assert [Limits(max_ids_per_second=r).batch for r in (None, 1e6, 700, 0.2)] == [10_000, 10_000, 700, 1]
    assert Limits(ids_per_request=50, max_ids_per_second=700).batch == 50


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 10)), min_size=1, max_size=30), st.floats(1, 1000))
@settings(derandomize=True, deadline=None)
def test_ids_pass_at_the_rate_at_most(asked: list[tuple[int, float]], per_second: float) -> None:
    now = 100.0
    rate = RateLimit(per_second, lambda: now)
    sent: list[tuple[float, int]] = []
    for count, pause in asked:
        now += pause
        sent.append((now + rate.reserve(count), count))
    times = [t for t, _ in sent]
    assert times == sorted(times)
    for first in range(len(sent)):
        for last in range(first + 1, len(sent)):
            between = sum(n for _, n in sent[first:last])
            assert between <= per_second * (times[last] - times[first]) + 1e-6


def test_without_a_rate_nothing_waits() -> None:
    rate = RateLimit(None, lambda: 0.0)
    assert [rate.reserve(10**9) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_statistics_add_up() -> None:
    statistics = Statistics()
    statistics.count(ids=5)
    statistics.count(requests=2, retries=1)
    statistics.count(ids=1, requests=1)
    assert (statistics.ids, statistics.requests, statistics.retries) == (6, 3, 1)
