"""The grid that the fragments of multi-resolution meshes are cells of: one for all objects of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Vec
from beam_volumes.meshing.mesh import UNITS

QUANTIZATION_BITS = (10, 16)
"""What Neuroglancer takes."""


@dataclass(frozen=True)
class MeshGrid:
    """Cells of all levels of detail, and the quanta that positions in them are stored in.

    A cell of level k is 2^k times as long as one of level 0, and the cell at position (0, 0, 0) starts at the origin at
    every level: it holds the cells of level k - 1 at twice its position and one more. Positions may be negative.

    Attributes:
        origin: XYZ, sixteenths of a voxel from the corner of voxel (0, 0, 0).
        cell: of level 0, XYZ, sixteenths of a voxel.
        resolution_nm: of a voxel, XYZ.
        bits: of a coordinate within a cell, 10 or 16; the cell ends at 2^bits - 1, which is where the next begins.

    Raises:
        OptionError: for other numbers of bits, and cells without extent.

    """

    origin: Vec
    cell: Vec
    resolution_nm: tuple[float, float, float]
    bits: int

    def __post_init__(self) -> None:
        """Check what can be wrong."""
        if self.bits not in QUANTIZATION_BITS:
            raise OptionError(
                f"vertex_quantization_bits: expected {QUANTIZATION_BITS[0]} or {QUANTIZATION_BITS[1]}, came {self.bits}"
            )
        if min(self.cell) < 1:
            raise OptionError(f"cell of meshes: expected a length over 0 along x, y and z, came {self.cell}")

    @classmethod
    def of_voxels(cls, origin: Vec, cell: Vec, resolution_nm: tuple[float, float, float], bits: int) -> MeshGrid:
        """Return the grid whose cells have a shape in voxels; `origin` is in sixteenths."""
        x, y, z = cell
        return cls(origin, (x * UNITS, y * UNITS, z * UNITS), resolution_nm, bits)

    @property
    def top(self) -> int:
        """The largest quantized coordinate: where a cell ends."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The quantized coordinate at which readers part a cell; its real middle is half a quantum lower."""
        return 1 << (self.bits - 1)

    def length(self, lod: int) -> Vec:
        """Return the extent of a cell, XYZ, in sixteenths of a voxel."""
        x, y, z = self.cell
        return (x << lod, y << lod, z << lod)

    def start(self, lod: int, position: Vec) -> Vec:
        """Return where a cell starts, XYZ, in sixteenths of a voxel."""
        x, y, z = (o + p * n for o, p, n in zip(self.origin, position, self.length(lod), strict=True))
        return (x, y, z)

    def nm(self, units: Vec) -> tuple[float, float, float]:
        """Return a point or a length, given in sixteenths of a voxel, in nm."""
        x, y, z = (n * r / UNITS for n, r in zip(units, self.resolution_nm, strict=True))
        return (x, y, z)

    def quantum_nm(self, lod: int) -> tuple[float, float, float]:
        """Return how far apart neighbouring quantized coordinates are, in nm."""
        x, y, z = (n / self.top for n in self.nm(self.length(lod)))
        return (x, y, z)

    def halved(self) -> MeshGrid:
        """Return the grid with one finer level of detail: its level k + 1 has the cells of level k of this one.

        Raises:
            OptionError: if cells are an odd number of sixteenths long.

        """
        if any(n % 2 for n in self.cell):
            raise OptionError(f"cell of meshes: expected even lengths in sixteenths of a voxel, came {self.cell}")
        x, y, z = self.cell
        return replace(self, cell=(x // 2, y // 2, z // 2))
