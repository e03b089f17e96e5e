import gc
from collections.abc import Iterator

import pytest

from beam_volumes.importing import without_collection


@pytest.fixture(autouse=True)
def _unfrozen() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_garbage_is_not_looked_for_while_importing_and_then_again() -> None:
    kept = [{"imported": [n]} for n in range(1000)]
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(kept)


def test_what_was_off_stays_off() -> None:
    gc.disable()
    with without_collection():
        pass
    assert not gc.isenabled()


def test_it_is_looked_for_again_after_an_error() -> None:
    with pytest.raises(ImportError), without_collection():
        raise ImportError
    assert gc.isenabled()
