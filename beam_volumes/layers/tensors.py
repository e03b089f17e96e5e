"""Between arrays, as volumes are stored, and torch tensors, as layers give and take them.

torch calculates hardly at all with unsigned integers of more than 8 bits. So uint16 becomes int32, and uint32 and
uint64 become int64, as in zetta_utils; the numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_volumes.codecs import Array
from beam_volumes.errors import FunctionError, SourceError

if TYPE_CHECKING:
    import torch

_WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}
_LARGEST = np.iinfo(np.int64).max


def tensor_type(data_type: str) -> str:
    """Return the type, as numpy names it, of the tensors that a volume of `data_type` is read as."""
    return _WIDER.get(data_type, data_type)


def to_tensor(array: Array, where: str) -> torch.Tensor:
    """Return an array as a tensor of the same axes; memory is shared where the type stays.

    Raises:
        SourceError: an id is above 2**63 - 1; `where` tells of which volume.

    """
    import torch

    wanted = np.dtype(tensor_type(array.dtype.name))
    if array.dtype == np.uint64 and array.size and int(array.max()) > _LARGEST:
        raise SourceError(
            f"{where}: expected ids up to {_LARGEST}, which are what torch's int64 holds, came {int(array.max())}: "
            "read arrays instead, with layer.backend.read(index)"
        )
    return torch.from_numpy(array if array.dtype == wanted else array.astype(wanted))


def to_array(data: Any) -> Array:
    """Return a tensor (of any device) or an array as an array of the same axes; bfloat16 becomes float32."""
    if hasattr(data, "detach"):
        data = data.detach().cpu()
        # numpy has no such type.
        data = (data.float() if str(data.dtype) == "torch.bfloat16" else data).numpy()
    return np.asarray(data)


def is_number(data: Any) -> bool:
    """Whether `data` is one number, of Python or numpy."""
    return isinstance(data, (Real, np.bool_))


def filled(number: float, shape: Sequence[int], data_type: str) -> Array:
    """Return an array of `shape` that holds one number throughout, without the memory for it; read-only.

    It is of `data_type`, unless that cannot hold the number: then of numpy's own type for it.
    """
    value, kind = number, data_type if np.dtype(data_type).kind == "f" else "float64"
    try:
        if np.dtype(data_type).kind in "iu" and math.isfinite(number) and float(number).is_integer():
            value, limits = int(number), np.iinfo(data_type)
            kind = data_type if limits.min <= value <= limits.max else "int64"
        one = np.array(value, kind)
    except OverflowError:
        raise FunctionError(f"expected a number that {data_type} holds, came {number}: give another") from None
    return np.broadcast_to(one, tuple(shape))


def fitted(array: Array, data_type: str, where: str) -> Array:
    """Return values in a volume's type: integers where all fit, floats of any size, bool as 0 and 1.

    Raises:
        FunctionError: the type cannot hold them.

    """
    wanted = np.dtype(data_type)
    if array.dtype == wanted:
        return array
    kinds = array.dtype.kind + wanted.kind
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        limits = np.iinfo(wanted)
        if not limits.min <= low <= high <= limits.max:
            raise FunctionError(
                f"{where}: expected values that {wanted} holds, came values from {low} to {high}: clip them, or write "
                "to a volume of a wider type"
            )
    elif kinds != "ff" and not np.can_cast(array.dtype, wanted, "safe"):
        raise FunctionError(
            f"{where}: expected values of type {wanted}, came {array.dtype}: round, clip and convert them first, "
            "for example in one of write_procs"
        )
    return array.astype(wanted)
