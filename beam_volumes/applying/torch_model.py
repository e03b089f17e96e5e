"""Torch models as the function of a flow: `{"@type": "torch_model", "path": "gs://bucket/model.pt"}`."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import crc32c

from beam_volumes.applying.model_files import LoadedModel, load, read_model, reason, stamp_of
from beam_volumes.applying.model_memory import forward_bytes
from beam_volumes.builder import register
from beam_volumes.errors import FunctionError, OptionError, SourceError
from beam_volumes.storage import normalize

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)

_LOADED: dict[tuple[str, str, str], LoadedModel] = {}
"""Models of this process by path, stamp of the file, and device."""

_CHECKSUMS: dict[tuple[str, str], int] = {}
"""Of their files, also of models that have not been loaded, by path and stamp."""

_LOADING = threading.Lock()

_OUT_OF_MEMORY = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""How TorchScript, whose errors are of one class, tells it."""


class _TooLargeError(Exception):
    """The GPU has too little memory for a batch."""


# A model is code, which whoever wrote the spec has chosen.
@register("torch_model", runs_code=True)
@dataclass(frozen=True)
class TorchModel:
    """A model saved by `torch.jit.save` or `torch.export.save`, as a function of chunks; see `model_files` on safety.

    Which of the two a file is, is told by what is in it. Cheap to make and to pickle: the file is read when the model
    is first called, once in a process for all that name it, and in evaluation mode. (A program of `torch.export` is in
    the mode in which it was exported: call `eval()` before.)

    A chunk is a tensor CXYZ; the model takes and returns NCXYZ, one tensor. Arguments whose names are all among those
    of the model's forward are passed by name; if none is, they are passed in their order, so one input may have any
    name. Tensors come as they are, integers too: a model of floats must convert them itself, unless a processor does.
    What is no tensor is passed as it is. Results are on the CPU.

    A model exported with an example of one chunk and no dynamic batch runs chunk by chunk, whatever `batch` is. A file
    replaced while a process runs is read again by objects made later, remote files if their size is another.

    Attributes:
        path: a local path, gs://, s3:// or https://.
        device: cpu, cuda, or cuda:1 for the second GPU; None takes a GPU if there is one.
        batch: chunks that go through the model at once, at most; halved in a process whose GPU has too little memory.
        amp: calculate in float16 (on a CPU: bfloat16) where torch holds that to be exact enough; results in these
            types become float32.

    Raises:
        OptionError: an argument cannot work.

    """

    path: str
    device: str | None = None
    batch: int = 1
    amp: bool = False
    _stamp: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the arguments, and take the one form of the path."""
        object.__setattr__(self, "path", _checked_path(self.path))
        if not (
            self.device is None or (isinstance(self.device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", self.device))
        ):
            raise OptionError(
                f"torch_model: device: expected cpu, cuda or cuda:1, came {self.device!r}: give one, or none for a GPU "
                "where there is one"
            )
        if type(self.batch) is not int or self.batch < 1:
            raise OptionError(f"torch_model: batch: expected a number of chunks from 1, came {self.batch!r}: give one")
        if not isinstance(self.amp, bool):
            raise OptionError(f"torch_model: amp: expected true or false, came {self.amp!r}: give one")

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes the same object elsewhere, where the file is looked at anew."""
        return TorchModel, (self.path, self.device, self.batch, self.amp)

    @property
    def device_type(self) -> str:
        """The kind of device on this machine: cpu or cuda."""
        return self._device().partition(":")[0]

    @property
    def uses_gpu(self) -> bool:
        """Whether the model runs on a GPU on this machine."""
        return self.device_type == "cuda"

    def version(self) -> str:
        """Return what another file at the same path would not have: its checksum. The model is not loaded for it.

        Raises:
            SourceError: the file is missing, or cannot be read.

        """
        with _LOADING:
            key = (self.path, self._file_stamp())
            if key not in _CHECKSUMS:
                _CHECKSUMS[key] = crc32c.crc32c(read_model(self.path))
            return f"crc32c:{_CHECKSUMS[key]:08x}"

    def load(self) -> None:
        """Load the model now, unless this process has.

        Raises:
            SourceError: its file is missing or damaged, or another than `version` has told of.
            OptionError: the file or the device cannot be used.

        """
        self._loaded()

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the model's result (CXYZ, on the CPU) for one chunk.

        Raises:
            SourceError: the model's file is missing or damaged.
            OptionError: the file or the device cannot be used.
            FunctionError: the model fails, or returns something else than one tensor NCXYZ.

        """
        loaded = self._loaded()
        return self._results(loaded, [self._arranged(loaded, args, kwargs)])[0]

    def batched(self, calls: Sequence[Mapping[str, Any]]) -> list[torch.Tensor]:
        """Return the results (CXYZ, on the CPU) of several chunks, in order, at most `batch` in one forward.

        Chunks of other shapes or types, or with other values beside the tensors, go through the model apart. Results
        of one forward share memory: keeping one keeps all of them.

        Args:
            calls: the arguments for each chunk.

        Raises:
            SourceError, OptionError, FunctionError: as when it is called for one chunk.

        """
        loaded = self._loaded()
        arranged = [self._arranged(loaded, (), call) for call in calls]
        groups: list[list[int]] = []
        for at, call in enumerate(arranged):
            alike = next((group for group in groups if _is_alike(arranged[group[0]], call)), None)
            if alike is None:
                groups.append([at])
            else:
                alike.append(at)
        results: dict[int, torch.Tensor] = {}
        for group in groups:
            results.update(zip(group, self._results(loaded, [arranged[at] for at in group]), strict=True))
        return [results[at] for at in range(len(calls))]

    def measure(self, call: Mapping[str, Any]) -> int:
        """Return the bytes that the model needs for a batch on a CPU, with itself, beyond chunks and results.

        See `forward_bytes`. The memory of a GPU is not measured: where it is too little, batches are halved.

        Args:
            call: the arguments for a chunk; tensors of zeros do.

        Raises:
            SourceError, OptionError, FunctionError: as when it is called; also, it needs more memory than there is.

        """
        return forward_bytes(self, call)

    def _device(self) -> str:
        import torch

        if self.device is not None:
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def _loaded(self) -> LoadedModel:
        device = self._device()
        with _LOADING:
            stamp = self._file_stamp()
            key = (self.path, stamp, device)
            if key not in _LOADED:
                _check_present(device)
                data = read_model(self.path)
                if _CHECKSUMS.setdefault((self.path, stamp), crc := crc32c.crc32c(data)) != crc:
                    raise SourceError(
                        f"{self.path}: expected the model that was there when this process looked, came another: put "
                        "the former back, or start anew with this one"
                    )
                _LOADED[key] = load(self.path, data, device)
            return _LOADED[key]

    def _file_stamp(self) -> str:
        if not self._stamp:
            self._stamp.append(stamp_of(self.path))
        return self._stamp[0]

    def _arranged(self, loaded: LoadedModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments by the names that the model's forward has for them."""
        names = loaded.names
        free = names[len(args) :]
        known = [name for name in kwargs if name in free]
        if len(args) + len(kwargs) > len(names) or 0 < len(known) < len(kwargs):
            came = [*(f"one without a name ({type(value).__name__})" for value in args), *kwargs]
            raise FunctionError(
                f"{self.path}: expected arguments for ({', '.join(names)}), which the model takes, came "
                f"{', '.join(came)}: give all by these names, or all by others, and in this order"
            )
        arranged = dict(zip(names, args, strict=False))
        arranged.update(kwargs if known else zip(free, kwargs.values(), strict=False))
        return arranged

    def _results(self, loaded: LoadedModel, calls: list[dict[str, Any]]) -> list[torch.Tensor]:
        """Return the results of chunks that are alike, in as few forwards as memory allows."""
        import torch

        results: list[torch.Tensor] = []
        while len(results) < len(calls):
            most = 1 if loaded.is_single else min(self.batch, loaded.most or self.batch)
            chunks = calls[len(results) : len(results) + most]
            try:
                results += self._forward(loaded, chunks)
                continue
            except _TooLargeError as error:
                if len(chunks) == 1:
                    raise FunctionError(
                        f"{self.path}: expected that a chunk fits the GPU's memory, came {_described(chunks[0])}, "
                        "which does not: give smaller processing_chunk_sizes, or amp: true, or device: cpu"
                    ) from error
                loaded.most = len(chunks) // 2
            # Not in the handler, whose error holds the tensors of the forward.
            torch.cuda.empty_cache()
            _LOG.warning("%s: %d chunks are too many for the GPU: now %d", self.path, len(chunks), loaded.most)
        return results

    def _forward(self, loaded: LoadedModel, chunks: list[dict[str, Any]]) -> list[torch.Tensor]:
        import torch

        device = self._device()
        kind = device.partition(":")[0]
        reduced = torch.bfloat16 if kind == "cpu" else torch.float16
        casting = torch.autocast(kind, reduced) if self.amp else contextlib.nullcontext()
        try:
            # Not inference_mode: what it gives cannot be changed in place, which later steps may do.
            with torch.no_grad(), casting:
                values = {name: _stacked([chunk[name] for chunk in chunks], device) for name in chunks[0]}
                result = loaded.forward(
                    *[values.pop(n) for n in loaded.names[: loaded.positional] if n in values], **values
                )
                return self._checked_result(result, len(chunks))
        except FunctionError:
            raise
        except Exception as error:
            is_memory = isinstance(error, torch.cuda.OutOfMemoryError)
            if is_memory or any(text in str(error) for text in _OUT_OF_MEMORY):
                raise _TooLargeError from error
            raise FunctionError(
                f"{self.path}: expected that the model takes what it is given, batches of {_described(chunks[0])}, "
                f"came {reason(error)!r}: give what it was made for, or save it for this"
            ) from error

    def _checked_result(self, result: Any, number: int) -> list[torch.Tensor]:
        if not _is_tensor(result) or result.ndim != 5 or len(result) != number:
            came = f"a tensor of shape {tuple(result.shape)}" if _is_tensor(result) else f"a {type(result).__name__}"
            raise FunctionError(
                f"{self.path}: expected that the model returns one tensor of five axes, {number} x C x X x Y x Z, came "
                f"{came}: wrap the model in one that returns this"
            )
        if self.amp and result.element_size() == 2 and result.is_floating_point():
            result = result.float()
        return list(result.detach().cpu())


