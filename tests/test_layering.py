"""The layers: pipelines -> transforms -> beam_volumes, and never back."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("beam_volumes", "transforms", "pipelines", "templates", "benchmarks")
SHARED = {
    "__init__",
    "asked_workers",
    "asking",
    "beam_options",
    "mesh_options",
    "meshing",
    "option_values",
    "options",
    "progress_bar",
    "running",
    "shared_options",
    "tables",
}
"""Modules of pipelines that are no command."""

UPWARD = {
    "beam_volumes": {"apache_beam", "absl", "transforms", "pipelines", "templates", "benchmarks"},
    "transforms": {"absl", "pipelines", "templates", "benchmarks"},
    "pipelines": {"templates", "benchmarks"},
}
MOST_LINES = 400
NO_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
HEAVY = {"torch", "tensorstore", "zarr", "moto", "numba", "zmesh", "pytest"}
STORES = {"google.cloud.storage", "boto3"}
"""CloudVolume loads them; what does without CloudVolume does without them, too."""

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
COMMANDS = sorted(path.stem for path in (ROOT / "pipelines").glob("*.py") if path.stem not in SHARED)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in it: also `import_module("...")`, and relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def imports_of(path: Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return set(imports(ast.parse(path.read_text()), package))


def crossing(found: set[str], forbidden: set[str]) -> set[str]:
    return {name for name in found if any(name == f or name.startswith(f"{f}.") for f in forbidden)}


def test_there_is_something_to_look_at() -> None:
    assert {"beam_volumes/runs.py", "transforms/export.py", "pipelines/export.py"} <= {named(f) for f in FILES}
    assert "export" in COMMANDS


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import apache_beam as beam", {"apache_beam"}),
        ("def f():\n    from absl import flags", {"absl", "absl.flags"}),
        ("if TYPE_CHECKING:\n    import pipelines.export", {"pipelines.export"}),
        ("from ..pipelines import export", {"pipelines", "pipelines.export"}),
        ("from . import a", {"beam_volumes", "beam_volumes.a"}),
        ('importlib.import_module("torch")', {"torch"}),
        ('__import__("torch")', {"torch"}),
        ("import_module(name)", set()),
    ],
)
def test_imports_are_seen_in_any_form(code: str, expected: set[str]) -> None:
    assert set(imports(ast.parse(code), "beam_volumes")) == expected


@pytest.mark.parametrize("package", UPWARD)
def test_no_layer_imports_one_above_it(package: str) -> None:
    wrong = {named(f): crossing(imports_of(f), UPWARD[package]) for f in FILES if f.is_relative_to(ROOT / package)}
    assert {file: names for file, names in wrong.items() if names} == {}


def test_no_pipeline_imports_another_command() -> None:
    commands = {f"pipelines.{name}" for name in COMMANDS}
    files = [f for f in FILES if f.parent == ROOT / "pipelines"]
    wrong = {named(f): crossing(imports_of(f), commands - {f"pipelines.{f.stem}"}) for f in files}
    assert {file: names for file, names in wrong.items() if names} == {}


def test_no_transform_imports_what_only_tests_need() -> None:
    allowed = {"beam_volumes/sources.py": {"beam_volumes.testing.made", "beam_volumes.testing.made.open_made"}}
    wrong = {}
    for file in FILES:
        if file.parts[len(ROOT.parts)] in UPWARD and not file.is_relative_to(ROOT / "beam_volumes/testing"):
            wrong[named(file)] = crossing(imports_of(file), {"beam_volumes.testing"}) - allowed.get(named(file), set())
    assert {file: names for file, names in wrong.items() if names} == {}


def test_no_module_is_too_long() -> None:
    lengths = {named(f): len(f.read_text().splitlines()) for f in FILES}
    assert {file: n for file, n in lengths.items() if n > MOST_LINES} == {}


def test_modules_have_names_that_say_something() -> None:
    parts = {part for f in FILES for part in f.relative_to(ROOT).with_suffix("").parts}
    assert parts & NO_NAMES == set()


def test_only_pipelines_print() -> None:
    wrong = [
        f"{named(file)}:{node.lineno}"
        for file in FILES
        if file.parts[len(ROOT.parts)] in ("beam_volumes", "transforms")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    assert [named(f) for f in FILES if not ast.get_docstring(ast.parse(f.read_text()))] == []


def modules_after(code: str) -> set[str]:
    """Return what a fresh interpreter has loaded after `code`."""
    script = f"import json, sys\n{code}\nsys.stdout.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_command_loads_no_more_than_it_needs() -> None:
    loaded = modules_after("import pipelines.export")
    assert "apache_beam" in loaded
    assert loaded & HEAVY == set()


def test_algorithms_load_no_beam() -> None:
    loaded = modules_after(
        "import beam_volumes.volume_report, beam_volumes.export_planning, beam_volumes.volume_estimate"
    )
    assert crossing(loaded, UPWARD["beam_volumes"]) == set()
    assert loaded & HEAVY == set()


def test_storage_loads_no_client_before_it_is_used() -> None:
    assert modules_after("import beam_volumes.payloads") & (HEAVY | STORES) == set()
