"""Boxes in space, and what they are moved and cut by."""

from typing import Any

from hypothesis import strategies as st

from beam_volumes.geometry import BBox3D, Vec3D, VolumetricIndex

COORDINATES = st.integers(-(10**9), 10**9)
SMALL = st.integers(-40, 40)
RESOLUTIONS = st.tuples(*[st.sampled_from([1, 4, 40, 4.5, 0.1, 0.3, 7.25, 1e-3, 16.0])] * 3)


def triples(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Vec3D[Any]]:
    return st.builds(Vec3D, values, values, values)


@st.composite
def indices(draw: st.DrawFn, coordinates: st.SearchStrategy[int] = COORDINATES, least: int = 0) -> VolumetricIndex:
    start = draw(triples(coordinates))
    return VolumetricIndex.from_coords(start, start + draw(triples(st.integers(least, 30))), draw(RESOLUTIONS))


@st.composite
def boxes(draw: st.DrawFn) -> BBox3D:
    """Small boxes of some volume, which often meet, with decimals and thirds among their bounds."""
    box = BBox3D.from_coords((0, 0, 0), draw(triples(st.integers(1, 60))), (0.1, 0.1, 0.1))
    box = box.translated(draw(triples(SMALL)), (0.1, 0.1, 0.1))
    return draw(st.sampled_from(box.split((3, 1, 1)))) if draw(st.booleans()) else box