def _checked_path(path: object) -> str:
    if not isinstance(path, str):
        raise OptionError(f"torch_model: path: expected the path of a model, came {path!r}: give one")
    url = normalize(path)
    parent, _, name = url.rpartition("/")
    if not name or (parent.endswith(":/") and not url.startswith("file://")):
        raise OptionError(
            f"torch_model: path: expected the path of a model, came {path!r}, which names no file: give one"
        )
    return url


def _check_present(device: str) -> None:
    import torch

    if device == "cpu":
        return
    number = int(device.partition(":")[2] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= count:
        raise OptionError(
            f"torch_model: device: expected one that is here, where torch finds {count} GPUs, came {device}: run where "
            "there is one, give another, or none for whatever there is"
        )


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _stacked(values: list[Any], device: str) -> Any:
    """Return tensors CXYZ as one NCXYZ on the device; of other values the first, as all are the same."""
    import torch

    if not _is_tensor(values[0]):
        return values[0]
    together = values[0][None] if len(values) == 1 else torch.stack(values)
    return together.to(device)


def _is_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the arguments of two chunks can go through a model together."""
    return one.keys() == other.keys() and all(_is_alike_value(value, other[name]) for name, value in one.items())


def _is_alike_value(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if _is_tensor(one):
        return bool(one.shape == other.shape and one.dtype == other.dtype)
    try:
        return one is other or bool(one == other)
    except (ValueError, RuntimeError):
        # Arrays: they are compared number by number.
        return False


def _described(call: Mapping[str, Any]) -> str:
    """Return the arguments of one chunk in words."""
    return ", ".join(
        f"{name} {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        if _is_tensor(value)
        else f"{name} {type(value).__name__}"
        for name, value in call.items()
    )
