"""What is made ahead of its turn, in a thread."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from beam_volumes.applying.reading_ahead import map_ahead


@pytest.mark.parametrize("ahead", [False, True])
def test_items_come_in_order_with_what_was_made(ahead: bool) -> None:
    assert list(map_ahead(lambda n: n * n, range(5), ahead=ahead)) == [(0, 0), (1, 1), (2, 4), (3, 9), (4, 16)]
    assert list(map_ahead(lambda n: n, [], ahead=ahead)) == []


def test_the_next_is_made_while_one_is_in_use() -> None:
    begun = [threading.Event() for _ in range(3)]

    def make(n: int) -> int:
        begun[n].set()
        return n

    pairs = map_ahead(make, range(3), ahead=True)
    assert next(pairs) == (0, 0)
    assert begun[1].wait(10)
    assert not begun[2].is_set()


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_comes_in_its_turn(ahead: bool) -> None:
    pairs = map_ahead(lambda n: 1 // (2 - n), range(4), ahead=ahead)
    assert [next(pairs), next(pairs)] == [(0, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(pairs)


def test_no_more_items_are_taken_than_one_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in itertools.count():
            taken.append(n)
            yield n

    pairs = map_ahead(lambda n: n, items(), ahead=True)
    next(pairs)
    next(pairs)
    assert taken == [0, 1, 2]
    pairs.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reading-ahead")]
