"""How often a function is called before its run starts."""

from pathlib import Path

import pytest

from tests.pipelines.apply_commands import OPS, Spec, calls, op, run, target, write_spec


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({"fn": "halved_of_test"}, [], 2),
        ({"fn": "looking_of_test", "dst": None}, [], 1),
        ({"fn": "halved_of_test"}, ["--dry_fn=false"], 0),
    ],
    ids=["quick", "without a destination", "not tried"],
)
def test_how_often_the_function_is_tried(changes: Spec, options: list[str], expected: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    more = {"after": 100} if changes["fn"] == "looking_of_test" else {}
    changes = {**changes, "fn": op(changes["fn"], log=str(log), **more)}
    folders = {"level_intermediaries_dirs": [f"file://{tmp_path}/left"]}
    spec = write_spec(tmp_path / "run.json", target(f"file://{tmp_path}/dst", **folders, **changes))
    assert run(spec, OPS, "--plan", *options) == 0
    assert calls(log) == expected
