"""Boxes and grids in voxels, in Python ints: exact at any size."""

from beam_volumes.geometry.box import Box
from beam_volumes.geometry.grid import Grid
from beam_volumes.geometry.vec import Vec, added, product, shape_text

__all__ = ["Box", "Grid", "Vec", "added", "product", "shape_text"]
