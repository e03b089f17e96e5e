import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import builder
from beam_volumes.builder import building
from beam_volumes.errors import OptionError, SourceError, VolumeError


@dataclass
class Scale:
    """A class with a method, at the top of the module, so that it can be pickled."""

    factor: float = 2
    offset: float = 0

    def __call__(self, x: float) -> float:
        return x * self.factor + self.offset

    @classmethod
    def from_percent(cls, percent: float) -> "Scale":
        return cls(percent / 100)


def joined(a: Any, b: Any, *, c: Any = None) -> tuple[Any, Any, Any]:
    return a, b, c


@pytest.fixture(autouse=True)
def types(own_registry: None) -> None:
    builder.register("Scale")(Scale)
    builder.register("joined")(joined)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"@type": "Scale", "factor": 3}, Scale(3)),
        ({"@type": "Scale"}, Scale()),
        ({"@type": "Scale.from_percent", "percent": 50}, Scale(0.5)),
        ({"@type": "Scale.__call__", "self": {"@type": "Scale"}, "x": 1}, None),
        (
            {"@type": "joined", "a": {"@type": "Scale"}, "b": [{"@type": "Scale", "factor": 1}]},
            (Scale(), [Scale(1)], None),
        ),
        ({"x": {"y": [{"@type": "Scale"}, 1, None, "a"]}}, {"x": {"y": [Scale(), 1, None, "a"]}}),
        ([{"@type": "Scale"}, ({"@type": "Scale"}, 2)], [Scale(), (Scale(), 2)]),
        (
            {"@type": "joined", "a": {"b": {"@type": "joined", "a": 1, "b": 2}}, "b": ()},
            ({"b": (1, 2, None)}, (), None),
        ),
        ({"@type": "np.add", "x1": 1, "x2": 2}, 3),
        ({"@type": "np.linalg.norm", "x": [3, 4]}, 5),
        ({"@type": "np.pi"}, np.pi),
        ("text", "text"),
        (7, 7),
    ],
)
def test_a_spec_becomes_what_it_describes(spec: Any, expected: Any) -> None:
    before = copy.deepcopy(spec)
    if expected is None:
        with pytest.raises(OptionError, match="'Scale' has no method '__call__': it has from_percent"):
            builder.build(spec)
    else:
        assert builder.build(spec) == expected
    assert spec == before


def test_objects_in_a_spec_stay_what_they_are() -> None:
    array = np.arange(3)
    scale = Scale(5)
    a, b, c = builder.build({"@type": "joined", "a": array, "b": scale, "c": {"d": array}})
    assert (a is array, b is scale, c["d"] is array) == (True, True, True)


def test_a_partial_lacks_arguments_and_can_be_pickled() -> None:
    spec = {"@type": "joined", "@mode": "partial", "a": {"@type": "Scale"}, "c": [1]}
    part = builder.build(spec)
    for function in (part, pickle.loads(pickle.dumps(part))):
        assert function(b=2) == (Scale(), 2, [1])
        assert function(b=2, c=3) == (Scale(), 2, 3)
    assert repr(part) == "Partial(joined: a, c)"
    assert builder.build({**spec, "@mode": "regular", "b": 0}) == (Scale(), 0, [1])


@pytest.mark.parametrize(
    ("name", "arguments", "given", "expected"),
    [
        ("np.add", {"dtype": "float64"}, (1, 2), 3.0),
        ("np.clip", {"a_min": 0, "a_max": 5}, ([-1, 9],), [0, 5]),
        ("Scale.from_percent", {"percent": 50}, (), Scale(0.5)),
    ],
)
def test_partials_of_libraries_and_methods_can_be_pickled(
    name: str, arguments: dict[str, Any], given: tuple[Any, ...], expected: Any
) -> None:
    part = builder.build({"@type": name, "@mode": "partial", **arguments})
    found = pickle.loads(pickle.dumps(part))(*given)
    assert np.array_equal(found, expected) if name.startswith("np.") else found == expected


def test_functions_of_torch_are_found_by_name_and_pickled_by_it() -> None:
    torch = pytest.importorskip("torch")
    relu = builder.build({"@type": "torch.nn.ReLU"})
    assert relu(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]
    # Pickle cannot pickle this function of torch.
    pool = builder.build({"@type": "torch.nn.functional.max_pool2d", "@mode": "partial", "kernel_size": 2})
    x = torch.arange(16.0).reshape(1, 4, 4)
    assert pickle.loads(pickle.dumps(pool))(x).tolist() == [[[5, 7], [13, 15]]]
    assert builder.build({"@type": "torch.float32"}) is torch.float32
    with pytest.raises(OptionError, match=r"spec: torch\.nn has no 'Relu': did you mean 'ReLU'"):
        builder.build({"@type": "torch.nn.Relu"})


