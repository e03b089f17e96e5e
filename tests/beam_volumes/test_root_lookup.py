"""Roots of a region's supervoxels: each asked for once, while blocks are read."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.block_reading import BlockReader, Clock, RegionReading, RootReader
from beam_volumes.errors import ServerError
from beam_volumes.geometry import Box
from beam_volumes.graphene import Limits, RootClient, RootQuestion
from beam_volumes.root_lookup import RootLookup

Ids = npt.NDArray[np.uint64]

QUESTION = RootQuestion(timestamp=1_700_000_000, stop_layer=None, n_layers=4)
OFFSET = 2**56 * 4


def ids(*values: int) -> Ids:
    return np.array(values, np.uint64)


class FakeClient:
    """Answers id i with root `OFFSET + i // 10`, when it is told to; keeps what it was asked."""

    def __init__(self, batch: int = 1000, patient: bool = True) -> None:
        self.limits = Limits(ids_per_request=batch)
        self.asked: list[list[int]] = []
        self.checked: list[tuple[list[int], list[int], RootQuestion, str]] = []
        self.waiting: list[tuple[Ids, Future[Ids]]] = []
        self.patient = patient
        self.fails = False

    def submit(self, wanted: Ids, question: RootQuestion, where: str) -> Future[Ids]:
        assert (question, where) == (QUESTION, "region 7")
        self.asked.append(wanted.tolist())
        future: Future[Ids] = Future()
        self.waiting.append((wanted, future))
        if self.patient:
            self.answer_all()
        return future

    def answer_all(self) -> None:
        """The later ones first, as may happen."""
        while self.waiting:
            wanted, future = self.waiting.pop()
            if self.fails:
                future.set_exception(ServerError("the server failed"))
            else:
                future.set_result(np.uint64(OFFSET) + wanted // np.uint64(10))

    def check_ages(self, ids: Ids, ancestors: Ids, question: RootQuestion, where: str) -> None:
        self.checked.append((ids.tolist(), ancestors.tolist(), question, where))


def lookup_of(client: FakeClient) -> RootLookup:
    return RootLookup(cast(RootClient, client), QUESTION, "region 7")


def roots_of(wanted: Ids) -> Ids:
    return np.where(wanted == 0, np.uint64(0), np.uint64(OFFSET) + wanted // np.uint64(10))


def test_each_id_is_asked_once_and_background_never() -> None:
    client = FakeClient()
    lookup = lookup_of(client)
    for wanted in (ids(0, 5, 15), ids(5, 15), ids(0), ids(), ids(3, 5, 25)):
        lookup.ask(wanted)
    assert client.asked == [], "less than a batch waits for more"
    np.testing.assert_array_equal(lookup.answer(ids(0, 5, 25)), [0, OFFSET, OFFSET + 2])
    assert client.asked == [[3, 5, 15, 25]]
    np.testing.assert_array_equal(lookup.answer(ids(15)), [OFFSET + 1])
    assert client.asked == [[3, 5, 15, 25]]
    assert [part.tolist() for part in lookup.answered] == [
        [3, 5, 15, 25],
        [OFFSET, OFFSET, OFFSET + 1, OFFSET + 2],
    ]


def test_without_any_id_nothing_is_asked() -> None:
    client = FakeClient()
    lookup = lookup_of(client)
    lookup.ask(ids(0))
    lookup.send()
    assert lookup.answer(ids(0)).tolist() == [0]
    assert lookup.answer(ids()).tolist() == []
    assert [part.tolist() for part in lookup.answered] == [[], []]
    assert client.asked == []


def test_a_batch_is_sent_when_it_is_full() -> None:
    client = FakeClient(batch=30)
    lookup = lookup_of(client)
    lookup.ask(ids(1, 2))
    assert client.asked == []
    lookup.ask(ids(2, *range(9, 40)))
    assert client.asked == [[1, 2, *range(9, 40)]]
    lookup.ask(ids(4))
    lookup.send()
    lookup.send()
    assert client.asked == [[1, 2, *range(9, 40)], [4]]


def test_a_tenth_of_a_batch_is_sent_while_the_server_is_idle() -> None:
    client = FakeClient(batch=30, patient=False)
    lookup = lookup_of(client)
    lookup.ask(ids(1, 2, 3))
    lookup.ask(ids(4, 5, 6))
    assert client.asked == [[1, 2, 3]]


def test_answers_wait_for_no_more_than_they_need() -> None:
    client = FakeClient(batch=2, patient=False)
    lookup = lookup_of(client)
    lookup.ask(ids(1, 12))
    lookup.ask(ids(23, 34))
    lookup.ask(ids(45))
    (_, first), _ = client.waiting
    first.set_result(ids(OFFSET, OFFSET + 1))
    assert lookup.answer(ids(0, 1, 12)).tolist() == [0, OFFSET, OFFSET + 1]
    assert client.asked == [[1, 12], [23, 34]], "45 is not needed yet"


def test_the_server_s_error_comes_with_the_answer() -> None:
    client = FakeClient()
    client.fails = True
    lookup = lookup_of(client)
    lookup.ask(ids(0, 5))
    with pytest.raises(ServerError, match="the server failed"):
        lookup.answer(ids(0, 5))


@given(
    st.lists(st.lists(st.integers(0, 60), max_size=12, unique=True), max_size=12),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_whatever_is_asked_is_answered_right_and_once(parts: list[list[int]], batch: int, order: Any) -> None:
    client = FakeClient(batch)
    lookup = lookup_of(client)
    open_questions = []
    for part in parts:
        wanted = np.sort(ids(*part))
        lookup.ask(wanted)
        open_questions.append(wanted)
        if order.random() < 0.4:
            question = open_questions.pop(order.randrange(len(open_questions)))
            np.testing.assert_array_equal(lookup.answer(question), roots_of(question))
    for question in open_questions:
        np.testing.assert_array_equal(lookup.answer(question), roots_of(question))
    asked = [i for batch_ in client.asked for i in batch_]
    assert sorted(asked) == sorted({i for part in parts for i in part} - {0})
    assert all(batch_ == sorted(batch_) for batch_ in client.asked)


# Blocks


class ArrayReader:
    """Voxels in memory, and how many blocks of them have been read; the last block has a hole."""

    def __init__(self, array: Ids, order: str = "F") -> None:
        self.array, self.order = array, order
        self.read_boxes: list[Box] = []

    def read(self, box: Box) -> tuple[npt.NDArray[Any], list[Box]]:
        self.read_boxes.append(box)
        part = self.array[box.slices()]
        if self.order == "strided":
            wide = np.zeros((*part.shape[:3], 2), np.uint64)
            wide[..., :1] = part
            return wide[..., :1], []
        return part.copy(order=self.order), [box] if box.stop == self.array.shape[:3] else []  # type: ignore[arg-type]


def voxels() -> Ids:
    return np.random.default_rng(5).integers(0, 90, (12, 10, 8, 1)).astype(np.uint64)


def columns(*widths: int) -> list[Box]:
    stops = np.cumsum(widths).tolist()
    return [Box((stop - width, 0, 0), (stop, 10, 8)) for width, stop in zip(widths, stops, strict=True)]


def root_reader(reader: ArrayReader, client: FakeClient, lookahead_bytes: int) -> RootReader:
    return RootReader(BlockReader(reader), cast(RootClient, client), QUESTION, lookahead_bytes)


def region(boxes: list[Box], clock: Clock | None = None, holes: list[Box] | None = None) -> RegionReading:
    return RegionReading(boxes, "region 7", clock or Clock(), [] if holes is None else holes)


@pytest.mark.parametrize("order", ["F", "C", "strided"])
@pytest.mark.parametrize("lookahead_bytes", [0, 2000, 10**9])
def test_supervoxels_become_roots(order: str, lookahead_bytes: int) -> None:
    array, clock, holes = voxels(), Clock(), list[Box]()
    reader, client = ArrayReader(array, order), FakeClient(batch=20)
    boxes = columns(4, 3, 5)
    found = list(root_reader(reader, client, lookahead_bytes).read(region(boxes, clock, holes)))
    assert [box for box, _ in found] == boxes
    for box, block in found:
        np.testing.assert_array_equal(block, roots_of(array[box.slices()]))
        assert block.dtype == np.uint64
    asked = sorted(i for batch in client.asked for i in batch)
    assert asked == sorted(set(array.ravel().tolist()) - {0})
    assert client.checked == [(asked, roots_of(ids(*asked)).tolist(), QUESTION, "region 7")]
    assert holes == ([] if order == "strided" else [boxes[-1]])
    assert clock.seconds.keys() == {"read", "wait"}


def test_voxels_are_left_as_they_are_without_a_server() -> None:
    array, clock, holes = voxels(), Clock(), list[Box]()
    found = list(BlockReader(ArrayReader(array)).read(region(columns(4, 8), clock, holes)))
    for box, block in found:
        np.testing.assert_array_equal(block, array[box.slices()])
    assert holes == [columns(4, 8)[1]]
    assert clock.seconds.keys() == {"read"}


def waiting_bytes(blocks: Iterator[Any], reader: ArrayReader) -> list[int]:
    """Return, for each block that comes, the bytes of blocks that were read and had not come before it."""
    found, came = [], 0
    for box, _ in blocks:
        found.append(8 * (sum(b.voxels for b in reader.read_boxes) - came))
        came += box.voxels
    return found


@pytest.mark.parametrize("widths", [(1,) * 12, (1, 1, 1, 1, 4, 4), (4, 4, 1, 1, 1, 1), (3, 1, 3, 1, 3, 1)])
@pytest.mark.parametrize("lookahead_bytes", [0, 640, 2000, 4000])
def test_what_waits_is_bounded(widths: tuple[int, ...], lookahead_bytes: int) -> None:
    reader, client = ArrayReader(voxels()), FakeClient()
    blocks = root_reader(reader, client, lookahead_bytes).read(region(columns(*widths)))
    # Besides what may wait there is the block that has just been read.
    assert max(waiting_bytes(blocks, reader)) <= lookahead_bytes + 640 * max(widths)


def test_with_room_all_blocks_are_read_before_the_first_answer() -> None:
    reader, client = ArrayReader(voxels()), FakeClient(patient=False)
    blocks = root_reader(reader, client, 10**9).read(region(columns(4, 4, 4)))
    submit = client.submit

    def answered_at_once(*arguments: Any) -> Future[Ids]:
        assert len(reader.read_boxes) == 3
        future = submit(*arguments)
        client.answer_all()
        return future

    client.submit = answered_at_once  # type: ignore[method-assign, assignment]
    assert [box for box, _ in blocks] == columns(4, 4, 4)


def test_errors_of_the_server_end_the_region() -> None:
    client = FakeClient()
    client.fails = True
    with pytest.raises(ServerError, match="the server failed"):
        list(root_reader(ArrayReader(voxels()), client, 0).read(region(columns(4, 4, 4))))


def test_roots_that_are_too_young_end_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ServerError("a root is younger")

    client = FakeClient()
    monkeypatch.setattr(client, "check_ages", refuse)
    with pytest.raises(ServerError, match="a root is younger"):
        list(root_reader(ArrayReader(voxels()), client, 0).read(region(columns(12))))
