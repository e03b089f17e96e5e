"""A volume as a layer sees it: its `info`, and its scales by resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beam_volumes.errors import OptionError, VolumeError
from beam_volumes.geometry import Box, Grid, Vec, Vec3D
from beam_volumes.geometry.exact import exact, positives
from beam_volumes.layers.graph_reader import read_graph_info
from beam_volumes.layers.indexing import as_vec
from beam_volumes.precomputed.info import Json
from beam_volumes.source_checks import check_location, format_of
from beam_volumes.sources import Source, describe_source
from beam_volumes.storage import Folder, is_local, normalize
from beam_volumes.storage.urls import SCHEMES, split_schemes

_IMAGE_ENCODINGS = ("jpeg", "png", "jxl")
_MADE = "made://"


@dataclass(frozen=True)
class LayerVolume:
    """A volume.

    Attributes:
        path: where it is: in one form (`file:///absolute/path`, ...) where this project's own storage reaches it.
        info: of Precomputed, or what CloudVolume makes of another format's metadata.

    """

    path: str
    info: Json

    @property
    def data_type(self) -> str:
        """Of its voxels, as numpy names it."""
        return str(self.info["data_type"])

    @property
    def num_channels(self) -> int:
        """Values for each voxel."""
        return int(self.info["num_channels"])

    @property
    def layer_type(self) -> str:
        """`image` or `segmentation`."""
        return str(self.info.get("type", "image"))

    @property
    def resolutions(self) -> list[Vec3D[float]]:
        """Of its scales, nm per voxel."""
        return [as_vec(scale["resolution"], f"{self.path}: resolution of a scale") for scale in self.info["scales"]]

    @property
    def is_precomputed(self) -> bool:
        """Whether its chunks are stored as Precomputed has it."""
        return is_precomputed(self.path)

    def mip(self, resolution: Sequence[float]) -> int:
        """Return which of the scales has a resolution.

        Raises:
            OptionError: none has; those that there are are told.

        """
        wanted = positives(resolution, "resolution")
        known = self.resolutions
        for number, found in enumerate(known):
            if tuple(exact(r) for r in found) == wanted:
                return number
        there = ", ".join(_text(r) for r in known) or "of which there are none"
        raise OptionError(
            f"{self.path}: expected one of its resolutions, {there}, came {_text(resolution)}: ask for one of these, "
            "or name the one to read from as data_resolution, with an interpolation_mode"
        )

    def scale(self, mip: int) -> Json:
        """Return the entry of a scale in `info`."""
        found: Json = self.info["scales"][mip]
        return found

    def grid(self, mip: int) -> Grid:
        """Return the voxels of a scale, cut into its chunks, which begin at the voxel offset."""
        scale = self.scale(mip)
        offset = _ints(scale.get("voxel_offset", (0, 0, 0)))
        return Grid(Box.of_shape(_ints(scale["size"]), offset), _ints(scale["chunk_sizes"][0]), offset)

    def source(self, mip: int) -> Source:
        """Return a scale as what can be read.

        Raises:
            OptionError: its voxels would come other than they are stored.

        """
        if not self.is_precomputed:
            return describe_source(self.path, mip, option="path")
        scale, grid = self.scale(mip), self.grid(mip)
        if self.num_channels > 1 and scale["encoding"] in _IMAGE_ENCODINGS:
            raise OptionError(
                f"{self.path}: expected one channel, or an encoding other than {', '.join(_IMAGE_ENCODINGS)}, came "
                f"{self.num_channels} channels in {scale['encoding']}, which readers put in different orders: "
                "transcode it to raw first"
            )
        x, y, z = (float(r) for r in scale["resolution"])
        return Source(
            url=self.path,
            voxels_url=self.path,
            mip=mip,
            box=grid.bounds,
            resolution_nm=(x, y, z),
            data_type=self.data_type,
            num_channels=self.num_channels,
            layer_type=self.layer_type,
            chunk=grid.cell,
            chunk_origin=grid.origin,
            info=self.info,
        )


def normalized(path: str) -> str:
    """Return a location in one form, where it is of this project's own storage; else as it came.

    Raises:
        OptionError: it is none, or holds a secret.

    """
    if not isinstance(path, str) or not path.strip():
        raise OptionError(f"path: expected the location of a volume, came {path!r}: give a folder or a URL")
    return normalize(path) if _is_own(path) else path.strip()


def is_precomputed(path: str) -> bool:
    """Whether a location is one of Precomputed, not of another format, or of a volume that is computed."""
    return format_of(path) == "precomputed" and not path.startswith((_MADE, "graphene://"))


def read_info(path: str) -> Json | None:
    """Return the `info` of the volume at a normalized location; None where there is none.

    Raises:
        OptionError: the location is no volume, in a format other than Precomputed; or it holds a secret.
        SourceError: it cannot be read.
        ServerError: a proofreading server does not answer.
        CorruptDataError: what stands there is no `info`.

    """
    if not is_precomputed(path):
        if path.startswith("graphene://"):
            return read_graph_info(path)
        return describe_source(path, 0, option="path").info
    if _is_own(path):
        try:
            return _checked(Folder(path).read_json("info"), path)
        except VolumeError:
            # CloudVolume has credentials of its own.
            if is_local(path):
                raise
    check_location(path, "path")
    return _checked(_of_cloudvolume(path), path)


def _of_cloudvolume(path: str) -> Json | None:
    from beam_volumes.volume_reading import open_volume

    try:
        info: Json = open_volume(path, 0, None, "path").info
    except OptionError:
        return None
    return info


def _checked(info: Json | None, path: str) -> Json | None:
    """Refuse an `info` of something else, such as a folder of meshes."""
    if info is None:
        return None
    lacking = [name for name in ("data_type", "num_channels", "scales") if name not in info]
    if lacking or not isinstance(info["scales"], list):
        raise OptionError(
            f"{path}: expected the info of a volume, came one without {', '.join(lacking) or 'a list of scales'}: name "
            "the folder of a volume"
        )
    return info


def _is_own(path: str) -> bool:
    schemes, _ = split_schemes(path.strip().removeprefix("precomputed://"))
    return schemes in ([], *([name] for name in SCHEMES))


def _ints(values: Any) -> Vec:
    x, y, z = (int(v) for v in values)
    return (x, y, z)


def _text(resolution: Sequence[float]) -> str:
    return f"({', '.join(str(r) for r in resolution)})"