def test_torch_is_loaded_only_when_named(tmp_path: Path) -> None:
    # A stand-in that tells when it is imported.
    (tmp_path / "torch.py").write_text("def tripled(x): return 3 * x\n_C = None\nprint('torch is loaded')")
    code = (
        "from beam_volumes import builder\n"
        "builder.build([{'@type': 'np.add', 'x1': 1, 'x2': 2}, {'@type': 'lambda', 'lambda_str': 'lambda x: x'}])\n"
        "print('now')\n"
        "print(builder.build({'@type': 'lambda', 'lambda_str': 'lambda x: torch.tripled(x)'})(2))\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(builder.__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("now\ntorch is loaded\n6\n", "")


def test_without_torch_its_names_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match=r"^spec\.fn: this needs torch, which is not installed: install it"):
        builder.build({"fn": {"@type": "torch.nn.ReLU"}})


def test_a_version_chooses_among_registrations_and_is_inherited() -> None:
    builder.register("old", versions="<=0.3")(lambda **_: "old")
    builder.register("layer", versions="<=0.3")(lambda inner=None: ("layer 1", inner))
    builder.register("layer", versions=">=0.4")(lambda inner=None: ("layer 2", inner))
    node = {"@type": "layer"}
    assert builder.build(node) == ("layer 1", None)
    assert builder.build({**node, "@version": "0.4.1"}) == ("layer 2", None)
    assert builder.build({**node, "@version": "0.5", "inner": [{"x": node}]}) == ("layer 2", [{"x": ("layer 2", None)}])
    spec = {**node, "@version": "0.5", "inner": {**node, "@version": "0.1", "inner": node}}
    assert builder.build(spec) == ("layer 2", ("layer 1", ("layer 1", None)))
    # A brother is not a child.
    assert builder.build([{**node, "@version": "0.5"}, node])[1] == ("layer 1", None)
    with pytest.raises(OptionError, match=r"spec.inner: 'old' is registered for versions '<=0.3', not for 0.5: give"):
        builder.build({**node, "@version": "0.5", "inner": {"@type": "old"}})
    with pytest.raises(OptionError, match=r'^spec\.@version: expected a version as text, such as "0.0.2"'):
        builder.build({**node, "@version": 0.4})


def test_what_is_registered_twice_is_told_or_replaces_itself() -> None:
    def made() -> Callable[..., int]:
        def one() -> int:
            return 1

        return one

    builder.register("one")(made())
    builder.register("one")(last := made())
    assert [entry.function for entry in builder.REGISTRY["one"]] == [last]
    builder.register("one")(lambda: 2)
    with pytest.raises(
        OptionError, match=r"'one' is registered more than once for version 0.0.0: by .*one and by .*lambda"
    ):
        builder.build({"@type": "one"})


@pytest.mark.parametrize(("name", "versions"), [("", ">=0"), ("a", "latest")])
def test_a_registration_that_cannot_be_asked_for_is_refused(name: str, versions: str) -> None:
    with pytest.raises(OptionError, match=r"^register.*: expected"):
        builder.register(name, versions=versions)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"@type": "Scal"}, "spec: no type 'Scal' is registered: did you mean 'Scale'"),
        ({"a": [{"@type": "qqqq"}]}, "spec.a.0: no type 'qqqq' is registered: builder.REGISTRY has those"),
        ({"@type": "Scale", "factr": 1}, "spec.factr: Scale takes no argument of this name: did you mean 'factor'?"),
        ({"@type": "Scale", "zz": 1}, "spec.zz: Scale takes no argument of this name: it takes factor, offset"),
        ({"t": {"@type": "joined", "c": 1}}, "spec.t: joined needs a and b, not given: add them"),
        ({"t": {"@type": "joined", "a": 1}}, "spec.t: joined needs b, not given: add it"),
        ({"@type": "Scale", "@mode": "partal"}, "spec.@mode: did you mean 'partial'?"),
        ({"@type": "Scale", "@mode": "lazy"}, "spec.@mode: expected regular or partial"),
        ({"@typ": "Scale"}, "spec.@typ: did you mean '@type'?"),
        ({"@type": 3}, 'spec: expected a "@type", came one that is no text'),
        (
            {"@type": "Scale.from_percents", "x": 1},
            "'Scale' has no method 'from_percents': did you mean 'from_percent'?",
        ),
        ({"@type": "joined.a"}, "spec: 'joined' is a function: it has no 'a'"),
        ({"@type": "np.meann"}, "spec: np has no 'meann': did you mean 'mean' or"),
        ({"@type": "np.linalg"}, "spec: np.linalg is a module"),
        ({"@type": "np.__dict__"}, "spec: np has no '__dict__'"),
        ({"@type": "np.add", "x2": 1, "out": None}, "spec: np.add needs x1, not given"),
        ({"@type": "np.pi", "x": 1}, "spec: np.pi is a value, which takes no arguments"),
        ({"@type": "Scale", 3: 1}, "spec.3: expected an argument's name"),
        ({"@type": "lambda", "lambda_str": "src"}, "spec: lambda_str: expected `lambda src: ...`, came something else"),
        (
            {"@type": "lambda", "lambda_str": "lambda x: )"},
            "spec: lambda_str: expected `lambda src: ...`, came no Python",
        ),
        ({"@type": "lambda", "lambda_str": 5}, "spec: lambda_str: expected `lambda src: ...`"),
        ({"a b": {"c.d": {"@type": "Scal"}}}, 'spec["a b"]["c.d"]: no type'),
    ],
)
def test_a_fault_is_told_with_its_path_and_what_is_near(spec: Any, message: str) -> None:
    with pytest.raises(OptionError) as error:
        builder.build(spec)
    assert message in str(error.value)


