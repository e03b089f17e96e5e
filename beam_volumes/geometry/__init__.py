"""Boxes and grids in voxels, in Python ints: exact at any size."""

from beam_volumes.geometry.box import Box, Vec
from beam_volumes.geometry.grid import Grid

__all__ = ["Box", "Grid", "Vec"]
