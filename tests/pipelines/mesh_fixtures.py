"""Volumes that the tests of all pipelines that mesh start from; a module names this one in `pytest_plugins`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.conftest import Array, copy_of
from tests.pipelines.mesh_cases import made_neurons, without_pictures, write_labels
from tests.pipelines.staged_meshes import CELL, forge


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    with without_pictures():
        yield


@pytest.fixture(scope="session")
def neurons() -> Array:
    """Labels; not to be changed."""
    found = made_neurons()
    found.setflags(write=False)
    return found


@pytest.fixture(scope="session")
def stored(neurons: Array, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labels as a segmentation at an odd place and of odd size; not to be changed."""
    folder = tmp_path_factory.mktemp("stored") / "layer"
    write_labels(folder, neurons)
    return folder


@pytest.fixture(scope="session")
def forged(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with fragments; not to be changed."""
    folder = copy_of(stored, tmp_path_factory.mktemp("forged") / "layer")
    assert forge(folder, CELL) == 0
    return folder
