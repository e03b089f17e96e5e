"""What can be done to an index or to data on their way into and out of a layer, and in which order.

Index processors come first, in the order of their list. On reading, the `process_index` of joint processors is then
called in the reverse order of `read_procs`, and the data go through `read_procs` in their order: so one list fits
`read_procs` and `write_procs`, where both are called in the order of the list.

>>> import tempfile, torch
>>> from beam_volumes.geometry import BBox3D, Vec3D
>>> from beam_volumes.layers import build_cv_layer
>>> class ThresholdProcessor:
...     def __init__(self, threshold=0):
...         self.threshold = threshold
...
...     def __call__(self, data):
...         data[data < self.threshold] = self.threshold
...         return data
>>> folder = tempfile.TemporaryDirectory()
>>> cvl_without_proc = build_cv_layer(
...    path=f"file://{folder.name}/img_norm",
...    info_scales=[[64, 64, 40]],
...    info_bbox=BBox3D.from_coords((0, 0, 0), (100, 100, 1), resolution=(64, 64, 40)),
...    info_data_type="float32", info_encoding="raw", info_chunk_size=[64, 64, 1],
... )
>>> idx = cvl_without_proc.backend.get_bounds(Vec3D(64, 64, 40))
>>> cvl_without_proc[idx] = torch.linspace(-3, 3, 10000).reshape(1, 100, 100, 1)
>>> cvl_with_proc = build_cv_layer(
...    path=f"file://{folder.name}/img_norm",
...    read_procs=[ThresholdProcessor(0)]
... )
>>> cvl_without_proc[idx].min()
tensor(-3.)
>>> cvl_with_proc[idx].min()
tensor(0.)
>>> folder.cleanup()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from beam_volumes.errors import OptionError
from beam_volumes.geometry import VolumetricIndex

Mode = Literal["read", "write"]

T = TypeVar("T")


class DataProcessor(Protocol):
    """Changes data: any function of a tensor."""

    def __call__(self, data: Any, /) -> Any:
        """Return the data to go on with; they may be changed in place."""


class IndexProcessor(Protocol):
    """Changes an index: any function of one."""

    def __call__(self, idx: VolumetricIndex, /) -> VolumetricIndex:
        """Return the index to go on with."""


@runtime_checkable
class JointIndexDataProcessor(Protocol):
    """Changes an index and, after the read or before the write, the data that belong to it.

    `process_index` is called before `process_data` for each access; what the second must know of the first is kept
    between the two by the processor itself.
    """

    def process_index(self, idx: VolumetricIndex, mode: Mode) -> VolumetricIndex:
        """Return the index to go on with."""

    def process_data(self, data: Any, mode: Mode) -> Any:
        """Return the data to go on with."""


Processor = DataProcessor | JointIndexDataProcessor


class Prepared(Generic[T]):
    """What a joint processor keeps from `process_index` to `process_data`: of each thread its own, and never pickled.

    Of several `keep` before a `take`, as of a processor that stands twice in a list, the last counts first.
    """

    def __init__(self) -> None:
        self._kept = threading.local()

    def __reduce__(self) -> tuple[type[Prepared[Any]], tuple[()]]:
        """Return how to make an empty one."""
        return Prepared, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepared[T]:
        """Return an empty one."""
        return Prepared()

    def keep(self, value: T) -> None:
        """Keep something for `take`."""
        self._stack().append(value)

    def take(self) -> T:
        """Return what was kept last, and let go of it.

        Raises:
            OptionError: nothing was.

        """
        stack = self._stack()
        if not stack:
            raise OptionError("expected process_index before process_data, came process_data alone: call both")
        return stack.pop()

    def _stack(self) -> list[T]:
        if not hasattr(self._kept, "stack"):
            self._kept.stack = []
        found: list[T] = self._kept.stack
        return found


def read_through(
    idx: Any, read: Callable[[Any], Any], index_procs: Iterable[IndexProcessor], procs: Iterable[Processor]
) -> Any:
    """Return what `read` returns for the index that processors make of `idx`, as processors leave it."""
    for index_proc in index_procs:
        idx = index_proc(idx)
    ordered = list(procs)
    for proc in reversed(ordered):
        if isinstance(proc, JointIndexDataProcessor):
            idx = proc.process_index(idx, "read")
    data = read(idx)
    for proc in ordered:
        data = proc.process_data(data, "read") if isinstance(proc, JointIndexDataProcessor) else proc(data)
    return data


def to_write(idx: Any, data: Any, index_procs: Iterable[IndexProcessor], procs: Iterable[Processor]) -> tuple[Any, Any]:
    """Return the index and the data that are written when processors had `idx` and `data`."""
    for index_proc in index_procs:
        idx = index_proc(idx)
    for proc in procs:
        if isinstance(proc, JointIndexDataProcessor):
            idx = proc.process_index(idx, "write")
            data = proc.process_data(data, "write")
        else:
            data = proc(data)
    return idx, data


def checked_procs(procs: Iterable[Any], name: str) -> tuple[Any, ...]:
    """Return processors as a tuple.

    Raises:
        OptionError: one of them can neither be called, nor has the methods of a joint processor.

    """
    if callable(procs) or not isinstance(procs, Iterable):
        raise OptionError(f"{name}: expected a list of processors, came {procs!r}: put it into a list")
    found = tuple(procs)
    for proc in found:
        is_joint = isinstance(proc, JointIndexDataProcessor) and name != "index_procs"
        if not is_joint and not callable(proc):
            expected = "functions" if name == "index_procs" else "functions, or objects with process_index/process_data"
            raise OptionError(f"{name}: expected {expected}, came {proc!r}: give others")
    return found
