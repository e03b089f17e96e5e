"""What tests of the builder share: a registry of their own."""

from collections.abc import Iterator

import pytest

from beam_volumes.builder import REGISTRY


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = {name: list(entries) for name, entries in REGISTRY.items()}
    yield
    REGISTRY.clear()
    REGISTRY.update(before)
