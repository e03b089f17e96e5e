"""Write what is made from each pipeline's Config: Flex Template metadata and the option tables of the docs.

python -m templates.generate          # writes
python -m templates.generate --check  # writes nothing; exit status 1 and the names of files that differ
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.options import Option, option_table, options_of

PIPELINES = ["export", "downsample", "count_voxels", "mesh", "forge_mesh", "index_mesh", "merge_mesh", "apply"]
"""Modules of `pipelines` with a `Config`: the one list of what has a template and an option table."""

ROOT = Path(__file__).parents[1]

_DOCS_HEAD = """\
# Options

<!-- Made by `python -m templates.generate` from each pipeline's Config: edit that, not this file. -->

Every option is written `--name=value`; true and false may be shortened to `--name` and `--noname`. Boxes are half
open, in voxels, in the order x, y, z. Items of a list stand between `;`, which a shell wants in quotes:
`"2,2,1;2,2,2"`. Options that are not listed are
[Apache Beam's](https://cloud.google.com/dataflow/docs/reference/pipeline-options), such as `--runner`; one that
neither knows is an error.
"""


def generated() -> dict[str, str]:
    """Return the text of every generated file, by its path in the repository."""
    modules = {name: importlib.import_module(f"pipelines.{name}") for name in PIPELINES}
    files = {
        f"templates/{name}.json": json.dumps(metadata(name, module), indent=2) + "\n"
        for name, module in modules.items()
    }
    sections = [_DOCS_HEAD, *(_section(name, module) for name, module in modules.items())]
    return {**files, "docs/options.md": "\n".join(sections)}


def metadata(name: str, module: ModuleType) -> dict[str, Any]:
    """Return the metadata of a Flex Template, which the launch form shows and Dataflow checks parameters by.

    Fields as in https://cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates; a launcher gives
    every parameter to the pipeline as `--name=value`.
    """
    parameters = [_parameter(option) for option in options_of(module.Config)]
    return {"name": f"beam-volumes {name}", "description": _summary(module), "parameters": parameters}


def main(argv: Sequence[str]) -> int:
    """Write the files, or check that they are as they would be written; return the exit status."""
    parser = argparse.ArgumentParser(description=inspect.cleandoc(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a file differs")
    check = parser.parse_args(argv).check
    differing = [path for path, text in generated().items() if _current(ROOT / path) != text.encode()]
    for path in differing:
        if check:
            print(f"{path} is not what python -m templates.generate writes", file=sys.stderr)
        else:
            (ROOT / path).parent.mkdir(exist_ok=True)
            (ROOT / path).write_bytes(generated()[path].encode())
            print(f"wrote {path}")
    return 1 if check and differing else 0


def _parameter(option: Option) -> dict[str, Any]:
    default = "" if option.required else f" Default: {option.default_text or 'empty'}."
    parameter: dict[str, Any] = {
        "name": option.name,
        "label": option.name.replace("_", " ").capitalize(),
        "helpText": f"{option.help}{default} Written as {option.placeholder}.",
        "isOptional": not option.required,
        "paramType": "TEXT",
    }
    if option.type.regex:
        none = "|none" if option.optional and option.default is not None else ""
        parameter["regexes"] = [f"^(?:{option.type.regex}{none})$"]
    return parameter


def _section(name: str, module: ModuleType) -> str:
    return f"## pipelines.{name}\n\n{_summary(module)}\n\n{option_table(module.Config)}"


def _summary(module: ModuleType) -> str:
    return (inspect.getdoc(module) or "").split("\n", 1)[0]


def _current(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
