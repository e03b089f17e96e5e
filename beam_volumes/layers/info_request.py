"""What the arguments of a layer ask of its volume's `info`: a new one, more scales, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from beam_volumes.errors import OptionError
from beam_volumes.geometry import BBox3D
from beam_volumes.precomputed.info import Json

ON_INFO_EXISTS = ("expect_same", "overwrite", "extend")
ADD_SCALES_MODES = ("merge", "replace")

_EARLIER = (
    "info_field_overrides",
    "info_chunk_size_map",
    "info_dataset_size",
    "info_dataset_size_map",
    "info_voxel_offset",
    "info_voxel_offset_map",
    "info_encoding_map",
    "info_add_scales",
    "info_add_scales_ref",
    "info_add_scales_exclude_fields",
    "info_only_retain_scales",
)
_LATER = ("info_scales", "info_bbox", "info_extra_scale_data", "info_inherit_all_params")
_HOW = (
    "on_info_exists",
    "info_overwrite",
    "info_keep_existing_scales",
    "info_extend_if_exists",
    "info_add_scales_mode",
)


@dataclass(frozen=True)
class InfoRequest:
    """The arguments about `info`; resolutions are nm per voxel, sizes and offsets voxels, all along x, y and z.

    Without any of them the volume must be there. With them, its scales are those of the reference, changed by what is
    said of all of them or, in a map by `x_y_z` resolution (`8_8_40`), of one; `info_add_scales` adds to them. In the
    later spelling its scales are `info_scales`, and the reference gives bounds alone unless `info_inherit_all_params`.

    Attributes:
        info_reference_path: a volume whose `info` is the pattern; None for the one that stands there, if one does.
        info_type: `image` or `segmentation`.
        info_data_type: of the voxels, as numpy names it.
        info_num_channels: values for each voxel.
        info_chunk_size: voxels of a chunk, in all scales.
        info_encoding: of chunks, in all scales.
        info_field_overrides: fields of `info` itself; `info_type` and the like count before them.
        info_chunk_size_map: by resolution.
        info_dataset_size: voxels, in all scales.
        info_dataset_size_map: by resolution.
        info_voxel_offset: first voxel, in all scales.
        info_voxel_offset_map: by resolution.
        info_encoding_map: by resolution.
        info_add_scales: resolutions, or scales with a resolution and whatever else is to be other than the reference.
        info_add_scales_ref: the scale that they are made after: its `x_y_z` key, or a scale; None for the finest.
        info_add_scales_exclude_fields: fields of it that they do not take over.
        info_add_scales_mode: `merge` for these and those of the reference, `replace` for these alone.
        info_only_retain_scales: resolutions; of all scales only these are kept.
        info_extend_if_exists: whether, without a reference, the `info` that stands there is the pattern.
        info_scales: resolutions of all scales.
        info_bbox: bounds of all scales; None for those of the reference.
        info_extra_scale_data: further fields of all scales.
        info_inherit_all_params: take from the reference whatever is not given.
        on_info_exists: what to do where another `info` stands: `expect_same` and refuse it, `extend` it by the scales
            that it lacks, or `overwrite` it, which leaves stored voxels where they are. None for `extend`.
        info_overwrite: the later spelling: whether scales may become others.
        info_keep_existing_scales: the later spelling: whether scales that are not asked for stay.

    """

    info_reference_path: str | None = None
    info_type: str | None = None
    info_data_type: str | None = None
    info_num_channels: int | None = None
    info_chunk_size: Sequence[int] | None = None
    info_encoding: str | None = None
    info_field_overrides: Mapping[str, Any] | None = None
    info_chunk_size_map: Mapping[str, Sequence[int]] | None = None
    info_dataset_size: Sequence[int] | None = None
    info_dataset_size_map: Mapping[str, Sequence[int]] | None = None
    info_voxel_offset: Sequence[int] | None = None
    info_voxel_offset_map: Mapping[str, Sequence[int]] | None = None
    info_encoding_map: Mapping[str, str] | None = None
    info_add_scales: Sequence[Sequence[float] | Json] | None = None
    info_add_scales_ref: str | Json | None = None
    info_add_scales_exclude_fields: Sequence[str] = ()
    info_add_scales_mode: str = "merge"
    info_only_retain_scales: Sequence[Sequence[float]] | None = None
    info_extend_if_exists: bool = True
    info_scales: Sequence[Sequence[float]] | None = None
    info_bbox: BBox3D | None = None
    info_extra_scale_data: Mapping[str, Any] | None = None
    info_inherit_all_params: bool = False
    on_info_exists: str | None = None
    info_overwrite: bool | None = None
    info_keep_existing_scales: bool = True

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.on_info_exists not in (None, *ON_INFO_EXISTS):
            raise OptionError(
                f"on_info_exists: expected one of {', '.join(ON_INFO_EXISTS)}, came {self.on_info_exists!r}: choose one"
            )
        if self.info_add_scales_mode not in ADD_SCALES_MODES:
            raise OptionError(
                f"info_add_scales_mode: expected one of {', '.join(ADD_SCALES_MODES)}, came "
                f"{self.info_add_scales_mode!r}: choose one"
            )
        if self.on_info_exists is not None and self.info_overwrite is not None:
            raise OptionError("expected on_info_exists or info_overwrite, came both: leave one of them out")
        self._check_spelling()

    def _check_spelling(self) -> None:
        given = self._given()
        earlier, later = [n for n in _EARLIER if n in given], [n for n in _LATER if n in given]
        if self.info_scales is None and later:
            raise OptionError(
                f"expected info_scales with {', '.join(later)}, came none: give the resolutions of all scales, or "
                f"leave {', '.join(later)} out"
            )
        if self.info_scales is not None and earlier:
            raise OptionError(
                f"expected info_scales, or the earlier {', '.join(earlier)}, came both: leave one of them out"
            )

    def _given(self) -> set[str]:
        return {field.name for field in fields(self) if getattr(self, field.name) != field.default}

    @property
    def asks(self) -> bool:
        """Whether anything is asked of `info`."""
        return bool(self._given() - set(_HOW))

    @property
    def may_change(self) -> bool:
        """Whether scales that stand there may become others."""
        return self.on_info_exists == "overwrite" or bool(self.info_overwrite)

    @property
    def keeps(self) -> bool:
        """Whether scales that stand there and are not asked for stay."""
        return self.info_keep_existing_scales and self.on_info_exists not in ("overwrite", "expect_same")
