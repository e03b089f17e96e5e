"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import io
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("beam_volumes", "transforms", "pipelines")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)


def test_there_are_examples_to_run() -> None:
    geometry = {f"beam_volumes.geometry.{name}" for name in ("vec3d", "bbox3d", "volumetric_index")}
    assert geometry <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    shown = io.StringIO()
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=shown.write)
    assert shown.getvalue() == ""
    assert runner.summarize(verbose=False).attempted > 0
