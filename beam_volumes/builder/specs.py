"""Specs in files: CUE, JSON or YAML; local, in a bucket, or at a web server."""

from __future__ import annotations

import tempfile
from pathlib import Path

from beam_volumes.builder import cue
from beam_volumes.builder.building import code_in, code_refused
from beam_volumes.builder.paths import raise_faults
from beam_volumes.builder.text import from_json, from_yaml
from beam_volumes.errors import OptionError
from beam_volumes.storage import Folder, is_local, local_path, normalize

_TEXTS = {".json": from_json, ".yaml": from_yaml, ".yml": from_yaml}
_SUFFIXES = (".cue", *_TEXTS)


def read_spec(path: str, *, allow_code: bool = False) -> dict[str, object]:
    """Return the spec that a file holds: a dictionary, in plain values.

    Args:
        path: a `.cue`, `.json` or `.yaml` file: a local path, or `gs://`, `s3://`, `https://`.
        allow_code: whether a file from elsewhere may hold code (`lambda`); a local file may in any case. It is looked
            for by the types that are known now: what builds the spec later is told `allow_code`, too.

    Raises:
        OptionError: there is no such file, it is of another kind or holds no spec; or it is from elsewhere and holds
            code. `CueMissingError`, of this kind, where nothing here reads CUE.
        SourceError: the file cannot be read.

    """
    url = normalize(path)
    suffix = Path(url).suffix
    if suffix not in _SUFFIXES:
        raise OptionError(f"{path}: expected a spec that ends in {', '.join(_SUFFIXES)}, came {suffix or 'none'}")
    data = _data(url)
    try:
        spec = _cue(url, data) if suffix == ".cue" else _TEXTS[suffix](data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise OptionError(f"{url}: expected text in UTF-8, came other bytes: save it as that") from None
    except OptionError as error:
        error.args = (f"{url}: {error}",)
        raise
    if not isinstance(spec, dict):
        raise OptionError(f"{url}: expected a spec with names, came a {type(spec).__name__}: see the guide")
    if not is_local(url) and not allow_code:
        raise_faults([f"{place}: {code_refused(name)}" for place, name in code_in(spec).items()], url)
    return spec


def _data(url: str) -> bytes:
    folder, _, name = url.rpartition("/")
    data = Folder(folder).read(name)
    if data is None:
        raise OptionError(f"{url}: expected a spec, came no file: see to the path")
    return data


def _cue(url: str, data: bytes) -> object:
    if is_local(url):
        return cue.evaluate(local_path(url))
    # Alone in a folder: it finds no other file.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "spec.cue")
        file.write_bytes(data)
        return cue.evaluate(file)
