"""What docs/apply.md shows is what happens: block by block, in order, in one folder."""

import contextlib
import doctest
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from beam_volumes import builder
from beam_volumes.applying import build_subchunkable_apply_flow, execution
from beam_volumes.applying.flow_request import IgnoredArguments
from beam_volumes.blending import MODES
from beam_volumes.builder.arguments import unknown_arguments
from pipelines import apply

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/apply.md").read_text()
SHOWN = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
RUN = ["python", "-m", "pipelines.apply"]


def blocks() -> Iterator[tuple[str, str, str]]:
    """Yield the paragraph before each block, its language, and the block."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        yield PAGE[: found.start()].rstrip().rsplit("\n\n", 1)[-1], found[1], found[2]


def run(command: str) -> str:
    """Run a command of the page in this process; return what it prints."""
    words = shlex.split(command)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        if words[:3] == RUN:
            status = apply.main([*words[3:], "--processes=1"])
        else:
            assert words[0] == "python"
            runpy.run_path(words[1])
            status = 0
    text = shown.getvalue()
    assert status == (2 if text.startswith("error: ") else 0), text
    return text


def check_python(text: str, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(text, names, "apply.md", None, None)
    found = doctest.DocTestRunner(optionflags=SHOWN).run(test, clear_globs=False)
    names.update(test.globs)
    assert found.failed == 0
    assert found.attempted > 0


def test_the_page_does_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(builder.REGISTRY, "bright_in_cells", [])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names: dict[str, Any] = {}
    shown = ""
    kinds = []
    for intro, language, text in blocks():
        named = re.findall(r"`(\w+\.(?:py|yaml))`", intro)
        kinds.append(language)
        if language == "text" and shown:
            got = shown.replace(str(tmp_path), "/data")
            got = re.sub(r"^chunks \d.*\n", "", got, flags=re.MULTILINE)
            assert doctest.OutputChecker().check_output(text, got, SHOWN), got
            shown = ""
        elif language == "sh" and "pip install" not in text:
            shown = "".join(run(line) for line in text.replace("\\\n", " ").splitlines())
        elif text.startswith(">>> "):
            check_python(text, names)
        elif language in ("python", "yaml") and named:
            Path(named[-1]).write_text(text)
        elif language == "yaml":
            example = yaml.safe_load((ROOT / "examples/apply/smooth.yaml").read_text())["target"]
            assert yaml.safe_load(text).items() <= example.items()
    sys.modules.pop("my_ops", None)
    assert kinds.count("sh") == 7
    assert (tmp_path / "out/apply/smooth/16_16_40/apply/0-1024_0-1024_0-8/slice.png").exists()


def test_every_argument_of_a_flow_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:processing|expand|level|max_reduction|shrink|skip|auto)_\w+)(?:: \w+)?`", PAGE))
    postpad = {"processing_input_sizes", "processing_crop", "processing_blend"}
    assert postpad <= named
    unknown = unknown_arguments("flow", build_subchunkable_apply_flow, dict.fromkeys(named - postpad))
    assert unknown == {}


def test_the_page_names_all_modes_and_all_arguments_that_are_ignored() -> None:
    table = PAGE.split("| weight |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(MODES)
    ignored = PAGE.split("A spec may have these arguments")[1]
    found = set(re.findall(r"`(\w+)`", ignored))
    assert found == {*(field.name for field in fields(IgnoredArguments)), *execution._WHY_IGNORED}


def test_links_within_the_page_lead_somewhere() -> None:
    titles = {
        re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in re.findall(r"^##? (.*)$", PAGE, re.MULTILINE)
    }
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert links
    assert set(links) <= titles
