"""What tests in a browser share: the browser, and a place for pictures."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Page, chromium

PICTURES = Path(__file__).parents[2] / "out/browser"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page in a browser of its own."""
    program = chromium()
    if program is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("no chromium on the PATH: install Debian's package of that name")
    folder = tmp_path / "browser"
    folder.mkdir()
    with Page(program, folder) as page:
        yield page


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Path:
    """Where a test saves what the page looked like, for people to see; it prints the path."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "_", request.node.name.removeprefix("test_")).strip("_")
    return PICTURES / f"{name}.png"
