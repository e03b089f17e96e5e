"""What stands in the brackets of a layer."""

from typing import Any

import pytest

from beam_volumes.errors import GeometryError, OptionError
from beam_volumes.geometry import BBox3D, Vec3D, VolumetricIndex
from beam_volumes.layers import VolumetricFrontend

FINE, COARSE = Vec3D(4, 4, 40), Vec3D(8, 8, 40)
SLICES = (slice(2, 10), slice(-4, 4), slice(0, 3))
BOX = BBox3D.from_slices(SLICES, FINE)
INDEX = VolumetricIndex(COARSE, BOX)


@pytest.mark.parametrize(
    ("frontend", "index", "expected"),
    [
        (VolumetricFrontend(), (FINE, *SLICES), VolumetricIndex(FINE, BOX)),
        (VolumetricFrontend(), ([4, 4, 40], *SLICES), VolumetricIndex(FINE, BOX)),
        (VolumetricFrontend(index_resolution=FINE), (COARSE, *SLICES), INDEX),
        (VolumetricFrontend(FINE, COARSE), SLICES, INDEX),
        (VolumetricFrontend(FINE, COARSE), (None, *SLICES), INDEX),
        (VolumetricFrontend(FINE, FINE), (COARSE, *SLICES), INDEX),
        (VolumetricFrontend(default_desired_resolution=(4, 4, 40)), SLICES, VolumetricIndex(FINE, BOX)),
        (VolumetricFrontend(default_desired_resolution=COARSE), BOX, INDEX),
        (VolumetricFrontend(default_desired_resolution=FINE), (COARSE, BOX), INDEX),
        (VolumetricFrontend(default_desired_resolution=COARSE), (None, BOX), INDEX),
        (VolumetricFrontend(FINE, FINE), INDEX, INDEX),
    ],
)
def test_forms(frontend: VolumetricFrontend, index: Any, expected: VolumetricIndex) -> None:
    assert frontend.convert(index) == expected


def test_a_box_in_space_does_not_need_the_resolution_of_slices() -> None:
    assert VolumetricFrontend(index_resolution=FINE).convert((COARSE, BOX)) == INDEX


def test_whole_voxels_are_wanted_unless_rounding_is_allowed() -> None:
    odd = (slice(1, 4), slice(0, 4), slice(0, 1))
    with pytest.raises(GeometryError, match=r"expected whole voxels along x at resolution \(8, 8, 40\), got 0.5 to 2"):
        VolumetricFrontend(FINE, COARSE).convert(odd).to_slices()
    rounding = VolumetricFrontend(FINE, COARSE, allow_slice_rounding=True)
    assert rounding.convert(odd).to_slices() == (slice(0, 2), slice(0, 2), slice(0, 1))
    assert rounding.convert(INDEX).allow_slice_rounding


@pytest.mark.parametrize(
    "index",
    [5, (5, *SLICES[:2]), SLICES[:2], (FINE, *SLICES, SLICES[0]), (FINE, 1, 2, 3), (FINE, FINE), "everything", ()],
)
def test_other_forms_are_refused(index: Any) -> None:
    with pytest.raises(OptionError, match="index of a layer: expected a VolumetricIndex, a BBox3D, three slices"):
        VolumetricFrontend(FINE, FINE).convert(index)


@pytest.mark.parametrize("resolution", [(4, 4), (4, 4, 0), "4_4_40", (4, 4, "a")])
def test_other_resolutions_are_refused(resolution: Any) -> None:
    with pytest.raises(OptionError, match="index of a layer: expected"):
        VolumetricFrontend().convert((resolution, *SLICES))
    with pytest.raises(GeometryError, match="expected"):
        VolumetricFrontend(index_resolution=resolution)


def test_a_resolution_must_come_from_somewhere() -> None:
    for index in (SLICES, (None, *SLICES), BOX, (None, BOX)):
        with pytest.raises(
            OptionError, match=r"expected a resolution .* came none in the index, nor as default_desired"
        ):
            VolumetricFrontend(index_resolution=FINE).convert(index)


def test_open_slices_and_steps_are_refused() -> None:
    for bad in (slice(None), slice(0, None), slice(0, 4, 2)):
        with pytest.raises(GeometryError, match="expected a slice along y with a start, a stop and no step"):
            VolumetricFrontend().convert((FINE, SLICES[0], bad, SLICES[2]))
