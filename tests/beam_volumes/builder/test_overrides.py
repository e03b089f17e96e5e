import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import builder
from beam_volumes.errors import OptionError


def layer(path: str, *, readonly: bool = False) -> None:
    """Stand for a layer."""


def anything(**kwargs: object) -> None:
    """Take anything."""


SPEC: dict[str, Any] = {
    "workers": {"memory": "1Gi", "nvidia.com/gpu": "1"},
    "target": {
        "sizes": [[64, 64, 8], [32, 32, 8]],
        "corner": (1, 2, 3),
        "dst": {"@type": "layer", "path": "file:///tmp/a"},
        "any": {"@type": "anything", "x": 1},
        "np": {"@type": "np.mean", "a": [1]},
    },
}


@pytest.fixture(autouse=True)
def types(own_registry: None) -> None:
    builder.register("layer")(layer)
    builder.register("anything")(anything)


@pytest.mark.parametrize(
    ("setting", "where", "value"),
    [
        ("workers.memory=2Gi", ["workers", "memory"], "2Gi"),
        ("workers.nvidia.com/gpu=2", ["workers", "nvidia.com/gpu"], 2),
        ("target.sizes.1.2=4", ["target", "sizes", 1, 2], 4),
        ("target.sizes.0=[16, 16, 1]", ["target", "sizes", 0], [16, 16, 1]),
        ("target.sizes=[[8,8,8]]", ["target", "sizes"], [[8, 8, 8]]),
        ("target.dst.path=gs://bucket/a=b", ["target", "dst", "path"], "gs://bucket/a=b"),
        ("target.dst.readonly=true", ["target", "dst", "readonly"], True),
        ("target.dst.@mode=partial", ["target", "dst", "@mode"], "partial"),
        ("target.any.new=null", ["target", "any", "new"], None),
        ("target.np.axis=0", ["target", "np", "axis"], 0),
        (' target.dst.path = "5" ', ["target", "dst", "path"], "5"),
        ("target.dst.path='5'", ["target", "dst", "path"], "5"),
        ("target.dst.path=lambda src: src # x", ["target", "dst", "path"], "lambda src: src # x"),
        ("target.dst.path=", ["target", "dst", "path"], None),
        ("target.dst.path=yes", ["target", "dst", "path"], "yes"),
        ("target.dst.path=1e-3", ["target", "dst", "path"], 0.001),
        ("target.dst.path=<<", ["target", "dst", "path"], "<<"),
        ('target.dst={"@type": "layer"}', ["target", "dst"], {"@type": "layer"}),
        ("target.dst={a: b}", ["target", "dst"], {"a": "b"}),
    ],
)
def test_a_setting_replaces_one_value(setting: str, where: list[Any], value: object) -> None:
    expected = copy.deepcopy(SPEC)
    inner: Any = expected
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    before = copy.deepcopy(SPEC)
    assert builder.override(SPEC, [setting]) == expected
    assert before == SPEC


def test_tuples_stay_tuples_and_later_settings_count() -> None:
    found: Any = builder.override(SPEC, ["target.corner.1=7", "target.corner.1=8"])
    assert found["target"]["corner"] == (1, 8, 3)


def test_equal_parts_are_set_apart() -> None:
    part = {"x": 1}
    assert builder.override({"a": part, "b": part}, ["a.x=2"]) == {"a": {"x": 2}, "b": {"x": 1}}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("target.dts.path=1", "target.dts.path: spec.target has no 'dts': did you mean 'dst'?"),
        ("target.dst.pth=1", "target.dst.pth: spec.target.dst has no 'pth': did you mean 'path'?"),
        ("target.dst.reedonly=1", "spec.target.dst has no 'reedonly': did you mean 'readonly'?"),
        ("target.dst.readonly.x=1", "spec.target.dst has no value for 'readonly' yet: set it as a whole"),
        ("workers.cpus=1", "spec.workers has no 'cpus': there are memory, nvidia.com/gpu"),
        ("workers.nvidia.com/gpus=1", "spec.workers has no 'nvidia': did you mean 'nvidia.com/gpu'?"),
        ("target.sizes.2=1", "spec.target.sizes has 2 items: expected an index from 0 to 1, came '2'"),
        ("target.sizes.-1=1", "expected an index from 0 to 1, came '-1'"),
        ("target.sizes.x=1", "expected an index from 0 to 1, came 'x'"),
        ("target.dst.path.x=1", "spec.target.dst.path is a single value: there is no 'x' in it"),
        ("target.np.axs=0", "spec.target.np has no 'axs': did you mean 'axis'"),
        ("target", "target: expected a setting such as target.dst.path=VALUE"),
        ("=1", "=: expected a setting"),
        ("target.sizes=[1, 2", "target.sizes: expected YAML, came another text: line 1: "),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: str, message: str) -> None:
    with pytest.raises(OptionError) as error:
        builder.override(SPEC, [setting])
    assert message in str(error.value)


def test_all_faults_are_told_and_no_values() -> None:
    with pytest.raises(OptionError) as error:
        builder.override(SPEC, ["target.dst.pth=hunter2", "workers.memory=2Gi", "target.dst.path.x=hunter2"])
    assert [line.strip().split(":")[0] for line in str(error.value).splitlines()] == [
        "what is set has 2 faults",
        "1. target.dst.pth",
        "2. target.dst.path.x",
    ]
    assert "hunter2" not in str(error.value)


KEYS = st.sampled_from(["a", "b", "ab", "c.d/e", "x.y", "x.z"])
SPECS = st.recursive(
    st.integers() | st.text("xy", max_size=2),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(KEYS, inner, min_size=1, max_size=3),
    max_leaves=8,
)


@st.composite
def specs_and_places(draw: st.DrawFn) -> tuple[dict[str, Any], list[Any]]:
    """A spec, and where something stands in it."""
    spec: dict[str, Any] = draw(st.dictionaries(KEYS, SPECS, min_size=1, max_size=3))
    where: list[Any] = []
    value: Any = spec
    while isinstance(value, dict | list) and (not where or draw(st.booleans())):
        where.append(draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value)))))
        value = value[where[-1]]
    return spec, where


def flat(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], object]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, (*path, key)).items()}
    if isinstance(value, list):
        return {k: v for at, inner in enumerate(value) for k, v in flat(inner, (*path, at)).items()}
    return {path: value}


@given(specs_and_places(), st.integers() | st.text(max_size=3) | st.none() | st.floats(allow_nan=False))
@settings(max_examples=80, derandomize=True, deadline=None)
def test_a_setting_changes_one_place_and_no_other(place: tuple[dict[str, Any], list[Any]], value: object) -> None:
    spec, where = place
    before = flat(spec)
    found = builder.override(spec, [f"{'.'.join(map(str, where))}={json.dumps(value)}"])
    after = flat(found)
    assert flat(spec) == before
    kept = {path: v for path, v in before.items() if path[: len(where)] != tuple(where)}
    assert after == {**kept, tuple(where): value}
