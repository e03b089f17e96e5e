"""What tests of the builder share: a registry of their own, and what reads CUE."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_volumes.builder import REGISTRY, CueMissingError
from beam_volumes.builder.cue import evaluate


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = {name: list(entries) for name, entries in REGISTRY.items()}
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.fixture(scope="session")
def cue_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Something here reads CUE."""
    file: Path = tmp_path_factory.mktemp("cue") / "spec.cue"
    file.write_text("a: 1")
    try:
        evaluate(file)
    except CueMissingError as error:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{error} (make cue installs it)")
