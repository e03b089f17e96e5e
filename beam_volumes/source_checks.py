"""Refusing what CloudVolume 12 reads wrongly without saying so, and what must not stand in a volume's records."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from beam_volumes.errors import OptionError
from beam_volumes.storage.urls import check_public, split_schemes, without_secrets

_FORMATS = ("precomputed", "zarr", "zarr2", "zarr3", "n5")
_IMAGE_ENCODINGS = ("jpeg", "png", "jxl")
_STORED_AS = ("chunks", "dtype", "order", "compressor", "filters", "dimension_separator")


def format_of(url: str) -> str:
    """Return the format that a location names: "zarr", "n5", or "precomputed" for the rest."""
    found = re.match(r"(zarr|n5)\d?://", url)
    return found[1] if found else "precomputed"


def is_on_this_machine(url: str) -> bool:
    """Whether a location, in any format, is on this machine's file system."""
    return _protocols(url) in ([], ["file"])


def check_location(url: str, named: str) -> None:
    """Refuse a location that holds a secret, or that CloudVolume would take for another, such as a local path.

    Args:
        url: where voxels are to be read.
        named: what says so, for messages: an option, or a field of a server's info.

    Raises:
        OptionError: with the locations that there are.

    """
    try:
        check_public(url)
    except OptionError as error:
        raise OptionError(f"{named}: {error}") from None
    if suffix := re.search(r"\|[\w-]+:$", url.strip()):
        raise OptionError(
            f"{named}: expected the format before the location, as zarr2://gs://bucket/path, came "
            f"{without_secrets(url)}: leave out {suffix[0]} at its end"
        )
    # CloudVolume itself reads the file with the user's names for stores only when it needs one.
    # With Google's libraries, a third of a second, which workers need not spend.
    from cloudfiles import paths

    paths.update_aliases_from_file()
    known = [name for name in paths.ALLOWED_PROTOCOLS if name != "mem"]
    protocols = _protocols(url)
    if protocols[:1] == ["s3"] and protocols[1:] in (["https"], ["http"]):
        # The address of another store than Amazon's.
        return
    if len(protocols) > 1 or not set(protocols) <= set(known):
        raise OptionError(
            f"{named}: expected a local path or one of {_list(known)} (with one of {_list(_FORMATS)} before it), "
            f"graphene:// or made://, came {without_secrets(url)}"
        )


def _list(schemes: Iterable[str]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)


def _protocols(url: str) -> list[str]:
    schemes, _ = split_schemes(url)
    return schemes[1:] if schemes[:1] and schemes[0] in _FORMATS else schemes


def check_readable(url: str, volume: Any, mip: int) -> None:
    """Refuse a volume whose voxels would come other than they are stored.

    Args:
        url: where the voxels are.
        volume: the same as an open CloudVolume.
        mip: which scale is to be read.

    Raises:
        OptionError: with what to do instead.

    """
    kind = format_of(url)
    if kind == "zarr":
        _check_zarr(url, volume, mip)
    elif kind == "n5":
        _check_n5(url, volume)
    else:
        _check_channels(url, volume)


def _check_channels(url: str, volume: Any) -> None:
    """Several channels of one image file come in an order of their own: interleaved, not plane by plane."""
    encoding = volume.scale["encoding"]
    if encoding in _IMAGE_ENCODINGS and volume.num_channels > 1:
        raise OptionError(
            f"--src: expected one channel, or an encoding other than {', '.join(_IMAGE_ENCODINGS)}, came {url} with "
            f"{volume.num_channels} channels in {encoding}, which CloudVolume mixes up: transcode it to raw first"
        )


def _check_n5(url: str, volume: Any) -> None:
    """N5 is big-endian (https://github.com/saalfeldlab/n5#file-system-specification); CloudVolume takes it as it is."""
    if np.dtype(volume.dtype).itemsize > 1:
        raise OptionError(
            f"--src: expected N5 voxels of one byte, came {volume.dtype} in {url}, whose bytes CloudVolume reads in "
            "the wrong order: transcode it to Precomputed or Zarr first"
        )


def _check_zarr(url: str, volume: Any, mip: int) -> None:
    arrays = volume.meta.zarrays
    # CloudVolume lists the finest array of a Zarr 2 group twice: a scale is read by the metadata of the one before it.
    array, read_as = arrays[len(arrays) - len(volume.meta.scales) + mip], arrays[mip]
    codecs = [c.get("configuration", {}).get("endian") for c in array.get("codecs", []) if isinstance(c, dict)]
    if str(array.get("dtype", "")).startswith(">") or "big" in codecs:
        raise OptionError(
            f"--src: expected little-endian voxels, came big-endian ones in {url}, which CloudVolume does not turn: "
            "transcode it first"
        )
    if different := [name for name in _STORED_AS if array.get(name) != read_as.get(name)]:
        raise OptionError(
            f"--mip: expected a scale of {url} that is stored as the finer one before it, came {mip}, whose "
            f"{', '.join(different)} differ, and which CloudVolume cannot read: export a finer mip and downsample it"
        )
    size, shape = [int(n) for n in volume.scale["size"]], array["shape"]
    if len(size) != 3 or math.prod(shape) != math.prod(size) * volume.num_channels:
        raise OptionError(
            f"--src: expected an array of X, Y and Z, and the channels that omero.channels names, came {url} of shape "
            f"{shape}, of which CloudVolume sees {size} in {volume.num_channels} channel(s): transcode it to "
            "Precomputed, or to one array for each time and channel"
        )
