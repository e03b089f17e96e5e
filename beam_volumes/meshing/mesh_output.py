"""What a meshing run writes: multi-resolution meshes, legacy meshes, or fragments that are merged later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from beam_volumes.geometry import Box, Vec
from beam_volumes.meshing.legacy import frags_name
from beam_volumes.meshing.mesh_info import PROPERTIES_FOLDER, fragments_info, multiresolution_info
from beam_volumes.precomputed.info import Json
from beam_volumes.precomputed.sharding import sharding_of_labels


@dataclass(frozen=True)
class MultiresMeshes:
    """Levels of detail, Draco, in shards or in files.

    Attributes:
        num_lods: levels of detail; 1 is the finest alone.
        bits: of a quantized position.
        lod_factors: triangles of a level of detail for each of the next coarser one; the last one goes on.
        max_fragment_bytes: larger fragments are split.
        sharded: whether meshes are stored in shards, not as files of their own.
        segment_properties: whether a table of the labels is written for viewers.

    """

    num_lods: int
    bits: int
    lod_factors: tuple[float, ...]
    max_fragment_bytes: int
    sharded: bool
    segment_properties: bool

    has_manifests: ClassVar[bool] = True
    files_per_label: ClassVar[int] = 2

    def factor_of(self, lod: int) -> float:
        """Return the factor between a level of detail, from 1 on, and the one before it."""
        return self.lod_factors[min(lod, len(self.lod_factors)) - 1]

    def info(self, mip: int, cell: Vec, bounds: Box | None, index: Json | None, labels: int) -> Json:
        """Return the `info` of the meshes of so many labels."""
        sharding = sharding_of_labels(labels) if self.sharded else None
        return multiresolution_info(
            mip, self.bits, sharding, index, PROPERTIES_FOLDER if self.segment_properties else None
        )

    def names(self, boxes: Iterable[Box]) -> set[str] | None:
        """Return the names of all files, by the boxes of the cells, where these tell; None where labels do."""
        return None

    def level_option(self, lod: int) -> dict[str, int]:
        """Return how CloudVolume is asked for a level."""
        return {"lod": lod}


class _OneLevel:
    """What legacy meshes and fragments have in common."""

    num_lods: ClassVar[int] = 1
    sharded: ClassVar[bool] = False
    segment_properties: ClassVar[bool] = False

    def info(self, mip: int, cell: Vec, bounds: Box | None, index: Json | None, labels: int) -> Json:
        """Return the `info`; `bounds` are None where all of the volume is meshed."""
        return fragments_info(mip, cell, index, bounds)

    def level_option(self, lod: int) -> dict[str, int]:
        """Return how CloudVolume is asked for the level."""
        return {}


@dataclass(frozen=True)
class LegacyMeshes(_OneLevel):
    """A file for each label in a cell, which the cells write; and a manifest for each label."""

    has_manifests: ClassVar[bool] = True
    files_per_label: ClassVar[int] = 1

    def names(self, boxes: Iterable[Box]) -> set[str] | None:
        """Return None: labels tell."""
        return None


@dataclass(frozen=True)
class FragmentPacks(_OneLevel):
    """All surfaces of a cell in one file, which the cells write, to be merged later."""

    has_manifests: ClassVar[bool] = False
    files_per_label: ClassVar[int] = 0

    def names(self, boxes: Iterable[Box]) -> set[str] | None:
        """Return the names of all files: each box has one."""
        return {frags_name(box) for box in boxes}


MeshOutput = MultiresMeshes | LegacyMeshes | FragmentPacks
"""`has_manifests` is whether the fragments of a label meet, where `files_per_label` are written unless `sharded`."""
