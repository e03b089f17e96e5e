"""Reading through CloudVolume: any volume that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from cloudvolume import Bbox, CloudVolume
from cloudvolume.exceptions import EmptyVolumeException, InfoUnavailableError, ScaleUnavailableError

from beam_volumes.codecs import Array
from beam_volumes.errors import OptionError, SourceError
from beam_volumes.geometry import Box, Grid
from beam_volumes.precomputed.info import Json
from beam_volumes.source_checks import format_of
from beam_volumes.storage.urls import redacted

if TYPE_CHECKING:
    from beam_volumes.sources import Source


def open_volume(url: str, mip: int, info: Json | None, option: str = "src") -> Any:
    """Open with CloudVolume: reads are bounded, uncached, single-process, and fail on what is missing.

    Args:
        url: a location as CloudVolume takes it.
        mip: which scale.
        info: of the volume; None to fetch it.
        option: the option that names the volume, without its dashes.

    Raises:
        OptionError: there is no such volume or mip.
        SourceError: the volume cannot be read.

    """
    try:
        volume = CloudVolume(url, mip=0, info=info, bounded=True, fill_missing=False, progress=False, parallel=1)
        mips = list(volume.available_mips)
        if mip in mips:
            volume.mip = mip
            return volume
    except (InfoUnavailableError, ScaleUnavailableError) as error:
        raise OptionError(
            f"--{option}: expected a volume at {url}, but it has no metadata that can be read: {redacted(str(error))}"
        ) from error
    except Exception as error:
        raise SourceError(
            f"--{option}: expected a volume in a form that CloudVolume reads (Precomputed, zarr2:// and zarr3:// as "
            f"OME-Zarr, n5:// with multiscale metadata), but {url} cannot be opened: {redacted(repr(error))}"
        ) from error
    raise OptionError(f"--mip: expected one of {mips}, the mips of {url}, came {mip}")


class VolumeReader:
    """Reads through CloudVolume, with the info that the launcher fetched.

    Args:
        source: the volume.
        fill_missing: whether missing chunks are read as 0.

    """

    def __init__(self, source: Source, fill_missing: bool) -> None:
        self._source = source
        self._fill_missing = fill_missing
        plain = format_of(source.voxels_url) == "precomputed"
        self._volume = open_volume(source.voxels_url, source.mip, source.info if plain else None)

    def read(self, box: Box) -> tuple[Array, list[Box]]:
        """Return the XYZC voxels of `box` and the stored chunks that were missing (and read as 0)."""
        try:
            return self._download(box), []
        except SourceError as error:
            if not (self._fill_missing and isinstance(error.__cause__, EmptyVolumeException)):
                raise
        return self._read_around_holes(box)

    def _read_around_holes(self, box: Box) -> tuple[Array, list[Box]]:
        """Read stored chunk by stored chunk, so that each missing one is known."""
        source, holes = self._source, []
        array = np.zeros((*box.shape, source.num_channels), source.data_type, order="F")
        chunks = Grid(box, source.chunk, source.chunk_origin)
        for position in chunks.positions_meeting(box):
            part = chunks.box(position)
            try:
                array[part.slices(box.start)] = self._download(part)
            except SourceError as error:
                if not isinstance(error.__cause__, EmptyVolumeException):
                    raise
                holes.append(part)
        return array, holes

    def _download(self, box: Box) -> Array:
        source = self._source
        try:
            cutout = self._volume.download(Bbox(box.start, box.stop), mip=source.mip)
        except EmptyVolumeException as error:
            raise SourceError(
                f"{source.voxels_url}, mip {source.mip}: expected every chunk of {box}, but one is missing "
                f"({redacted(str(error))}): restore it, or accept holes with --fill_missing"
            ) from error
        except Exception as error:
            raise SourceError(
                f"{source.voxels_url}, mip {source.mip}, box {box}: cannot read: {redacted(repr(error))}"
            ) from error
        array = np.asarray(cutout)
        expected = (*box.shape, source.num_channels)
        if box.voxels == 1:
            # CloudVolume 12 puts the channels of a single voxel along x.
            array = array.reshape(expected)
        if array.shape != expected:
            raise SourceError(
                f"{source.voxels_url}, mip {source.mip}: expected {expected} for {box}, came {array.shape}"
            )
        return array
