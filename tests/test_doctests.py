"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import io
import re
from pathlib import Path

import pytest

from beam_volumes import builder

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("beam_volumes", "transforms", "pipelines")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)
PAGES = ("geometry.md", "layers.md")
"""Pages of the docs that consist of examples; docs/specs.md is run with the tests of the builder."""

SHOWN = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


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


@pytest.mark.parametrize("name", PAGES)
def test_examples_of_pages_print_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(builder.REGISTRY, "ThresholdProcessor", [])
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / name).read_text(), re.DOTALL | re.MULTILINE)
    assert {language for language, _ in blocks} == {"python"}
    assert all(text.startswith(">>> ") for _, text in blocks)
    # As in specs.md, classes print without a module.
    names = {"__name__": "builtins"}
    page = doctest.DocTestParser().get_doctest("\n".join(text for _, text in blocks), names, name, None, None)
    found = doctest.DocTestRunner(optionflags=SHOWN).run(page)
    assert found.failed == 0
    assert found.attempted > 50
