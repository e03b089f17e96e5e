"""Boxes and grids in voxels, in Python ints, and boxes in space, in exact decimals: nothing drifts at any size."""

from beam_volumes.geometry.bbox3d import BBox3D, Slices3D
from beam_volumes.geometry.bbox_strider import BBoxStrider
from beam_volumes.geometry.box import Box
from beam_volumes.geometry.grid import Grid
from beam_volumes.geometry.vec import Vec, added, product, shape_text
from beam_volumes.geometry.vec3d import IntVec3D, Vec3D
from beam_volumes.geometry.volumetric_index import VolumetricIndex

__all__ = [
    "BBox3D",
    "BBoxStrider",
    "Box",
    "Grid",
    "IntVec3D",
    "Slices3D",
    "Vec",
    "Vec3D",
    "VolumetricIndex",
    "added",
    "product",
    "shape_text",
]
