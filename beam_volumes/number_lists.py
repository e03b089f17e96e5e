"""Lists of numbers that may be long, as plans and tasks hold them: millions of labels would make a job's graph large.

A job's graph has a copy of its plan in each step, and what may be sent is limited; a task is sent once for each
element. So a long list stands in a file in scratch, which a worker reads once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import crc32c
import numpy as np
import numpy.typing as npt

from beam_volumes.errors import SourceError
from beam_volumes.storage import Folder, join

Numbers = npt.NDArray[np.uint64]

_SHORT = 1_000
"""So many numbers, or fewer, stay where they are: 8 kB."""

_LISTS_KEPT = 4
"""In a process, of those that were read."""


@dataclass(frozen=True)
class NumberList:
    """Numbers under 2^64, sorted, each once.

    Attributes:
        count: how many there are.
        crc32c: of their bytes, `<u8`.
        data: these bytes; empty where they stand in the file `name` in the folder `url`.

    """

    count: int
    crc32c: int
    data: bytes
    url: str = ""
    name: str = ""

    @classmethod
    def of(cls, numbers: Iterable[int] | Numbers) -> NumberList:
        """Return the list of `numbers`, in any order."""
        array = numbers if isinstance(numbers, np.ndarray) else np.fromiter(numbers, np.uint64)
        data = np.unique(array).astype("<u8").tobytes()
        return cls(len(data) // 8, crc32c.crc32c(data), data)

    def __len__(self) -> int:
        """Return how many there are."""
        return self.count

    def __contains__(self, number: int) -> bool:
        """Whether `number` is one of them."""
        place = int(np.searchsorted(self.array, np.uint64(number)))
        return place < self.count and int(self.array[place]) == number

    @property
    def array(self) -> Numbers:
        """The numbers.

        Raises:
            SourceError: the file is gone, or is not what was written.

        """
        data = _read(self.url, self.name, self.crc32c) if self.url else self.data
        return np.frombuffer(data, "<u8")

    def kept(self, url: str, name: str) -> NumberList:
        """Return the same list, which stands in a file if it is long; the folder must be there as long as it is used.

        Raises:
            DestinationError: the file cannot be written.

        """
        if self.url or self.count <= _SHORT:
            return self
        Folder(url).write(name, self.data)
        return replace(self, data=b"", url=url, name=name)


@lru_cache(_LISTS_KEPT)
def _read(url: str, name: str, crc: int) -> bytes:
    data = Folder(url).read(name)
    if data is None or crc32c.crc32c(data) != crc:
        raise SourceError(
            f"{join(url, name)}: expected the list of numbers that this run has written, "
            f"{'but it is gone' if data is None else f'came {len(data):,} other bytes'}: give the same command again"
        )
    return data