def test_all_faults_are_told_before_anything_is_built() -> None:
    calls: list[str] = []
    builder.register("note")(calls.append)
    spec = {
        "first": {"@type": "note", "object": "x"},
        "target": {"@type": "joined", "a": {"@type": "Scal"}, "d": 1, "c": [{"@type": "Scale", "factr": 1}]},
    }
    with pytest.raises(OptionError) as error:
        builder.build(spec)
    first, *lines = str(error.value).splitlines()
    assert first == "the spec has 4 faults:"
    assert [line.split(":")[0].strip() for line in lines] == [
        "1. spec.target.d",
        "2. spec.target",
        "3. spec.target.a",
        "4. spec.target.c.0.factr",
    ]
    with pytest.raises(OptionError, match="4 faults"):
        builder.check(spec)
    builder.check({"first": spec["first"]})
    assert calls == []


def test_what_a_function_raises_has_the_path() -> None:
    def failing(error: Exception) -> None:
        raise error

    builder.register("failing")(failing)

    def raised(error: Exception) -> BaseException:
        with pytest.raises(type(error) if isinstance(error, VolumeError) else VolumeError) as caught:
            builder.build({"target": {"dst": [{"@type": "failing", "error": error}]}})
        return caught.value

    own = SourceError("no chunk")
    assert raised(own) is own
    assert str(own) == "spec.target.dst.0: no chunk"
    refused = raised(ValueError("too small"))
    assert (type(refused), str(refused)) == (
        OptionError,
        "spec.target.dst.0: failing has refused its arguments: too small (ValueError)",
    )
    failed = raised(OSError("disk with ?token=abc"))
    assert (type(failed), str(failed)) == (
        VolumeError,
        "spec.target.dst.0: failing has failed: disk with ?... (OSError)",
    )
    assert isinstance(failed.__cause__, OSError)


def test_after_a_failure_nothing_else_is_built() -> None:
    calls: list[int] = []
    builder.register("note")(calls.append)
    builder.register("number")(lambda text: int(text))
    with pytest.raises(OptionError, match=r"^spec\.1: number has refused its arguments: invalid literal"):
        builder.build(
            [{"@type": "note", "object": 1}, {"@type": "number", "text": "x"}, {"@type": "note", "object": 2}]
        )
    assert calls == [1]


@pytest.mark.parametrize("text", ["lambda src: src + np.float64(1)", " lambda src, **k: math.floor(src) + 1"])
def test_a_lambda_is_its_text(text: str) -> None:
    spec = {"@type": "lambda", "lambda_str": text}
    function = builder.build(spec)
    assert function(src=2) == 3
    again = pickle.loads(pickle.dumps(function))
    assert (again, hash(again), again(2)) == (function, hash(function), 3)
    assert builder.build({**spec, "name": "plus_one"}) != function
    assert repr(function) == "Lambda('lambda')"
    with pytest.raises(TypeError, match="src"):
        function()


CODE = [
    {"@type": "lambda", "lambda_str": "lambda src: src"},
    {"@type": "np.load", "file": "x"},
    {"@type": "np.fromfile", "file": "x"},
    {"@type": "np.memmap", "filename": "x"},
    {"@type": "np.savetxt", "fname": "x", "X": [1]},
    {"@type": "np.seterr"},
    {"@type": "np.ctypeslib.load_library", "libname": "x", "loader_path": "y"},
    {"@type": "np.testing.measure", "code_str": "x"},
]
TORCH_CODE = [
    "hub.load",
    "load",
    "save",
    "from_file",
    "compile",
    "os.system",
    "ops.load_library",
    "jit.load",
    "set_num_threads",
]


