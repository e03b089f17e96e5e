"""From a spec to the flow that it describes, on the launcher and in each worker."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beam_volumes import builder
from beam_volumes.applying.execution import Execution
from beam_volumes.applying.flow import ApplyFlow
from beam_volumes.errors import OptionError
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import is_local, normalize
from beam_volumes.storage.urls import redacted

_SECRET = re.compile(r"(?i)token|passw|secret|credential|authorization|(api|access|private)_?key")
"""In the names of arguments whose values are not for everybody."""


@dataclass(frozen=True)
class FlowSpec:
    """A spec that was read and may be built, and what is imported for it; picklable.

    Attributes:
        content: plain values.
        modules: of users, which register what the spec names.

    """

    content: Json
    modules: tuple[str, ...] = ()

    @property
    def recorded(self) -> Json:
        """What is described, as records of a run may tell it: without passwords, tokens, and queries of URLs.

        Where there are such, a hash of all of it tells one spec from another.
        """
        described = self.content.get("target", self.content)
        shown: Json = _without_secrets(described, "")
        if shown == described:
            return shown
        text = json.dumps(described, sort_keys=True)
        return {**shown, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def read_flow(
    path: str, changes: Sequence[str], modules: Sequence[str], allow_code: bool, *, local_code: bool = True
) -> FlowSpec:
    """Return a spec that a file holds.

    Args:
        path: a `.cue`, `.json` or `.yaml` file: a local path, or `gs://`, `s3://`, `https://`.
        changes: values to replace, such as `target.dst.path=gs://bucket/b`.
        modules: to import before.
        allow_code: whether it may hold code wherever it is from.
        local_code: whether a local file may in any case.

    Raises:
        OptionError: there is no such file, module or value; the spec has faults, or code that it may not have.

    """
    builder.import_modules(modules)
    allow_code = allow_code or (local_code and is_local(normalize(path)))
    content = builder.override(builder.read_spec(path, allow_code=allow_code), changes)
    builder.check(content, allow_code=allow_code)
    return FlowSpec(content, tuple(modules))


def build_flow(spec: FlowSpec) -> Execution:
    """Return what a spec describes: a flow, and what it says of its workers.

    Raises:
        OptionError: the spec describes something else, or an argument is refused.
        SourceError: a volume cannot be read.

    """
    builder.import_modules(spec.modules)
    found = builder.build(spec.content)
    if isinstance(found, ApplyFlow):
        return Execution(found)
    if isinstance(found, Execution):
        return found
    raise OptionError(
        'the spec: expected "@type": "mazepa.execute" with a target, or "build_subchunkable_apply_flow", came '
        f"{type(found).__name__}: see the guide"
    )


def _without_secrets(value: Any, key: str) -> Any:
    if _SECRET.search(key):
        return "..."
    if isinstance(value, dict):
        return {name: _without_secrets(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner, key) for inner in value]
    if not isinstance(value, str):
        return value
    # What is made up as it is read is described by its query.
    return value if value.startswith("made://") else redacted(value)
