"""What docs/specs.md and the package itself show is what happens."""

import doctest
import re
from pathlib import Path

import beam_volumes.layers  # noqa: F401 - registers BBox3D.
from beam_volumes import builder
from beam_volumes.builder.cue import NPM_PACKAGE
from beam_volumes.geometry import BBox3D

PAGE = (Path(__file__).parents[3] / "docs/specs.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def run(text: str) -> doctest.TestResults:
    # As in the guide, classes print without a module.
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "builtins"}, "specs.md", None, None)
    return doctest.DocTestRunner().run(test)


def test_the_examples_of_the_page_do_what_they_show() -> None:
    found = run("\n".join(blocks("python")))
    assert (found.failed, found.attempted) == (0, 18)


def test_the_example_of_the_package_does_what_it_shows() -> None:
    found = run(builder.__doc__ or "")
    assert (found.failed, found.attempted) == (0, 3)


def test_the_cue_of_the_page_is_a_spec(cue_works: None, tmp_path: Path) -> None:
    builder.register("echo")(lambda x: x)
    (text,) = blocks("cue")
    (tmp_path / "run.cue").write_text(text)
    expected = BBox3D.from_coords((1000, 1000, 2000), (1512, 1512, 2010), (64, 64, 40))
    assert builder.build(builder.read_spec(str(tmp_path / "run.cue"))) == expected


def test_the_page_names_the_version_that_is_installed() -> None:
    assert f"npm install {NPM_PACKAGE}" in PAGE
