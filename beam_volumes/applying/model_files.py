"""Files of torch models: which kind one is, told by what is in it, and how it is loaded.

What is run in loading a model: nothing of a TorchScript file, whose code runs in torch's own interpreter when the model
is called. Of a `torch.export` file its pickled parts are restored, after it has been made sure that they hold tensors
and plain values alone; torch also evaluates the expressions for sizes that stand in it. A model can do whatever torch's
operators can, also read and write files. So a model is code: take none of strangers.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from beam_volumes.errors import OptionError, SourceError
from beam_volumes.storage import Folder, is_local, join, local_path
from beam_volumes.storage.urls import redacted

_CONVERT = (
    "save it as TorchScript, torch.jit.trace(model.eval(), example).save(path) or torch.jit.script(model.eval())"
    ".save(path), or with torch.export.save(torch.export.export(model.eval(), (example,)), path)"
)
_PICKLE_START = b"\x80"
_OBJECTS = ("data/constants/custom_obj", "data/constants/opaque_obj")
_WEIGHT_CONFIGS = ("data/weights/", "data/constants/")


@dataclass
class LoadedModel:
    """A model on its device.

    Attributes:
        forward: the model, to be called without gradients.
        names: what its forward takes, in order.
        positional: how many of these, the first ones, cannot be given by name.
        is_single: whether it takes one chunk at a time only.
        most: chunks that fit the device's memory at once, as far as is known.

    """

    forward: Callable[..., Any]
    names: tuple[str, ...]
    positional: int
    is_single: bool
    most: int | None = None


def stamp_of(path: str) -> str:
    """Return what changes when the file at `path`, normalized, is replaced, without reading it.

    Of a remote file it is the size alone.

    Raises:
        SourceError: there is no such file, or it cannot be reached.

    """
    folder, name = _place(path)
    size = folder.size(name)
    if size is None:
        raise _missing(path)
    return f"{size} {local_path(path).stat().st_mtime_ns}" if is_local(path) else str(size)


def read_model(path: str) -> bytes:
    """Return the file at `path`, normalized.

    Raises:
        SourceError: there is no such file, or it cannot be read.

    """
    folder, name = _place(path)
    data = folder.read(name)
    if data is None:
        raise _missing(path)
    return data


def load(path: str, data: bytes, device: str) -> LoadedModel:
    """Return the model that `data`, the file at `path`, holds, on `device`.

    Raises:
        SourceError: the file is damaged.
        OptionError: it holds no model of a kind that can be loaded safely, or not one for this torch or this device.

    """
    names = _members(path, data)
    is_script = "constants.pkl" in names and "data.pkl" in names
    if not is_script:
        _check_exported(path, data, names)
    try:
        with warnings.catch_warnings():
            # torch advises its other format, in which not all that TorchScript can be is possible.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            parts = _load_script(data, device) if is_script else _load_exported(path, data, device)
    except OptionError:
        raise
    except Exception as error:
        import torch

        raise OptionError(
            f"{path}: expected a model that torch {torch.__version__} loads on {device}, came {reason(error)}: save it "
            "again with this version of torch, or choose another device"
        ) from error
    return LoadedModel(*parts)


def reason(error: Exception) -> str:
    """Return the line of an error of torch that says what went wrong."""
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1].removeprefix("RuntimeError: ") if "TorchScript" in lines[0] + lines[-1] else lines[0]


def _place(path: str) -> tuple[Folder, str]:
    parent, _, name = path.rpartition("/")
    return Folder(f"{parent}/"), name


def _missing(path: str) -> SourceError:
    return SourceError(f"{path}: expected the file of a torch model, came no file: give where it is")


def _members(path: str, data: bytes) -> dict[str, str]:
    """Return the full names of what is in a file by their names below its one folder."""
    if data.startswith(_PICKLE_START):
        raise _pickled(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            full = file.namelist()
            broken = file.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _damaged(path, f"{len(data)} bytes that are no whole zip file") from error
    if broken is not None:
        raise _damaged(path, f"a file in which {broken} has another checksum")
    if len({name.lower() for name in full}) < len(full):
        raise _damaged(path, "a file in which a part is there twice")
    names = {name.partition("/")[2]: name for name in full}
    if "data.pkl" in names and "constants.pkl" not in names:
        raise _pickled(path)
    return names


def _damaged(path: str, came: str) -> SourceError:
    return SourceError(
        f"{path}: expected a model saved by torch.jit.save or torch.export.save, came {came}: copy or save it again"
    )


def _pickled(path: str) -> OptionError:
    return OptionError(
        f"{path}: expected a model saved by torch.jit.save or torch.export.save, came what torch.save writes, a "
        f"pickled module or weights alone, which is not loaded, as it can run any code: {_CONVERT}"
    )


def _check_exported(path: str, data: bytes, names: dict[str, str]) -> None:
    """Refuse what is no file of torch.export.save, and what is restored by running code that is in it.

    Raises:
        OptionError: with the reason.

    """
    if "models/model.json" not in names:
        raise OptionError(
            f"{path}: expected a model saved by torch.jit.save or torch.export.save, came a zip file of something "
            f"else, or of an old version of torch: {_CONVERT}"
        )
    code = sorted(name for name in names if name.startswith(("data/aotinductor/", *_OBJECTS)))
    if code:
        raise OptionError(f"{path}: expected tensors and operators alone, came {code[0]}, which is code: {_CONVERT}")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        try:
            pickled = {name: file.read(names[name]) for name in _pickled_members(file, names)}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _damaged(path, "a list of weights that cannot be read") from error
    for name, part in pickled.items():
        _check_pickled(path, name, part)


def _pickled_members(file: zipfile.ZipFile, names: dict[str, str]) -> list[str]:
    pickled = [name for name in names if name.startswith("data/") and name.endswith(".pt")]
    for config in (name for name in names if name.startswith(_WEIGHT_CONFIGS) and name.endswith(".json")):
        parts = json.loads(file.read(names[config]))["config"].values()
        folder = config.rpartition("/")[0]
        pickled += [join(folder, part["path_name"]) for part in parts if part["use_pickle"]]
    return pickled


def _check_pickled(path: str, name: str, data: bytes) -> None:
    import torch

    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:
        raise OptionError(
            f"{path}: expected tensors and plain values alone, came {name} with pickled objects, which are not loaded, "
            "as they can run any code: export the model with tensors and numbers as arguments and constants"
        ) from error


_Parts = tuple[Callable[..., Any], tuple[str, ...], int, bool]


def _load_script(data: bytes, device: str) -> _Parts:
    import torch

    module = torch.jit.load(io.BytesIO(data), map_location=device).eval()
    names = tuple(argument.name for argument in module.forward.schema.arguments[1:])
    return module, names, 0, False


def _load_exported(path: str, data: bytes, device: str) -> _Parts:
    import torch
    from torch.export.passes import move_to_device_pass

    program = move_to_device_pass(torch.export.load(io.BytesIO(data)), device)
    names, positional = _exported_names(program)
    batch = _exported_batch(program)
    if batch is not None and batch > 1:
        raise OptionError(
            f"{path}: expected a model exported for any number of chunks at once, or for one, came one for exactly "
            f"{batch}: export it with dynamic_shapes that have torch.export.Dim('batch') for axis 0, or with an "
            "example of one chunk"
        )
    return program.module(), names, positional, batch == 1


def _exported_names(program: Any) -> tuple[tuple[str, ...], int]:
    arguments, _ = program.call_spec.in_spec.children()
    given = program.module_call_graph[0].signature.forward_arg_names
    return tuple(given), len(arguments.children())


def _exported_batch(program: Any) -> int | None:
    """Return the number of chunks that a program takes, where it is fixed."""
    taken = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in taken:
            shape: Any = getattr(node.meta.get("val"), "shape", ())
            if shape and isinstance(shape[0], int):
                return int(shape[0])
    return None
