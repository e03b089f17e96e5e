"""Precomputed volumes read and written by tensorstore, sharded or not."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from beam_volumes.codecs import Array
from beam_volumes.errors import DestinationError, OptionError, SourceError
from beam_volumes.geometry import Box
from beam_volumes.layers.backend import VolumetricBackend
from beam_volumes.layers.volume import LayerVolume
from beam_volumes.precomputed.info import Json
from beam_volumes.storage.urls import redacted, split_schemes

_SCHEMES = ("file", "gs", "s3", "http", "https")
_READ_ONLY = ("http://", "https://")
_FAILURES = (ValueError, OSError, NotImplementedError)


class TensorstoreBackend(VolumetricBackend):
    """A Precomputed volume; chunks that are missing are read as 0, and chunks of nothing but 0 are not stored.

    Args:
        volume: the volume.
        unwritten: its `info`, where it is not the one that stands there.
        cache_bytes_limit: bytes that each process may keep; what others write meanwhile is not seen in them.

    Raises:
        OptionError: tensorstore is not installed, or does not read the volume.

    """

    def __init__(self, volume: LayerVolume, unwritten: Json | None = None, cache_bytes_limit: int = 0) -> None:
        super().__init__(volume, unwritten)
        _tensorstore()
        schemes, _ = split_schemes(volume.path)
        if not volume.is_precomputed or len(schemes) != 1 or schemes[0] not in _SCHEMES:
            raise OptionError(
                f"{volume.path}: expected a Precomputed volume at one of {', '.join(_SCHEMES)}, which tensorstore "
                "reads, came another: use build_cv_layer"
            )
        self.cache_bytes_limit = cache_bytes_limit
        self._opened: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return all but what is open."""
        return {**self.__dict__, "_opened": {}}

    def write_info(self) -> None:
        """Write the `info` that does not stand there yet; what was opened by another is opened anew."""
        if self.unwritten is not None:
            super().write_info()
            self._opened = {}

    def settle(self, info: Json) -> None:
        """Take `info` as the one that stands there, and open all anew."""
        super().settle(info)
        self._opened = {}

    def check_writable(self, resolution: Sequence[float]) -> None:
        """Refuse a place where one can only read."""
        super().check_writable(resolution)
        if self.name.startswith(_READ_ONLY):
            raise DestinationError(
                f"{self.name}: expected a place to write to, came one where one can only read: choose a local path, "
                "gs:// or s3://"
            )

    def _read(self, mip: int, box: Box) -> Array:
        if self.unwritten is not None and not self._stands(mip):
            return np.zeros((*box.shape, self.num_channels), self.data_type, order="F")
        x, y, z = box.slices()
        try:
            return np.array(self._open(mip)[x, y, z].read(order="F").result())
        except _FAILURES as error:
            raise SourceError(f"{self.name}, mip {mip}, box {box}: cannot read: {redacted(str(error))}") from error

    def _write(self, mip: int, box: Box, values: Array) -> None:
        x, y, z = box.slices()
        try:
            self._open(mip)[x, y, z].write(values).result()
        except _FAILURES as error:
            raise DestinationError(
                f"{self.name}, mip {mip}, box {box}: cannot write: {redacted(str(error))}"
            ) from error

    def _stands(self, mip: int) -> bool:
        """Whether the scale is in the `info` that stands there, as far as tensorstore can open it."""
        try:
            self._open(mip)
        except SourceError:
            return False
        return True

    def _open(self, mip: int) -> Any:
        if mip not in self._opened:
            spec = {
                "driver": "neuroglancer_precomputed",
                "kvstore": f"{self.name}/",
                "scale_metadata": {"resolution": list(self.volume.scale(mip)["resolution"])},
                "context": {"cache_pool": {"total_bytes_limit": self.cache_bytes_limit}},
                "recheck_cached_data": "open" if self.cache_bytes_limit else True,
            }
            try:
                self._opened[mip] = _tensorstore().open(spec, open=True).result()
            except _FAILURES as error:
                raise SourceError(f"{self.name}, mip {mip}: cannot be opened: {redacted(str(error))}") from error
        return self._opened[mip]


def _tensorstore() -> ModuleType:
    try:
        import tensorstore
    except ModuleNotFoundError as error:
        raise OptionError(
            "build_ts_layer: expected tensorstore, which is not installed: install it, or use build_cv_layer"
        ) from error
    module: ModuleType = tensorstore
    return module