@pytest.mark.parametrize("node", [*CODE, *({"@type": f"torch.{name}", "@mode": "partial"} for name in TORCH_CODE)])
@pytest.mark.parametrize("mode", ["regular", "partial"])
def test_what_runs_code_is_refused_unless_allowed(node: dict[str, Any], mode: str) -> None:
    if node["@type"].startswith("torch."):
        pytest.importorskip("torch")
    spec = {"target": {"fn": {**node, "@mode": mode} if node["@type"].startswith("np.") else node}}
    assert building.code_in(spec) == {"spec.target.fn": node["@type"]}
    for refuse in (builder.build, builder.check):
        with pytest.raises(OptionError, match=r"^spec\.target\.fn: .* runs code or touches files.*--allow_code"):
            refuse(spec, allow_code=False)
    builder.check(spec, allow_code=True)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_code_is_found_under_an_inherited_version(version: str) -> None:
    builder.register("run", versions="<0.2")(joined)
    builder.register("run", versions=">=0.2", runs_code=True)(lambda a, b: None)
    spec = {"@type": "joined", "@version": version, "a": {"@type": "run", "a": 1, "b": 2}, "b": 0}
    assert building.code_in(spec) == ({"spec.a": "run"} if version == "0.2" else {})


@pytest.mark.parametrize(
    "node",
    [
        {"@type": "np.mean", "a": [1, 3]},
        {"@type": "np.fft.fft", "a": [1, 3]},
        {"@type": "np.float32", "value": 1},
        {"@type": "np.pi"},
        {"@type": "Scale"},
    ],
)
def test_what_only_calculates_needs_no_leave(node: dict[str, Any]) -> None:
    builder.build(node, allow_code=False)
    assert building.code_in(node) == {}


@pytest.mark.parametrize("name", ["add", "nn.Conv3d", "nn.functional.relu", "linalg.inv", "float32", "zeros"])
def test_what_only_calculates_in_torch_needs_no_leave(name: str) -> None:
    pytest.importorskip("torch")
    assert building.code_in({"@type": f"torch.{name}", "@mode": "partial"}) == {}


def test_every_function_of_numpy_that_takes_a_file_needs_leave() -> None:
    import inspect

    takes_files = set()
    for name in np.__all__:
        if callable(getattr(np, name)) and not isinstance(getattr(np, name), np.ufunc):
            try:
                names = inspect.signature(getattr(np, name)).parameters
            except (ValueError, TypeError):
                continue
            if {"file", "filename", "fname"} & set(names):
                takes_files.add(f"np.{name}")
    assert {"np.load", "np.savez"} <= takes_files
    assert set(building.code_in([{"@type": n} for n in takes_files]).values()) == takes_files


def test_modules_of_users_are_imported_for_what_they_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "my_package_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "my_ops.py").write_text(
        "from beam_volumes import builder\n@builder.register('tripled')\ndef tripled(x): return 3 * x\n"
    )
    (package / "broken.py").write_text("1 / 0")
    (package / "lacking.py").write_text("import nothing_of_this_name")
    builder.import_modules(["my_package_of_test.my_ops"])
    assert builder.build({"@type": "tripled", "x": 2}) == 6
    wrong = ["my_package_of_test.my_opps", "my_package_of_test.broken", "my_package_of_test.lacking", "a/b.py"]
    with pytest.raises(OptionError) as error:
        builder.import_modules(wrong)
    for fault in (
        "my_opps: expected a module that can be imported here, came none of the name my_package_of_test.my_opps",
        "broken: expected a module that can be imported, came an error in it: ZeroDivisionError: division by zero",
        "lacking: expected a module that can be imported, came an error in it: ModuleNotFoundError: No module named",
        "a/b.py: expected the name of a module, such as my_package.my_ops",
    ):
        assert fault in str(error.value)


PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
KEYS = st.text("abc", min_size=1, max_size=2)
SPECS = st.recursive(
    PLAIN | st.builds(lambda f: {"@type": "Scale", "factor": f}, st.integers(1, 5)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(lambda a, b: {"@type": "joined", "a": a, "b": b}, inner, inner)
    ),
    max_leaves=12,
)


def by_hand(spec: Any) -> Any:
    if isinstance(spec, dict) and spec.get("@type") == "Scale":
        return Scale(spec["factor"])
    if isinstance(spec, dict) and spec.get("@type") == "joined":
        return by_hand(spec["a"]), by_hand(spec["b"]), None
    if isinstance(spec, dict):
        return {key: by_hand(value) for key, value in spec.items()}
    return type(spec)(map(by_hand, spec)) if isinstance(spec, list | tuple) else spec


@given(SPECS)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_nested_specs_are_built_from_the_inside_out(spec: Any) -> None:
    builder.register("Scale")(Scale)
    builder.register("joined")(joined)
    before = copy.deepcopy(spec)
    assert builder.build(spec) == by_hand(spec)
    assert spec == before
